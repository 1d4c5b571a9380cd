/* The reference codec: golden values, error ceilings, exact sizes, downgrades, defined behaviour for odd input. */
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
#include "tests/support/seed.h"

enum { MAX_D = KV_MAX_HEAD_DIM };

static page_layout layout(const char *name, int d, int pos_bytes, bool score, size_t bytes) {
    kv_format f;
    page_layout l;
    assert_int_equal(kv_format_parse(name, &f), OK);
    assert_int_equal(page_layout_make(f, d, pos_bytes, score, bytes, &l), OK);
    return l;
}

static uint8_t *
new_page(const page_layout *l) { /* exactly the page, so that the address sanitizer sees every step beyond it */
    uint8_t *p = malloc(l->page_bytes);
    assert_non_null(p);
    memset(p, 0xa5, l->page_bytes);
    return p;
}

static f16 half_at(const uint8_t *page, uint32_t off, int i) {
    f16 h;
    memcpy(&h, page + off + 2 * (size_t)i, 2);
    return h;
}

/* baselines.md 17a with one scale for all widths: x = (1, -3, 2, .5), repeated to fill a head. */
static void golden_example_of_the_offset_quantiser(void **state) {
    static const float x[4] = {1, -3, 2, .5f};
    static const struct {
        const char *name;
        int bits;
        uint8_t codes[4];
        float decoded[4];
    } rows[] = {
        {"k8v8", 8, {204, 0, 255, 178}, {0.99993896484375f, -3, 1.9999237060546875f, 0.490142822265625f}},
        {"k4v4", 4, {12, 0, 15, 10}, {0.99993896484375f, -3, 1.9999237060546875f, 0.333282470703125f}},
        {"k2v2", 2, {2, 0, 3, 2}, {0.333282470703125f, -3, 1.9999237060546875f, 0.333282470703125f}},
    };
    enum { D = 64, SLOT = 11 };
    float in[D], k[D], v[D];
    for (int i = 0; i < D; i++) in[i] = x[i % 4];
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        page_layout l = layout(rows[r].name, D, 2, false, 4096);
        uint8_t *page = new_page(&l);
        uint32_t pos = 77;
        page_put(&l, page, SLOT, 1, in, D, in, D, &pos);
        page_get(&l, page, SLOT, k, v);
        for (int i = 0; i < D; i++) {
            assert_int_equal(f32_bits(k[i]), f32_bits(rows[r].decoded[i % 4]));
            assert_int_equal(f32_bits(v[i]), f32_bits(rows[r].decoded[i % 4]));
        }
        assert_int_equal(half_at(page, l.off_k_scale, SLOT), 0x2505);
        assert_int_equal(half_at(page, l.off_k_zero, SLOT), 0xc200);
        assert_int_equal(half_at(page, l.off_v_scale, SLOT), 0x2505);
        assert_int_equal(half_at(page, l.off_v_zero, SLOT), 0xc200);
        assert_int_equal(page_pos(&l, page, SLOT), 77);

        /* the bytes as layout.h describes them */
        int b = rows[r].bits, fields = 8 / b, nd = D * b / 32, nb = D * b / 8;
        for (int j = 0; j < nd; j++) {
            for (int i = 0; i < 4; i++) {
                uint8_t byte = page[l.off_k + (SLOT / 8 * nd + j) * 32 + SLOT % 8 * 4 + i];
                for (int f = 0; f < fields; f++)
                    assert_int_equal(byte >> (b * f) & ((1 << b) - 1), rows[r].codes[(4 * (j * fields + f) + i) % 4]);
            }
        }
        for (int j = 0; j < nb; j++) {
            for (int f = 0; f < fields; f++)
                assert_int_equal(page[l.off_v + SLOT * nb + j] >> (b * f) & ((1 << b) - 1),
                                 rows[r].codes[(j + f * nb) % 4]);
        }
        free(page);
    }
}

