#include "tests/support/fast_attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/attn_plan.h"

/* Of f32: half a unit in the last place; of its 2^x (kernels/cpu/vmath.h) with a few roundings around. */
#define F32_HALF_ULP 0x1p-24
#define EXP2_ERROR   4.5e-6

/* x [d] to integers, of which the largest, max, becomes limit, in the path's own f32 operations; returns their worth. */
static double round_to(const float *x, int d, float max, float limit, double *to) {
    if (!(max > 1e-30f)) {
        memset(to, 0, (size_t)d * sizeof *to);
        return 0;
    }
    float inv = limit / max;
    for (int c = 0; c < d; c++) to[c] = (double)nearbyintf(x[c] * inv);
    return (double)(max / limit);
}
static float largest(const float *x, int d) {
    float max = 0;
    for (int c = 0; c < d; c++) max = fmaxf(max, fabsf(x[c]));
    return max;
}
static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* As a query meets the codes of a layout; where most of its runs of 8 channels are to fit 8 bits, the largest of those gets 127, or of all 127 x 128. */
static double round_query(const page_layout *l, const float *x, int d, double *to) {
    if (!codes_k_runs(l)) return round_to(x, d, largest(x, d), codes_k_bytes(l) ? 127 : 32767, to);
    float run[KV_MAX_HEAD_DIM / 8];
    int n = d / 8, n_wide = d < 64 ? 1 : d / 32;
    for (int i = 0; i < n; i++) run[i] = largest(x + 8 * i, 8);
    qsort(run, (size_t)n, sizeof *run, descending);
    float top = n_wide < n ? run[n_wide] : run[n - 1];
    return run[0] < 128 * top ? round_to(x, d, top, 127, to) : round_to(x, d, run[0], 127 * 128, to);
}

void fast_query_met(const page_layout *l, char op, const float *q, int d, float scale, double *to) {
    float x[KV_MAX_HEAD_DIM];
    for (int c = 0; c < d; c++) to[c] = (double)(x[c] = q[c] * scale);
    if (op != 'w' || !(codes_k_bytes(l) || codes_k_runs(l))) return;
    double worth = round_query(l, x, d, to);
    for (int c = 0; c < d; c++) to[c] *= worth;
}

/* Items of one cut that the row sees, with what becomes of them. off: lanes before the first of them in its granule, or item group. */
typedef struct cut {
    const attn_segment *seg;
    const dense_items *x;
    int first, n, off;
    double *score, *err, *p; /* [n]: nats, then relative to the maximum; by how much of itself p is unknown beside its neighbours; p */
    double max, common;      /* common: the same, of all of them */
} cut;

/* q: times the softmax scale. Scores in nats, and by how much f32 sums of that many terms may be off. */
static void cut_scores(cut *u, const float *q) {
    const dense_items *x = u->x;
    const page_layout *l = u->seg->layout;
    int d = x->d;
    double q_int[KV_MAX_HEAD_DIM], worth = 0;
    if (!x->k_step) {
        for (int i = 0; i < u->n; i++) {
            double s = 0, size = 0;
            for (int c = 0; c < d; c++) {
                double t = (double)q[c] * (double)x->k[(size_t)(u->first + i) * (size_t)d + (size_t)c];
                s += t, size += fabs(t);
            }
            u->score[i] = s, u->err[i] = size * (2 + d / 4) * F32_HALF_ULP;
        }
        return;
    }
    if (!l->fmt.k_channels) worth = round_query(l, q, d, q_int);
    for (int i = 0; i < u->n; i++) {
        size_t row = (size_t)(u->first + i) * (size_t)d;
        double s = 0, size = 0;
        int terms = 4 + (l->fmt.k_channels ? d / 4 : l->n_groups);
        if (l->fmt.k_channels) { /* step goes to the query, whose integers meet the codes of an item group */
            float q_step[KV_MAX_HEAD_DIM];
            double dots = 0;
            for (int c = 0; c < d; c++) q_step[c] = q[c] * x->k_step[row + (size_t)c];
            worth = round_to(q_step, d, largest(q_step, d), 32767, q_int);
            for (int c = 0; c < d; c++) {
                double zero = (double)q[c] * (double)x->k_zero[row + (size_t)c];
                dots += q_int[c] * (double)x->k[row + (size_t)c];
                s += zero, size += fabs(zero);
            }
            s += worth * dots, size += fabs(worth * dots);
        } else {
            for (int c0 = 0; c0 < d; c0 += x->gs) {
                double dots = 0, sum = 0, step = (double)x->k_step[row + (size_t)c0], zero = (double)x->k_zero[row + (size_t)c0];
                for (int c = c0; c < c0 + x->gs; c++) dots += q_int[c] * (double)x->k[row + (size_t)c], sum += q_int[c];
                s += worth * (step * dots + zero * sum), size += worth * (fabs(step * dots) + fabs(zero * sum));
            }
        }
        u->score[i] = s, u->err[i] = size * terms * F32_HALF_ULP;
    }
}

