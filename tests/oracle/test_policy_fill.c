/* RDKV-lite: water-filling against the walk over all upgrades sorted by slope, against every assignment of small cases, and on the worked
 * example; the whole stage against its formulas on random signals. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "policy/decide/fill.h"
#include "tests/support/policies.h"
#include "tests/support/seed.h"

enum { MAX_N = 60, MAX_HEADS = 6 };

typedef struct upgrade { double slope; int pos, head, step, bytes; } upgrade;
static int steepest_first(const void *a, const void *b) {
    const upgrade *x = a, *y = b;
    if (x->slope != y->slope) return x->slope < y->slope ? 1 : -1;
    return x->pos != y->pos ? x->pos - y->pos : x->head != y->head ? x->head - y->head : x->step - y->step;
}

/* Of one item: its own, where what it costs to go is its own. */
static fill_hull hull_of(const fill_head *h, int i) {
    fill_hull own = h->hull;
    double w = (double)h->weight[i] * (h->squared ? (double)h->weight[i] : 1), e[FILL_MAX_TIERS];
    for (int t = 0; t < own.n; t++) own.slope[t] *= w;
    if (!h->drop) return own;
    for (int t = 0; t < h->n_tiers; t++) e[t] = w * h->e[t];
    fill_make_hull((double)h->drop[i], e, h->bytes, h->n_tiers, &own);
    return own;
}

/* From nothing, in falling order, what fits and whose predecessor is taken. */
static int64_t walk(const fill_head *heads, int n_heads, int n, int64_t left, uint8_t taken[MAX_HEADS][MAX_N]) {
    static upgrade all[MAX_HEADS * MAX_N * FILL_MAX_TIERS];
    int count = 0;
    int64_t spent = 0;
    for (int k = 0; k < n_heads; k++)
        for (int i = 0; i < n; i++) {
            if (taken[k][i] == FILL_FIXED) continue;
            taken[k][i] = 0;
            fill_hull hull = hull_of(&heads[k], i);
            for (int t = 0; t < hull.n; t++) all[count++] = (upgrade){hull.slope[t], i, k, t, hull.bytes[t]};
        }
    qsort(all, (size_t)count, sizeof *all, steepest_first);
    for (int u = 0; u < count; u++) {
        const upgrade *x = &all[u];
        if (!(x->slope > 0) || x->bytes > left - spent || taken[x->head][x->pos] != x->step) continue;
        taken[x->head][x->pos]++;
        spent += x->bytes;
    }
    return spent;
}

static void spending_equals_the_sorted_walk(void **state) {
    rng r = rng_make(seed_get(), 1);
    for (int round = 0; round < 1500; round++) {
        int n_heads = 1 + (int)rng_below(&r, MAX_HEADS), n = 1 + (int)rng_below(&r, MAX_N), n_tiers = 1 + (int)rng_below(&r, 3);
        bool coarse = rng_below(&r, 2);
        fill_head heads[MAX_HEADS];
        float weight[MAX_HEADS][MAX_N], own[MAX_HEADS][MAX_N];
        uint8_t got[MAX_HEADS][MAX_N], want[MAX_HEADS][MAX_N];
        int bytes[3] = {64, 80, 112};
        int64_t most = 0;
        for (int k = 0; k < n_heads; k++) {
            double e[3], drop = coarse ? rng_below(&r, 4) : rng_uniform(&r) * 3;
            for (int t = 0; t < n_tiers; t++) e[t] = coarse ? rng_below(&r, 4) / 4.0 : rng_uniform(&r) / (t + 1);
            heads[k] = (fill_head){.n = n, .weight = weight[k], .squared = rng_below(&r, 2), .taken = got[k]};
            fill_make_hull(drop, e, bytes, n_tiers, &heads[k].hull);
            if (rng_below(&r, 3) == 0) { /* items that cost what they cost */
                heads[k].drop = own[k], heads[k].n_tiers = n_tiers, heads[k].hull.n = 0;
                memcpy(heads[k].e, e, sizeof e);
                memcpy(heads[k].bytes, bytes, sizeof bytes);
                for (int i = 0; i < n; i++) own[k][i] = coarse ? (float)rng_below(&r, 4) / 4 : (float)pow(rng_uniform(&r), 3);
            }
            for (int t = 1; t < heads[k].hull.n; t++) assert_true(heads[k].hull.slope[t] < heads[k].hull.slope[t - 1]);
            for (int i = 0; i < n; i++) {
                weight[k][i] = coarse ? (float)rng_below(&r, 3) / 2 : (float)pow(rng_uniform(&r), 3);
                got[k][i] = want[k][i] = rng_below(&r, 8) ? 0 : FILL_FIXED;
                most += 112;
            }
        }
        int64_t budget = rng_below(&r, (uint32_t)most + 50), spent = fill_spend(heads, n_heads, budget);
        int64_t walked = walk(heads, n_heads, n, budget, want);
        assert_true(spent <= budget && spent == walked);
        for (int k = 0; k < n_heads; k++)
            for (int i = 0; i < n; i++)
                if (got[k][i] != want[k][i]) fail_msg("round %d: head %d item %d took %d upgrades instead of %d", round, k, i, got[k][i], want[k][i]);
    }
}

