/* The op table: everything the engine asks of a device, with POD arguments (design section 8). Implemented by kernels/cpu
 * ("cpu": run-time dispatched SIMD; "reference": plain scalar C that judges it) and, later, by a CUDA plug-in.
 *
 * Ops are SPMD: all threads of a team call them with equal arguments, they split the work by p->ith / p->nth and return without
 * a trailing barrier (they may use par_barrier inside). Every output element is summed in an order that depends on its own row
 * alone: never on threads, on the number of rows in the call, or on chunking (design section 4). No op allocates. */
#ifndef KVLAB_BACKEND_BACKEND_H
#define KVLAB_BACKEND_BACKEND_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/par.h"
#include "format/layout.h"
#include "gguf/wtype.h"

typedef enum math_mode {
    MATH_FAST,  /* int8 activations on packed quantised weights; K and V rounded once to f16 */
    MATH_EXACT, /* f32 everywhere */
} math_mode;

/* A weight matrix as it lies in the file: n_rows outputs of n_cols inputs, row-major blocks of `type`. */
typedef struct weight_src {
    const void *data;
    wtype type;
    int n_rows, n_cols;
    const char *name; /* for messages */
} weight_src;

typedef struct packed_weight packed_weight; /* the backend's own; counted under MEM_WEIGHTS */

/* Rows of activations prepared once and used by several `linear` calls. */
typedef struct act {
    int m, k;       /* rows, columns */
    const float *x; /* [m][k], owned by the caller */
    void *q;        /* backend's form (int8 codes, scales, sums), act_bytes(m, k) bytes, owned by the caller */
} act;

/* ---- decode attention over pages ---- */
enum { ATTN_PLAIN, ATTN_ROTATED, ATTN_SLOT, ATTN_SLOT_ROTATED, ATTN_N_QUERIES }; /* query variants a segment may ask for */
enum { ATTN_CUT = 256 };       /* items per partial result, counted from the start of each segment */
enum { ATTN_MAX_SEGMENTS = 8 };

/* A run of items in one format: items first .. first + n_items - 1 of one tier of one (sequence, layer, KV head). */
typedef struct attn_segment {
    const page_layout *layout;
    const uint32_t *pages; /* page references of the tier (cache/pool.h): item i lies in page pages[i / cap], slot i % cap */
    int first, n_items;
    uint8_t query;         /* ATTN_PLAIN, ... : which q this segment is multiplied with */
    bool out_rotated;      /* V is stored rotated: its part of the output goes to the job's out_rotated */
    bool grows;            /* row r of the job sees n_items + r items (rows appended together) */
} attn_segment;

typedef enum live_group { LIVE_MEAN, LIVE_MAX, LIVE_SUM } live_group;
typedef enum live_fold { LIVE_ADD, LIVE_KEEP_MAX, LIVE_REPLACE } live_fold; /* column = column + value, the larger of both, value */
typedef struct live_spec { /* what a row does to the f32 score column of every item it sees (layouts without the column are left out) */
    bool on;
    live_group group; /* over the query heads of the group */
    uint8_t power;    /* 1 or 2, applied to each probability before the group */
    live_fold fold;   /* rows in order */
} live_spec;

/* One (sequence, KV head) with n_rows consecutive queries. */
typedef struct attn_job {
    const float *q[ATTN_N_QUERIES]; /* each [n_rows][group][head_dim] with row stride ldq floats, or NULL if no segment uses it */
    size_t ldq;
    float *out;                     /* [n_rows][group][head_dim], row stride ldo */
    float *out_rotated;             /* the part of segments with out_rotated, same shape; NULL if there is none */
    size_t ldo;
    int n_rows, group, head_dim;
    float scale;                    /* 1/sqrt(head_dim) usually */
    attn_segment seg[ATTN_MAX_SEGMENTS];
    int n_segs;
    live_spec live;
} attn_job;

typedef struct attn_batch {
    const attn_job *jobs;
    int n_jobs;
    uint8_t *pool_base; /* page reference r lies at pool_base + 64 * r */
    void *scratch;      /* attn_scratch_bytes(batch, nth) bytes */
} attn_batch;

