/* Decoding: extend (many rows of one sequence) and step (one row of many) are the same pass over groups of rows. */
#include "engine/engine_impl.h"

#include <string.h>

#include "format/rotate.h"

/* Consecutive rows of one sequence inside a pass. */
typedef struct row_group {
    seq *s;
    int first, n; /* rows */
} row_group;

typedef struct decode {
    engine *e;
    const row_group *groups;
    int n_groups, m; /* rows in all */
    const int32_t *ids;
    const uint32_t *pos, *slot_pos; /* [m] absolute, and the query's cache slot (StreamingLLM) */
    bool any_slot, rotates_k, rotates_v; /* some tier is stored rotated */
    bool any_live;  /* attention of every layer goes into live scores */
    attn_job *jobs; /* of all layers: jobs_of(layer) each */
    float *logits;  /* [m][n_vocab] or NULL */
} decode;

/* Rows of one pass see different windows: in sliding layers each row is a job of its own. */
static int jobs_of(const decode *a, int layer) {
    return (a->e->m->layers[layer].window ? a->m : a->n_groups) * a->e->m->p.n_kv;
}

/* Where rows of the layer will go has left the caches since the last step: asked for here, it arrives behind the products. */
static void append_ahead(const par *p, const decode *a, int layer) {
    int n_kv = a->e->m->p.n_kv;
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)a->n_groups * n_kv, &lo, &hi);
    for (ptrdiff_t u = lo; u < hi; u++) cache_append_ahead(a->groups[u / n_kv].s->c, layer, (int)(u % n_kv));
}

static void append_rows(const par *p, const decode *a, const rows_pass *r, int layer) {
    const model_params *mp = &a->e->m->p;
    size_t d = (size_t)mp->head_dim, kv_dim = (size_t)mp->n_kv * d;
    ptrdiff_t lo, hi;
    for (int g = 0; g < a->n_groups; g++) {
        const row_group *grp = &a->groups[g];
        par_range(p, (ptrdiff_t)grp->n * mp->n_kv, &lo, &hi);
        for (ptrdiff_t u = lo; u < hi; u++) {
            int row = (int)(u / mp->n_kv), h = (int)(u % mp->n_kv);
            size_t at = (size_t)(grp->first + row) * kv_dim + (size_t)h * d;
            cache_append(grp->s->c, layer, h, row, r->k + at, r->v + at);
        }
    }
    par_barrier(p);
}

/* to = H from for every query head of every row. */
static void rotate_queries(const par *p, const decode *a, const float *from, float *to) {
    const model_params *mp = &a->e->m->p;
    size_t d = (size_t)mp->head_dim;
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)a->m * mp->n_heads, &lo, &hi);
    memcpy(to + (size_t)lo * d, from + (size_t)lo * d, sizeof(float) * (size_t)(hi - lo) * d);
    for (ptrdiff_t i = lo; i < hi; i++) hadamard_rotate(to + (size_t)i * d, mp->head_dim);
}

/* out += H out_rotated: what rotated values gave, in the frame of the others. */
static void rotate_output_back(const par *p, const decode *a) {
    const model_params *mp = &a->e->m->p;
    size_t d = (size_t)mp->head_dim;
    float *out = a->e->attn.p, *rotated = a->e->attn_rotated.p;
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)a->m * mp->n_heads, &lo, &hi);
    for (ptrdiff_t i = lo; i < hi; i++) hadamard_rotate(rotated + (size_t)i * d, mp->head_dim);
    for (size_t i = (size_t)lo * d; i < (size_t)hi * d; i++) out[i] += rotated[i];
    par_barrier(p);
}

