/* Linear layers: every path of the cpu backend gives the bits of the reference; the reference is judged in f64. */
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
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/cpu/isa.h"
#include "tests/support/linear_evex.h"
#include "tests/support/seed.h"

static const wtype types[] = {WTYPE_Q4_0, WTYPE_Q4_1, WTYPE_Q5_0, WTYPE_Q5_1, WTYPE_Q8_0, WTYPE_Q4_K,
                              WTYPE_Q5_K, WTYPE_Q6_K, WTYPE_F32,  WTYPE_F16,  WTYPE_BF16};
enum { N_TYPES = sizeof types / sizeof *types, N_QUANTISED = 8, MAX_ISAS = 8 };
static bool quantised(wtype t) {
    return t != WTYPE_F32 && t != WTYPE_F16 && t != WTYPE_BF16;
}
/* n blocks of 32 inputs, rounded up to whole blocks of the type. */
static int inputs(wtype t, int n) {
    int block = wtype_find(t)->block;
    return (32 * n + block - 1) / block * block;
}

/* ---- a random layer: weights as in a file, activations, exact-size buffers (malloc, so that ASan guards their ends)
 * ---- */
typedef enum layer_kind {
    ORDINARY,
    EXTREME
} layer_kind; /* EXTREME: codes at the ends of their range, activations all at +- max, tiny, huge */
typedef struct layer {
    weight_src src;
    float *x;
    int m;
} layer;

static layer layer_make(rng *r, wtype t, int n, int k, int m, layer_kind kind) {
    const wtype_info *info = wtype_find(t);
    size_t bytes = wtype_row_bytes(t, (size_t)k) * (size_t)n;
    uint8_t *data = malloc(bytes);
    for (size_t at = 0; at < bytes; at += (size_t)info->block_bytes) {
        uint8_t *b = data + at;
        float value = rng_normal(r) * 0.05f;
        f16 h = f16_from_f32(rng_below(r, 20) ? value : value * 1e-5f), min = f16_from_f32(rng_normal(r) * 0.3f);
        bf16 bf = bf16_from_f32(value);
        switch (t) {
        case WTYPE_F32:
            memcpy(b, &value, 4);
            break;
        case WTYPE_F16:
            memcpy(b, &h, 2);
            break;
        case WTYPE_BF16:
            memcpy(b, &bf, 2);
            break;
        case WTYPE_Q4_1:
            memcpy(b, &h, 2);
            memcpy(b + 2, &min, 2);
            for (int j = 4; j < 20; j++) b[j] = kind == EXTREME ? 255 : (uint8_t)rng_below(r, 256);
            break;
        case WTYPE_Q4_0:
        case WTYPE_Q5_0:
        case WTYPE_Q5_1:
        case WTYPE_Q4_K:
        case WTYPE_Q5_K:
        case WTYPE_Q6_K: { /* any bytes are codes and scales; the steps in f16 are small numbers */
            bool super = info->block == 256;
            h = f16_from_f32(super ? value / 32 : value);
            min = f16_from_f32(f16_to_f32(min) / (super ? 32 : 1));
            for (int j = 0; j < info->block_bytes; j++)
                b[j] = kind == EXTREME ? (rng_below(r, 50) ? 0xff : 0) : (uint8_t)rng_below(r, 256);
            memcpy(t == WTYPE_Q6_K ? b + 208 : b, &h, 2);
            if (t == WTYPE_Q5_1 || t == WTYPE_Q4_K || t == WTYPE_Q5_K) memcpy(b + 2, &min, 2);
            break;
        }
        case WTYPE_Q8_0:
            memcpy(b, &h, 2);
            for (int j = 2; j < 34; j++)
                b[j] = kind == EXTREME ? (rng_below(r, 50) ? 0x80 : 0x7f) : (uint8_t)rng_below(r, 256);
            break;
        }
    }
    layer l = {{data, t, n, k, "blk.3.test"}, malloc(sizeof(float) * (size_t)m * (size_t)k), m};
    for (size_t i = 0; i < (size_t)m * (size_t)k; i++) {
        float ordinary = rng_normal(r) * (rng_below(r, 50) ? 1 : 12);
        const float extreme[] = {
            2.5f, -2.5f, i & 1 ? 2.5f : -2.5f, ordinary * 1e-39f, ordinary * 1e-30f, ordinary * 1e30f};
        l.x[i] = kind == EXTREME ? extreme[i / (size_t)k % 6] : ordinary;
    }
    return l;
}
static void layer_free(layer *l) {
    free((void *)l->src.data);
    free(l->x);
}

