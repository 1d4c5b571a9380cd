/* Decode attention as fast math defines it (kernels/cpu/attn_codes.inc), by the formula in f64 on dense arrays: what any path may differ by is
 * then f32's rounding, not the integers' of queries and weights.
 *
 * Integers of a query are exactly those of a path: max, division, product and rounding are single f32 operations. Integers of weights are
 * not: a path's p comes from f32 scores and a 2^x good to 4e-6, so p step / scale is known to some epsilon, and where its fraction is
 * within that of one half the path may round the other way. Such a lane, and only such, adds one step scale |code - middle| to the slack. */
#ifndef KVLAB_TESTS_SUPPORT_FAST_ATTENTION_H
#define KVLAB_TESTS_SUPPORT_FAST_ATTENTION_H
#include "tests/support/dense_items.h"

/* [0] what goes to out, [1] to out_rotated. */
typedef struct fast_answer {
    double o[2][KV_MAX_HEAD_DIM];
    double slack[2][KV_MAX_HEAD_DIM]; /* what a path may be off by, lanes near a tie included */
    double scale;                     /* sum p max|v|, of both */
    double ties;                      /* the part of slack[0] and [1] that ties have, largest channel */
    double *p, *p_slack;              /* [items of all segments that the last row sees] probabilities, and by how much of itself each may be off */
} fast_answer;

/* One query head of one row of a job; items: of each segment, those that the last row sees. p and p_slack are the caller's. */
void fast_attention(const attn_job *j, const dense_items *items, int row, int head, fast_answer *a);

/* to [d]: query q times scale as items of the layout meet it: on integers ('w'), keys of at most 4 bits take it rounded to 8 bits. That is part of what
 * is computed, so oracles of plain attention do it too and their bounds are those of all other rounding. */
void fast_query_met(const page_layout *l, char op, const float *q, int d, float scale, double *to);
#endif
