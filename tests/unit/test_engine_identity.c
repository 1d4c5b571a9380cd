/* Bit for bit, for every preset: fork = real flow, extend = steps, a batch = each alone, two threads = one (design section 4). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/mem.h"
#include "tests/support/engines.h"
#include "tests/support/seed.h"

enum { PROMPT = 301, MORE = 48, MAX_PRESETS = 128 };

static const char *presets[MAX_PRESETS];
static int n_presets;

typedef struct ctx {
    engine *e;
    policy *p;
    node *tree;
    cache_space *space;
} ctx;

static ctx ctx_open(math_mode math, int threads, const char *isa, const char *preset, const char *overrides) {
    ctx c;
    c.e = tiny_engine(tiny_model_file("tiny.gguf", tiny_model_default()), math, threads, "cpu", isa);
    c.p = preset_policy(c.e, preset, overrides, &c.tree);
    assert_ok(cache_space_create(c.e, c.p, PROMPT, 0, &c.space));
    return c;
}

static void ctx_close(ctx *c) {
    cache_space_destroy(c->space);
    policy_destroy(c->p);
    node_free(c->tree);
    engine_close(c->e);
}

static int vocab(const ctx *c) { return engine_model(c->e)->p.n_vocab; }

static float *rows_new(const ctx *c, int n) { return calloc((size_t)n * (size_t)vocab(c), sizeof(float)); }

static void assert_rows_equal(const ctx *c, const float *a, const float *b, int n, const char *what, const char *preset) {
    size_t v = (size_t)vocab(c);
    for (int i = 0; i < n; i++)
        if (memcmp(a + (size_t)i * v, b + (size_t)i * v, v * sizeof(float)) != 0) fail_msg("%s, preset %s: row %d of %d differs", what, preset, i, n);
}

static void assert_caches_equal(const seq *a, const seq *b, const char *preset) {
    cache_shape s = cache_get_shape(seq_cache(a));
    for (int l = 0; l < s.n_layers; l++)
        for (int h = 0; h < s.n_kv; h++)
            for (int t = 0; t < cache_n_tiers(seq_cache(a)); t++)
                if (cache_n_items(seq_cache(a), l, h, t) != cache_n_items(seq_cache(b), l, h, t))
                    fail_msg("preset %s: layer %d head %d tier %d holds %d and %d items", preset, l, h, t, cache_n_items(seq_cache(a), l, h, t),
                             cache_n_items(seq_cache(b), l, h, t));
    cache_bytes x = seq_bytes(a), y = seq_bytes(b);
    assert_int_equal(x.payload, y.payload);
    assert_int_equal(x.metadata, y.metadata);
    assert_int_equal(x.columns, y.columns);
}

/* ids of one run: prompt and continuation. */
static void ids_of(const ctx *c, int32_t *ids, uint64_t salt) { random_ids(ids, PROMPT + MORE, vocab(c), seed_get() + salt); }

static void fork_equals_real_flow(void **state) {
    for (int i = 0; i < n_presets; i++)
        for (int math = 0; math < 2; math++) {
            ctx c = ctx_open((math_mode)math, 2, "auto", presets[i], NULL);
            int32_t ids[PROMPT + MORE];
            ids_of(&c, ids, 0);
            float *first = rows_new(&c, 1 + MORE), *second = rows_new(&c, 1 + MORE);
            seq *a, *b;
            snapshot *snap;
            assert_ok(seq_create(c.e, c.space, c.p, 5, &a));
            assert_ok(seq_prefill(a, ids, PROMPT, first));
            assert_ok(engine_snapshot(c.e, ids, PROMPT, &snap));
            assert_ok(seq_fork(c.e, c.space, snap, c.p, 5, second, &b));
            assert_caches_equal(a, b, presets[i]);
            assert_ok(seq_extend(a, ids + PROMPT, MORE, first + vocab(&c)));
            assert_ok(seq_extend(b, ids + PROMPT, MORE, second + vocab(&c)));
            assert_rows_equal(&c, first, second, 1 + MORE, "fork and real flow", presets[i]);
            seq_destroy(a);
            seq_destroy(b);
            snapshot_destroy(snap);
            free(first);
            free(second);
            ctx_close(&c);
        }
}

static void extend_equals_steps(void **state) {
    for (int i = 0; i < n_presets; i++) {
        ctx c = ctx_open(MATH_FAST, 2, "auto", presets[i], NULL);
        int32_t ids[PROMPT + MORE];
        ids_of(&c, ids, 1);
        float *many = rows_new(&c, MORE), *single = rows_new(&c, MORE);
        seq *a, *b;
        assert_ok(seq_create(c.e, c.space, c.p, 5, &a));
        assert_ok(seq_prefill(a, ids, PROMPT, NULL));
        assert_ok(seq_clone(a, &b));
        assert_ok(seq_extend(a, ids + PROMPT, MORE, many));
        for (int t = 0; t < MORE; t++) assert_ok(engine_step(c.e, &b, ids + PROMPT + t, 1, single + (size_t)t * (size_t)vocab(&c)));
        assert_rows_equal(&c, many, single, MORE, "extend and steps", presets[i]);
        assert_caches_equal(a, b, presets[i]);
        assert_int_equal(seq_n_tokens(a), PROMPT + MORE);
        seq_destroy(a);
        seq_destroy(b);
        free(many);
        free(single);
        ctx_close(&c);
    }
}

