/* Decode attention over pages: every path against f64, and on integers also against the formula of fast math, over random formats, page splits,
 * tiers and score columns; extend equals steps, a batch equals its jobs, threads change nothing: bit for bit; integers of every path equal plain C. Pages hold NaN patterns wherever no item lies. */
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

enum { MAX_JOBS = 4 };
#ifdef __SANITIZE_ADDRESS__ /* several times slower: every other round, which ones is up to the seed */
enum { EACH = 2 };
#else
enum { EACH = 1 };
#endif

/* A job with its pages, queries and results, and the decoded items for the oracle. */
typedef struct head {
    attn_job job;
    page_layout layout[ATTN_MAX_SEGMENTS];
    uint32_t *pages[ATTN_MAX_SEGMENTS];
    int n_pages[ATTN_MAX_SEGMENTS];
    float *q[ATTN_N_QUERIES], *out, *out_rotated;
    float *k, *v; /* [all items of the last row][head_dim] as stored */
    dense_items items[ATTN_MAX_SEGMENTS];
    int n_all;
} head;
typedef struct world {
    head heads[MAX_JOBS];
    int n_heads;
    uint8_t *memory; /* exactly the pages */
    size_t n_pages, page_bytes;
} world;

static const char *const formats[] = {
    "f32",  "f16",     "k8v8",    "k8v4",    "k8v2",    "k4v8",    "k4v4",    "k4v2",    "k2v8",    "k2v4",  "k2v2",     "k4v4r",
    "k8v8g32", "k8v4g32", "k8v2g32", "k4v8g32", "k4v4g32", "k4v2g32", "k2v8g32", "k2v4g32", "k2v2g32", "k8v4rk", "k4v2g32rv",
    "k3v3", "k1v8", "k8v1", "k3v1g32", "k2v3", "k8v4g64", "k4v4s", "k8v3s", "k2v2g32s", "q8_0", "q4_0", "q8_0-q4_0", "k4cv4g32", "k2cv2g32",
    "k8cv4", "k3cv3", "k1cv2rv", "k4v2nr",
};
enum { N_FORMATS = sizeof formats / sizeof formats[0] };

static void *page_at(const world *w, uint32_t ref) { return w->memory + (size_t)ref * 64; }

/* Every format, tiers of its own, some segments empty, some beginning late; score columns on some layouts. */
static void head_make(rng *r, world *w, head *h, int d, int n_rows, int fmt, int max_items) {
    memset(h, 0, sizeof *h);
    attn_job *j = &h->job;
    int group = 1 + (int)rng_below(r, rng_below(r, 8) ? 8 : 16);
    *j = (attn_job){.n_rows = n_rows, .group = group, .head_dim = d, .scale = 1.0f / sqrtf((float)d), .n_segs = 1 + (int)rng_below(r, 4)};
    j->ldq = (size_t)(group * d) + rng_below(r, 3);
    j->ldo = (size_t)(group * d) + rng_below(r, 3);
    for (int s = 0; s < j->n_segs; s++) {
        attn_segment *seg = &j->seg[s];
        page_layout *l = &h->layout[s];
        kv_format f;
        if (kv_format_parse(formats[s == 0 ? fmt % N_FORMATS : (int)rng_below(r, N_FORMATS)], &f) != OK) fail_msg("%s", err_text());
        while (kv_format_check(f, d) != OK)
            if (kv_format_parse(formats[rng_below(r, N_FORMATS)], &f) != OK) fail_msg("%s", err_text());
        if (page_layout_make(f, d, (int)rng_below(r, 3) * 2, rng_below(r, 2), w->page_bytes, l) != OK) fail_msg("%s", err_text());
        seg->layout = l;
        seg->grows = s == 0 || rng_below(r, 4) == 0;
        seg->first = rng_below(r, 2) ? (int)rng_below(r, 40) : 0;
        seg->n_items = rng_below(r, 8) == 0 ? 0 : 1 + (int)rng_below(r, (uint32_t)max_items);
        seg->query = (uint8_t)rng_below(r, ATTN_N_QUERIES);
        seg->out_rotated = rng_below(r, 2);
        h->n_all += attn_seg_items(seg, n_rows - 1);
        h->n_pages[s] = (seg->first + attn_seg_items(seg, n_rows - 1) + l->cap - 1) / l->cap;
        h->pages[s] = malloc((size_t)h->n_pages[s] * sizeof(uint32_t) + 1);
        w->n_pages += (size_t)h->n_pages[s];
        seg->pages = h->pages[s];
    }
    for (int i = 0; i < ATTN_N_QUERIES; i++) j->q[i] = h->q[i] = attn_random(r, (size_t)n_rows * j->ldq, 1.5f);
}

