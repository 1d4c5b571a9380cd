/* What compression costs a prefill: time of a compressed prefill over that of an uncompressed one, preset by preset, on random weights in the
 * shape of SmolLM2-135M with a few layers (every layer costs the same, and time does not depend on what the weights say). Rounds
 * interleave: each times `full` before every few presets and divides by the mean of the two around them; the table has the
 * mean ratio over the rounds with a 95 % bootstrap interval. With one thread times are CPU times.
 *
 *   bench_policies [tokens=4096] [rounds=5] [layers=3] [threads=1] [preset ...]       from the repository's root */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "stats/stats.h"
#include "tests/support/tiny_gguf.h"

enum { MAX_PRESETS = 128, MAX_ROUNDS = 64, GROUP = 3 };

typedef struct candidate {
    char name[64];
    policy *p;
    double ratio[MAX_ROUNDS];
} candidate;

static int threads = 1;

static void check(err e, const char *what) {
    if (e == OK) return;
    fprintf(stderr, "%s: %s\n", what, err_text());
    exit(1);
}

static double now(void) {
    if (threads > 1) return clock_now();
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static policy *open_policy(const engine *e, const char *name) {
    char path[300];
    node *root;
    policy *p;
    snprintf(path, sizeof path, "configs/policies/%s.yaml", name);
    check(node_parse_file(path, &root), path);
    check(policy_create(node_get(root, "policy"), engine_policy_shape(e), &p), path);
    node_free(root);
    return p;
}

static double prefill_seconds(engine *e, policy *p, const int32_t *ids, int n) {
    cache_space *space;
    seq *s;
    float *logits = malloc(sizeof *logits * (size_t)engine_model(e)->p.n_vocab);
    check(cache_space_create(e, p, n, 0, &space), "cache");
    check(seq_create(e, space, p, 1, &s), "sequence");
    double start = now();
    check(seq_prefill(s, ids, n, logits), "prefill");
    double seconds = now() - start;
    seq_destroy(s);
    cache_space_destroy(space);
    free(logits);
    return seconds;
}

static int by_name(const void *a, const void *b) { return strcmp(((const candidate *)a)->name, ((const candidate *)b)->name); }

static int list_presets(candidate *c, int max) {
    DIR *d = opendir("configs/policies");
    int n = 0;
    if (!d) check(ERR(ERR_IO, "configs/policies is not here: run from the repository's root"), "presets");
    for (struct dirent *f; (f = readdir(d)) && n < max;) {
        size_t len = strlen(f->d_name);
        if (len > 5 && len < 64 && !strcmp(f->d_name + len - 5, ".yaml")) snprintf(c[n++].name, sizeof c->name, "%.*s", (int)len - 5, f->d_name);
    }
    closedir(d);
    qsort(c, (size_t)n, sizeof *c, by_name);
    return n;
}

static engine *open_engine(int n_layers, int context) {
    char path[] = "/tmp/kvlab-bench-XXXXXX";
    tiny_model m = tiny_model_default();
    m.n_layers = n_layers;
    m.n_embd = 576, m.n_head = 9, m.n_kv = 3, m.head_dim = 64, m.n_ff = 1536, m.context = context;
    int fd = mkstemp(path);
    engine *e;
    if (fd < 0) check(ERR(ERR_IO, "cannot make %s", path), "model");
    close(fd);
    check(tiny_model_write(path, &m), path);
    engine_conf c = {.model_path = path, .backend = "auto", .isa = "auto", .math = MATH_FAST, .threads = threads};
    err r = engine_open(&c, &e);
    unlink(path); /* mapped */
    check(r, path);
    return e;
}

int main(int argc, char **argv) {
    int numbers[4] = {4096, 5, 3, 1}, n_numbers = 0, n = 0;
    static candidate c[MAX_PRESETS];
    while (n_numbers < 4 && n_numbers + 1 < argc && atoi(argv[n_numbers + 1]) > 0) numbers[n_numbers] = atoi(argv[n_numbers + 1]), n_numbers++;
    int n_tokens = numbers[0], rounds = numbers[1] < MAX_ROUNDS ? numbers[1] : MAX_ROUNDS;
    threads = numbers[3];
    for (int i = n_numbers + 1; i < argc && n < MAX_PRESETS; i++) snprintf(c[n++].name, sizeof c->name, "%s", argv[i]);
    if (!n) n = list_presets(c, MAX_PRESETS);
    engine *e = open_engine(numbers[2], 2 * n_tokens);
    policy *full = open_policy(e, "full");
    int32_t *ids = malloc(sizeof *ids * (size_t)n_tokens);
    rng r = rng_make(1, 1);
    for (int i = 0; i < n_tokens; i++) ids[i] = (int32_t)rng_below(&r, 256) + TINY_FIRST_BYTE;
    for (int i = 0; i < n; i++) c[i].p = open_policy(e, c[i].name);
    prefill_seconds(e, full, ids, n_tokens); /* warm */
    double total_full = 0;
    int n_full = 0;
    for (int round = 0; round < rounds; round++) {
        double before = prefill_seconds(e, full, ids, n_tokens);
        for (int at = 0; at < n; at += GROUP) {
            int end = at + GROUP < n ? at + GROUP : n;
            double seconds[GROUP];
            for (int i = at; i < end; i++) seconds[i - at] = prefill_seconds(e, c[i].p, ids, n_tokens);
            double after = prefill_seconds(e, full, ids, n_tokens), around = (before + after) / 2;
            for (int i = at; i < end; i++) c[i].ratio[round] = seconds[i - at] / around;
            total_full += around;
            n_full++;
            before = after;
        }
    }
    printf("%d tokens, %d layers of 9 query and 3 KV heads of 64, %s %s, %d thread%s: full %.3f s; compressed prefill over full, %d rounds\n", n_tokens,
           numbers[2], engine_backend(e)->name, engine_backend(e)->isa, threads, threads > 1 ? "s" : " (CPU time)", total_full / n_full, rounds);
    for (int i = 0; i < n; i++) {
        interval v = stats_mean(c[i].ratio, rounds, (stats_conf){2000, 0.95, 1});
        printf("  %-26s %.3f  [%.3f, %.3f]\n", c[i].name, v.mean, v.lo, v.hi);
        policy_destroy(c[i].p);
    }
    policy_destroy(full);
    free(ids);
    engine_close(e);
    return 0;
}
