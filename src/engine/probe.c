/* The prompt is repeated in chunks after an instruction, on top of the whole uncompressed prompt, and every item's largest attention
 * from the rows of the repetition is taken (KVzip). Nothing of it stays: keys and values of a repetition live for one layer only.
 *
 * Rows of a repetition see everything, as they would in a conversation; the softmax of the score has only the first four positions,
 * the chunk's own items and the rows themselves in its denominator. */
#include "engine/engine_impl.h"

#include <string.h>

enum { PROBE_SINKS = 4, PROBE_POSTFIX = 8 };

typedef struct probe {
    engine *e;
    const snapshot *snap;
    int n, from, to, n_sinks, n_rows; /* prompt; the chunk; keys of the score before it; rows of the repetition */
    const int32_t *ids;               /* [n_rows] */
    rope_table rope;
    float *out;                       /* [n_layers][n_heads][n] */
} probe;

static rows_pass rows_at(const probe *a, int first, int m) {
    rows_pass r = prefill_rows(a->e, first, m);
    r.rope = &a->rope;
    return r;
}

/* K and V of the prompt in front of the rows' own, [n_kv][n + n_rows][d]. */
static void load_layer(const par *p, const probe *a, int layer) {
    engine *e = a->e;
    size_t d = (size_t)e->m->p.head_dim, n = (size_t)a->n, all = n + (size_t)a->n_rows;
    float *k = e->probe_k.p, *v = e->probe_v.p;
    snapshot_get_layer(a->snap, p, layer, k, v);
    par_barrier(p);
    for (int h = p->ith; h < e->m->p.n_kv; h += p->nth) {
        memcpy((float *)e->kh.p + (size_t)h * all * d, k + (size_t)h * n * d, sizeof(float) * n * d);
        memcpy((float *)e->vh.p + (size_t)h * all * d, v + (size_t)h * n * d, sizeof(float) * n * d);
    }
    par_barrier(p);
}

/* Keys of the score one after the other: sinks, chunk, rows. */
static void gather_keys(const par *p, const probe *a) {
    engine *e = a->e;
    size_t d = (size_t)e->m->p.head_dim, all = (size_t)(a->n + a->n_rows);
    size_t sinks = (size_t)a->n_sinks, chunk = (size_t)(a->to - a->from), rows = (size_t)a->n_rows, scored = sinks + chunk + rows;
    for (int h = p->ith; h < e->m->p.n_kv; h += p->nth) {
        const float *from = (float *)e->kh.p + (size_t)h * all * d;
        float *to = (float *)e->probe_k.p + (size_t)h * scored * d;
        memcpy(to, from, sizeof(float) * sinks * d);
        memcpy(to + sinks * d, from + (size_t)a->from * d, sizeof(float) * chunk * d);
        memcpy(to + (sinks + chunk) * d, from + (size_t)a->n * d, sizeof(float) * rows * d);
    }
    par_barrier(p);
}

static void score_chunk(const par *p, const probe *a, int layer) {
    engine *e = a->e;
    const model_params *mp = &e->m->p;
    size_t row = (size_t)mp->n_heads * (size_t)mp->head_dim;
    int before = a->n_sinks + a->to - a->from, scored = before + a->n_rows;
    gather_keys(p, a);
    const float *q = (float *)e->q.p + (size_t)(a->n - before) * row; /* its row `before` is the first row of the repetition */
    attn_prefill at = {.q = q, .k = e->probe_k.p, .v = e->probe_k.p, .out = e->probe_o.p, .lse = e->probe_lse.p, .first = before,
                       .n_tokens = scored, .n_heads = mp->n_heads, .n_kv = mp->n_kv, .head_dim = mp->head_dim, .scale = mp->attn_scale,
                       .scratch = e->op.p};
    e->m->be->attn_prefill(p, &at);
    par_barrier(p);
    attn_columns c = {.q = (float *)e->q.p + (size_t)a->n * row, .lse = (float *)e->probe_lse.p + before, .k = e->probe_k.p,
                      .out = e->probe_o.p, .ld_lse = (size_t)scored, .first = before, .n_rows = a->n_rows, .n_tokens = scored,
                      .n_heads = mp->n_heads, .n_kv = mp->n_kv, .head_dim = mp->head_dim, .scale = mp->attn_scale, .power = 1, .max = true,
                      .scratch = e->signal_op.p};
    e->m->be->attn_columns(p, &c);
    par_barrier(p);
    for (int h = p->ith; h < mp->n_heads; h += p->nth)
        memcpy(a->out + ((size_t)layer * (size_t)mp->n_heads + (size_t)h) * (size_t)a->n + (size_t)a->from,
               (float *)e->probe_o.p + (size_t)h * (size_t)scored + (size_t)a->n_sinks, sizeof(float) * (size_t)(a->to - a->from));
    par_barrier(p);
}

