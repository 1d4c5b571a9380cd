/* Loading: every tensor is demanded with its shape, packed by the backend; tensors that nobody asked for are refused.
 */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* Tensor names already bound, to find strangers afterwards. */
typedef struct loader {
    model *m;
    bool *used; /* [n_tensors] */
    float *norm_next; /* NULL: vectors are demanded and counted only */
    size_t n_floats;
} loader;

static void mark_used(loader *l, const gguf_tensor *t) {
    l->used[t - gguf_tensor_at(l->m->file, 0)] = true;
}

static MUST err bind_matrix(loader *l, const char *name, int n_rows, int n_cols, packed_weight **out) {
    uint64_t dim[2] = {(uint64_t)n_cols, (uint64_t)n_rows};
    const gguf_tensor *t;
    TRY(gguf_tensor_demand(l->m->file, name, 2, dim, &t));
    mark_used(l, t);
    weight_src src = {t->data, (wtype)t->type, n_rows, n_cols, name};
    return l->m->be->weight_pack(l->m->be, &src, out);
}

/* Files of architecture llama (interleaved_rows) hold the rows of q and k permuted for RoPE on adjacent pairs: row 2i + j of a head is
 * channel j * d/2 + i. They are put back, so that a channel of K means the same as in the papers and in transformers:
 * groups of 32 channels of a quantised key are its two halves, not 16 pairs (on SmolLM2 the KL of K4V4 in groups of 32
 * is 0.0041 this way and 0.0089 the other). */
static MUST err bind_rotary(loader *l, const char *name, int n_heads, int n_cols, packed_weight **out) {
    const model_params *p = &l->m->p;
    if (!p->interleaved_rows) return bind_matrix(l, name, n_heads * p->head_dim, n_cols, out);
    int d = p->head_dim, half = p->rope_dims / 2, n_rows = n_heads * d;
    uint64_t dim[2] = {(uint64_t)n_cols, (uint64_t)n_rows};
    const gguf_tensor *t;
    TRY(gguf_tensor_demand(l->m->file, name, 2, dim, &t));
    mark_used(l, t);
    size_t row = wtype_row_bytes((wtype)t->type, (size_t)n_cols);
    char *rows;
    TRY(mem_alloc(MEM_OTHER, row * (size_t)n_rows, &rows));
    for (int r = 0; r < n_rows; r++) {
        int c = r % d, to = c >= p->rope_dims ? c : c % 2 * half + c / 2;
        memcpy(rows + (size_t)(r - c + to) * row, (const char *)t->data + (size_t)r * row, row);
    }
    weight_src src = {rows, (wtype)t->type, n_rows, n_cols, name};
    err e = l->m->be->weight_pack(l->m->be, &src, out);
    mem_free(rows);
    return e;
}

static MUST err bind_norm(loader *l, const char *name, int n, const float **out) {
    uint64_t dim[1] = {(uint64_t)n};
    const gguf_tensor *t;
    TRY(gguf_tensor_demand(l->m->file, name, 1, dim, &t));
    l->n_floats += (size_t)n;
    if (!l->norm_next) return OK;
    mark_used(l, t);
    wtype_find(t->type)->decode(t->data, l->norm_next, (size_t)n);
    *out = l->norm_next;
    l->norm_next += n;
    return OK;
}

static MUST err bind_vector(loader *l, int layer, const char *part, int n, const float **out) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s", layer, part);
    return bind_norm(l, name, n, out);
}

static MUST err load_vectors(loader *l, int i) {
    const model_params *p = &l->m->p;
    model_layer *y = &l->m->layers[i];
    int q_dim = p->n_heads * p->head_dim, kv_dim = p->n_kv * p->head_dim;
    TRY(bind_vector(l, i, "attn_norm.weight", p->n_embd, &y->attn_norm));
    TRY(bind_vector(l, i, "ffn_norm.weight", p->n_embd, &y->ffn_norm));
    if (p->qkv_bias) {
        TRY(bind_vector(l, i, "attn_q.bias", q_dim, &y->q_bias));
        TRY(bind_vector(l, i, "attn_k.bias", kv_dim, &y->k_bias));
        TRY(bind_vector(l, i, "attn_v.bias", kv_dim, &y->v_bias));
    }
    if (p->qk_norm) {
        TRY(bind_vector(l, i, "attn_q_norm.weight", p->head_dim, &y->q_norm));
        TRY(bind_vector(l, i, "attn_k_norm.weight", p->head_dim, &y->k_norm));
    }
    if (p->post_norms) {
        TRY(bind_vector(l, i, "post_attention_norm.weight", p->n_embd, &y->post_attn_norm));
        TRY(bind_vector(l, i, "post_ffw_norm.weight", p->n_embd, &y->post_ffn_norm));
    }
    return OK;
}

