#include "kernels/cpu/elementwise.h"
#include <assert.h>
#include "kernels/cpu/vmath.h"

#pragma GCC push_options
ISA_TARGET_AVX512
#define NAME(op)   op##_avx512
typedef __m512d squares;
static inline squares squares_zero(void) { return _mm512_setzero_pd(); }
static inline squares squares_add(squares s, const float *x) { /* products are exact: one rounding, as of a sum */
    __m512d d = _mm512_cvtps_pd(_mm256_loadu_ps(x));
    return _mm512_fmadd_pd(d, d, s);
}
static inline void squares_store(squares s, double *to) { _mm512_storeu_pd(to, s); }

#define SILU_LANES 16
static inline void silu_lanes(const float *gate, const float *up, float *y) {
    __m512 g = _mm512_loadu_ps(gate), e = vexp_x16(_mm512_xor_ps(g, _mm512_set1_ps(-0.0f)));
    __m512 s = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
    _mm512_storeu_ps(y, _mm512_mul_ps(s, _mm512_loadu_ps(up)));
}

static inline void gelu_lanes(const float *gate, const float *up, float *y) {
    __m512 g = _mm512_loadu_ps(gate), cube = _mm512_mul_ps(_mm512_mul_ps(g, g), g);
    __m512 inner = _mm512_add_ps(g, _mm512_mul_ps(_mm512_set1_ps(GELU_B), cube));
    __m512 e = vexp_x16(_mm512_mul_ps(_mm512_set1_ps(GELU_A), inner));
    __m512 s = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
    _mm512_storeu_ps(y, _mm512_mul_ps(s, _mm512_loadu_ps(up)));
}

#define ROUND_LANES 16
static inline void round_lanes(float *x) {
    _mm512_storeu_ps(x, _mm512_cvtph_ps(_mm512_cvtps_ph(_mm512_loadu_ps(x), _MM_FROUND_TO_NEAREST_INT)));
}

#define MOMENT_LANES 8
#include "kernels/cpu/elementwise.inc"
#include "kernels/cpu/moments.inc"
#include "kernels/cpu/rope.inc"
#pragma GCC pop_options
