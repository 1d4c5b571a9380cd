/* A model: hyper-parameters read from GGUF metadata, weights packed by a backend, RoPE tables. Immutable after loading. */
#ifndef KVLAB_MODEL_MODEL_H
#define KVLAB_MODEL_MODEL_H
#include "backend/backend.h"
#include "gguf/gguf.h"

enum { MODEL_MAX_LAYERS = 1024 };

typedef struct model_params {
    char arch[32];         /* "llama", "qwen2", "qwen3", "gemma3" */
    char name[96];
    int n_layers, n_embd, n_heads, n_kv, head_dim, n_ff, n_vocab;
    int context;           /* trained context */
    float norm_eps, rope_base, attn_scale;
    int rope_dims;
    float rope_scale;       /* linear RoPE scaling: positions are multiplied with this */
    float rope_base_local;  /* of sliding layers */
    int window;             /* tokens that a sliding layer sees, its own included; 0: no layer slides */
    int slide_period;       /* gemma3: every so manieth layer is global, the others slide with RoPE of rope_base_local; 0: no such layers */
    bool all_slide;         /* Mistral: every layer has the window, none is global */
    float embed_scale;      /* rows of the embedding are multiplied with this */
    bool interleaved_rows;  /* the file has the rows of q and k permuted for RoPE on adjacent pairs */
    bool qkv_bias, qk_norm, post_norms, gelu;
} model_params;

static inline bool model_layer_slides(const model_params *p, int layer) {
    return p->all_slide || (p->slide_period > 0 && (layer + 1) % p->slide_period != 0);
}
/* Global layers: their number, and a layer's number among them. */
static inline int model_n_global(const model_params *p) {
    return p->all_slide ? 0 : p->slide_period > 0 ? p->n_layers / p->slide_period : p->n_layers;
}
static inline int model_global_layer(const model_params *p, int index) {
    return p->slide_period > 0 ? (index + 1) * p->slide_period - 1 : index;
}
static inline int model_global_index(const model_params *p, int layer) {
    return p->slide_period > 0 ? layer / p->slide_period : layer;
}
/* Tokens of all layers together that a full cache holds after n: sliding layers hold their window. */
static inline size_t model_cached_tokens(const model_params *p, size_t n) {
    size_t n_global = (size_t)model_n_global(p), in_window = p->window && n > (size_t)p->window ? (size_t)p->window : n;
    return n * n_global + in_window * ((size_t)p->n_layers - n_global);
}

typedef struct model_layer {
    const float *attn_norm, *ffn_norm;                  /* [n_embd], inside the mapping or decoded copies */
    const float *q_bias, *k_bias, *v_bias;              /* [n_heads * d], [n_kv * d] twice; NULL without */
    const float *q_norm, *k_norm;                       /* [d]; NULL without */
    const float *post_attn_norm, *post_ffn_norm;        /* [n_embd]; NULL without */
    packed_weight *q, *k, *v, *o, *gate, *up, *down;
    const gguf_tensor *o_rows;                          /* the output projection as it lies in the file */
    const rope_table *rope;
    int window;                                         /* 0: global */
} model_layer;

typedef struct model {
    gguf *file;
    const backend *be;
    model_params p;
    model_layer *layers;           /* [n_layers] */
    const gguf_tensor *embed;      /* [n_embd, n_vocab], rows decoded on demand */
    const float *out_norm;         /* [n_embd] */
    packed_weight *head;           /* output matrix; the embedding when tied */
    void *weight_run;              /* the backend's: memory of all of them together */
    rope_table rope, rope_local;   /* of global and of sliding layers */
    const float *rope_factors;     /* [rope_dims / 2] what frequencies are divided by (llama 3), NULL: 1 */
    float *owned_norms;            /* f32 copies of norms, biases and RoPE factors */
} model;

/* Opens, checks architecture, shapes and types, packs. `context` bounds the RoPE table (0 = the model's own). */
MUST err model_load(const char *path, const backend *be, int context, model **out);
void model_free(model *m);
/* Reads the parameters only (kvlab inspect, plan). */
MUST err model_read_params(const gguf *g, model_params *out);
/* A context (0 = the model's own) that a window of every layer covers leaves nothing to slide: then all layers are global. */
void model_params_bound(model_params *p, int context);
void model_embed_row(const model *m, int32_t id, float *out /* [n_embd] */);
/* Angle of rotary pair i per position, of global or (local) gemma3's sliding layers; cos and sin, each [n_pos][rope_dims/2]. */
double model_rope_theta(const model *m, bool local, int i);
void model_fill_rope(const model *m, bool local, int n_pos, float *cos, float *sin);
/* Row of a layer's output projection: [n_heads * head_dim] weights of one output. */
void model_output_row(const model *m, int layer, int row, float *out);
size_t model_decode_bytes(const model *m); /* weight bytes read by one step */
#endif
