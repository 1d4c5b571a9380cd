/* Attention by its definition: scores in f64, softmax in two passes, one row after the other. Judges the SIMD paths. */
#include <math.h>
#include "kernels/cpu/attn.h"
#include "kernels/cpu/attn_plan.h"

static double dot(const float *a, const float *b, int n) {
    double s = 0;
    for (int i = 0; i < n; i++) s += (double)a[i] * (double)b[i];
    return s;
}

/* Scores to probabilities in place; returns the log-sum-exp. */
static double softmax(double *s, int n) {
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) max = s[i] > max ? s[i] : max;
    for (int i = 0; i < n; i++) sum += s[i] = exp(s[i] - max);
    for (int i = 0; i < n; i++) s[i] /= sum;
    return max + log(sum);
}

static double powered(double p, int power) { return power == 2 ? p * p : p; }

void attn_prefill_reference(const par *p, const attn_prefill *a) {
    int d = a->head_dim, group = a->n_heads / a->n_kv;
    size_t ldq = (size_t)a->n_heads * (size_t)d;
    float *own = attn_align64(a->scratch) + (size_t)p->ith * attn_prefill_thread_floats(a);
    double *s = (double *)own, *o = s + a->n_tokens;
    for (int row = a->first + p->ith; row < a->n_tokens; row += p->nth) {
        for (int h = 0; h < a->n_heads; h++) {
            size_t kv = (size_t)(h / group) * (size_t)a->n_tokens * (size_t)d, at = (size_t)row * ldq + (size_t)h * (size_t)d;
            int from = a->window && row >= a->window ? row - a->window + 1 : 0;
            for (int t = from; t <= row; t++) s[t] = (double)a->scale * dot(a->q + at, a->k + kv + (size_t)t * (size_t)d, d);
            double lse = softmax(s + from, row + 1 - from);
            if (a->lse) a->lse[(size_t)h * (size_t)a->n_tokens + (size_t)row] = (float)lse;
            for (int c = 0; c < d; c++) o[c] = 0;
            for (int t = from; t <= row; t++)
                for (int c = 0; c < d; c++) o[c] += s[t] * (double)a->v[kv + (size_t)t * (size_t)d + (size_t)c];
            for (int c = 0; c < d; c++) a->out[at + (size_t)c] = (float)o[c];
        }
    }
}

void attn_mass_reference(const par *p, const attn_mass *a) {
    int d = a->head_dim, group = a->n_heads / a->n_kv, n = a->n_tokens;
    attn_mass_buf buf = attn_mass_buf_at(attn_align64(a->scratch), a, p->ith, p->nth);
    double *s = (double *)buf.q;
    for (int h = p->ith; h < a->n_heads; h += p->nth) {
        const float *k = a->k + (size_t)(h / group) * (size_t)n * (size_t)d;
        float *out = a->out + (size_t)h * (size_t)n;
        for (int t = 0; t < n; t++) out[t] = 0;
        for (int r = 0; r < a->n_rows; r++) {
            const float *q = a->q + ((size_t)r * (size_t)a->n_heads + (size_t)h) * (size_t)d;
            int n_seen = n - a->n_rows + r + 1;
            for (int t = 0; t < n_seen; t++) s[t] = (double)a->scale * dot(q, k + (size_t)t * (size_t)d, d);
            softmax(s, n_seen);
            for (int t = 0; t < n_seen; t++) {
                float m = (float)powered(s[t], a->power);
                out[t] = a->max ? fmaxf(out[t], m) : out[t] + m;
            }
        }
    }
}

typedef struct seg_item { /* one item of a segment, found through the page table */
    const page_layout *l;
    uint8_t *page;
    int slot;
} seg_item;

static seg_item item_at(const attn_batch *b, const attn_segment *s, int i) {
    int item = s->first + i, cap = s->layout->cap;
    return (seg_item){s->layout, b->pool_base + (size_t)s->pages[item / cap] * 64, item % cap};
}

