/* Signals of a finished layer, from K, V, the query tail and the statistics of the prompt. Prefill and fork come through here with
 * the same numbers, so both get the same bits. SPMD, without a trailing barrier. */
#include "engine/engine_impl.h"
#include "policy/topk.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "format/rotate.h"

MUST err signal_supported(const engine *e, const signal_request *r, bool all_layers) {
    const backend *be = e->m->be;
    bool plain = !all_layers && !r->group_max && (r->kind == SIGNAL_WINDOW_MASS || signal_per_kv(r));
    if (plain || (be->attn_columns && be->item_form && be->attn_change && be->row_moments && be->signal_scratch_bytes)) return OK;
    return ERR(ERR_UNSUPPORTED, "backend %s does not measure the signals that this policy's score asks for; cpu and reference do", be->name);
}

MUST err signals_reserve_op(engine *e) {
    if (!e->m->be->signal_scratch_bytes) return OK;
    return scratch_need(&e->signal_op, MEM_SCRATCH, e->m->be->signal_scratch_bytes(e->m->p.head_dim, e->threads));
}

/* Room of one KV head's cosines: the mean, and a block's ranking of up to n_tokens + block items. */
static size_t cosine_doubles(const engine *e, const signal_request *r, int n_tokens) {
    return (size_t)e->m->p.head_dim + 2 * ((size_t)n_tokens + (size_t)r->rows) * (r->rows != 0);
}

MUST err signals_reserve(engine *e, const policy_needs *need, int n_tokens) {
    const model_params *mp = &e->m->p;
    size_t d = (size_t)mp->head_dim, h = (size_t)mp->n_heads;
    TRY(signals_reserve_op(e));
    for (int i = 0; i < need->n_signals; i++) {
        const signal_request *r = &need->signals[i];
        TRY(signal_supported(e, r, need->all_layers));
        if (r->kind == SIGNAL_WINDOW_MASS && !r->group_max) {
            attn_mass a = {.n_rows = r->rows, .n_tokens = n_tokens, .n_heads = mp->n_heads, .n_kv = mp->n_kv, .head_dim = mp->head_dim};
            TRY(scratch_need(&e->op, MEM_SCRATCH, e->m->be->mass_scratch_bytes(&a, e->threads)));
        }
        if (r->kind == SIGNAL_EXPECTED_MASS) TRY(scratch_need(&e->matrix, MEM_POLICY, sizeof(double) * d + sizeof(float) * h * (d + d * d)));
        if (r->kind == SIGNAL_VALUE_OUTPUT) TRY(scratch_need(&e->matrix, MEM_POLICY, sizeof(float) * h * d * (size_t)mp->n_embd));
        if (r->kind == SIGNAL_KEY_COSINE) TRY(scratch_need(&e->matrix, MEM_POLICY, sizeof(double) * (size_t)mp->n_kv * (cosine_doubles(e, r, n_tokens) + (size_t)n_tokens)));
    }
    return OK;
}

static double norm_of(const float *x, int d) {
    double s = 0;
    for (int c = 0; c < d; c++) s += (double)x[c] * (double)x[c];
    return sqrt(s);
}

static void row_norms(const par *p, const finish *f, const float *x, float *out) {
    const model_params *mp = &f->s->e->m->p;
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)mp->n_kv * f->n_tokens, &lo, &hi);
    for (ptrdiff_t i = lo; i < hi; i++) out[i] = (float)norm_of(x + i * mp->head_dim, mp->head_dim);
}

/* Cosine of the keys at[0 .. n - 1] to the mean of these: k.a / (max(|k|, 1e-8) max(|a|, 1e-8)), as torch's cosine_similarity bounds it. */
static void cosines_of(const float *keys, int d, const int *at, int n, bool unit, double *a, float *out) {
    for (int c = 0; c < d; c++) a[c] = 0;
    for (int i = 0; i < n; i++) {
        const float *k = keys + (size_t)at[i] * (size_t)d;
        double w = unit ? 1 / fmax(norm_of(k, d), 1e-12) : 1;
        for (int c = 0; c < d; c++) a[c] += w * (double)k[c];
    }
    double norm = 0;
    for (int c = 0; c < d; c++) {
        a[c] /= n;
        norm += a[c] * a[c];
    }
    for (int i = 0; i < n; i++) {
        const float *k = keys + (size_t)at[i] * (size_t)d;
        double dot = 0;
        for (int c = 0; c < d; c++) dot += (double)k[c] * a[c];
        out[at[i]] = (float)(dot / (fmax(norm_of(k, d), 1e-8) * fmax(sqrt(norm), 1e-8)));
    }
}