static void decode_body(const par *p, void *arg) {
    const decode *a = arg;
    engine *e = a->e;
    const model_params *mp = &e->m->p;
    const backend *be = e->m->be;
    size_t q_dim = (size_t)mp->n_heads * (size_t)mp->head_dim;
    const attn_job *jobs = a->jobs;
    rows_pass r = rows_make(e, a->m);
    r.pos = a->pos;
    rows_embed(p, &r, a->ids);
    for (int layer = 0; layer < mp->n_layers; layer++) {
        const model_layer *y = &e->m->layers[layer];
        append_ahead(p, a, layer);
        r.kv_only = layer + 1 == mp->n_layers && !a->logits && !a->any_live; /* nobody reads more of the last layer */
        rows_qkv(p, &r, y);
        if (a->any_slot && !r.kv_only) { /* rotated from the unrotated query with the same table: no eviction gives the same bits as plain */
            ptrdiff_t lo, hi;
            par_range(p, a->m, &lo, &hi);
            memcpy((float *)e->q_slot.p + (size_t)lo * q_dim, r.q + (size_t)lo * q_dim, sizeof(float) * (size_t)(hi - lo) * q_dim);
            par_barrier(p);
            be->rope(p, y->rope, a->slot_pos, e->q_slot.p, q_dim, a->m, mp->n_heads, mp->head_dim);
        }
        rows_rope_and_round(p, &r, y);
        if (r.kv_only) {
            append_rows(p, a, &r, layer);
            break;
        }
        if (a->rotates_k) rotate_queries(p, a, r.q, e->q_rotated.p);
        if (a->rotates_k && a->any_slot) rotate_queries(p, a, e->q_slot.p, e->q_slot_rotated.p);
        append_rows(p, a, &r, layer);
        attn_batch b = {jobs, jobs_of(a, layer), pool_base(cache_space_pool(a->groups[0].s->space)), e->op.p};
        be->attn_decode(p, &b);
        jobs += b.n_jobs;
        par_barrier(p);
        if (a->rotates_v) rotate_output_back(p, a);
        rows_output_and_ffn(p, &r, y);
    }
    if (a->logits) rows_logits(p, &r, a->logits);
}

/* Rows first .. first + n - 1 of a group (n = 1 in a sliding layer) and one KV head. */
static attn_job make_job(const decode *a, const row_group *grp, int layer, int head, int first, int n) {
    const engine *e = a->e;
    const model_params *mp = &e->m->p;
    const policy_needs *need = policy_get_needs(grp->s->pol);
    size_t d = (size_t)mp->head_dim, q_dim = (size_t)mp->n_heads * d;
    int group = mp->n_heads / mp->n_kv, window = e->m->layers[layer].window;
    size_t at = (size_t)(grp->first + first) * q_dim + (size_t)head * (size_t)group * d;
    attn_job j = {.ldq = q_dim, .out = (float *)e->attn.p + at, .ldo = q_dim, .n_rows = n, .group = group, .head_dim = mp->head_dim,
                  .scale = mp->attn_scale, .live = need->live};
    j.q[ATTN_PLAIN] = (float *)e->q.p + at;
    if (need->slot_sinks) j.q[ATTN_SLOT] = (float *)e->q_slot.p + at;
    if (a->rotates_k) j.q[ATTN_ROTATED] = (float *)e->q_rotated.p + at;
    if (a->rotates_k && need->slot_sinks) j.q[ATTN_SLOT_ROTATED] = (float *)e->q_slot_rotated.p + at;
    if (a->rotates_v) j.out_rotated = (float *)e->attn_rotated.p + at;
    j.n_segs = cache_segments(grp->s->c, layer, head, grp->n, window ? 0 : need->slot_sinks, j.seg);
    if (window) sliding_see(grp->s, layer, head, first, &j);
    return j;
}

/* Jobs of every layer, planned once per pass: page tables do not change inside it. */
static void plan_jobs(decode *a) {
    const model_params *mp = &a->e->m->p;
    attn_job *j = a->jobs;
    for (int layer = 0; layer < mp->n_layers; layer++)
        for (int g = 0; g < a->n_groups; g++) {
            const row_group *grp = &a->groups[g];
            int rows = a->e->m->layers[layer].window ? 1 : grp->n;
            for (int first = 0; first < grp->n; first += rows)
                for (int h = 0; h < mp->n_kv; h++) *j++ = make_job(a, grp, layer, h, first, rows);
        }
}

static MUST err decode_reserve(const decode *a) {
    engine *e = a->e;
    const model_params *p = &e->m->p;
    size_t q_bytes = sizeof(float) * (size_t)a->m * (size_t)p->n_heads * (size_t)p->head_dim;
    TRY(rows_reserve(e, a->m));
    if (a->any_slot) TRY(scratch_need(&e->q_slot, MEM_SCRATCH, q_bytes));
    if (a->rotates_k) TRY(scratch_need(&e->q_rotated, MEM_SCRATCH, q_bytes));
    if (a->rotates_k && a->any_slot) TRY(scratch_need(&e->q_slot_rotated, MEM_SCRATCH, q_bytes));
    if (a->rotates_v) TRY(scratch_need(&e->attn_rotated, MEM_SCRATCH, q_bytes));
    size_t n_jobs = 0;
    for (int layer = 0; layer < p->n_layers; layer++) n_jobs += (size_t)jobs_of(a, layer);
    return scratch_need(&e->jobs, MEM_SCRATCH, sizeof(attn_job) * n_jobs);
}