/* ---- prefill ---- */
typedef struct attn_prefill {
    const float *q;       /* [n_tokens][n_heads][head_dim], after RoPE */
    const float *k, *v;   /* [n_kv][n_tokens][head_dim], after RoPE and rounding */
    float *out;           /* [n_tokens][n_heads][head_dim] */
    float *lse;           /* [n_heads][n_tokens] log-sum-exp of each row, or NULL */
    int n_tokens, n_heads, n_kv, head_dim;
    int first;            /* rows before it are left out: their q is not read, their out and lse not written */
    int window;           /* > 0: a row sees so many keys, its own and those before it */
    float scale;
    void *scratch;        /* prefill_scratch_bytes(a, nth) */
} attn_prefill;

/* Attention that each key receives from the last n_rows queries of a prompt (causal, softmax over all keys the row sees). */
typedef struct attn_mass {
    const float *q;     /* [n_rows][n_heads][head_dim]: rows n_tokens - n_rows .. n_tokens - 1 */
    const float *k;     /* [n_kv][n_tokens][head_dim] */
    float *out;         /* [n_heads][n_tokens]: sum or max over the rows of p^power */
    int n_rows, n_tokens, n_heads, n_kv, head_dim;
    float scale;
    int power;          /* 1 or 2 */
    bool max;           /* reduce rows by max instead of sum */
    void *scratch;      /* mass_scratch_bytes(a, nth) */
} attn_mass;

/* Attention that each key receives from rows first .. first + n_rows - 1 (causal), whose log-sum-exps are known. */
typedef struct attn_columns {
    const float *q;     /* [n_rows][n_heads][head_dim], after RoPE */
    const float *lse;   /* [n_heads][n_rows], row stride ld_lse */
    const float *k;     /* [n_kv][n_tokens][head_dim] */
    float *out;         /* [n_heads][n_tokens]: sum or max over the rows of p^power; with group_max [n_kv][n_tokens] */
    size_t ld_lse;
    int first, n_rows, n_tokens, n_heads, n_kv, head_dim;
    float scale;
    int power;          /* 1 or 2 */
    int lag;            /* rows nearer to the key than this do not count; 0 = all that see it */
    int window;         /* > 0: a row sees so many keys, its own and those before it */
    bool max;
    bool group_max;     /* of each row, the largest p^power of the KV head's query heads counts */
    void *scratch;      /* signal_scratch_bytes(head_dim, nth) */
} attn_columns;

/* A number per item and query head from its K or V vector x and the head's matrix M [n_rows][head_dim]. */
typedef enum form_kind { FORM_ABS /* sum |Mx| */, FORM_SQUARE /* sum (Mx)^2 */, FORM_QUADRATIC /* x . Mx, M square */ } form_kind;
typedef struct item_form {
    form_kind kind;
    const float *x;     /* [n_kv][n_items][head_dim] */
    const float *m;     /* row r of head h at m + h * head_stride + r * ldm */
    size_t head_stride, ldm;
    float *out;         /* [n_heads][n_items] */
    int n_rows, n_items, n_heads, n_kv, head_dim;
    void *scratch;      /* signal_scratch_bytes(head_dim, nth) */
} item_form;

/* Squared change of a head's output over the last n_rows queries if one item went: sum of (p / (1 - p + epsilon))^2 |v - o|^2. */
typedef struct attn_change {
    const float *q, *o; /* [n_rows][n_heads][head_dim]: queries and their attention outputs */
    const float *lse;   /* [n_heads][n_rows], row stride ld_lse */
    const float *k, *v; /* [n_kv][n_tokens][head_dim] */
    float *out;         /* [n_heads][n_tokens] */
    size_t ld_lse;
    int n_rows, n_tokens, n_heads, n_kv, head_dim;
    float scale, epsilon;
    bool stays;         /* weight p^2 instead: what an error of the item, of the size of its distance from o, would change */
    void *scratch;      /* signal_scratch_bytes(head_dim, nth) */
} attn_change;

/* Sums over rows x of x_c and of x_c x_b for b >= c, in f64 and in the order of the rows, added to what lies there. */
typedef struct row_moments {
    const float *x;     /* [n_rows][n_heads][head_dim], row stride ldx floats */
    size_t ldx;
    double *sums;       /* per head [head_dim] sums, then [head_dim][head_dim] products; what is left of the diagonal means nothing */
    int n_rows, n_heads, head_dim;
} row_moments;

typedef struct rope_table { /* cos and sin of pos * theta_i, built from f64 angles; owned by the model */
    const float *cos, *sin; /* [n_pos][n_dims/2] */
    int n_pos, n_dims;      /* rotated dimensions (even, <= head_dim) */
    bool neox;              /* pairs (i, i + n_dims/2) instead of (2i, 2i+1) */
} rope_table;