/* The `kept` least cosines of at[0 .. n - 1] stay, lower positions first; the others get 2. Returns how many stay. */
static int keep_least(int *at, int n, int kept, uint64_t *keys, float *cosine) {
    if (n <= kept) return n;
    for (int i = 0; i < n; i++) keys[i] = topk_key(-cosine[at[i]], ~(uint32_t)at[i]);
    uint64_t threshold = topk_threshold(keys, n, kept);
    int m = 0;
    for (int i = 0; i < n; i++) {
        if (topk_key(-cosine[at[i]], ~(uint32_t)at[i]) >= threshold) at[m++] = at[i];
        else cosine[at[i]] = 2;
    }
    return m;
}

static void key_cosine(const par *p, const finish *f, int layer, const signal_request *r, float *out) {
    engine *e = f->s->e;
    int d = e->m->p.head_dim, n = f->n_tokens, kept = n, block = n;
    size_t room = cosine_doubles(e, r, n) + (size_t)n;
    if (r->rows) {
        kept = policy_prompt_kept(f->s->pol, layer, f->first + n);
        block = r->rows;
    }
    for (int h = p->ith; h < e->m->p.n_kv; h += p->nth) {
        const float *k = f->k + (size_t)h * (size_t)n * (size_t)d;
        double *mean = (double *)e->matrix.p + (size_t)h * room;
        int *at = (int *)(mean + d);
        uint64_t *keys = (uint64_t *)(void *)(mean + d + n);
        float *cosine = out + (size_t)h * (size_t)n;
        int have = 0, seen = 0;
        do { /* the whole prompt is one block that nobody leaves */
            int upto = seen == 0 ? kept : seen + block;
            for (; seen < n && seen < upto; seen++) at[have++] = seen;
            cosines_of(k, d, at, have, r->unit != 0, mean, cosine);
            have = keep_least(at, have, kept, keys, cosine);
        } while (seen < n);
    }
}

static void value_output(const par *p, const finish *f, int layer, const signal_request *r, float *out) {
    engine *e = f->s->e;
    const model_params *mp = &e->m->p;
    size_t q_dim = (size_t)mp->n_heads * (size_t)mp->head_dim;
    float *wo = e->matrix.p;
    ptrdiff_t lo, hi;
    par_range(p, mp->n_embd, &lo, &hi);
    for (ptrdiff_t i = lo; i < hi; i++) model_output_row(e->m, layer, (int)i, wo + (size_t)i * q_dim);
    par_barrier(p);
    item_form a = {.kind = r->power == 2 ? FORM_SQUARE : FORM_ABS, .x = f->v, .m = wo, .head_stride = (size_t)mp->head_dim, .ldm = q_dim,
                   .out = out, .n_rows = mp->n_embd, .n_items = f->n_tokens, .n_heads = mp->n_heads, .n_kv = mp->n_kv,
                   .head_dim = mp->head_dim, .scratch = e->signal_op.p};
    e->m->be->item_form(p, &a);
    if (r->power != 2) return;
    par_barrier(p);
    par_range(p, (ptrdiff_t)mp->n_heads * f->n_tokens, &lo, &hi);
    for (ptrdiff_t i = lo; i < hi; i++) out[i] = sqrtf(out[i]);
}

/* Mean rotation over the future positions, one 2 x 2 block (cos, sin) per pair of channels; angles in f64 as in the model. */
static void mean_rotation(const model *m, bool local, int i, int n_tokens, int future, double *c, double *s) {
    double theta = model_rope_theta(m, local, i);
    *c = *s = 0;
    for (int t = 0; t < future; t++) {
        *c += cos((n_tokens + t) * theta);
        *s += sin((n_tokens + t) * theta);
    }
    *c /= future;
    *s /= future;
}

