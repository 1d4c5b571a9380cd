/* Weight types: decoders against values worked out by hand, sizes, names. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "gguf/wtype.h"
#include "tests/support/seed.h"
#include "tests/support/tiny_gguf.h"

static void plain_types_are_read_as_little_endian_values(void **state) {
    const uint8_t f32s[] = {0, 0, 0xc0, 0x3f, 0, 0, 0, 0x80};     /* 1.5, -0 */
    const uint8_t f16s[] = {0x00, 0x3e, 0x01, 0x00, 0x00, 0xfc};  /* 1.5, 2^-24, -inf */
    const uint8_t bf16s[] = {0xc0, 0x3f, 0x80, 0xff, 0x01, 0x00}; /* 1.5, -inf, 2^-133 */
    float x[3];
    wtype_find(WTYPE_F32)->decode(f32s, x, 2);
    assert_true(x[0] == 1.5f && x[1] == 0 && signbit(x[1]));
    wtype_find(WTYPE_F16)->decode(f16s, x, 3);
    assert_true(x[0] == 1.5f && x[1] == 0x1p-24f && x[2] == -INFINITY);
    wtype_find(WTYPE_BF16)->decode(bf16s, x, 3);
    assert_true(x[0] == 1.5f && x[1] == -INFINITY && x[2] == 0x1p-133f);
}

static void q4_1_holds_low_nibbles_before_high_ones(void **state) {
    uint8_t b[40] = {0x00, 0x38, 0x00, 0xbc}; /* step 0.5, minimum -1 */
    for (int i = 0; i < 16; i++) b[4 + i] = (uint8_t)(i | (15 - i) << 4);
    b[20] = 0x00, b[21] = 0x40, b[22] = 0x00, b[23] = 0x3c; /* step 2, minimum 1, all zero */
    float x[64];
    wtype_find(WTYPE_Q4_1)->decode(b, x, 64);
    for (int i = 0; i < 16; i++) {
        assert_true(x[i] == (float)i * 0.5f - 1);
        assert_true(x[16 + i] == (float)(15 - i) * 0.5f - 1);
        assert_true(x[32 + i] == 1 && x[48 + i] == 1);
    }
}

static void q8_0_values_are_signed(void **state) {
    uint8_t b[34] = {0x00, 0x34}; /* step 0.25 */
    for (int i = 0; i < 32; i++) b[2 + i] = (uint8_t)(int8_t)(i * 8 - 128);
    float x[32];
    wtype_find(WTYPE_Q8_0)->decode(b, x, 32);
    for (int i = 0; i < 32; i++) assert_true(x[i] == (float)(i * 8 - 128) * 0.25f);
}

/* The writer's quantisers come back within half a step: it is the models of the tests that are judged here. */
static void written_weights_come_back_within_half_a_step(void **state) {
    enum { N = 4096 };
    static float x[N], y[N];
    static uint8_t bytes[4 * N];
    const struct {
        wtype type;
        float relative;
    } cases[] = {{WTYPE_F32, 0},
                 {WTYPE_F16, 0x1p-11f},
                 {WTYPE_BF16, 0x1p-8f},
                 {WTYPE_Q8_0, 0.5f / 127},
                 {WTYPE_Q4_1, 0.5f / 15 * 2}};
    rng r = rng_make(seed_get(), 1);
    for (int i = 0; i < N; i++) x[i] = rng_normal(&r);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const wtype_info *w = wtype_find(cases[c].type);
        assert_int_equal(tiny_quantize(w->type, x, N, bytes), wtype_row_bytes(w->type, N));
        w->decode(bytes, y, N);
        for (int i = 0; i < N; i += 32) {
            float peak = 0;
            for (int j = 0; j < 32; j++) peak = fmaxf(peak, fabsf(x[i + j]));
            for (int j = 0; j < 32; j++) /* a little more for the rounding of step and minimum to f16 */
                assert_true(fabsf(x[i + j] - y[i + j]) <= peak * cases[c].relative * 1.02f);
        }
    }
}

static void sizes_and_names_follow_the_format(void **state) {
    assert_int_equal(wtype_row_bytes(WTYPE_Q4_1, 576), 576 / 32 * 20);
    assert_int_equal(wtype_row_bytes(WTYPE_Q8_0, 576), 576 / 32 * 34);
    assert_int_equal(wtype_row_bytes(WTYPE_BF16, 576), 1152);
    assert_string_equal(wtype_file_name(10), "Q2_K");
    assert_string_equal(wtype_file_name(77), "type 77");
    assert_null(wtype_find(10));
    assert_null(wtype_find(77));
    int block, bytes;
    assert_true(wtype_file_block(14, &block, &bytes));
    assert_int_equal(block, 256);
    assert_int_equal(bytes, 210);
    assert_false(wtype_file_block(4, &block, &bytes));
    const uint32_t all[] = {0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30};
    char list[128] = "";
    for (int i = 0; i < 11; i++) {
        const wtype_info *w = wtype_find(all[i]);
        assert_true(wtype_file_block(all[i], &block, &bytes));
        assert_true(w->block == block && w->block_bytes == bytes);
        assert_string_equal(w->name, wtype_file_name(all[i]));
        strcat(strcat(list, i ? " " : ""), w->name);
    }
    assert_string_equal(list, wtype_supported());
}

static int hex_value(const char *s, int n) {
    int v = 0;
    for (int i = 0; i < n; i++) v = v * 16 + (s[i] <= '9' ? s[i] - '0' : s[i] - 'a' + 10);
    return v;
}

/* tests/golden/wtype_blocks.txt: blocks and what the Python package gguf decodes them to, both in hex. */
static void blocks_decode_to_the_bits_of_the_gguf_package(void **state) {
    FILE *f = fopen("tests/golden/wtype_blocks.txt", "r");
    assert_non_null(f);
    char name[16], bytes[2048], want[4096];
    int n_lines = 0, n_types = 0, last = -1;
    while (fscanf(f, " %15s %2047s %4095s", name, bytes, want) == 3) {
        uint32_t type = 0;
        while (strcmp(wtype_file_name(type), name) != 0) assert_true(++type < 64);
        const wtype_info *w = wtype_find(type);
        assert_non_null(w);
        uint8_t block[256];
        float x[256];
        assert_int_equal(strlen(bytes), 2 * w->block_bytes);
        assert_int_equal(strlen(want), 8 * w->block);
        for (int i = 0; i < w->block_bytes; i++) block[i] = (uint8_t)hex_value(bytes + 2 * i, 2);
        w->decode(block, x, (size_t)w->block);
        for (int i = 0; i < w->block; i++) {
            uint32_t bits = 0, got;
            for (int k = 0; k < 4; k++) bits |= (uint32_t)hex_value(want + 8 * i + 2 * k, 2) << 8 * k;
            memcpy(&got, &x[i], 4);
            if (got != bits) fail_msg("%s, line %d, value %d: %08x, expected %08x", name, n_lines + 1, i, got, bits);
        }
        n_lines++;
        n_types += (int)type != last;
        last = (int)type;
    }
    fclose(f);
    assert_int_equal(n_types, 8);
    assert_true(n_lines >= 2 * n_types);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_types_are_read_as_little_endian_values),
        cmocka_unit_test(q4_1_holds_low_nibbles_before_high_ones),
        cmocka_unit_test(q8_0_values_are_signed),
        cmocka_unit_test(written_weights_come_back_within_half_a_step),
        cmocka_unit_test(sizes_and_names_follow_the_format),
        cmocka_unit_test(blocks_decode_to_the_bits_of_the_gguf_package),
    };
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
