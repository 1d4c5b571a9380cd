/* Byte budgets against a real cache: what it counts as live after a prefill is within the budget, and there was no room for more. */
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
};

static void check(rng *r, const char *preset, int n, double share, const float *kv, float *signal) {
    char overrides[64];
    snprintf(overrides, sizeof overrides, "{budget: {bytes: %.17g}}", share);
    policy *p = policy_from_preset(shape, preset, overrides);
    const policy_needs *needs = policy_get_needs(p);
    page_layout layouts[KV_MAX_TIERS];
    assert_int_equal(page_layout_search(needs->tiers, needs->n_tiers, D, needs->pos_column ? 2 : 0, needs->score_column, n, layouts), OK);
    assert_int_equal(policy_bind(p, layouts), OK);
    pool *pages;
    cache *c;
    policy_state *s;
    assert_int_equal(pool_create(layouts[0].page_bytes, 0, &pages), OK);
    assert_int_equal(cache_create(pages, &codec, (cache_shape){LAYERS, KV, D}, layouts, needs->n_tiers, &c), OK);
    assert_int_equal(policy_state_create(p, rng_u64(r), &s), OK);
    uint8_t *target = malloc((size_t)(KV * n));
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; i < HEADS * n; i++) signal[i] = (float)rng_uniform(r);
        policy_layer layer = {.layer = l, .n = n, .signal = {signal}, .target = target};
        assert_int_equal(policy_prefill(p, s, &layer, 1), OK);
        assert_int_equal(cache_fill(c, &par_single, l, n, kv, kv, target), OK);
    }
    cache_set_n_tokens(c, n);
    cache_bytes b = cache_get_bytes(c);
    double limit = share * n * LAYERS * KV * D * 4;
    assert_int_equal(b.full_f16, (size_t)n * LAYERS * KV * D * 4);
    bool all = b.items == b.items_full;
    double next = LAYERS * KV * (layouts[0].payload_bytes + 40.0) + 768; /* one more item per head at its dearest */
    if (!policy_state_report(s).budget_clamped && b.live > limit)
        fail_msg("%s, %d tokens, share %g: %zu live bytes (%zu in tables) of %.0f", preset, n, share, b.live, b.tables, limit);
    if (!all && b.live + next < limit) fail_msg("%s, %d tokens, share %g: only %zu live bytes of %.0f", preset, n, share, b.live, limit);
    free(target);
    policy_state_destroy(s);
    cache_destroy(c);
    pool_destroy(pages);
    policy_destroy(p);
}

static void live_bytes_meet_the_budget(void **state) {
    rng r = rng_make(seed_get(), 1);
    float *kv = malloc(sizeof *kv * KV * MAX_N * D), *signal = malloc(sizeof *signal * HEADS * MAX_N);
    for (int i = 0; i < KV * MAX_N * D; i++) kv[i] = (float)rng_uniform(&r);
    for (int round = 0; round < 300; round++) {
        int n = 30 + (int)rng_below(&r, round % 3 ? MAX_N - 30 : 200);
        check(&r, presets[round % (int)(sizeof presets / sizeof *presets)], n, (3 + (int)rng_below(&r, 97)) / 100.0, kv, signal);
    }
    free(kv);
    free(signal);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(live_bytes_meet_the_budget)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