typedef struct backend {
    const char *name; /* "cpu", "reference" */
    const char *isa;  /* "scalar", "avx2", "avx-vnni", "avx512-vnni", "avx512-bf16" as dispatched; part of every result */
    math_mode math;

    /* weights: packed once at load (single-threaded call); src->data is not needed afterwards */
    err (*weight_pack)(const struct backend *b, const weight_src *src, packed_weight **out);
    void (*weight_free)(packed_weight *w);
    size_t (*weight_bytes)(const packed_weight *w); /* bytes read by one decode step */
    /* Moves n weights, in the order in which a step reads them, into one run of memory on huge pages where the OS gives them. Optional;
     * *run is given back by weight_run_free after the weights. */
    err (*weight_gather)(packed_weight *const *w, int n, void **run);
    void (*weight_run_free)(void *run);

    size_t (*act_bytes)(int m, int k);
    void (*act_prepare)(const par *p, act *a); /* fills a->q from a->x */
    /* The same of rows that are made here, each prepared while it is in cache; y is a->x. y = rms_norm(x); y = silu(gate) * up, or
     * gelu(gate) * up in its tanh form, where y may be gate. */
    void (*norm_prepare)(const par *p, const float *x, const float *weight, float eps, float *y, act *a);
    void (*gate_prepare)(const par *p, bool gelu, const float *gate, const float *up, float *y, act *a);
    /* y[r][o] (+)= sum_k w[o][k] a[r][k] for all m rows; y row stride ldy */
    void (*linear)(const par *p, const packed_weight *w, const act *a, float *y, size_t ldy, bool accumulate);

    void (*rms_norm)(const par *p, const float *x, const float *weight, float eps, int m, int n, float *y);
    /* in place on x [m][n_heads][head_dim] (row stride ldx); pos[m] */
    void (*rope)(const par *p, const rope_table *t, const uint32_t *pos, float *x, size_t ldx, int m, int n_heads, int head_dim);
    void (*round_f16)(const par *p, float *x, size_t n); /* each value once to f16 precision, in place */

    size_t (*prefill_scratch_bytes)(const attn_prefill *a, int nth);
    void (*attn_prefill)(const par *p, const attn_prefill *a);
    size_t (*mass_scratch_bytes)(const attn_mass *a, int nth);
    void (*attn_mass)(const par *p, const attn_mass *a);
    /* signals of policies; a backend may leave these five out, then policies that need them are refused */
    size_t (*signal_scratch_bytes)(int head_dim, int nth);
    void (*attn_columns)(const par *p, const attn_columns *a);
    void (*item_form)(const par *p, const item_form *a);
    void (*attn_change)(const par *p, const attn_change *a);
    void (*row_moments)(const par *p, const row_moments *a);
    size_t (*attn_scratch_bytes)(const attn_batch *b, int nth);
    void (*attn_decode)(const par *p, const attn_batch *b);

    /* codec: not SPMD, called for disjoint items by any thread; bit-equal to page_put / page_move of format/layout.h */
    void (*page_put)(const page_layout *l, void *page, int slot0, int n, const float *k, size_t ldk, const float *v, size_t ldv,
                     const uint32_t *pos);
    void (*page_move)(const page_layout *from, const void *src, int src_slot, const page_layout *to, void *dst, int dst_slot);
} backend;

/* name: "auto" (= "cpu"), "cpu", "reference"; "cuda" and unknown names are refused in one sentence. isa: "auto" or a name the
 * CPU has ("scalar", "avx2", "avx-vnni", "avx512-vnni", "avx512-bf16"); others are refused with the list. *out is static per (name, isa, math): never freed. */
MUST err backend_find(const char *name, const char *isa, math_mode math, const backend **out);
/* Names of ISA paths of the "cpu" backend that this CPU can run, best first; returns the count. */
int backend_isas(const char **names, int max);

/* Instruction by instruction, 10^9 operations a second of one thread, measured now (some 50 ms); returns the count. */
typedef struct backend_peak { const char *name; double gops; } backend_peak;
int backend_peaks(backend_peak *out, int max);

/* Kernels register here at start-up (registry.c calls their constructors by name: no link-order magic). */
typedef struct backend_entry {
    const char *name;
    err (*open)(const char *isa, math_mode math, const backend **out);
} backend_entry;
extern const backend_entry backend_entry_cpu;       /* kernels/cpu */
extern const backend_entry backend_entry_reference; /* kernels/cpu */
#endif