/* (e drop, e k4v2, e k8v4) = (2, .30, .02) and (.5, .30, .02), a = (.40, .25, .15, .10) and (.40, .25): reference example, exact optima. */
static void the_worked_example(void **state) {
    static const int bytes[] = {64, 112};
    static const struct { int64_t budget, spent; uint8_t taken[2][4]; } cases[] = {
        {400, 400, {{2, 2, 1, 0}, {1, 0, 0, 0}}}, {450, 448, {{2, 2, 2, 0}, {1, 0, 0, 0}}}, {480, 464, {{2, 2, 1, 1}, {1, 0, 0, 0}}}};
    const double e0[] = {.30, .02}, e1[] = {.30, .02};
    float a0[] = {.40f, .25f, .15f, .10f}, a1[] = {.40f, .25f, 0, 0};
    uint8_t taken[2][4];
    fill_head heads[2] = {{.n = 4, .weight = a0, .squared = true, .taken = taken[0]}, {.n = 4, .weight = a1, .squared = true, .taken = taken[1]}};
    fill_make_hull(2, e0, bytes, 2, &heads[0].hull);
    fill_make_hull(.5, e1, bytes, 2, &heads[1].hull);
    assert_int_equal(heads[0].hull.n, 2);
    assert_int_equal(heads[1].hull.n, 1); /* k4v2 lies above the line from nothing to k8v4 */
    assert_true(fabs(heads[0].hull.slope[0] - .0265625) < 1e-12 && fabs(heads[0].hull.slope[1] - .00583333333) < 1e-10);
    assert_true(fabs(heads[1].hull.slope[0] - .00428571429) < 1e-10 && heads[1].hull.tier[0] == 1);
    for (int c = 0; c < 3; c++) {
        memset(taken, 0, sizeof taken);
        taken[1][2] = taken[1][3] = FILL_FIXED; /* the second head has two items */
        assert_int_equal(fill_spend(heads, 2, cases[c].budget), cases[c].spent);
        for (int k = 0; k < 2; k++)
            for (int i = 0; i < (k ? 2 : 4); i++) assert_int_equal(taken[k][i], cases[c].taken[k][i]);
    }
}

/* Within lambda * (what upgrades above lambda leave of the budget) of the best of all assignments, lambda being the steepest upgrade not
 * taken; nothing below it. */
static void small_cases_are_near_the_best_of_all_assignments(void **state) {
    rng r = rng_make(seed_get(), 2);
    for (int round = 0; round < 300; round++) {
        enum { N = 6 };
        int bytes[] = {64, 112};
        double e[2], drop = rng_uniform(&r) * 2, best = INFINITY, have = 0, steepest = 0;
        float a[N], own[N];
        bool each = round % 2; /* what an item costs that goes is its own */
        uint8_t taken[N] = {0};
        e[0] = rng_uniform(&r) * drop, e[1] = rng_uniform(&r) * e[0];
        for (int i = 0; i < N; i++) a[i] = (float)rng_uniform(&r), own[i] = (float)((double)a[i] * (double)a[i] * (each ? 2 * rng_uniform(&r) : 1) * drop);
        fill_head h = {.n = N, .weight = a, .squared = true, .taken = taken};
        if (each) h.drop = own, h.n_tiers = 2, memcpy(h.e, e, sizeof e), memcpy(h.bytes, bytes, sizeof bytes);
        else fill_make_hull(drop, e, bytes, 2, &h.hull);
        int64_t budget = rng_below(&r, N * 112 + 1), spent = fill_spend(&h, 1, budget);
        for (int code = 0; code < 729; code++) {
            double d = 0;
            int64_t b = 0;
            for (int i = 0, x = code; i < N; i++, x /= 3) {
                d += x % 3 == 0 ? (each ? (double)own[i] : (double)a[i] * (double)a[i] * drop) : (double)a[i] * (double)a[i] * e[x % 3 - 1];
                b += x % 3 == 0 ? 0 : bytes[x % 3 - 1];
            }
            if (b <= budget && d < best) best = d;
        }
        for (int i = 0; i < N; i++) {
            double w = (double)a[i] * (double)a[i];
            fill_hull hull = hull_of(&h, i);
            have += taken[i] == 0 ? (each ? (double)own[i] : w * drop) : w * e[fill_tier(&h, i)];
            if (taken[i] < hull.n) steepest = fmax(steepest, hull.slope[taken[i]]); /* what one more byte would have saved */
        }
        int64_t certain = 0; /* bytes of the upgrades above that slope, all taken */
        for (int i = 0; i < N; i++) {
            fill_hull hull = hull_of(&h, i);
            for (int t = 0; t < hull.n && hull.slope[t] > steepest; t++) certain += hull.bytes[t];
        }
        assert_true(have >= best - 1e-12 && certain <= spent);
        if (have > best + steepest * (double)(budget - certain) + 1e-9)
            fail_msg("round %d: distortion %g, best %g, %g per byte, %d bytes beyond the certain", round, have, best, steepest, (int)(budget - certain));
    }
}