static void head_fill(rng *r, const world *w, head *h) {
    size_t d = (size_t)h->job.head_dim;
    h->k = malloc((size_t)h->n_all * d * sizeof(float) + 1);
    h->v = malloc((size_t)h->n_all * d * sizeof(float) + 1);
    int at = 0;
    for (int s = 0; s < h->job.n_segs; s++) {
        const attn_segment *seg = &h->job.seg[s];
        const page_layout *l = &h->layout[s];
        int unit = kv_format_item_group(l->fmt), end = seg->first + attn_seg_items(seg, h->job.n_rows - 1);
        for (int item = seg->first / unit * unit; item < end; item += unit) { /* item groups are put whole */
            uint32_t pos[KV_TOKEN_GROUP];
            float *k = attn_random(r, d * (size_t)unit, 1.5f), *v = attn_random(r, d * (size_t)unit, 1.0f);
            for (int i = 0; i < unit; i++) pos[i] = (uint32_t)(item + i);
            page_put(l, page_at(w, h->pages[s][item / l->cap]), item % l->cap, unit, k, d, v, d, pos);
            free(k);
            free(v);
        }
        for (int item = seg->first; item < end; item++, at++)
            page_get(l, page_at(w, h->pages[s][item / l->cap]), item % l->cap, h->k + (size_t)at * d, h->v + (size_t)at * d);
        dense_items_read(seg, w->memory, attn_seg_items(seg, h->job.n_rows - 1), &h->items[s]);
    }
}

static void world_make(rng *r, world *w, int n_heads, int d, int n_rows, int fmt, int max_items) {
    memset(w, 0, sizeof *w);
    w->n_heads = n_heads;
    w->page_bytes = 64 * ((size_t)d + 2 + rng_below(r, (uint32_t)d)); /* 8 items of f32 with columns fit */
    for (int i = 0; i < n_heads; i++) head_make(r, w, &w->heads[i], d, n_rows, fmt + i, max_items);
    size_t bytes = w->n_pages * w->page_bytes;
    w->memory = aligned_alloc(64, bytes ? bytes : 64);
    memset(w->memory, 0xff, bytes);
    uint32_t *order = malloc(w->n_pages * sizeof(uint32_t) + 1);
    for (size_t i = 0; i < w->n_pages; i++) { /* pages in random places */
        size_t k = rng_below(r, (uint32_t)i + 1);
        order[i] = order[k];
        order[k] = (uint32_t)(i * w->page_bytes / 64);
    }
    size_t at = 0;
    for (int i = 0; i < n_heads; i++) {
        for (int s = 0; s < w->heads[i].job.n_segs; s++)
            for (int k = 0; k < w->heads[i].n_pages[s]; k++) w->heads[i].pages[s][k] = order[at++];
        head_fill(r, w, &w->heads[i]);
    }
    free(order);
}

static void world_free(world *w) {
    for (int i = 0; i < w->n_heads; i++) {
        head *h = &w->heads[i];
        for (int s = 0; s < h->job.n_segs; s++) {
            free(h->pages[s]);
            dense_items_free(&h->items[s]);
        }
        for (int k = 0; k < ATTN_N_QUERIES; k++) free(h->q[k]);
        free(h->k);
        free(h->v);
    }
    free(w->memory);
}

static size_t out_floats(const attn_job *j) {
    return (size_t)(j->n_rows - 1) * j->ldo + (size_t)(j->group * j->head_dim);
}
static void outputs_alloc(world *w) { /* exact-size; the gaps between rows stay NaN */
    for (int i = 0; i < w->n_heads; i++) {
        head *h = &w->heads[i];
        size_t bytes = out_floats(&h->job) * sizeof(float);
        h->job.out = h->out = malloc(bytes);
        h->job.out_rotated = h->out_rotated = malloc(bytes);
        memset(h->out, 0xff, bytes);
        memset(h->out_rotated, 0xff, bytes);
    }
}
static void outputs_free(world *w) {
    for (int i = 0; i < w->n_heads; i++) {
        free(w->heads[i].out);
        free(w->heads[i].out_rotated);
    }
}

