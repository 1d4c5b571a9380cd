/* Random numbers, half precision, hashes, clock texts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/half.h"
#include "base/hash.h"
#include "base/rng.h"
#include "tests/support/seed.h"
#include "tests/support/temp.h"

/* Known-answer vectors of the Random123 distribution, philox4x32-10, first two words. */
static void philox_equals_the_published_vectors(void **state) {
    assert_int_equal(rng_at(0, 0, 0), 0xe169c58d6627e8d5u);
    assert_int_equal(rng_at(UINT64_MAX, UINT64_MAX, UINT64_MAX), 0x41c83b0e408f276du);
    assert_int_equal(rng_at(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u),
                     0x94fdccebd16cfe09u);
}

static void draws_depend_on_seed_stream_and_index_only(void **state) {
    rng a = rng_make(seed_get(), 7), b = rng_make(seed_get(), 7);
    for (int i = 0; i < 10; i++) (void)rng_u64(&a);
    b.index = 10;
    assert_int_equal(rng_u64(&a), rng_u64(&b));
    assert_int_not_equal(rng_at(seed_get(), 7, 0), rng_at(seed_get(), 8, 0));
    assert_int_not_equal(rng_at(seed_get(), 7, 0), rng_at(seed_get() + 1, 7, 0));
}

static void rng_below_is_uniform(void **state) {
    enum { N = 7, DRAWS = 70000 };
    int count[N] = {0};
    rng r = rng_make(seed_get(), 1);
    for (int i = 0; i < DRAWS; i++) {
        uint32_t v = rng_below(&r, N);
        assert_true(v < N);
        count[v]++;
    }
    double chi2 = 0;
    for (int i = 0; i < N; i++) chi2 += pow(count[i] - DRAWS / N, 2) / (DRAWS / N);
    assert_true(chi2 < 45); /* 6 degrees of freedom: p = 5e-8 */
    assert_int_equal(rng_below(&r, 1), 0);
    assert_true(rng_below(&r, UINT32_MAX) < UINT32_MAX);
}

static void rng_normal_has_its_moments(void **state) {
    enum { DRAWS = 200000 };
    double sum = 0, sum2 = 0, sum4 = 0;
    rng r = rng_make(seed_get(), 2);
    for (int i = 0; i < DRAWS; i++) {
        double v = rng_normal(&r);
        assert_true(isfinite(v));
        sum += v, sum2 += v * v, sum4 += v * v * v * v;
    }
    assert_true(fabs(sum / DRAWS) < 6 / sqrt(DRAWS));
    assert_true(fabs(sum2 / DRAWS - 1) < 6 * sqrt(2.0 / DRAWS));
    assert_true(fabs(sum4 / DRAWS - 3) < 6 * sqrt(96.0 / DRAWS));
}

static void rng_uniform_stays_below_one(void **state) {
    rng r = rng_make(seed_get(), 3);
    double sum = 0;
    for (int i = 0; i < 100000; i++) {
        double v = rng_uniform(&r);
        assert_true(v >= 0 && v < 1);
        sum += v;
    }
    assert_true(fabs(sum / 100000 - 0.5) < 6 * sqrt(1 / 12.0 / 100000));
}

static void half_converts_every_pattern_back_to_itself(void **state) {
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f16_to_f32((f16)h);
        if (f != f) {
            float back = f16_to_f32(f16_from_f32(f));
            assert_true(back != back);
        } else {
            assert_int_equal(f16_from_f32(f), h);
        }
        float b = bf16_to_f32((bf16)h);
        if (b == b) assert_int_equal(bf16_from_f32(b), h);
    }
}

static void half_rounds_to_nearest_even(void **state) {
    assert_int_equal(f16_from_f32(1 + 0x1p-11f), 0x3c00);              /* tie, even below */
    assert_int_equal(f16_from_f32(1 + 3 * 0x1p-11f), 0x3c02);          /* tie, even above */
    assert_int_equal(f16_from_f32(1 + 0x1p-11f + 0x1p-20f), 0x3c01);   /* past the tie */
    assert_int_equal(f16_from_f32(65519), 0x7bff);
    assert_int_equal(f16_from_f32(65520), 0x7c00);
    assert_int_equal(f16_from_f32(0x1p-24f), 1);
    assert_int_equal(f16_from_f32(0x1p-25f), 0);                       /* tie to even zero */
    assert_int_equal(f16_from_f32(-0.0f), 0x8000);
    assert_int_equal(bf16_from_f32(f32_from_bits(0x3f808000)), 0x3f80);
    assert_int_equal(bf16_from_f32(f32_from_bits(0x3f818000)), 0x3f82);
    /* Every midpoint between neighbours goes to the even one, and its neighbours in f32 to the nearer. */
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float lo = f16_to_f32((f16)h), hi = f16_to_f32((f16)(h + 1)), mid = (lo + hi) / 2; /* exact in f32 */
        assert_int_equal(f16_from_f32(mid), h + (h & 1));
        assert_int_equal(f16_from_f32(nextafterf(mid, 0)), h);
        assert_int_equal(f16_from_f32(nextafterf(mid, INFINITY)), h + 1);
    }
}

static void sha256_equals_the_standard_vectors(void **state) {
    char hex[65];
    assert_int_equal(hash_file_sha256(temp_file("abc", "abc"), hex), OK);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(hash_file_sha256(temp_file("empty", ""), hex), OK);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_int_equal(hash_file_sha256(temp_path("absent"), hex), ERR_IO);
    assert_non_null(strstr(err_text(), "absent: No such file"));
    assert_int_equal(hash_file_sha256(temp_dir(), hex), ERR_IO);
}

static void xxh3_equals_the_published_vectors(void **state) {
    assert_int_equal(hash_bytes("", 0, 0), 0x2d06800538d394c2u);
    char hex[17];
    hash_hex64(0xabc, hex);
    assert_string_equal(hex, "0000000000000abc");
}

static void durations_are_short_and_round_once(void **state) {
    const struct { double s; const char *text; } cases[] = {
        {0.84, "0.8s"}, {-1, "0.0s"}, {59.94, "59.9s"}, {59.96, "1m00s"}, {92, "1m32s"}, {3599.6, "1h00m"},
        {7500, "2h05m"}, {400000, "4d15h"}, {1e30, "very long"}, {NAN, "0.0s"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[16];
        clock_duration(cases[i].s, out);
        assert_string_equal(out, cases[i].text);
    }
}

static void iso8601_is_utc(void **state) {
    char out[32];
    clock_iso8601(0, out);
    assert_string_equal(out, "1970-01-01T00:00:00Z");
    clock_iso8601(1795363800.9, out);
    assert_string_equal(out, "2026-11-22T16:10:00Z");
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_equals_the_published_vectors),
        cmocka_unit_test(draws_depend_on_seed_stream_and_index_only),
        cmocka_unit_test(rng_below_is_uniform),
        cmocka_unit_test(rng_normal_has_its_moments),
        cmocka_unit_test(rng_uniform_stays_below_one),
        cmocka_unit_test(half_converts_every_pattern_back_to_itself),
        cmocka_unit_test(half_rounds_to_nearest_even),
        cmocka_unit_test(sha256_equals_the_standard_vectors),
        cmocka_unit_test(xxh3_equals_the_published_vectors),
        cmocka_unit_test(durations_are_short_and_round_once),
        cmocka_unit_test(iso8601_is_utc),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
