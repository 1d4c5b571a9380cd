/* LeanKV / DiffKV (arXiv 2412.03131) as one decision: what its options are, and the part that goes on in decode. */
#ifndef KVLAB_POLICY_DECIDE_LEANKV_H
#define KVLAB_POLICY_DECIDE_LEANKV_H
#include "policy/significance.h"
#include "policy/threshold.h"

enum { LEANKV_CODE, LEANKV_PAPER, LEANKV_V1 };
enum { BASE_DECODE_TOKENS, BASE_DECODE_KEPT }; /* 1 / tokens seen, 1 / items of the head */
enum { AGE_STORED, AGE_OWN };
enum { INDEX_OWN, INDEX_RANK };

typedef struct leankv {
    double alpha_h, alpha_l, p_h, p_l, min_distance;
    significance sig;
    int victims; /* per head and step; 0 = all */
    uint8_t mode, base, base_decode, age, index, ramp, high, low; /* threshold_base and the enums above; tiers */
    bool equal_worse, eager, has_low;
} leankv;

/* alpha_l of a layer, along the ramp. */
double leankv_alpha_l(const leankv *c, const decision *d, int layer);
/* One head in decode, before the next token is appended. */
void leankv_decode(const leankv *c, const decision *d, head_items *h);
#endif
