/* Elementary functions and sums that give the same bits on every ISA path: the same fused operations in the same order,
 * one value or 8 or 16 at a time. Nothing here may be contracted or reassociated by the compiler (-ffp-contract=off).
 *
 *   vexp, vexp_x8, vexp_x16         e^x for every float; error at most 1.01 ulp, subnormal results included
 *   vsum16, vsum16_x8, vsum16_x16   sum of 16 lanes as a fixed tree
 */
#ifndef KVLAB_KERNELS_CPU_VMATH_H
#define KVLAB_KERNELS_CPU_VMATH_H
#include <immintrin.h>
#include <math.h>
#include "base/half.h"
#include "kernels/cpu/isa.h"

/* e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln 2 / 2; e^r = 1 + r + r^2 P(r) (Cephes expf coefficients). Beyond the
 * clamps the result rounds to 0 or infinity anyway. Adding 1.5 * 2^23 leaves n in the low bits of the sum. */
#define VEXP_LO     (-104.0f)
#define VEXP_HI     89.0f
#define VEXP_LOG2E  0x1.715476p+0f
#define VEXP_MAGIC  0x1.8p+23f
#define VEXP_LN2_HI 0x1.62e4p-1f
#define VEXP_LN2_LO 0x1.7f7d1cp-20f
#define VEXP_P0     1.9875691500e-4f
#define VEXP_P1     1.3981999507e-3f
#define VEXP_P2     8.3334519073e-3f
#define VEXP_P3     4.1665795894e-2f
#define VEXP_P4     1.6666665459e-1f
#define VEXP_P5     5.0000001201e-1f

/* 2^r for 0 <= r <= 1 to a relative 4e-6, exact at 0, in the vector operations of whoever uses it. */
#define VEXP2_POLY(r)                                                                                                  \
    vf_fma(r, vf_fma(r, vf_fma(r, vf_fma(r, vf_set1(0x1.bc31dp-7f), vf_set1(0x1.aa3fcep-5f)), vf_set1(0x1.ee5884p-3f)), \
                     vf_set1(0x1.62d51cp-1f)),                                                                         \
           vf_set1(1.0f))

static inline float vexp(float x) {
    if (x != x) return x + x;
    x = x < VEXP_HI ? x : VEXP_HI;
    x = x > VEXP_LO ? x : VEXP_LO;
    float t = fmaf(x, VEXP_LOG2E, VEXP_MAGIC);
    float n = t - VEXP_MAGIC;
    float r = fmaf(n, -VEXP_LN2_LO, fmaf(n, -VEXP_LN2_HI, x));
    float p = fmaf(VEXP_P0, r, VEXP_P1);
    p = fmaf(p, r, VEXP_P2);
    p = fmaf(p, r, VEXP_P3);
    p = fmaf(p, r, VEXP_P4);
    p = fmaf(p, r, VEXP_P5);
    p = fmaf(p, r * r, r) + 1.0f;
    int32_t i = (int32_t)(f32_bits(t) - f32_bits(VEXP_MAGIC)),
            half = i >> 1; /* two steps: 2^n alone may not be a float */
    return p * f32_from_bits((uint32_t)(half + 127) << 23) * f32_from_bits((uint32_t)(i - half + 127) << 23);
}

TARGET_AVX2 static inline __m256 vexp_x8(__m256 x) {
    x = _mm256_min_ps(_mm256_set1_ps(VEXP_HI), x); /* NaN in the second operand passes */
    x = _mm256_max_ps(_mm256_set1_ps(VEXP_LO), x);
    const __m256 magic = _mm256_set1_ps(VEXP_MAGIC);
    __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(VEXP_LOG2E), magic);
    __m256 n = _mm256_sub_ps(t, magic);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-VEXP_LN2_HI), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-VEXP_LN2_LO), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(VEXP_P0), r, _mm256_set1_ps(VEXP_P1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VEXP_P2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VEXP_P3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VEXP_P4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VEXP_P5));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    __m256i i = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(magic)), half = _mm256_srai_epi32(i, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    __m256i s0 = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i s1 = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(s0)), _mm256_castsi256_ps(s1));
}

TARGET_AVX512 static inline __m512 vexp_x16(__m512 x) {
    x = _mm512_min_ps(_mm512_set1_ps(VEXP_HI), x);
    x = _mm512_max_ps(_mm512_set1_ps(VEXP_LO), x);
    const __m512 magic = _mm512_set1_ps(VEXP_MAGIC);
    __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(VEXP_LOG2E), magic);
    __m512 n = _mm512_sub_ps(t, magic);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-VEXP_LN2_HI), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-VEXP_LN2_LO), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(VEXP_P0), r, _mm512_set1_ps(VEXP_P1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VEXP_P2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VEXP_P3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VEXP_P4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VEXP_P5));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n); /* one rounding, as the last multiplication of the two steps */
}

/* 16 partial sums (lane = index mod 16) to one: halves are added, 16 -> 8 -> 4 -> 2 -> 1. */
static inline float vsum16(const float l[16]) {
    float s[8];
    for (int i = 0; i < 8; i++) s[i] = l[i] + l[i + 8];
    for (int i = 0; i < 4; i++) s[i] += s[i + 4];
    for (int i = 0; i < 2; i++) s[i] += s[i + 2];
    return s[0] + s[1];
}
TARGET_AVX2 static inline float vsum16_x8(__m256 lo, __m256 hi) { /* lanes 0-7, lanes 8-15 */
    __m256 s = _mm256_add_ps(lo, hi);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
TARGET_AVX512 static inline float vsum16_x16(__m512 l) {
    return vsum16_x8(_mm512_castps512_ps256(l), _mm512_extractf32x8_ps(l, 1));
}
#endif
