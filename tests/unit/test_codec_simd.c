/* Every ISA path's codec equals the reference bit for bit: whole pages are compared, so a byte too many shows as well.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "kernels/cpu/codec.h"
#include "kernels/cpu/isa.h"
#include "tests/support/seed.h"

static const char *const formats[] = {"f32",  "f16",  "k8v8", "k8v4",    "k8v2",    "k4v8",    "k4v4",   "k4v2",
                                      "k2v8", "k2v4", "k2v2", "k8v8g32", "k8v4g32", "k4v2g32", "k2v2g32",
                                      "k4v4r", "k8v4rk", "k4v2g32rv", "k4v2r", "k8v8g32r",
                                      "k3v3", "k8v3", "k4v1", "k1v1", "k3v1g32", "k8v4g64", "k4v2g128", "k8v8s", "k4v4s", "k3v2s", "k2v2g32s",
                                      "k4v2g64sr", "q8_0", "q4_0", "q8_0-q4_0", "q4_0-q8_0", "q4_0r", "k4cv4g32", "k2cv2g32", "k4cv2",
                                      "k3cv1", "k2cv2rv", "k4v2n", "k3v1n", "k8v3nr", "k4v2g32n"};
enum { N_FORMATS = sizeof formats / sizeof *formats };

static float odd_value(rng *r) {
    static const float odd[] = {0.0f,   -0.0f,  65504.0f, 65519.9f, 65520.0f, -65505.0f, 1e30f,
                                -1e30f, 1e-30f, 6e-8f,    -3e-8f,   1e-40f,   -1e-45f};
    switch (rng_below(r, 8)) {
    case 0:
        return INFINITY;
    case 1:
        return -INFINITY;
    case 2:
        return f32_from_bits(0x7f800001u + rng_below(r, 1 << 22)); /* NaN, signalling and quiet */
    case 3:
        return f32_from_bits((uint32_t)rng_u64(r));
    default:
        return odd[rng_below(r, sizeof odd / sizeof *odd)];
    }
}

static void make_row(rng *r, float *x, int d) {
    uint32_t kind = rng_below(r, 8);
    float scale = ldexpf(1, (int)rng_below(r, kind == 5 ? 250 : 20) - (kind == 5 ? 149 : 10)),
          c = rng_normal(r) * scale;
    for (int i = 0; i < d; i++) {
        x[i] = rng_normal(r) * scale;
        if (kind == 1) x[i] = c; /* constant */
        if (kind == 2) x[i] = f32_round_f16(x[i]);
        if (kind == 3) x[i] = (float)rng_below(r, 256) * 0.5f; /* ties */
        if (kind == 4 && rng_below(r, 6) == 0) x[i] = odd_value(r);
        if (kind == 6) x[i] = (float)((int)rng_below(r, 4000) - 2000) * 0x1p-149f; /* subnormal */
        if (kind == 7) x[i] = odd_value(r);
    }
}

static page_layout random_layout(rng *r, const char *name, int d) {
    kv_format f;
    page_layout l;
    assert_int_equal(kv_format_parse(name, &f), OK);
    assert_int_equal(
        page_layout_make(f, d, 2 * (int)rng_below(r, 3), rng_below(r, 2), 16640 + 64 * rng_below(r, 200), &l), OK);
    return l;
}

static uint8_t *new_page(const page_layout *l, uint8_t byte) {
    uint8_t *p = malloc(l->page_bytes);
    assert_non_null(p);
    memset(p, byte, l->page_bytes);
    return p;
}

static void expect_equal(const page_layout *l, const uint8_t *a, const uint8_t *b, const char *path, const char *what) {
    for (size_t i = 0; i < l->page_bytes; i++) {
        if (a[i] == b[i]) continue;
        char name[16];
        kv_format_name(l->fmt, name);
        fail_msg("%s %s of %s, head_dim %u: byte %zu (k %u, v %u, meta %u) is %02x, reference %02x", path, what, name,
                 l->head_dim, i, l->off_k, l->off_v, l->off_k_scale, b[i], a[i]);
    }
}

static void for_each_path(void (*check)(const char *path, page_put_fn put, page_move_fn move, rng *r)) {
    int n_simd = 0;
    for (int isa = ISA_SCALAR; isa < ISA_N; isa++) {
        if (!isa_present((cpu_isa)isa)) continue;
        const char *name = isa_name((cpu_isa)isa);
        if (isa != ISA_SCALAR) assert_true(codec_put_best(name) != page_put && codec_move_best(name) != page_move);
        rng r = rng_make(seed_get(), (uint64_t)isa);
        check(name, codec_put_best(name), codec_move_best(name), &r);
        n_simd += isa != ISA_SCALAR;
    }
    if (!n_simd) skip();
}

static void check_put(const char *path, page_put_fn put, page_move_fn move, rng *r) {
    static const int dims[] = {16, 32, 48, 64, 80, 96, 128, 192, 256}, float_dims[] = {1, 7, 20, 33};
    for (int round = 0; round < 60; round++) {
        for (int f = 0; f < N_FORMATS; f++) {
            bool floats = f < 2;
            int d = floats && round % 4 == 0 ? float_dims[rng_below(r, 4)] : dims[rng_below(r, 9)];
            kv_format fmt;
            assert_int_equal(kv_format_parse(formats[f], &fmt), OK);
            while (kv_format_check(fmt, d) != OK) d = dims[rng_below(r, 9)];
            page_layout l = random_layout(r, formats[f], d);
            int unit = kv_format_item_group(fmt), n = unit * (1 + (int)rng_below(r, unit > 1 ? 2 : 12));
            if (n > l.cap) n = l.cap;
            int slot = unit * (int)rng_below(r, (uint32_t)((l.cap - n) / unit + 1));
            size_t ld = (size_t)d + rng_below(r, 3);
            float *k = malloc(((size_t)(n - 1) * ld + d) * sizeof *k),
                  *v = malloc(((size_t)(n - 1) * ld + d) * sizeof *v);
            uint32_t pos[2 * KV_TOKEN_GROUP];
            assert_true(k && v);
            memset(k, 0, ((size_t)(n - 1) * ld + d) * sizeof *k);
            memset(v, 0, ((size_t)(n - 1) * ld + d) * sizeof *v);
            for (int i = 0; i < n; i++) {
                make_row(r, k + i * ld, d);
                make_row(r, v + i * ld, d);
                pos[i] = rng_below(r, 65536);
            }
            uint8_t *a = new_page(&l, 0x5a), *b = new_page(&l, 0x5a);
            page_put(&l, a, slot, n, k, ld, v, ld, pos);
            put(&l, b, slot, n, k, ld, v, ld, pos);
            expect_equal(&l, a, b, path, "put");
            free(a), free(b), free(k), free(v);
        }
    }
}

