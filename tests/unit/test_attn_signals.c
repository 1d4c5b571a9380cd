/* Column sums of attention, forms of items, output changes: every path against their definitions in f64; the same bits for any threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/half.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/signals.h"
#include "tests/support/attn_paths.h"
#include "tests/support/seed.h"

typedef struct path {
    const char *name;
    void (*columns)(const par *p, const attn_columns *a);
    void (*form)(const par *p, const item_form *a);
    void (*change)(const par *p, const attn_change *a);
} path;

static int all_paths(path out[4]) {
    int n = 0;
    out[n++] = (path){"reference", attn_columns_reference, item_form_reference, attn_change_reference};
    out[n++] = (path){"scalar", attn_columns_scalar, item_form_scalar, attn_change_scalar};
    if (isa_present(ISA_AVX2)) out[n++] = (path){"avx2", attn_columns_avx2, item_form_avx2, attn_change_avx2};
    if (isa_present(ISA_AVX512)) out[n++] = (path){"avx512", attn_columns_avx512, item_form_avx512, attn_change_avx512};
    return n;
}

typedef struct call {
    const path *with;
    attn_columns *columns;
    item_form *form;
    attn_change *change;
} call;

static void call_body(const par *p, void *arg) {
    call *c = arg;
    if (c->columns) c->with->columns(p, c->columns);
    if (c->form) c->with->form(p, c->form);
    if (c->change) c->with->change(p, c->change);
}

static void run(call c, int head_dim, int threads) {
    size_t bytes = signal_scratch_bytes(head_dim, threads);
    void *scratch = malloc(bytes);
    memset(scratch, 0xff, bytes);
    if (c.columns) c.columns->scratch = scratch;
    if (c.form) c.form->scratch = scratch;
    if (c.change) c.change->scratch = scratch;
    par_run(threads, call_body, &c);
    free(scratch);
}

typedef struct moments_call {
    void (*op)(const par *p, const row_moments *a);
    row_moments a;
} moments_call;
static void moments_body(const par *p, void *arg) {
    const moments_call *c = arg;
    c->op(p, &c->a);
}

typedef struct data { /* a whole causal prompt, of which a row sees the last `window` tokens if that is not 0 */
    int n, n_kv, group, n_heads, d;
    float *q, *k, *v, *o, *lse; /* q, o [n][n_heads][d]; lse [n_heads][n] */
    double *p;                  /* [n_heads][n][n] */
} data;

static data data_make(rng *r, int n, int n_kv, int group, int d, int window) {
    data x = {n, n_kv, group, n_kv * group, d, NULL, NULL, NULL, NULL, NULL, NULL};
    size_t rows = (size_t)(n * x.n_heads);
    x.q = attn_random(r, rows * (size_t)d, 1.5f);
    x.k = attn_random(r, (size_t)(n_kv * n * d), 1.5f);
    x.v = attn_random(r, (size_t)(n_kv * n * d), 1);
    x.o = malloc(rows * (size_t)d * sizeof(float));
    x.lse = malloc(rows * sizeof(float));
    x.p = calloc(rows * (size_t)n, sizeof(double));
    for (int h = 0; h < x.n_heads; h++)
        for (int i = 0; i < n; i++) {
            const float *q = x.q + (i * x.n_heads + h) * d, *k = x.k + h / group * n * d, *v = x.v + h / group * n * d;
            double *p = x.p + ((size_t)h * (size_t)n + (size_t)i) * (size_t)n, sum = 0;
            int from = window && i >= window ? i - window + 1 : 0;
            for (int t = from; t <= i; t++) {
                double s = 0;
                for (int c = 0; c < d; c++) s += (double)q[c] * (double)k[t * d + c];
                sum += p[t] = exp(s / sqrt(d));
            }
            for (int t = 0; t <= i; t++) p[t] /= sum;
            x.lse[h * n + i] = (float)log(sum);
            for (int c = 0; c < d; c++) {
                double o = 0;
                for (int t = 0; t <= i; t++) o += p[t] * (double)v[t * d + c];
                x.o[(i * x.n_heads + h) * d + c] = (float)o;
            }
        }
    return x;
}

static void data_free(data *x) {
    free(x->q);
    free(x->k);
    free(x->v);
    free(x->o);
    free(x->lse);
    free(x->p);
}

static void assert_near(const char *path, const char *what, int at, float have, double want, double bound) {
    if (!(fabs((double)have - want) <= bound)) fail_msg("%s: %s: %d has %g, f64 %g", path, what, at, (double)have, want);
}

