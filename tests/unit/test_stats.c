/* Bootstrap intervals, paired p-values, Holm, verdicts, quantiles: against values that can be worked out by hand, and
 * against coverage. */
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

static const stats_conf conf = {10000, 0.95, 1};
static void close_to(double x, double expected, double tolerance) {
    if (!(fabs(x - expected) <= tolerance)) fail_msg("%.17g is not within %g of %.17g", x, tolerance, expected);
}

static bool same_interval(interval a, interval b) {
    return a.n == b.n && a.mean == b.mean && a.lo == b.lo && a.hi == b.hi;
}

static void mean_of_few_records(void **state) {
    interval none = stats_mean(NULL, 0, conf);
    assert_int_equal(none.n, 0);
    assert_true(isnan(none.mean) && isnan(none.lo) && isnan(none.hi));
    double one[] = {3.5};
    interval single = stats_mean(one, 1, conf);
    assert_int_equal(single.n, 1);
    assert_true(single.mean == 3.5 && single.lo == 3.5 && single.hi == 3.5);
    /* Resampled means of {0, 1} are 0, 1/2, 1 with odds 1 : 2 : 1, so the central 95 % is everything and the central 40
     * % one point. */
    double two[] = {0, 1};
    interval wide = stats_mean(two, 2, conf), narrow = stats_mean(two, 2, (stats_conf){10000, 0.4, 1});
    assert_true(wide.mean == 0.5 && wide.lo == 0 && wide.hi == 1);
    assert_true(narrow.lo == 0.5 && narrow.hi == 0.5);
}

static void missing_records_are_left_out(void **state) {
    double with[] = {1, NAN, 2, 4, NAN, 8}, without[] = {1, 2, 4, 8};
    interval a = stats_mean(with, 6, conf), b = stats_mean(without, 4, conf);
    assert_int_equal(a.n, 4);
    assert_true(same_interval(a, b));
    double x[] = {1, 2, NAN, 5}, y[] = {0, NAN, 7, 3};
    interval d = stats_paired(x, y, 4, conf);
    assert_int_equal(d.n, 2);
    close_to(d.mean, 1.5, 0);
    double all_missing[] = {NAN, NAN};
    assert_int_equal(stats_mean(all_missing, 2, conf).n, 0);
    assert_true(isnan(stats_mean(all_missing, 2, conf).mean));
}

static void pairing_cancels_what_records_share(void **state) {
    double a[40], b[40];
    rng r = rng_make(seed_get(), 1);
    for (int i = 0; i < 40; i++) {
        b[i] = 1024 * rng_below(&r, 64); /* records differ wildly, the policies by a constant; exact in f64 */
        a[i] = b[i] + 0.25;
    }
    interval d = stats_paired(a, b, 40, conf);
    assert_true(d.mean == 0.25 && d.lo == 0.25 && d.hi == 0.25);
    /* The same indices for both columns: endpoints of two columns that differ by a constant differ by it. */
    interval ia = stats_mean(a, 40, conf), ib = stats_mean(b, 40, conf);
    close_to(ia.lo - ib.lo, 0.25, 1e-9);
    close_to(ia.hi - ib.hi, 0.25, 1e-9);
    assert_true(ib.hi - ib.lo > 1000);
}

static void seed_decides_and_repeats(void **state) {
    double x[33];
    rng r = rng_make(seed_get(), 2);
    for (int i = 0; i < 33; i++) x[i] = rng_normal(&r);
    interval a = stats_mean(x, 33, conf), b = stats_mean(x, 33, conf),
             c = stats_mean(x, 33, (stats_conf){10000, 0.95, 2});
    assert_true(same_interval(a, b));
    assert_true(a.mean == c.mean && (a.lo != c.lo || a.hi != c.hi));
    close_to(a.lo, c.lo, 0.05);
    /* All records are drawn, odd n included: the spread of resampled means is sd / sqrt(n). */
    double ss = 0;
    for (int i = 0; i < 33; i++) ss += (x[i] - a.mean) * (x[i] - a.mean);
    double half = 1.959964 * sqrt(ss / 33 / 33);
    close_to((a.hi - a.lo) / 2 / half, 1, 0.1);
}

static void intervals_cover_as_often_as_they_say(void **state) {
    int covered = 0, trials = 400, n = 40;
    for (int t = 0; t < trials; t++) {
        double x[40];
        rng r = rng_make(seed_get(), 100 + (uint64_t)t);
        for (int i = 0; i < n; i++) x[i] = 2 + rng_normal(&r);
        interval v = stats_mean(x, n, (stats_conf){1000, 0.95, (uint64_t)t});
        covered += v.lo <= 2 && 2 <= v.hi;
    }
    /* The percentile interval is a little narrow at n = 40 (about 93.8 %); 4 standard errors of 400 trials are 4.8
     * points. */
    if (covered < 0.89 * trials || covered > 0.985 * trials) fail_msg("%d of %d covered", covered, trials);
}

