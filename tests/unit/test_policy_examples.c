/* Worked examples and schedules of CriticalKV, KVzip and PyramidKV, through whole policies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/policies.h"

static uint64_t set(const char *positions) { /* "0 2 5" */
    uint64_t m = 0;
    for (char *end; *positions; positions = end) m |= (uint64_t)1 << strtol(positions, &end, 10);
    return m;
}

/* Decides all layers; kept positions of (layer, head) as bit masks. signal[layer][i] in the order of the policy's requests. */
static void decide(policy_shape shape, const char *yaml, int n, const float *const (*signal)[2], uint64_t *kept) {
    policy *p = policy_from_text(shape, yaml);
    policy_state *s;
    uint8_t target[256];
    policy_layer layers[4];
    assert_int_equal(policy_state_create(p, 1, &s), OK);
    for (int l = 0; l < shape.n_layers; l++)
        layers[l] = (policy_layer){.layer = l, .n = n, .signal = {signal[l][0], signal[l][1]}, .target = target + l * shape.n_kv * n};
    if (policy_get_needs(p)->scope == SCOPE_SEQUENCE) assert_int_equal(policy_prefill(p, s, layers, shape.n_layers), OK);
    else
        for (int l = 0; l < shape.n_layers; l++) assert_int_equal(policy_prefill(p, s, &layers[l], 1), OK);
    for (int k = 0; k < shape.n_layers * shape.n_kv; k++) {
        kept[k] = 0;
        for (int i = 0; i < n; i++)
            if (target[k * n + i] != KV_DROP) kept[k] |= (uint64_t)1 << i;
    }
    policy_state_destroy(s);
    policy_destroy(p);
}

static void skipped_layers_keep_everything(void **state) {
    const policy_shape shape = {.n_layers = 3, .n_heads = 1, .n_kv = 1, .head_dim = 64, .context = 64};
    const float norm[] = {5, 1, 4, 2, 3, 6};
    const float *const signal[3][2] = {{norm, NULL}, {norm, NULL}, {norm, NULL}};
    uint64_t kept[3];
    decide(shape, "{budget: 0.5, score: key_norm, quota: {fixed: {skip: 2}}}", 6, signal, kept);
    assert_true(kept[0] == set("0 1 2 3 4 5"));
    assert_true(kept[1] == kept[0]);
    assert_true(kept[2] == set("1 3 4"));
    decide(shape, "{score: key_norm, quota: {fixed: {skip: 1, tokens: 2}}}", 6, signal, kept);
    assert_true(kept[1] == set("1 3") && kept[0] == set("0 1 2 3 4 5"));
    decide(shape, "{budget: 0.5, score: key_norm, quota: {fixed: {skip: 7}}}", 6, signal, kept);
    assert_true(kept[2] == set("0 1 2 3 4 5"));
}

static void criticalkv_weighs_scores_with_the_output_norm(void **state) {
    const policy_shape shape = {.n_layers = 1, .n_heads = 2, .n_kv = 1, .head_dim = 64, .context = 64};
    const float score[] = {.40f, .05f, .25f, .10f, .15f, .05f, .40f, .05f, .25f, .10f, .15f, .05f};
    const float norm[] = {.1f, 3, 1, 2, 1, 4, .15f, 2, 3, 3.5f, 1.25f, 5.5f};
    const float *const signal[1][2] = {{score, norm}};
    uint64_t kept;
    decide(shape, "{budget: 0.5, score: {window: {rows: 1, force_window: false}}, select: critical}", 6, signal, &kept);
    assert_true(kept == set("0 2 3"));
    decide(shape, "{budget: 0.5, score: {window: {rows: 1, force_window: false}}}", 6, signal, &kept);
    assert_true(kept == set("0 2 4")); /* the score alone */
    decide(shape, "{budget: 0.5, score: {window: {rows: 1, force_window: false}}, select: {critical: {first: 0}}}", 6, signal, &kept);
    assert_true(kept == set("2 3 5")); /* without the first stage */
    decide(shape, "{budget: 0.6666666666666667, score: {window: {rows: 1, force_window: false}}, select: critical}", 6, signal, &kept);
    assert_true(kept == set("0 2 3 5"));
}

static void criticalkv_fills_the_budgets_of_adakv(void **state) {
    const policy_shape shape = {.n_layers = 1, .n_heads = 2, .n_kv = 2, .head_dim = 64, .context = 64};
    const float score[] = {.40f, .05f, .25f, .10f, .12f, .08f, .20f, .18f, .16f, .16f, .15f, .15f};
    const float norm[] = {.1f, 3, 1, 2, 1, 4, 1.5f, 3, 2.5f, .75f, 3, 9};
    const float *const signal[1][2] = {{score, norm}};
    uint64_t kept[2];
    decide(shape, "{budget: 0.5, score: {window: {rows: 1, force_window: false}}, quota: {adaptive: {mode: floor, alpha: 0.2}}, select: critical}", 6,
           signal, kept);
    assert_true(kept[0] == set("0 5"));
    assert_true(kept[1] == set("0 1 4 5"));
}

