/* Plans of random cases, carried out on arrays and compared with a naive model of lists. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "format/plan.h"
#include "tests/support/seed.h"

enum { MAX_TIER = 60, MAX_ITEMS = MAX_TIER * KV_MAX_TIERS, FREE = -1 };

/* What the tier must hold at the end, by the rule of the header: stayers at their slots, holes filled from the tail,
 * then incomers. */
static int model_tier(const int *n, const uint8_t *target, int t, int *out) {
    int start = 0, n_stay = 0, len = 0;
    for (int u = 0; u < t; u++) start += n[u];
    for (int i = 0; i < n[t]; i++) n_stay += target[start + i] == t;
    int tail[MAX_TIER], n_tail = 0, used = 0;
    for (int i = n_stay; i < n[t]; i++) {
        if (target[start + i] == t) tail[n_tail++] = start + i;
    }
    for (int i = 0; i < n_stay; i++) out[len++] = target[start + i] == t ? start + i : tail[used++];
    assert_int_equal(used, n_tail);
    for (int i = 0; i < start; i++) {
        if (target[i] == t) out[len++] = i;
    }
    return len;
}

static void random_plans_do_what_the_lists_say(void **state) {
    rng r = rng_make(seed_get(), 1);
    for (int round = 0; round < 20000; round++) {
        int n_tiers = 1 + (int)rng_below(&r, KV_MAX_TIERS), n[KV_MAX_TIERS], total = 0;
        uint8_t target[MAX_ITEMS + 1];
        uint32_t drop = rng_below(&r, 101), sink = rng_below(&r, 101);
        for (int t = 0; t < n_tiers; t++) {
            n[t] = (int)rng_below(&r, rng_below(&r, 4) ? MAX_TIER : 4);
            for (int i = 0; i < n[t]; i++) {
                uint8_t to = (uint8_t)t;
                if (rng_below(&r, 100) < sink) to = (uint8_t)(t + (int)rng_below(&r, (uint32_t)(n_tiers - t)));
                target[total++] = rng_below(&r, 100) < drop ? KV_DROP : to;
            }
        }
        plan_move *moves = malloc((size_t)total * sizeof *moves + 1); /* room for n_items entries, not more */
        assert_non_null(moves);
        plan p = {.moves = moves};
        plan_moves(n, n_tiers, target, &p);
        assert_in_range(p.n_moves, 0, total);

        /* rooms of exactly the size that may be used in between; every slot holds an item or is free */
        int room[KV_MAX_TIERS], *tier[KV_MAX_TIERS], item = 0;
        for (int t = 0; t < n_tiers; t++) {
            room[t] = n[t] > p.n_after[t] ? n[t] : p.n_after[t];
            tier[t] = malloc((size_t)room[t] * sizeof **tier + 1);
            for (int i = 0; i < room[t]; i++) tier[t][i] = i < n[t] ? item++ : FREE;
            for (int i = 0; i < n[t]; i++) {
                if (target[tier[t][i]] == KV_DROP) tier[t][i] = FREE;
            }
        }
        uint8_t moved[MAX_ITEMS] = {0};
        for (int i = 0; i < p.n_moves; i++) {
            plan_move m = moves[i];
            assert_true(m.from_tier <= m.to_tier && m.to_tier < n_tiers);
            assert_true((int)m.from_slot < room[m.from_tier] && (int)m.to_slot < room[m.to_tier]);
            int what = tier[m.from_tier][m.from_slot];
            assert_int_not_equal(what, FREE);
            assert_int_equal(tier[m.to_tier][m.to_slot], FREE); /* never over an item still needed */
            assert_int_equal(target[what], m.to_tier);
            assert_int_equal(moved[what]++, 0);
            tier[m.to_tier][m.to_slot] = what;
            tier[m.from_tier][m.from_slot] = FREE;
        }
        for (int t = 0; t < n_tiers; t++) {
            int want[MAX_ITEMS], len = model_tier(n, target, t, want);
            assert_int_equal(p.n_after[t], len);
            for (int i = 0; i < room[t]; i++) assert_int_equal(tier[t][i], i < len ? want[i] : FREE);
            free(tier[t]);
        }
        free(moves);
    }
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_plans_do_what_the_lists_say)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