/* Adds what one row saw to the score columns. s: [group][n] probabilities, segments one after the other. */
static void live_update(const attn_batch *b, const attn_job *j, int row, const double *s, int n) {
    int at = 0;
    for (int i = 0; i < j->n_segs; i++) {
        int n_seg = attn_seg_items(&j->seg[i], row);
        for (int t = 0; t < n_seg && j->seg[i].layout->has_score; t++) {
            double v = 0;
            for (int g = 0; g < j->group; g++) {
                double x = powered(s[(size_t)g * (size_t)n + (size_t)(at + t)], j->live.power);
                v = j->live.group == LIVE_MAX ? fmax(v, x) : v + x;
            }
            if (j->live.group == LIVE_MEAN) v /= j->group;
            seg_item it = item_at(b, &j->seg[i], t);
            float old = page_score(it.l, it.page, it.slot);
            page_set_score(it.l, it.page, it.slot, attn_live_fold(j->live.fold, old, (float)v));
        }
        at += n_seg;
    }
}

/* own: attn_reference_floats of scratch. */
static void decode_row(const attn_batch *b, const attn_job *j, int row, float *own) {
    int d = j->head_dim, group = j->group, n = 0, at = 0;
    for (int i = 0; i < j->n_segs; i++) n += attn_seg_items(&j->seg[i], row);
    double *s = (double *)own;                        /* [group][n] */
    double *o = s + (size_t)group * (size_t)n;        /* [2][group][d]: plain and slot, rotated */
    float *x = (float *)(o + 2 * (size_t)group * (size_t)d); /* [d] */
    for (int i = 0; i < j->n_segs; i++) {
        const attn_segment *seg = &j->seg[i];
        int n_seg = attn_seg_items(seg, row);
        for (int t = 0; t < n_seg; t++) {
            seg_item it = item_at(b, seg, t);
            page_get(it.l, it.page, it.slot, x, NULL);
            for (int g = 0; g < group; g++) {
                const float *q = j->q[seg->query] + (size_t)row * j->ldq + (size_t)g * (size_t)d;
                s[(size_t)g * (size_t)n + (size_t)(at + t)] = (double)j->scale * dot(q, x, d);
            }
        }
        at += n_seg;
    }
    for (int g = 0; g < group; g++) softmax(s + (size_t)g * (size_t)n, n);
    for (size_t c = 0; c < 2 * (size_t)group * (size_t)d; c++) o[c] = 0;
    at = 0;
    for (int i = 0; i < j->n_segs; i++) {
        const attn_segment *seg = &j->seg[i];
        int n_seg = attn_seg_items(seg, row);
        for (int t = 0; t < n_seg; t++) {
            seg_item it = item_at(b, seg, t);
            page_get(it.l, it.page, it.slot, NULL, x);
            for (int g = 0; g < group; g++) {
                double *og = o + (size_t)((seg->out_rotated ? group : 0) + g) * (size_t)d;
                double pr = s[(size_t)g * (size_t)n + (size_t)(at + t)];
                for (int c = 0; c < d; c++) og[c] += pr * (double)x[c];
            }
        }
        at += n_seg;
    }
    for (int k = 0; k < group * d; k++) {
        j->out[(size_t)row * j->ldo + (size_t)k] = (float)o[k];
        if (j->out_rotated) j->out_rotated[(size_t)row * j->ldo + (size_t)k] = (float)o[group * d + k];
    }
    if (j->live.on) live_update(b, j, row, s, n);
}

void attn_decode_reference(const par *p, const attn_batch *b) {
    attn_place at = {0};
    for (int i = 0; i < b->n_jobs; i++) attn_place_next(&at, &b->jobs[i]);
    float *own = attn_align64(b->scratch) + at.end + (size_t)p->ith * attn_decode_thread_floats(b);
    for (int i = p->ith; i < b->n_jobs; i += p->nth) /* a job's rows in order: they write the same score columns */
        for (int row = 0; row < b->jobs[i].n_rows; row++) decode_row(b, &b->jobs[i], row, own);
}
