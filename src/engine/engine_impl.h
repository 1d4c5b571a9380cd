/* What the files of the engine share: structs, scratch, and the pieces of a forward pass. Not for other layers. */
#ifndef KVLAB_ENGINE_ENGINE_IMPL_H
#define KVLAB_ENGINE_ENGINE_IMPL_H
#include "base/mem.h"
#include "engine/engine.h"

enum {
    PREFILL_ROWS = 512, /* rows of a prompt that go through the linear layers together */
    EXTEND_ROWS = 128,  /* rows of one extend pass */
};

/* A growing buffer of the engine, counted under MEM_SCRATCH (or its own tag). */
typedef struct scratch {
    void *p;
    size_t cap;
} scratch;

struct engine {
    model *m;
    tokenizer *tok;
    int threads, context;
    /* rows buffers: [rows][...] of one pass */
    scratch x, norm, q, q_slot, q_rotated, q_slot_rotated, k, v, attn, attn_rotated, gate, up, act, ids_pos, groups;
    /* prefill: K and V of one layer by head, query tail, signals, targets */
    scratch kh, vh, q_tail, lse, op, signals, target;
    /* decode: jobs of all layers, item columns of a decision */
    scratch jobs, columns;
};

struct cache_space {
    engine *e;
    pool *pages;
    page_layout layouts[KV_MAX_TIERS];
    int n_tiers;
    cache **caches; /* all caches on the pool, for trimming */
    int n_caches, cap_caches;
};

struct seq {
    engine *e;
    cache_space *space;
    policy *pol;
    policy_state *state;
    cache *c;
    double policy_seconds;
};

MUST err scratch_need(scratch *s, mem_tag tag, size_t bytes);

/* One block of rows through a layer's linear parts; SPMD, with barriers inside and at the end. */
typedef struct rows_pass {
    engine *e;
    int m;               /* rows */
    const uint32_t *pos; /* [m] */
    float *x;            /* [m][n_embd] residual stream */
    float *q, *k, *v;    /* [m][n_heads * d], [m][n_kv * d] */
    float *attn;         /* [m][n_heads * d] attention output */
} rows_pass;
void rows_embed(const par *p, const rows_pass *r, const int32_t *ids);
void rows_qkv(const par *p, const rows_pass *r, const model_layer *y);           /* norm, QKV; not yet rotated */
void rows_rope_and_round(const par *p, const rows_pass *r);                      /* RoPE on q and k; K and V rounded once */
void rows_output_and_ffn(const par *p, const rows_pass *r, const model_layer *y); /* O, residual, norm, FFN, residual */
void rows_logits(const par *p, const rows_pass *r, float *logits);               /* [m][n_vocab] */
MUST err rows_reserve(engine *e, int m);                                          /* scratch for m rows; fills nothing */
rows_pass rows_make(engine *e, int m);

/* The one function that finishes a layer, from (K, V, query tail) to pages; prefill and fork both call it. SPMD; every thread
 * returns the same err. */
typedef struct finish {
    seq *s;
    int n_tokens, n_tail;
    const float *k, *v;  /* [n_kv][n_tokens][d] */
    const float *q_tail; /* [n_tail][n_heads][d] */
    err e;               /* written by thread 0 between barriers */
} finish;
MUST err finish_reserve(engine *e, const policy *pol, int n_tokens, int n_layers);
MUST err finish_layer(const par *p, finish *f, int layer);

/* The two halves that sequence-scope policies need apart. */
void finish_signals(const par *p, finish *f, int layer_slot);
policy_layer finish_policy_layer(finish *f, int layer, int layer_slot);

MUST err seq_decide_if_due(seq *s);
void space_trim(cache_space *s);
#endif
