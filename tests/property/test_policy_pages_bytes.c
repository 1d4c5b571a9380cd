/* What KV-Compress keeps of a prompt of 4,096 tokens in the default model's geometry fills its pages: physical bytes against the kept share of an
 * f16 cache, at rates 2 to 16, from heads that differ much in what they keep; committed extents against pages. */
#include <math.h>
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

enum { LAYERS = 30, KV = 3, HEADS = 9, D = 64, N = 4096 };
static const policy_shape shape = {.n_layers = LAYERS, .n_heads = HEADS, .n_kv = KV, .head_dim = D, .context = 8192};
static const backend codec = {.name = "portable codec", .page_put = page_put, .page_move = page_move};

/* Attention as heads have it: most of it on few tokens, and heads of very different levels. */
static float *make_signal(rng *r) {
    float *x = malloc(sizeof *x * LAYERS * HEADS * N);
    for (int h = 0; h < LAYERS * HEADS; h++) {
        double level = pow(10, 4 * rng_uniform(r)), shape_of = 1 + 8 * rng_uniform(r);
        for (int i = 0; i < N; i++) x[h * N + i] = (float)(level * pow(rng_uniform(r), shape_of));
    }
    return x;
}

enum against { KEPT_F16, LIVE }; /* what pages are held against: the rate's share of an f16 cache, or what items and tables take */

static void check(const char *preset, const char *overrides, double share, double bound, enum against against, const float *signal, const float *kv) {
    policy *p = policy_from_preset(shape, preset, overrides);
    const policy_needs *needs = policy_get_needs(p);
    page_layout layouts[KV_MAX_TIERS];
    pool *pages;
    cache *c;
    policy_state *s;
    assert_int_equal(page_layout_search(needs->tiers, needs->n_tiers, D, needs->pos_column ? 2 : 0, needs->score_column, N, layouts), OK);
    assert_int_equal(policy_bind(p, layouts), OK);
    assert_int_equal(pool_create(layouts[0].page_bytes, 0, &pages), OK);
    assert_int_equal(cache_create(pages, &codec, (cache_shape){LAYERS, KV, D}, layouts, needs->n_tiers, &c), OK);
    assert_int_equal(policy_state_create(p, 1, &s), OK);
    static uint8_t target[LAYERS * KV * N];
    policy_layer layers[LAYERS];
    for (int l = 0; l < LAYERS; l++) layers[l] = (policy_layer){.layer = l, .n = N, .target = target + l * KV * N};
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < needs->n_signals; i++) layers[l].signal[i] = signal + l * HEADS * N;
    if (needs->scope == SCOPE_SEQUENCE) assert_int_equal(policy_prefill(p, s, layers, LAYERS), OK);
    else
        for (int l = 0; l < LAYERS; l++) assert_int_equal(policy_prefill(p, s, &layers[l], 1), OK);
    for (int l = 0; l < LAYERS; l++) assert_int_equal(cache_fill(c, &par_single, l, N, kv, kv, target + l * KV * N), OK);
    cache_set_n_tokens(c, N);
    cache_trim(&c, 1);
    pool_stats st = pool_get_stats(pages);
    cache_bytes b = cache_get_bytes(c);
    double kept = against == LIVE ? (double)b.live : share * N * LAYERS * KV * D * 4, used = (double)(st.pages_used * st.page_bytes);
    int fewest = N, most = 0;
    for (int l = 0; l < LAYERS; l++)
        for (int h = 0; h < KV; h++) {
            int n = cache_n_items_head(c, l, h);
            fewest = n < fewest ? n : fewest;
            most = n > most ? n : most;
        }
    if (used > bound * kept)
        fail_msg("%s %s: pages of %.0f bytes for %.0f kept (%.3f); heads hold %d to %d items", preset, overrides, used, kept, used / kept, fewest, most);
    if (used < 0.9 * kept) fail_msg("%s %s: only %.0f bytes for %.0f kept", preset, overrides, used, kept);
    if ((double)st.committed_bytes > used + 2.0 * POOL_EXTENT_BYTES)
        fail_msg("%s %s: %zu bytes committed for %.0f in use", preset, overrides, st.committed_bytes, used);
    assert_true(st.extents <= (st.pages_used + st.pages_per_extent - 1) / st.pages_per_extent + 1);
    if (against == KEPT_F16) assert_int_equal(b.released, (b.items_full - b.items) * D * 4);
    if (against == KEPT_F16) assert_true((double)b.released_pages <= (double)b.full_f16 * 1.02 - used + st.page_bytes * KV * LAYERS);
    if (against == LIVE) assert_true((double)b.live <= share * (double)b.full_f16 && (double)b.live > 0.97 * share * (double)b.full_f16);
    if (strstr(preset, "kvcompress") || against == LIVE) assert_true(fewest < most);
    policy_state_destroy(s);
    cache_destroy(c);
    pool_destroy(pages);
    policy_destroy(p);
}

static void pages_in_use_stay_near_what_is_kept(void **state) {
    rng r = rng_make(seed_get(), 1);
    float *signal = make_signal(&r), *kv = malloc(sizeof *kv * KV * N * D);
    for (int i = 0; i < KV * N * D; i++) kv[i] = (float)rng_uniform(&r);
    static const struct { const char *preset, *rest; } cases[] = {
        {"kvcompress", ""}, {"kvcompress_code", ""}, {"kvcompress", ", quota: {pages: {chunk: 1}}"}, {"kvcompress", ", quota: {pages: {chunk: 0}}"}, {"snapkv", ""},
    };
    for (int rate = 2; rate <= 16; rate *= 2)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            char over[128];
            snprintf(over, sizeof over, "{budget: {rate: %d}%s}", rate, cases[i].rest);
            check(cases[i].preset, over, 1.0 / rate, rate <= 8 ? 1.10 : 1.15, KEPT_F16, signal, kv);
        }
    free(signal);
    free(kv);
}

/* Three to four tiers in every head: half a page of each is what pages cost beyond live bytes. The profile is the default model's. */
static void pages_of_many_tiers_stay_near_live_bytes(void **state) {
    rng r = rng_make(seed_get(), 2);
    float *signal = make_signal(&r), *kv = malloc(sizeof *kv * KV * N * D);
    for (int i = 0; i < KV * N * D; i++) kv[i] = (float)rng_uniform(&r);
    static const struct { const char *preset; double bytes, bound; } cases[] = {{"kvlab_best", 0.125, 1.12}, {"kvlab_best_low", 0.08, 1.2}, {"kvlab_best_low", 0.05, 1.25}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char over[128];
        snprintf(over, sizeof over, "{budget: {bytes: %g}, quota: {profile: {file: configs/profiles/smollm2-135m.profile}}}", cases[i].bytes);
        check(cases[i].preset, over, cases[i].bytes, cases[i].bound, LIVE, signal, kv);
    }
    free(signal);
    free(kv);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(pages_in_use_stay_near_what_is_kept), cmocka_unit_test(pages_of_many_tiers_stay_near_live_bytes)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
