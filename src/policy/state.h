/* What a policy remembers of one sequence, and the scratch of its decisions. */
#ifndef KVLAB_POLICY_STATE_H
#define KVLAB_POLICY_STATE_H
#include "policy/stage.h"

/* Scratch of one decision. Threads that decide layers side by side have one each. */
typedef struct decision_scratch {
    float *score, *tmp;
    uint64_t *work;
    uint8_t *flags;
    uint64_t *keys;
    head_items *heads; /* of a layer; sequence scope: of all */
    size_t heads_cap, score_cap, tmp_cap, work_cap, flags_cap, keys_cap; /* bytes */
    int most[KEPT_CLASSES]; /* items that a head of its layers held after the decision, on average of the fullest of the class */
} decision_scratch;

struct policy_state {
    const policy *p;
    uint64_t seed;
    int n_prompt;      /* 0 before prefill */
    int n_last;        /* tokens at the last decision */
    int kept[KEPT_CLASSES]; /* items that a head held after it, on average of the fullest layer of the class */
    int first_new;     /* positions from here on were recent then, or came later */
    double scale;      /* of the thresholds, as the prompt's byte budget needed it; else 1 */
    int due;           /* length at which the next decision is due */
    policy_report report;
    policy_observer observe; /* NULL, or called with `observer` when a prompt is scored; not cloned */
    void *observer;
    uint32_t *pos; /* 0, 1, 2, ... as far as ever needed */
    size_t pos_cap; /* bytes */
    int budget_now[KEPT_CLASSES], budget_layer[2]; /* items per head that the budget allows in the decision under way: layers of a class; global, sliding layers */
    decision_scratch own, *others; /* of the first thread, of the others */
    int n_others;
};

/* Scratch of a decision over n_items items of n_heads heads, none with more than n_tokens. */
MUST err scratch_reserve(decision_scratch *x, const policy *p, int n_heads, size_t n_items, int n_tokens);
/* Scratch for n_threads threads that decide a layer each, of at most n_items items and n_tokens per head. */
MUST err state_reserve_threads(policy_state *s, int n_threads, size_t n_items, int n_tokens);
static inline decision_scratch *state_scratch(policy_state *s, int thread) { return thread ? &s->others[thread - 1] : &s->own; }
/* Scratch for the positions 0 .. n-1 that prompt items have. */
MUST err state_reserve_positions(policy_state *s, int n);
/* Notes a decision taken at n_tokens tokens and computes when the next is due. */
void state_decided(policy_state *s, int n_tokens, const int *kept, int first_new);
#endif