/* Channels must not be exchanged: a ramp decodes in order, at every width. */
static void channels_keep_their_places(void **state) {
    static const char *const names[] = {"k8v8", "k4v4", "k2v2", "k8v2", "k2v8", "k4v2g32", "f16", "f32"};
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        for (int d = 32; d <= 256; d *= 2) {
            page_layout l = layout(names[f], d, 0, false, 32768);
            uint8_t *page = new_page(&l);
            float k[MAX_D], v[MAX_D], ko[MAX_D], vo[MAX_D];
            for (int c = 0; c < d; c++) {
                for (int i = 0; i < d; i++) k[i] = i == c ? 3.0f : 0.0f, v[i] = i == c ? -3.0f : 0.0f;
                page_put(&l, page, 3, 1, k, d, v, d, NULL);
                page_get(&l, page, 3, ko, vo);
                for (int i = 0; i < d; i++) {
                    assert_true(fabsf(ko[i] - k[i]) < 0.01f);
                    assert_true(fabsf(vo[i] - v[i]) < 0.01f);
                }
            }
            free(page);
        }
    }
}

static void pages_fill_without_overlap_and_within_their_bytes(void **state) {
    static const char *const names[] = {"f32", "f16", "k8v8", "k8v4", "k4v4", "k4v2", "k2v2", "k8v4g32", "k2v4g32",
                                        "k3v1", "k1v3", "k1v1", "k8v8s", "k4v2s", "q8_0", "q4_0-q8_0", "k8v3r", "k4v2n"};
    rng r = rng_make(seed_get(), 1);
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        for (int columns = 0; columns < 6; columns++) {
            int d = 32 << rng_below(&r, 3);
            page_layout l = layout(names[f], d, columns % 3 * 2, columns / 3, 8192 + 64 * rng_below(&r, 100));
            uint8_t *page = new_page(&l);
            float *x = malloc((size_t)l.cap * d * 2 * sizeof *x);
            uint32_t *pos = malloc(l.cap * sizeof *pos);
            assert_true(x && pos);
            for (int i = 0; i < l.cap * d * 2; i++) x[i] = rng_normal(&r);
            for (int i = 0; i < l.cap; i++) pos[i] = rng_below(&r, 65536);
            for (int i = 0; i < l.cap;) { /* runs of any length */
                int n = 1 + (int)rng_below(&r, (uint32_t)(l.cap - i));
                page_put(&l, page, i, n, x + (size_t)i * 2 * d, 2 * (size_t)d, x + (size_t)i * 2 * d + d, 2 * (size_t)d,
                         pos + i);
                i += n;
            }
            for (int i = 0; i < l.cap; i++) {
                assert_true(page_score(&l, page, i) == 0);
                page_set_score(&l, page, i, (float)i + 0.5f);
            }
            uint8_t *one = new_page(&l);
            for (int i = 0; i < l.cap; i++) { /* each item equals the same item put alone elsewhere */
                float k[MAX_D], v[MAX_D], k1[MAX_D], v1[MAX_D];
                page_put(&l, one, 5, 1, x + (size_t)i * 2 * d, d, x + (size_t)i * 2 * d + d, d, pos + i);
                page_get(&l, page, i, k, v);
                page_get(&l, one, 5, k1, v1);
                assert_memory_equal(k, k1, (size_t)d * 4);
                assert_memory_equal(v, v1, (size_t)d * 4);
                if (l.pos_bytes) assert_int_equal(page_pos(&l, page, i), pos[i]);
                if (l.has_score) assert_true(page_score(&l, page, i) == (float)i + 0.5f);
            }
            free(x), free(pos), free(page), free(one);
        }
    }
}

static void float_pages_round_once(void **state) {
    rng r = rng_make(seed_get(), 2);
    page_layout f16p = layout("f16", 64, 0, false, 4096), f32p = layout("f32", 64, 0, false, 4096);
    uint8_t *a = new_page(&f16p), *b = new_page(&f32p);
    float k[64], v[64], ko[64], vo[64];
    for (int i = 0; i < 64; i++) k[i] = rng_normal(&r) * 100, v[i] = rng_normal(&r) * 1e-6f;
    k[0] = -0.0f, k[1] = INFINITY, k[2] = -INFINITY, k[3] = NAN, k[4] = 65520, k[5] = 1e-30f;
    page_put(&f32p, b, 2, 1, k, 64, v, 64, NULL);
    page_get(&f32p, b, 2, ko, vo);
    assert_memory_equal(k, ko, sizeof k);
    assert_memory_equal(v, vo, sizeof v);
    page_move(&f32p, b, 2, &f16p, a, 7);
    page_get(&f16p, a, 7, ko, vo);
    for (int i = 0; i < 64; i++) {
        assert_int_equal(f32_bits(ko[i]), f32_bits(f32_round_f16(k[i])));
        assert_int_equal(f32_bits(vo[i]), f32_bits(f32_round_f16(v[i])));
    }
    free(a), free(b);
}

