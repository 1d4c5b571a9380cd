/* Names, sizes and order of cache formats; rows of halves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "format/format.h"
#include "format/rows.h"
#include "tests/support/seed.h"

static kv_format parse(const char *name) {
    kv_format f;
    assert_int_equal(kv_format_parse(name, &f), OK);
    return f;
}

static void names_survive_a_round_trip(void **state) {
    static const char *const names[] = {"f32",  "f16",  "k8v8", "k8v4",    "k8v2",    "k4v8",   "k4v4",
                                        "k4v2", "k2v2", "k2v8", "k8v8g32", "k4v2g32", "k2v2g32",
                                        "k4v4r", "k8v4rk", "k4v2rv",  "k4v4g32r", "k2v2g32rk", "k8v8g32rv", "k3v1",
                                        "k1v3g64", "k8v4g128", "k8v8s", "k4v2g32sr", "k4cv4g32", "k2cv2", "k8cv4g128rv", "q8_0", "q4_0", "q8_0-q4_0",
                                        "q4_0-q8_0rk", "k4v2n", "k4v3nr", "k8v1g32nrv"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char back[16];
        kv_format_name(parse(names[i]), back);
        assert_string_equal(back, names[i]);
    }
}

static void bad_names_are_refused_with_a_sentence(void **state) {
    static const char *const names[] = {"",        "f8",       "f",    "k",    "k8",     "k8v",
                                        "k5v4",    "k8v0",     "K8V4", "v4k8", "k8k4",   "k8v4g",
                                        "k8v4g16", "k8v4g320", "f16 ", " f16", "k16v16", "k8v4x",
                                        "f16r",    "k4v4rr",   "k4v4rg32", "k4v4rkv", "q8_1", "q8_0-q8_0", "q4_0-", "q8_0s", "k4cv4s", "k1v4s", "k4v4cg32", "k4cv4cg32", "k4v4sg32", "k4cv4n", "k4v4sn", "k4v4ng32"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        kv_format f;
        assert_int_equal(kv_format_parse(names[i], &f), ERR_UNSUPPORTED);
        assert_non_null(strstr(err_text(), "kXvY"));
    }
}

static void sizes_are_those_of_the_reference(void **state) {
    /* leankv.md 5.1 without score and position */
    static const struct {
        const char *name;
        int d;
        size_t payload, meta;
    } rows[] = {
        {"f32", 64, 512, 0},       {"f16", 64, 256, 0},   {"f16", 128, 512, 0},    {"k8v8", 64, 128, 8},
        {"k8v4", 64, 96, 8},       {"k8v4", 128, 192, 8}, {"k4v4", 64, 64, 8},     {"k4v2", 64, 48, 8},
        {"k4v2", 128, 96, 8},      {"k2v2", 256, 128, 8}, {"k8v4g32", 64, 96, 16}, {"k4v2g32", 128, 96, 32},
        {"k4v2g32", 256, 192, 64},
        {"k3v1", 64, 32, 8},       {"k4v4s", 64, 64, 4},   {"k4v2n", 64, 48, 8},   {"q8_0", 64, 128, 8},     {"q4_0", 64, 64, 8},     {"k4cv4g32", 64, 64, 16},
        {"k2cv2g32", 128, 64, 32}, {"k8v4g128", 256, 384, 16}, {"q8_0-q4_0", 128, 192, 16},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        kv_format f = parse(rows[i].name);
        assert_int_equal(kv_format_payload_bytes(f, rows[i].d), rows[i].payload);
        assert_int_equal(kv_format_meta_bytes(f, rows[i].d), rows[i].meta);
        assert_int_equal(kv_format_check(f, rows[i].d), OK);
    }
}

