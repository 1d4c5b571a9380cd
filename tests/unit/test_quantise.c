/* Quantisers beside the offset one: golden examples of the references, blocks as llama.cpp stores them, keys per channel, ceilings. */
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
#include "format/quantise.h"
#include "tests/support/seed.h"

enum { D = 64, BLOCK = 32 };

static page_layout layout(const char *name, int d) {
    kv_format f;
    page_layout l;
    assert_int_equal(kv_format_parse(name, &f), OK);
    assert_int_equal(page_layout_make(f, d, 0, false, 256 * (size_t)d, &l), OK);
    return l;
}

/* Exactly the page, so that the address sanitizer sees every step beyond it. */
static uint8_t *new_page(const page_layout *l) {
    uint8_t *p = malloc(l->page_bytes);
    assert_non_null(p);
    memset(p, 0x5a, l->page_bytes);
    return p;
}

static f16 half_at(const uint8_t *page, uint32_t off, size_t i) {
    f16 h;
    memcpy(&h, page + off + 2 * i, 2);
    return h;
}

/* x = (1, -3, 2, .5): baselines.md 17b, repeated over the head. */
static void golden_examples_of_the_symmetric_quantiser(void **state) {
    static const float x[4] = {1, -3, 2, .5f};
    static const struct {
        const char *name;
        f16 scale;
        float decoded[4];
    } rows[] = {
        {"k8v8s", 0x260c, {.992065f, -2.999817f, 2.007751f, .496033f}},
        {"k4v4s", 0x36db, {.856934f, -2.999268f, 2.142334f, .428467f}},
    };
    float in[D], k[D], v[D];
    for (int i = 0; i < D; i++) in[i] = x[i % 4];
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        page_layout l = layout(rows[r].name, D);
        uint8_t *page = new_page(&l);
        page_put(&l, page, 9, 1, in, D, in, D, NULL);
        page_get(&l, page, 9, k, v);
        assert_int_equal(half_at(page, l.off_k_scale, 9), rows[r].scale);
        for (int i = 0; i < D; i++) {
            assert_true(fabsf(k[i] - rows[r].decoded[i % 4]) < 2e-6f);
            assert_true(k[i] == v[i]);
        }
        free(page);
    }
}

/* The block of 32 values as llama.cpp lays it out: scale, then int8, or nibbles j (low) and j + 16 (high). */
static void as_ggml_block(const page_layout *l, const uint8_t *page, int slot, int g, uint8_t *block) {
    float k[KV_MAX_HEAD_DIM];
    f16 scale = half_at(page, l->off_k_scale, (size_t)g * l->cap + (size_t)slot);
    float step = f16_to_f32(scale);
    int code[BLOCK];
    page_get(l, page, slot, k, NULL);
    for (int i = 0; i < BLOCK; i++) code[i] = step == 0 ? 0 : (int)lrintf(k[g * BLOCK + i] / step);
    memcpy(block, &scale, 2);
    if (l->fmt.k_bits == 8)
        for (int i = 0; i < BLOCK; i++) block[2 + i] = (uint8_t)code[i];
    else
        for (int i = 0; i < 16; i++) block[2 + i] = (uint8_t)((code[i] + 8) | (code[i + 16] + 8) << 4);
}

/* baselines.md 17c */
static void golden_blocks_of_ggml(void **state) {
    float x[D] = {1, -3, 2, .5f}, k[D];
    page_layout l = layout("q4_0", D);
    uint8_t *page = new_page(&l), block[34];
    static const uint8_t want4[18] = {0x00, 0x36, 0x8b, 0x80, 0x8d, 0x89, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88};
    page_put(&l, page, 3, 1, x, D, x, D, NULL);
    as_ggml_block(&l, page, 3, 0, block);
    assert_memory_equal(block, want4, sizeof want4);
    page_get(&l, page, 3, k, NULL);
    assert_true(k[0] == 1.125f && k[1] == -3 && k[2] == 1.875f && k[3] == .375f && k[4] == 0);
    float y[D] = {3, -3, 1, 0}; /* the first of two extremes counts; the other is clamped */
    page_put(&l, page, 4, 1, y, D, y, D, NULL);
    page_get(&l, page, 4, k, NULL);
    assert_true(k[0] == 3 && k[1] == -2.625f && k[2] == 1.125f && k[3] == 0);
    free(page);

    l = layout("q8_0", D);
    page = new_page(&l);
    page_put(&l, page, 3, 1, x, D, x, D, NULL);
    as_ggml_block(&l, page, 3, 0, block);
    static const int8_t want8[4] = {42, -127, 85, 21};
    assert_memory_equal(block + 2, want8, 4);
    for (int i = 4; i < BLOCK; i++) assert_int_equal(block[2 + i], 0);
    float ties[D] = {127, .5f, 1.5f, 2.5f}; /* halves go away from zero */
    page_put(&l, page, 3, 1, ties, D, ties, D, NULL);
    page_get(&l, page, 3, k, NULL);
    assert_true(k[0] == 127 && k[1] == 1 && k[2] == 2 && k[3] == 3);
    free(page);
}

