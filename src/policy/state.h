/* What a policy remembers of one sequence, and the scratch of its decisions. */
#ifndef KVLAB_POLICY_STATE_H
#define KVLAB_POLICY_STATE_H
#include "policy/stage.h"

struct policy_state {
    const policy *p;
    uint64_t seed;
    int n_prompt;      /* 0 before prefill */
    int n_last;        /* tokens at the last decision */
    int kept;          /* items that a head held after it, on average of the fullest layer */
    int first_new;     /* positions from here on were recent then, or came later */
    double scale;      /* of the thresholds, as the prompt's byte budget needed it; else 1 */
    int due;           /* length at which the next decision is due */
    policy_report report;
    policy_observer observe; /* NULL, or called with `observer` when a prompt is scored; not cloned */
    void *observer;
    /* scratch of one decision */
    float *score, *tmp;
    uint64_t *work;
    uint8_t *flags;
    uint64_t *keys;
    uint32_t *pos; /* 0, 1, 2, ... as far as ever needed */
    head_items *heads; /* of a layer; sequence scope: of all */
    size_t heads_cap, score_cap, tmp_cap, work_cap, flags_cap, keys_cap, pos_cap; /* bytes */
};

/* Scratch of a decision over n_items items of n_heads heads, none with more than n_tokens. */
MUST err state_reserve(policy_state *s, int n_heads, size_t n_items, int n_tokens);
/* Scratch for the positions 0 .. n-1 that prompt items have. */
MUST err state_reserve_positions(policy_state *s, int n);
/* Notes a decision taken at n_tokens tokens and computes when the next is due. */
void state_decided(policy_state *s, int n_tokens, int kept, int first_new);
#endif
