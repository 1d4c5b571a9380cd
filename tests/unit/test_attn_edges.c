/* Decode attention where it is likely to break: float rows of every group size and many head sizes at every length around a tile's edge, in pages
 * that hold NaN wherever no item lies; huge V scales on tiny probabilities and K scales of very different size, in every format, on integers (against plain
 * attention and against the formula of fast math) and in f32. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "kernels/cpu/attn_plan.h"
#include "tests/support/attn_paths.h"
#include "tests/support/fast_attention.h"
#include "tests/support/seed.h"

enum { MAX_GROUP = 8 };

/* Items first .. first + n - 1 of one segment, as given and as stored. */
typedef struct items {
    page_layout l;
    int d, first, n, n_pages;
    uint8_t *memory;
    uint32_t *pages;
    float *k, *v; /* [n][d] */
} items;

static void items_open(items *it, const char *format, int d, int first, int n) {
    kv_format f;
    if (kv_format_parse(format, &f) != OK) fail_msg("%s", err_text());
    /* some 40 items of f16, at least 32 of any format */
    if (page_layout_make(f, d, 0, false, (size_t)d * (f.k_bits == 32 ? 320 : 192), &it->l) != OK) fail_msg("%s", err_text());
    it->d = d, it->first = first, it->n = n;
    it->n_pages = (first + n + it->l.cap - 1) / it->l.cap;
    it->memory = aligned_alloc(64, (size_t)it->n_pages * it->l.page_bytes);
    it->pages = malloc((size_t)it->n_pages * sizeof *it->pages);
    memset(it->memory, 0xff, (size_t)it->n_pages * it->l.page_bytes);
    for (int i = 0; i < it->n_pages; i++) it->pages[i] = (uint32_t)((size_t)(it->n_pages - 1 - i) * it->l.page_bytes / 64);
    it->k = malloc((size_t)n * (size_t)d * sizeof(float));
    it->v = malloc((size_t)n * (size_t)d * sizeof(float));
}
/* Stores k and v, and reads back what became of them. */
static void items_put(items *it) {
    size_t d = (size_t)it->d;
    int unit = kv_format_item_group(it->l.fmt), cap = it->l.cap, end = it->first + it->n;
    for (int at = it->first / unit * unit; at < end; at += unit) { /* item groups are put whole: the nearest items stand in for absent ones */
        float k[KV_TOKEN_GROUP * KV_MAX_HEAD_DIM], v[KV_TOKEN_GROUP * KV_MAX_HEAD_DIM];
        for (int i = 0; i < unit; i++) {
            int from = attn_max(0, attn_min(at + i - it->first, it->n - 1));
            memcpy(k + (size_t)i * d, it->k + (size_t)from * d, d * sizeof(float));
            memcpy(v + (size_t)i * d, it->v + (size_t)from * d, d * sizeof(float));
        }
        page_put(&it->l, it->memory + (size_t)it->pages[at / cap] * 64, at % cap, unit, k, d, v, d, NULL);
    }
    for (int i = 0; i < it->n; i++) {
        int at = it->first + i;
        page_get(&it->l, it->memory + (size_t)it->pages[at / cap] * 64, at % cap, it->k + (size_t)i * d, it->v + (size_t)i * d);
    }
}
static void items_close(items *it) {
    free(it->memory), free(it->pages), free(it->k), free(it->v);
}

/* f64 result of one query, S = sum p max|v|, and by how much a logit may be off: rounding of f32 products; on integers, of q to 16 bits
 * (to 8 bits it is done here too). */
typedef struct answer {
    double o[KV_MAX_HEAD_DIM], scale, logit;
} answer;
static void oracle(const items *it, const float *query, float scale, char op, answer *a) {
    double *s = malloc((size_t)it->n * sizeof *s), max = -INFINITY, sum = 0, most_q = 0, q[KV_MAX_HEAD_DIM];
    memset(a, 0, sizeof *a);
    fast_query_met(&it->l, op, query, it->d, scale, q);
    for (int c = 0; c < it->d; c++) most_q = fmax(most_q, fabs(q[c]));
    for (int i = 0; i < it->n; i++) {
        double size = 0, all = 0;
        s[i] = 0;
        for (int c = 0; c < it->d; c++) {
            double k = (double)it->k[(size_t)i * (size_t)it->d + (size_t)c], x = q[c] * k;
            s[i] += x, size += fabs(x), all += fabs(k);
        }
        max = fmax(max, s[i]);
        a->logit = fmax(a->logit, size * it->d * 0x1p-24 + (op == 'w' ? all * most_q / 65534 : 0));
    }
    for (int i = 0; i < it->n; i++) sum += s[i] = exp(s[i] - max);
    for (int i = 0; i < it->n; i++) {
        double most = 0;
        for (int c = 0; c < it->d; c++) {
            double v = (double)it->v[(size_t)i * (size_t)it->d + (size_t)c];
            a->o[c] += s[i] / sum * v;
            most = fmax(most, fabs(v));
        }
        a->scale += s[i] / sum * most;
    }
    free(s);
}