/* Keys of one channel over 32 items share scale and zero; each group stands alone. */
static void keys_per_channel_share_scale_over_items(void **state) {
    page_layout l = layout("k2cv2g32", D);
    uint8_t *page = new_page(&l);
    assert_int_equal(l.cap % KV_TOKEN_GROUP, 0);
    assert_true(l.cap >= 2 * KV_TOKEN_GROUP);
    float k[2 * KV_TOKEN_GROUP][D], v[2 * KV_TOKEN_GROUP][D], got[D];
    for (int i = 0; i < 2 * KV_TOKEN_GROUP; i++)
        for (int c = 0; c < D; c++) {
            k[i][c] = 100.0f * (float)c + (i < KV_TOKEN_GROUP ? (float)(i % 4) : 8.0f * (float)(i % 4)); /* 4 levels: exact */
            v[i][c] = 0;
        }
    page_put(&l, page, 0, 2 * KV_TOKEN_GROUP, k[0], D, v[0], D, NULL);
    for (int i = 0; i < 2 * KV_TOKEN_GROUP; i++) {
        page_get(&l, page, i, got, NULL);
        for (int c = 0; c < D; c++) assert_true(fabsf(got[c] - k[i][c]) <= 0.01f + 1e-3f * k[i][c]);
    }
    for (int g = 0; g < 2; g++)
        for (int c = 0; c < D; c++) {
            size_t at = (size_t)(g * D + c);
            assert_int_equal(half_at(page, l.off_k_scale, at), f16_from_f32((g ? 24.0f : 3.0f) / 255.0f));
            assert_int_equal(half_at(page, l.off_k_zero, at), f16_from_f32(100.0f * (float)c));
        }
    free(page);
}

/* KIVI's worked example (17d): 2 bits, groups of 2 tokens there; the same four values fill a group of 32 here. */
static void golden_example_of_kivi_keys(void **state) {
    page_layout l = layout("k2cv2", D);
    uint8_t *page = new_page(&l);
    float k[KV_TOKEN_GROUP][D] = {{0}}, got[D];
    for (int i = 0; i < KV_TOKEN_GROUP; i++) k[i][0] = i % 2 ? 3 : 0, k[i][1] = 1, k[i][2] = i % 2 ? 4 : -2;
    page_put(&l, page, 0, KV_TOKEN_GROUP, k[0], D, k[0], D, NULL);
    for (int i = 0; i < KV_TOKEN_GROUP; i++) {
        page_get(&l, page, i, got, NULL);
        assert_true(fabsf(got[0] - k[i][0]) < 2e-3f && got[1] == 1 && fabsf(got[2] - k[i][2]) < 4e-3f);
    }
    free(page);
}

/* Relative mean squared error of Gaussian data, d = 128: within 0.8 to 1.25 of what a separate implementation in numpy gives. */
static void errors_stay_under_a_ceiling_per_format(void **state) {
    static const struct {
        const char *name;
        double expected;
    } rows[] = {{"k3v3", .046}, {"k1v1", 3.6}, {"k4v4g64", .00807}, {"k4v4g128", .01}, {"k8v8s", 4.22e-5}, {"k4v4s", .0139},
                {"k3v3g32s", .0515}, {"k2v2s", .591}, {"q8_0", 2.87e-5}, {"q4_0", .00742}, {"k4cv4g32", .00614}, {"k2cv2g32", .155},
                {"k4v2n", .0739}, {"k3v3n", .0359}, {"k1v1n", .61}, {"k2v2g32n", .114}};
    enum { WIDE = 128, ROUNDS = 40 };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        page_layout l = layout(rows[i].name, WIDE);
        uint8_t *page = new_page(&l);
        rng r = rng_make(seed_get(), 3);
        double num = 0, den = 0, along = 0;
        static float k[KV_TOKEN_GROUP][WIDE], v[KV_TOKEN_GROUP][WIDE];
        for (int n = 0; n < ROUNDS; n++) {
            for (int t = 0; t < KV_TOKEN_GROUP; t++)
                for (int c = 0; c < WIDE; c++) k[t][c] = rng_normal(&r), v[t][c] = rng_normal(&r);
            page_put(&l, page, 0, KV_TOKEN_GROUP, k[0], WIDE, v[0], WIDE, NULL);
            for (int t = 0; t < KV_TOKEN_GROUP; t++) {
                float ko[WIDE], vo[WIDE];
                page_get(&l, page, t, ko, vo);
                for (int c = 0; c < WIDE; c++) {
                    num += (ko[c] - k[t][c]) * (double)(ko[c] - k[t][c]) + (vo[c] - v[t][c]) * (double)(vo[c] - v[t][c]);
                    den += k[t][c] * (double)k[t][c] + v[t][c] * (double)v[t][c];
                    along += k[t][c] * (double)ko[c] + v[t][c] * (double)vo[c];
                }
            }
        }
        double got = num / den;
        if (got > 1.25 * rows[i].expected || got < 0.8 * rows[i].expected) fail_msg("%s: relative error %.3g", rows[i].name, got);
        bool narrow = l.fmt.quant == QUANT_NARROW; /* its gain gives back what clipping takes */
        if (narrow && fabs(along / den - 1) > 0.02) fail_msg("%s: values come back %.4f as long", rows[i].name, along / den);
        free(page);
    }
}