/* bf16 tiles against f64 on what was rounded, q times scale log2(e) and K; with the log-sum-exp of the same scores, as attention gives it. */
static void columns_on_bf16_tiles_agree_with_f64_on_rounded_inputs(void **state) {
    rng r = rng_make(seed_get(), 9);
    const path with = {"avx512-bf16", attn_columns_avx512_bf16, NULL, NULL};
    if (!isa_present(ISA_AVX512_BF16)) {
        print_message("# SKIP this CPU has no AVX-512 BF16\n");
        skip();
    }
    for (int round = 0; round < 24; round++) {
        data x = data_make(&r, 1 + (int)rng_below(&r, round < 20 ? 150 : 300), 1 + (int)rng_below(&r, 2), 1 + (int)rng_below(&r, 8), (const int[]){64, 20, 80, 33}[round % 4], 0);
        float scale = 1 / sqrtf((float)x.d), *out = malloc(sizeof(float) * (size_t)(x.n_heads * x.n)), *again = malloc(sizeof(float) * (size_t)(x.n_heads * x.n));
        int lag = round % 5 == 1 ? (int)rng_below(&r, 30) : 0, power = 1 + round % 2, max = round % 3 == 2, window = round % 4 ? 0 : 1 + (int)rng_below(&r, (uint32_t)x.n);
        for (int h = 0; h < x.n_heads; h++)
            for (int i = 0; i < x.n; i++) {
                const float *q = x.q + (i * x.n_heads + h) * x.d, *k = x.k + h / x.group * x.n * x.d;
                double *p = x.p + ((size_t)h * (size_t)x.n + (size_t)i) * (size_t)x.n, sum = 0;
                int from = window && i >= window ? i - window + 1 : 0;
                for (int t = 0; t < from; t++) p[t] = 0;
                for (int t = from; t <= i; t++) {
                    double s = 0;
                    for (int c = 0; c < x.d; c++)
                        s += (double)bf16_to_f32(bf16_from_f32(q[c] * (scale * 1.44269504f))) * (double)bf16_to_f32(bf16_from_f32(k[t * x.d + c]));
                    sum += p[t] = exp2(s);
                }
                for (int t = from; t <= i; t++) p[t] /= sum;
                x.lse[h * x.n + i] = (float)log(sum);
            }
        attn_columns a = {.q = x.q, .lse = x.lse, .k = x.k, .out = out, .ld_lse = (size_t)x.n, .n_rows = x.n, .n_tokens = x.n, .n_heads = x.n_heads,
                          .n_kv = x.n_kv, .head_dim = x.d, .scale = scale, .power = power, .lag = lag, .window = window, .max = max};
        run((call){.with = &with, .columns = &a}, x.d, 1);
        for (int h = 0; h < x.n_heads; h++)
            for (int t = 0; t < x.n; t++) {
                double want = 0;
                for (int i = t + lag; i < x.n; i++) {
                    double v = pow(x.p[((size_t)h * (size_t)x.n + (size_t)i) * (size_t)x.n + (size_t)t], power);
                    want = max ? fmax(want, v) : want + v;
                }
                assert_near(with.name, "column", h * x.n + t, out[h * x.n + t], want, 4e-5 * want);
            }
        a.out = again;
        run((call){.with = &with, .columns = &a}, x.d, 3);
        assert_memory_equal(out, again, sizeof(float) * (size_t)(x.n_heads * x.n));
        /* the largest of a group, row by row, is the f32 tiles' work on this path too, and writes a row per KV head */
        const path plain = {"avx512-vnni", attn_columns_avx512, NULL, NULL};
        size_t n_kv_out = (size_t)(x.n_kv * x.n);
        a.group_max = true;
        for (size_t i = n_kv_out; i < (size_t)(x.n_heads * x.n); i++) again[i] = -7;
        run((call){.with = &with, .columns = &a}, x.d, 1);
        for (size_t i = n_kv_out; i < (size_t)(x.n_heads * x.n); i++) assert_true(again[i] == -7);
        a.out = out;
        run((call){.with = &plain, .columns = &a}, x.d, 1);
        assert_memory_equal(out, again, sizeof(float) * n_kv_out);
        free(out);
        free(again);
        data_free(&x);
    }
}