static void run(const attn_path *path, char op, const world *w, int first, int n, int n_threads) {
    attn_job jobs[MAX_JOBS];
    for (int i = 0; i < n; i++) jobs[i] = w->heads[first + i].job;
    attn_batch b = {.jobs = jobs, .n_jobs = n, .pool_base = w->memory};
    attn_call_run(path, op, &b, n_threads);
}

/* f64 results of one row of one query head over the decoded items: o[0] plain and slot, o[1] rotated; p of every item. */
typedef struct answer {
    double o[2][KV_MAX_HEAD_DIM], scale[2], *p; /* scale: sum p max|v|, what errors are relative to */
} answer;
static void oracle(const head *h, char op, int row, int g, answer *a) {
    const attn_job *j = &h->job;
    int d = j->head_dim, at = 0;
    double sum = 0;
    memset(a->o, 0, sizeof a->o);
    memset(a->scale, 0, sizeof a->scale);
    for (int s = 0; s < j->n_segs; s++) {
        int n = attn_seg_items(&j->seg[s], row), which = j->seg[s].out_rotated;
        double q[KV_MAX_HEAD_DIM];
        fast_query_met(&h->layout[s], op, h->q[j->seg[s].query] + (size_t)row * j->ldq + (size_t)(g * d), d, j->scale, q);
        for (int i = 0; i < n; i++) {
            const float *k = h->k + (size_t)(at + i) * (size_t)d, *v = h->v + (size_t)(at + i) * (size_t)d;
            double x = 0;
            for (int c = 0; c < d; c++) x += q[c] * (double)k[c];
            double e = exp(x);
            a->p[at + i] = e;
            sum += e;
            double largest = 0;
            for (int c = 0; c < d; c++) {
                a->o[which][c] += e * (double)v[c];
                largest = fmax(largest, fabs((double)v[c]));
            }
            a->scale[which] += e * largest;
        }
        for (int i = n; i < attn_seg_items(&j->seg[s], j->n_rows - 1); i++) a->p[at + i] = 0;
        at += attn_seg_items(&j->seg[s], j->n_rows - 1);
    }
    for (int i = 0; i < at && sum > 0; i++) a->p[i] /= sum; /* a row that sees nothing gives zeros */
    for (int which = 0; which < 2 && sum > 0; which++) {
        for (int c = 0; c < d; c++) a->o[which][c] /= sum;
        a->scale[which] /= sum;
    }
}

/* What a path may be off by from plain attention, relative to sum p max|v| of the whole output: how far the formula itself is from it. On integers
 * ('w') queries are rounded to 16 bits (those to 8 bits, or most of them, by the oracle too): a logit moves by up to sum |k| max|q| / 65534, which the huge scales that
 * are drawn here make 2e-4 of the output in some seeds. Weights in bytes are off by half a step of the largest of 64 lanes: 64 of them by 0.9 % of it
 * in the root mean square, if codes lie at their limits, of which this is 2.8. How well a path follows the formula is for check_fast, whose slack is
 * some 100 times smaller. */
static double bound_of(char op, const attn_job *j) {
    if (op != 'w') return 1e-5;
    for (int s = 0; s < j->n_segs; s++)
        if (!kv_format_is_float(j->seg[s].layout->fmt) && codes_v_bytes(j->seg[s].layout)) return 2.5e-2;
    return 1e-3;
}

/* Integers against the formula of fast math: nothing but f32's rounding, and weights near a tie, stands between. */
static void check_fast(const char *path, const head *h, int row, int g) {
    const attn_job *j = &h->job;
    fast_answer a = {.p = NULL};
    fast_attention(j, h->items, row, g, &a);
    for (int rotated = 0; rotated < 2; rotated++) {
        const float *got = (rotated ? h->out_rotated : h->out) + (size_t)row * j->ldo + (size_t)(g * j->head_dim);
        for (int c = 0; c < j->head_dim; c++) {
            double off = fabs((double)got[c] - a.o[rotated][c]);
            if (!(off <= a.slack[rotated][c] + 1e-30))
                fail_msg("%s: K%dV%d group %d, d %d, %d segments, row %d of %d, head %d of %d, channel %d, rotated %d: %.9g, by the formula %.9g: "
                         "off by %.3g, slack %.3g (ties %.3g), scale %g", path, h->layout[0].fmt.k_bits, h->layout[0].fmt.v_bits,
                         h->layout[0].fmt.group, j->head_dim, j->n_segs, row, j->n_rows, g, j->group, c, rotated, (double)got[c], a.o[rotated][c],
                         off, a.slack[rotated][c], a.ties, a.scale);
        }
    }
}

