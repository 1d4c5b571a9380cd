/* Rows through a layer: what is the same for a prompt's chunk, an extend and a batched step. Every row's numbers depend on that row
 * alone, so any grouping of rows gives the same bits. */
#include "engine/engine_impl.h"

#include <math.h>

MUST err rows_reserve(engine *e, int m) {
    const model_params *p = &e->m->p;
    size_t rows = (size_t)m, f = sizeof(float) * rows;
    int q_dim = p->n_heads * p->head_dim, kv_dim = p->n_kv * p->head_dim;
    int widest = p->n_ff > q_dim ? p->n_ff : q_dim;
    if (p->n_embd > widest) widest = p->n_embd;
    TRY(scratch_need(&e->x, MEM_SCRATCH, f * (size_t)p->n_embd));
    TRY(scratch_need(&e->norm, MEM_SCRATCH, f * (size_t)p->n_embd));
    TRY(scratch_need(&e->q, MEM_SCRATCH, f * (size_t)q_dim));
    TRY(scratch_need(&e->k, MEM_SCRATCH, f * (size_t)kv_dim));
    TRY(scratch_need(&e->v, MEM_SCRATCH, f * (size_t)kv_dim));
    TRY(scratch_need(&e->attn, MEM_SCRATCH, f * (size_t)q_dim));
    TRY(scratch_need(&e->gate, MEM_SCRATCH, f * (size_t)p->n_ff));
    TRY(scratch_need(&e->up, MEM_SCRATCH, f * (size_t)p->n_ff));
    TRY(scratch_need(&e->act, MEM_SCRATCH, e->m->be->act_bytes(m, widest)));
    return scratch_need(&e->ids_pos, MEM_SCRATCH, sizeof(uint32_t) * 2 * rows);
}

rows_pass rows_make(engine *e, int m) {
    return (rows_pass){e, m, e->ids_pos.p, e->x.p, e->q.p, e->k.p, e->v.p, e->attn.p, NULL, false};
}

void rows_embed(const par *p, const rows_pass *r, const int32_t *ids) {
    const model *m = r->e->m;
    ptrdiff_t lo, hi;
    par_range(p, r->m, &lo, &hi);
    for (ptrdiff_t i = lo; i < hi; i++) model_embed_row(m, ids[i], r->x + i * m->p.n_embd);
    par_barrier(p);
}

/* Prepares x [m][k] in the engine's activation buffer; barriers before (x is being written) are the caller's. */
static act prepare(const par *p, const rows_pass *r, const float *x, int k) {
    act a = {r->m, k, x, r->e->act.p};
    r->e->m->be->act_prepare(p, &a);
    par_barrier(p);
    return a;
}

/* The same of norm(x) [m][n_embd], which goes to the engine's buffer. */
static act prepare_norm(const par *p, const rows_pass *r, const float *weight) {
    engine *e = r->e;
    act a = {r->m, e->m->p.n_embd, e->norm.p, e->act.p};
    e->m->be->norm_prepare(p, r->x, weight, e->m->p.norm_eps, e->norm.p, &a);
    par_barrier(p);
    return a;
}

/* x [m][n] += bias [n] */
static void add_bias(const par *p, float *x, const float *bias, int m, int n) {
    ptrdiff_t lo, hi;
    par_range(p, m, &lo, &hi);
    for (ptrdiff_t r = lo; r < hi; r++)
        for (int i = 0; i < n; i++) x[r * n + i] += bias[i];
}