/* Relative mean squared error on Gaussian data, d = 128, one group; orientation from leankv.md 1.1: 4e-5, 1e-2, .25. */
static void errors_stay_under_a_ceiling_per_width(void **state) {
    static const struct {
        const char *name;
        double lo, hi;
    } rows[] = {
        {"k8v8", 2e-5, 5e-5},    {"k4v4", 7e-3, 1.3e-2},  {"k2v2", .18, .32},
        {"k8v8g32", 1e-5, 3e-5}, {"k4v4g32", 4e-3, 8e-3}, {"k2v2g32", .10, .19},
    };
    enum { D = 128, N = 2000 };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        page_layout l = layout(rows[i].name, D, 0, false, 16384);
        uint8_t *page = new_page(&l);
        rng r = rng_make(seed_get(), 3);
        double num = 0, den = 0;
        for (int n = 0; n < N; n++) {
            float k[D], v[D], ko[D], vo[D];
            for (int j = 0; j < D; j++) k[j] = rng_normal(&r), v[j] = rng_normal(&r);
            page_put(&l, page, 0, 1, k, D, v, D, NULL);
            page_get(&l, page, 0, ko, vo);
            for (int j = 0; j < D; j++) {
                num += (ko[j] - k[j]) * (double)(ko[j] - k[j]) + (vo[j] - v[j]) * (double)(vo[j] - v[j]);
                den += k[j] * (double)k[j] + v[j] * (double)v[j];
            }
        }
        if (num / den > rows[i].hi || num / den < rows[i].lo)
            fail_msg("%s: relative error %g", rows[i].name, num / den);
        free(page);
    }
}

static int n_codes_apart(const page_layout *l, const uint8_t *a, const uint8_t *b, int slot) {
    float ka[MAX_D], va[MAX_D], kb[MAX_D], vb[MAX_D];
    int n = 0;
    page_get(l, a, slot, ka, va);
    page_get(l, b, slot, kb, vb);
    for (int i = 0; i < l->head_dim; i++) n += (ka[i] != kb[i]) + (va[i] != vb[i]);
    return n;
}

/* 8->4, 8->2, 4->2 keep scale and zero; codes equal direct quantisation but for roundings that fall on a boundary. */
static void downgrades_equal_direct_quantisation(void **state) {
    static const char *const pairs[][2] = {{"k8v8", "k4v4"}, {"k8v8", "k2v2"},       {"k4v4", "k2v2"},
                                           {"k8v4", "k4v2"}, {"k8v8g32", "k4v2g32"}, {"k8v4", "k8v4"}};
    enum { D = 128, N = 10000 };
    for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++) {
        page_layout from = layout(pairs[p][0], D, 2, true, 16384), to = layout(pairs[p][1], D, 2, true, 16384);
        uint8_t *src = new_page(&from), *moved = new_page(&to), *direct = new_page(&to);
        rng r = rng_make(seed_get(), 4);
        long apart = 0;
        for (int n = 0; n < N; n++) {
            float k[D], v[D];
            uint32_t pos = (uint32_t)n;
            for (int j = 0; j < D; j++) k[j] = rng_normal(&r), v[j] = rng_normal(&r);
            page_put(&from, src, 9, 1, k, D, v, D, &pos);
            page_set_score(&from, src, 9, 0.25f * (float)n);
            page_move(&from, src, 9, &to, moved, 4);
            page_put(&to, direct, 4, 1, k, D, v, D, &pos);
            apart += n_codes_apart(&to, moved, direct, 4);
            for (int g = 0; g < from.n_groups; g++) {
                assert_int_equal(half_at(moved, to.off_k_scale, g * to.cap + 4),
                                 half_at(src, from.off_k_scale, g * from.cap + 9));
                assert_int_equal(half_at(moved, to.off_k_zero, g * to.cap + 4),
                                 half_at(src, from.off_k_zero, g * from.cap + 9));
                assert_int_equal(half_at(moved, to.off_v_scale, g * to.cap + 4),
                                 half_at(src, from.off_v_scale, g * from.cap + 9));
                assert_int_equal(half_at(moved, to.off_v_zero, g * to.cap + 4),
                                 half_at(src, from.off_v_zero, g * from.cap + 9));
            }
            assert_int_equal(page_pos(&to, moved, 4), n);
            assert_true(page_score(&to, moved, 4) == 0.25f * (float)n);
        }
        if (apart > 2L * D * N / 10000)
            fail_msg("%s to %s: %ld of %d codes differ", pairs[p][0], pairs[p][1], apart, 2 * D * N);
        free(src), free(moved), free(direct);
    }
}

