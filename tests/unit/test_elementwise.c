/* Row operations: every path has the bits of the reference, which is judged in f64. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "backend/backend.h"
#include "base/half.h"
#include "base/rng.h"
#include "kernels/cpu/vmath.h"
#include "tests/support/seed.h"

enum { MAX_ISAS = 8 };

/* ---- vmath ---- */
TARGET_AVX2 static void exp_avx2(const float *x, float *y) {
    _mm256_storeu_ps(y, vexp_x8(_mm256_loadu_ps(x)));
    _mm256_storeu_ps(y + 8, vexp_x8(_mm256_loadu_ps(x + 8)));
}
TARGET_AVX512 static void exp_avx512(const float *x, float *y) {
    _mm512_storeu_ps(y, vexp_x16(_mm512_loadu_ps(x)));
}
TARGET_AVX2 static float sum_avx2(const float *x) {
    return vsum16_x8(_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8));
}
TARGET_AVX512 static float sum_avx512(const float *x) {
    return vsum16_x16(_mm512_loadu_ps(x));
}

static double ulps(float got, double want) {
    int e;
    frexp(want, &e);
    return fabs((double)got - want) / ldexp(1, e - 24 < -149 ? -149 : e - 24);
}

static void exp_is_within_two_ulp_and_equal_on_all_paths(void **state) {
    rng r = rng_make(seed_get(), 1);
    for (int round = 0; round < 40000; round++) {
        float x[16], y[16], v[16];
        for (int i = 0; i < 16; i++) /* any bit pattern, or the range that matters */
            x[i] = i & 1 ? f32_from_bits((uint32_t)rng_u64(&r)) : (float)(rng_uniform(&r) * 200 - 110);
        for (int i = 0; i < 16; i++) {
            y[i] = vexp(x[i]);
            double want = exp((double)x[i]);
            if (isnan(x[i]))
                assert_true(isnan(y[i]));
            else if (want > 0x1.fffffefp127) /* rounds to infinity, give or take the error */
                assert_true(y[i] >= 0x1.fffff0p127f);
            else if (ulps(y[i], want) > 2)
                fail_msg("exp(%a) = %a, %.3f ulp off", x[i], y[i], ulps(y[i], want));
        }
        if (isa_present(ISA_AVX2)) {
            exp_avx2(x, v);
            assert_memory_equal(v, y, sizeof y);
        }
        if (isa_present(ISA_AVX512)) {
            exp_avx512(x, v);
            assert_memory_equal(v, y, sizeof y);
        }
    }
    assert_true(vexp(0) == 1 && vexp(-0.0f) == 1 && vexp(-INFINITY) == 0 && vexp(INFINITY) == INFINITY);
    assert_true(vexp(-104) == 0 && vexp(-200) == 0 && vexp(-100) > 0 && vexp(100) == INFINITY);
}
static void lane_sums_are_equal_on_all_paths(void **state) {
    rng r = rng_make(seed_get(), 2);
    for (int round = 0; round < 1000; round++) {
        float x[16];
        double sum = 0, magnitude = 0;
        for (int i = 0; i < 16; i++) {
            x[i] = rng_normal(&r) * ldexpf(1, (int)rng_below(&r, 20));
            sum += x[i];
            magnitude += fabs(x[i]);
        }
        float s = vsum16(x);
        assert_true(fabs(s - sum) <= magnitude * 4 * 0x1p-24);
        if (isa_present(ISA_AVX2)) assert_int_equal(f32_bits(sum_avx2(x)), f32_bits(s));
        if (isa_present(ISA_AVX512)) assert_int_equal(f32_bits(sum_avx512(x)), f32_bits(s));
    }
}

