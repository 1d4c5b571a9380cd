/* Inside of a policy: what its stages see, and the row each of them is in the registry.
 *
 * A decision walks score -> quota -> select -> tier, or score -> decide, over the items of one layer at a time:
 *
 *   score   fills head_items.score, may mark items ITEM_FORCED
 *   quota   fills head_items.quota: items that may stay, protected and forced ones included; sequence scope: all layers at once
 *   select  fills head_items.target with 0 (stays) or KV_DROP, may mark roles
 *   tier    replaces the 0 of those that stay by their tier
 *   decide  takes the place of quota, select and tier: from head_items.tier_now (NULL at prefill) to a tier or KV_DROP in
 *           head_items.target; sequence scope: all layers at once
 *
 * At prefill heads of a layer hold the same items, one run of positions up to the prompt's end: of a sliding layer (layers: all) what its window
 * holds for the next token, so item i is not position i and layers differ in n. In decode each head holds items of its own, tier by tier, and
 * there are no signals: what a score knows then is position, tier and head_items.live.
 *
 * Live scores: a score stage that sets policy_needs.live in its `parse` gets an f32 column beside each item. At prefill it fills
 * head_items.live with what the column starts from; every step, attention folds in what the item received (live_spec); a decision
 * finds the column, of that and all earlier steps, in head_items.live. It moves with its item through tiers; an appended item
 * starts at 0 and has its own row's attention when the next decision comes.
 *
 * Stages are pure: the same items give the same answer, whatever was decided before. */
#ifndef KVLAB_POLICY_STAGE_H
#define KVLAB_POLICY_STAGE_H
#include <assert.h>
#include "policy/budget.h"
#include "policy/policy.h"
#include "policy/trigger.h"

typedef enum stage_kind { STAGE_SCORE, STAGE_QUOTA, STAGE_SELECT, STAGE_TIER, STAGE_DECIDE, STAGE_N_KINDS } stage_kind;

/* Roles of an item, passed along the stages. */
enum {
    ITEM_SINK = 1,            /* among the first protect.sink positions */
    ITEM_RECENT = 2,          /* among the last protect.recent positions */
    ITEM_IMPORTANT = 4,       /* kept for its score */
    ITEM_REPRESENTATIVE = 8,  /* kept to stand for dropped ones */
    ITEM_FORCED = 16,         /* kept before any score is looked at, newest first, inside the quota */
    ITEM_PROTECTED = ITEM_SINK | ITEM_RECENT, /* never dropped, whatever the quota */
};

/* One (layer, KV head). Entry i of every array is the same item. */
typedef struct head_items {
    int layer, head, n;
    const uint32_t *pos;     /* [n] absolute positions */
    const uint8_t *tier_now; /* [n]; NULL at prefill, where nothing is stored yet */
    float *score;            /* [n] */
    float *live;             /* [n] the item's live column: out at prefill, in (a copy) in decode; NULL for scores that are not live */
    uint8_t *flags;          /* [n] ITEM_* */
    int kept;                /* items that the budget allows a head of this layer, protected ones included */
    int quota;
    int safe;                /* quota adaptive, mode floor: items that are the head's own; else 0 */
    uint8_t *target;         /* out [n] */
} head_items;

typedef struct decision {
    const policy *p;
    uint64_t seed;               /* of the sequence */
    int n_tokens;                /* tokens seen: the position of the next one */
    int n_prompt;                /* of them, those of the prompt; 0 without one */
    double scale, *found_scale;  /* of all thresholds: 1, or what met a byte budget at the prompt's end */
    double *select_seconds;      /* CPU time of select is added here; NULL in decode */
    bool *clamped;               /* set by who meets a budget itself and could not */
    int first_new;               /* positions from here on were recent or not there at the last decision */
    const float *const *signal;  /* [needs.n_signals], each [n_heads][n]; NULL in decode and where all layers are seen at once: */
    const policy_layer *from;    /* the layers with their signals; NULL in decode */
    head_items *heads;           /* [n_heads], layer-major where there are several layers */
    int n_heads;
    uint64_t *keys;              /* scratch [sum of n + STAGE_HEAD_KEYS per head] */
    float *tmp;                  /* scratch [2 * largest n], and at least [n_tokens]; aligned to sort keys with */
    uint64_t *work;              /* scratch of one stage [n_tokens][policy.work_words] */
} decision;

