/* Prefill, layer-major: a layer is computed for the whole prompt and finished (or kept in a snapshot) before the next begins, so the
 * peak is the compressed cache plus one layer. Attention is tiled; no T x T matrix exists. */
#include "engine/engine_impl.h"

#include "base/clock.h"

#include <string.h>

typedef struct prefill {
    engine *e;
    const int32_t *ids;
    int n_tokens, n_tail;
    snapshot *snap; /* keep everything there, or ... */
    finish *fin;    /* ... finish each layer into a cache */
    statistics stats;
    float *logits;  /* [n_vocab] of the last token, or NULL */
    err e_out;
} prefill;

/* Few rows stay in L2 from one linear layer to the next, and the caches that cores share are slow when others use them, too. But a thread's share of
 * a narrow matrix must not become too small. */
int prefill_chunk(const engine *e, int n_left) {
    enum { THREAD_ROWS = 48 };
    int rows = e->threads < PREFILL_ROWS / THREAD_ROWS ? e->threads * THREAD_ROWS : PREFILL_ROWS;
    return n_left < rows ? n_left : rows;
}

MUST err prefill_reserve(engine *e, int n) {
    const model_params *p = &e->m->p;
    size_t f = sizeof(float) * (size_t)n, q_dim = (size_t)p->n_heads * (size_t)p->head_dim, kv_dim = (size_t)p->n_kv * (size_t)p->head_dim;
    TRY(rows_reserve(e, prefill_chunk(e, n)));
    TRY(scratch_need(&e->x, MEM_SCRATCH, f * (size_t)p->n_embd));
    TRY(scratch_need(&e->q, MEM_SCRATCH, f * q_dim));
    TRY(scratch_need(&e->attn, MEM_SCRATCH, f * q_dim));
    TRY(scratch_need(&e->kh, MEM_SCRATCH, f * kv_dim));
    TRY(scratch_need(&e->vh, MEM_SCRATCH, f * kv_dim));
    TRY(scratch_need(&e->lse, MEM_SCRATCH, f * (size_t)p->n_heads));
    TRY(scratch_need(&e->ids_pos, MEM_SCRATCH, sizeof(uint32_t) * 2 * (size_t)n));
    attn_prefill a = {.n_tokens = n, .n_heads = p->n_heads, .n_kv = p->n_kv, .head_dim = p->head_dim};
    return scratch_need(&e->op, MEM_SCRATCH, e->m->be->prefill_scratch_bytes(&a, e->threads));
}

/* The pass over rows first .. first + m - 1 of the prompt: whole-prompt buffers are offset, chunk buffers are reused. */
rows_pass prefill_rows(engine *e, int first, int m) {
    const model_params *p = &e->m->p;
    size_t at = (size_t)first, q_dim = (size_t)p->n_heads * (size_t)p->head_dim;
    rows_pass r = rows_make(e, m);
    r.pos += at;
    r.x += at * (size_t)p->n_embd;
    r.q += at * q_dim;
    r.attn += at * q_dim;
    return r;
}

/* Token-major rows of one chunk into the head-major K and V of the layer. */
void prefill_scatter_kv(const par *p, const rows_pass *r, int first, int n_tokens) {
    const model_params *mp = &r->e->m->p;
    size_t d = (size_t)mp->head_dim, kv_dim = (size_t)mp->n_kv * d;
    float *kh = r->e->kh.p, *vh = r->e->vh.p;
    ptrdiff_t lo, hi;
    par_range(p, r->m, &lo, &hi);
    for (ptrdiff_t i = lo; i < hi; i++)
        for (int h = 0; h < mp->n_kv; h++) {
            size_t to = ((size_t)h * (size_t)n_tokens + (size_t)(first + i)) * d, from = (size_t)i * kv_dim + (size_t)h * d;
            memcpy(kh + to, r->k + from, sizeof(float) * d);
            memcpy(vh + to, r->v + from, sizeof(float) * d);
        }
    par_barrier(p);
}