/* Compares the last row and a few others, one query head each. */
static void check_head(rng *r, const char *path, char op, const head *h) {
    const attn_job *j = &h->job;
    answer a = {.p = malloc((size_t)h->n_all * sizeof(double) + 1)};
    for (int k = 0; k < 6; k++) {
        int row = k == 0 ? j->n_rows - 1 : (int)rng_below(r, (uint32_t)j->n_rows), g = (int)rng_below(r, (uint32_t)j->group);
        if (op == 'w') check_fast(path, h, row, g);
        oracle(h, op, row, g, &a);
        for (int rotated = 0; rotated < 2; rotated++) {
            const float *got = (rotated ? h->out_rotated : h->out) + (size_t)row * j->ldo + (size_t)(g * j->head_dim);
            for (int c = 0; c < j->head_dim; c++)
                if (!(fabs((double)got[c] - a.o[rotated][c]) <= bound_of(op, j) * (a.scale[rotated] + (op == 'w' ? a.scale[!rotated] : 0))))
                    fail_msg("%s %c: K%dV%d group %d, d %d, %d segments, row %d of %d, head %d of %d, channel %d, rotated %d: "
                             "%.9g, f64 %.9g, scale %g",
                             path, op, h->layout[0].fmt.k_bits, h->layout[0].fmt.v_bits, h->layout[0].fmt.group, j->head_dim,
                             j->n_segs, row, j->n_rows, g, j->group, c, rotated, (double)got[c], a.o[rotated][c],
                             a.scale[rotated]);
        }
    }
    free(a.p);
}

static void every_path_agrees_with_f64(void **state) {
    rng r = rng_make(seed_get(), 1);
    attn_path paths[4];
    int n_paths = attn_paths(paths);
    const int dims[] = {64, 80, 96, 128, 256};
    for (int round = 0; round < N_FORMATS; round++) {
        world w;
        int d = round % 3 ? 64 : dims[rng_below(&r, 5)], n_rows = round % 2 ? 1 : 1 + (int)rng_below(&r, 40);
        world_make(&r, &w, 1 + (int)rng_below(&r, 2), d, n_rows, round, round % 4 == 0 ? 700 : 300);
        for (int i = 0; i < n_paths; i++)
            for (int words = 0; words <= (paths[i].decode_words != NULL); words++) {
                outputs_alloc(&w);
                run(&paths[i], words ? 'w' : 'd', &w, 0, w.n_heads, 1 + (int)rng_below(&r, 3));
                for (int h = 0; h < w.n_heads; h++) check_head(&r, paths[i].name, words ? 'w' : 'd', &w.heads[h]);
                outputs_free(&w);
            }
        world_free(&w);
    }
}

/* All results of a run, so that two can be compared: outputs of the heads in order, then all page memory. */
static uint8_t *results(const world *w, size_t *bytes) {
    *bytes = w->n_pages * w->page_bytes;
    for (int i = 0; i < w->n_heads; i++) *bytes += 2 * out_floats(&w->heads[i].job) * sizeof(float);
    uint8_t *all = malloc(*bytes), *to = all;
    for (int i = 0; i < w->n_heads; i++) {
        size_t n = out_floats(&w->heads[i].job) * sizeof(float);
        memcpy(to, w->heads[i].out, n);
        memcpy(to + n, w->heads[i].out_rotated, n);
        to += 2 * n;
    }
    memcpy(to, w->memory, w->n_pages * w->page_bytes);
    return all;
}

static void live_random(rng *r, world *w) {
    for (int i = 0; i < w->n_heads; i++)
        w->heads[i].job.live = (live_spec){.on = rng_below(r, 4) != 0, .group = (live_group)rng_below(r, 3),
                                           .power = (uint8_t)(1 + rng_below(r, 2)), .fold = (live_fold)rng_below(r, 3)};
}

/* One row of a head as a job of its own. */
static attn_job row_job(const head *h, int row) {
    attn_job j = h->job;
    for (int i = 0; i < ATTN_N_QUERIES; i++) j.q[i] += (size_t)row * j.ldq;
    j.out += (size_t)row * j.ldo;
    j.out_rotated += (size_t)row * j.ldo;
    j.n_rows = 1;
    for (int s = 0; s < j.n_segs; s++) j.seg[s].n_items = attn_seg_items(&h->job.seg[s], row);
    return j;
}