/* ---- running one ---- */
typedef struct run {
    const backend *b;
    const packed_weight *w;
    act a;
    float *y;
    size_t ldy;
    bool accumulate;
} run;
static void run_body(const par *p, void *arg) {
    run *r = arg;
    act a = r->a; /* each thread passes equal arguments */
    r->b->act_prepare(p, &a);
    par_barrier(p);
    r->b->linear(p, r->w, &a, r->y, r->ldy, r->accumulate);
}
/* y [m][ldy] must be filled by the caller. */
static void apply(const backend *b, const packed_weight *w, const float *x, int m, int k, float *y, size_t ldy,
                  bool accumulate, int n_threads) {
    run r = {b, w, {m, k, x, malloc(b->act_bytes(m, k))}, y, ldy, accumulate};
    par_run(n_threads, run_body, &r);
    free(r.a.q);
}
static const backend *find(const char *name, const char *isa, math_mode math) {
    const backend *b = NULL;
    assert_int_equal(backend_find(name, isa, math, &b), OK);
    return b;
}
static packed_weight *pack(const backend *b, const layer *l) {
    packed_weight *w = NULL;
    assert_int_equal(b->weight_pack(b, &l->src, &w), OK);
    return w;
}
static float *filled(size_t n, float value) {
    float *y = malloc(sizeof *y * n);
    for (size_t i = 0; i < n; i++) y[i] = value;
    return y;
}

/* ---- the paths of this CPU, and avx-vnni in its other encoding ---- */
static void linear_in_evex(const par *p, const packed_weight *w, const act *a, float *y, size_t ldy, bool accumulate) {
    linear_fast(&linear_evex, p, w, a, y, ldy, accumulate);
}
static void exact_in_evex(const par *p, const packed_weight *w, const act *a, float *y, size_t ldy, bool accumulate) {
    linear_exact(&linear_evex, p, w, a, y, ldy, accumulate);
}
static void prepare_in_evex(const par *p, act *a) { act_prepare_fast(&linear_evex, p, a); }
static int paths_of(math_mode math, backend *out) {
    const char *isas[MAX_ISAS];
    int n = backend_isas(isas, MAX_ISAS - 1);
    for (int i = 0; i < n; i++) out[i] = *find("cpu", isas[i], math);
    if (!isa_present(ISA_AVX512)) return n;
    out[n] = *find("cpu", "avx2", math);
    out[n].isa = "avx-vnni as EVEX";
    out[n].linear = math == MATH_FAST ? linear_in_evex : exact_in_evex;
    if (math == MATH_FAST) out[n].act_prepare = prepare_in_evex;
    return n + 1;
}
static void avx_vnni_is_judged(void **state) {
    if (isa_present(ISA_AVX_VNNI) || isa_present(ISA_AVX512)) return;
    print_message("# SKIP this CPU has neither AVX-VNNI nor AVX-512 VNNI: the path avx-vnni is compiled only\n");
    skip();
}

/* ---- what must hold ---- */
static void check_paths(rng *r, wtype t, int n, int k, int m, layer_kind kind) {
    layer l = layer_make(r, t, n, k, m, kind);
    size_t ldy = (size_t)n + rng_below(r, 5), size = (size_t)(m - 1) * ldy + (size_t)n;
    bool accumulate = rng_below(r, 2);
    for (int math = 0; math < 2; math++) {
        const backend *ref = find("reference", "auto", (math_mode)math);
        packed_weight *w = pack(ref, &l);
        float *want = filled(size, 0.375f);
        apply(ref, w, l.x, m, k, want, ldy, accumulate, 1);
        ref->weight_free(w);
        backend paths[MAX_ISAS];
        for (int i = 0, n_paths = paths_of((math_mode)math, paths); i < n_paths; i++) {
            const backend *b = &paths[i];
            w = pack(b, &l);
            for (int threads = 1; threads <= 3; threads++) {
                float *y = filled(size, 0.375f);
                apply(b, w, l.x, m, k, y, ldy, accumulate, threads);
                if (memcmp(y, want, size * sizeof *y)) {
                    size_t at = 0;
                    while (f32_bits(y[at]) == f32_bits(want[at])) at++;
                    fail_msg(
                        "%s %s %s: n %d k %d m %d threads %d accumulate %d: row %zu column %zu is %a, reference %a",
                        b->isa, math ? "exact" : "fast", wtype_find(t)->name, n, k, m, threads, accumulate, at / ldy,
                        at % ldy, y[at], want[at]);
                }
                free(y);
            }
            b->weight_free(w);
        }
        free(want);
    }
    layer_free(&l);
}

