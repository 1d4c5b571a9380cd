/* The prompt is repeated in chunks after an instruction, on top of the whole uncompressed prompt, and every item's largest attention
 * from the rows of the repetition is taken (KVzip). Nothing of it stays: keys and values of a repetition live for one layer only.
 *
 * Rows of a repetition see everything, as they would in a conversation; the softmax of the score has only the first four positions,
 * the chunk's own items and the rows themselves in its denominator. A row of a sliding layer has there all that its window holds, as the
 * model's own attention does; both are the same where one chunk is the prompt.
 *
 * KVzip+ divides each row's attention by the norm of the row's input of attention (behind the layer's norm): p / |x| = e^(s - lse - ln |x|),
 * so the row's log-sum-exp carries it. */
#include "engine/engine_impl.h"

#include <math.h>
#include <string.h>

enum { PROBE_SINKS = 4, PROBE_POSTFIX = 8 };

typedef struct probe {
    engine *e;
    const snapshot *snap;
    int n, from, to, n_sinks, n_rows; /* prompt; the chunk; keys of the score before it; rows of the repetition */
    const int32_t *ids;               /* [n_rows] */
    bool normalised, sliding;         /* KVzip+; sliding layers are measured too */
    rope_table rope, rope_local;      /* of global and of sliding layers */
    float *out;                       /* [n_layers][n_heads][n] */
} probe;

/* What the model's chat template puts around the user's text; without one nothing before it and a line feed behind it. */
typedef struct probe_frame {
    int n_prefix;      /* tokens of the prompt before the context */
    token_list suffix;
} probe_frame;

