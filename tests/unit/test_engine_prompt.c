/* Rows of the last layer whose queries, attention and outputs nobody reads are left out, and everything that a prompt returns has the bits that
 * it has with all of them: attention is wrapped, counts the rows it is asked for and makes NaN of the others. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/engine_impl.h"
#include "tests/support/engines.h"
#include "tests/support/policies.h"
#include "tests/support/seed.h"

enum { MAX_N = 600, MORE = 6, CHUNK = 48 };

/* ---- the backend with attention that spoils what it is not asked for ---- */

static const backend *real;
static backend spoiling;
static int first_row; /* of the last prompt attention */

static void spoil_rows(float *x, int n_rows, size_t row) {
    for (size_t i = 0; i < (size_t)n_rows * row; i++) x[i] = NAN;
}
static void attn_prefill_spoiling(const par *p, const attn_prefill *a) {
    real->attn_prefill(p, a);
    par_barrier(p);
    if (p->ith == 0) {
        size_t row = (size_t)a->n_heads * (size_t)a->head_dim;
        first_row = a->first;
        spoil_rows(a->out, a->first, row);
        spoil_rows((float *)a->q, a->first, row);
        for (int h = 0; h < a->n_heads; h++) spoil_rows(a->lse + (size_t)h * (size_t)a->n_tokens, a->first, 1);
    }
    par_barrier(p);
}
static int n_attended; /* layers of decode */
static void attn_decode_counting(const par *p, const attn_batch *b) {
    if (p->ith == 0) n_attended++;
    real->attn_decode(p, b);
}
static void spoil(engine *e) {
    real = e->m->be;
    spoiling = *real;
    spoiling.attn_prefill = attn_prefill_spoiling;
    spoiling.attn_decode = attn_decode_counting;
    e->m->be = &spoiling;
}

/* ---- a policy on a model ---- */

static const char *const policies[] = {
    "{tiers: [k8v4]}",
    "{budget: 0.4, score: {window: {rows: 32}}, quota: fixed, select: top_k, tiers: [k8v4]}",
    "{budget: 0.4, score: key_norm, quota: fixed, select: top_k, tiers: [f16]}",
    "{budget: 0.4, score: {column: {reduce: sum, group: mean}}, quota: fixed, select: top_k, tiers: [f16]}",
    "{budget: 0.4, score: {window: {rows: 64}}, quota: {global: {over: sequence}}, select: top_k, tiers: [f16]}",
};
enum { N_POLICIES = sizeof policies / sizeof *policies };

typedef struct world {
    engine *e;
    policy *p;
    cache_space *space;
    int n_vocab;
    int32_t ids[MAX_N + MORE];
} world;

static world world_open(const char *model, math_mode math, int threads, const char *isa, const char *yaml) {
    world w = {.e = tiny_engine(model, math, threads, "cpu", isa)};
    spoil(w.e);
    w.p = policy_from_text(engine_policy_shape(w.e), yaml);
    assert_ok(cache_space_create(w.e, w.p, MAX_N, 0, &w.space));
    w.n_vocab = engine_model(w.e)->p.n_vocab;
    random_ids(w.ids, MAX_N + MORE, w.n_vocab, seed_get());
    return w;
}
static void world_close(world *w) {
    cache_space_destroy(w->space);
    policy_destroy(w->p);
    engine_close(w->e);
}

/* Logits of a prompt of n tokens (left 0 if not wanted) and of what follows it. */
static float *logits_of(const world *w, seq *s, float *first, int n) {
    float *x = calloc((size_t)w->n_vocab * (1 + MORE), sizeof *x);
    if (first) memcpy(x, first, sizeof *x * (size_t)w->n_vocab);
    assert_ok(seq_extend(s, w->ids + n, MORE, x + w->n_vocab));
    for (int i = 0; i < w->n_vocab * (1 + MORE); i++)
        if (!isfinite(x[i])) fail_msg("%d tokens, %s: logit %d of row %d is %g", n, policy_describe(w->p), i % w->n_vocab, i / w->n_vocab, (double)x[i]);
    return x;
}
static float *real_flow(const world *w, int n, bool wanted) {
    float *first = calloc((size_t)w->n_vocab, sizeof *first);
    seq *s;
    assert_ok(seq_create(w->e, w->space, w->p, 7, &s));
    assert_ok(seq_prefill(s, w->ids, n, wanted ? first : NULL));
    float *x = logits_of(w, s, wanted ? first : NULL, n);
    seq_destroy(s);
    free(first);
    return x;
}
/* From a snapshot that holds sums over all rows besides, so that every row is computed. */
static float *from_all_rows(const world *w, int n) {
    policy *all = policy_from_text(engine_policy_shape(w->e), "{layers: all, budget: 0.5, score: {column: {reduce: sum, group: mean}}, quota: fixed, select: top_k}");
    float *first = calloc((size_t)w->n_vocab, sizeof *first);
    snapshot *snap;
    seq *s;
    assert_ok(engine_declare(w->e, all));
    assert_ok(engine_snapshot(w->e, w->ids, n, &snap));
    assert_int_equal(first_row, 0);
    assert_ok(seq_fork(w->e, w->space, snap, w->p, 7, first, &s));
    float *x = logits_of(w, s, first, n);
    seq_destroy(s);
    snapshot_destroy(snap);
    policy_destroy(all);
    free(first);
    return x;
}

static void assert_equal(const world *w, const float *a, const float *b, int n_rows, int n, const char *what) {
    for (int i = 0; i < n_rows; i++)
        if (memcmp(a + i * w->n_vocab, b + i * w->n_vocab, sizeof *a * (size_t)w->n_vocab) != 0)
            fail_msg("%s, %d tokens, %s: row %d differs", what, n, policy_describe(w->p), i);
}