/* mean and covariance of a head's queries, rotated to the average future position: R mu, R C R^T. */
static void rotate_moments(const engine *e, const double *rotation, const float *stat, float *out) {
    const model_params *mp = &e->m->p;
    int d = mp->head_dim, half = mp->rope_dims / 2;
    bool neox = e->m->rope.neox;
    memcpy(out, stat, sizeof(float) * (size_t)(d + d * d));
    float *mu = out, *cov = out + d;
    for (int i = 0; i < half; i++) {
        int a = neox ? i : 2 * i, b = neox ? i + half : 2 * i + 1;
        double c = rotation[2 * i], s = rotation[2 * i + 1], x, y;
        x = mu[a], y = mu[b];
        mu[a] = (float)(c * x - s * y);
        mu[b] = (float)(s * x + c * y);
        for (int k = 0; k < d; k++) { /* rows */
            x = cov[a * d + k], y = cov[b * d + k];
            cov[a * d + k] = (float)(c * x - s * y);
            cov[b * d + k] = (float)(s * x + c * y);
        }
        for (int k = 0; k < d; k++) { /* columns */
            x = cov[k * d + a], y = cov[k * d + b];
            cov[k * d + a] = (float)(c * x - s * y);
            cov[k * d + b] = (float)(s * x + c * y);
        }
    }
}

/* x [n] = mu.k scale + x scale^2 / 2 (or without x); items side by side, whose sums are independent. Returns the largest. */
static double expected_logits(const float *mu, const float *k, int n, int d, double scale, bool covariance, float *x) {
    enum { BESIDE = 8 };
    double max = -INFINITY;
    for (int t0 = 0; t0 < n; t0 += BESIDE, k += BESIDE * d) {
        int m = n - t0 < BESIDE ? n - t0 : BESIDE;
        double logit[BESIDE] = {0};
        for (int c = 0; c < d; c++)
            for (int i = 0; i < m; i++) logit[i] += (double)mu[c] * (double)k[i * d + c];
        for (int i = 0; i < m; i++) {
            logit[i] *= scale;
            if (covariance) logit[i] += (double)x[t0 + i] * scale * scale / 2;
            x[t0 + i] = (float)logit[i];
            max = fmax(max, (double)x[t0 + i]);
        }
    }
    return max;
}

/* softmax over the items from position `first` on of mu.k scale + k.C k scale^2 / 2; 0 for those before. Of a sliding layer the future
 * ends where the query no longer sees the prompt. */
static void expected_mass(const par *p, const finish *f, int layer, const signal_request *r, const float *stat, float *out) {
    engine *e = f->s->e;
    const model_params *mp = &e->m->p;
    int d = mp->head_dim, n = f->n_tokens, group = mp->n_heads / mp->n_kv, window = e->m->layers[layer].window;
    int first = r->first > f->first ? r->first - f->first : 0, future = window && r->future > window - 1 ? window - 1 : r->future;
    bool local = e->m->layers[layer].rope == &e->m->rope_local;
    if (first > n) first = n;
    size_t per_head = (size_t)(d + d * d);
    double *rotation = e->matrix.p; /* [rope_dims / 2][2] */
    float *moments = (float *)(rotation + d);
    for (int i = p->ith; i < mp->rope_dims / 2; i += p->nth)
        mean_rotation(e->m, local, i, f->first + n, future, &rotation[2 * i], &rotation[2 * i + 1]);
    par_barrier(p);
    for (int h = p->ith; h < mp->n_heads; h += p->nth) rotate_moments(e, rotation, stat + (size_t)h * per_head, moments + (size_t)h * per_head);
    par_barrier(p);
    if (r->covariance) {
        item_form a = {.kind = FORM_QUADRATIC, .x = f->k, .m = moments + d, .head_stride = per_head, .ldm = (size_t)d, .out = out, .n_rows = d,
                       .n_items = n, .n_heads = mp->n_heads, .n_kv = mp->n_kv, .head_dim = d, .scratch = e->signal_op.p};
        e->m->be->item_form(p, &a);
        par_barrier(p);
    }
    for (int h = p->ith; h < mp->n_heads; h += p->nth) {
        const float *k = f->k + ((size_t)(h / group) * (size_t)n + (size_t)first) * (size_t)d, *mu = moments + (size_t)h * per_head;
        float *x = out + (size_t)h * (size_t)n;
        double max = expected_logits(mu, k, n - first, d, (double)mp->attn_scale, r->covariance, x + first), sum = 0;
        for (int t = first; t < n; t++) sum += exp((double)x[t] - max);
        for (int t = 0; t < n; t++) x[t] = t < first ? 0 : (float)(exp((double)x[t] - max) / sum);
    }
}

