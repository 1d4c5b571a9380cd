/* Policies: which items of a cache stay, and in which tier (design section 6).
 *
 * A policy sees item columns and signals; never pages, never K or V bytes. It is built once per sweep point from YAML, immutable
 * and shared; what it must remember of one sequence lives in a policy_state. Four stages - score, quota, select, tier - each a row
 * of a registry, around them budget, trigger and protect. Adding a stage touches its own file and the registry. */
#ifndef KVLAB_POLICY_POLICY_H
#define KVLAB_POLICY_POLICY_H
#include "backend/backend.h"
#include "conf/node.h"
#include "format/plan.h"

typedef struct policy policy;
typedef struct policy_state policy_state;

typedef struct policy_shape {
    int n_layers; /* global ones, without a sliding window: those that policies act on unless `layers: all` */
    int n_heads, n_kv, head_dim, context;
    const char *model_sha256; /* for what is calibrated per model file; NULL: not checked. Outlives the policy, as do all texts here */
    const char *profile_dir;  /* of head profiles given by name; NULL: none */
    int window;       /* tokens that a query of a sliding layer sees, its own included; 0: no layer slides */
    int n_all_layers; /* with a window: all layers */
    int slide_period; /* with a window: every so manieth layer is global; 0: none */
} policy_shape;

typedef enum policy_scope { SCOPE_HEAD, SCOPE_LAYER, SCOPE_SEQUENCE } policy_scope;

/* What the engine measures about the items of a prompt; a stage asks for it by parameters, equal requests are computed once.
 * Shapes: [n_heads][n] (per query head), or [n_kv][n] where it says KV. All fields are ints: requests are compared as bytes. */
typedef enum signal_kind {
    SIGNAL_WINDOW_MASS,   /* attention received from the last `rows` queries, rows summed or maxed */
    SIGNAL_ALL_MASS,      /* the same from all queries of the prompt that are at least `lag` later */
    SIGNAL_WINDOW_CHANGE, /* squared output change over the last `rows` queries if the item went (DropKV) */
    SIGNAL_WINDOW_SPREAD, /* sum over the last `rows` queries of p^2 |v - o|^2 */
    SIGNAL_QUERY_NORM,    /* entry r: squared norm of query r of the last `rows` (the others 0) */
    SIGNAL_KEY_ERROR,     /* KV: squared error of the key stored in tier `tier` */
    SIGNAL_VALUE_ERROR,   /* KV: squared error of the value stored in tier `tier` */
    SIGNAL_EXPECTED_MASS, /* attention predicted for `future` positions from the queries from position `first` on; 0 before `first` */
    SIGNAL_PROBE_MASS,    /* largest attention received while the prompt is repeated in chunks of `rows` tokens (KVzip); `unit` 1: each row
                             divided by the norm of its input (KVzip+); `first`: the opening of the chat template is told apart
                             where it is there (0), never (1), always (2) */
    SIGNAL_KEY_NORM,      /* KV: L2 norm of the key as cached */
    SIGNAL_KEY_COSINE,    /* KV: cosine to the mean of all keys, unit ones (`unit` 1) or raw (KeyDiff); in blocks of `rows`: 2 for what went */
    SIGNAL_VALUE_NORM,    /* KV: L2 norm of the value */
    SIGNAL_VALUE_OUTPUT,  /* norm (L1, or L2 with `power` 2) of the head's share of the output projection of the value */
} signal_kind;
typedef struct signal_request {
    int kind;       /* signal_kind */
    int rows;       /* windows: 1..SNAPSHOT_TAIL_ROWS, clipped to the prompt; probe: tokens of a chunk */
    int power;      /* of each probability, 1 or 2; value output: the norm */
    int max;        /* rows maxed instead of summed */
    int lag;        /* all rows */
    int first, future, covariance; /* expected mass; probe: first */
    int unit;       /* key cosine, probe */
    int group_max;  /* all rows, and windows: of each row the largest of the KV head's query heads counts; KV */
    int tier;       /* errors */
    int sliding;    /* probe: sliding layers are measured too */
} signal_request;
/* Shaped [n_kv][n] instead of [n_heads][n]? */
static inline bool signal_per_kv(const signal_request *r) {
    return r->kind == SIGNAL_KEY_NORM || r->kind == SIGNAL_KEY_COSINE || r->kind == SIGNAL_VALUE_NORM || r->kind == SIGNAL_KEY_ERROR ||
           r->kind == SIGNAL_VALUE_ERROR || r->group_max;
}
enum { POLICY_MAX_SIGNALS = 12, POLICY_MAX_KV_HEADS = 256 };

typedef struct policy_needs {
    policy_scope scope;
    signal_request signals[POLICY_MAX_SIGNALS];
    int n_signals;
    bool all_layers;               /* layers: all. Layers are numbered as in the model; else sliding ones are not there */
    bool decides;                  /* decode decisions drop or move items: lists leave the order of positions */
    bool pos_column, score_column; /* in pages, while decoding */
    live_spec live;                /* what attention adds to the score columns at each step; score_column says if it is on */
    int slot_sinks;                /* > 0: slot positions (StreamingLLM): leading sinks take the ATTN_SLOT query */
    int page_bytes;                /* 0: the engine searches the size with the least slack */
    int n_tiers;
    kv_format tiers[KV_MAX_TIERS]; /* tier 0 is the hot one */
} policy_needs;

