/* Signals by their definitions, in f64, one item after the other. */
#include "kernels/cpu/signals.h"

#include <math.h>

#include "kernels/cpu/attn_plan.h"

size_t signal_scratch_bytes(int head_dim, int nth) { return 64 + (size_t)nth * signal_thread_floats(head_dim) * sizeof(float); }

static double dot(const float *a, const float *b, int n) {
    double s = 0;
    for (int i = 0; i < n; i++) s += (double)a[i] * (double)b[i];
    return s;
}

void attn_columns_reference(const par *p, const attn_columns *a) {
    int d = a->head_dim, group = a->n_heads / a->n_kv, per_out = a->group_max ? group : 1;
    for (int u = p->ith; u < a->n_heads / per_out * a->n_tokens; u += p->nth) {
        int out = u / a->n_tokens, t = u % a->n_tokens, first_head = out * per_out;
        const float *k = a->k + ((size_t)(first_head / group) * (size_t)a->n_tokens + (size_t)t) * (size_t)d;
        double total = 0;
        for (int r = attn_max(0, t + a->lag - a->first); r < signal_end_row(a, t) - a->first; r++) {
            double largest = 0;
            for (int h = first_head; h < first_head + per_out; h++) {
                const float *q = a->q + ((size_t)r * (size_t)a->n_heads + (size_t)h) * (size_t)d;
                double x = exp((double)a->scale * dot(q, k, d) - (double)a->lse[(size_t)h * a->ld_lse + (size_t)r]);
                largest = fmax(largest, a->power == 2 ? x * x : x);
            }
            total = a->max ? fmax(total, largest) : total + largest;
        }
        a->out[(size_t)out * (size_t)a->n_tokens + (size_t)t] = (float)total;
    }
}

void item_form_reference(const par *p, const item_form *a) {
    int d = a->head_dim, group = a->n_heads / a->n_kv;
    for (int u = p->ith; u < a->n_heads * a->n_items; u += p->nth) {
        int h = u / a->n_items, j = u % a->n_items;
        const float *x = a->x + ((size_t)(h / group) * (size_t)a->n_items + (size_t)j) * (size_t)d;
        double total = 0;
        for (int r = 0; r < a->n_rows; r++) {
            double y = dot(a->m + (size_t)h * a->head_stride + (size_t)r * a->ldm, x, d);
            total += a->kind == FORM_ABS ? fabs(y) : a->kind == FORM_SQUARE ? y * y : y * (double)x[r];
        }
        a->out[(size_t)h * (size_t)a->n_items + (size_t)j] = (float)total;
    }
}

void attn_change_reference(const par *p, const attn_change *a) {
    int d = a->head_dim, group = a->n_heads / a->n_kv, first = a->n_tokens - a->n_rows;
    for (int u = p->ith; u < a->n_heads * a->n_tokens; u += p->nth) {
        int h = u / a->n_tokens, t = u % a->n_tokens;
        size_t at = ((size_t)(h / group) * (size_t)a->n_tokens + (size_t)t) * (size_t)d;
        double total = 0;
        for (int r = attn_max(0, t - first); r < a->n_rows; r++) {
            size_t row = ((size_t)r * (size_t)a->n_heads + (size_t)h) * (size_t)d;
            double x = exp((double)a->scale * dot(a->q + row, a->k + at, d) - (double)a->lse[(size_t)h * a->ld_lse + (size_t)r]), dist = 0;
            for (int c = 0; c < d; c++) {
                double diff = (double)a->v[at + (size_t)c] - (double)a->o[row + (size_t)c];
                dist += diff * diff;
            }
            double odds = a->stays ? x : x / (1 - x + (double)a->epsilon);
            total += odds * odds * dist;
        }
        a->out[(size_t)h * (size_t)a->n_tokens + (size_t)t] = (float)total;
    }
}