static void extend_equals_steps_and_batches_and_threads_change_nothing(void **state) {
    rng r = rng_make(seed_get(), 2);
    attn_path paths[4];
    int n_paths = attn_paths(paths);
    const int dims[] = {64, 64, 80, 96, 128, 256};
    for (int round = (int)rng_below(&r, EACH); round < 24; round += EACH) {
        world w;
        world_make(&r, &w, 1 + (int)rng_below(&r, MAX_JOBS), dims[rng_below(&r, 6)], 1 + (int)rng_below(&r, 60), round,
                   round % 4 == 0 ? 600 : 270);
        live_random(&r, &w);
        size_t memory_bytes = w.n_pages * w.page_bytes, bytes;
        uint8_t *before = malloc(memory_bytes + 1);
        memcpy(before, w.memory, memory_bytes);
        for (int i = round % 10 ? 1 : 0; i < n_paths; i++) { /* the reference is slow, and takes row by row anyway */
            char op = i && (round + i) % 3 ? 'w' : 'd';
            outputs_alloc(&w);
            run(&paths[i], op, &w, 0, w.n_heads, 1);
            uint8_t *want = results(&w, &bytes);
            outputs_free(&w);
            for (int variant = 0; variant < 4; variant++) {
                memcpy(w.memory, before, memory_bytes);
                outputs_alloc(&w);
                if (variant < 2) run(&paths[i], op, &w, 0, w.n_heads, 2 + variant);
                else if (variant == 2) for (int h = 0; h < w.n_heads; h++) run(&paths[i], op, &w, h, 1, 1);
                else
                    for (int row = 0; row < w.heads[0].job.n_rows; row++) {
                        attn_job jobs[MAX_JOBS];
                        for (int h = 0; h < w.n_heads; h++) jobs[h] = row_job(&w.heads[h], row);
                        attn_batch b = {.jobs = jobs, .n_jobs = w.n_heads, .pool_base = w.memory};
                        attn_call_run(&paths[i], op, &b, 1 + (row % 8 == 7)); /* a team costs more than a row */
                    }
                uint8_t *got = results(&w, &bytes);
                if (memcmp(got, want, bytes)) {
                    const char *names[] = {"two threads", "three threads", "jobs one by one", "rows one by one"};
                    fail_msg("%s: %s change the result (round %d, d %d, %d rows)", paths[i].name, names[variant], round,
                             w.heads[0].job.head_dim, w.heads[0].job.n_rows);
                }
                free(got);
                outputs_free(&w);
            }
            memcpy(w.memory, before, memory_bytes);
            free(want);
        }
        free(before);
        world_free(&w);
    }
}

/* What the columns of a head must hold after the call, given what they held: by plain attention, or by the formula of fast math. */
static void check_columns(const char *path, char op, bool by_formula, const world *w, const head *h, const uint8_t *before) {
    const attn_job *j = &h->job;
    double *col = malloc((size_t)h->n_all * sizeof(double) + 1), *slack = calloc((size_t)h->n_all + 1, sizeof(double));
    answer a = {.p = malloc((size_t)h->n_all * sizeof(double) + 1)};
    fast_answer fast = {.p = a.p, .p_slack = malloc((size_t)h->n_all * sizeof(double) + 1)};
    for (int pass = 0, at = 0; pass < 3; pass++, at = 0) { /* old values, what rows add, comparison */
        for (int row = 0; pass == 1 && row < j->n_rows; row++) {
            double *val = calloc((size_t)h->n_all + 1, sizeof(double));
            for (int g = 0; g < j->group; g++) {
                if (by_formula) fast_attention(j, h->items, row, g, &fast);
                else oracle(h, op, row, g, &a);
                for (int i = 0; i < h->n_all; i++) {
                    if (by_formula) slack[i] = fmax(slack[i], j->live.power * fast.p_slack[i]);
                    double p = pow(a.p[i], j->live.power);
                    val[i] = j->live.group == LIVE_MAX ? fmax(val[i], p) : val[i] + (j->live.group == LIVE_MEAN ? p / j->group : p);
                }
            }
            for (int i = 0; i < h->n_all; i++) /* the last row sees all items */
                col[i] = j->live.fold == LIVE_REPLACE ? val[i] : j->live.fold == LIVE_KEEP_MAX ? fmax(col[i], val[i]) : col[i] + val[i];
            free(val);
        }
        for (int s = 0; pass != 1 && s < j->n_segs; s++)
            for (int i = 0; i < attn_seg_items(&j->seg[s], j->n_rows - 1); i++, at++) {
                const page_layout *l = &h->layout[s];
                int item = j->seg[s].first + i;
                size_t off = (size_t)h->pages[s][item / l->cap] * 64;
                if (!l->has_score) continue;
                if (pass == 0) col[at] = (double)page_score(l, before + off, item % l->cap);
                else {
                    double got = (double)page_score(l, w->memory + off, item % l->cap);
                    double bound = by_formula ? slack[at] + 4e-6 : op == 'w' ? 3e-3 : 3e-5; /* 4e-6: of f32 sums over rows and heads */
                    if (!(fabs(got - col[at]) <= bound * col[at] + 1e-30))
                        fail_msg("%s %c: segment %d item %d: score %.9g, by %s %.9g, bound %.3g", path, op, s, i, got,
                                 by_formula ? "the formula" : "f64", col[at], bound);
                }
            }
    }
    free(a.p), free(fast.p_slack), free(slack), free(col);
}