typedef struct stage {
    stage_kind kind;
    const char *name, *help;
    /* Reads the parameters under the stage's name (`map` is NULL without any) into `conf`; `at` is for messages. */
    err (*parse)(policy *p, const node *at, const node *map, void *conf);
    void (*describe)(const policy *p, const void *conf, char *out, size_t n); /* parameters only; may be NULL */

    bool live;     /* can be decided in decode too, not only from the prompt */
    bool joins;    /* score: made of other scores */
    bool no_holes; /* score: what stays beside the sinks is one run up to the newest token */
    bool budgeted; /* quota, select, decide: needs a budget */
    bool even;     /* quota: the same for every head */
    bool ranks;    /* quota, select, tier, decide: reads scores */
    bool drops;    /* select, decide: may drop items without a budget */
    bool before_step; /* decide: takes place before the first appended token too, which counts as the newest of the window */
    bool chunks;   /* quota: allots whole logical pages (policy.chunk) */
    unsigned marks; /* select: roles it can mark beside ITEM_IMPORTANT */
    /* select: of n_free items per head, on average, that stay and are neither protected nor forced, at least so many are marked
     * ITEM_REPRESENTATIVE; NULL: none for certain. */
    int (*marked)(const void *conf, int n_free);

    void (*score)(const void *conf, const decision *d);
    /* score: what one of the head's items would get from query head m of its group alone; NULL where the score is not of query heads. */
    void (*score_query)(const void *conf, const decision *d, const head_items *h, int m, float *out /* [h->n] */);
    void (*allot)(const void *conf, const decision *d);
    void (*select)(const void *conf, const decision *d);
    void (*assign)(const void *conf, const decision *d);
    void (*decide)(const void *conf, const decision *d);
    /* tier, decide with a budget: how many of n_sink + n_recent + n_rest kept items go where; must agree with the stage at prefill. */
    void (*count)(const void *conf, int n_sink, int n_recent, int n_rest, int *per_tier /* [KV_MAX_TIERS], zeroed */);
    /* tier, decide: tiers an item may be moved between in decode, as (from, to) pairs; entry 0 is always what becomes of an appended
     * token that is neither sink nor recent. Returns the number of pairs. */
    int (*moves)(const void *conf, uint8_t (*pairs)[2] /* [8] */);
    unsigned (*tiers_used)(const void *conf); /* tier, decide: bit mask */
} stage;

enum { STAGE_HEAD_KEYS = 24, STAGE_CONF_BYTES = 128, STAGE_MAX_MOVES = 8 };
typedef struct stage_use {
    const stage *st;
    _Alignas(16) unsigned char conf[STAGE_CONF_BYTES];
} stage_use;

enum { POLICY_CHUNK_PHYSICAL = -1 }; /* a logical page holds what a page of the cache holds */

struct head_profile;
struct policy {
    policy_shape shape;
    policy_needs needs;
    stage_use use[STAGE_N_KINDS];
    struct plugin *plugins[STAGE_N_KINDS]; /* stages from shared objects; NULL elsewhere */
    budget budget;
    trigger trigger;
    protect protect;
    bool slot_positions;
    int n_global;              /* layers: all on a model with sliding layers: how many are not */
    int skip_layers;           /* the first so many keep everything (quota fixed) */
    bool in_blocks;            /* the score was computed for budget_kept items a head, in blocks */
    bool scales;               /* its thresholds can be multiplied by one factor */
    int score_rows;            /* the score sums the attention of the last so many queries of the prompt (INT_MAX: all); 0: is no such sum */
    int may_force;             /* items that the score may force beside protected ones */
    bool over_budget;          /* select keeps items beyond the budget: slack counts from what a decision left */
    bool ties_high;            /* among equal scores the higher position stays */
    bool decode_drops;         /* decode decisions score and may drop items */
    bool decode_moves;         /* decode decisions may move items to another tier */
    bool bound;
    int chunk;                 /* items of a logical page; 0 without one, or POLICY_CHUNK_PHYSICAL */
    uint32_t item_bytes[KV_MAX_TIERS]; /* of one item: payload, metadata, columns */
    int page_items[KV_MAX_TIERS];
    char tier_names[KV_MAX_TIERS][16];
    char *text;                /* policy_describe */
    int work_words;            /* the most that a stage asked for in `parse` */
    stage_use *joined;         /* scores that are made of others: those */
    void *bias;                /* score biased: its table */
    struct head_profile *profile; /* quota profile */
};