static void column_sums_agree_with_f64(void **state) {
    rng r = rng_make(seed_get(), 1);
    path paths[4];
    int n_paths = all_paths(paths);
    for (int round = 0; round < 20; round++) {
        int n = 1 + (int)rng_below(&r, round < 16 ? 150 : 300), window = round % 3 == 1 ? 1 + (int)rng_below(&r, (uint32_t)n) : 0;
        data x = data_make(&r, n, 1 + (int)rng_below(&r, 2), 1 + (int)rng_below(&r, 8), (const int[]){64, 20, 80, 32}[round % 4], window);
        int first = round % 3 ? 0 : (int)rng_below(&r, (uint32_t)x.n), lag = round % 5 == 1 ? (int)rng_below(&r, 30) : 0;
        float *one = malloc(sizeof(float) * (size_t)(x.n_heads * x.n)), *out = malloc(sizeof(float) * (size_t)(x.n_heads * x.n));
        attn_columns a = {.q = x.q + first * x.n_heads * x.d, .lse = x.lse + first, .k = x.k, .ld_lse = (size_t)x.n, .first = first,
                          .n_rows = x.n - first, .n_tokens = x.n, .n_heads = x.n_heads, .n_kv = x.n_kv, .head_dim = x.d,
                          .scale = 1 / sqrtf((float)x.d), .power = 1 + round / 2 % 2, .lag = lag, .window = window, .max = round % 2,
                          .group_max = round % 4 == 2 || round % 7 == 3};
        int heads = a.group_max ? x.group : 1, n_out = x.n_heads / heads;
        for (int i = 0; i < n_paths; i++) {
            a.out = one;
            run((call){&paths[i], &a, NULL, NULL}, x.d, 1);
            for (int h = 0; h < n_out; h++)
                for (int t = 0; t < x.n; t++) {
                    double want = 0;
                    for (int q = first > t + lag ? first : t + lag; q < x.n; q++) {
                        double p = 0;
                        for (int m = h * heads; m < (h + 1) * heads; m++)
                            p = fmax(p, pow(x.p[((size_t)m * (size_t)x.n + (size_t)q) * (size_t)x.n + (size_t)t], a.power));
                        want = a.max ? fmax(want, p) : want + p;
                    }
                    assert_near(paths[i].name, "column", h * x.n + t, one[h * x.n + t], want, 5e-5 * want + 1e-30);
                }
            for (int threads = 2; threads <= 3; threads++) {
                a.out = out;
                memset(out, 0xff, sizeof(float) * (size_t)(n_out * x.n));
                run((call){&paths[i], &a, NULL, NULL}, x.d, threads);
                assert_memory_equal(out, one, sizeof(float) * (size_t)(n_out * x.n));
            }
        }
        free(one);
        free(out);
        data_free(&x);
    }
}

static void forms_agree_with_f64(void **state) {
    rng r = rng_make(seed_get(), 2);
    path paths[4];
    int n_paths = all_paths(paths);
    for (int round = 0; round < 18; round++) {
        int n = 1 + (int)rng_below(&r, 200), n_kv = 1 + (int)rng_below(&r, 3), group = 1 + (int)rng_below(&r, 4), heads = n_kv * group;
        int d = (const int[]){64, 20, 96}[round / 3 % 3], rows = round % 3 == FORM_QUADRATIC ? d : 1 + (int)rng_below(&r, 200);
        float *x = attn_random(&r, (size_t)(n_kv * n * d), 1), *m = attn_random(&r, (size_t)(heads * rows * d), 1);
        float *one = malloc(sizeof(float) * (size_t)(heads * n)), *out = malloc(sizeof(float) * (size_t)(heads * n));
        /* heads beside each other in a row, as the output projection has them, or one matrix after the other */
        bool beside = round % 2;
        item_form a = {.kind = (form_kind)(round % 3), .x = x, .m = m, .head_stride = (size_t)(beside ? d : rows * d),
                       .ldm = (size_t)(beside ? heads * d : d), .n_rows = rows, .n_items = n, .n_heads = heads, .n_kv = n_kv, .head_dim = d};
        for (int i = 0; i < n_paths; i++) {
            a.out = one;
            run((call){&paths[i], NULL, &a, NULL}, d, 1);
            for (int h = 0; h < heads; h++)
                for (int t = 0; t < n; t++) {
                    double want = 0, size = 0;
                    const float *item = x + (h / group * n + t) * d;
                    for (int row = 0; row < rows; row++) {
                        double y = 0;
                        for (int c = 0; c < d; c++) y += (double)m[(size_t)h * a.head_stride + (size_t)row * a.ldm + (size_t)c] * (double)item[c];
                        double term = a.kind == FORM_ABS ? fabs(y) : a.kind == FORM_SQUARE ? y * y : y * (double)item[row];
                        want += term;
                        size += fabs(term);
                    }
                    assert_near(paths[i].name, "form", h * n + t, one[h * n + t], want, 3e-5 * size + 1e-5);
                }
            a.out = out;
            run((call){&paths[i], NULL, &a, NULL}, d, 3);
            assert_memory_equal(out, one, sizeof(float) * (size_t)(heads * n));
        }
        free(x);
        free(m);
        free(one);
        free(out);
    }
}