static void every_path_has_the_bits_of_the_reference(void **state) {
    static const int ns[] = {1, 15, 16, 17, 31, 32, 33, 48, 50, 100}, ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 64, 100};
    rng r = rng_make(seed_get(), 1);
    for (int t = 0; t < N_TYPES; t++) {
        for (size_t i = 0; i < sizeof ms / sizeof *ms; i++)
            check_paths(&r, types[t], ns[rng_below(&r, 10)],
                        quantised(types[t]) ? inputs(types[t], 1 + (int)rng_below(&r, 9)) : 1 + (int)rng_below(&r, 300), ms[i],
                        ORDINARY);
        for (size_t i = 0; i < sizeof ns / sizeof *ns; i++)
            check_paths(&r, types[t], ns[i], quantised(types[t]) ? inputs(types[t], 1) : 1 + (int)rng_below(&r, 40),
                        ms[rng_below(&r, 9)], ORDINARY);
    }
}
static void shapes_of_the_default_model(void **state) {
    rng r = rng_make(seed_get(), 2);
    check_paths(&r, WTYPE_Q4_1, 192, 576, 7, ORDINARY);
    check_paths(&r, WTYPE_Q4_1, 64, 1536, 2, ORDINARY);
    check_paths(&r, WTYPE_Q8_0, 1000, 576, 1, ORDINARY);
}
static void extreme_codes_do_not_saturate(void **state) {
    rng r = rng_make(seed_get(), 3);
    for (int t = 0; t < N_QUANTISED; t++)
        for (int m = 1; m <= 7; m++) check_paths(&r, types[t], 33, inputs(types[t], 4), m, EXTREME);
}

static void a_row_alone_equals_the_row_in_a_batch(void **state) {
    rng r = rng_make(seed_get(), 4);
    enum { N = 70, M = 103 };
    for (int t = 0; t < N_TYPES; t++) {
        const int K = inputs(types[t], 5);
        layer l = layer_make(&r, types[t], N, K, M, ORDINARY);
        for (int math = 0; math < 2; math++) {
            backend paths[MAX_ISAS];
            for (int i = 0, n_paths = paths_of((math_mode)math, paths); i < n_paths; i++) {
                const backend *b = &paths[i];
                packed_weight *w = pack(b, &l);
                float *all = filled((size_t)M * N, 0), *one = filled(N, 0);
                apply(b, w, l.x, M, K, all, N, false, 1);
                for (int row = 0; row < M; row++) {
                    apply(b, w, l.x + row * K, 1, K, one, N, false, 1);
                    assert_memory_equal(one, all + (size_t)row * N, sizeof(float) * N);
                }
                free(all);
                free(one);
                b->weight_free(w);
            }
        }
        layer_free(&l);
    }
}

static void errors_stay_within_their_bounds(void **state) {
    rng r = rng_make(seed_get(), 5);
    enum { N = 40, M = 5 };
    for (int t = 0; t < N_TYPES; t++) {
        const int K = inputs(types[t], 9);
        layer l = layer_make(&r, types[t], N, K, M, ORDINARY);
        float *w = malloc(sizeof *w * N * (size_t)K);
        wtype_find(types[t])->decode(l.src.data, w, (size_t)N * (size_t)K);
        for (int math = 0; math < 2; math++) {
            const backend *b = find("cpu", "auto", (math_mode)math);
            packed_weight *pw = pack(b, &l);
            float *y = filled(M * N, 0);
            apply(b, pw, l.x, M, K, y, N, false, 1);
            for (int row = 0; row < M; row++)
                for (int o = 0; o < N; o++) {
                    double sum = 0, magnitude = 0, rounding = 0; /* rounding: half a step of each activation */
                    for (int k0 = 0; k0 < K; k0 += 32) {
                        double max = 0, weights = 0;
                        for (int k = k0; k < k0 + 32; k++) {
                            double xv = l.x[row * K + k], wv = w[o * K + k];
                            sum += xv * wv;
                            magnitude += fabs(xv * wv);
                            max = fmax(max, fabs(xv));
                            weights += fabs(wv);
                        }
                        rounding += max / 254 * weights * 1.0001;
                    }
                    /* minima and steps of one block may cancel: their rounding counts by the parts */
                    double bound = magnitude * (K / 32 + 34) * 0x1p-24;
                    if (math == MATH_FAST && quantised(types[t])) bound = rounding + 64 * bound;
                    double error = fabs((double)y[row * N + o] - sum);
                    if (error > bound)
                        fail_msg("type %s math %d: error %g, bound %g", wtype_find(types[t])->name, math, error, bound);
                }
            free(y);
            b->weight_free(pw);
        }
        free(w);
        layer_free(&l);
    }
}