static void probe_body(const par *p, void *arg) {
    const probe *a = arg;
    engine *e = a->e;
    const model_params *mp = &e->m->p;
    int all = a->n + a->n_rows;
    for (int layer = 0; layer < mp->n_layers; layer++) {
        const model_layer *y = &e->m->layers[layer];
        load_layer(p, a, layer);
        for (int first = a->n; first < all; first += PREFILL_ROWS) {
            rows_pass r = rows_at(a, first, all - first < PREFILL_ROWS ? all - first : PREFILL_ROWS);
            if (layer == 0) rows_embed(p, &r, a->ids + (first - a->n));
            rows_qkv(p, &r, y);
            rows_rope_and_round(p, &r, y);
            prefill_scatter_kv(p, &r, first, all);
        }
        score_chunk(p, a, layer);
        if (layer + 1 == mp->n_layers) break;
        attn_prefill at = {.q = e->q.p, .k = e->kh.p, .v = e->vh.p, .out = e->attn.p, .first = a->n, .n_tokens = all, .n_heads = mp->n_heads,
                           .n_kv = mp->n_kv, .head_dim = mp->head_dim, .scale = mp->attn_scale, .scratch = e->op.p};
        e->m->be->attn_prefill(p, &at);
        par_barrier(p);
        for (int first = a->n; first < all; first += PREFILL_ROWS) {
            rows_pass r = rows_at(a, first, all - first < PREFILL_ROWS ? all - first : PREFILL_ROWS);
            rows_output_and_ffn(p, &r, y);
        }
    }
}

static MUST err run_chunk(probe *a) {
    engine *e = a->e;
    const model_params *mp = &e->m->p;
    size_t d = (size_t)mp->head_dim, all = (size_t)(a->n + a->n_rows), f = sizeof(float) * all, half = (size_t)mp->rope_dims / 2;
    TRY(prefill_reserve(e, (int)all));
    TRY(signals_reserve_op(e));
    TRY(scratch_need(&e->probe_k, MEM_POLICY, f * (size_t)mp->n_kv * d));
    TRY(scratch_need(&e->probe_v, MEM_POLICY, f * (size_t)mp->n_kv * d));
    TRY(scratch_need(&e->probe_o, MEM_POLICY, f * (size_t)mp->n_heads * d));
    TRY(scratch_need(&e->probe_lse, MEM_POLICY, f * (size_t)mp->n_heads));
    TRY(scratch_need(&e->probe_rope, MEM_POLICY, 2 * f * half)); /* positions after the prompt may pass the context */
    float *cs = e->probe_rope.p;
    model_fill_rope(e->m, (int)all, cs, cs + all * half);
    a->rope = (rope_table){cs, cs + all * half, (int)all, mp->rope_dims, e->m->rope.neox};
    uint32_t *pos = e->ids_pos.p;
    for (size_t i = 0; i < all; i++) pos[i] = (uint32_t)i;
    par_run(e->threads, probe_body, a);
    return OK;
}

static MUST err add_text(const engine *e, const char *text, token_list *ids) {
    return tokenizer_encode(e->tok, text, strlen(text), false, false, ids);
}

static MUST err add_prompt(const snapshot *snap, int from, int to, token_list *ids) {
    for (int i = from; i < to; i++) TRY(token_list_push(ids, snap->ids[i]));
    return OK;
}

/* Instruction, line feed, and the chunk [from, to) of the prompt. */
static MUST err make_rows(engine *e, const snapshot *snap, int from, int to, token_list *ids) {
    if (from == 0) {
        TRY(add_text(e, "\n\nRepeat the previous context exactly.", ids));
    } else {
        TRY(add_text(e, "\n\nRepeat the part of the previous context exactly, starting with", ids));
        TRY(add_prompt(snap, from > PROBE_POSTFIX ? from - PROBE_POSTFIX : 0, from, ids));
    }
    TRY(add_text(e, "\n", ids));
    return add_prompt(snap, from, to, ids);
}

MUST err probe_prompt(engine *e, const snapshot *snap, const signal_request *req, float *out) {
    for (int from = 0; from < snap->n_tokens; from += req->rows) {
        int to = snap->n_tokens - from < req->rows ? snap->n_tokens : from + req->rows;
        token_list ids = {0};
        probe a = {.e = e, .snap = snap, .n = snap->n_tokens, .from = from, .to = to, .n_sinks = from < PROBE_SINKS ? from : PROBE_SINKS, .out = out};
        err r = make_rows(e, snap, from, to, &ids);
        a.ids = ids.ids;
        a.n_rows = ids.n;
        if (r == OK) r = run_chunk(&a);
        token_list_free(&ids);
        TRY(r);
    }
    return OK;
}
