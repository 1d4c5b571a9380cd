/* What a head's output loses: the curve against attention recomputed over what is left, and gains along the hull. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "run/heads_loss.h"
#include "tests/support/seed.h"

enum { N = 200, EXTRA = 9, ROWS = 3, D = 16, OUT = 24 };

static float k[N + EXTRA][D], v[N + EXTRA][D], q[ROWS][2 * D], o[ROWS][2 * D], lse[ROWS], wo[OUT][D];
static const double scale = 0.25;

/* Attention of row r, which does not see the first `hidden` + r items, over those that stay; log-sum-exp of its logits. */
static double attend(int r, const bool *stays, int hidden, double *out) {
    double sum = 0;
    memset(out, 0, D * sizeof *out);
    for (int i = 0; i < N + EXTRA; i++) {
        double logit = 0;
        for (int c = 0; c < D; c++) logit += (double)q[r][c] * (double)k[i][c];
        double p = stays[i] && (!hidden || i >= hidden + r) ? exp(logit * scale) : 0;
        sum += p;
        for (int c = 0; c < D; c++) out[c] += p * (double)v[i][c];
    }
    for (int c = 0; c < D; c++) out[c] /= sum;
    return log(sum);
}

static double loss_of(const bool *stays, int hidden) {
    bool all[N + EXTRA];
    double sum = 0, full[D], left[D];
    memset(all, true, sizeof all);
    for (int r = 0; r < ROWS; r++) {
        attend(r, all, hidden, full);
        attend(r, stays, hidden, left);
        for (int i = 0; i < OUT; i++) {
            double x = 0;
            for (int c = 0; c < D; c++) x += (double)wo[i][c] * (left[c] - full[c]);
            sum += x * x / ROWS;
        }
    }
    return sum;
}

static void a_curve_is_attention_over_what_is_left(void **state) {
    rng r = rng_make(seed_get(), 1);
    for (int round = 0; round < 6; round++) {
        int hidden = round % 2 ? 40 : 0; /* a window, in every second round */
        bool all[N + EXTRA], stays[N + EXTRA];
        int order[N];
        double full[D], curve[LOSS_STEPS + 1] = {0};
        memset(all, true, sizeof all);
        for (int i = 0; i < N + EXTRA; i++)
            for (int c = 0; c < D; c++) k[i][c] = rng_normal(&r), v[i][c] = rng_normal(&r);
        for (int i = 0; i < ROWS; i++)
            for (int c = 0; c < 2 * D; c++) q[i][c] = 2 * rng_normal(&r);
        for (int i = 0; i < OUT; i++)
            for (int c = 0; c < D; c++) wo[i][c] = c == 3 ? 0 : rng_normal(&r); /* a channel that nothing reads */
        for (int i = 0; i < ROWS; i++) {
            lse[i] = (float)attend(i, all, hidden, full);
            for (int c = 0; c < D; c++) o[i][c] = (float)full[c];
        }
        for (int i = 0; i < N; i++) order[i] = i;
        for (int i = N - 1; i > 0; i--) {
            int j = (int)rng_below(&r, (uint32_t)i + 1), t = order[i];
            order[i] = order[j];
            order[j] = t;
        }
        loss_head h = {.n_items = N, .n_rows = ROWS, .d = D, .order = order, .k = k[0], .v = v[0], .q = q[0], .o = o[0], .ld = 2 * D, .lse = lse,
                       .window = hidden ? N + EXTRA + 1 - hidden : 0, .next = N + EXTRA, .wo = wo[0], .n_out = OUT, .scale = scale};
        assert_int_equal(heads_loss_curve(&h, curve), OK);
        for (int j = 0; j <= LOSS_STEPS; j++) {
            memset(stays, true, sizeof stays);
            for (int i = 0; i < N - N * j / LOSS_STEPS; i++) stays[order[i]] = false;
            double want = loss_of(stays, hidden);
            if (fabs(curve[j] - want) > 1e-4 * want + 1e-9) fail_msg("with %d of %d steps left: %g instead of %g", j, LOSS_STEPS, curve[j], want);
        }
    }
}

static void gains_follow_the_lower_hull(void **state) {
    rng r = rng_make(seed_get(), 2);
    for (int round = 0; round < 50; round++) {
        double curve[LOSS_STEPS + 1], gain[LOSS_STEPS], x = 0;
        for (int j = LOSS_STEPS; j >= 0; j--) curve[j] = x, x += rng_uniform(&r) < 0.3 ? 0 : rng_uniform(&r) * (LOSS_STEPS - j);
        if (round % 5 == 0) curve[40] += 100; /* not even falling */
        heads_loss_gains(curve, gain);
        double at = curve[0];
        for (int j = 0; j < LOSS_STEPS; j++) {
            double lowest = curve[j]; /* of all chords over j */
            for (int a = 0; a < j; a++)
                for (int b = j + 1; b <= LOSS_STEPS; b++) lowest = fmin(lowest, curve[a] + (curve[b] - curve[a]) * (j - a) / (b - a));
            assert_true(fabs(at - lowest) < 1e-6 * (1 + curve[0]));
            at -= gain[j];
            assert_true(j == 0 || gain[j] <= gain[j - 1] + 1e-9 * curve[0]);
        }
        assert_true(fabs(at - curve[LOSS_STEPS]) < 1e-6 * (1 + curve[0]));
    }
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_curve_is_attention_over_what_is_left), cmocka_unit_test(gains_follow_the_lower_hull)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
