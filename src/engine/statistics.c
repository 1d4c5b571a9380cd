/* Statistics of the whole prompt, taken while its queries are there: column sums of attention over all rows, and mean and covariance
 * of the queries before RoPE. Prefill hands them to the signals of the layer; a snapshot keeps those that policies declared. */
#include "engine/engine_impl.h"

#include <string.h>

bool statistic_needed(const signal_request *r) {
    return r->kind == SIGNAL_ALL_MASS || r->kind == SIGNAL_EXPECTED_MASS || r->kind == SIGNAL_PROBE_MASS;
}

size_t statistic_floats(const engine *e, const signal_request *r, int n_tokens) {
    size_t h = (size_t)e->m->p.n_heads, d = (size_t)e->m->p.head_dim;
    if (r->group_max) h = (size_t)e->m->p.n_kv;
    return r->kind == SIGNAL_EXPECTED_MASS ? h * (d + d * d) : h * (size_t)n_tokens;
}

void statistic_key(const signal_request *r, unsigned char *key) {
    _Static_assert(sizeof *r <= SNAPSHOT_KEY_BYTES, "a request fits the key of a statistic");
    memset(key, 0, SNAPSHOT_KEY_BYTES);
    memcpy(key, r, sizeof *r);
}

MUST err engine_declare(engine *e, const policy *p) {
    const policy_needs *need = policy_get_needs(p);
    for (int i = 0; i < need->n_signals; i++) {
        const signal_request *r = &need->signals[i];
        TRY(signal_supported(e, r, need->all_layers));
        bool known = !statistic_needed(r) || r->kind == SIGNAL_PROBE_MASS || e->n_declared == SNAPSHOT_MAX_STATS;
        for (int k = 0; k < e->n_declared && !known; k++) known = !memcmp(&e->declared[k], r, sizeof *r);
        if (!known) e->declared[e->n_declared++] = *r;
    }
    return OK;
}

/* ---- query moments ---- */

static size_t moment_sums(const engine *e) {
    size_t h = (size_t)e->m->p.n_heads, d = (size_t)e->m->p.head_dim;
    return h * (d + d * d);
}
static double *sums_of(const engine *e, int i) { return (double *)e->moment_sums.p + moment_sums(e) * (size_t)i; }

MUST err statistics_reserve(engine *e, const statistics *s) {
    TRY(scratch_need(&e->moment_sums, MEM_POLICY, sizeof(double) * moment_sums(e) * (size_t)s->n));
    return signals_reserve_op(e);
}

void statistics_begin(const par *p, const statistics *s, engine *e) {
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)(moment_sums(e) * (size_t)s->n), &lo, &hi);
    memset((double *)e->moment_sums.p + lo, 0, sizeof(double) * (size_t)(hi - lo));
    par_barrier(p);
}

/* Adds the rows of a chunk, in order. */
void statistics_queries(const par *p, const statistics *s, engine *e, const float *q, int first, int m) {
    int n_heads = e->m->p.n_heads, d = e->m->p.head_dim;
    size_t row = (size_t)n_heads * (size_t)d;
    for (int i = 0; i < s->n; i++) {
        if (s->req[i].kind != SIGNAL_EXPECTED_MASS) continue;
        int skip = s->req[i].first > first ? s->req[i].first - first : 0;
        if (skip >= m) continue;
        row_moments a = {.x = q + (size_t)skip * row, .ldx = row, .sums = sums_of(e, i), .n_rows = m - skip, .n_heads = n_heads, .head_dim = d};
        e->m->be->row_moments(p, &a);
    }
    par_barrier(p);
}

/* Per head: mean [d], covariance [d][d] (divided by the number of queries). */
static void finish_moments(const par *p, const engine *e, int i, int n, float *out) {
    int n_heads = e->m->p.n_heads, d = e->m->p.head_dim;
    for (int h = p->ith; h < n_heads; h += p->nth) {
        const double *sum = sums_of(e, i) + (size_t)h * (size_t)(d + d * d), *products = sum + d;
        float *mean = out + (size_t)h * (size_t)(d + d * d), *cov = mean + d;
        for (int c = 0; c < d; c++) mean[c] = n > 0 ? (float)(sum[c] / n) : 0;
        for (int c = 0; c < d; c++)
            for (int b = c; b < d; b++) {
                double v = n > 0 ? products[c * d + b] / n - sum[c] / n * (sum[b] / n) : 0;
                cov[c * d + b] = cov[b * d + c] = (float)v;
            }
    }
}

/* After attention: q after RoPE, keys and log-sum-exps of the layer are there. */
void statistics_layer(const par *p, const statistics *s, engine *e, int layer, int n_tokens) {
    const model_params *mp = &e->m->p;
    for (int i = 0; i < s->n; i++) {
        const signal_request *r = &s->req[i];
        float *out = s->data[i] + (s->per_layer ? (size_t)layer * statistic_floats(e, r, n_tokens) : 0);
        if (r->kind == SIGNAL_EXPECTED_MASS) {
            finish_moments(p, e, i, n_tokens - r->first, out);
        } else {
            attn_columns a = {.q = e->q.p, .lse = e->lse.p, .k = e->kh.p, .out = out, .ld_lse = (size_t)n_tokens, .first = 0,
                              .n_rows = n_tokens, .n_tokens = n_tokens, .n_heads = mp->n_heads, .n_kv = mp->n_kv,
                              .head_dim = mp->head_dim, .scale = mp->attn_scale, .power = r->power, .lag = r->lag, .window = e->m->layers[layer].window,
                              .max = r->max, .group_max = r->group_max,
                              .scratch = e->signal_op.p};
            e->m->be->attn_columns(p, &a);
        }
        par_barrier(p);
    }
}
