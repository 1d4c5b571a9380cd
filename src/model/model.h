/* A model: hyper-parameters read from GGUF metadata, weights packed by a backend, RoPE tables. Immutable after loading. */
#ifndef KVLAB_MODEL_MODEL_H
#define KVLAB_MODEL_MODEL_H
#include "backend/backend.h"
#include "gguf/gguf.h"

typedef struct model_params {
    char arch[32];         /* "llama" */
    char name[96];
    int n_layers, n_embd, n_heads, n_kv, head_dim, n_ff, n_vocab;
    int context;           /* trained context */
    float norm_eps, rope_base, attn_scale;
    int rope_dims;
} model_params;

typedef struct model_layer {
    const float *attn_norm, *ffn_norm;                  /* [n_embd], inside the mapping or decoded copies */
    packed_weight *q, *k, *v, *o, *gate, *up, *down;
    const gguf_tensor *o_rows;                          /* the output projection as it lies in the file */
} model_layer;

typedef struct model {
    gguf *file;
    const backend *be;
    model_params p;
    model_layer *layers;           /* [n_layers] */
    const gguf_tensor *embed;      /* [n_embd, n_vocab], rows decoded on demand */
    const float *out_norm;         /* [n_embd] */
    packed_weight *head;           /* output matrix; the embedding when tied */
    rope_table rope;
    float *owned_norms;            /* f32 copies of norms stored in another type */
} model;

/* Opens, checks architecture, shapes and types, packs. `context` bounds the RoPE table (0 = the model's own). */
MUST err model_load(const char *path, const backend *be, int context, model **out);
void model_free(model *m);
/* Reads the parameters only (kvlab inspect, plan). */
MUST err model_read_params(const gguf *g, model_params *out);
void model_embed_row(const model *m, int32_t id, float *out /* [n_embd] */);
/* cos and sin of the rotary angles, each [n_pos][rope_dims/2]. */
void model_fill_rope(const model_params *p, int n_pos, float *cos, float *sin);
/* Row of a layer's output projection: [n_heads * head_dim] weights of one output. */
void model_output_row(const model *m, int layer, int row, float *out);
size_t model_decode_bytes(const model *m); /* weight bytes read by one step */
#endif