static void values_that_are_not_finite_stay_in_their_row(void **state) {
    const char *isas[MAX_ISAS];
    int n_isas = backend_isas(isas, MAX_ISAS);
    rng r = rng_make(seed_get(), 6);
    enum { N = 33, M = 6 };
    for (int t = 0; t < N_TYPES; t++)
        for (int i = 0; i < n_isas; i++)
            for (int math = 0; math < 2; math++) {
                const int K = inputs(types[t], 2);
                layer l = layer_make(&r, types[t], N, K, M, ORDINARY);
                const backend *b = find("cpu", isas[i], (math_mode)math);
                packed_weight *w = pack(b, &l);
                float *clean = filled(M * N, 0), *y = filled(M * N, 0);
                apply(b, w, l.x, M, K, clean, N, false, 1);
                l.x[1 * K + 5] = NAN;
                l.x[3 * K + 40] = -INFINITY;
                memset(l.x + 4 * K, 0, (size_t)K * sizeof(float));
                for (int k = 0; k < K; k++) l.x[5 * K + k] *= 1e-39f; /* 127 / max would overflow */
                apply(b, w, l.x, M, K, y, N, false, 1);
                for (int o = 0; o < N; o++) {
                    assert_true(isnan(y[1 * N + o]));
                    assert_false(isfinite(y[3 * N + o]));
                    assert_true(y[4 * N + o] == 0);
                    assert_true(fabsf(y[5 * N + o]) < 1e-34f);
                }
                assert_memory_equal(y, clean, N * sizeof *y);
                assert_memory_equal(y + 2 * N, clean + 2 * N, N * sizeof *y);
                free(clean);
                free(y);
                b->weight_free(w);
                layer_free(&l);
            }
}