#define STAGE_CONF_FITS(T) _Static_assert(sizeof(T) <= STAGE_CONF_BYTES, "parameters of a stage fit its slot")

static inline const void *policy_conf(const policy *p, stage_kind k) { return p->use[k].conf; }
/* What places items in tiers: `decide` where there is one, else tier. */
static inline const stage_use *policy_placer(const policy *p) { return &p->use[p->use[STAGE_DECIDE].st ? STAGE_DECIDE : STAGE_TIER]; }
/* What drops items: `decide`, else select. */
static inline const stage *policy_dropper(const policy *p) { return p->use[p->use[STAGE_DECIDE].st ? STAGE_DECIDE : STAGE_SELECT].st; }
static inline bool policy_drops(const policy *p) {
    const stage *st = policy_dropper(p);
    return st->drops || (st->kind == STAGE_SELECT && st->budgeted);
}
/* A byte budget that one factor of all thresholds meets, instead of a count of items. */
static inline bool policy_scales_to_bytes(const policy *p) {
    return p->budget.unit == BUDGET_BYTES && p->scales && !policy_dropper(p)->budgeted;
}
/* Whether a stage can decide in decode. */
static inline bool policy_stage_live(const policy *p, stage_kind k) {
    return p->use[k].st->live || (k == STAGE_SCORE && p->needs.live.on);
}

/* Does the policy see this layer as a sliding one? Those of `layers: global` are not numbered at all. */
static inline bool policy_layer_slides(const policy *p, int layer) {
    return p->needs.all_layers && !(p->shape.slide_period && (layer + 1) % p->shape.slide_period == 0);
}
/* Window of a layer; 0: global. */
static inline int policy_layer_window(const policy *p, int layer) { return policy_layer_slides(p, layer) ? p->shape.window : 0; }
static inline int policy_n_sliding(const policy *p) {
    if (!p->needs.all_layers) return 0;
    return p->shape.n_layers - (p->shape.slide_period ? p->shape.n_layers / p->shape.slide_period : 0);
}
/* Tokens that the last of n queries sees, its own included; items of n tokens that the query after them sees, which is all that an
 * uncompressed layer holds. */
static inline int window_sees(int window, int n) { return window && n > window ? window : n; }
static inline int window_holds(int window, int n) { return window && n > window - 1 ? window - 1 : n; }

/* Registers a signal or finds an equal one; its index in policy_needs.signals. */
MUST err policy_request_signal(policy *p, const node *at, signal_request r, int *index);
/* A score says in `parse` that it may force n items of which those of `protect` are the first (or last) so many anyway. */
static inline void policy_may_force(policy *p, int n, int of_protect) {
    if (n > of_protect) p->may_force += n - of_protect;
}
/* Index of a tier by name, ERR_USAGE naming stage and tiers if there is none. */
MUST err policy_find_tier(const policy *p, const node *at, const char *stage_name, const char *tier, int *index);
/* Writes "f16, k8v4" of all tiers. */
void policy_tier_list(const policy *p, char *out, size_t n);

/* Items of a logical page in a tier: `chunk` of the hot one, as many as take the same bytes in another. */
int policy_chunk(const policy *p, int tier);

const char *stage_kind_name(stage_kind k);
const stage *stage_find(stage_kind k, const char *name);        /* NULL if unknown */
int stage_names(stage_kind k, const char **names, int max);     /* of one kind, in order of the registry */

/* Marks sinks and recent items. */
void protect_flags(const protect *p, int n_tokens, head_items *h);
/* Protected items of a layer with that window (0: global) of n tokens that are sinks and not recent, and that are recent. */
void protect_count(const protect *p, int window, int n_tokens, int *n_sink, int *n_recent);
#endif