/* ---- the stage ---- */

static double mean_at(const float *x, int group, int n, int i, int rows) {
    double s = 0;
    for (int m = 0; m < group; m++) s += (double)x[m * n + i];
    return s / (group * (double)rows);
}

static void the_stage_equals_its_formulas(void **state) {
    rng r = rng_make(seed_get(), 3);
    for (int round = 0; round < 300; round++) {
        int n_layers = 1 + (int)rng_below(&r, 2), n_kv = 1 + (int)rng_below(&r, 3), group = 1 + (int)rng_below(&r, 3), n = 1 + (int)rng_below(&r, MAX_N);
        int weight = (int)rng_below(&r, 2), values_only = (int)rng_below(&r, 2), per_layer = (int)rng_below(&r, 2), hot = (int)rng_below(&r, 2), each = (int)rng_below(&r, 2), rows = n < 20 ? n : 20;
        int sink = (int)rng_below(&r, 3), recent = (int)rng_below(&r, 9), n_heads = n_layers * n_kv;
        double share = 0.02 + 0.5 * rng_uniform(&r);
        char yaml[500];
        snprintf(yaml, sizeof yaml, "{budget: {bytes: %.17g}, decide: {water_filling: {rows: 20, weight: %s, key_term: %s, scope: %s, drop: %s}}, protect: {sink: %d, recent: %d}, tiers: [%sk8v4, k4v2]}",
                 share, weight ? "square_mass" : "mass_squared", values_only ? "none" : "isotropic", per_layer ? "layer" : "sequence", each ? "item" : "head", sink, recent, hot ? "f16, " : "");
        policy_shape shape = {.n_layers = n_layers, .n_heads = n_kv * group, .n_kv = n_kv, .head_dim = 64, .context = 256};
        policy *p = policy_from_text(shape, yaml);
        const policy_needs *needs = policy_get_needs(p);
        static float signal[2][POLICY_MAX_SIGNALS][3 * 3 * MAX_N];
        static uint8_t target[2][3 * MAX_N];
        policy_layer layers[2];
        for (int l = 0; l < n_layers; l++) {
            layers[l] = (policy_layer){.layer = l, .n = n, .target = target[l]};
            for (int s = 0; s < needs->n_signals; s++) {
                for (int i = 0; i < n_kv * group * n; i++) signal[l][s][i] = (float)(pow(rng_uniform(&r), 3) + (rng_below(&r, 9) == 0 ? 0 : 1e-3));
                layers[l].signal[s] = signal[l][s];
            }
        }
        policy_state *st;
        assert_int_equal(policy_state_create(p, 1, &st), OK);
        assert_int_equal(policy_prefill(p, st, layers, n_layers), OK);
        fill_head heads[MAX_HEADS];
        float w[MAX_HEADS][MAX_N], own[MAX_HEADS][MAX_N];
        uint8_t want[MAX_HEADS][MAX_N];
        double item[3], page[3], smallest = INFINITY, total = share * n * 64 * 4 * n_heads;
        for (int t = 0; t < needs->n_tiers; t++) {
            page_layout y;
            assert_int_equal(page_layout_make(needs->tiers[t], 64, 0, false, 8192, &y), OK);
            item[t] = y.payload_bytes + y.meta_bytes;
            page[t] = y.cap * item[t];
            smallest = fmin(smallest, page[t]);
        }
        for (int k = 0; k < n_heads; k++) {
            int l = k / n_kv, h = k % n_kv, q = h * group * n, free_items = 0, at = 0;
            const float *mass = signal[l][at++], *square = signal[l][at++], *change = signal[l][at++], *spread = NULL, *query = NULL, *ek[3] = {NULL}, *ev[3] = {NULL};
            if (!values_only) spread = signal[l][at++], query = signal[l][at++];
            for (int t = hot; t < hot + 2; t++) {
                if (!values_only) ek[t] = signal[l][at++];
                ev[t] = signal[l][at++];
            }
            double a2 = 0, m1 = 0, s1 = 0, sp = 0, qq = 0, key[3] = {0}, value[3] = {0}, e[2];
            for (int i = 0; i < n; i++) {
                double a = mean_at(mass + q, group, n, i, rows), m = mean_at(square + q, group, n, i, rows);
                w[k][i] = (float)(weight ? m : a);
                want[k][i] = i < sink || i >= n - recent ? FILL_FIXED : 0;
                if (want[k][i]) continue;
                free_items++, a2 += a * a, m1 += m, s1 += mean_at(change + q, group, n, i, rows);
                own[k][i] = (float)mean_at(change + q, group, n, i, rows);
                if (!values_only) sp += mean_at(spread + q, group, n, i, rows);
                for (int t = hot; t < hot + 2; t++) value[t] += (double)ev[t][h * n + i], key[t] += values_only ? 0 : (double)ek[t][h * n + i];
            }
            for (int i = 0; i < rows && !values_only; i++) qq += mean_at(query + q, group, n, i, rows);
            heads[k] = (fill_head){.weight = w[k], .squared = !weight};
            if (!free_items) continue;
            double kappa = weight ? 1 : m1 / a2, c = values_only ? 0 : qq * (sp / m1) / (64 * 64);
            int bytes[2] = {(int)item[hot + 1], (int)item[hot]};
            for (int b = 0; b < 2; b++) e[b] = kappa * (value[hot + 1 - b] / free_items + c * (key[hot + 1 - b] / free_items));
            if (each) heads[k].drop = own[k], heads[k].n_tiers = 2, memcpy(heads[k].e, e, sizeof e), memcpy(heads[k].bytes, bytes, sizeof bytes);
            else fill_make_hull(s1 / (weight ? m1 : a2), e, bytes, 2, &heads[k].hull);
        }
        int step = per_layer ? n_kv : n_heads;
        for (int k0 = 0; k0 < n_heads; k0 += step) {
            double all = total * step / n_heads, left = all - (step * (768.0 / n_heads + needs->n_tiers * 40.0) + 4.25 * all / smallest);
            for (int k = k0; k < k0 + step; k++)
                for (int i = 0; i < n; i++)
                    if (want[k][i]) left -= i >= n - recent ? item[0] : item[hot];
            walk(heads + k0, step, n, left > 0 ? (int64_t)left : 0, want + k0);
        }
        for (int k = 0; k < n_heads; k++)
            for (int i = 0; i < n; i++) {
                int t = want[k][i] == FILL_FIXED ? (i >= n - recent ? 0 : hot) : want[k][i] == 0 ? KV_DROP : hot + 1 - hull_of(&heads[k], i).tier[want[k][i] - 1];
                if (target[k / n_kv][k % n_kv * n + i] != t)
                    fail_msg("round %d: head %d position %d of %d goes to %d instead of %d\n%s", round, k, i, n, target[k / n_kv][k % n_kv * n + i], t, yaml);
            }
        policy_state_destroy(st);
        policy_destroy(p);
    }
}

static void what_cannot_be_spent_is_refused(void **state) {
    assert_policy_refused("{decide: water_filling, tiers: [k8v4, k4v2]}", 1, "water_filling|bytes");
    assert_policy_refused("{budget: 0.5, decide: water_filling, tiers: [k8v4, k4v2]}", 1, "water_filling|bytes");
    assert_policy_refused("{budget: {bytes: 0.5}, decide: water_filling, tiers: [k8v4, k4v2], trigger: {every: 4}}", 1, "water_filling|slack and every");
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(spending_equals_the_sorted_walk), cmocka_unit_test(the_worked_example),
                                       cmocka_unit_test(small_cases_are_near_the_best_of_all_assignments), cmocka_unit_test(the_stage_equals_its_formulas),
                                       cmocka_unit_test(what_cannot_be_spent_is_refused)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
