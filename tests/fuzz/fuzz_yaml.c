/* Mutates experiment files and --set texts. Whatever comes out must be refused with a message or survive a round trip: the dump of a
 * tree parses back to the same canonical text, and every sweep point has a label and a configuration.
 *
 *   fuzz_yaml [seconds] [seed] */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "conf/sweep.h"
#include "tests/support/fuzz.h"

enum { MAX_TEXT = 2000 };

static const char *const seeds[] = {
    "name: quality\nmodel: {preset: smollm2-135m}\ntasks: [lm, repeat_back]\nseed: 1\nsweep:\n  list:\n"
    "    - {policy.preset: [full, k8v4]}\n    - {policy.preset: [snapkv], policy.budget: [0.5, {bytes: 0.25}]}\n",
    "a: &x {b: [1, 2.5, true, null, ~, 'q''q', \"e\\n\\u2028\"]}\nc: *x\nd: |\n  text\n  more\ne: >-\n  folded\n  text\n",
    "sweep: {grid: {seed: 1..4, r: 0.1..0.5..0.1, policy.tiers: [[f16], [f16, k8v4]]}}\npolicy:\n  preset: snapkv\n",
    "- - 1\n  - {x: y, 'z z': !!str 5}\n- ? k\n  : v\n",
    "policy.budget=0.5,0.25\na.b=[x, {c: 'd,e'}],1..8..2\n",
};
static const char *const pieces[] = {
    ": ", "- ", "\n", "\n  ", "[", "]", "{", "}", ",", "'", "\"", "&a ", "*a", "*x", "!!str ", "..", "1..9", "\t", "#", " #", "|\n", ">\n",
    "---\n", "...\n", "? ", "<<: ", "\\", "\\x41", "\xc3\xa9", "\xe2\x80\xa8", "\xef\xbb\xbf", "\xff", "sweep: ", "grid: ", "policy.preset: ",
    "0.1..0.5..0.1", "1e308", "-0", "null", "true", "=", "%YAML 1.2\n",
};

static char text[MAX_TEXT + 64];
static size_t n_text;

static void show_input(void) {
    fprintf(stderr, "input of %zu bytes:\n", n_text);
    fwrite(text, 1, n_text, stderr);
    fputc('\n', stderr);
}

static void insert(size_t at, const char *s, size_t n) {
    if (n_text + n > MAX_TEXT) return;
    memmove(text + at + n, text + at, n_text - at);
    memcpy(text + at, s, n);
    n_text += n;
}

static void mutate(rng *r) {
    size_t at = rng_below(r, (uint32_t)n_text + 1);
    const char *piece = pieces[rng_below(r, sizeof pieces / sizeof *pieces)];
    switch (rng_below(r, 6)) {
    case 0:
        if (at < n_text) text[at] = (char)rng_below(r, 256);
        break;
    case 1:
    case 2: insert(at, piece, strlen(piece)); break;
    case 3: { /* delete a stretch */
        size_t n = rng_below(r, 12);
        if (n > n_text - at) n = n_text - at;
        memmove(text + at, text + at + n, n_text - at - n);
        n_text -= n;
        break;
    }
    case 4: { /* repeat a stretch elsewhere */
        char copy[64];
        size_t n = rng_below(r, sizeof copy);
        if (n > n_text - at) n = n_text - at;
        memcpy(copy, text + at, n);
        insert(rng_below(r, (uint32_t)n_text + 1), copy, n);
        break;
    }
    default: { /* splice in part of another seed */
        const char *other = seeds[rng_below(r, sizeof seeds / sizeof *seeds)];
        size_t from = rng_below(r, (uint32_t)strlen(other)), n = rng_below(r, 40);
        if (n > strlen(other) - from) n = strlen(other) - from;
        insert(at, other + from, n);
    }
    }
}

static void check_round_trip(const node *n) {
    char *canonical = node_canonical(n), *dumps[] = {node_yaml(n), node_flow(n)};
    for (int i = 0; i < 2; i++) {
        node *again;
        fuzz_check(node_parse_text(dumps[i], strlen(dumps[i]), "dump", &again) == OK, "a dump does not parse");
        char *s = node_canonical(again);
        fuzz_check(strcmp(s, canonical) == 0, "a dump reads back as something else");
        mem_free(s);
        node_free(again);
        mem_free(dumps[i]);
    }
    mem_free(canonical);
}

static void check_sweep(const node *root) {
    sweep s;
    if (sweep_expand(root, &s) != OK) {
        fuzz_check(*err_text() != 0, "a refusal without a message");
        return;
    }
    fuzz_check(s.n > 0, "a sweep without points");
    for (int i = 0; i < s.n && i < 20; i++) {
        fuzz_check(s.points[i].label && s.points[i].label[0], "a point without a label");
        fuzz_check(node_type(s.points[i].conf) == NODE_MAP, "a point without a configuration");
    }
    sweep_free(&s);
}

static bool one_input(void) {
    node *root;
    err e = node_parse_text(text, n_text, "f.yaml", &root);
    text[n_text] = 0;
    if (e == OK) {
        check_round_trip(root);
        check_sweep(root);
        (void)node_path(root, text);
        err unread = node_check_all_read(root);
        fuzz_check(unread == OK || unread == ERR_USAGE, "an odd code");
        node_free(root);
    } else {
        fuzz_check(e == ERR_USAGE && root == NULL && *err_text(), "an odd refusal");
    }
    /* the same text as command-line assignments */
    const char *base = "policy: {budget: 0.5}\nsweep: {list: [{a: 1}, {policy.preset: [x, y]}]}\n";
    fuzz_check(node_parse_text(base, strlen(base), "b.yaml", &root) == OK, "the base file");
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        err set = sweep_apply_set(root, line);
        fuzz_check(set == OK || (set == ERR_USAGE && *err_text()), "an odd refusal of --set");
    }
    check_sweep(root);
    node_free(root);
    return e == OK;
}

int main(int argc, char **argv) {
    fuzz_begin("fuzz_yaml", argc, argv, show_input);
    size_t live = mem_live_bytes(MEM_OTHER);
    uint64_t n_accepted = 0;
    while (fuzz_next()) {
        rng r = rng_make(fuzz_seed, fuzz_iteration);
        const char *s = seeds[rng_below(&r, sizeof seeds / sizeof *seeds)];
        n_text = strlen(s);
        memcpy(text, s, n_text);
        for (uint32_t k = rng_below(&r, rng_below(&r, 10) + 1) + 1; k > 0; k--) mutate(&r);
        double began = clock_now();
        n_accepted += one_input();
        fuzz_check(clock_now() - began < 20, "an input that takes 20 seconds");
        fuzz_check(mem_live_bytes(MEM_OTHER) == live, "memory is left behind");
    }
    printf("fuzz_yaml: %" PRIu64 " inputs, %" PRIu64 " of them valid, seed %" PRIu64 "\n", fuzz_count(), n_accepted, fuzz_seed);
    return 0;
}
