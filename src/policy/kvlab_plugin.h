/* kvlab_plugin.h: a stage of a KV-cache policy in a shared object of your own.
 *
 * This file is all that a plug-in needs: plain C types, nothing of kvlab's inside; copy it where you like. docs/plugin/ is a worked
 * example with its Makefile, docs/policies.md ("Your own stage in one file") tells the way.
 *
 *     #include "kvlab_plugin.h"
 *     static int run(void *state, const kvlab_decision *d, char *why) { ... return 0; }
 *     KVLAB_STAGE(kvlab_score) = {.abi = KVLAB_PLUGIN_ABI, .bytes = sizeof(kvlab_stage), .run = run};
 *
 *     policy: {budget: 0.25, score: {plugin: {path: ./mine.so}}}
 *
 * The symbol says which stage it is: kvlab_score, kvlab_quota, kvlab_select, kvlab_tier, or kvlab_decide, which takes the place of the last
 * three: present tiers in, target tiers out (YAML `symbol: NAME` chooses another one, so a file may hold many). One file may export
 * several.
 *
 * Version. kvlab loads plug-ins of exactly its own KVLAB_PLUGIN_ABI; every change of this file changes the number, and a plug-in of
 * another version is refused by name. `abi` stays the first field in all versions.
 *
 * Rules. All arrays belong to kvlab and live until the call returns. A stage is pure: the same decision gives the same answer, whatever
 * was decided before (results are compared, repeated and resumed on that); randomness comes from `seed`. Calls of one stage
 * never overlap and come from one thread, but one process may hold several open states. A non-zero return fails the unit with the
 * text left in `why` (KVLAB_WHY_BYTES, NUL-terminated); so do answers that cannot be: NaN, counts beyond the budget, tiers that are not there.
 * A crash costs the unit too; the sweep goes on. */
#ifndef KVLAB_PLUGIN_H
#define KVLAB_PLUGIN_H
#include <stdint.h>

#define KVLAB_PLUGIN_ABI 1

#ifdef __cplusplus
#define KVLAB_STAGE(name) extern "C" __attribute__((visibility("default"))) const kvlab_stage name
#else
#define KVLAB_STAGE(name) __attribute__((visibility("default"))) const kvlab_stage name
#endif

enum { KVLAB_MAX_SIGNALS = 8, KVLAB_MAX_TIERS = 4, KVLAB_WHY_BYTES = 256 };

enum { KVLAB_DROP = 255 }; /* a target: the item goes */

/* Roles of an item: bits of kvlab_head.flags. */
enum {
    KVLAB_SINK = 1,           /* among the first protect.sink positions */
    KVLAB_RECENT = 2,         /* among the last protect.recent positions */
    KVLAB_IMPORTANT = 4,      /* kept by select (tier sees it) */
    KVLAB_REPRESENTATIVE = 8, /* kept by select to stand for dropped ones */
    KVLAB_FORCED = 16,        /* kept before any score is looked at, inside the quota */
};

/* What kvlab can measure about the items of a prompt. Shape [n_heads][n], one row per query head; the three that say KV: [n_kv_heads][n].
 * Fields that are not named with a kind must be 0. */
enum {
    KVLAB_WINDOW_MASS = 0,   /* attention from the last `rows` (1..64) queries, rows summed or (`max` 1) maxed; `power` 1 or 2 */
    KVLAB_ALL_MASS = 1,      /* the same from all queries of the prompt at least `lag` later; power, max */
    KVLAB_WINDOW_CHANGE = 2, /* squared output change over the last `rows` queries if the item alone went */
    KVLAB_EXPECTED_MASS = 3, /* attention predicted for `future` positions from the queries from position `first` on; `covariance` 0, 1 */
    KVLAB_PROBE_MASS = 4,    /* largest attention while the prompt is repeated in chunks of `rows` tokens; `unit` 1: each row divided by the
                                norm of its input; `first`: the opening of the chat template is told apart if there (0), never (1), always (2) */
    KVLAB_KEY_NORM = 5,      /* KV: L2 norm of the key as cached */
    KVLAB_KEY_COSINE = 6,    /* KV: cosine to the mean of all keys, unit ones (`unit` 1) or raw */
    KVLAB_VALUE_NORM = 7,    /* KV: L2 norm of the value */
    KVLAB_VALUE_OUTPUT = 8,  /* norm (`power` 1: L1, 2: L2) of the head's share of the output projection of the value */
};
typedef struct kvlab_signal {
    int32_t kind;
    int32_t rows, power, max, lag, first, future, covariance, unit;
} kvlab_signal;

