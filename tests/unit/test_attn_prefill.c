/* Prefill attention: every path against f64 by the definition; rows depend on nothing but themselves. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/support/attn_paths.h"
#include "tests/support/seed.h"

/* Every path, and that on bf16 tiles behind them. */
enum { MAX_PATHS = 5 };
static int prefill_paths(attn_path out[MAX_PATHS]) {
    int n = attn_paths(out);
    if (isa_present(ISA_AVX512_BF16)) out[n++] = (attn_path){"avx512-bf16", attn_prefill_avx512_bf16, NULL, NULL, NULL};
    return n;
}

typedef struct prompt {
    attn_prefill a;
    float *q, *k, *v;
} prompt;

static prompt prompt_make(rng *r, int n_tokens, int n_kv, int group, int d) {
    size_t n = (size_t)n_tokens * (size_t)n_kv * (size_t)d;
    prompt x = {.q = attn_random(r, n * (size_t)group, 1.5f), .k = attn_random(r, n, 1.5f), .v = attn_random(r, n, 1.0f)};
    x.a = (attn_prefill){.q = x.q, .k = x.k, .v = x.v, .n_tokens = n_tokens, .n_heads = n_kv * group, .n_kv = n_kv,
                         .head_dim = d, .scale = 1.0f / sqrtf((float)d)};
    return x;
}
static void prompt_free(prompt *x) {
    free(x->q);
    free(x->k);
    free(x->v);
}
static size_t out_floats(const attn_prefill *a) { return (size_t)a->n_tokens * (size_t)a->n_heads * (size_t)a->head_dim; }

/* Runs a path into fresh exact-size buffers. */
static float *run(const attn_path *path, attn_prefill a, int n_threads, float **lse) {
    a.out = malloc(out_floats(&a) * sizeof(float));
    a.lse = lse ? *lse = malloc((size_t)a.n_tokens * (size_t)a.n_heads * sizeof(float)) : NULL;
    attn_call_run(path, 'p', &a, n_threads);
    return a.out;
}

/* One output row of one head in f64, with sum p |v| as the scale of its rounding errors. */
static double oracle(const attn_prefill *a, int row, int h, double *out, double *scale) {
    int d = a->head_dim, kv = h / (a->n_heads / a->n_kv);
    const float *q = a->q + ((size_t)row * (size_t)a->n_heads + (size_t)h) * (size_t)d;
    const float *k = a->k + (size_t)kv * (size_t)a->n_tokens * (size_t)d, *v = a->v + (k - a->k);
    double sum = 0;
    for (int c = 0; c < d; c++) out[c] = scale[c] = 0;
    for (int t = a->window && row >= a->window ? row - a->window + 1 : 0; t <= row; t++) {
        double s = 0;
        for (int c = 0; c < d; c++) s += (double)q[c] * (double)k[t * d + c];
        double e = exp(s * (double)a->scale);
        sum += e;
        for (int c = 0; c < d; c++) {
            out[c] += e * (double)v[t * d + c];
            scale[c] += e * fabs((double)v[t * d + c]);
        }
    }
    for (int c = 0; c < d; c++) {
        out[c] /= sum;
        scale[c] /= sum;
    }
    return log(sum);
}

static const int head_dims[] = {64, 80, 96, 128, 256, 40, 20, 1};

static void every_path_agrees_with_f64(void **state) {
    rng r = rng_make(seed_get(), 1);
    attn_path paths[4];
    int n_paths = attn_paths(paths);
    for (int round = 0; round < 16; round++) {
        int d = round < 8 ? head_dims[round] : 64, n = 1 + (int)rng_below(&r, 200);
        prompt x = prompt_make(&r, n, 1 + (int)rng_below(&r, 3), 1 + (int)rng_below(&r, 9), d);
        double want[KV_MAX_HEAD_DIM], scale[KV_MAX_HEAD_DIM];
        for (int i = 0; i < n_paths; i++) {
            float *lse, *out = run(&paths[i], x.a, 1 + (int)rng_below(&r, 3), &lse);
            for (int k = 0; k < 40; k++) {
                int row = k == 0 ? n - 1 : (int)rng_below(&r, (uint32_t)n), h = (int)rng_below(&r, (uint32_t)x.a.n_heads);
                double want_lse = oracle(&x.a, row, h, want, scale);
                assert_true(fabs((double)lse[h * n + row] - want_lse) < 1e-5 * (1 + fabs(want_lse)));
                const float *got = out + ((size_t)row * (size_t)x.a.n_heads + (size_t)h) * (size_t)d;
                for (int c = 0; c < d; c++)
                    if (!(fabs((double)got[c] - want[c]) <= 1e-5 * scale[c]))
                        fail_msg("%s: n %d, d %d, row %d, head %d, channel %d: %g, f64 %g", paths[i].name, n, d, row, h, c,
                                 (double)got[c], want[c]);
            }
            free(out);
            free(lse);
        }
        prompt_free(&x);
    }
}