static void score_columns_receive_what_rows_saw(void **state) {
    rng r = rng_make(seed_get(), 3);
    attn_path paths[4];
    int n_paths = attn_paths(paths);
    for (int round = (int)rng_below(&r, EACH); round < 30; round += EACH) {
        world w;
        world_make(&r, &w, 1 + (int)rng_below(&r, 2), 64, round % 2 ? 1 : 1 + (int)rng_below(&r, 12), round, 400);
        live_random(&r, &w);
        for (int i = 0; i < w.n_heads; i++) {
            head *h = &w.heads[i];
            for (int s = 0; s < h->job.n_segs; s++) /* columns are not empty at first */
                for (int k = 0; h->layout[s].has_score && k < attn_seg_items(&h->job.seg[s], h->job.n_rows - 1); k++) {
                    int item = h->job.seg[s].first + k, cap = h->layout[s].cap;
                    page_set_score(&h->layout[s], page_at(&w, h->pages[s][item / cap]), item % cap, 0.01f * (float)rng_uniform(&r));
                }
        }
        size_t bytes = w.n_pages * w.page_bytes;
        uint8_t *before = malloc(bytes + 1);
        memcpy(before, w.memory, bytes);
        for (int i = 0; i < n_paths; i++)
            for (int words = 0; words <= (paths[i].decode_words != NULL); words++) {
                char op = words ? 'w' : 'd';
                outputs_alloc(&w);
                run(&paths[i], op, &w, 0, w.n_heads, 1 + (int)rng_below(&r, 3));
                for (int h = 0; h < w.n_heads; h++) {
                    for (int by_formula = 0; w.heads[h].job.live.on && by_formula <= words; by_formula++)
                        check_columns(paths[i].name, op, by_formula, &w, &w.heads[h], before);
                    check_head(&r, paths[i].name, op, &w.heads[h]);
                }
                outputs_free(&w);
                memcpy(w.memory, before, bytes);
            }
        free(before);
        world_free(&w);
    }
}

typedef void bytes_fn(const page_layout *, int, const uint8_t *, const float *, const uint8_t *const *, int, float *);

/* Weights in bytes, with powers of two for scales: sums are then exact in f32, however they are added. */
static void check_bytes(rng *r, const char *name, bytes_fn *path, bytes_fn *plain, const page_layout *l, int nq, const uint8_t *const *v, int n_lanes,
                        bool full) {
    size_t n_w = (size_t)l->n_groups * (size_t)nq, n_o = (size_t)(nq * l->head_dim);
    uint8_t *w = malloc(n_w * ATTN_P_LD);
    float *scale = malloc(n_w * ATTN_P_TILES * sizeof *scale), *o[2];
    for (size_t i = 0; i < n_w * ATTN_P_LD; i++) w[i] = full ? 255 : (uint8_t)rng_below(r, 256);
    for (size_t i = 0; i < n_w * ATTN_P_TILES; i++) scale[i] = rng_below(r, 2) ? 0.5f : 0.25f;
    for (int k = 0; k < 2; k++) {
        o[k] = malloc(n_o * sizeof *o[k]);
        for (size_t i = 0; i < n_o; i++) o[k][i] = (float)i;
        (k ? path : plain)(l, nq, w, scale, v, n_lanes, o[k]);
    }
    for (size_t i = 0; i < n_o; i++)
        if (o[1][i] != o[0][i])
            fail_msg("%s: %d-bit V, %d groups, d %d, %d items, weights in bytes: query %zu channel %zu is %g, not %g", name, l->fmt.v_bits, l->n_groups,
                     l->head_dim, n_lanes, i / l->head_dim, i % l->head_dim, (double)o[1][i], (double)o[0][i]);
    free(w), free(scale), free(o[0]), free(o[1]);
}