static void items_move_only_downwards(void **state) {
    static const struct {
        const char *from, *to;
        bool can;
    } rows[] = {
        {"f32", "f16", true},   {"f16", "f32", false},      {"f16", "k8v4", true},      {"f16", "k4v2g32", true},
        {"k8v4", "k4v4", true}, {"k8v4", "k4v2", true},     {"k8v4", "k8v8", false},    {"k4v4", "k8v2", false},
        {"k8v4", "k8v4", true}, {"k8v4", "k4v2g32", false}, {"k8v4g32", "k4v2", false}, {"k8v4g32", "k4v2g32", true},
        {"k8v8", "f16", false}, {"f32", "f32", true},
        {"f16", "k4v4r", true}, {"k8v4r", "k4v2r", true},   {"k8v4", "k4v2r", false},   {"k8v4r", "k4v4", false},
        {"k8v4r", "k4v4rk", false}, {"k4v4", "k3v1", true},     {"k8v8s", "k4v4s", true},   {"k8v8s", "k4v4", false},
        {"q8_0", "q4_0", true},     {"q4_0", "q8_0", false},    {"f16", "k4cv4g32", true},  {"k4cv4g32", "k2cv2g32", false},
        {"k4cv4g32", "k4cv4g32", true}, {"k8v8g32", "k4cv4g32", false}, {"k8v4g64", "k4v4g32", false}, {"k8v4nr", "k4v2nr", true}, {"k8v4r", "k4v2nr", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(kv_format_can_move(parse(rows[i].from), parse(rows[i].to)), rows[i].can);
}

static void unsuitable_head_dims_and_widths_are_refused(void **state) {
    assert_int_equal(kv_format_check(parse("k8v4"), 40), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "head_dim 40"));
    assert_int_equal(kv_format_check(parse("k8v4"), 80), OK);
    assert_int_equal(kv_format_check(parse("k8v4g32"), 80), ERR_UNSUPPORTED);
    assert_int_equal(kv_format_check(parse("k3v4"), 80), ERR_UNSUPPORTED);
    assert_int_equal(kv_format_check(parse("k8v1"), 96), OK);
    assert_int_equal(kv_format_check(parse("k4v4g128"), 192), ERR_UNSUPPORTED);
    assert_int_equal(kv_format_check(parse("k4cv4"), 80), OK);
    assert_int_equal(kv_format_check((kv_format){.k_bits = 8, .v_bits = 1, .quant = QUANT_SYMMETRIC}, 64), ERR_UNSUPPORTED);
    assert_int_equal(kv_format_check(parse("f16"), 40), OK);
    assert_int_equal(kv_format_check(parse("f16"), 0), ERR_UNSUPPORTED);
    assert_int_equal(kv_format_check(parse("f32"), 257), ERR_UNSUPPORTED);
    assert_int_equal(kv_format_check((kv_format){.k_bits = 5, .v_bits = 4}, 64), ERR_UNSUPPORTED);
    assert_int_equal(kv_format_check((kv_format){.k_bits = 16, .v_bits = 8}, 64), ERR_UNSUPPORTED);
    assert_int_equal(kv_format_check((kv_format){.k_bits = 8, .v_bits = 4, .group = 16}, 64), ERR_UNSUPPORTED);
}

static void rows_of_halves_equal_the_scalar_conversion(void **state) {
    enum { N = 1 << 16 };
    static f16 h[N], back[N];
    static float f[N];
    for (int i = 0; i < N; i++) h[i] = (f16)i;
    f16_row_to_f32(h, f, N);
    for (int i = 0; i < N; i++) assert_int_equal(f32_bits(f[i]), f32_bits(f16_to_f32(h[i])));
    rng r = rng_make(seed_get(), 1);
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < N; i++) { /* any bits, and values about every half and the midpoints between halves */
            uint32_t near =
                f32_bits(f16_to_f32((f16)rng_u64(&r))) + (uint32_t)(rng_below(&r, 3) << 12) + rng_below(&r, 3) - 1;
            f[i] = f32_from_bits(round % 2 ? near : (uint32_t)rng_u64(&r));
        }
        f16_row_from_f32(f, back, N);
        for (int i = 0; i < N; i++) assert_int_equal(back[i], f16_from_f32(f[i]));
    }
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_survive_a_round_trip),
        cmocka_unit_test(bad_names_are_refused_with_a_sentence),
        cmocka_unit_test(sizes_are_those_of_the_reference),
        cmocka_unit_test(items_move_only_downwards),
        cmocka_unit_test(unsuitable_head_dims_and_widths_are_refused),
        cmocka_unit_test(rows_of_halves_equal_the_scalar_conversion),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