/* Norms on int8 codes against f64, within what rounding an item and a row of the matrix to 8 bits can move (form_int8.c). */
static double form_bound(const item_form *a, const float *x, const float *m, double *want) {
    double most = 0, x1 = 0, bound = 0;
    int d = a->head_dim;
    *want = 0;
    for (int c = 0; c < d; c++) most = fmax(most, fabs((double)x[c])), x1 += fabs((double)x[c]);
    for (int r = 0; r < a->n_rows; r++, m += a->ldm) {
        double y = 0, m1 = 0, largest = 0;
        for (int c = 0; c < d; c++) {
            y += (double)m[c] * (double)x[c];
            m1 += fabs((double)m[c]);
            largest = fmax(largest, fabs((double)m[c]));
        }
        double e = (most * m1 + largest * x1) / 254 + d * most * largest / (4 * 127 * 127);
        *want += a->kind == FORM_ABS ? fabs(y) : y * y;
        bound += a->kind == FORM_ABS ? e : e * (2 * fabs(y) + e);
    }
    return bound * (1 + 1e-4) + 1e-4 * *want;
}
static void norms_on_int8_codes_stay_within_their_bound(void **state) {
    rng r = rng_make(seed_get(), 10);
    const path with = {"avx512 int8", NULL, item_form_avx512_int8, NULL};
    if (!isa_present(ISA_AVX512)) {
        print_message("# SKIP this CPU has no AVX-512 VNNI\n");
        skip();
    }
    double off = 0, n_values = 0;
    for (int round = 0; round < 24; round++) {
        int n = 1 + (int)rng_below(&r, round % 6 == 5 ? 1300 : 200), n_kv = 1 + (int)rng_below(&r, 3), group = 1 + (int)rng_below(&r, 4), heads = n_kv * group;
        int d = (const int[]){64, 20, 96, 33, 256, 1}[round / 2 % 6], rows = 1 + (int)rng_below(&r, 200);
        float *x = attn_random(&r, (size_t)(n_kv * n * d), 1), *m = attn_random(&r, (size_t)(heads * rows * d), 1);
        for (int i = 0; i < n_kv * n; i++) { /* sizes of all kinds, outliers, zeros */
            float size = ldexpf(1, (int)rng_below(&r, 40) - 20);
            for (int c = 0; c < d; c++) x[i * d + c] *= rng_below(&r, 9) ? size : i % 5 ? 0 : 30 * size;
        }
        float *out = malloc(sizeof(float) * (size_t)(heads * n)), *again = malloc(sizeof(float) * (size_t)(heads * n));
        bool beside = round % 2;
        item_form a = {.kind = round % 2 ? FORM_SQUARE : FORM_ABS, .x = x, .m = m, .out = out, .head_stride = (size_t)(beside ? d : rows * d),
                       .ldm = (size_t)(beside ? heads * d : d), .n_rows = rows, .n_items = n, .n_heads = heads, .n_kv = n_kv, .head_dim = d};
        run((call){.with = &with, .form = &a}, d, 1);
        for (int h = 0; h < heads; h++)
            for (int t = 0; t < n; t++) {
                double want, bound = form_bound(&a, x + (h / group * n + t) * d, m + (size_t)h * a.head_stride, &want);
                assert_near(with.name, "norm", h * n + t, out[h * n + t], want, bound);
                if (want > 0 && d > 16) off += fabs((double)out[h * n + t] - want) / want, n_values++;
            }
        a.out = again; /* the same bits on three threads, and of each item alone */
        run((call){.with = &with, .form = &a}, d, 3);
        assert_memory_equal(out, again, sizeof(float) * (size_t)(heads * n));
        int t = (int)rng_below(&r, (uint32_t)n);
        float *alone = malloc(sizeof(float) * (size_t)(n_kv * d));
        for (int k = 0; k < n_kv; k++) memcpy(alone + k * d, x + (k * n + t) * d, sizeof(float) * (size_t)d);
        a.x = alone, a.n_items = 1;
        run((call){.with = &with, .form = &a}, d, 1);
        for (int h = 0; h < heads; h++) assert_memory_equal(&out[h * n + t], &again[h], sizeof(float));
        a.x = x, a.n_items = n; /* what is not finite stays with its item */
        x[t * d] = round % 4 < 2 ? NAN : -INFINITY;
        run((call){.with = &with, .form = &a}, d, 2);
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < n; i++)
                if (h < group && i == t) assert_true(isnan(again[h * n + i]));
                else assert_memory_equal(&out[h * n + i], &again[h * n + i], sizeof(float));
        free(x), free(m), free(out), free(again), free(alone);
    }
    if (off / n_values > 0.006) fail_msg("norms are off by %g on average", off / n_values);
}

