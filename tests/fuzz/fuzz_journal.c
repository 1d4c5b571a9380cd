/* Mutates journals: lines are flipped, cut, doubled, shuffled and joined, and records are changed below a right
 * checksum. Whatever is read must be whole and be written again; whatever is not must say why.
 *
 *   fuzz_journal [seconds] [seed] */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "run/journal.h"
#include "run/results.h"
#include "tests/support/fuzz.h"
#include "tests/support/temp.h"

static uint64_t n_loaded, n_refused;

/* ---- a valid journal ---- */

static const char header_text[] = "{\"kind\":\"sweep\",\"version\":1,\"name\":\"s\",\"question\":\"\",\"sweep_id\":"
                                  "\"00000000000000aa\",\"text_name\":\"\",\"text_sha256\":\"\","
                                  "\"groups\":[{\"id\":\"00000000000000bb\",\"model\":\"m\",\"model_sha256\":\"\","
                                  "\"backend\":\"cpu\",\"isa\":\"avx2\",\"math\":\"fast\",\"threads\":1,"
                                  "\"context\":64,\"seed\":\"0000000000000001\"}],"
                                  "\"tasks\":[{\"name\":\"lm\",\"conf\":\"{}\",\"timed\":false,\"n_items\":4,"
                                  "\"metrics\":[{\"name\":\"kl\",\"unit\":\"nats\",\"help\":\"h\",\"direction\":2,"
                                  "\"timing\":false}],\"cost_prepare\":1.5,\"cost_unit\":0.5,\"prompt_tokens\":32}],"
                                  "\"points\":[{\"id\":\"0000000000000001\",\"label\":\"full\",\"axes\":[[\"policy."
                                  "preset\",\"full\"]],\"conf\":\"{}\",\"policy\":\"f\",\"tiers\":[\"f16\"],"
                                  "\"full\":true,\"group\":0,\"tasks\":[0]},"
                                  "{\"id\":\"0000000000000002\",\"label\":\"k8v4\",\"axes\":[],\"conf\":\"{}\","
                                  "\"policy\":\"k\",\"tiers\":[\"k8v4\"],\"full\":false,\"group\":0,\"tasks\":[0]}]}";

enum { MAX_LINES = 16 };
typedef struct text {
    char *line[MAX_LINES];
    int n;
} text;

static json_t *record(rng *r) {
    unit_record u = {.noise = rng_below(r, 4) == 0,
                     .item = (int)rng_below(r, 5),
                     .status = (unit_status)rng_below(r, UNIT_N_STATUS)};
    memcpy(u.point, u.noise ? "00000000000000bb" : rng_below(r, 2) ? "0000000000000001" : "0000000000000002", 17);
    u.task = mem_strdup("lm");
    u.n_metrics = 1;
    fuzz_check(mem_alloc(MEM_OTHER, sizeof *u.metrics, &u.metrics) == OK, "memory");
    u.metrics[0] = (named_value){mem_strdup("kl"), rng_uniform(r)};
    u.n_series = 2;
    fuzz_check(mem_alloc(MEM_OTHER, 8, &u.kl) == OK && mem_alloc(MEM_OTHER, 8, &u.nll) == OK &&
              mem_alloc(MEM_OTHER, 2, &u.top1) == OK,
          "memory");
    u.n_layers = u.n_kv = u.n_tiers = 2;
    fuzz_check(mem_alloc(MEM_OTHER, 32, &u.kept) == OK, "memory");
    json_t *j;
    fuzz_check(unit_record_to_json(&u, &j) == OK, "a valid record is not written");
    unit_record_free(&u);
    return j;
}

static char *encode(json_t *j) {
    char *line;
    fuzz_check(journal_line_encode(j, &line) == OK, "a value is not encoded");
    json_decref(j);
    return line;
}

/* ---- changes below the checksum ---- */

static json_t *any_value(rng *r) {
    switch (rng_below(r, 10)) {
    case 0:
        return json_null();
    case 1:
        return json_true();
    case 2:
        return json_integer(-1);
    case 3:
        return json_integer((json_int_t)(rng_u64(r) >> rng_below(r, 64)));
    case 4:
        return json_real(rng_uniform(r) * 1e300);
    case 5:
        return json_string("");
    case 6:
        return json_string("00000000000000aa");
    case 7:
        return json_array();
    case 8:
        return json_object();
    default:
        return json_pack("[[i,i],[i]]", 1, 2, 3);
    }
}

static void change_value(json_t *j, rng *r, int depth) {
    size_t n = json_is_object(j) ? json_object_size(j) : json_array_size(j);
    if (n == 0) return;
    size_t pick = rng_below(r, (uint32_t)n);
    bool deeper = depth < 6 && rng_below(r, 3) > 0;
    if (json_is_array(j)) {
        json_t *v = json_array_get(j, pick);
        if (deeper && (json_is_array(v) || json_is_object(v)))
            change_value(v, r, depth + 1);
        else if (rng_below(r, 3) == 0)
            json_array_remove(j, pick);
        else
            json_array_set_new(j, pick, any_value(r));
        return;
    }
    void *at = json_object_iter(j);
    while (pick--) at = json_object_iter_next(j, at);
    json_t *v = json_object_iter_value(at);
    char key[64];
    snprintf(key, sizeof key, "%s", json_object_iter_key(at));
    if (deeper && (json_is_array(v) || json_is_object(v)))
        change_value(v, r, depth + 1);
    else if (rng_below(r, 3) == 0)
        json_object_del(j, key);
    else
        json_object_set_new(j, key, any_value(r));
}

/* ---- one journal ---- */