/* ---- ops, on every path and with 1 to 3 threads ---- */
typedef struct op_args {
    const backend *b;
    const float *x, *w;
    float *y;
    int m, n, n_heads;
    size_t ldx;
    const rope_table *table;
    const uint32_t *pos;
} op_args;
static void do_rms_norm(const par *p, void *arg) {
    op_args *a = arg;
    a->b->rms_norm(p, a->x, a->w, 1e-5f, a->m, a->n, a->y);
}
/* Rows of no whole block: nothing is prepared. */
static void gate(const par *p, const op_args *a, bool gelu) {
    act rows = {.m = a->m, .k = a->n, .x = a->y};
    a->b->gate_prepare(p, gelu, a->x, a->w, a->y, &rows);
}
static void do_silu_mul(const par *p, void *arg) { gate(p, arg, false); }
static void do_gelu_mul(const par *p, void *arg) { gate(p, arg, true); }
static void do_rope(const par *p, void *arg) {
    op_args *a = arg;
    a->b->rope(p, a->table, a->pos, a->y, a->ldx, a->m, a->n_heads, a->n);
}
static void do_round_f16(const par *p, void *arg) {
    const op_args *a = arg;
    a->b->round_f16(p, a->y, (size_t)a->n);
}
/* Runs `op` on the reference, result in args->y; then all paths and teams must leave the same `size` floats. */
static void check_op(void (*op)(const par *, void *), op_args *args, size_t size) {
    const char *isas[MAX_ISAS];
    int n_isas = backend_isas(isas, MAX_ISAS);
    float *want = args->y, *before = malloc(size * sizeof *before);
    memcpy(before, want, size * sizeof *before);
    assert_int_equal(backend_find("reference", "auto", MATH_EXACT, &args->b), OK);
    op(&par_single, args);
    for (int i = 0; i < n_isas; i++)
        for (int threads = 1; threads <= 3; threads++) {
            args->y = malloc(size * sizeof *before);
            memcpy(args->y, before, size * sizeof *before);
            assert_int_equal(backend_find("cpu", isas[i], threads & 1 ? MATH_FAST : MATH_EXACT, &args->b), OK);
            par_run(threads, op, args);
            if (memcmp(args->y, want, size * sizeof *want)) fail_msg("%s with %d threads differs", isas[i], threads);
            free(args->y);
        }
    args->y = want;
    free(before);
}
static float *random_floats(rng *r, size_t n, float scale) {
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = rng_normal(r) * scale;
    return x;
}