/* `conf` is the map under `policy:` with any preset already merged (NULL = full). Unknown keys, conflicting stages and impossible
 * budgets are ERR_USAGE with file, line and both names. */
MUST err policy_create(const node *conf, policy_shape shape, policy **out);
void policy_destroy(policy *p);
/* Opens the shared objects of plug-in stages (src/policy/kvlab_plugin.h); after it the needs are complete. Before engine_declare, seq_create
 * and every decision; nothing to do without plug-ins. What is wrong with one is ERR_FAILED. */
MUST err policy_load(policy *p);
typedef struct policy_plugin { const char *stage, *path, *sha256; } policy_plugin; /* sha256 "": the file cannot be read */
int policy_list_plugins(const policy *p, policy_plugin *out, int max); /* the policy's own texts */
enum { POLICY_MAX_PLUGINS = 8 };
const policy_needs *policy_get_needs(const policy *p);
const char *policy_describe(const policy *p); /* one line: "score window . quota adaptive . select top_k . tier uniform f16" */
bool policy_is_full(const policy *p);         /* keeps everything in tier 0, whatever its format */
/* Layouts chosen by the engine for the tiers (byte budgets need item sizes); before the first decision, once. */
MUST err policy_bind(policy *p, const page_layout *layouts);

/* Items per head of a layer that the budget allows of a prompt of n tokens. */
int policy_prompt_kept(const policy *p, int layer, int n);

/* One per sequence. */
MUST err policy_state_create(const policy *p, uint64_t seed, policy_state **out);
MUST err policy_state_clone(const policy_state *s, policy_state **out);
void policy_state_destroy(policy_state *s);

/* One layer at prefill end: n items per head, those that the next token sees: positions 0 .. n - 1, in a sliding layer the last n of the
 * prompt. All layers end at the same position. */
typedef struct policy_layer {
    int layer, n;
    int first; /* position of item 0 */
    int ld;    /* row stride of target and live; 0: n */
    const float *signal[POLICY_MAX_SIGNALS]; /* in the order of policy_needs.signals, shaped as signal_kind says */
    uint8_t *target;                         /* out [n_kv][n]: tier or KV_DROP */
    float *live;                             /* out [n_kv][n]: what the score column starts from; NULL without score_column */
} policy_layer;
/* Head and layer scope: called once per layer, in order, n_layers = 1; sequence scope: once with all layers. */
MUST err policy_prefill(const policy *p, policy_state *s, policy_layer *layers, int n_layers);

/* Decode. Rows that may still be appended before a decision is due, counted from a sequence of n_tokens tokens (INT32_MAX: never;
 * 0: decide now). Decisions happen between steps, before token n_tokens is appended. */
int policy_rows_until_due(const policy *p, const policy_state *s, int n_tokens);
/* Pressure: may a sequence be decided to make room, and the order in which sequences are, lowest first. It holds n_items items. */
bool policy_on_pressure(const policy *p);
int64_t policy_pressure_rank(const policy *p, const policy_state *s, int n_tokens, size_t n_items);
typedef struct policy_columns { /* one (layer, KV head), in cache column order: tier by tier */
    int layer, head, n;
    const uint32_t *pos;
    const uint8_t *tier;
    float *score;       /* live column or zeros; the policy may overwrite its copy */
    uint8_t *target;    /* out [n] */
} policy_columns;
/* Called with all (layer, head) pairs, layer-major: cols[layer * n_kv + head]. */
MUST err policy_decode(const policy *p, policy_state *s, int n_tokens, policy_columns *cols);
/* The same in parts, where layers are decided by themselves: begin, every layer (cols: its n_kv heads) by one of n_threads threads, end. */
bool policy_decides_by_layer(const policy *p);
MUST err policy_decode_begin(const policy *p, policy_state *s, int n_tokens, size_t most_items /* of a layer */, int n_threads);
MUST err policy_decode_layer(const policy *p, policy_state *s, int thread, int n_tokens, const policy_columns *cols);
MUST err policy_decode_end(const policy *p, policy_state *s, int n_tokens);

/* Sees the scores and flags of all heads of a prompt before quotas are given; sequence scope only. For calibration. head_items: stage.h. */
struct head_items;
typedef void (*policy_observer)(void *observer, const struct head_items *heads, int n_heads);
void policy_state_observe(policy_state *s, policy_observer observe, void *observer);

typedef struct policy_report {
    bool budget_clamped;
    int n_decisions;
    double select_seconds; /* CPU time of select at the end of the prompt */
} policy_report;
policy_report policy_state_report(const policy_state *s);

/* `kvlab ls policies` and `kvlab schema`: the registry of stages. */
typedef struct stage_info { const char *stage, *name, *help; } stage_info;
int policy_list_stages(const stage_info **out);
#endif