static void float_tiers_are_quantised_when_they_move(void **state) {
    page_layout from = layout("f16", 64, 4, true, 4096), to = layout("k8v4", 64, 4, true, 4096);
    uint8_t *src = new_page(&from), *moved = new_page(&to), *direct = new_page(&to);
    memcpy(direct, moved, to.page_bytes);
    rng r = rng_make(seed_get(), 5);
    float k[64], v[64];
    uint32_t pos = 1000000;
    for (int j = 0; j < 64; j++) k[j] = f32_round_f16(rng_normal(&r)), v[j] = f32_round_f16(rng_normal(&r));
    page_put(&from, src, 0, 1, k, 64, v, 64, &pos);
    page_set_score(&from, src, 0, 3);
    page_move(&from, src, 0, &to, moved, 17);
    page_put(&to, direct, 17, 1, k, 64, v, 64, &pos);
    page_set_score(&to, direct, 17, 3);
    assert_memory_equal(moved, direct, to.page_bytes);
    free(src), free(moved), free(direct);
}

static void odd_input_has_defined_results(void **state) {
    static const char *const names[] = {"k8v8", "k4v4", "k2v2"};
    enum { D = 32 };
    for (int f = 0; f < 3; f++) {
        page_layout l = layout(names[f], D, 0, false, 4096);
        uint8_t *page = new_page(&l);
        float x[D], k[D], v[D];
        static const float constants[] = {0.0f, -0.0f, 1.5f, -7.25f, 65504.0f, 1e30f, -1e30f, INFINITY, -INFINITY, NAN};
        static const float wanted[] = {0.0f,     0.0f,      1.5f,     -7.25f,    65504.0f,
                                       65504.0f, -65504.0f, 65504.0f, -65504.0f, 0.0f};
        for (size_t c = 0; c < sizeof constants / sizeof *constants; c++) {
            for (int i = 0; i < D; i++) x[i] = constants[c];
            page_put(&l, page, 1, 1, x, D, x, D, NULL);
            page_get(&l, page, 1, k, v);
            assert_int_equal(half_at(page, l.off_k_scale, 1), 0);
            for (int i = 0; i < D; i++)
                assert_true(f32_bits(k[i]) == f32_bits(wanted[c]) && f32_bits(v[i]) == f32_bits(wanted[c]));
        }
        for (int i = 0; i < D; i++) x[i] = i % 4 == 0 ? NAN : i % 4 == 1 ? INFINITY : i % 4 == 2 ? -INFINITY : 1.0f;
        page_put(&l, page, 1, 1, x, D, x, D, NULL);
        page_get(&l, page, 1, k, v);
        for (int i = 0; i < D; i++) assert_true(isfinite(k[i]) && isfinite(v[i]));
        assert_true(k[2] == -65504.0f && fabsf(k[1] - 65504.0f) < 70.0f);
        for (int i = 0; i < D; i++) x[i] = (float)i * 0x1p-149f; /* range below what an f16 scale can say */
        page_put(&l, page, 1, 1, x, D, x, D, NULL);
        page_get(&l, page, 1, k, v);
        for (int i = 0; i < D; i++) assert_true(k[i] == 0.0f && v[i] == 0.0f);
        free(page);
    }
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_example_of_the_offset_quantiser),
        cmocka_unit_test(channels_keep_their_places),
        cmocka_unit_test(pages_fill_without_overlap_and_within_their_bytes),
        cmocka_unit_test(float_pages_round_once),
        cmocka_unit_test(errors_stay_under_a_ceiling_per_width),
        cmocka_unit_test(downgrades_equal_direct_quantisation),
        cmocka_unit_test(float_tiers_are_quantised_when_they_move),
        cmocka_unit_test(odd_input_has_defined_results),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