/* bf16 tiles against f64 on what was rounded: q times scale log2(e), K and V. Probabilities are rounded to 2^-8 of each. */
static void bf16_tiles_agree_with_f64_on_rounded_inputs(void **state) {
    if (!isa_present(ISA_AVX512_BF16)) skip();
    const attn_path path = {"avx512-bf16", attn_prefill_avx512_bf16, NULL, NULL, NULL};
    rng r = rng_make(seed_get(), 8);
    for (int round = 0; round < 24; round++) {
        int d = round < 8 ? head_dims[round] : 64, n = 1 + (int)rng_below(&r, 200);
        prompt x = prompt_make(&r, n, 1 + (int)rng_below(&r, 3), 1 + (int)rng_below(&r, 9), d), y = x;
        if (round % 3 == 0) x.a.window = 1 + (int)rng_below(&r, 100);
        size_t n_q = out_floats(&x.a), n_kv = n_q / (size_t)(x.a.n_heads / x.a.n_kv);
        float *q = malloc(n_q * sizeof *q), *k = malloc(n_kv * sizeof *k), *v = malloc(n_kv * sizeof *v);
        for (size_t i = 0; i < n_q; i++) q[i] = bf16_to_f32(bf16_from_f32(x.q[i] * (x.a.scale * 1.44269504f)));
        for (size_t i = 0; i < n_kv; i++) k[i] = bf16_to_f32(bf16_from_f32(x.k[i])), v[i] = bf16_to_f32(bf16_from_f32(x.v[i]));
        y.a = x.a;
        y.a.q = q, y.a.k = k, y.a.v = v, y.a.scale = 0.693147181f;
        double want[KV_MAX_HEAD_DIM], scale[KV_MAX_HEAD_DIM];
        float *lse, *out = run(&path, x.a, 1 + (int)rng_below(&r, 3), &lse);
        for (int i = 0; i < 60; i++) {
            int row = i == 0 ? n - 1 : (int)rng_below(&r, (uint32_t)n), h = (int)rng_below(&r, (uint32_t)x.a.n_heads);
            double want_lse = oracle(&y.a, row, h, want, scale);
            if (!(fabs((double)lse[h * n + row] - want_lse) < 2e-5 * (1 + fabs(want_lse))))
                fail_msg("n %d, d %d, row %d, head %d: lse %g, f64 %g", n, d, row, h, (double)lse[h * n + row], want_lse);
            const float *got = out + ((size_t)row * (size_t)x.a.n_heads + (size_t)h) * (size_t)d;
            for (int c = 0; c < d; c++)
                if (!(fabs((double)got[c] - want[c]) <= 0x1.02p-8 * scale[c] + 1e-30))
                    fail_msg("n %d, d %d, window %d, row %d, head %d, channel %d: %g, f64 %g", n, d, x.a.window, row, h, c,
                             (double)got[c], want[c]);
        }
        free(out), free(lse), free(q), free(k), free(v);
        prompt_free(&x);
    }
}

static void threads_do_not_change_a_bit(void **state) {
    rng r = rng_make(seed_get(), 2);
    attn_path paths[MAX_PATHS];
    int n_paths = prefill_paths(paths);
    for (int round = 0; round < 4; round++) {
        prompt x = prompt_make(&r, 60 + (int)rng_below(&r, 200), 1 + (int)rng_below(&r, 3), 1 + (int)rng_below(&r, 4), 64);
        size_t bytes = out_floats(&x.a) * sizeof(float), lse_bytes = (size_t)(x.a.n_tokens * x.a.n_heads) * sizeof(float);
        for (int i = 0; i < n_paths; i++) {
            float *lse1, *one = run(&paths[i], x.a, 1, &lse1);
            for (int t = 2; t <= 3; t++) {
                float *lse, *out = run(&paths[i], x.a, t, &lse);
                assert_memory_equal(out, one, bytes);
                assert_memory_equal(lse, lse1, lse_bytes);
                free(out);
                free(lse);
            }
            free(one);
            free(lse1);
        }
        prompt_free(&x);
    }
}

