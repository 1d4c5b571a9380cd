/* Selection by keys, pooling and grouping: against sorting and against the definition. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "policy/signal/pool.h"
#include "policy/topk.h"
#include "tests/support/seed.h"

static int falling(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

static void the_threshold_is_the_kth_largest_key(void **state) {
    rng r = rng_make(seed_get(), 1);
    for (int round = 0; round < 4000; round++) {
        int n = 1 + (int)rng_below(&r, round % 10 ? 60 : 900), k = 1 + (int)rng_below(&r, (uint32_t)n);
        int shift = (int)rng_below(&r, 64);
        uint64_t keys[1000], sorted[1000];
        for (int i = 0; i < n; i++) sorted[i] = keys[i] = rng_u64(&r) >> shift;
        qsort(sorted, (size_t)n, sizeof *sorted, falling);
        assert_true(topk_threshold(keys, n, k) == sorted[k - 1]);
    }
}

/* Few items to drop take another way than many. */
static void the_items_of_the_lowest_keys_are_dropped(void **state) {
    rng r = rng_make(seed_get(), 2);
    uint32_t pos[400];
    float score[400];
    uint8_t flags[400], target[400];
    uint64_t keys[400], sorted[400];
    for (int round = 0; round < 4000; round++) {
        policy p = {.ties_high = rng_below(&r, 2)};
        int n = 1 + (int)rng_below(&r, 400), n_drop = (int)rng_below(&r, rng_below(&r, 2) ? 12 : (uint32_t)n + 1), n_values = 1 + (int)rng_below(&r, 9);
        if (n_drop > n) n_drop = n;
        head_items h = {.n = n, .quota = n - n_drop, .pos = pos, .score = score, .flags = flags, .target = target};
        decision d = {.p = &p, .keys = keys};
        for (int i = 0; i < n; i++) {
            pos[i] = (uint32_t)i;
            score[i] = rng_below(&r, 50) ? (float)rng_below(&r, (uint32_t)n_values) - 1 : rng_below(&r, 2) ? NAN : -0.0f;
            flags[i] = rng_below(&r, 30) ? 0 : (uint8_t[]){ITEM_SINK, ITEM_RECENT, ITEM_FORCED}[rng_below(&r, 3)];
        }
        for (int i = n - 1; i > 0; i--) { /* items lie in any order of positions */
            uint32_t j = rng_below(&r, (uint32_t)i + 1), swap = pos[i];
            pos[i] = pos[j];
            pos[j] = swap;
        }
        for (int i = 0; i < n; i++) sorted[i] = topk_item_key(&p, &h, i);
        qsort(sorted, (size_t)n, sizeof *sorted, falling);
        topk_select(&d, &h);
        for (int i = 0; i < n; i++)
            assert_int_equal(target[i], h.quota && topk_item_key(&p, &h, i) >= sorted[h.quota - 1] ? 0 : KV_DROP);
    }
}

static void keys_order_scores_as_numbers(void **state) {
    const float rising[] = {-INFINITY, -3e38f, -2, -1e-40f, 0, 1e-40f, 0.5f, 1, 3e38f, INFINITY};
    int n = sizeof rising / sizeof *rising;
    for (int i = 1; i < n; i++) assert_true(topk_key(rising[i], 0) > topk_key(rising[i - 1], ~0u));
    assert_true(topk_key(-0.0f, 7) == topk_key(0.0f, 7));
    assert_true(topk_key(NAN, ~0u) < topk_key(-INFINITY, 0));
    assert_true(topk_key(-NAN, ~0u) < topk_key(-INFINITY, 0));
    assert_true(topk_key(1, 2) > topk_key(1, 1));
}

static void forced_items_rank_above_any_score_and_protected_above_them(void **state) {
    policy p = {0};
    uint32_t pos[] = {0, 1, 2, 3};
    float score[] = {0, INFINITY, 5, 0};
    uint8_t flags[] = {ITEM_SINK, 0, ITEM_FORCED, ITEM_FORCED};
    head_items h = {.n = 4, .pos = pos, .score = score, .flags = flags};
    uint64_t key[4];
    for (int i = 0; i < 4; i++) key[i] = topk_item_key(&p, &h, i);
    assert_true(key[0] > key[3] && key[3] > key[2] && key[2] > key[1]);
}