void rows_qkv(const par *p, const rows_pass *r, const model_layer *y) {
    const model_params *mp = &r->e->m->p;
    const backend *be = r->e->m->be;
    size_t q_dim = (size_t)mp->n_heads * (size_t)mp->head_dim, kv_dim = (size_t)mp->n_kv * (size_t)mp->head_dim;
    act a = prepare_norm(p, r, y->attn_norm);
    if (!r->kv_only) be->linear(p, y->q, &a, r->q, q_dim, false);
    be->linear(p, y->k, &a, r->k, kv_dim, false);
    be->linear(p, y->v, &a, r->v, kv_dim, false);
    par_barrier(p);
    if (y->q_bias) {
        if (!r->kv_only) add_bias(p, r->q, y->q_bias, r->m, (int)q_dim);
        add_bias(p, r->k, y->k_bias, r->m, (int)kv_dim);
        add_bias(p, r->v, y->v_bias, r->m, (int)kv_dim);
        par_barrier(p);
    }
    if (y->q_norm) { /* each head by itself, in place */
        if (!r->kv_only) be->rms_norm(p, r->q, y->q_norm, mp->norm_eps, r->m * mp->n_heads, mp->head_dim, r->q);
        be->rms_norm(p, r->k, y->k_norm, mp->norm_eps, r->m * mp->n_kv, mp->head_dim, r->k);
        par_barrier(p);
    }
}

/* The only place where K and V lose precision before a format does (design section 4). */
static void round_rows(const par *p, const rows_pass *r) {
    const model_params *mp = &r->e->m->p;
    const backend *be = r->e->m->be;
    if (be->math == MATH_EXACT) return;
    size_t n = (size_t)r->m * (size_t)mp->n_kv * (size_t)mp->head_dim;
    be->round_f16(p, r->k, n);
    be->round_f16(p, r->v, n);
}

void rows_rope_and_round(const par *p, const rows_pass *r, const model_layer *y) {
    const model_params *mp = &r->e->m->p;
    const backend *be = r->e->m->be;
    size_t q_dim = (size_t)mp->n_heads * (size_t)mp->head_dim, kv_dim = (size_t)mp->n_kv * (size_t)mp->head_dim;
    const rope_table *rope = r->rope ? r->rope : y->rope;
    if (!r->kv_only) be->rope(p, rope, r->pos, r->q, q_dim, r->m, mp->n_heads, mp->head_dim);
    be->rope(p, rope, r->pos, r->k, kv_dim, r->m, mp->n_kv, mp->head_dim);
    par_barrier(p);
    round_rows(p, r);
    par_barrier(p);
}

/* x += w a, or x += norm(w a) where the architecture has a norm behind. */
static void add_linear(const par *p, const rows_pass *r, const packed_weight *w, const act *a, const float *post_norm) {
    const model_params *mp = &r->e->m->p;
    const backend *be = r->e->m->be;
    size_t n = (size_t)mp->n_embd;
    float *y = r->e->norm.p;
    be->linear(p, w, a, post_norm ? y : r->x, n, post_norm == NULL);
    par_barrier(p);
    if (!post_norm) return;
    be->rms_norm(p, y, post_norm, mp->norm_eps, r->m, mp->n_embd, y);
    par_barrier(p);
    ptrdiff_t lo, hi;
    par_range(p, r->m, &lo, &hi);
    for (size_t i = (size_t)lo * n; i < (size_t)hi * n; i++) r->x[i] += y[i];
    par_barrier(p);
}

void rows_output_and_ffn(const par *p, const rows_pass *r, const model_layer *y) {
    const model_params *mp = &r->e->m->p;
    const backend *be = r->e->m->be;
    engine *e = r->e;
    act a = prepare(p, r, r->attn, mp->n_heads * mp->head_dim);
    add_linear(p, r, y->o, &a, y->post_attn_norm);
    a = prepare_norm(p, r, y->ffn_norm);
    be->linear(p, y->gate, &a, e->gate.p, (size_t)mp->n_ff, false);
    be->linear(p, y->up, &a, e->up.p, (size_t)mp->n_ff, false);
    par_barrier(p);
    a = (act){r->m, mp->n_ff, e->gate.p, e->act.p};
    be->gate_prepare(p, mp->gelu, e->gate.p, e->up.p, e->gate.p, &a);
    par_barrier(p);
    add_linear(p, r, y->down, &a, y->post_ffn_norm);
}

void rows_logits(const par *p, const rows_pass *r, float *logits) {
    const model *m = r->e->m;
    act a = prepare_norm(p, r, m->out_norm);
    m->be->linear(p, m->head, &a, logits, (size_t)m->p.n_vocab, false);
    par_barrier(p);
}