static void window_mass(const par *p, const finish *f, const signal_request *r, int rows, float *out) {
    engine *e = f->s->e;
    const model_params *mp = &e->m->p;
    size_t row = (size_t)mp->n_heads * (size_t)mp->head_dim, at = (size_t)(f->n_tail - rows);
    if (r->group_max || f->first) { /* a row's query heads side by side, or what it sees before the items: from its log-sum-exps */
        attn_columns a = {.q = f->q_tail + at * row, .lse = f->lse_tail + at, .k = f->k, .out = out, .ld_lse = f->ld_lse,
                          .first = f->n_tokens - rows, .n_rows = rows, .n_tokens = f->n_tokens, .n_heads = mp->n_heads, .n_kv = mp->n_kv,
                          .head_dim = mp->head_dim, .scale = mp->attn_scale, .power = r->power, .max = r->max, .group_max = r->group_max,
                          .scratch = e->signal_op.p};
        e->m->be->attn_columns(p, &a);
        return;
    }
    attn_mass a = {.q = f->q_tail + at * row, .k = f->k, .out = out, .n_rows = rows, .n_tokens = f->n_tokens,
                   .n_heads = mp->n_heads, .n_kv = mp->n_kv, .head_dim = mp->head_dim, .scale = mp->attn_scale, .power = r->power,
                   .max = r->max, .scratch = e->op.p};
    e->m->be->attn_mass(p, &a);
}

static void window_change(const par *p, const finish *f, int rows, bool stays, float *out) {
    engine *e = f->s->e;
    const model_params *mp = &e->m->p;
    size_t at = (size_t)(f->n_tail - rows), row = (size_t)mp->n_heads * (size_t)mp->head_dim;
    attn_change a = {.q = f->q_tail + at * row, .o = f->o_tail + at * row, .lse = f->lse_tail + at, .k = f->k, .v = f->v, .out = out,
                     .ld_lse = f->ld_lse, .n_rows = rows, .n_tokens = f->n_tokens, .n_heads = mp->n_heads, .n_kv = mp->n_kv,
                     .head_dim = mp->head_dim, .scale = mp->attn_scale, .epsilon = 1e-6f, .stays = stays, .scratch = e->signal_op.p};
    e->m->be->attn_change(p, &a);
}

static void query_norm(const par *p, const finish *f, int rows, float *out) {
    const model_params *mp = &f->s->e->m->p;
    size_t n = (size_t)f->n_tokens, d = (size_t)mp->head_dim;
    for (int h = p->ith; h < mp->n_heads; h += p->nth)
        for (int r = 0; r < f->n_tokens; r++) {
            const float *q = f->q_tail + ((size_t)(f->n_tail - rows + r) * (size_t)mp->n_heads + (size_t)h) * d;
            double x = r < rows ? norm_of(q, mp->head_dim) : 0;
            out[(size_t)h * n + (size_t)r] = (float)(x * x);
        }
}

/* Squared error of K or V of each item in a tier's format: through a page of KV_TOKEN_GROUP items on the stack, as the cache stores it
 * (a rotated side in the rotated frame: the same error). */
