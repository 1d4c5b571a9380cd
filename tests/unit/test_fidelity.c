/* KL, agreement and likelihoods of two rows of logits against sums in long double and against cases worked out by hand.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/mem.h"
#include "base/rng.h"
#include "stats/stats.h"
#include "tests/support/seed.h"

static void close_to(double x, double expected, double tolerance) {
    if (!(fabs(x - expected) <= tolerance)) fail_msg("%.17g is not within %g of %.17g", x, tolerance, expected);
}

static long double log_sum(const float *x, int n) {
    long double m = x[0], s = 0;
    for (int i = 1; i < n; i++) m = x[i] > m ? x[i] : m;
    for (int i = 0; i < n; i++) s += expl(x[i] - m);
    return m + logl(s);
}

static void equals_sums_in_long_double(void **state) {
    for (int t = 0; t < 60; t++) {
        rng r = rng_make(seed_get(), (uint64_t)t);
        int n = 1 + (int)rng_below(&r, t % 4 ? 300 : 5000);
        float *p, *q, spread = (float[]){0.1f, 3, 30, 600}[t % 4];
        assert_int_equal(mem_alloc(MEM_OTHER, (size_t)n * sizeof *p, &p), OK);
        assert_int_equal(mem_alloc(MEM_OTHER, (size_t)n * sizeof *q, &q), OK);
        for (int i = 0; i < n; i++) {
            p[i] = spread * rng_normal(&r);
            q[i] = p[i] + 0.3f * rng_normal(&r);
        }
        long double lp = log_sum(p, n), lq = log_sum(q, n), kl = 0;
        for (int i = 0; i < n; i++) kl += expl(p[i] - lp) * ((p[i] - lp) - (q[i] - lq));
        int next = (int)rng_below(&r, (uint32_t)n);
        fidelity f;
        fidelity_of(p, q, n, next, &f);
        close_to(f.kl, (double)(kl < 0 ? 0 : kl), 1e-12 + 1e-11 * fabs((double)kl));
        close_to(f.nll_p, (double)(lp - p[next]), 1e-12 * (1 + fabs((double)lp)));
        close_to(f.nll_q, (double)(lq - q[next]), 1e-12 * (1 + fabs((double)lq)));
        assert_true(nll_of(p, n, next) == f.nll_p);
        mem_free(p);
        mem_free(q);
    }
}

static void equal_rows_give_exact_zero(void **state) {
    float x[1003];
    rng r = rng_make(seed_get(), 1000);
    for (int i = 0; i < 1003; i++) x[i] = 5 * rng_normal(&r);
    fidelity f;
    fidelity_of(x, x, 1003, 3, &f);
    assert_true(f.kl == 0 && f.top1 && f.top5 == 1 && f.nll_p == f.nll_q);
    fidelity_of(x, x, 1003, -1, &f);
    assert_true(isnan(f.nll_p) && isnan(f.nll_q));
}

static void kl_by_hand(void **state) {
    /* p = (1/2, 1/2), q = (3/4, 1/4): KL = ln 2 - (ln 3) / 2; adding a constant to a row changes nothing. */
    float p[] = {7, 7}, q[] = {(float)log(3.0), 0};
    fidelity f;
    fidelity_of(p, q, 2, 1, &f);
    close_to(f.kl, log(2.0) - 0.5 * log(3.0), 1e-7);
    close_to(f.nll_p, log(2.0), 1e-15);
    close_to(f.nll_q, log(4.0), 1e-7);
    assert_true(f.top1); /* equal logits: the lower id */
    fidelity back;
    fidelity_of(q, p, 2, 1, &back);
    close_to(back.kl, 0.75 * log(1.5) + 0.25 * log(0.5), 1e-7); /* not symmetric */
}

static void top_five_overlap(void **state) {
    float p[] = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, q[] = {5, 6, 7, 8, 9, 0, 1, 2, 3, 4},
          r[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    fidelity f;
    fidelity_of(p, q, 10, -1, &f);
    assert_true(f.top5 == 1 && !f.top1);
    fidelity_of(p, r, 10, -1, &f);
    assert_true(f.top5 == 0 && !f.top1);
    float s[] = {9, 8, 0, 0, 0, 1, 1, 1, 0, 0}; /* top five: 0 1 5 6 7 */
    fidelity_of(p, s, 10, -1, &f);
    close_to(f.top5, 2.0 / 5, 0);
    assert_true(f.top1);
    float ties[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}; /* top five: 0 1 2 3 4 */
    fidelity_of(p, ties, 10, -1, &f);
    assert_true(f.top5 == 1 && f.top1);
    float three[] = {1, 2, 3};
    fidelity_of(three, three, 3, 0, &f);
    assert_true(f.top5 == 1); /* fewer entries than five */
}

static void argmax_takes_the_lowest_id(void **state) {
    float x[] = {0, 3, -1, 3, 2, 3, 1, 3, 3, 0, 3};
    assert_int_equal(argmax_of(x, 11), 1);
    float y[20] = {0};
    y[19] = 1e-30f;
    assert_int_equal(argmax_of(y, 20), 19);
    float z[] = {-INFINITY, -5, -INFINITY};
    assert_int_equal(argmax_of(z, 3), 1);
}

static void extreme_and_broken_logits(void **state) {
    float p[] = {0, -1000, -200000, 3e4f}, q[] = {0, -1000, 200000, 3e4f}, bad[] = {0, NAN, 1, 2};
    fidelity f;
    fidelity_of(p, p, 4, 0, &f);
    assert_true(f.kl == 0);
    close_to(f.nll_p, 3e4, 1e-9);
    fidelity_of(p, q, 4, 3, &f);
    close_to(f.kl, 170000, 1e-6);
    close_to(f.nll_q, 170000, 1e-6);
    fidelity_of(p, bad, 4, 0, &f);
    assert_true(isnan(f.kl) && isnan(f.nll_q)); /* never a plausible number */
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_sums_in_long_double),
        cmocka_unit_test(equal_rows_give_exact_zero),
        cmocka_unit_test(kl_by_hand),
        cmocka_unit_test(top_five_overlap),
        cmocka_unit_test(argmax_takes_the_lowest_id),
        cmocka_unit_test(extreme_and_broken_logits),
    };
    return seed_end(cmocka_run_group_tests_name("fidelity", tests, NULL, NULL));
}