static void kvzip_takes_the_largest_attention_of_the_group(void **state) {
    const policy_shape shape = {.n_layers = 1, .n_heads = 2, .n_kv = 1, .head_dim = 64, .context = 64};
    const float mass[] = {0, .641145f, .438899f, .151959f, 0, .236448f, .404470f, .199432f};
    const float *const signal[1][2] = {{mass, NULL}};
    uint64_t kept;
    decide(shape, "{budget: 0.5, score: {probe: {sinks: 1}}, quota: {global: {over: layer, count: evicted}}}", 4, signal, &kept);
    assert_true(kept == set("0 1"));
}

/* Attention over the norms of the rows (2.236068, 2.061553), then times |Wo v| of each query head: 0, .286729, .723538, .299147. */
static void kvzip_plus_weighs_attention_with_the_output(void **state) {
    const policy_shape shape = {.n_layers = 1, .n_heads = 2, .n_kv = 1, .head_dim = 64, .context = 64};
    const float norm[] = {.1f, 1, 2, 3, .111803f, 1.118034f, 4, 3.354102f};
    const float mass[] = {0, .286729f, .212897f, .073711f, 0, .114694f, .180884f, .089189f};
    const float *const signal[1][2] = {{norm, mass}};
    uint64_t kept;
    decide(shape, "{budget: 0.5, score: {probe: {sinks: 1, normalise: output}}, quota: {global: {over: layer, count: evicted}}}", 4, signal, &kept);
    assert_true(kept == set("0 2"));
}

static void kvzip_ranks_all_layers_together(void **state) {
    const policy_shape shape = {.n_layers = 2, .n_heads = 1, .n_kv = 1, .head_dim = 64, .context = 64};
    const float first[] = {0, .1f, .2f, .6f}, second[] = {0, .5f, .7f, .05f};
    const float *const signal[2][2] = {{first, NULL}, {second, NULL}};
    uint64_t kept[2];
    decide(shape, "{budget: 0.5, score: {probe: {sinks: 1}}, quota: {global: {count: evicted}}}", 4, signal, kept);
    assert_true(kept[0] == set("0 3"));
    assert_true(kept[1] == set("0 2"));
    decide(shape, "{budget: 0.75, score: {probe: {sinks: 1}}, quota: global}", 4, signal, kept); /* 6 of 8: .1 and .05 go */
    assert_true(kept[0] == set("0 2 3"));
    assert_true(kept[1] == set("0 1 2"));
}

/* Items that each of 32 layers keeps of 7,500. */
static void schedule(const char *mode, int cap, int w, int *kept) {
    enum { N = 7500 };
    const policy_shape shape = {.n_layers = 32, .n_heads = 1, .n_kv = 1, .head_dim = 64, .context = N};
    char yaml[200];
    snprintf(yaml, sizeof yaml, "{budget: {tokens: %d}, score: {window: {rows: %d}}, quota: {pyramid: {mode: %s}}}", cap, w, mode);
    policy *p = policy_from_text(shape, yaml);
    policy_state *s;
    float *signal = calloc(N, sizeof *signal);
    uint8_t *target = malloc(N);
    assert_int_equal(policy_state_create(p, 1, &s), OK);
    for (int l = 0; l < 32; l++) {
        policy_layer layer = {.layer = l, .n = N, .signal = {signal}, .target = target};
        assert_int_equal(policy_prefill(p, s, &layer, 1), OK);
        kept[l] = 0;
        for (int i = 0; i < N; i++) kept[l] += target[i] != KV_DROP;
    }
    free(signal);
    free(target);
    policy_state_destroy(s);
    policy_destroy(p);
}

static void pyramidkv_has_the_schedule_of_kvcache_factory(void **state) {
    const struct { int cap, w, first, last; double average; } rows[] = {
        {64, 8, 110, 17, 71.5}, {128, 8, 234, 17, 133.5}, {512, 8, 983, 53, 526}, {2048, 8, 3978, 103, 2048.5}, {128, 32, 188, 33, 142.5}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int kept[32], sum = 0;
        schedule("factory", rows[i].cap, rows[i].w, kept);
        for (int l = 0; l < 32; l++) sum += kept[l];
        assert_int_equal(kept[0], rows[i].first + rows[i].w);
        assert_int_equal(kept[31], rows[i].last + rows[i].w);
        assert_true(sum == rows[i].average * 32);
        schedule("exact", rows[i].cap, rows[i].w, kept);
        sum = 0;
        for (int l = 0; l < 32; l++) {
            sum += kept[l];
            assert_true(l == 0 || kept[l] <= kept[l - 1] + 1); /* falls, but for rounding */
        }
        assert_int_equal(sum, 32 * rows[i].cap);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(skipped_layers_keep_everything),
        cmocka_unit_test(criticalkv_weighs_scores_with_the_output_norm),
        cmocka_unit_test(criticalkv_fills_the_budgets_of_adakv),
        cmocka_unit_test(kvzip_takes_the_largest_attention_of_the_group),
        cmocka_unit_test(kvzip_plus_weighs_attention_with_the_output),
        cmocka_unit_test(kvzip_ranks_all_layers_together),
        cmocka_unit_test(pyramidkv_has_the_schedule_of_kvcache_factory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
