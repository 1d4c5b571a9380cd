/* Hadamard rotation: the definition, golden numbers, what rotated pages hold, and why one would want them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "format/layout.h"
#include "format/rotate.h"
#include "tests/support/seed.h"

enum { MAX_D = KV_MAX_HEAD_DIM };
static const int dims[] = {64, 80, 96, 128, 256};
enum { N_DIMS = sizeof dims / sizeof dims[0] };

static void blocks_are_the_largest_powers_of_two_that_divide(void **state) {
    static const int block[N_DIMS] = {64, 16, 32, 128, 256};
    for (int i = 0; i < N_DIMS; i++) assert_int_equal(hadamard_block(dims[i]), block[i]);
}

static void butterflies_equal_the_matrix(void **state) {
    rng r = rng_make(seed_get(), 1);
    for (int k = 0; k < N_DIMS; k++) {
        int d = dims[k], n = hadamard_block(d);
        float x[MAX_D], y[MAX_D];
        for (int i = 0; i < d; i++) x[i] = y[i] = rng_normal(&r);
        hadamard_rotate(y, d);
        for (int i = 0; i < d; i++) {
            double want = 0;
            for (int j = 0; j < n; j++) {
                double h = __builtin_parity((unsigned)(i % n & j)) ? -1 : 1;
                want += h * x[i / n * n + j] / sqrt(n);
            }
            assert_true(fabs(y[i] - want) < 1e-5);
        }
        hadamard_rotate(y, d);
        for (int i = 0; i < d; i++) assert_true(fabsf(y[i] - x[i]) < 1e-5f);
    }
}

/* baselines.md 17e */
static void golden_example(void **state) {
    float k[4] = {8, .2f, -.1f, .3f}, q[4] = {.5f, 1, -1, 2}, dot = 0;
    static const float hk[4] = {4.2f, 3.7f, 4, 4.1f}, hq[4] = {1.25f, -1.75f, .25f, 1.25f};
    hadamard_rotate(k, 4);
    hadamard_rotate(q, 4);
    for (int i = 0; i < 4; i++) {
        assert_true(fabsf(k[i] - hk[i]) < 1e-6f && fabsf(q[i] - hq[i]) < 1e-6f);
        dot += k[i] * q[i];
    }
    assert_true(fabsf(dot - 4.9f) < 1e-5f);
}

static page_layout layout(const char *name, int d) {
    kv_format f;
    page_layout l;
    assert_int_equal(kv_format_parse(name, &f), OK);
    assert_int_equal(page_layout_make(f, d, 0, false, 64 * (size_t)d, &l), OK);
    return l;
}

/* A rotated format is the plain one of rotated values, side by side. */
static void pages_hold_rotated_values(void **state) {
    static const struct {
        const char *name, *plain;
        bool k, v;
    } rows[] = {{"k4v4r", "k4v4", true, true},
                {"k8v4rk", "k8v4", true, false},
                {"k4v2rv", "k4v2", false, true},
                {"k4v2g32r", "k4v2g32", true, true}};
    rng r = rng_make(seed_get(), 2);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int e = 0; e < N_DIMS; e++) {
            int d = dims[e];
            if (strstr(rows[i].name, "g32") && d % 32) continue;
            page_layout a = layout(rows[i].name, d), b = layout(rows[i].plain, d);
            assert_int_equal(a.cap, b.cap);
            uint8_t *pa = calloc(1, a.page_bytes), *pb = calloc(1, b.page_bytes);
            float k[MAX_D], v[MAX_D];
            for (int c = 0; c < d; c++) k[c] = rng_normal(&r), v[c] = rng_normal(&r);
            page_put(&a, pa, 5, 1, k, 0, v, 0, NULL);
            if (rows[i].k) hadamard_rotate(k, d);
            if (rows[i].v) hadamard_rotate(v, d);
            page_put(&b, pb, 5, 1, k, 0, v, 0, NULL);
            assert_memory_equal(pa, pb, a.page_bytes);
            free(pa), free(pb);
        }
}

static double squared_error(const char *name, const float *k, int d) {
    page_layout l = layout(name, d);
    uint8_t *page = calloc(1, l.page_bytes);
    float got[MAX_D];
    double sum = 0;
    page_put(&l, page, 0, 1, k, 0, k, 0, NULL);
    page_get(&l, page, 0, got, NULL);
    if (l.fmt.rotate & ROTATE_K) hadamard_rotate(got, d);
    for (int i = 0; i < d; i++) sum += (double)(got[i] - k[i]) * (double)(got[i] - k[i]);
    free(page);
    return sum;
}

static void outliers_cost_less_when_rotated(void **state) {
    rng r = rng_make(seed_get(), 3);
    double plain = 0, rotated = 0;
    for (int n = 0; n < 200; n++) {
        float k[128];
        for (int i = 0; i < 128; i++) k[i] = rng_normal(&r) * (i % 61 == 7 ? 20.0f : 1.0f);
        plain += squared_error("k4v4", k, 128);
        rotated += squared_error("k4v4r", k, 128);
    }
    assert_true(rotated < 0.5 * plain);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_the_largest_powers_of_two_that_divide),
        cmocka_unit_test(butterflies_equal_the_matrix),
        cmocka_unit_test(golden_example),
        cmocka_unit_test(pages_hold_rotated_values),
        cmocka_unit_test(outliers_cost_less_when_rotated),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