/* All query heads of one row on every path against f64, and on integers against the formula of fast math. */
static void check(const items *it, const char *what, int group, float *q) {
    attn_path paths[4];
    int n_paths = attn_paths(paths), d = it->d;
    float *out = malloc((size_t)(group * d) * sizeof(float));
    answer a[2][MAX_GROUP];
    attn_job j = {.q = {q, q, q, q}, .ldq = (size_t)(group * d), .out = out, .ldo = (size_t)(group * d), .n_rows = 1, .group = group,
                  .head_dim = d, .scale = 1.0f / sqrtf((float)d), .n_segs = 1,
                  .seg = {{.layout = &it->l, .pages = it->pages, .first = it->first, .n_items = it->n}}};
    static fast_answer fast[MAX_GROUP];
    dense_items dense;
    attn_batch b = {.jobs = &j, .n_jobs = 1, .pool_base = it->memory};
    bool is_float = kv_format_is_float(it->l.fmt);
    for (int words = 0; words <= !is_float; words++)
        for (int g = 0; g < group; g++) oracle(it, q + g * d, j.scale, words ? 'w' : 'd', &a[words][g]);
    if (!is_float) {
        dense_items_read(&j.seg[0], it->memory, it->n, &dense);
        for (int g = 0; g < group; g++) fast_attention(&j, &dense, 0, g, &fast[g]);
        dense_items_free(&dense);
    }
    for (int i = 1; i < n_paths; i++)
        for (int words = 0; words <= !is_float; words++) {
            memset(out, 0xff, (size_t)(group * d) * sizeof(float));
            attn_call_run(&paths[i], words ? 'w' : 'd', &b, 1);
            for (int at = 0; at < group * d; at++) {
                const answer *want = &a[words][at / d];
                double rounding = !words ? 1e-5 : codes_v_bytes(&it->l) ? 2.5e-2 : 2e-4, bound = rounding + 2 * want->logit; /* weights in 8, 16 bits */
                if (!(fabs((double)out[at] - want->o[at % d]) <= bound * want->scale))
                    fail_msg("%s: %s on %s, d %d, items %d to %d, head %d of %d, channel %d: %.9g, f64 %.9g, bound %g of %g", what, paths[i].name,
                             words ? "integers" : "f32", d, it->first, it->first + it->n, at / d, group, at % d, (double)out[at],
                             want->o[at % d], bound, want->scale);
                const fast_answer *f = &fast[at / d];
                double off = words ? fabs((double)out[at] - f->o[0][at % d]) : 0;
                if (words && !(off <= f->slack[0][at % d]))
                    fail_msg("%s: %s, d %d, items %d to %d, head %d of %d, channel %d: %.9g, by the formula %.9g: off by %.3g, slack %.3g (ties %.3g), scale %g",
                             what, paths[i].name, d, it->first, it->first + it->n, at / d, group, at % d, (double)out[at], f->o[0][at % d], off,
                             f->slack[0][at % d], f->ties, f->scale);
            }
        }
    free(out);
}

static void float_rows_at_every_edge(void **state) {
    rng r = rng_make(seed_get(), 1);
    const int lengths[] = {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 240, 255, 256, 257, 272, 300};
    const int dims[] = {32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 24, 33};
    enum { N_LENGTHS = sizeof lengths / sizeof *lengths, N_DIMS = sizeof dims / sizeof *dims };
    for (int f = 0; f < 2; f++)
        for (int group = 1; group <= MAX_GROUP; group++)
            for (int i = 0; i < N_LENGTHS; i++) {
                int d = i % 3 ? 64 : dims[rng_below(&r, N_DIMS)];
                items it;
                items_open(&it, f ? "f32" : "f16", d, (int)rng_below(&r, 50), lengths[i]);
                size_t n = (size_t)it.n * (size_t)d;
                for (size_t c = 0; c < n; c++) it.k[c] = 1.5f * rng_normal(&r), it.v[c] = rng_normal(&r);
                items_put(&it);
                float *q = attn_random(&r, (size_t)(group * d), 1.5f);
                check(&it, f ? "f32" : "f16", group, q);
                free(q);
                items_close(&it);
            }
}

static const char *const formats[] = {"f32", "f16", "k8v8", "k8v4", "k4v2", "k2v2", "k8v4g32", "k4v2g32", "k3v3", "k1v8", "k8v1", "k4v4s", "q8_0", "q4_0",
                                      "k4cv4g32", "k8cv4"};
enum { N_FORMATS = sizeof formats / sizeof *formats };