typedef struct kvlab_needs { /* filled by `open`; comes zeroed */
    int32_t n_signals;
    kvlab_signal signals[KVLAB_MAX_SIGNALS]; /* kvlab_decision.signals has them in this order */
} kvlab_needs;

typedef struct kvlab_model {
    int32_t n_layers, n_heads, n_kv_heads, head_dim, context; /* query heads of KV head h: h * n_heads / n_kv_heads ... */
    int32_t n_tiers;
    const char *tier_names[KVLAB_MAX_TIERS]; /* as in the policy's `tiers`; 0 is the hot one */
} kvlab_model;

/* `options: {alpha: 0.5, window: {rows: 8}, at: [1, 2]}` arrives as alpha = "0.5", window.rows = "8", at.0 = "1", at.1 = "2". */
typedef struct kvlab_option {
    const char *name, *value;
} kvlab_option;

/* Items of one (layer, KV head). Entry i of every array is the same item. */
typedef struct kvlab_head {
    int32_t layer, head, n;
    const uint32_t *pos;     /* [n] absolute positions; at prefill 0, 1, ..., n - 1 */
    const uint8_t *tier_now; /* [n] tiers they lie in; NULL at prefill, where nothing is stored yet */
    const uint8_t *flags;    /* [n] roles so far */
    float *score;            /* [n] `score` writes all of them, larger stays first; the others read it (0 without a score stage) */
    int32_t quota;           /* `quota` writes it: items that may stay, protected ones (sink, recent) included; `select` reads it */
    uint8_t *target;         /* [n] `select` writes 0 (stays) or KVLAB_DROP; `tier` replaces each 0 by a tier; `decide` finds the present tiers
                                (0 at prefill) and writes tiers or KVLAB_DROP: protected items stay, a budget holds over all heads together */
    uint8_t *mark;           /* [n] zeros; `score` may set 1: KVLAB_FORCED; `select` may set 1: KVLAB_REPRESENTATIVE */
} kvlab_head;

typedef struct kvlab_decision {
    uint64_t seed;     /* of the sequence */
    int32_t n_tokens;  /* tokens seen: the position of the next one */
    int32_t kept;      /* items per head that the budget allows, protected ones included */
    int32_t prefill;   /* 1: after the prompt; 0: while decoding (only with `live: true`) */
    int32_t first_new; /* decode: positions from here on were recent or not there at the last decision */
    int32_t n_tiers;
    const uint32_t *tier_item_bytes; /* [n_tiers] bytes of one item, scales and columns included */
    int32_t n_heads;                 /* entries of heads: the KV heads of one layer; `quota` and `decide` with `over: sequence` see all layers */
    kvlab_head *heads;
    const float *const *signals; /* [needs.n_signals]; NULL in decode, and for a stage that sees all layers at once */
} kvlab_decision;

typedef struct kvlab_stage {
    uint32_t abi;               /* KVLAB_PLUGIN_ABI */
    uint32_t bytes;             /* sizeof(kvlab_stage) */
    const char *about;          /* one line; may be NULL */
    const char *const *options; /* names it reads, NULL-terminated (of a nested one: the first part); others are refused; NULL: none */
    /* Once per policy, before the first decision; may be NULL. Asks for signals, reads options, makes *state (NULL unless set). */
    int (*open)(const kvlab_model *model, const kvlab_option *options, int n_options, kvlab_needs *needs, void **state, char *why);
    int (*run)(void *state, const kvlab_decision *d, char *why); /* one decision */
    void (*close)(void *state);                                  /* may be NULL */
    /* tier and decide, needed for budgets in bytes: how many of n_sink + n_recent + n_rest kept items of a head go where (comes zeroed). Must
     * agree with `run` at prefill, and one item more must never move another one to a cheaper tier. */
    int (*count)(void *state, int32_t n_sink, int32_t n_recent, int32_t n_rest, int32_t *per_tier, char *why);
} kvlab_stage;
#endif