static void batch_equals_each_alone(void **state) {
    enum { N = 3 };
    for (int i = 0; i < n_presets; i++) {
        ctx c = ctx_open(MATH_FAST, 2, "auto", presets[i], NULL);
        int32_t ids[N][PROMPT + MORE];
        seq *together[N], *alone[N];
        size_t v = (size_t)vocab(&c);
        float *x = rows_new(&c, N), *y = rows_new(&c, 1);
        for (int s = 0; s < N; s++) {
            ids_of(&c, ids[s], (uint64_t)s);
            assert_ok(seq_create(c.e, c.space, c.p, 5 + (uint64_t)s, &together[s]));
            assert_ok(seq_prefill(together[s], ids[s], PROMPT - 70 * s, NULL));
            assert_ok(seq_clone(together[s], &alone[s]));
        }
        for (int t = 0; t < 20; t++) {
            int32_t next[N];
            for (int s = 0; s < N; s++) next[s] = ids[s][PROMPT - 70 * s + t];
            assert_ok(engine_step(c.e, together, next, N, x));
            for (int s = 0; s < N; s++) {
                assert_ok(engine_step(c.e, &alone[s], &next[s], 1, y));
                assert_rows_equal(&c, x + (size_t)s * v, y, 1, "batch and alone", presets[i]);
            }
        }
        for (int s = 0; s < N; s++) {
            seq_destroy(together[s]);
            seq_destroy(alone[s]);
        }
        free(x);
        free(y);
        ctx_close(&c);
    }
}

static void run_whole(const ctx *c, const int32_t *ids, float *out) {
    seq *s;
    assert_ok(seq_create(c->e, c->space, c->p, 9, &s));
    assert_ok(seq_prefill(s, ids, PROMPT, out));
    assert_ok(seq_extend(s, ids + PROMPT, MORE, out + vocab(c)));
    seq_destroy(s);
}

static void any_number_of_threads_gives_the_same_bits(void **state) {
    const char *isas[8];
    int n_isas = backend_isas(isas, 8);
    for (int i = 0; i < n_isas; i++)
        for (int math = 0; math < 2; math++)
            for (int j = 0; j < n_presets; j += i ? 7 : 5) { /* most on the path that auto takes */
                float *out[3];
                for (int t = 0; t < 3; t++) {
                    ctx c = ctx_open((math_mode)math, t + 1, isas[i], presets[j], NULL);
                    int32_t ids[PROMPT + MORE];
                    ids_of(&c, ids, 2);
                    out[t] = rows_new(&c, 1 + MORE);
                    run_whole(&c, ids, out[t]);
                    if (t) assert_rows_equal(&c, out[0], out[t], 1 + MORE, "threads", presets[j]);
                    ctx_close(&c);
                }
                for (int t = 0; t < 3; t++) free(out[t]);
            }
}

/* Keeping everything on the hot tier is `full`, whatever ranks the items. */
static void a_budget_of_everything_gives_full(void **state) {
    static const char *const evictors[] = {"snapkv", "adakv", "kvcompress", "kvcompress_full", "random"};
    ctx f = ctx_open(MATH_FAST, 2, "auto", "full", NULL);
    int32_t ids[PROMPT + MORE];
    ids_of(&f, ids, 3);
    float *want = rows_new(&f, 1 + MORE);
    run_whole(&f, ids, want);
    for (size_t i = 0; i < sizeof evictors / sizeof *evictors; i++) {
        ctx c = ctx_open(MATH_FAST, 2, "auto", evictors[i], "{budget: 1.0}");
        float *got = rows_new(&c, 1 + MORE);
        run_whole(&c, ids, got);
        assert_rows_equal(&c, want, got, 1 + MORE, "budget 1.0 and full", evictors[i]);
        free(got);
        ctx_close(&c);
    }
    free(want);
    ctx_close(&f);
}

static void truncate_rolls_back_appended_rows(void **state) {
    ctx c = ctx_open(MATH_FAST, 2, "auto", "snapkv", NULL);
    int32_t ids[PROMPT + MORE];
    ids_of(&c, ids, 4);
    float *x = rows_new(&c, MORE), *y = rows_new(&c, MORE);
    seq *s;
    assert_ok(seq_create(c.e, c.space, c.p, 5, &s));
    assert_ok(seq_prefill(s, ids, PROMPT, NULL));
    assert_ok(seq_extend(s, ids + PROMPT, MORE, x));
    assert_ok(seq_truncate(s, PROMPT));
    assert_ok(seq_extend(s, ids + PROMPT, MORE, y));
    assert_rows_equal(&c, x, y, MORE, "after truncate", "snapkv");
    assert_int_equal(seq_truncate(s, PROMPT - 1), ERR_UNSUPPORTED);
    assert_true(strlen(err_text()) > 20);
    seq_destroy(s);
    free(x);
    free(y);
    ctx_close(&c);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    n_presets = preset_names(presets, MAX_PRESETS);
#ifdef __SANITIZE_ADDRESS__ /* twenty times slower: every eighth preset, others on another seed */
    int n_all = n_presets;
    n_presets = 0;
    for (int i = 0; i < n_all; i++) {
        if ((uint64_t)i % 8 == seed_get() % 8) presets[n_presets++] = presets[i];
        else free((char *)presets[i]);
    }
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fork_equals_real_flow),
        cmocka_unit_test(extend_equals_steps),
        cmocka_unit_test(batch_equals_each_alone),
        cmocka_unit_test(any_number_of_threads_gives_the_same_bits),
        cmocka_unit_test(a_budget_of_everything_gives_full),
        cmocka_unit_test(truncate_rolls_back_appended_rows),
    };
    return seed_end(n_presets ? cmocka_run_group_tests(tests, NULL, NULL) : 1);
}
