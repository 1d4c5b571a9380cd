/* Next-token choice: greedy, and draws whose frequencies follow the distribution that the options leave. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "text/sampler.h"

enum { N = 6, DRAWS = 40000 };

static const float logits[N] = {0, 2, 1, 3, 2, -1};

static sampler *make(sampler_conf c, int n) {
    sampler *s = NULL;
    if (sampler_create(c, n, &s)) fail_msg("%s", err_text());
    return s;
}

static int32_t draw_once(sampler_conf c, const float *x, int n) {
    sampler *s = make(c, n);
    int32_t id = sampler_next(s, x);
    sampler_destroy(s);
    return id;
}

static void greedy_takes_the_best_and_the_lower_of_equals(void **state) {
    assert_int_equal(draw_once((sampler_conf){0}, logits, N), 3);
    assert_int_equal(draw_once((sampler_conf){0}, (float[]){1, 5, 5, 2}, 4), 1);
    assert_int_equal(draw_once((sampler_conf){0}, (float[]){7}, 1), 0);
}

static void values_that_are_no_numbers_never_win(void **state) {
    const float nan_first[] = {NAN, -5, NAN, -4}, all_nan[] = {NAN, NAN}, inf[] = {1, INFINITY, 3},
                none[] = {-INFINITY, -INFINITY};
    for (int k = 0; k < 3; k++) {
        sampler_conf c = {.temperature = k ? 1 : 0, .top_p = k == 2 ? 0.5f : 0, .seed = seed_get()};
        assert_int_equal(draw_once(c, all_nan, 2), 0);
        assert_int_equal(draw_once(c, inf, 3), 1);
        assert_int_equal(draw_once(c, none, 2), 0);
        for (int i = 0; i < 200; i++, c.seed++) assert_int_equal(draw_once(c, nan_first, 4) % 2, 1);
    }
    assert_int_equal(draw_once((sampler_conf){0}, nan_first, 4), 3);
    sampler *s = make((sampler_conf){.temperature = 1, .seed = seed_get()}, 3);
    for (int i = 0; i < 200; i++) assert_int_not_equal(sampler_next(s, (float[]){0, -INFINITY, 0}), 1);
    sampler_destroy(s);
}

/* Frequencies of many draws against the weights exp(logit / T) of the tokens in `kept`. */
static void assert_follows(sampler_conf c, const char *kept) {
    int count[N] = {0};
    double total = 0;
    c.seed = seed_get();
    sampler *s = make(c, N);
    for (int i = 0; i < DRAWS; i++) count[sampler_next(s, logits)]++;
    sampler_destroy(s);
    for (int i = 0; i < N; i++)
        if (strchr(kept, '0' + i)) total += exp((double)logits[i] / (double)c.temperature);
    for (int i = 0; i < N; i++) {
        double p = strchr(kept, '0' + i) ? exp((double)logits[i] / (double)c.temperature) / total : 0;
        double slack = 6 * sqrt(DRAWS * p * (1 - p)); /* six standard deviations; none where p is 0 */
        if (fabs(count[i] - DRAWS * p) > slack)
            fail_msg("token %d drawn %d times, expected %.0f", i, count[i], DRAWS * p);
    }
}

static void draws_follow_the_temperature(void **state) {
    assert_follows((sampler_conf){.temperature = 1}, "012345");
    assert_follows((sampler_conf){.temperature = 0.5f}, "012345");
    assert_follows((sampler_conf){.temperature = 3, .top_k = 100, .top_p = 1}, "012345");
}

static void top_k_keeps_the_best_and_the_lower_of_equals(void **state) {
    assert_follows((sampler_conf){.temperature = 1, .top_k = 1}, "3");
    assert_follows((sampler_conf){.temperature = 1, .top_k = 2}, "31");
    assert_follows((sampler_conf){.temperature = 1, .top_k = 4}, "3142");
}