static void weights_that_cannot_be_packed_are_named(void **state) {
    static const char zeros[4096];
    static const char *const names[] = {"cpu", "reference"};
    for (int i = 0; i < 2; i++) {
        const backend *b = find(names[i], "auto", MATH_FAST);
        packed_weight *w = NULL;
        weight_src src = {zeros, (wtype)10, 4, 256, "blk.0.attn_q.weight"};
        assert_int_equal(b->weight_pack(b, &src, &w), ERR_UNSUPPORTED);
        assert_non_null(strstr(err_text(), "blk.0.attn_q.weight"));
        assert_non_null(strstr(err_text(), "Q2_K"));
        assert_non_null(strstr(err_text(), "Q8_0"));
        src = (weight_src){zeros, WTYPE_Q8_0, 2, 40, "output.weight"};
        assert_int_equal(b->weight_pack(b, &src, &w), ERR_UNSUPPORTED);
        assert_non_null(strstr(err_text(), "output.weight"));
        assert_non_null(strstr(err_text(), "40"));
        src = (weight_src){zeros, WTYPE_F32, 0, 4, "empty"};
        assert_int_equal(b->weight_pack(b, &src, &w), ERR_UNSUPPORTED);
        assert_non_null(strstr(err_text(), "0 x 4"));
        src = (weight_src){zeros, WTYPE_Q6_K, 2, 320, "blk.1.ffn_up.weight"};
        assert_int_equal(b->weight_pack(b, &src, &w), ERR_UNSUPPORTED);
        assert_non_null(strstr(err_text(), "blk.1.ffn_up.weight"));
        assert_non_null(strstr(err_text(), "256"));
        assert_null(w);
    }
    /* the packed form of Q4_0 holds -8 steps in f16 */
    uint8_t block[18] = {0xff, 0x7b}; /* 65504 */
    weight_src src = {block, WTYPE_Q4_0, 1, 32, "output.weight"};
    packed_weight *w = NULL;
    const backend *b = find("cpu", "auto", MATH_FAST);
    assert_int_equal(b->weight_pack(b, &src, &w), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "65504"));
    assert_null(w);
}
static void packing_counts_its_bytes_and_survives_lack_of_memory(void **state) {
    rng r = rng_make(seed_get(), 7);
    static const char *const names[] = {"cpu", "reference"};
    layer l = layer_make(&r, WTYPE_Q4_1, 64, 96, 1, ORDINARY);
    size_t before = mem_live_bytes(MEM_WEIGHTS);
    for (int i = 0; i < 2; i++) {
        const backend *b = find(names[i], "auto", MATH_FAST);
        for (int n = 1; n <= 2; n++) {
            packed_weight *w = NULL;
            mem_fail_nth(n);
            assert_int_equal(b->weight_pack(b, &l.src, &w), ERR_NOMEM);
            assert_null(w);
            assert_true(mem_live_bytes(MEM_WEIGHTS) == before);
        }
        mem_fail_nth(0);
        packed_weight *w = pack(b, &l);
        assert_true(b->weight_bytes(w) == 64 * 96 * 20 / 32);
        assert_true(mem_live_bytes(MEM_WEIGHTS) >= before + b->weight_bytes(w));
        b->weight_free(w);
        assert_true(mem_live_bytes(MEM_WEIGHTS) == before);
        b->weight_free(NULL);
    }
    layer_free(&l);
}

/* Gathered into one run the same weights give the same bits, are counted once, and go as they came. */
static void gathered_weights_are_the_same_weights(void **state) {
    const wtype types[] = {WTYPE_Q4_1, WTYPE_Q8_0, WTYPE_F32, WTYPE_Q6_K};
    enum { N = 4, ROWS = 70, COLS = 512, M = 3 };
    rng r = rng_make(seed_get(), 40);
    const backend *b = find("cpu", "auto", MATH_FAST);
    size_t before = mem_live_bytes(MEM_WEIGHTS), bytes = 0;
    layer l[N];
    packed_weight *w[N];
    float *want[N];
    for (int i = 0; i < N; i++) {
        l[i] = layer_make(&r, types[i], ROWS, COLS, M, 0);
        w[i] = pack(b, &l[i]);
        bytes += b->weight_bytes(w[i]);
        want[i] = filled(M * ROWS, 0);
        apply(b, w[i], l[i].x, M, COLS, want[i], ROWS, false, 1);
    }
    size_t packed = mem_live_bytes(MEM_WEIGHTS);
    void *run = NULL;
    assert_int_equal(b->weight_gather(w, N, &run), OK);
    assert_non_null(run);
    size_t gathered = mem_live_bytes(MEM_WEIGHTS);
    assert_true(gathered >= before + bytes && gathered <= packed + 64 * N + 128);
    for (int i = 0; i < N; i++) {
        float *y = filled(M * ROWS, 0);
        apply(b, w[i], l[i].x, M, COLS, y, ROWS, false, 2);
        assert_memory_equal(y, want[i], sizeof *y * M * ROWS);
        free(y), free(want[i]);
        b->weight_free(w[i]);
        layer_free(&l[i]);
    }
    b->weight_run_free(run);
    assert_int_equal(mem_live_bytes(MEM_WEIGHTS), before);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(avx_vnni_is_judged),
        cmocka_unit_test(gathered_weights_are_the_same_weights),
        cmocka_unit_test(every_path_has_the_bits_of_the_reference),
        cmocka_unit_test(shapes_of_the_default_model),
        cmocka_unit_test(extreme_codes_do_not_saturate),
        cmocka_unit_test(a_row_alone_equals_the_row_in_a_batch),
        cmocka_unit_test(errors_stay_within_their_bounds),
        cmocka_unit_test(values_that_are_not_finite_stay_in_their_row),
        cmocka_unit_test(weights_that_cannot_be_packed_are_named),
        cmocka_unit_test(packing_counts_its_bytes_and_survives_lack_of_memory),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