static void keep_layer(const par *p, prefill *a, int layer) {
    engine *e = a->e;
    const model_params *mp = &e->m->p;
    snapshot *s = a->snap;
    size_t n_heads = (size_t)mp->n_heads, row = n_heads * (size_t)mp->head_dim, tail = (size_t)a->n_tail;
    snapshot_put_layer(s, p, layer, e->kh.p, e->vh.p);
    if (p->ith == 0) {
        size_t at = (size_t)(a->n_tokens - a->n_tail) * row, bytes = sizeof(float) * tail * row;
        memcpy(s->q_tail + (size_t)layer * tail * row, (float *)e->q.p + at, bytes);
        memcpy(s->o_tail + (size_t)layer * tail * row, (float *)e->attn.p + at, bytes);
        for (size_t h = 0; h < n_heads; h++)
            memcpy(s->lse_tail + ((size_t)layer * n_heads + h) * tail,
                   (float *)e->lse.p + h * (size_t)a->n_tokens + (size_t)(a->n_tokens - a->n_tail), sizeof(float) * tail);
    }
    par_barrier(p);
}

/* The first row of the last layer whose query, attention or output anybody reads: statistics read all of them, snapshots and signals the
 * tail, logits the last row. Those before it have K and V there and nothing else. */
static int first_read(const prefill *a) {
    if (a->stats.n) return 0;
    if (a->snap || (a->fin && policy_get_needs(a->fin->s->pol)->n_signals)) return a->n_tokens - a->n_tail;
    return a->n_tokens - (a->logits != NULL);
}

static void attend(const par *p, const prefill *a, int layer, int first) {
    engine *e = a->e;
    const model_params *mp = &e->m->p;
    attn_prefill at = {.q = e->q.p, .k = e->kh.p, .v = e->vh.p, .out = e->attn.p, .lse = e->lse.p, .n_tokens = a->n_tokens, .n_heads = mp->n_heads,
                       .n_kv = mp->n_kv, .head_dim = mp->head_dim, .first = first, .window = e->m->layers[layer].window, .scale = mp->attn_scale,
                       .scratch = e->op.p};
    e->m->be->attn_prefill(p, &at);
    par_barrier(p);
}

static MUST err layer_of(const par *p, prefill *a, int layer) {
    engine *e = a->e;
    const model_layer *y = &e->m->layers[layer];
    bool last = layer + 1 == e->m->p.n_layers;
    int read = last ? first_read(a) : 0;
    if (a->stats.n) statistics_begin(p, &a->stats, e);
    for (int first = 0, m; first < a->n_tokens; first += m) {
        m = prefill_chunk(e, (first < read ? read : a->n_tokens) - first);
        rows_pass r = prefill_rows(e, first, m);
        r.kv_only = first < read;
        if (layer == 0) rows_embed(p, &r, a->ids + first);
        rows_qkv(p, &r, y);
        if (a->stats.n) statistics_queries(p, &a->stats, e, r.q, first, m);
        rows_rope_and_round(p, &r, y);
        prefill_scatter_kv(p, &r, first, a->n_tokens);
    }
    if (read < a->n_tokens) attend(p, a, layer, read);
    statistics_layer(p, &a->stats, e, layer, a->n_tokens);
    if (a->snap) keep_layer(p, a, layer);
    else if (a->fin) TRY(finish_layer(p, a->fin, layer));
    int start = !last ? 0 : a->n_tokens - (a->logits != NULL);
    for (int first = start, m; first < a->n_tokens; first += m) {
        m = prefill_chunk(e, a->n_tokens - first);
        rows_pass r = prefill_rows(e, first, m);
        rows_output_and_ffn(p, &r, y);
    }
    return OK;
}

static void prefill_body(const par *p, void *arg) {
    prefill *a = arg;
    engine *e = a->e;
    for (int i = 0; i < e->m->p.n_layers; i++) {
        err r = layer_of(p, a, i);
        if (r != OK) { /* the same on every thread */
            if (p->ith == 0) a->e_out = r;
            return;
        }
    }
    if (a->logits) {
        rows_pass last = prefill_rows(e, a->n_tokens - 1, 1);
        rows_logits(p, &last, a->logits);
    }
}