static void cut_softmax(cut *u) {
    u->max = -INFINITY;
    for (int i = 0; i < u->n; i++) u->max = fmax(u->max, u->score[i]);
    for (int i = 0; i < u->n; i++) {
        u->score[i] -= u->max;
        u->p[i] = exp(u->score[i]);
        u->err[i] += EXP2_ERROR + 4 * F32_HALF_ULP * fabs(u->score[i]);
    }
    u->common = 4 * F32_HALF_ULP * fabs(u->max);
}

/* What the values of a cut give, still relative to its maximum. */
typedef struct cut_values {
    double o[KV_MAX_HEAD_DIM], slack[KV_MAX_HEAD_DIM], ties[KV_MAX_HEAD_DIM];
} cut_values;

static void float_values(const cut *u, cut_values *v) {
    for (int i = 0; i < u->n; i++)
        for (int c = 0; c < u->x->d; c++) {
            double t = u->p[i] * (double)u->x->v[(size_t)(u->first + i) * (size_t)u->x->d + (size_t)c];
            v->o[c] += t, v->slack[c] += fabs(t) * (u->err[i] + ATTN_CUT * F32_HALF_ULP);
        }
}

/* Items i0 .. i1 - 1 of the cut, whose weights share a scale for integers of at most `limit`, to the channels from c0 that share steps. */
static void weighted_codes(const cut *u, int i0, int i1, double limit, int c0, cut_values *v) {
    const dense_items *x = u->x;
    double top = 0, top_err = 0, middle = 0.5 * (double)((1 << u->seg->layout->fmt.v_bits) - 1);
    for (int i = i0; i < i1; i++) {
        double w = fabs(u->p[i] * (double)x->v_step[(size_t)(u->first + i) * (size_t)x->d + (size_t)c0]);
        if (w > top) top = w;
    }
    for (int i = i0; i < i1; i++) { /* whichever of them is the largest to a path */
        double w = fabs(u->p[i] * (double)x->v_step[(size_t)(u->first + i) * (size_t)x->d + (size_t)c0]);
        if (w >= top * (1 - 1e-3)) top_err = fmax(top_err, u->err[i]);
    }
    double scale = top > 1e-30 ? top / limit : 0, adds = (ATTN_CUT / 4 + 8) * F32_HALF_ULP;
    for (int i = i0; i < i1; i++) {
        size_t row = (size_t)(u->first + i) * (size_t)x->d;
        double p = u->p[i], w = p * (double)x->v_step[row + (size_t)c0], exact = scale > 0 ? w / scale : 0, whole = nearbyint(exact);
        double epsilon = fabs(exact) * (u->err[i] + top_err + 4 * F32_HALF_ULP);
        bool tie = 0.5 - fabs(exact - whole) <= epsilon;
        for (int c = c0; c < c0 + x->gs; c++) {
            double from_middle = (double)x->v[row + (size_t)c] - middle, zero = p * (double)x->v_zero[row + (size_t)c], code = scale * whole * from_middle;
            v->o[c] += code + w * middle + zero; /* lost = w - scale whole goes to the middle code */
            v->slack[c] += fabs(code) * top_err + fabs(w * middle + zero) * u->err[i]
                         + (2 * scale * fabs(whole) * middle + fabs(w * middle) + fabs(zero)) * adds;
            if (tie) v->ties[c] += scale * fabs(from_middle);
        }
    }
}