static void what_is_left_out_changes_nothing(void **state) {
    static const int lengths[] = {1, 2, SNAPSHOT_TAIL_ROWS, SNAPSHOT_TAIL_ROWS + 1, CHUNK + SNAPSHOT_TAIL_ROWS, 301, MAX_N};
    for (int i = 0; i < N_POLICIES; i++)
        for (size_t j = 0; j < sizeof lengths / sizeof *lengths; j++) {
            int n = lengths[j];
            world w = world_open(tiny_model_file("tiny.gguf", tiny_model_default()), MATH_FAST, 1 + (int)(j % 2), "auto", policies[i]);
            float *a = real_flow(&w, n, true), *b = from_all_rows(&w, n), *c = real_flow(&w, n, false);
            assert_equal(&w, a, b, 1 + MORE, n, "all rows");
            assert_equal(&w, a + w.n_vocab, c + w.n_vocab, MORE, n, "no logits wanted");
            free(a);
            free(b);
            free(c);
            world_close(&w);
        }
}

static void it_is_so_on_every_path(void **state) {
    const char *isas[8];
    int n_isas = backend_isas(isas, 8);
    for (int i = 0; i < n_isas; i++)
        for (int math = 0; math < 2; math++) {
            world w = world_open(tiny_model_file("tiny.gguf", tiny_model_default()), (math_mode)math, 2, isas[i], policies[1]);
            float *a = real_flow(&w, 150, true), *b = from_all_rows(&w, 150);
            assert_equal(&w, a, b, 1 + MORE, 150, isas[i]);
            free(a);
            free(b);
            world_close(&w);
        }
}

static void it_is_so_where_the_last_layer_slides(void **state) {
    static const char *const models[] = {"tests/golden/arch/gemma3.gguf", "tests/golden/arch/mistral.gguf"}; /* windows of 12 */
    for (int m = 0; m < 2; m++)
        for (int i = 0; i < N_POLICIES; i++) {
            char yaml[128];
            snprintf(yaml, sizeof yaml, "{layers: all, %s", policies[i] + 1);
            world w = world_open(models[m], MATH_FAST, 2, "auto", yaml);
            float *a = real_flow(&w, 80, true), *b = from_all_rows(&w, 80);
            assert_equal(&w, a, b, 1 + MORE, 80, models[m]);
            free(a);
            free(b);
            world_close(&w);
        }
}

/* Which rows the last layer attended with. */
static void rows_are_left_out_by_what_is_read(void **state) {
    static const int tail = MAX_N - SNAPSHOT_TAIL_ROWS, first[N_POLICIES] = {MAX_N - 1, tail, tail, 0, tail};
    for (int i = 0; i < N_POLICIES; i++) {
        world w = world_open(tiny_model_file("tiny.gguf", tiny_model_default()), MATH_FAST, 1, "auto", policies[i]);
        free(real_flow(&w, MAX_N, true));
        assert_int_equal(first_row, first[i]);
        snapshot *snap;
        assert_ok(engine_snapshot(w.e, w.ids, MAX_N, &snap));
        assert_int_equal(first_row, i == 3 ? 0 : tail); /* what cache_space_create declared */
        snapshot_destroy(snap);
        world_close(&w);
    }
}

/* Rows appended without logits attend in all layers but the last, unless scores are live, and leave what rows with logits leave. */
static void rows_without_logits_skip_the_last_layer(void **state) {
    static const char *const more[] = {
        "{tiers: [k8v4]}",
        "{tiers: [k4v4g32r]}",
        "{budget: 0.4, protect: {recent: 16}, trigger: {prefill: true, slack: 1}, score: {column: {reduce: sum, group: mean, live: true}}, quota: fixed, select: top_k, tiers: [f16]}",
        "{budget: 0.4, protect: {sink: 4}, positions: slot, score: recency, quota: fixed, select: top_k, tiers: [f16]}",
    };
    enum { N = 100 };
    for (int i = 0; i < 4; i++) {
        world w = world_open(tiny_model_file("tiny.gguf", tiny_model_default()), MATH_FAST, 2, "auto", more[i]);
        int n_layers = w.e->m->p.n_layers;
        float *x = calloc((size_t)w.n_vocab * MORE, sizeof *x), *y = calloc((size_t)w.n_vocab, sizeof *y);
        seq *a, *b;
        assert_ok(seq_create(w.e, w.space, w.p, 7, &a));
        assert_ok(seq_prefill(a, w.ids, N, NULL));
        assert_ok(seq_clone(a, &b));
        assert_ok(seq_extend(a, w.ids + N, MORE, x));
        n_attended = 0;
        assert_ok(seq_extend(b, w.ids + N, 1, NULL));
        assert_int_equal(n_attended, i == 2 ? n_layers : n_layers - 1);
        assert_ok(seq_extend(b, w.ids + N + 1, MORE - 2, NULL));
        assert_ok(seq_extend(b, w.ids + N + MORE - 1, 1, y));
        assert_equal(&w, x + (size_t)w.n_vocab * (MORE - 1), y, 1, N, "rows before without logits");
        free(x);
        free(y);
        seq_destroy(a);
        seq_destroy(b);
        world_close(&w);
    }
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_left_out_changes_nothing),
        cmocka_unit_test(it_is_so_on_every_path),
        cmocka_unit_test(it_is_so_where_the_last_layer_slides),
        cmocka_unit_test(rows_are_left_out_by_what_is_read),
        cmocka_unit_test(rows_without_logits_skip_the_last_layer),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