/* Queries as the keys of a layout meet them: all at a limit (full 1: the upper, more: the lower), or random. */
static void integer_queries(rng *r, const page_layout *l, int nq, int full, int16_t *q) {
    int d = l->head_dim, bytes = codes_k_bytes(l) || codes_k_runs(l);
    for (int i = 0; i < nq; i++, q += d) {
        for (int c = 0; c < d; c++) {
            int most = bytes ? 127 : 32767;
            q[c] = (int16_t)(full ? (full < 2 ? most : -most) : (int)rng_below(r, 2 * (uint32_t)most + 1) - most);
        }
        for (int k = codes_k_runs(l) ? (int)rng_below(r, (uint32_t)codes_runs_wide(d) + 1) : 0; k > 0; k--) /* wide runs, some drawn twice */
            for (int at = (int)rng_below(r, (uint32_t)(d / 8)) * 8, c = at; c < at + 8; c++)
                q[c] = (int16_t)(full ? (full < 2 ? RUNS_MAX : -RUNS_MAX) : (int)rng_below(r, 2 * RUNS_MAX + 1) - RUNS_MAX);
    }
}

/* Adversarial integers: everything at its limits, so that any narrower sum would overflow, or random. */
static void integers_of_every_path_equal_plain_c(void **state) {
    rng r = rng_make(seed_get(), 4);
    const int dims[] = {64, 80, 96, 128, 256};
    enum { N_PATHS = 2, GRANULES = ATTN_P_LD / 8 };
    void (*scores[N_PATHS + 1])(const page_layout *, int, int, const int16_t *, const uint8_t *const *, int, uint8_t *, int32_t *) = {
        attn_code_scores_scalar};
    void (*values[N_PATHS + 1])(const page_layout *, int, const int16_t *, const uint8_t *const *, int, int32_t *) = {attn_words_values_scalar};
    bytes_fn *bytes[N_PATHS + 1] = {attn_bytes_values_scalar};
    const char *names[N_PATHS + 1] = {"scalar"};
    int n_paths = 1;
    if (isa_present(ISA_AVX2)) {
        names[n_paths] = "avx2", bytes[n_paths] = attn_bytes_values_avx2;
        scores[n_paths] = attn_code_scores_avx2, values[n_paths++] = attn_words_values_avx2;
    }
    if (isa_present(ISA_AVX512)) {
        names[n_paths] = "avx512", bytes[n_paths] = attn_bytes_values_avx512;
        scores[n_paths] = attn_code_scores_avx512, values[n_paths++] = attn_words_values_avx512;
    }
    for (int round = (int)rng_below(&r, EACH); round < 5 * N_FORMATS; round += EACH) {
        kv_format f;
        page_layout l;
        int d = dims[round / N_FORMATS], nq = 1 + (int)rng_below(&r, 9);
        if (kv_format_parse(formats[round % N_FORMATS], &f) != OK) fail_msg("%s", err_text());
        if (kv_format_is_float(f) || kv_format_check(f, d) != OK) continue;
        if (page_layout_make(f, d, 0, false, 640 * (size_t)d, &l) != OK) fail_msg("%s", err_text());
        int n_used = attn_min(l.cap, ATTN_CUT) / 8, n_lanes = 8 * (1 + (int)rng_below(&r, (uint32_t)n_used)), full = attn_max(0, 3 - (int)rng_below(&r, 6));
        uint8_t *page = aligned_alloc(64, l.page_bytes);
        for (size_t i = 0; i < l.page_bytes; i++) page[i] = full ? 0xff : (uint8_t)rng_below(&r, 256);
        const uint8_t *k[GRANULES], *v[GRANULES];
        for (int i = 0; i < GRANULES; i++) {
            int at = attn_min(8 * i, n_lanes - 8);
            k[i] = page + l.off_k + (size_t)(at * d * f.k_bits / 8);
            v[i] = page + l.off_v + (size_t)(at * d * f.v_bits / 8);
        }
        size_t n_q = (size_t)(nq * d), n_w = (size_t)l.n_groups * (size_t)nq * ATTN_P_LD, arranged = (size_t)nq * 4 * codes_query_floats(d);
        int16_t *q = malloc(n_q * sizeof *q), *w = malloc(n_w * sizeof *w);
        integer_queries(&r, &l, nq, full, q);
        for (size_t i = 0; i < n_w; i++) w[i] = (int16_t)(full ? 32767 : (int)rng_below(&r, 65535) - 32767);
        int n_s = attn_min(n_lanes, ATTN_TILE) - (int)rng_below(&r, 8), g = (int)rng_below(&r, (uint32_t)(d / codes_k_group(&l)));
        int32_t *s[2], *o[2];
        for (int i = 0; i < n_paths; i++) {
            uint8_t *scratch = malloc(arranged);
            s[i > 0] = malloc((size_t)nq * ATTN_TILE * sizeof(int32_t));
            o[i > 0] = malloc(n_q * sizeof(int32_t));
            scores[i](&l, g, nq, q, k, n_s, scratch, s[i > 0]);
            values[i](&l, nq, w, v, n_lanes, o[i > 0]);
            for (int row = 0; i && row < nq; row++)
                for (int t = 0; t < n_s; t++)
                    if (s[1][row * ATTN_TILE + t] != s[0][row * ATTN_TILE + t])
                        fail_msg("%s: %s d %d: score of query %d item %d is %d, not %d", names[i], formats[round % N_FORMATS], d, row, t,
                                 s[1][row * ATTN_TILE + t], s[0][row * ATTN_TILE + t]);
            for (int c = 0; i && c < nq * d; c++)
                if (o[1][c] != o[0][c])
                    fail_msg("%s: %s d %d, %d items: value of query %d channel %d is %d, not %d", names[i], formats[round % N_FORMATS], d, n_lanes,
                             c / d, c % d, o[1][c], o[0][c]);
            if (codes_v_bytes(&l)) check_bytes(&r, names[i], bytes[i], bytes[0], &l, nq, v, n_lanes, full);
            free(scratch);
            if (i) free(s[1]), free(o[1]);
        }
        free(s[0]), free(o[0]), free(q), free(w), free(page);
    }
}

