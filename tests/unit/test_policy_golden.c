/* Hand-computed examples of the methods' references, through whole policies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "policy/budget.h"
#include "tests/support/policies.h"

/* Decides one layer and returns the kept positions of a head as a bit mask. */
static void decide(policy_shape shape, const char *yaml, int n, const float *signal, uint64_t *kept /* [n_kv] */) {
    policy *p = policy_from_text(shape, yaml);
    policy_state *s;
    assert_int_equal(policy_state_create(p, 1, &s), OK);
    uint8_t *target = malloc((size_t)(shape.n_kv * n));
    policy_layer l = {.layer = 0, .n = n, .signal = {signal}, .target = target};
    assert_int_equal(policy_prefill(p, s, &l, 1), OK);
    for (int h = 0; h < shape.n_kv; h++) {
        kept[h] = 0;
        for (int i = 0; i < n; i++)
            if (target[h * n + i] != KV_DROP) kept[h] |= (uint64_t)1 << i;
    }
    free(target);
    policy_state_destroy(s);
    policy_destroy(p);
}

static uint64_t set(const char *positions) { /* "0 2 5" */
    uint64_t m = 0;
    for (char *end; *positions; positions = end) m |= (uint64_t)1 << strtol(positions, &end, 10);
    return m;
}

static const policy_shape one_head = {.n_layers = 1, .n_heads = 1, .n_kv = 1, .head_dim = 64, .context = 64};
static const policy_shape two_heads = {.n_layers = 1, .n_heads = 2, .n_kv = 2, .head_dim = 64, .context = 64};
static const policy_shape one_group = {.n_layers = 1, .n_heads = 2, .n_kv = 1, .head_dim = 64, .context = 64};

static void ratios_truncate_as_kvpress_does(void **state) { /* it counts what is removed: .9, .8, .9, .75, .5 */
    assert_int_equal(budget_ratio_tokens(0.1, 100), 9);
    assert_int_equal(budget_ratio_tokens(0.2, 10), 1);
    assert_int_equal(budget_ratio_tokens(0.1, 1000), 99);
    assert_int_equal(budget_ratio_tokens(0.25, 3840), 960);
    assert_int_equal(budget_ratio_tokens(0.5, 7), 3);
    assert_int_equal(budget_ratio_tokens(1, 77), 77);
    assert_int_equal(budget_ratio_tokens(0.001, 5), 1);
    assert_int_equal(budget_ratio_tokens(0.5, 0), 0);
}

/* DropKV's example: raw score per query head, two forced window positions, three kept. */
static const float dropkv[] = {.460924f, .114111f, .534093f, .033529f, .062080f, .165897f, .330452f, .850596f, .012052f, .028798f};

static void the_window_is_forced_and_counts(void **state) {
    uint64_t kept;
    decide(one_group, "{budget: {tokens: 3}, score: {window: {rows: 2, group: sum}}}", 5, dropkv, &kept);
    assert_true(kept == set("2 3 4"));
    decide(one_group, "{budget: {tokens: 1}, score: {window: {rows: 2, group: sum}}}", 5, dropkv, &kept);
    assert_true(kept == set("4")); /* fewer than the window: its newest */
}

static void average_pooling_makes_a_neighbour_the_best(void **state) {
    /* group mean, then average pool of 3: .178564 .409346 .312472 .253525 .022743 */
    const char *order[] = {"after", "before"};
    for (int i = 0; i < 2; i++) {
        char yaml[200];
        uint64_t kept;
        snprintf(yaml, sizeof yaml,
                 "{budget: {tokens: 1}, score: {window: {rows: 2, pool: avg, width: 3, group_order: %s, force_window: false}}}", order[i]);
        decide(one_group, yaml, 5, dropkv, &kept);
        assert_true(kept == set("1"));
        memcpy(strstr(yaml, "tokens: 1"), "tokens: 3", 9);
        decide(one_group, yaml, 5, dropkv, &kept);
        assert_true(kept == set("1 2 3"));
    }
}

static void the_order_of_group_and_max_pool_matters(void **state) {
    /* head 0: 0 6 0 0 0, head 1: 0 0 0 4 4.5; max pool 3 after the mean:  3 3 3 2.25 2.25 -> position 0 by the tie;
     * before: pooled 6 6 6 0 0 and 0 0 4 4.5 4.5, mean 3 3 5 2.25 2.25 -> position 2 */
    const float signal[] = {0, 6, 0, 0, 0, 0, 0, 0, 4, 4.5f};
    uint64_t kept;
    decide(one_group, "{budget: {tokens: 1}, score: {window: {rows: 1, pool: max, width: 3, group_order: before, force_window: false}}}",
           5, signal, &kept);
    assert_true(kept == set("0"));
    decide(one_group, "{budget: {tokens: 1}, score: {window: {rows: 1, pool: max, width: 3, group_order: after, force_window: false}}}",
           5, signal, &kept);
    assert_true(kept == set("2"));
}

