/* Smoothing of a column of numbers along positions, and reduction of query heads to their KV head. Sums run in position order and
 * in head order, in f32, so every caller gets the same bits. */
#ifndef KVLAB_POLICY_SIGNAL_POOL_H
#define KVLAB_POLICY_SIGNAL_POOL_H

typedef enum pool_kind { POOL_NONE, POOL_AVG, POOL_MAX } pool_kind;
typedef enum pool_direction {
    POOL_CENTRED, /* positions j - width/2 .. j + width/2 */
    POOL_FORWARD, /* positions j .. j + width - 1 */
} pool_direction;
typedef enum group_kind { GROUP_MEAN, GROUP_MAX, GROUP_SUM } group_kind;

/* y[j] over `width` neighbours of x[j], stride 1. avg: positions outside count as zeros and the divisor is always `width`
 * (edges are damped, as torch's avg_pool1d does); max: positions outside are left out. x and y may not overlap. */
void signal_pool(pool_kind kind, pool_direction dir, int width, const float *x, int n, float *y);
/* acc[j] (op)= x[j] for member m of a group (0 starts it); group_finish divides a mean. */
void signal_group_add(group_kind kind, int m, const float *x, int n, float *acc);
void signal_group_finish(group_kind kind, int n_members, int n, float *acc);
#endif