static void p_values_by_hand(void **state) {
    double a[] = {-1, 3}, zero[] = {0, 0}, up[12], nothing[12] = {0};
    close_to(stats_paired_p(a, zero, 2, conf), 0.5, 0.03); /* P(mean <= 0) = P(both -1) = 1/4 */
    for (int i = 0; i < 12; i++) up[i] = 1 + i;
    close_to(stats_paired_p(up, nothing, 12, conf), 2.0 / 10001, 1e-12);
    close_to(stats_paired_p(nothing, up, 12, conf), 2.0 / 10001, 1e-12);
    close_to(stats_paired_p(nothing, nothing, 12, conf), 1, 0);
    assert_true(isnan(stats_paired_p(up, nothing, 1, conf)));
}

static void holm_by_hand(void **state) {
    double p[] = {0.01, 0.04, 0.03, 0.005}; /* sorted .005 x 4, .01 x 3, .03 x 2, .04 x 1 */
    stats_holm(p, 4);
    close_to(p[3], 0.02, 1e-15);
    close_to(p[0], 0.03, 1e-15);
    close_to(p[2], 0.06, 1e-15);
    close_to(p[1], 0.06, 1e-15); /* not below its predecessor */
    double q[] = {0.5, NAN, 0.9, 0.02};
    stats_holm(q, 4);
    assert_true(isnan(q[1]));
    close_to(q[3], 0.06, 1e-15);
    close_to(q[0], 1, 0);
    close_to(q[2], 1, 0);
    double equal[] = {0.2, 0.2};
    stats_holm(equal, 2);
    close_to(equal[0], 0.4, 1e-15);
    close_to(equal[1], 0.4, 1e-15);
    stats_holm(equal, 0);
}

static void verdict_needs_an_interval_off_zero_and_off_the_noise(void **state) {
    assert_int_equal(stats_verdict((interval){0.1, -0.1, 0.3, 9}, 0), VERDICT_SAME);
    assert_int_equal(stats_verdict((interval){0.2, 0.1, 0.3, 9}, 0), VERDICT_HIGHER);
    assert_int_equal(stats_verdict((interval){-0.2, -0.3, -0.1, 9}, 0), VERDICT_LOWER);
    assert_int_equal(stats_verdict((interval){0.2, 0.1, 0.3, 9}, 0.3), VERDICT_SAME);
    assert_int_equal(stats_verdict((interval){0.2, 0.1, 0.3, 9}, 0.29), VERDICT_HIGHER);
    assert_int_equal(stats_verdict((interval){-0.2, -0.3, -0.1, 9}, 0.3), VERDICT_SAME);
    assert_int_equal(stats_verdict((interval){0.2, 0.2, 0.2, 1}, 0), VERDICT_UNKNOWN);
    assert_int_equal(stats_verdict((interval){NAN, NAN, NAN, 0}, 0), VERDICT_UNKNOWN);
    assert_int_equal(stats_verdict((interval){0, 0, 0, 5}, 0), VERDICT_SAME);
}

static void quantiles_interpolate(void **state) {
    double x[] = {40, 10, NAN, 30, 20};
    close_to(stats_quantile(x, 5, 0), 10, 0);
    close_to(stats_quantile(x, 5, 1), 40, 0);
    close_to(stats_quantile(x, 5, 0.5), 25, 1e-12);
    close_to(stats_quantile(x, 5, 0.9), 37, 1e-12);
    assert_true(x[0] == 40 && x[1] == 10); /* the caller's order stays */
    assert_true(isnan(stats_quantile(x, 0, 0.5)));
    assert_true(isnan(stats_quantile(x, 5, 1.5)));
}

static void missing_memory_gives_no_numbers(void **state) {
    double x[] = {1, 2, 3, 4}, zero[4] = {0}, p[] = {0.01, 0.02};
    mem_fail_nth(2); /* the resamples */
    interval v = stats_mean(x, 4, conf);
    mem_fail_nth(0);
    assert_true(v.mean == 2.5 && isnan(v.lo) && isnan(v.hi));
    mem_fail_nth(1);
    assert_true(isnan(stats_paired_p(x, zero, 4, conf)));
    mem_fail_nth(1);
    stats_holm(p, 2);
    mem_fail_nth(0);
    assert_true(isnan(p[0]) && isnan(p[1]));
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mean_of_few_records),
        cmocka_unit_test(missing_records_are_left_out),
        cmocka_unit_test(pairing_cancels_what_records_share),
        cmocka_unit_test(seed_decides_and_repeats),
        cmocka_unit_test(intervals_cover_as_often_as_they_say),
        cmocka_unit_test(p_values_by_hand),
        cmocka_unit_test(holm_by_hand),
        cmocka_unit_test(verdict_needs_an_interval_off_zero_and_off_the_noise),
        cmocka_unit_test(quantiles_interpolate),
        cmocka_unit_test(missing_memory_gives_no_numbers),
    };
    return seed_end(cmocka_run_group_tests_name("stats", tests, NULL, NULL));
}