static void a_job_without_items_gives_zeros(void **state) {
    attn_path paths[4];
    int n_paths = attn_paths(paths);
    page_layout l;
    if (page_layout_make((kv_format){.k_bits = 8, .v_bits = 4}, 64, 2, true, 4096, &l) != OK) fail_msg("%s", err_text());
    float q[3 * 64] = {1}, out[3 * 64], rotated[3 * 64], zero[3 * 64] = {0};
    for (int n_segs = 0; n_segs < 3; n_segs++)
        for (int i = 0; i < n_paths; i++) {
            memset(out, 0xff, sizeof out);
            memset(rotated, 0xff, sizeof rotated);
            attn_job j = {.q = {q, q, q, q}, .ldq = 192, .out = out, .out_rotated = rotated, .ldo = 192, .n_rows = 1, .group = 3,
                          .head_dim = 64, .scale = 0.125f, .n_segs = n_segs,
                          .live = {.on = true, .group = LIVE_MEAN, .power = 1}};
            for (int s = 0; s < n_segs; s++) j.seg[s] = (attn_segment){.layout = &l, .query = (uint8_t)s};
            attn_batch b = {.jobs = &j, .n_jobs = 1};
            for (int threads = 1; threads <= 3; threads++) attn_call_run(&paths[i], i && threads > 1 ? 'w' : 'd', &b, threads);
            assert_memory_equal(out, zero, sizeof zero);
            assert_memory_equal(rotated, zero, sizeof zero);
            b.n_jobs = 0;
            attn_call_run(&paths[i], 'd', &b, 2);
        }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_path_agrees_with_f64),
        cmocka_unit_test(extend_equals_steps_and_batches_and_threads_change_nothing),
        cmocka_unit_test(score_columns_receive_what_rows_saw),
        cmocka_unit_test(integers_of_every_path_equal_plain_c),
        cmocka_unit_test(a_job_without_items_gives_zeros),
    };
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests_name("attn_decode", tests, NULL, NULL));
}