static void rms_norm_is_right(void **state) {
    rng r = rng_make(seed_get(), 3);
    static const int widths[] = {1, 7, 8, 9, 64, 576, 1001};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (int m = 1; m <= 5; m += 2) {
            int n = widths[i];
            float *x = random_floats(&r, (size_t)(m * n), 3), *w = random_floats(&r, (size_t)n, 1);
            float *y = malloc(sizeof *y * (size_t)(m * n));
            memset(y, 0, sizeof *y * (size_t)(m * n));
            op_args a = {.x = x, .w = w, .y = y, .m = m, .n = n};
            check_op(do_rms_norm, &a, (size_t)(m * n));
            for (int row = 0; row < m; row++) {
                double sum = 0;
                for (int k = 0; k < n; k++) sum += (double)x[row * n + k] * x[row * n + k];
                for (int k = 0; k < n; k++) {
                    double want = x[row * n + k] / sqrt(sum / n + 1e-5f) * w[k];
                    assert_true(fabs(y[row * n + k] - want) <= fabs(want) * 2 * 0x1p-23 + 1e-40);
                }
            }
            free(x);
            free(w);
            free(y);
        }
}
static void silu_mul_is_right(void **state) {
    rng r = rng_make(seed_get(), 4);
    for (int n = 1; n < 300; n += 1 + (int)rng_below(&r, 20)) {
        if (n % 32 == 0) continue;
        int m = 1 + n % 3, size = m * n;
        float *gate = random_floats(&r, (size_t)size, 8), *up = random_floats(&r, (size_t)size, 1);
        if (n > 3) gate[n / 2] = -120, gate[n / 3] = 0;
        float *y = malloc(sizeof *y * (size_t)size);
        memset(y, 0, sizeof *y * (size_t)size);
        op_args a = {.x = gate, .w = up, .y = y, .m = m, .n = n};
        check_op(do_silu_mul, &a, (size_t)size);
        for (int i = 0; i < size; i++) {
            double want = gate[i] / (1 + exp(-(double)gate[i])) * up[i];
            assert_true(fabs(y[i] - want) <= fabs(want) * 4 * 0x1p-23 + 1e-36);
        }
        free(gate);
        free(up);
        free(y);
    }
}
/* Against the definition with tanh, in f64. For large negative gates 1 + tanh cancels, so the bound there is absolute. */
static void gelu_mul_is_right(void **state) {
    rng r = rng_make(seed_get(), 7);
    for (int n = 1; n < 300; n += 1 + (int)rng_below(&r, 20)) {
        if (n % 32 == 0) continue;
        int m = 1 + n % 3, size = m * n;
        float *gate = random_floats(&r, (size_t)size, 4), *up = random_floats(&r, (size_t)size, 1);
        if (n > 3) gate[n / 2] = -60, gate[n / 3] = 0;
        float *y = malloc(sizeof *y * (size_t)size);
        memset(y, 0, sizeof *y * (size_t)size);
        op_args a = {.x = gate, .w = up, .y = y, .m = m, .n = n};
        check_op(do_gelu_mul, &a, (size_t)size);
        for (int i = 0; i < size; i++) {
            double g = gate[i], z = sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g), want = 0.5 * g * (1 + tanh(z)) * up[i];
            assert_true(fabs(y[i] - want) <= fabs(want) * 16 * 0x1p-23 + fabs(g * up[i]) * 0x1p-22);
        }
        free(gate);
        free(up);
        free(y);
    }
}
static void rope_rotates_pairs_and_nothing_else(void **state) {
    rng r = rng_make(seed_get(), 5);
    enum { N_POS = 50 };
    for (int round = 0; round < 60; round++) {
        const int head_dim = 2 * (1 + (int)rng_below(&r, 40)),
                  n_dims = 2 * (1 + (int)rng_below(&r, (uint32_t)head_dim / 2));
        const int m = 1 + (int)rng_below(&r, 5), n_heads = 1 + (int)rng_below(&r, 4);
        const size_t ldx = (size_t)(head_dim * n_heads) + rng_below(&r, 9);
        const size_t size = (size_t)(m - 1) * ldx + (size_t)(head_dim * n_heads);
        float *cos_t = malloc(sizeof(float) * (size_t)(N_POS * n_dims / 2)),
              *sin_t = malloc(sizeof(float) * (size_t)(N_POS * n_dims / 2));
        for (int pos = 0; pos < N_POS; pos++)
            for (int i = 0; i < n_dims / 2; i++) {
                double angle = pos * pow(1e4, -2.0 * i / n_dims);
                cos_t[pos * n_dims / 2 + i] = (float)cos(angle);
                sin_t[pos * n_dims / 2 + i] = (float)sin(angle);
            }
        rope_table t = {cos_t, sin_t, N_POS, n_dims, rng_below(&r, 2)};
        uint32_t pos[8];
        for (int i = 0; i < m; i++) pos[i] = rng_below(&r, N_POS);
        float *x = random_floats(&r, size, 1), *before = malloc(size * sizeof *before);
        memcpy(before, x, size * sizeof *x);
        op_args a = {.y = x, .m = m, .n = head_dim, .n_heads = n_heads, .ldx = ldx, .table = &t, .pos = pos};
        check_op(do_rope, &a, size);
        for (size_t at = 0; at < size; at++) {
            size_t row = at / ldx, col = at % ldx, ch = col % (size_t)head_dim;
            if (col >= (size_t)(head_dim * n_heads) || ch >= (size_t)n_dims) {
                assert_int_equal(f32_bits(x[at]), f32_bits(before[at]));
                continue;
            }
            size_t half = (size_t)n_dims / 2, i = t.neox ? ch % half : ch / 2;
            bool first = t.neox ? ch < half : ch % 2 == 0;
            size_t other = t.neox ? (first ? at + half : at - half) : (first ? at + 1 : at - 1);
            double angle = pos[row] * pow(1e4, -2.0 * (double)i / n_dims), u = before[at], v = before[other];
            double want = u * cos(angle) + (first ? -v : v) * sin(angle);
            assert_true(fabs(x[at] - want) <= (fabs(u) + fabs(v)) * 4 * 0x1p-24);
        }
        free(x);
        free(before);
        free(cos_t);
        free(sin_t);
    }
}

/* Any bit pattern, and the values between which f16 rounds, overflows or becomes subnormal. */
static void round_f16_is_the_same_everywhere(void **state) {
    rng r = rng_make(seed_get(), 8);
    static const float edges[] = {65504, 65519.996f, 65520, -65520, 0x1p-14f, 0x1p-24f, 0x1p-25f, 0x1.000002p-25f, -0.0f, 1 + 0x1p-11f, 1 + 0x1.8p-10f};
    for (int n = 1; n < 3000; n += 1 + (int)rng_below(&r, 90)) {
        float *y = malloc(sizeof *y * (size_t)n);
        for (int i = 0; i < n; i++)
            y[i] = rng_below(&r, 3) ? f32_from_bits((uint32_t)rng_u64(&r)) : rng_below(&r, 2) ? rng_normal(&r) : edges[rng_below(&r, sizeof edges / sizeof *edges)];
        op_args a = {.y = y, .n = n};
        check_op(do_round_f16, &a, (size_t)n);
        free(y);
    }
}