static void stored_error(const par *p, const finish *f, int tier, bool of_key, float *out) {
    const engine *e = f->s->e;
    const model_params *mp = &e->m->p;
    kv_format fmt = policy_get_needs(f->s->pol)->tiers[tier];
    int d = mp->head_dim;
    _Alignas(64) unsigned char page[KV_TOKEN_GROUP * (8 * KV_MAX_HEAD_DIM + 8 * KV_MAX_GROUPS + 64)];
    page_layout l;
    err made = page_layout_make(fmt, d, 0, false, sizeof page, &l);
    assert(made == OK && l.cap >= KV_TOKEN_GROUP);
    (void)made;
    bool rotated = fmt.rotate & (of_key ? ROTATE_K : ROTATE_V);
    ptrdiff_t lo, hi, n_blocks = (f->n_tokens + KV_TOKEN_GROUP - 1) / KV_TOKEN_GROUP;
    par_range(p, n_blocks * mp->n_kv, &lo, &hi);
    for (ptrdiff_t b = lo; b < hi; b++) {
        ptrdiff_t h = b / n_blocks, t0 = b % n_blocks * KV_TOKEN_GROUP, at = h * f->n_tokens + t0;
        int n = f->n_tokens - t0 < KV_TOKEN_GROUP ? (int)(f->n_tokens - t0) : KV_TOKEN_GROUP;
        memset(page, 0, sizeof page);
        e->m->be->page_put(&l, page, 0, n, f->k + at * d, (size_t)d, f->v + at * d, (size_t)d, NULL);
        for (int i = 0; i < n; i++) {
            float x[KV_MAX_HEAD_DIM], y[KV_MAX_HEAD_DIM];
            memcpy(x, (of_key ? f->k : f->v) + (at + i) * d, (size_t)d * sizeof *x);
            if (rotated) hadamard_rotate(x, d);
            page_get(&l, page, i, of_key ? y : NULL, of_key ? NULL : y);
            double sum = 0;
            for (int c = 0; c < d; c++) sum += ((double)x[c] - (double)y[c]) * ((double)x[c] - (double)y[c]);
            out[at + i] = (float)sum;
        }
    }
}

void signal_compute(const par *p, const finish *f, int layer, int i, float *out) {
    const signal_request *r = &policy_get_needs(f->s->pol)->signals[i];
    const model_params *mp = &f->s->e->m->p;
    int n = f->n_tokens, n_rows = n < f->n_tail ? n : f->n_tail, rows = r->rows < n_rows ? r->rows : n_rows;
    const float *stat = f->stat[i] ? f->stat[i] + (size_t)layer * f->stat_stride[i] : NULL;
    switch ((signal_kind)r->kind) {
    case SIGNAL_WINDOW_MASS: window_mass(p, f, r, rows, out); break;
    case SIGNAL_WINDOW_CHANGE: window_change(p, f, rows, false, out); break;
    case SIGNAL_WINDOW_SPREAD: window_change(p, f, rows, true, out); break;
    case SIGNAL_QUERY_NORM: query_norm(p, f, rows, out); break;
    case SIGNAL_KEY_ERROR: stored_error(p, f, r->tier, true, out); break;
    case SIGNAL_VALUE_ERROR: stored_error(p, f, r->tier, false, out); break;
    case SIGNAL_EXPECTED_MASS: expected_mass(p, f, layer, r, stat, out); break;
    case SIGNAL_KEY_NORM: row_norms(p, f, f->k, out); break;
    case SIGNAL_VALUE_NORM: row_norms(p, f, f->v, out); break;
    case SIGNAL_KEY_COSINE: key_cosine(p, f, layer, r, out); break;
    case SIGNAL_VALUE_OUTPUT: value_output(p, f, layer, r, out); break;
    case SIGNAL_ALL_MASS:
    case SIGNAL_PROBE_MASS: { /* the statistic is the signal */
        ptrdiff_t lo, hi;
        par_range(p, r->group_max ? mp->n_kv : mp->n_heads, &lo, &hi);
        for (ptrdiff_t h = lo; h < hi; h++) memcpy(out + h * n, stat + h * (f->first + n) + f->first, sizeof(float) * (size_t)n);
    }
    }
}
