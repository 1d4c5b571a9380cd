/* Tiers with K per channel under a policy: what they get is whole groups, the oldest first, at prefill and in decode. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/policies.h"

enum { G = KV_TOKEN_GROUP };
static const policy_shape shape = {.n_layers = 1, .n_heads = 2, .n_kv = 2, .head_dim = 64, .context = 1024};

static const char kivi[] = "tiers: [f16, k4cv4g32]\ntier: {uniform: {format: k4cv4g32}}\nprotect: {recent: 32}\ntrigger: {slack: 32}";

static policy_state *prefill(const policy *p, int n, uint8_t *target) {
    policy_state *s;
    assert_int_equal(policy_state_create(p, 1, &s), OK);
    policy_layer l = {.layer = 0, .n = n, .target = target};
    assert_int_equal(policy_prefill(p, s, &l, 1), OK);
    return s;
}

static void prompts_keep_recent_tokens_and_the_remainder_hot(void **state) {
    static const int lengths[] = {1, 31, 32, 63, 64, 65, 100, 128, 301};
    policy *p = policy_from_text(shape, kivi);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint8_t target[2 * 301];
        int n = lengths[i], cold = n > 32 ? (n - 32) / G * G : 0;
        policy_state_destroy(prefill(p, n, target));
        for (int h = 0; h < 2; h++)
            for (int t = 0; t < n; t++) assert_int_equal(target[h * n + t], t < cold);
    }
    policy_destroy(p);
}

/* 100 tokens: 64 cold, 36 hot; with 132 tokens the next group leaves, its items found by position wherever they lie. */
static void decode_moves_the_oldest_whole_group(void **state) {
    policy *p = policy_from_text(shape, kivi);
    uint8_t target[2 * 100], tier[132], out[2][132];
    uint32_t pos[132];
    float score[132] = {0};
    policy_state *s = prefill(p, 100, target);
    assert_int_equal(policy_rows_until_due(p, s, 100), 32);
    for (int i = 0; i < 68; i++) pos[i] = 64 + (uint32_t)(i + 20) % 68, tier[i] = 0; /* the hot tier, turned */
    for (int i = 68; i < 132; i++) pos[i] = (uint32_t)(i - 68), tier[i] = 1;
    policy_columns cols[2];
    for (int h = 0; h < 2; h++) cols[h] = (policy_columns){0, h, 132, pos, tier, score, out[h]};
    assert_int_equal(policy_decode(p, s, 132, cols), OK);
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 132; i++) assert_int_equal(out[h][i], pos[i] < 96);
    policy_state_destroy(s);
    policy_destroy(p);
}

static void unsuitable_stages_are_refused(void **state) {
    assert_policy_refused("tiers: [k4cv4g32]", 1, "k4cv4g32|hot tier");
    assert_policy_refused("tiers: [k8v8, k4cv4]\ntier: {uniform: {format: k4cv4}}", 1, "k4cv4|f16 or f32");
    assert_policy_refused("tiers: [f16, k4cv4]\nscore: random\ntier: {by_rank: {shares: {k4cv4: 1}}}", 3, "by_rank|k4cv4|uniform");
    assert_policy_refused("tiers: [f16, k4cv4]\ntier: {uniform: {format: k4cv4}}\nscore: recency\nbudget: 0.5\ntrigger: {slack: 4}", 5,
                          "score recency|k4cv4");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_keep_recent_tokens_and_the_remainder_hot),
        cmocka_unit_test(decode_moves_the_oldest_whole_group),
        cmocka_unit_test(unsuitable_stages_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