static MUST err op_reserve(const decode *a) {
    engine *e = a->e;
    const attn_job *jobs = a->jobs;
    for (int layer = 0; layer < e->m->p.n_layers; layer++) { /* adaptive policies hold unequal layers */
        attn_batch b = {jobs, jobs_of(a, layer), NULL, NULL};
        jobs += b.n_jobs;
        TRY(scratch_need(&e->op, MEM_SCRATCH, e->m->be->attn_scratch_bytes(&b, e->threads)));
    }
    return OK;
}

static MUST err run_rows(engine *e, const row_group *groups, int n_groups, int m, const int32_t *ids, float *logits) {
    const model_params *p = &e->m->p;
    for (int i = 0; i < m; i++)
        if (ids[i] < 0 || ids[i] >= p->n_vocab) return ERR(ERR_USAGE, "token id %d is outside the vocabulary of %d", ids[i], p->n_vocab);
    decode a = {.e = e, .groups = groups, .n_groups = n_groups, .m = m, .ids = ids, .logits = logits};
    const cache_space *space = groups[0].s->space;
    for (int t = 0; t < space->n_tiers; t++) {
        a.rotates_k |= space->layouts[t].fmt.rotate & ROTATE_K;
        a.rotates_v |= space->layouts[t].fmt.rotate & ROTATE_V;
    }
    for (int g = 0; g < n_groups; g++) {
        const row_group *grp = &groups[g];
        int have = cache_n_tokens(grp->s->c);
        if (grp->s->space != space) return ERR(ERR_USAGE, "sequences of one step must share a pool");
        if (have + grp->n > e->context)
            return ERR(ERR_USAGE, "%d tokens after %d exceed the context of %d", grp->n, have, e->context);
        a.any_slot |= policy_get_needs(grp->s->pol)->slot_sinks > 0;
        a.any_live |= policy_get_needs(grp->s->pol)->live.on;
    }
    TRY(decode_reserve(&a));
    for (int g = 0; g < n_groups; g++) {
        TRY(sliding_free(groups[g].s, 0));
        TRY(cache_reserve(groups[g].s->c, groups[g].n));
    }
    uint32_t *pos = e->ids_pos.p, *slot_pos = pos + m;
    for (int g = 0; g < n_groups; g++) {
        const cache *c = groups[g].s->c;
        uint32_t have = (uint32_t)cache_n_tokens(c), evicted = have - (uint32_t)cache_n_items_head(c, seq_model_layer(groups[g].s, 0), 0);
        for (int i = 0; i < groups[g].n; i++) {
            pos[groups[g].first + i] = have + (uint32_t)i;
            slot_pos[groups[g].first + i] = have + (uint32_t)i - evicted;
        }
    }
    a.pos = pos;
    a.slot_pos = slot_pos;
    a.jobs = e->jobs.p;
    plan_jobs(&a);
    TRY(op_reserve(&a));
    par_run(e->threads, decode_body, &a);
    for (int g = 0; g < n_groups; g++) {
        cache_commit(groups[g].s->c, groups[g].n);
        if (groups[g].n > 1) TRY(sliding_free(groups[g].s, 1)); /* what steps would have freed by now */
    }
    return OK;
}

MUST err seq_extend(seq *s, const int32_t *ids, int n, float *logits) {
    engine *e = s->e;
    /* live scores; pressure, which comes row by row; items of sliding layers out of order */
    const policy_needs *need = policy_get_needs(s->pol);
    bool one_row = need->live.on || policy_on_pressure(s->pol) || (need->all_layers && need->decides);
    for (int done = 0; done < n;) {
        int m = n - done;
        if (m > EXTEND_ROWS) m = EXTEND_ROWS;
        if (one_row) m = 1;
        TRY(seqs_decide(e, &s, 1, 1));
        int until = policy_rows_until_due(s->pol, s->state, cache_n_tokens(s->c));
        if (m > until) m = until;
        row_group g = {s, 0, m};
        TRY(run_rows(e, &g, 1, m, ids + done, logits ? logits + (size_t)done * (size_t)e->m->p.n_vocab : NULL));
        done += m;
    }
    return OK;
}

MUST err engine_step(engine *e, seq **seqs, const int32_t *ids, int n, float *logits) {
    enum { MAX_BATCH = 4096 };
    if (n < 1 || n > MAX_BATCH) return ERR(ERR_USAGE, "a step takes 1 to %d sequences, not %d", MAX_BATCH, n);
    TRY(seqs_decide(e, seqs, n, 1));
    TRY(scratch_need(&e->groups, MEM_SCRATCH, sizeof(row_group) * (size_t)n));
    row_group *groups = e->groups.p;
    for (int i = 0; i < n; i++) groups[i] = (row_group){seqs[i], i, 1};
    return run_rows(e, groups, n, n, ids, logits);
}