/* 3 bits and quantisers without a zero are decoded and quantised anew; 1 bit keeps scale and zero. */
static void moves_keep_scale_where_one_serves_both_widths(void **state) {
    static const struct {
        const char *from, *to;
        bool keeps;
    } rows[] = {{"k8v8", "k1v1", true},     {"k4v4", "k1v1", true},    {"k2v2", "k1v1", true},       {"k8v8", "k3v3", false},
                {"k4v4", "k3v3", false},    {"k3v3", "k2v2", false},   {"k3v3", "k3v1", true},       {"k8v8s", "k4v4s", false},
                {"q8_0", "q4_0", false},    {"k8v8g64", "k2v2g64", true}, {"k8v8n", "k4v4n", false},  {"k4v4n", "k2v2n", false}};
    rng r = rng_make(seed_get(), 4);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        page_layout from = layout(rows[i].from, D), to = layout(rows[i].to, D);
        uint8_t *src = new_page(&from), *moved = new_page(&to), *again = new_page(&to);
        long same = 0, n = 0;
        for (int round = 0; round < 50; round++) {
            float k[D], v[D], kd[D], vd[D], km[D], ka[D], va[D];
            for (int c = 0; c < D; c++) k[c] = rng_normal(&r), v[c] = rng_normal(&r);
            page_put(&from, src, 2, 1, k, D, v, D, NULL);
            page_get(&from, src, 2, kd, vd);
            page_move(&from, src, 2, &to, moved, 5);
            page_put(&to, again, 5, 1, kd, D, vd, D, NULL);
            page_get(&to, moved, 5, km, NULL);
            page_get(&to, again, 5, ka, va);
            for (int c = 0; c < D; c++, n++) same += km[c] == ka[c];
            bool scale_kept = half_at(moved, to.off_k_scale, 5) == half_at(src, from.off_k_scale, 2);
            assert_true(!rows[i].keeps || scale_kept);
        }
        if (!rows[i].keeps) assert_int_equal(same, n); /* what was decoded is quantised */
        free(src), free(moved), free(again);
    }
}

static void odd_input_has_defined_results(void **state) {
    static const char *const names[] = {"k8v8s", "k2v2s", "q8_0", "q4_0", "k3v3", "k1v1", "k4cv4g32", "k4v2n", "k1v1n"};
    static const float odd[] = {0, -0.0f, 1e-42f, 1e30f, INFINITY, -INFINITY, NAN};
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        page_layout l = layout(names[f], D);
        uint8_t *page = new_page(&l);
        static float x[KV_TOKEN_GROUP][D];
        float k[D], v[D];
        for (int mix = 0; mix <= 7; mix++) {
            for (int i = 0; i < KV_TOKEN_GROUP * D; i++) x[i / D][i % D] = odd[mix < 7 ? mix : i % 7];
            page_put(&l, page, 0, KV_TOKEN_GROUP, x[0], D, x[0], D, NULL);
            page_get(&l, page, 1, k, v);
            for (int c = 0; c < D; c++) assert_true(isfinite(k[c]) && isfinite(v[c]));
            if (mix < 3 || mix == 6) assert_true(k[0] == 0 && v[0] == 0);
        }
        free(page);
    }
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_examples_of_the_symmetric_quantiser),
        cmocka_unit_test(golden_blocks_of_ggml),
        cmocka_unit_test(keys_per_channel_share_scale_over_items),
        cmocka_unit_test(golden_example_of_kivi_keys),
        cmocka_unit_test(errors_stay_under_a_ceiling_per_format),
        cmocka_unit_test(moves_keep_scale_where_one_serves_both_widths),
        cmocka_unit_test(odd_input_has_defined_results),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