/* Sums and products of rows: the reference's bits on every path, for any threads; the reference against f64 by its definition. */
static void row_moments_are_equal_on_all_paths(void **state) {
    rng r = rng_make(seed_get(), 11);
    void (*paths[4])(const par *, const row_moments *) = {row_moments_reference, row_moments_scalar};
    int n_paths = 2;
    if (isa_present(ISA_AVX2)) paths[n_paths++] = row_moments_avx2;
    if (isa_present(ISA_AVX512)) paths[n_paths++] = row_moments_avx512;
    for (int round = 0; round < 30; round++) {
        int n = (int)rng_below(&r, 120), heads = 1 + (int)rng_below(&r, 5), d = (const int[]){64, 20, 96, 33, 2, 80}[round % 6];
        size_t ldx = (size_t)(heads * d) + rng_below(&r, 9), size = (size_t)heads * (size_t)(d + d * d);
        float *x = attn_random(&r, (size_t)(n + 1) * ldx, 1);
        double *want = malloc(sizeof(double) * size), *have = malloc(sizeof(double) * size);
        for (int i = 0; i < n_paths; i++)
            for (int threads = 1; threads <= 3; threads++) {
                double *to = i == 0 && threads == 1 ? want : have;
                for (size_t k = 0; k < size; k++) to[k] = 0.25;
                moments_call c = {paths[i], {.x = x, .ldx = ldx, .sums = to, .n_rows = n / 2, .n_heads = heads, .head_dim = d}};
                par_run(threads, moments_body, &c); /* in two calls, as chunks of a prompt come */
                c.a.x += (size_t)(n / 2) * ldx;
                c.a.n_rows = n - n / 2;
                par_run(threads, moments_body, &c);
                for (int h = 0; h < heads; h++)
                    for (int c0 = -1; c0 < d; c0++)
                        for (int b = c0 < 0 ? 0 : c0; b < d; b++) {
                            size_t at = (size_t)h * (size_t)(d + d * d) + (size_t)((c0 + 1) * d + b);
                            if (to == have) {
                                if (memcmp(&want[at], &have[at], sizeof(double))) fail_msg("path %d, %d threads: head %d, %d, %d", i, threads, h, c0, b);
                                continue;
                            }
                            double sum = 0.25;
                            for (int k = 0; k < n; k++)
                                sum += (c0 < 0 ? 1 : (double)x[(size_t)k * ldx + (size_t)(h * d + c0)]) * (double)x[(size_t)k * ldx + (size_t)(h * d + b)];
                            assert_true(fabs(sum - want[at]) <= 1e-12 * (1 + n));
                        }
            }
        free(x), free(want), free(have);
    }
}