/* Weights in 8 bits have a scale for 64 lanes, in 16 bits one for the cut. */
static void code_values(const cut *u, cut_values *v) {
    bool bytes = codes_v_bytes(u->seg->layout);
    for (int c0 = 0; c0 < u->x->d; c0 += u->x->gs)
        for (int i = 0, end; i < u->n; i = end) {
            end = bytes ? attn_min(u->n, (u->off + i) / 64 * 64 + 64 - u->off) : u->n;
            weighted_codes(u, i, end, bytes ? 255 : 32767, c0, v);
        }
}

/* Cuts of ATTN_CUT items from the start of each segment, merged by their maxima. */
typedef struct merged {
    double max, sum, off; /* off: sum p err */
} merged;

static void merge(const cut *u, const cut_values *v, int which, fast_answer *a, merged *m) {
    double max = fmax(m->max, u->max), before = exp(m->max - max), now = exp(u->max - max);
    int d = u->x->d;
    for (int k = 0; k < 2; k++)
        for (int c = 0; c < d; c++) a->o[k][c] *= before, a->slack[k][c] *= before;
    for (int c = 0; c < d; c++) {
        a->o[which][c] += now * v->o[c];
        a->slack[which][c] += now * (v->slack[c] + v->ties[c] + fabs(v->o[c]) * (u->common + 8 * F32_HALF_ULP));
    }
    double most = 0;
    for (int c = 0; c < d; c++) most = fmax(most, v->ties[c]);
    a->ties = a->ties * before + now * most;
    m->sum *= before, m->off *= before, a->scale *= before;
    for (int i = 0; i < u->n; i++) {
        double p = now * u->p[i];
        m->sum += p, m->off += p * (u->err[i] + u->common);
        a->scale += p * (double)u->x->size[u->first + i];
    }
    m->max = max;
}

void fast_attention(const attn_job *j, const dense_items *items, int row, int head, fast_answer *a) {
    double score[ATTN_CUT], err[ATTN_CUT], p[ATTN_CUT];
    merged m = {.max = -INFINITY};
    int d = j->head_dim, at = 0;
    memset(a->o, 0, sizeof a->o), memset(a->slack, 0, sizeof a->slack);
    a->scale = a->ties = 0;
    for (int s = 0; s < j->n_segs; s++) {
        const attn_segment *seg = &j->seg[s];
        const float *from = j->q[seg->query] + (size_t)row * j->ldq + (size_t)(head * d);
        int seen = seg->n_items + (seg->grows ? row : 0), lanes = attn_max(8, kv_format_item_group(seg->layout->fmt));
        float q[KV_MAX_HEAD_DIM];
        for (int c = 0; c < d; c++) q[c] = from[c] * j->scale;
        for (int first = 0; first < seen; first += ATTN_CUT) {
            cut u = {.seg = seg, .x = &items[s], .first = first, .n = attn_min(ATTN_CUT, seen - first), .off = (seg->first + first) % lanes,
                     .score = score, .err = err, .p = p};
            cut_values v = {0};
            cut_scores(&u, q);
            cut_softmax(&u);
            if (u.x->k_step) code_values(&u, &v);
            else float_values(&u, &v);
            merge(&u, &v, seg->out_rotated, a, &m);
            for (int i = 0; i < u.n && a->p; i++) { /* logarithms until all maxima are known */
                a->p[at + first + i] = score[i] + u.max;
                a->p_slack[at + first + i] = err[i] + u.common;
            }
        }
        for (int i = seen; i < items[s].n && a->p; i++) a->p[at + i] = -INFINITY, a->p_slack[at + i] = 0;
        at += items[s].n;
    }
    if (m.sum == 0) {
        for (int i = 0; i < at && a->p; i++) a->p[i] = 0;
        return; /* a row that sees nothing gives zeros */
    }
    double off = m.off / m.sum + 64 * F32_HALF_ULP; /* of the sum of all p */
    a->scale /= m.sum, a->ties /= m.sum;
    for (int k = 0; k < 2; k++)
        for (int c = 0; c < d; c++) {
            a->o[k][c] /= m.sum;
            a->slack[k][c] = a->slack[k][c] / m.sum + fabs(a->o[k][c]) * off;
        }
    for (int i = 0; i < at && a->p; i++) a->p[i] = exp(a->p[i] - m.max) / m.sum, a->p_slack[i] += off;
}