/* Row i of a prompt equals row i of every longer prompt, and what follows may even be NaN. */
static void a_prefix_has_the_rows_of_the_whole(void **state) {
    enum { N = 300, MAX_D = 80 };
    rng r = rng_make(seed_get(), 3);
    attn_path paths[MAX_PATHS];
    int n_paths = prefill_paths(paths);
    const int shapes[][3] = {{1, 3, 64}, {2, 1, 80}, {1, 8, 16}};
    for (int s = 0; s < 3; s++) {
        int n_kv = shapes[s][0], group = shapes[s][1], d = shapes[s][2];
        prompt x = prompt_make(&r, N, n_kv, group, d);
        float *k = malloc(sizeof(float) * (size_t)(N * n_kv * d)), *v = malloc(sizeof(float) * (size_t)(N * n_kv * d));
        size_t row_floats = (size_t)(x.a.n_heads * d);
        for (int i = 0; i < n_paths; i++) {
            float *whole = run(&paths[i], x.a, 2, NULL);
            for (int n = 1; n <= N; n += i == 0 ? 97 : s == 0 ? 1 : 7) {
                attn_prefill a = x.a;
                int n_given = n + (n % 3 == 0 && n < N); /* a third of the time one more key, of NaNs, that no row but its own sees */
                a.n_tokens = n_given;
                a.k = k;
                a.v = v;
                for (int h = 0; h < n_kv; h++) {
                    size_t to = (size_t)(h * n_given * d), from = (size_t)(h * N * d);
                    memcpy(k + to, x.k + from, (size_t)(n * d) * sizeof(float));
                    memcpy(v + to, x.v + from, (size_t)(n * d) * sizeof(float));
                    for (int c = n * d; c < n_given * d; c++) k[to + (size_t)c] = v[to + (size_t)c] = NAN;
                }
                float *out = run(&paths[i], a, 1 + n % 2, NULL);
                if (memcmp(out, whole, (size_t)n * row_floats * sizeof(float)))
                    fail_msg("%s: the first %d rows differ from those of %d (group %d, d %d)", paths[i].name, n, N, group, d);
                free(out);
            }
            free(whole);
        }
        free(k);
        free(v);
        prompt_free(&x);
    }
}

/* A pass that continues a prompt computes its own rows, with the bits of a whole pass, and touches no others. */
static void rows_from_the_middle_have_the_bits_of_a_whole_pass(void **state) {
    rng r = rng_make(seed_get(), 7);
    attn_path paths[MAX_PATHS];
    int n_paths = prefill_paths(paths);
    for (int round = 0; round < 8; round++) {
        int n = 2 + (int)rng_below(&r, 260), first = (int)rng_below(&r, (uint32_t)n), d = round % 2 ? 64 : 20;
        prompt x = prompt_make(&r, n, 1 + round % 2, 1 + (int)rng_below(&r, 4), d);
        size_t row = (size_t)x.a.n_heads * (size_t)d, bytes = sizeof(float) * row * (size_t)(n - first);
        if (round % 4 == 3) x.a.window = 1 + (int)rng_below(&r, 150);
        for (int i = 0; i < n_paths; i++) {
            float *lse, *part_lse = malloc(sizeof(float) * (size_t)(n * x.a.n_heads)), *part = malloc(sizeof(float) * row * (size_t)n);
            float *whole = run(&paths[i], x.a, 1, &lse);
            memset(part, 0xff, sizeof(float) * row * (size_t)n);
            attn_prefill a = x.a;
            a.first = first;
            a.out = part;
            a.lse = part_lse;
            attn_call_run(&paths[i], 'p', &a, 2);
            assert_memory_equal(part + (size_t)first * row, whole + (size_t)first * row, bytes);
            for (size_t c = 0; c < row * (size_t)first; c++) assert_true(isnan(part[c]));
            for (int h = 0; h < a.n_heads; h++) assert_memory_equal(part_lse + h * n + first, lse + h * n + first, sizeof(float) * (size_t)(n - first));
            free(lse);
            free(whole);
            free(part);
            free(part_lse);
        }
        prompt_free(&x);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_from_the_middle_have_the_bits_of_a_whole_pass),
        cmocka_unit_test(every_path_agrees_with_f64),
        cmocka_unit_test(bf16_tiles_agree_with_f64_on_rounded_inputs),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(a_prefix_has_the_rows_of_the_whole),
    };
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests_name("attn_prefill", tests, NULL, NULL));
}