static void adakv_of_kvpress_floors_and_shares_the_rest(void **state) {
    /* CriticalKV's second example: scores of two heads, n 3, 20 % safe (at least 1) */
    const float signal[] = {.40f, .05f, .25f, .10f, .12f, .08f, .20f, .18f, .16f, .16f, .15f, .15f};
    uint64_t kept[2];
    decide(two_heads, "{budget: 0.5, score: {window: {rows: 1, force_window: false}}, quota: {adaptive: {mode: floor, alpha: 0.2}}}", 6,
           signal, kept);
    assert_true(kept[0] == set("0 2"));
    assert_true(kept[1] == set("0 1 2 3"));
}

static void adakv_of_its_authors_blends_and_rounds_halves_to_even(void **state) {
    /* base 5 (window 1): a = 9, 1 of 10; alpha .5: rint(4.5 + 2) = 6, rint(.5 + 2) = 2: two fewer than 10 */
    const float signal[] = {9, 9, 9, 9, 9, 9, 9, 9, 9, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    uint64_t kept[2];
    decide(two_heads, "{budget: {tokens: 6}, score: {window: {rows: 1}}, quota: {adaptive: {mode: blend, alpha: 0.5}}}", 11, signal, kept);
    assert_true(kept[0] == set("0 1 2 3 4 5 10"));
    assert_true(kept[1] == set("0 1 10"));
    /* exact: 9 * .5 + .5 * 5 = 7 and 1 * .5 + .5 * 5 = 3 */
    decide(two_heads, "{budget: {tokens: 6}, score: {window: {rows: 1}}, quota: {adaptive: {mode: blend, alpha: 0.5, rounding: exact}}}",
           11, signal, kept);
    assert_true(kept[0] == set("0 1 2 3 4 5 6 10"));
    assert_true(kept[1] == set("0 1 2 10"));
}

static void streamingllm_keeps_sinks_and_the_newest(void **state) {
    uint64_t kept;
    decide(one_head, "{budget: {tokens: 7}, score: recency, protect: {sink: 4}}", 20, NULL, &kept);
    assert_true(kept == set("0 1 2 3 17 18 19"));
    decide(one_head, "{budget: 0.1, score: recency, protect: {sink: 4}}", 60, NULL, &kept);
    assert_true(kept == set("0 1 2 3 59")); /* int(60 * (1 - 0.9)) is 5 in f64, as in kvpress */
}

static void a_budget_of_the_whole_prompt_keeps_it(void **state) {
    const char *policies[] = {"score: {window: {rows: 2}}", "score: {window: {rows: 2}}, quota: {adaptive: {mode: floor}}",
                              "score: {window: {rows: 2}}, quota: {adaptive: {mode: blend}}", "score: recency", "score: random"};
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        char yaml[200];
        uint64_t kept[2];
        snprintf(yaml, sizeof yaml, "{budget: 1, %s}", policies[i]);
        decide(two_heads, yaml, 5, dropkv, kept);
        assert_true(kept[0] == set("0 1 2 3 4") && kept[1] == kept[0]);
    }
}

static void equal_scores_keep_the_lower_position_unless_told_otherwise(void **state) {
    /* KeyDiff's example scores, n 2: positions 0 and 1 tie, ours keeps 0, torch kept 1 */
    const float signal[] = {-.643827f, -.643827f, -.996312f, -.765171f, .233662f};
    uint64_t kept;
    decide(one_head, "{budget: {tokens: 2}, score: {window: {rows: 1, force_window: false}}}", 5, signal, &kept);
    assert_true(kept == set("0 4"));
    decide(one_head, "{budget: {tokens: 2}, score: {window: {rows: 1, force_window: false}}, select: {top_k: {ties: high}}}", 5, signal, &kept);
    assert_true(kept == set("1 4"));
}

static void protected_items_stay_and_the_clamp_is_reported(void **state) {
    policy *p = policy_from_text(one_head, "{budget: {tokens: 3}, score: recency, protect: {sink: 4, recent: 2}}");
    policy_state *s;
    uint8_t target[20];
    policy_layer l = {.layer = 0, .n = 20, .target = target};
    assert_int_equal(policy_state_create(p, 1, &s), OK);
    assert_int_equal(policy_prefill(p, s, &l, 1), OK);
    for (int i = 0; i < 20; i++) assert_int_equal(target[i] != KV_DROP, i < 4 || i >= 18);
    assert_true(policy_state_report(s).budget_clamped);
    assert_int_equal(policy_state_report(s).n_decisions, 1);
    policy_state_destroy(s);
    policy_destroy(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ratios_truncate_as_kvpress_does),
        cmocka_unit_test(the_window_is_forced_and_counts),
        cmocka_unit_test(average_pooling_makes_a_neighbour_the_best),
        cmocka_unit_test(the_order_of_group_and_max_pool_matters),
        cmocka_unit_test(adakv_of_kvpress_floors_and_shares_the_rest),
        cmocka_unit_test(adakv_of_its_authors_blends_and_rounds_halves_to_even),
        cmocka_unit_test(streamingllm_keeps_sinks_and_the_newest),
        cmocka_unit_test(a_budget_of_the_whole_prompt_keeps_it),
        cmocka_unit_test(equal_scores_keep_the_lower_position_unless_told_otherwise),
        cmocka_unit_test(protected_items_stay_and_the_clamp_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