/* Items against the query's direction have probabilities of 1e-3 to 1e-20 and values up to 10^5 times the others'; with `balanced` the products are alike. */
static void huge_values_on_tiny_probabilities(void **state) {
    rng r = rng_make(seed_get(), 2);
    for (int round = 0; round < 3 * N_FORMATS; round++) {
        items it;
        int d = round % 2 ? 64 : 128, group = 1 + (int)rng_below(&r, 4), balanced = round / N_FORMATS;
        const char *format = formats[round % N_FORMATS];
        bool is_float = format[0] == 'f';
        items_open(&it, format, d, (int)rng_below(&r, 2) * 13, 200 + (int)rng_below(&r, 200));
        float *q = attn_random(&r, (size_t)(group * d), 0.2f), root = sqrtf((float)d);
        for (int g = 0; g < group; g++)
            for (int c = 0; c < d; c++) q[g * d + c] += 1; /* all near one direction */
        for (int i = 0; i < it.n; i++) {
            bool far = rng_below(&r, 3) == 0;
            float depth = far ? 7 + 40 * (float)rng_uniform(&r) : 0; /* nats */
            float size = far ? (balanced ? fminf(expf(depth), is_float ? 6e4f : 1e5f) : 1e4f) : 0.01f;
            for (int c = 0; c < d; c++) {
                it.k[i * d + c] = -depth / root + 0.1f * rng_normal(&r);
                it.v[i * d + c] = size * (float)(2 * rng_uniform(&r) - 1);
            }
        }
        items_put(&it);
        check(&it, format, group, q);
        free(q);
        items_close(&it);
    }
}

/* K and V of neighbouring items, and channel groups of one item, differ by up to 10^6 in size; some items are constant, some zero. */
static void scales_of_every_size(void **state) {
    rng r = rng_make(seed_get(), 3);
    for (int round = 0; round < 2 * N_FORMATS; round++) {
        items it;
        int d = 64, group = 1 + (int)rng_below(&r, 4);
        const char *format = formats[round % N_FORMATS];
        items_open(&it, format, d, 0, 100 + (int)rng_below(&r, 300));
        float *q = attn_random(&r, (size_t)(group * d), 0.5f);
        for (int i = 0; i < it.n; i++)
            for (int c = 0; c < d; c += 32) {
                float k = powf(10, 3 * (float)rng_uniform(&r) - 3), v = powf(10, 6 * (float)rng_uniform(&r) - 3);
                bool flat = rng_below(&r, 4) == 0, zero = rng_below(&r, 16) == 0;
                for (int x = c; x < c + 32; x++) {
                    it.k[i * d + x] = zero ? 0 : k * (flat ? 1 : rng_normal(&r));
                    it.v[i * d + x] = zero ? 0 : v * (flat ? 1 : rng_normal(&r));
                }
            }
        items_put(&it);
        check(&it, format, group, q);
        free(q);
        items_close(&it);
    }
}

/* Rows of zeros weigh all items alike, also those rows that see nothing of the last cut. */
static void queries_of_zeros_give_the_mean(void **state) {
    enum { ROWS = 24, GROUP = 3, D = 64, FEWEST = ATTN_CUT - ROWS / 2, LD = GROUP * D };
    rng r = rng_make(seed_get(), 4);
    attn_path paths[4];
    int n_paths = attn_paths(paths);
    static const float zeros[ROWS * LD];
    static float out[ROWS * LD];
    for (int f = 0; f < N_FORMATS; f++) {
        items it;
        items_open(&it, formats[f], D, 0, FEWEST + ROWS - 1);
        for (int c = 0; c < it.n * D; c++) it.k[c] = rng_normal(&r), it.v[c] = rng_normal(&r);
        items_put(&it);
        attn_job j = {.q = {zeros, zeros, zeros, zeros}, .ldq = LD, .out = out, .ldo = LD, .n_rows = ROWS, .group = GROUP, .head_dim = D, .scale = 0.125f,
                      .n_segs = 1, .seg = {{.layout = &it.l, .pages = it.pages, .n_items = FEWEST, .grows = true}}};
        attn_batch b = {.jobs = &j, .n_jobs = 1, .pool_base = it.memory};
        for (int i = 0; i < 2 * n_paths; i++) {
            bool words = i % 2;
            if (words && (!paths[i / 2].decode_words || kv_format_is_float(it.l.fmt))) continue;
            memset(out, 0xff, sizeof out);
            attn_call_run(&paths[i / 2], words ? 'w' : 'd', &b, 1);
            double bound = !words ? 1e-5 : codes_v_bytes(&it.l) ? 2.5e-2 : 2e-4; /* of check, items being of size 1 */
            for (int row = 0; row < ROWS; row++)
                for (int c = 0; c < D; c++) {
                    double mean = 0;
                    for (int k = 0; k < FEWEST + row; k++) mean += (double)it.v[k * D + c] / (FEWEST + row);
                    for (int g = 0; g < GROUP; g++)
                        if (!(fabs((double)out[row * LD + g * D + c] - mean) <= bound))
                            fail_msg("%s on %s in %s: row %d, head %d, channel %d is %g, the mean is %g", formats[f], paths[i / 2].name,
                                     words ? "integers" : "f32", row, g, c, (double)out[row * LD + g * D + c], mean);
                }
        }
        items_close(&it);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float_rows_at_every_edge),
        cmocka_unit_test(huge_values_on_tiny_probabilities),
        cmocka_unit_test(scales_of_every_size),
        cmocka_unit_test(queries_of_zeros_give_the_mean),
    };
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests_name("attn_edges", tests, NULL, NULL));
}