static void output_changes_agree_with_f64(void **state) {
    rng r = rng_make(seed_get(), 3);
    path paths[4];
    int n_paths = all_paths(paths);
    for (int round = 0; round < 12; round++) {
        data x = data_make(&r, 1 + (int)rng_below(&r, 200), 1 + (int)rng_below(&r, 2), 1 + (int)rng_below(&r, 4), round % 2 ? 64 : 20, 0);
        int rows = 1 + (int)rng_below(&r, (uint32_t)attn_path_min(64, x.n)), first = x.n - rows;
        float *one = malloc(sizeof(float) * (size_t)(x.n_heads * x.n)), *out = malloc(sizeof(float) * (size_t)(x.n_heads * x.n));
        size_t at = (size_t)(first * x.n_heads * x.d);
        attn_change a = {.q = x.q + at, .o = x.o + at, .lse = x.lse + first, .k = x.k, .v = x.v, .ld_lse = (size_t)x.n, .n_rows = rows,
                         .n_tokens = x.n, .n_heads = x.n_heads, .n_kv = x.n_kv, .head_dim = x.d, .scale = 1 / sqrtf((float)x.d), .epsilon = 1e-6f,
                         .stays = round % 3 == 2};
        for (int i = 0; i < n_paths; i++) {
            a.out = one;
            run((call){&paths[i], NULL, NULL, &a}, x.d, 1);
            for (int h = 0; h < x.n_heads; h++)
                for (int t = 0; t < x.n; t++) {
                    double want = 0, sure = 0; /* 1 - p loses digits when p is near 1 */
                    for (int q = first > t ? first : t; q < x.n; q++) {
                        double p = x.p[((size_t)h * (size_t)x.n + (size_t)q) * (size_t)x.n + (size_t)t], dist = 0;
                        for (int c = 0; c < x.d; c++) {
                            double diff = (double)x.v[(h / x.group * x.n + t) * x.d + c] - (double)x.o[(q * x.n_heads + h) * x.d + c];
                            dist += diff * diff;
                        }
                        want += pow(a.stays ? p : p / (1 - p + 1e-6), 2) * dist;
                        sure = fmax(sure, a.stays ? 0 : p);
                    }
                    if (sure < 0.99) assert_near(paths[i].name, "change", h * x.n + t, one[h * x.n + t], want, 1e-4 / (1 - sure) * want + 1e-30);
                }
            a.out = out;
            run((call){&paths[i], NULL, NULL, &a}, x.d, 2);
            assert_memory_equal(out, one, sizeof(float) * (size_t)(x.n_heads * x.n));
        }
        free(one);
        free(out);
        data_free(&x);
    }
}

/* The worked example of DropKV: two heads of one group, head_dim 2, scale 1/sqrt(2), the last two of five rows. */
static void dropkv_gives_its_worked_example(void **state) {
    const float k[] = {2, 0, 0, 1, 1, 1, .5f, -.5f, 0, .5f}, v[] = {0, 0, 1, 0, 0, 2, 1, 1, -1, 0};
    const float q[] = {1, 0, 0, 1, .5f, 1, 1, 1}; /* [row][head][2] */
    const double want[] = {.460924, .114111, .534093, .033529, .062080, .165897, .330452, .850596, .012052, .028798};
    float lse[4], o[8], out[10];
    for (int h = 0; h < 2; h++)
        for (int r = 0; r < 2; r++) {
            const float *x = q + (r * 2 + h) * 2;
            double sum = 0, p[5], o0 = 0, o1 = 0;
            for (int t = 0; t <= 3 + r; t++) sum += p[t] = exp(((double)x[0] * (double)k[2 * t] + (double)x[1] * (double)k[2 * t + 1]) / sqrt(2));
            for (int t = 0; t <= 3 + r; t++) o0 += p[t] / sum * (double)v[2 * t], o1 += p[t] / sum * (double)v[2 * t + 1];
            lse[h * 2 + r] = (float)log(sum);
            o[(r * 2 + h) * 2] = (float)o0;
            o[(r * 2 + h) * 2 + 1] = (float)o1;
        }
    path paths[4];
    int n_paths = all_paths(paths);
    for (int i = 0; i < n_paths; i++) {
        attn_change a = {.q = q, .o = o, .lse = lse, .k = k, .v = v, .out = out, .ld_lse = 2, .n_rows = 2, .n_tokens = 5, .n_heads = 2,
                         .n_kv = 1, .head_dim = 2, .scale = 1 / sqrtf(2), .epsilon = 1e-6f};
        run((call){&paths[i], NULL, NULL, &a}, 2, 1);
        for (int t = 0; t < 10; t++) assert_near(paths[i].name, "example", t, out[t], want[t], 2e-6);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_on_bf16_tiles_agree_with_f64_on_rounded_inputs),
        cmocka_unit_test(column_sums_agree_with_f64),
        cmocka_unit_test(forms_agree_with_f64),
        cmocka_unit_test(norms_on_int8_codes_stay_within_their_bound),
        cmocka_unit_test(row_moments_are_equal_on_all_paths),
        cmocka_unit_test(output_changes_agree_with_f64),
        cmocka_unit_test(dropkv_gives_its_worked_example),
    };
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests_name("attn_signals", tests, NULL, NULL));
}