/* Shares at temperature 1: 3: 0.517, 1 and 4: 0.190, 2: 0.070, 0: 0.026, 5: 0.009. */
static void top_p_keeps_the_fewest_that_reach_it(void **state) {
    assert_follows((sampler_conf){.temperature = 1, .top_p = 0.01f}, "3");
    assert_follows((sampler_conf){.temperature = 1, .top_p = 0.5f}, "3");
    assert_follows((sampler_conf){.temperature = 1, .top_p = 0.6f}, "31");
    assert_follows((sampler_conf){.temperature = 1, .top_p = 0.9f}, "3142");
    assert_follows((sampler_conf){.temperature = 1, .top_p = 0.98f}, "31420");
}

/* Of the best three, which then share everything: 0.576, 0.212, 0.212. Without top_k 0.75 would need a third token. */
static void top_p_counts_what_top_k_left(void **state) {
    assert_follows((sampler_conf){.temperature = 1, .top_k = 3, .top_p = 0.75f}, "31");
    assert_follows((sampler_conf){.temperature = 1, .top_p = 0.75f}, "314");
    assert_follows((sampler_conf){.temperature = 1, .top_k = 2, .top_p = 0.99f}, "31");
}

static void equal_seeds_give_equal_draws(void **state) {
    enum { VOCAB = 1000, STEPS = 200 };
    static float x[VOCAB];
    rng r = rng_make(seed_get(), 3);
    const sampler_conf confs[] = {
        {.temperature = 1}, {.temperature = 0.8f, .top_k = 40}, {.temperature = 1.2f, .top_k = 100, .top_p = 0.9f}};
    for (size_t k = 0; k < sizeof confs / sizeof *confs; k++) {
        sampler_conf c = confs[k], d = confs[k];
        int differ = 0;
        c.seed = seed_get();
        d.seed = seed_get() + 1;
        sampler *a = make(c, VOCAB), *b = make(c, VOCAB), *other = make(d, VOCAB);
        for (int i = 0; i < STEPS; i++) {
            for (int j = 0; j < VOCAB; j++) x[j] = rng_normal(&r);
            int32_t id = sampler_next(a, x);
            assert_true(id >= 0 && id < VOCAB);
            assert_int_equal(sampler_next(b, x), id);
            differ += sampler_next(other, x) != id;
        }
        assert_true(differ > STEPS / 2);
        sampler_destroy(a);
        sampler_destroy(b);
        sampler_destroy(other);
    }
}

static void impossible_options_are_refused(void **state) {
    const struct {
        sampler_conf c;
        int n;
        const char *text;
    } cases[] = {{{.temperature = -1}, N, "temperature -1"},          {{.temperature = NAN}, N, "temperature"},
                 {{.temperature = INFINITY}, N, "temperature inf"},   {{.temperature = 1, .top_k = -1}, N, "top_k -1"},
                 {{.temperature = 1, .top_p = 1.5f}, N, "top_p 1.5"}, {{.temperature = 1, .top_p = NAN}, N, "top_p"},
                 {{.temperature = 0}, 0, "at least one token"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sampler *s;
        assert_int_equal(sampler_create(cases[i].c, cases[i].n, &s), ERR_USAGE);
        if (!strstr(err_text(), cases[i].text)) fail_msg("\"%s\" does not say \"%s\"", err_text(), cases[i].text);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_best_and_the_lower_of_equals),
        cmocka_unit_test(values_that_are_no_numbers_never_win),
        cmocka_unit_test(draws_follow_the_temperature),
        cmocka_unit_test(top_k_keeps_the_best_and_the_lower_of_equals),
        cmocka_unit_test(top_p_keeps_the_fewest_that_reach_it),
        cmocka_unit_test(top_p_counts_what_top_k_left),
        cmocka_unit_test(equal_seeds_give_equal_draws),
        cmocka_unit_test(impossible_options_are_refused),
    };
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