static MUST err check_prompt(const engine *e, const int32_t *ids, int n) {
    if (n < 1) return ERR(ERR_USAGE, "the prompt is empty");
    if (n > e->context) return ERR(ERR_USAGE, "the prompt has %d tokens, the context holds %d", n, e->context);
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= e->m->p.n_vocab)
            return ERR(ERR_USAGE, "token id %d at index %d is outside the vocabulary of %d", ids[i], i, e->m->p.n_vocab);
    return OK;
}

static MUST err run_prefill(prefill *a) {
    engine *e = a->e;
    TRY(prefill_reserve(e, a->n_tokens));
    if (a->stats.n) TRY(statistics_reserve(e, &a->stats));
    uint32_t *pos = e->ids_pos.p;
    for (int i = 0; i < a->n_tokens; i++) pos[i] = (uint32_t)i;
    par_run(e->threads, prefill_body, a);
    return a->e_out;
}

/* Makes room in the snapshot for the requests that it does not hold yet. */
static MUST err add_stats(engine *e, snapshot *s, const signal_request *req, int n, statistics *out) {
    out->per_layer = true;
    for (int i = 0; i < n; i++) {
        unsigned char key[SNAPSHOT_KEY_BYTES];
        snapshot_stat *st;
        statistic_key(&req[i], key);
        if (!statistic_needed(&req[i]) || req[i].kind == SIGNAL_PROBE_MASS || snapshot_find_stat(s, key)) continue;
        TRY(snapshot_add_stat(s, key, statistic_floats(e, &req[i], s->n_tokens), &st));
        out->req[out->n] = req[i];
        out->data[out->n++] = st->data;
    }
    return OK;
}

static int tail_of(int n) { return n < SNAPSHOT_TAIL_ROWS ? n : SNAPSHOT_TAIL_ROWS; }

static MUST err snapshot_with(engine *e, const int32_t *ids, int n, const signal_request *req, int n_req, snapshot **out) {
    const model_params *p = &e->m->p;
    TRY(check_prompt(e, ids, n));
    snapshot *s;
    TRY(snapshot_create((snapshot_shape){p->n_layers, p->n_heads, p->n_kv, p->head_dim, p->n_vocab, e->m->be->math == MATH_FAST}, n, ids, &s));
    prefill a = {.e = e, .ids = ids, .n_tokens = n, .n_tail = tail_of(n), .snap = s, .logits = s->logits};
    err r = add_stats(e, s, req, n_req, &a.stats);
    if (r == OK) r = run_prefill(&a);
    if (r != OK) {
        snapshot_destroy(s);
        return r;
    }
    *out = s;
    return OK;
}

MUST err engine_snapshot(engine *e, const int32_t *ids, int n, snapshot **out) {
    return snapshot_with(e, ids, n, e->declared, e->n_declared, out);
}

static MUST err add_probe(engine *e, snapshot *s, const signal_request *req) {
    unsigned char key[SNAPSHOT_KEY_BYTES];
    snapshot_stat *st;
    statistic_key(req, key);
    if (req->kind != SIGNAL_PROBE_MASS || snapshot_find_stat(s, key)) return OK;
    TRY(snapshot_add_stat(s, key, statistic_floats(e, req, s->n_tokens), &st));
    return probe_prompt(e, s, req, st->data);
}

/* What a policy needs and nobody declared before the snapshot was taken: the same prefill again, keeping only that. */
static MUST err complete_stats(engine *e, snapshot *s, const policy_needs *need) {
    prefill a = {.e = e, .ids = s->ids, .n_tokens = s->n_tokens, .n_tail = s->n_tail};
    int had = s->n_stats;
    err r = add_stats(e, s, need->signals, need->n_signals, &a.stats);
    if (r == OK && a.stats.n) r = run_prefill(&a);
    for (int i = 0; i < need->n_signals && r == OK; i++) r = add_probe(e, s, &need->signals[i]);
    if (r != OK)
        while (s->n_stats > had) mem_free(s->stats[--s->n_stats].data);
    return r;
}

/* ---- forks ---- */

typedef struct fork_args {
    seq *s;
    const snapshot *snap;
    finish fin;
    err e_out;
} fork_args;

