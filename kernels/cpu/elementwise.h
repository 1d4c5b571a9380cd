/* Operations on rows of activations. All paths give the same bits:
 *
 *   norm       8 partial sums of squares in f64 (lane = k mod 8; products of two floats are exact there), added as a tree,
 *              y = (x * r) * weight with r = float(1 / sqrt(sum / n + eps))
 *   gate       silu: y = (g / (1 + vexp(-g))) * up; gelu: y = (g / (1 + vexp(GELU_A * (g + GELU_B * (g * g * g))))) * up, that is
 *              g * (1 + tanh z) / 2 with 2 z = -GELU_A (...); each operation rounded
 *   rope       (a, b) -> (a cos - b sin, a sin + b cos), each operation rounded
 *   round_f16  f32_round_f16 of each value; row_moments: products exact in f64, one chain over the rows for each sum
 */
#ifndef KVLAB_KERNELS_CPU_ELEMENTWISE_H
#define KVLAB_KERNELS_CPU_ELEMENTWISE_H
#include "backend/backend.h"

#define GELU_A (-1.5957691216057308f) /* -2 sqrt(2 / pi) */
#define GELU_B 0.044715f

typedef void act_row_fn(const act *a, int row); /* a->q of one row; NULL: nothing to prepare */

#define ELEMENTWISE_DECLARE(isa)                                                                                       \
    void rms_norm_##isa(const par *p, const float *x, const float *weight, float eps, int m, int n, float *y);         \
    void norm_prepare_##isa(const par *p, const float *x, const float *weight, float eps, float *y, act *a,            \
                            act_row_fn *prepare);                                                                      \
    void gate_prepare_##isa(const par *p, bool gelu, const float *gate, const float *up, float *y, act *a,             \
                            act_row_fn *prepare);                                                                      \
    void rope_##isa(const par *p, const rope_table *t, const uint32_t *pos, float *x, size_t ldx, int m, int n_heads,  \
                    int head_dim);                                                                                     \
    void round_f16_##isa(const par *p, float *x, size_t n);                                                            \
    void row_moments_##isa(const par *p, const row_moments *a);
ELEMENTWISE_DECLARE(reference)
ELEMENTWISE_DECLARE(scalar)
ELEMENTWISE_DECLARE(avx2)
ELEMENTWISE_DECLARE(avx512)
#endif