static MUST err load_layer(loader *l, int i) {
    const model_params *p = &l->m->p;
    model_layer *y = &l->m->layers[i];
    int q_dim = p->n_heads * p->head_dim, kv_dim = p->n_kv * p->head_dim;
    struct {
        const char *name;
        int rows, cols;
        packed_weight **out;
    } mats[] = {
        {"attn_v", kv_dim, p->n_embd, &y->v},       {"attn_output", p->n_embd, q_dim, &y->o},
        {"ffn_gate", p->n_ff, p->n_embd, &y->gate}, {"ffn_up", p->n_ff, p->n_embd, &y->up},
        {"ffn_down", p->n_embd, p->n_ff, &y->down},
    };
    char name[64];
    for (size_t j = 0; j < sizeof mats / sizeof *mats; j++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", i, mats[j].name);
        TRY(bind_matrix(l, name, mats[j].rows, mats[j].cols, mats[j].out));
    }
    snprintf(name, sizeof name, "blk.%d.attn_output.weight", i);
    y->o_rows = gguf_tensor_find(l->m->file, name);
    snprintf(name, sizeof name, "blk.%d.attn_q.weight", i);
    TRY(bind_rotary(l, name, p->n_heads, p->n_embd, &y->q));
    snprintf(name, sizeof name, "blk.%d.attn_k.weight", i);
    TRY(bind_rotary(l, name, p->n_kv, p->n_embd, &y->k));
    y->window = model_layer_slides(p, i) ? p->window : 0;
    y->rope = y->window && p->slide_period ? &l->m->rope_local : &l->m->rope;
    return load_vectors(l, i);
}

double model_rope_theta(const model *m, bool local, int i) {
    const model_params *p = &m->p;
    if (local) return pow((double)p->rope_base_local, -2.0 * i / p->rope_dims);
    return pow((double)p->rope_base, -2.0 * i / p->rope_dims) * (double)p->rope_scale / (m->rope_factors ? (double)m->rope_factors[i] : 1);
}

/* Angles in f64: f32 pos * theta would lose log2(pos) bits. */
static void fill_pair(double theta, int n_pos, size_t half, float *cs, float *sn) {
    for (int pos = 0; pos < n_pos; pos++) {
        cs[(size_t)pos * half] = (float)cos(pos * theta);
        sn[(size_t)pos * half] = (float)sin(pos * theta);
    }
}

void model_fill_rope(const model *m, bool local, int n_pos, float *cs, float *sn) {
    const model_params *p = &m->p;
    for (int i = 0, half = p->rope_dims / 2; i < half; i++)
        fill_pair(model_rope_theta(m, local, i), n_pos, (size_t)half, cs + i, sn + i);
}

static MUST err make_rope(const model *m, bool local, int n_pos, rope_table *out) {
    size_t n = (size_t)n_pos * (size_t)(m->p.rope_dims / 2);
    float *cs;
    TRY(mem_alloc(MEM_WEIGHTS, sizeof(float) * 2 * n, &cs));
    model_fill_rope(m, local, n_pos, cs, cs + n);
    *out = (rope_table){cs, cs + n, n_pos, m->p.rope_dims, true}; /* halves: see bind_rotary */
    return OK;
}

static MUST err load_common_vectors(loader *l) {
    const model_params *p = &l->m->p;
    TRY(bind_norm(l, "output_norm.weight", p->n_embd, &l->m->out_norm));
    return gguf_tensor_find(l->m->file, "rope_freqs.weight") ? bind_norm(l, "rope_freqs.weight", p->rope_dims / 2, &l->m->rope_factors) : OK;
}

/* Room for what the file really holds: its metadata may promise more. */
static MUST err reserve_vectors(loader *l) {
    for (int i = 0; i < l->m->p.n_layers; i++) TRY(load_vectors(l, i));
    TRY(load_common_vectors(l));
    TRY(mem_alloc(MEM_WEIGHTS, sizeof(float) * l->n_floats, &l->m->owned_norms));
    l->norm_next = l->m->owned_norms;
    return OK;
}

static MUST err load_all(loader *l) {
    model *m = l->m;
    const model_params *p = &m->p;
    uint64_t embed_dim[2] = {(uint64_t)p->n_embd, (uint64_t)p->n_vocab};
    TRY(gguf_tensor_demand(m->file, "token_embd.weight", 2, embed_dim, &m->embed));
    mark_used(l, m->embed);
    for (int i = 0; i < p->n_layers; i++) TRY(load_layer(l, i));
    TRY(load_common_vectors(l));
    bool tied = gguf_tensor_find(m->file, "output.weight") == NULL;
    TRY(bind_matrix(l, tied ? "token_embd.weight" : "output.weight", p->n_vocab, p->n_embd, &m->head));
    for (int i = 0; i < gguf_n_tensors(m->file); i++)
        if (!l->used[i]) {
            gguf_str n = gguf_tensor_at(m->file, i)->name;
            return ERR(ERR_UNSUPPORTED, "%s: tensor '%.*s' is not part of architecture %s as kvlab runs it",
                       gguf_path(m->file), (int)(n.n < 128 ? n.n : 128), n.p, p->arch);
        }
    return OK;
}

