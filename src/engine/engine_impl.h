/* What the files of the engine share: structs, scratch, and the pieces of a forward pass. Not for other layers. */
#ifndef KVLAB_ENGINE_ENGINE_IMPL_H
#define KVLAB_ENGINE_ENGINE_IMPL_H
#include "base/mem.h"
#include "engine/engine.h"

enum {
    PREFILL_ROWS = 512, /* most rows of a prompt that go through the linear layers together */
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
    signal_request declared[SNAPSHOT_MAX_STATS]; /* statistics that snapshots keep */
    int n_declared;
    compactor *compactor;
    /* rows buffers: [rows][...] of one pass */
    scratch x, norm, q, q_slot, q_rotated, q_slot_rotated, k, v, attn, attn_rotated, gate, up, act, ids_pos, groups;
    /* prefill: K and V of one layer by head, query tail, signals, targets */
    scratch kh, vh, q_tail, lse, op, signals, target, live;
    /* signals: sums of query moments, a matrix per head, statistics of a layer, scratch of their ops */
    scratch moment_sums, matrix, stats, signal_op;
    scratch probe_k, probe_v, probe_o, probe_lse, probe_norm, probe_rope;
    scratch window_k, window_v, sliding; /* sliding layers under `layers: all` */
    /* decode: jobs of all layers, item columns of a decision */
    scratch jobs, columns, due;
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
    bool relieved; /* under pressure: has been decided for the step at hand */
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
    const rope_table *rope;
    bool kv_only;        /* nobody reads these rows' queries: q stays as it is */
} rows_pass;
void rows_embed(const par *p, const rows_pass *r, const int32_t *ids);
void rows_qkv(const par *p, const rows_pass *r, const model_layer *y);           /* norm, QKV; not yet rotated */
void rows_rope_and_round(const par *p, const rows_pass *r, const model_layer *y); /* RoPE on q and k; K and V rounded once */
void rows_output_and_ffn(const par *p, const rows_pass *r, const model_layer *y); /* O, residual, norm, FFN, residual */
void rows_logits(const par *p, const rows_pass *r, float *logits);               /* [m][n_vocab] */
MUST err rows_reserve(engine *e, int m);                                          /* scratch for m rows; fills nothing */
rows_pass rows_make(engine *e, int m);

/* Pieces of a prefill of n tokens: room, the pass over rows first .. first + m - 1, their K and V into the layer's [n_kv][n][d]. */
MUST err prefill_reserve(engine *e, int n);
int prefill_chunk(const engine *e, int n_left); /* rows that go through the linear layers together, of n_left */
rows_pass prefill_rows(engine *e, int first, int m);
void prefill_scatter_kv(const par *p, const rows_pass *r, int first, int n_tokens);

/* The one function that finishes a layer, from (K, V, query tail) to pages; prefill and fork both call it. SPMD; every thread
 * returns the same err. */
typedef struct finish {
    seq *s;
    int n_tokens, n_tail;
    int first;           /* position of item 0: 0, or of a view of a sliding layer */
    const float *k, *v;  /* [n_kv][n_tokens][d] */
    const float *q_tail, *o_tail; /* [n_tail][n_heads][d] queries, attention outputs */
    const float *lse_tail;        /* [n_heads][n_tail], row stride ld_lse */
    size_t ld_lse;
    const float *stat[POLICY_MAX_SIGNALS]; /* of layer 0, where the signal needs one, */
    size_t stat_stride[POLICY_MAX_SIGNALS]; /* and from layer to layer (0: of the present layer) */
    err e;               /* written by thread 0 between barriers */
} finish;
MUST err finish_reserve(engine *e, const policy *pol, int n_tokens, int n_layers);
MUST err finish_layer(const par *p, finish *f, int layer);
uint8_t *finish_window_target(const par *p, finish *f, int layer, int slot); /* of a sliding layer that policies do not see: [n_kv][n_tokens] */

/* The two halves that sequence-scope policies need apart; finish_hide in between, SPMD, drops what the window of the layer does not hold. */
void finish_hide(const par *p, const finish *f, int layer, int layer_slot);
void finish_signals(const par *p, finish *f, int layer, int layer_slot);
policy_layer finish_policy_layer(finish *f, int layer, int layer_slot);
MUST err finish_fill(const par *p, const finish *f, int layer, const policy_layer *l);

/* Sliding layers (sliding.c). Layers as policies number them: how many, and from one numbering to the other (-1: not seen). */
int seq_n_policy_layers(const seq *s);
int seq_model_layer(const seq *s, int index);
int seq_policy_layer(const seq *s, int layer);
/* Position of the first of n tokens that a layer holds for the next one; 0 where it is global. */
int sliding_first(const engine *e, int layer, int n_tokens);
MUST err sliding_reserve(engine *e, const policy *pol, int n_tokens);
finish sliding_view(const par *p, const finish *f, int layer); /* what signals are computed from; of a global layer *f as it is */
void sliding_see(const seq *s, int layer, int head, int row, attn_job *j);
/* Targets that keep items where they are and drop those that the next token does not see; returns how many. */
int sliding_mark_hidden(const seq *s, int layer, const item_columns *ic, uint8_t *target);
/* Frees what the n_newest last rows and all later ones do not see. */
MUST err sliding_free(seq *s, int n_newest);

/* Statistics of the whole prompt (statistics.c). */
typedef struct statistics {
    int n;
    signal_request req[SNAPSHOT_MAX_STATS];
    float *data[SNAPSHOT_MAX_STATS];
    bool per_layer; /* data holds all layers; else only the present one */
} statistics;
bool statistic_needed(const signal_request *r);
size_t statistic_floats(const engine *e, const signal_request *r, int n_tokens);
void statistic_key(const signal_request *r, unsigned char *key /* [SNAPSHOT_KEY_BYTES] */);
MUST err statistics_reserve(engine *e, const statistics *s);
void statistics_begin(const par *p, const statistics *s, engine *e);
void statistics_queries(const par *p, const statistics *s, engine *e, const float *q, int first, int m);
void statistics_layer(const par *p, const statistics *s, engine *e, int layer, int n_tokens);

/* SIGNAL_PROBE_MASS of all layers, [n_layers][n_heads][n_tokens] (probe.c). */
MUST err probe_prompt(engine *e, const snapshot *snap, const signal_request *req, float *out);

/* Signals of one layer (signals.c). */
MUST err signal_supported(const engine *e, const signal_request *r, bool all_layers);
MUST err signals_reserve_op(engine *e);
MUST err signals_reserve(engine *e, const policy_needs *need, int n_tokens);
void signal_compute(const par *p, const finish *f, int layer, int i, float *out);

/* Before n_rows rows are appended to each of n sequences: the decisions that are due, and those that make room in a bounded pool (decide.c). */
MUST err seqs_decide(engine *e, seq **seqs, int n, int n_rows);
void space_trim(cache_space *s);
#endif