/* ---- rows made and prepared together ---- */
typedef struct prepare_args {
    const backend *b;
    const float *x, *w;
    float *y;
    void *q, *again; /* of the op, and of act_prepare from y */
    int m, k, op;    /* 0: norm, 1: silu, 2: gelu */
} prepare_args;
static void do_prepare(const par *p, void *arg) {
    prepare_args *a = arg;
    act made = {a->m, a->k, a->y, a->q}, again = {a->m, a->k, a->y, a->again};
    if (a->op == 0) a->b->norm_prepare(p, a->x, a->w, 1e-5f, a->y, &made);
    else a->b->gate_prepare(p, a->op == 2, a->x, a->w, a->y, &made);
    par_barrier(p);
    a->b->act_prepare(p, &again);
}
static void assert_prepared(prepare_args *a, const char *isa, int threads, const float *y, const void *q) {
    size_t n = (size_t)a->m * (size_t)a->k, bytes;
    assert_int_equal(backend_find(isa ? "cpu" : "reference", isa ? isa : "auto", MATH_FAST, &a->b), OK);
    bytes = a->b->act_bytes(a->m, a->k);
    memset(a->y, 0, n * sizeof *a->y);
    memset(a->q, 0, bytes);
    memset(a->again, 0, bytes);
    par_run(threads, do_prepare, a);
    const char *name = isa ? isa : "reference";
    if (y && memcmp(a->y, y, n * sizeof *y)) fail_msg("op %d, %d rows of %d: %s with %d threads differs", a->op, a->m, a->k, name, threads);
    if (q && memcmp(a->q, q, bytes)) fail_msg("op %d, %d rows of %d: %s with %d threads prepares otherwise", a->op, a->m, a->k, name, threads);
    if (memcmp(a->q, a->again, bytes)) fail_msg("op %d, %d rows of %d: %s prepares rows otherwise than act_prepare", a->op, a->m, a->k, name);
}
static void rows_are_prepared_as_by_themselves(void **state) {
    static const int widths[] = {32, 64, 96, 128, 160, 224, 576, 1536};
    static const float special[] = {0, 0, 1e-33f, 1e-42f, 1e38f, INFINITY, NAN};
    const char *isas[MAX_ISAS];
    int n_isas = backend_isas(isas, MAX_ISAS);
    rng r = rng_make(seed_get(), 8);
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (int round = 0; round < 12; round++) {
            int k = widths[i], m = 1 + (int)rng_below(&r, 7), op = round % 3;
            size_t n = (size_t)m * (size_t)k;
            float *x = random_floats(&r, n, 2), *w = random_floats(&r, op ? n : (size_t)k, 1);
            for (int b = 0; b < m * k / 32; b++) /* some blocks are not ordinary */
                if (op && rng_below(&r, 4) == 0) {
                    float v = special[rng_below(&r, 7)];
                    for (int c = 0; c < 32; c++)
                        if (v < 1 || c == 5) w[b * 32 + c] = v;
                }
            prepare_args a = {.x = x, .w = w, .m = m, .k = k, .op = op};
            size_t bytes = (n / 32 + 1) * 256;
            float *want = malloc(n * sizeof *want);
            void *want_q = malloc(bytes);
            a.y = malloc(n * sizeof *a.y), a.q = malloc(bytes), a.again = malloc(bytes);
            assert_prepared(&a, NULL, 1, NULL, NULL);
            memcpy(want, a.y, n * sizeof *want);
            memcpy(want_q, a.q, bytes);
            for (int j = 0; j < n_isas; j++)
                for (int threads = 1; threads <= 3; threads++) assert_prepared(&a, isas[j], threads, want, want_q);
            free(x), free(w), free(want), free(want_q), free(a.y), free(a.q), free(a.again);
        }
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_two_ulp_and_equal_on_all_paths),
        cmocka_unit_test(lane_sums_are_equal_on_all_paths),
        cmocka_unit_test(rms_norm_is_right),
        cmocka_unit_test(silu_mul_is_right),
        cmocka_unit_test(gelu_mul_is_right),
        cmocka_unit_test(rows_are_prepared_as_by_themselves),
        cmocka_unit_test(rope_rotates_pairs_and_nothing_else),
        cmocka_unit_test(round_f16_is_the_same_everywhere),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