static rows_pass rows_at(const probe *a, const model_layer *y, int first, int m) {
    rows_pass r = prefill_rows(a->e, first, m);
    r.rope = y->rope == &a->e->m->rope_local ? &a->rope_local : &a->rope;
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

/* ln of the norm of each row's input of attention, taken while the normed rows of the pass are there. */
static void keep_norms(const par *p, const probe *a, const rows_pass *r, int first) {
    int n = a->e->m->p.n_embd;
    float *log_norm = a->e->probe_norm.p;
    ptrdiff_t lo, hi;
    par_range(p, r->m, &lo, &hi);
    for (ptrdiff_t i = lo; i < hi; i++) {
        const float *x = (const float *)a->e->norm.p + i * n;
        double s = 0;
        for (int c = 0; c < n; c++) s += (double)x[c] * (double)x[c];
        log_norm[first - a->n + i] = (float)log(fmax(sqrt(s), 1e-20));
    }
}

static void divide_by_norms(const par *p, const probe *a, float *lse, size_t ld_lse) {
    const float *log_norm = a->e->probe_norm.p;
    for (int h = p->ith; h < a->e->m->p.n_heads; h += p->nth)
        for (int i = 0; i < a->n_rows; i++) lse[(size_t)h * ld_lse + (size_t)i] += log_norm[i];
    par_barrier(p);
}

/* Scores of the chunk, which begin at item `first` of n in each row. */
static void keep_scores(const par *p, const probe *a, int layer, int n, int first) {
    size_t n_heads = (size_t)a->e->m->p.n_heads;
    for (size_t h = (size_t)p->ith; h < n_heads; h += (size_t)p->nth)
        memcpy(a->out + ((size_t)layer * n_heads + h) * (size_t)a->n + (size_t)a->from,
               (float *)a->e->probe_o.p + h * (size_t)n + (size_t)first, sizeof(float) * (size_t)(a->to - a->from));
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
    if (a->normalised) divide_by_norms(p, a, (float *)e->probe_lse.p + before, (size_t)scored);
    attn_columns c = {.q = (float *)e->q.p + (size_t)a->n * row, .lse = (float *)e->probe_lse.p + before, .k = e->probe_k.p,
                      .out = e->probe_o.p, .ld_lse = (size_t)scored, .first = before, .n_rows = a->n_rows, .n_tokens = scored,
                      .n_heads = mp->n_heads, .n_kv = mp->n_kv, .head_dim = mp->head_dim, .scale = mp->attn_scale, .power = 1, .max = true,
                      .scratch = e->signal_op.p};
    e->m->be->attn_columns(p, &c);
    par_barrier(p);
    keep_scores(p, a, layer, scored, a->n_sinks);
}

/* The rows' attention is the model's, whose log-sum-exps are there. */
static void score_sliding_chunk(const par *p, const probe *a, int layer) {
    engine *e = a->e;
    const model_params *mp = &e->m->p;
    int all = a->n + a->n_rows;
    if (a->normalised) divide_by_norms(p, a, (float *)e->probe_lse.p + a->n, (size_t)all);
    attn_columns c = {.q = (float *)e->q.p + (size_t)a->n * (size_t)mp->n_heads * (size_t)mp->head_dim, .lse = (float *)e->probe_lse.p + a->n, .k = e->kh.p,
                      .out = e->probe_o.p, .ld_lse = (size_t)all, .first = a->n, .n_rows = a->n_rows, .n_tokens = all, .n_heads = mp->n_heads,
                      .n_kv = mp->n_kv, .head_dim = mp->head_dim, .scale = mp->attn_scale, .power = 1, .window = e->m->layers[layer].window, .max = true,
                      .scratch = e->signal_op.p};
    e->m->be->attn_columns(p, &c);
    par_barrier(p);
    keep_scores(p, a, layer, all, a->from);
}

static void probe_body(const par *p, void *arg) {
    const probe *a = arg;
    engine *e = a->e;
    const model_params *mp = &e->m->p;
    int all = a->n + a->n_rows;
    for (int layer = 0; layer < mp->n_layers; layer++) {
        const model_layer *y = &e->m->layers[layer];
        load_layer(p, a, layer);
        for (int first = a->n; first < all; first += prefill_chunk(e, all - first)) {
            rows_pass r = rows_at(a, y, first, prefill_chunk(e, all - first));
            if (layer == 0) rows_embed(p, &r, a->ids + (first - a->n));
            rows_qkv(p, &r, y);
            if (a->normalised) keep_norms(p, a, &r, first);
            rows_rope_and_round(p, &r, y);
            prefill_scatter_kv(p, &r, first, all);
        }
        bool measured = y->window && a->sliding;
        if (!y->window) score_chunk(p, a, layer);
        if (layer + 1 == mp->n_layers && !measured) break;
        attn_prefill at = {.q = e->q.p, .k = e->kh.p, .v = e->vh.p, .out = e->attn.p, .lse = measured ? e->probe_lse.p : NULL, .first = a->n, .n_tokens = all, .n_heads = mp->n_heads,
                           .n_kv = mp->n_kv, .head_dim = mp->head_dim, .window = y->window, .scale = mp->attn_scale, .scratch = e->op.p};
        e->m->be->attn_prefill(p, &at);
        par_barrier(p);
        if (measured) score_sliding_chunk(p, a, layer);
        if (layer + 1 == mp->n_layers) break;
        for (int first = a->n; first < all; first += prefill_chunk(e, all - first)) {
            rows_pass r = rows_at(a, y, first, prefill_chunk(e, all - first));
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
    TRY(scratch_need(&e->probe_norm, MEM_POLICY, sizeof(float) * (size_t)a->n_rows));
    TRY(scratch_need(&e->probe_rope, MEM_POLICY, 4 * f * half)); /* positions after the prompt may pass the context */
    for (int local = 0; local <= (mp->slide_period > 0); local++) {
        float *cs = (float *)e->probe_rope.p + (local ? 2 * all * half : 0);
        model_fill_rope(e->m, local, (int)all, cs, cs + all * half);
        *(local ? &a->rope_local : &a->rope) = (rope_table){cs, cs + all * half, (int)all, mp->rope_dims, e->m->rope.neox};
    }
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

/* Tokens of the prompt that are the template's opening, whose last one may have merged with the user's text; 0: it does not begin so. */
static MUST err count_prefix(const engine *e, const snapshot *snap, const char *text, size_t n_text, int *n_prefix) {
    token_list ids = {0};
    int n = 0;
    err r = tokenizer_encode(e->tok, text, n_text, true, true, &ids);
    while (r == OK && n < ids.n && n < snap->n_tokens && ids.ids[n] == snap->ids[n]) n++;
    *n_prefix = n + 1 < ids.n ? 0 : n;
    token_list_free(&ids);
    return r;
}

static MUST err chat_frame(const engine *e, const snapshot *snap, probe_frame *f) {
    static const char content[] = "{user}";
    char *text;
    TRY(chat_render(e->m->file, NULL, &(chat_message){"user", content}, 1, true, &text));
    char *at = strstr(text, content);
    err r = at ? count_prefix(e, snap, text, (size_t)(at - text), &f->n_prefix) : ERR(ERR_UNSUPPORTED, "the chat template changes the user's text");
    if (r == OK && f->n_prefix) r = tokenizer_encode(e->tok, at + strlen(content), strlen(at + strlen(content)), true, false, &f->suffix);
    mem_free(text);
    return r;
}

enum { CHAT_AUTO, CHAT_NEVER, CHAT_ALWAYS }; /* signal_request.first */

static MUST err find_frame(const engine *e, const snapshot *snap, int chat, probe_frame *f) {
    *f = (probe_frame){0};
    err r = chat == CHAT_NEVER ? OK : chat_frame(e, snap, f);
    if (f->n_prefix) return r;
    if (chat == CHAT_ALWAYS) return r != OK ? r : ERR(ERR_UNSUPPORTED, "score probe: the prompt does not begin with the model's chat template (chat: always)");
    return add_text(e, "\n", &f->suffix); /* plain text, or a model without a template */
}

/* Instruction, what follows a user's text, and the chunk [from, to) of the prompt. */
static MUST err make_rows(engine *e, const snapshot *snap, const probe_frame *f, int from, int to, token_list *ids) {
    if (from == f->n_prefix) {
        TRY(add_text(e, "\n\nRepeat the previous context exactly.", ids));
    } else {
        TRY(add_text(e, "\n\nRepeat the part of the previous context exactly, starting with", ids));
        TRY(add_prompt(snap, from > PROBE_POSTFIX ? from - PROBE_POSTFIX : 0, from, ids));
    }
    for (int i = 0; i < f->suffix.n; i++) TRY(token_list_push(ids, f->suffix.ids[i]));
    return add_prompt(snap, from, to, ids);
}

static MUST err probe_chunks(engine *e, const snapshot *snap, const signal_request *req, const probe_frame *f, float *out) {
    for (int from = f->n_prefix; from < snap->n_tokens; from += req->rows) {
        int to = snap->n_tokens - from < req->rows ? snap->n_tokens : from + req->rows;
        token_list ids = {0};
        probe a = {.e = e, .snap = snap, .n = snap->n_tokens, .from = from, .to = to, .n_sinks = from < PROBE_SINKS ? from : PROBE_SINKS,
                   .normalised = req->unit != 0, .sliding = req->sliding != 0, .out = out};
        err r = make_rows(e, snap, f, from, to, &ids);
        a.ids = ids.ids;
        a.n_rows = ids.n;
        if (r == OK) r = run_chunk(&a);
        token_list_free(&ids);
        TRY(r);
    }
    return OK;
}

MUST err probe_prompt(engine *e, const snapshot *snap, const signal_request *req, float *out) {
    probe_frame f;
    err r = find_frame(e, snap, req->first, &f);
    if (r == OK) r = probe_chunks(e, snap, req, &f, out); /* `out` comes zeroed: a prefix has no score */
    token_list_free(&f.suffix);
    return r;
}