static void fork_load(const par *p, fork_args *a, int layer) {
    engine *e = a->s->e;
    size_t row = (size_t)e->m->p.n_heads * (size_t)e->m->p.head_dim;
    snapshot_get_layer(a->snap, p, layer, e->kh.p, e->vh.p);
    if (p->ith == 0) {
        size_t at = (size_t)layer * (size_t)a->snap->n_tail;
        a->fin.q_tail = a->snap->q_tail + at * row;
        a->fin.o_tail = a->snap->o_tail + at * row;
        a->fin.lse_tail = a->snap->lse_tail + at * (size_t)e->m->p.n_heads;
    }
    par_barrier(p);
}

/* Head and layer scope: layer by layer, as in the real flow. */
static void fork_body(const par *p, void *arg) {
    fork_args *a = arg;
    for (int i = 0; i < a->s->e->m->p.n_layers; i++) {
        fork_load(p, a, i);
        err r = finish_layer(p, &a->fin, i);
        if (r != OK) {
            if (p->ith == 0) a->e_out = r;
            return;
        }
    }
}

/* Sequence scope: signals of all layers, one decision, then all layers. */
static void fork_signals_body(const par *p, void *arg) {
    fork_args *a = arg;
    const model *m = a->s->e->m;
    for (int i = 0; i < m->p.n_layers; i++) {
        int slot = seq_policy_layer(a->s, i);
        if (slot < 0) continue;
        fork_load(p, a, i);
        finish_signals(p, &a->fin, i, slot);
    }
}
static void fork_fill_body(const par *p, void *arg) {
    fork_args *a = arg;
    const model *m = a->s->e->m;
    for (int i = 0; i < m->p.n_layers; i++) {
        int slot = seq_policy_layer(a->s, i);
        fork_load(p, a, i);
        policy_layer y = {0};
        if (slot < 0) {
            y.target = finish_window_target(p, &a->fin, i, m->p.n_layers - 1); /* no global layer's */
        } else {
            y = finish_policy_layer(&a->fin, i, slot);
            finish_hide(p, &a->fin, i, slot);
        }
        err r = finish_fill(p, &a->fin, i, &y);
        if (r != OK) {
            if (p->ith == 0) a->e_out = r;
            return;
        }
    }
}
static MUST err fork_sequence_scope(fork_args *a) {
    engine *e = a->s->e;
    const model_params *mp = &e->m->p;
    int n_layers = seq_n_policy_layers(a->s);
    double start = clock_now();
    par_run(e->threads, fork_signals_body, a);
    policy_layer *layers;
    TRY(mem_alloc(MEM_POLICY, sizeof *layers * (size_t)n_layers, &layers));
    for (int i = 0; i < mp->n_layers; i++) {
        int slot = seq_policy_layer(a->s, i);
        if (slot >= 0) layers[slot] = finish_policy_layer(&a->fin, i, slot);
    }
    err r = policy_prefill(a->s->pol, a->s->state, layers, n_layers);
    mem_free(layers);
    a->s->policy_seconds += clock_now() - start;
    if (r != OK) return r;
    par_run(e->threads, fork_fill_body, a);
    return a->e_out;
}

static void find_stats(const snapshot *snap, const policy_needs *need, finish *f) {
    for (int i = 0; i < need->n_signals; i++) {
        if (!statistic_needed(&need->signals[i])) continue;
        unsigned char key[SNAPSHOT_KEY_BYTES];
        statistic_key(&need->signals[i], key);
        const snapshot_stat *st = snapshot_find_stat(snap, key);
        f->stat[i] = st->data;
        f->stat_stride[i] = st->n_floats;
    }
}

static MUST err fill_from(seq *s, const snapshot *snap) {
    engine *e = s->e;
    const model_params *p = &e->m->p;
    int n = snap->n_tokens;
    bool whole = policy_get_needs(s->pol)->scope == SCOPE_SEQUENCE;
    size_t kv = sizeof(float) * (size_t)n * (size_t)p->n_kv * (size_t)p->head_dim;
    TRY(scratch_need(&e->kh, MEM_SCRATCH, kv));
    TRY(scratch_need(&e->vh, MEM_SCRATCH, kv));
    TRY(complete_stats(e, (snapshot *)snap, policy_get_needs(s->pol)));
    TRY(finish_reserve(e, s->pol, n, whole ? p->n_layers : 1));
    fork_args a = {.s = s, .snap = snap};
    a.fin = (finish){.s = s, .n_tokens = n, .n_tail = snap->n_tail, .k = e->kh.p, .v = e->vh.p, .ld_lse = (size_t)snap->n_tail};
    find_stats(snap, policy_get_needs(s->pol), &a.fin);
    if (whole) TRY(fork_sequence_scope(&a));
    else par_run(e->threads, fork_body, &a);
    TRY(a.e_out);
    cache_set_n_tokens(s->c, n);
    space_trim(s->space);
    return OK;
}

