#include "kernels/cpu/elementwise.h"
#include <assert.h>
#include "kernels/cpu/vmath.h"

#pragma GCC push_options
ISA_TARGET_AVX2
#define NAME(op)   op##_avx2
typedef struct squares { __m256d lo, hi; } squares;
static inline squares squares_zero(void) { return (squares){_mm256_setzero_pd(), _mm256_setzero_pd()}; }
static inline squares squares_add(squares s, const float *x) { /* products are exact: one rounding, as of a sum */
    __m256d lo = _mm256_cvtps_pd(_mm_loadu_ps(x)), hi = _mm256_cvtps_pd(_mm_loadu_ps(x + 4));
    return (squares){_mm256_fmadd_pd(lo, lo, s.lo), _mm256_fmadd_pd(hi, hi, s.hi)};
}
static inline void squares_store(squares s, double *to) {
    _mm256_storeu_pd(to, s.lo);
    _mm256_storeu_pd(to + 4, s.hi);
}

#define SILU_LANES 8
static inline void silu_lanes(const float *gate, const float *up, float *y) {
    __m256 g = _mm256_loadu_ps(gate), e = vexp_x8(_mm256_xor_ps(g, _mm256_set1_ps(-0.0f)));
    __m256 s = _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
    _mm256_storeu_ps(y, _mm256_mul_ps(s, _mm256_loadu_ps(up)));
}

static inline void gelu_lanes(const float *gate, const float *up, float *y) {
    __m256 g = _mm256_loadu_ps(gate), cube = _mm256_mul_ps(_mm256_mul_ps(g, g), g);
    __m256 inner = _mm256_add_ps(g, _mm256_mul_ps(_mm256_set1_ps(GELU_B), cube));
    __m256 e = vexp_x8(_mm256_mul_ps(_mm256_set1_ps(GELU_A), inner));
    __m256 s = _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
    _mm256_storeu_ps(y, _mm256_mul_ps(s, _mm256_loadu_ps(up)));
}

#define ROUND_LANES 8
static inline void round_lanes(float *x) {
    _mm256_storeu_ps(x, _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_loadu_ps(x), _MM_FROUND_TO_NEAREST_INT)));
}

#define MOMENT_LANES 4
#include "kernels/cpu/elementwise.inc"
#include "kernels/cpu/moments.inc"
#include "kernels/cpu/rope.inc"
#pragma GCC pop_options