static void build(text *t, rng *r) {
    int n = 1 + (int)rng_below(r, MAX_LINES - 2);
    int n_changed = rng_below(r, 2) ? 0 : 1;
    for (t->n = 0; t->n < n; t->n++) {
        json_t *j = t->n == 0 ? json_loads(header_text, 0, NULL) : record(r);
        if (n_changed && rng_below(r, 4) == 0) change_value(j, r, 0);
        t->line[t->n] = encode(j);
    }
}

/* Bytes of the lines with damage to some of them; *n_whole counts lines that were left alone before the first cut. */
static char *damage(const text *t, rng *r, size_t *n_bytes) {
    size_t n = 0, cap = 64;
    for (int i = 0; i < t->n; i++) cap += 2 * strlen(t->line[i]) + 4;
    char *bytes = malloc(cap);
    if (!bytes) abort();
    for (int i = 0; i < t->n; i++) {
        size_t len = strlen(t->line[i]), at = rng_below(r, (uint32_t)len);
        memcpy(bytes + n, t->line[i], len);
        bytes[n + len] = '\n';
        switch (rng_below(r, 12)) {
        case 0:
            bytes[n + at] ^= (char)(1 << rng_below(r, 8));
            n += len + 1;
            break;
        case 1:
            n += at;
            break; /* cut, joined with the next */
        case 2:
            memcpy(bytes + n + len + 1, bytes + n, len + 1);
            n += 2 * (len + 1);
            break;
        case 3:
            bytes[n + len] = 0;
            n += len + 1;
            break; /* NUL for a newline */
        case 4:
            memset(bytes + n + at, 0, len - at);
            n += len + 1;
            break;
        case 5:
            bytes[n + at] = '\n';
            n += len + 1;
            break;
        default:
            n += len + 1;
            break;
        }
    }
    if (rng_below(r, 4) == 0) n = rng_below(r, (uint32_t)n + 1);
    *n_bytes = n;
    return bytes;
}

static err visit(void *arg, int line, const json_t *value) {
    unit_record rec;
    ++*(int *)arg;
    err e = unit_record_from_json(value, &rec);
    fuzz_check(e == OK || *err_text(), "a refused record has no text");
    if (e == OK) { /* what was read can be written, and reads the same */
        json_t *j, *again;
        unit_record copy;
        fuzz_check(unit_record_to_json(&rec, &j) == OK, "a record that was read cannot be written");
        fuzz_check(unit_record_from_json(j, &copy) == OK, "a record that was written cannot be read");
        fuzz_check(unit_record_to_json(&copy, &again) == OK && json_equal(j, again),
              "a record changes from reading to writing");
        unit_record_free(&copy);
        json_decref(j);
        json_decref(again);
    }
    unit_record_free(&rec);
    return OK;
}

static void use(const char *dir, const char *path) {
    journal_report rep;
    int seen = 0;
    fuzz_check(journal_read(path, visit, &seen, &rep) == OK, "a damaged journal is not read");
    fuzz_check(seen == rep.n_good && rep.n_good + rep.n_corrupt == rep.n_lines, "lines are not counted");
    results *r;
    err e = results_load(dir, &r);
    fuzz_check(e == OK || *err_text(), "a refused journal has no text");
    n_loaded += e == OK;
    n_refused += e != OK;
    if (e == OK) {
        int n = 0;
        for (int p = 0; p < r->n_points; p++)
            for (int t = 0; t < r->n_tasks; t++)
                for (int i = 0; i < r->max_items; i++) n += results_unit(r, p, t, i) != NULL;
        fuzz_check(n == r->n_ok + r->n_failed + r->n_crashed + r->n_skipped, "records are not counted");
        json_t *h;
        fuzz_check(results_header_json(r, &h) == OK, "a header that was read cannot be written");
        json_decref(h);
    }
    results_free(r);
    journal *j; /* the next writer cuts a torn line and keeps the rest */
    fuzz_check(journal_open(path, &j) == OK, "a damaged journal cannot be opened");
    json_t *mark = json_pack("{s:s}", "kind", "mark");
    fuzz_check(journal_append(j, mark) == OK && journal_close(j) == OK, "a damaged journal cannot be continued");
    json_decref(mark);
    journal_report after;
    seen = 0;
    fuzz_check(journal_read(path, visit, &seen, &after) == OK && !after.torn, "a continued journal is torn");
    fuzz_check(after.n_good == rep.n_good + 1 && after.n_corrupt == rep.n_corrupt,
          "continuing a journal changes what was there");
}

int main(int argc, char **argv) {
    fuzz_begin("fuzz_journal", argc, argv, NULL);
    log_set(LOG_ERROR, false);
    const char *dir = temp_path("sweep");
    char *folder = io_join(dir, "journal"), *path = io_join(folder, "units.jsonl");
    fuzz_check(io_make_dirs(folder) == OK, "a folder cannot be made");
    while (fuzz_next()) {
        rng r = rng_make(fuzz_seed, fuzz_iteration);
        text t;
        size_t n;
        build(&t, &r);
        char *bytes = damage(&t, &r, &n);
        FILE *f = fopen(path, "wb"); /* no io_write_file: its fsync would be all that is measured */
        fuzz_check(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0, "a file cannot be written");
        use(dir, path);
        for (int i = 0; i < t.n; i++) mem_free(t.line[i]);
        free(bytes);
    }
    printf("fuzz_journal: %" PRIu64 " journals, %" PRIu64 " loaded, %" PRIu64 " refused, seed %" PRIu64 "\n", fuzz_count(),
           n_loaded, n_refused, fuzz_seed);
    mem_free(folder);
    mem_free(path);
    return n_loaded > 0 && n_refused > 0 ? 0 : 1;
}
