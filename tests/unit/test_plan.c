/* The move planner on cases worked out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "format/plan.h"

enum { X = KV_DROP, MAX = 32 };

static void expect(const int *n, int n_tiers, const uint8_t *target, const int *n_after, const plan_move *moves,
                   int n_moves) {
    plan_move buf[MAX];
    plan p = {.moves = buf};
    plan_moves(n, n_tiers, target, &p);
    assert_int_equal(p.n_moves, n_moves);
    for (int t = 0; t < n_tiers; t++) assert_int_equal(p.n_after[t], n_after[t]);
    for (int i = 0; i < n_moves; i++) {
        assert_int_equal(buf[i].from_tier, moves[i].from_tier);
        assert_int_equal(buf[i].to_tier, moves[i].to_tier);
        assert_int_equal(buf[i].from_slot, moves[i].from_slot);
        assert_int_equal(buf[i].to_slot, moves[i].to_slot);
    }
}

static void nothing_moves_when_all_stay(void **state) {
    expect((int[]){4}, 1, (uint8_t[]){0, 0, 0, 0}, (int[]){4}, NULL, 0);
    expect((int[]){2, 0, 1}, 3, (uint8_t[]){0, 0, 2}, (int[]){2, 0, 1}, NULL, 0);
    expect((int[]){0, 0}, 2, (uint8_t[]){0}, (int[]){0, 0}, NULL, 0);
}

static void holes_are_filled_from_the_tail(void **state) {
    expect((int[]){6}, 1, (uint8_t[]){0, X, X, 0, 0, 0}, (int[]){4}, (plan_move[]){{0, 0, 4, 1}, {0, 0, 5, 2}}, 2);
    expect((int[]){6}, 1, (uint8_t[]){X, 0, 0, X, X, 0}, (int[]){3}, (plan_move[]){{0, 0, 5, 0}}, 1);
    expect((int[]){4}, 1, (uint8_t[]){0, 0, X, X}, (int[]){2}, NULL, 0);
    expect((int[]){3}, 1, (uint8_t[]){X, X, X}, (int[]){0}, NULL, 0);
}

static void tier_changes_are_appended_in_column_order(void **state) {
    /* tier 0: a b c d, tier 1: e f g; b and d sink, f is dropped: tier 1 becomes e g b d */
    expect((int[]){4, 3}, 2, (uint8_t[]){0, 1, 0, 1, 1, X, 1}, (int[]){2, 4},
           (plan_move[]){{1, 1, 2, 1}, {0, 1, 1, 2}, {0, 1, 3, 3}, {0, 0, 2, 1}}, 4);
}

static void three_tiers_chain(void **state) {
    /* tier 0: a b, tier 1: c d, tier 2: e; a sinks to 2, b to 1, c to 2, e is dropped: 1 = d b, 2 = a c */
    expect((int[]){2, 2, 1}, 3, (uint8_t[]){2, 1, 2, 1, X}, (int[]){0, 2, 2},
           (plan_move[]){{1, 2, 0, 1}, {1, 1, 1, 0}, {0, 2, 0, 0}, {0, 1, 1, 1}}, 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_moves_when_all_stay),
        cmocka_unit_test(holes_are_filled_from_the_tail),
        cmocka_unit_test(tier_changes_are_appended_in_column_order),
        cmocka_unit_test(three_tiers_chain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