static void check_move(const char *path, page_put_fn put, page_move_fn move, rng *r) {
    for (int round = 0; round < 6; round++) {
        for (int f = 0; f < N_FORMATS; f++) {
            for (int t = 0; t < N_FORMATS; t++) {
                kv_format ff, tf;
                assert_int_equal(kv_format_parse(formats[f], &ff), OK);
                assert_int_equal(kv_format_parse(formats[t], &tf), OK);
                if (!kv_format_can_move(ff, tf) || ff.k_channels != tf.k_channels) continue;
                int d = 32 * (1 + (int)rng_below(r, 8)), unit = kv_format_item_group(ff);
                while (kv_format_check(ff, d) != OK || kv_format_check(tf, d) != OK) d = 32 * (1 + (int)rng_below(r, 8));
                page_layout from = random_layout(r, formats[f], d), to = random_layout(r, formats[t], d);
                /* one cache has one set of columns */
                assert_int_equal(page_layout_make(to.fmt, d, from.pos_bytes, from.has_score, to.page_bytes, &to), OK);
                float k[KV_TOKEN_GROUP * KV_MAX_HEAD_DIM], v[KV_TOKEN_GROUP * KV_MAX_HEAD_DIM];
                uint8_t *src = new_page(&from, 0x33), *a = new_page(&to, 0xc3), *b = new_page(&to, 0xc3);
                for (int i = 0; i < 8; i++) {
                    uint32_t pos[KV_TOKEN_GROUP];
                    int at = unit == 1 ? 0 : (int)rng_below(r, (uint32_t)unit); /* of the item in its group */
                    int s = unit * (int)rng_below(r, from.cap / (uint32_t)unit) + at, e = unit * (int)rng_below(r, to.cap / (uint32_t)unit) + at;
                    for (int j = 0; j < unit; j++) {
                        make_row(r, k + j * d, d);
                        make_row(r, v + j * d, d);
                        pos[j] = rng_below(r, 65536);
                    }
                    page_put(&from, src, s - at, unit, k, (size_t)d, v, (size_t)d, pos);
                    page_set_score(&from, src, s, rng_normal(r));
                    page_move(&from, src, s, &to, a, e);
                    move(&from, src, s, &to, b, e);
                    expect_equal(&to, a, b, path, "move");
                }
                free(src), free(a), free(b);
            }
        }
    }
}

/* All 256 codes of each width narrow as the reference narrows them. */
static void check_codes(const char *path, page_put_fn put, page_move_fn move, rng *r) {
    static const char *const pairs[][2] = {
        {"k8v8", "k4v4"}, {"k8v8", "k2v2"}, {"k4v4", "k2v2"}, {"k8v8", "k8v2"}, {"k8v4", "k4v4"}, {"k8v8", "k1v1"}, {"k4v4", "k1v1"},
        {"k2v2", "k1v1"}};
    for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++) {
        kv_format ff, tf;
        page_layout from, to;
        assert_int_equal(kv_format_parse(pairs[p][0], &ff), OK);
        assert_int_equal(kv_format_parse(pairs[p][1], &tf), OK);
        assert_int_equal(page_layout_make(ff, 256, 0, false, 32768, &from), OK);
        assert_int_equal(page_layout_make(tf, 256, 0, false, 32768, &to), OK);
        float x[256], ka[256], va[256], kb[256], vb[256];
        for (int i = 0; i < 256; i++) x[i] = (float)i;
        uint8_t *src = new_page(&from, 0), *a = new_page(&to, 0), *b = new_page(&to, 0);
        page_put(&from, src, 1, 1, x, 256, x, 256, NULL);
        page_move(&from, src, 1, &to, a, 6);
        move(&from, src, 1, &to, b, 6);
        expect_equal(&to, a, b, path, "narrowing");
        page_get(&to, a, 6, ka, va);
        page_get(&to, b, 6, kb, vb);
        for (int i = 0; i < 256; i++) { /* within half a step of what stood there (two steps may add up) */
            float step = 255.0f / (float)((1 << tf.k_bits) - 1), before = 255.0f / (float)((1 << ff.k_bits) - 1);
            assert_true(fabsf(ka[i] - x[i]) <= step / 2 + before / 2);
            assert_true(ka[i] == kb[i] && va[i] == vb[i]);
        }
        free(src), free(a), free(b);
    }
}

static void put_equals_the_reference(void **state) {
    for_each_path(check_put);
}
static void move_equals_the_reference(void **state) {
    for_each_path(check_move);
}
static void every_code_is_narrowed_like_the_reference(void **state) {
    for_each_path(check_codes);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(put_equals_the_reference),
        cmocka_unit_test(move_equals_the_reference),
        cmocka_unit_test(every_code_is_narrowed_like_the_reference),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
