/* Budgets in bytes and pages against a real cache: what it counts after a prefill is within the budget, and there was no room for more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "cache/cache.h"
#include "tests/support/policies.h"
#include "tests/support/seed.h"

enum { LAYERS = 4, KV = 2, HEADS = 6, D = 64, MAX_N = 1500 };
static const policy_shape shape = {.n_layers = LAYERS, .n_heads = HEADS, .n_kv = KV, .head_dim = D, .context = 4096};
static const backend codec = {.name = "portable codec", .page_put = page_put, .page_move = page_move};

static const char *const presets[] = {
    "streamingllm", "streamingllm_k8v4", "snapkv", "snapkv_kvpress", "adakv", "adakv_kvpress", "snapkv_k8v4", "adakv_k8v4_k4v2", "random",
    "h2o", "tova", "pyramidkv_exact", "snapkv_global", "criticalkv", "expected_kvpress", "l2norm_factory",
    "kvcrush", "kvcrush_adakv_tiers", "kvzip_tiers",
};

typedef struct world {
    policy *p;
    page_layout layouts[KV_MAX_TIERS];
    pool *pages;
    cache *c;
    policy_state *s;
} world;

static void close_world(world *w) {
    policy_state_destroy(w->s);
    cache_destroy(w->c);
    pool_destroy(w->pages);
    policy_destroy(w->p);
}

/* A prompt of n tokens under a preset with another budget. */
static world prefill(rng *r, const char *preset, const char *overrides, int n, const float *kv, float *signal) {
    world w = {.p = policy_from_preset(shape, preset, overrides)};
    const policy_needs *needs = policy_get_needs(w.p);
    assert_int_equal(page_layout_search(needs->tiers, needs->n_tiers, D, needs->pos_column ? 2 : 0, needs->score_column, n, w.layouts), OK);
    assert_int_equal(policy_bind(w.p, w.layouts), OK);
    assert_int_equal(pool_create(w.layouts[0].page_bytes, 0, &w.pages), OK);
    assert_int_equal(cache_create(w.pages, &codec, (cache_shape){LAYERS, KV, D}, w.layouts, needs->n_tiers, &w.c), OK);
    assert_int_equal(policy_state_create(w.p, rng_u64(r), &w.s), OK);
    policy_layer layers[LAYERS];
    uint8_t *target = malloc((size_t)(LAYERS * KV * n));
    float *live = malloc(sizeof *live * (size_t)(KV * n));
    for (int i = 0; i < LAYERS * HEADS * n; i++) signal[i] = (float)rng_uniform(r);
    for (int l = 0; l < LAYERS; l++) {
        layers[l] = (policy_layer){.layer = l, .n = n, .target = target + l * KV * n, .live = needs->score_column ? live : NULL};
        for (int i = 0; i < needs->n_signals; i++) layers[l].signal[i] = signal + l * HEADS * n;
        if (needs->scope != SCOPE_SEQUENCE) assert_int_equal(policy_prefill(w.p, w.s, &layers[l], 1), OK);
    }
    if (needs->scope == SCOPE_SEQUENCE) assert_int_equal(policy_prefill(w.p, w.s, layers, LAYERS), OK);
    for (int l = 0; l < LAYERS; l++) assert_int_equal(cache_fill(w.c, &par_single, l, n, kv, kv, layers[l].target), OK);
    cache_set_n_tokens(w.c, n);
    free(target);
    free(live);
    return w;
}

static void check(rng *r, const char *preset, int n, double share, const float *kv, float *signal) {
    char overrides[64];
    snprintf(overrides, sizeof overrides, "{budget: {bytes: %.17g}}", share);
    world w = prefill(r, preset, overrides, n, kv, signal);
    cache_bytes b = cache_get_bytes(w.c);
    double limit = share * n * LAYERS * KV * D * 4;
    assert_int_equal(b.full_f16, (size_t)n * LAYERS * KV * D * 4);
    bool all = b.items == b.items_full;
    double next = LAYERS * KV * (w.layouts[0].payload_bytes + 40.0) + 768; /* one more item per head at its dearest */
    if (!policy_state_report(w.s).budget_clamped && b.live > limit)
        fail_msg("%s, %d tokens, share %g: %zu live bytes (%zu in tables) of %.0f", preset, n, share, b.live, b.tables, limit);
    if (!all && b.live + next < limit) fail_msg("%s, %d tokens, share %g: only %zu live bytes of %.0f", preset, n, share, b.live, limit);
    close_world(&w);
}

static void check_pages(rng *r, const char *preset, int n, int pages, const float *kv, float *signal) {
    char overrides[64];
    snprintf(overrides, sizeof overrides, "{budget: {pages: %d}}", pages);
    world w = prefill(r, preset, overrides, n, kv, signal);
    for (int c = 0; c < LAYERS * KV; c++) {
        int used = 0, next = 0, items = 0;
        for (int t = 0; t < cache_n_tiers(w.c); t++) {
            int here = cache_n_items(w.c, c / KV, c % KV, t), cap = w.layouts[t].cap;
            used += (here + cap - 1) / cap;
            next += here % cap == 0;
            items += here;
        }
        if (policy_state_report(w.s).budget_clamped) continue;
        if (used > pages) fail_msg("%s, %d tokens: head %d fills %d pages of %d", preset, n, c, used, pages);
        if (items < n && used < pages && next == 0) fail_msg("%s, %d tokens: head %d fills %d pages of %d and has room", preset, n, c, used, pages);
    }
    close_world(&w);
}

static void what_is_kept_meets_the_budget(void **state) {
    rng r = rng_make(seed_get(), 1);
    float *kv = malloc(sizeof *kv * KV * MAX_N * D), *signal = malloc(sizeof *signal * LAYERS * HEADS * MAX_N);
    for (int i = 0; i < KV * MAX_N * D; i++) kv[i] = (float)rng_uniform(&r);
    for (int round = 0; round < 300; round++) {
        int n = 30 + (int)rng_below(&r, round % 3 ? MAX_N - 30 : 200);
        check(&r, presets[round % (int)(sizeof presets / sizeof *presets)], n, (3 + (int)rng_below(&r, 97)) / 100.0, kv, signal);
    }
    static const char *const equal_heads[] = {"streamingllm", "streamingllm_k8v4", "snapkv_k8v4", "h2o", "tova", "random"};
    for (int round = 0; round < 120; round++)
        check_pages(&r, equal_heads[round % 6], 30 + (int)rng_below(&r, MAX_N - 30), 1 + (int)rng_below(&r, 40), kv, signal);
    free(kv);
    free(signal);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_kept_meets_the_budget)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
