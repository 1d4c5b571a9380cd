/* A bounded pool under pressure: sequences whose policy allows it give pages back between steps, in its order; others find the pool full. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/engines.h"

enum { PROMPT = 160, STEPS = 80, N_SEQS = 3, MAX_TAKEN = 4096 };

typedef struct world {
    engine *e;
    policy *p;
    node *tree;
    cache_space *space;
    seq *s[N_SEQS];
    page_ref taken[MAX_TAKEN];
    int n_taken;
    float *logits;
    int32_t ids[PROMPT + STEPS];
} world;

static void open_world(world *w, const char *preset, const char *overrides, int free_pages) {
    memset(w, 0, sizeof *w);
    w->e = tiny_engine(tiny_model_file("tiny.gguf", tiny_model_default()), MATH_FAST, 1, "cpu", "auto");
    w->p = preset_policy(w->e, preset, overrides, &w->tree);
    assert_ok(cache_space_create(w->e, w->p, PROMPT, POOL_EXTENT_BYTES, &w->space));
    int v = engine_model(w->e)->p.n_vocab;
    w->logits = malloc(sizeof(float) * (size_t)v * N_SEQS);
    random_ids(w->ids, PROMPT + STEPS, v, 7);
    for (int i = 0; i < N_SEQS; i++) {
        assert_ok(seq_create(w->e, w->space, w->p, (uint64_t)i, &w->s[i]));
        assert_ok(seq_prefill(w->s[i], w->ids, PROMPT - 20 * i, NULL));
    }
    pool *pages = cache_space_pool(w->space);
    while (w->n_taken < MAX_TAKEN && pool_free_pages(pages) > (size_t)free_pages) assert_ok(pool_alloc(pages, &w->taken[w->n_taken++]));
    assert_int_equal(pool_free_pages(pages), free_pages);
}

static void close_world(world *w) {
    while (w->n_taken) pool_free(cache_space_pool(w->space), w->taken[--w->n_taken]);
    for (int i = 0; i < N_SEQS; i++) seq_destroy(w->s[i]);
    assert_int_equal(pool_get_stats(cache_space_pool(w->space)).pages_used, 0);
    cache_space_destroy(w->space);
    policy_destroy(w->p);
    node_free(w->tree);
    engine_close(w->e);
    free(w->logits);
}

static err step(world *w, int t) {
    int32_t id[N_SEQS];
    for (int i = 0; i < N_SEQS; i++) id[i] = w->ids[PROMPT + t];
    return engine_step(w->e, w->s, id, N_SEQS, w->logits);
}

static int decisions(const world *w, int i) { return seq_policy_report(w->s[i]).n_decisions; }

static void sequences_give_pages_when_the_pool_is_short(void **state) {
    world w;
    open_world(&w, "kvcompress_pressure", "{budget: {tokens: 48}, trigger: {prefill: false}}", 0);
    size_t before = pool_get_stats(cache_space_pool(w.space)).pages_used;
    for (int i = 0; i < N_SEQS; i++) assert_int_equal(decisions(&w, i), 0);
    assert_true(seq_policy_seconds(w.s[0]) > 0); /* signals and the decision of all layers together count, too */
    for (int t = 0; t < STEPS; t++) {
        int had = decisions(&w, 0) + decisions(&w, 1) + decisions(&w, 2);
        err e = step(&w, t);
        if (e != OK) fail_msg("step %d: %s", t, err_text());
        assert_true(pool_get_stats(cache_space_pool(w.space)).pages_used <= before);
        if (t == 0) assert_true(had == 0);
    }
    cache_bytes b = seq_bytes(w.s[0]);
    assert_true(decisions(&w, 0) > 0 && decisions(&w, 1) > 0);
    assert_true(b.items < b.items_full);
    assert_int_equal(b.released, (b.items_full - b.items) * (b.payload + b.columns) / b.items); /* one tier: every item has the same bytes */
    assert_true(b.released_pages > 0);
    assert_int_equal(b.released_pages % cache_layout(seq_cache(w.s[0]), 0)->page_bytes, 0);
    close_world(&w);
}

static void the_first_without_compression_goes_first(void **state) {
    static const struct { const char *order; int first; } cases[] = {{"uncompressed", 0}, {"compressible", 0}, {"stale", 0}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        world w;
        char over[128];
        snprintf(over, sizeof over, "{budget: {tokens: 48}, trigger: {prefill: false, order: %s}}", cases[k].order);
        open_world(&w, "kvcompress_pressure", over, 0);
        int t = 0;
        while (decisions(&w, 0) + decisions(&w, 1) + decisions(&w, 2) == 0) assert_ok(step(&w, t++));
        for (int i = 0; i < N_SEQS; i++) assert_int_equal(decisions(&w, i), i == cases[k].first);
        while (decisions(&w, 0) + decisions(&w, 1) + decisions(&w, 2) == 1 && t < STEPS) assert_ok(step(&w, t++));
        if (t < STEPS && !strcmp(cases[k].order, "uncompressed")) assert_int_equal(decisions(&w, 1), 1); /* not the first again */
        close_world(&w);
    }
}

static void without_pressure_the_pool_is_full(void **state) {
    world w;
    open_world(&w, "kvcompress", "{budget: {tokens: 48}}", 0);
    err e = OK;
    int t = 0;
    for (; t < STEPS && e == OK; t++) e = step(&w, t);
    assert_int_equal(e, ERR_NOMEM);
    assert_non_null(strstr(err_text(), "full"));
    close_world(&w);
}

static void pressure_changes_nothing_while_there_is_room(void **state) {
    world a, b;
    open_world(&a, "kvcompress_pressure", "{budget: {tokens: 48}}", 60);
    open_world(&b, "kvcompress", "{budget: {tokens: 48}}", 60);
    size_t n = sizeof(float) * (size_t)engine_model(a.e)->p.n_vocab * N_SEQS;
    for (int t = 0; t < 20; t++) {
        assert_ok(step(&a, t));
        assert_ok(step(&b, t));
        assert_memory_equal(a.logits, b.logits, n);
    }
    assert_int_equal(decisions(&a, 0), 1); /* the prompt's */
    close_world(&a);
    close_world(&b);
}

static void extend_gives_pages_too(void **state) {
    world w;
    open_world(&w, "kvcompress_pressure", "{budget: {tokens: 48}, trigger: {prefill: false}}", 0);
    assert_ok(seq_extend(w.s[0], w.ids + PROMPT, STEPS, NULL));
    assert_true(decisions(&w, 0) > 0);
    assert_int_equal(decisions(&w, 1), 0);
    close_world(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_give_pages_when_the_pool_is_short),
        cmocka_unit_test(the_first_without_compression_goes_first),
        cmocka_unit_test(without_pressure_the_pool_is_full),
        cmocka_unit_test(pressure_changes_nothing_while_there_is_room),
        cmocka_unit_test(extend_gives_pages_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