/* A context that the caller did not ask for takes no more memory than the file and a little. */
static MUST err check_rope_bytes(const model *m, int context, int n_pos) {
    const size_t spare = (size_t)2 << 20;
    size_t bytes = sizeof(float) * (size_t)n_pos * (size_t)m->p.rope_dims * (m->p.slide_period ? 2 : 1);
    if (context || bytes <= gguf_file_bytes(m->file) + spare) return OK;
    return ERR(ERR_UNSUPPORTED, "%s: RoPE tables for its context of %d tokens would take %.0f MB, the file has %.0f; ask for a smaller context",
               gguf_path(m->file), n_pos, (double)bytes * 1e-6, (double)gguf_file_bytes(m->file) * 1e-6);
}

/* All matrices into one run of memory, in the order of a step. */
static MUST err gather_weights(model *m) {
    enum { PER_LAYER = 7 };
    if (!m->be->weight_gather) return OK;
    packed_weight **w;
    int n = 0;
    TRY(mem_alloc(MEM_OTHER, sizeof *w * ((size_t)m->p.n_layers * PER_LAYER + 1), &w));
    for (int i = 0; i < m->p.n_layers; i++) {
        const model_layer *y = &m->layers[i];
        packed_weight *of[PER_LAYER] = {y->q, y->k, y->v, y->o, y->gate, y->up, y->down};
        for (int j = 0; j < PER_LAYER; j++) w[n++] = of[j];
    }
    w[n++] = m->head;
    err e = m->be->weight_gather(w, n, &m->weight_run);
    mem_free(w);
    return e;
}

MUST err model_load(const char *path, const backend *be, int context, model **out) {
    model *m;
    TRY(mem_alloc(MEM_OTHER, sizeof *m, &m));
    m->be = be;
    loader l = {.m = m};
    err e;
    GOTO(fail, e, gguf_open(path, &m->file));
    GOTO(fail, e, model_read_params(m->file, &m->p));
    if (context > m->p.context) {
        e = ERR(ERR_USAGE, "%s: a context of %d tokens was asked for, the model has %d", path, context, m->p.context);
        goto fail;
    }
    model_params_bound(&m->p, context);
    const model_params *p = &m->p;
    GOTO(fail, e, mem_alloc(MEM_OTHER, sizeof *m->layers * (size_t)m->p.n_layers, &m->layers));
    GOTO(fail, e, mem_alloc(MEM_OTHER, (size_t)gguf_n_tensors(m->file), &l.used));
    GOTO(fail, e, reserve_vectors(&l));
    GOTO(fail, e, load_all(&l));
    GOTO(fail, e, gather_weights(m));
    int n_pos = context ? context : m->p.context;
    GOTO(fail, e, check_rope_bytes(m, context, n_pos));
    GOTO(fail, e, make_rope(m, false, n_pos, &m->rope));
    if (p->slide_period) GOTO(fail, e, make_rope(m, true, n_pos, &m->rope_local));
    mem_free(l.used);
    *out = m;
    return OK;
fail:
    mem_free(l.used);
    model_free(m);
    return e;
}

void model_free(model *m) {
    if (!m) return;
    if (m->layers)
        for (int i = 0; i < m->p.n_layers; i++) {
            model_layer *y = &m->layers[i];
            packed_weight *w[] = {y->q, y->k, y->v, y->o, y->gate, y->up, y->down};
            for (size_t j = 0; j < sizeof w / sizeof *w; j++)
                if (w[j]) m->be->weight_free(w[j]);
        }
    if (m->head) m->be->weight_free(m->head);
    if (m->weight_run) m->be->weight_run_free(m->weight_run);
    mem_free((void *)m->rope.cos);
    mem_free((void *)m->rope_local.cos);
    mem_free(m->owned_norms);
    mem_free(m->layers);
    if (m->file) gguf_close(m->file);
    mem_free(m);
}

void model_embed_row(const model *m, int32_t id, float *out) {
    size_t row_bytes = wtype_row_bytes((wtype)m->embed->type, (size_t)m->p.n_embd);
    const wtype_info *t = wtype_find(m->embed->type);
    t->decode((const char *)m->embed->data + (size_t)id * row_bytes, out, (size_t)m->p.n_embd);
    if (m->p.embed_scale == 1) return;
    for (int i = 0; i < m->p.n_embd; i++) out[i] *= m->p.embed_scale;
}

void model_output_row(const model *m, int layer, int row, float *out) {
    const gguf_tensor *t = m->layers[layer].o_rows;
    size_t n = (size_t)m->p.n_heads * (size_t)m->p.head_dim, row_bytes = wtype_row_bytes((wtype)t->type, n);
    wtype_find(t->type)->decode((const char *)t->data + (size_t)row * row_bytes, out, n);
}

size_t model_decode_bytes(const model *m) {
    size_t sum = m->be->weight_bytes(m->head);
    for (int i = 0; i < m->p.n_layers; i++) {
        const model_layer *y = &m->layers[i];
        const packed_weight *w[] = {y->q, y->k, y->v, y->o, y->gate, y->up, y->down};
        for (size_t j = 0; j < sizeof w / sizeof *w; j++) sum += m->be->weight_bytes(w[j]);
    }
    return sum;
}