static void ties_fall_to_the_lower_position_or_the_higher_one(void **state) {
    policy low = {0}, high = {.ties_high = true};
    uint32_t pos[] = {4, 9};
    float score[] = {1, 1};
    uint8_t flags[2] = {0};
    head_items h0 = {.head = 0, .n = 2, .pos = pos, .score = score, .flags = flags}, h1 = h0;
    h1.head = 1;
    assert_true(topk_item_key(&low, &h0, 0) > topk_item_key(&low, &h0, 1));
    assert_true(topk_item_key(&high, &h0, 0) < topk_item_key(&high, &h0, 1));
    assert_true(topk_layer_key(&low, &h1, 0, 2, 1) > topk_layer_key(&low, &h0, 1, 2, 1));
    assert_true(topk_layer_key(&low, &h0, 0, 2, 1) > topk_layer_key(&low, &h1, 0, 2, 1));
    assert_true(topk_layer_key(&high, &h0, 1, 2, 1) > topk_layer_key(&high, &h1, 1, 2, 1));
    assert_true(topk_layer_key(&high, &h1, 1, 2, 1) > topk_layer_key(&high, &h0, 0, 2, 1));
}

static void average_pool_damps_the_edges(void **state) {
    const float x[] = {3, 6, 9, 12};
    const float centred[] = {3, 6, 9, 7}, forward[] = {6, 9, 7, 4};
    float y[4];
    signal_pool(POOL_AVG, POOL_CENTRED, 3, x, 4, y);
    assert_memory_equal(y, centred, sizeof y);
    signal_pool(POOL_AVG, POOL_FORWARD, 3, x, 4, y);
    assert_memory_equal(y, forward, sizeof y);
}

static void max_pool_ignores_what_is_outside(void **state) {
    const float x[] = {-5, -1, -3, -2, -4};
    const float centred[] = {-1, -1, -1, -2, -2}, forward[] = {-1, -1, -2, -2, -4};
    float y[5];
    signal_pool(POOL_MAX, POOL_CENTRED, 3, x, 5, y);
    assert_memory_equal(y, centred, sizeof y);
    signal_pool(POOL_MAX, POOL_FORWARD, 3, x, 5, y);
    assert_memory_equal(y, forward, sizeof y);
}

static void a_pool_wider_than_the_column_sees_all_of_it(void **state) {
    const float x[] = {1, 2};
    const float max[] = {2, 2}, avg[] = {3.0f / 9, 3.0f / 9};
    float y[2];
    signal_pool(POOL_MAX, POOL_CENTRED, 9, x, 2, y);
    assert_memory_equal(y, max, sizeof y);
    signal_pool(POOL_AVG, POOL_CENTRED, 9, x, 2, y);
    assert_memory_equal(y, avg, sizeof y);
    signal_pool(POOL_NONE, POOL_CENTRED, 9, x, 2, y);
    assert_memory_equal(y, x, sizeof y);
}

static void groups_reduce_by_mean_max_and_sum(void **state) {
    const float a[] = {1, 8}, b[] = {3, 2};
    const float want[][2] = {{2, 5}, {3, 8}, {4, 10}};
    for (int g = GROUP_MEAN; g <= GROUP_SUM; g++) {
        float y[2];
        signal_group_add((group_kind)g, 0, a, 2, y);
        signal_group_add((group_kind)g, 1, b, 2, y);
        signal_group_finish((group_kind)g, 2, 2, y);
        assert_memory_equal(y, want[g], sizeof y);
    }
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_threshold_is_the_kth_largest_key),
        cmocka_unit_test(the_items_of_the_lowest_keys_are_dropped),
        cmocka_unit_test(keys_order_scores_as_numbers),
        cmocka_unit_test(forced_items_rank_above_any_score_and_protected_above_them),
        cmocka_unit_test(ties_fall_to_the_lower_position_or_the_higher_one),
        cmocka_unit_test(average_pool_damps_the_edges),
        cmocka_unit_test(max_pool_ignores_what_is_outside),
        cmocka_unit_test(a_pool_wider_than_the_column_sees_all_of_it),
        cmocka_unit_test(groups_reduce_by_mean_max_and_sum),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