MUST err seq_fork(engine *e, cache_space *space, const snapshot *snap, policy *p, uint64_t seed, float *logits, seq **out) {
    seq *s;
    TRY(seq_create(e, space, p, seed, &s));
    err r = fill_from(s, snap);
    if (r != OK) {
        seq_destroy(s);
        return r;
    }
    if (logits) memcpy(logits, snap->logits, sizeof(float) * (size_t)e->m->p.n_vocab);
    *out = s;
    return OK;
}

/* Statistics of the policy's signals, kept for the present layer only. */
static MUST err own_stats(engine *e, const policy_needs *need, int n_tokens, statistics *out, finish *f) {
    size_t floats = 0;
    for (int i = 0; i < need->n_signals; i++)
        if (statistic_needed(&need->signals[i])) floats += statistic_floats(e, &need->signals[i], n_tokens);
    TRY(scratch_need(&e->stats, MEM_POLICY, sizeof(float) * floats));
    float *at = e->stats.p;
    for (int i = 0; i < need->n_signals; i++) {
        if (!statistic_needed(&need->signals[i])) continue;
        out->req[out->n] = need->signals[i];
        out->data[out->n++] = at;
        f->stat[i] = at;
        at += statistic_floats(e, &need->signals[i], n_tokens);
    }
    return OK;
}

/* Decided after the last layer, or from more passes over the prompt: all layers are kept until then. */
static bool needs_whole_prompt(const policy_needs *need) {
    bool whole = need->scope == SCOPE_SEQUENCE;
    for (int i = 0; i < need->n_signals; i++) whole |= need->signals[i].kind == SIGNAL_PROBE_MASS;
    return whole;
}

MUST err seq_prefill(seq *s, const int32_t *ids, int n, float *logits) {
    engine *e = s->e;
    if (cache_n_tokens(s->c)) return ERR(ERR_USAGE, "the sequence already holds %d tokens: a prompt needs an empty one", cache_n_tokens(s->c));
    TRY(check_prompt(e, ids, n));
    if (needs_whole_prompt(policy_get_needs(s->pol))) {
        const policy_needs *need = policy_get_needs(s->pol);
        snapshot *snap; /* with nothing that only other policies declared: the real flow pays for its own */
        TRY(snapshot_with(e, ids, n, need->signals, need->n_signals, &snap));
        err r = fill_from(s, snap);
        if (r == OK && logits) memcpy(logits, snap->logits, sizeof(float) * (size_t)e->m->p.n_vocab);
        snapshot_destroy(snap);
        return r;
    }
    size_t row = (size_t)e->m->p.n_heads * (size_t)e->m->p.head_dim;
    int n_tail = tail_of(n);
    TRY(prefill_reserve(e, n));
    TRY(finish_reserve(e, s->pol, n, 1));
    size_t at = (size_t)(n - n_tail);
    finish fin = {.s = s, .n_tokens = n, .n_tail = n_tail, .k = e->kh.p, .v = e->vh.p, .q_tail = (float *)e->q.p + at * row,
                  .o_tail = (float *)e->attn.p + at * row, .lse_tail = (float *)e->lse.p + at, .ld_lse = (size_t)n};
    prefill a = {.e = e, .ids = ids, .n_tokens = n, .n_tail = n_tail, .fin = &fin, .logits = logits};
    TRY(own_stats(e, policy_get_needs(s->pol), n, &a.stats, &fin));
    TRY(run_prefill(&a));
    cache_set_n_tokens(s->c, n);
    space_trim(s->space);
    return OK;
}
