/* Linear layers for AVX-512 with VNNI: vectors of 16 columns for linear_tiles.inc. vpdpbusd takes the weights as unsigned bytes, four
 * inputs of 16 columns a register, and four activations of a row broadcast. */
#include <immintrin.h>
#include <string.h>
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"

#pragma GCC push_options
ISA_TARGET_AVX512
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define LANES  16
#define AT_ONCE 2
#define WIDE_ROWS       TILE_ROWS
#define FLOAT_BLOCKS(R) ((R) == 1 ? 4 : (R) == 2 ? 2 : 1)
typedef __m512 vf;
typedef __m512i vi;

INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
INLINE vf vf_load(const float *p) { return _mm512_load_ps(p); }
INLINE vf vf_loadu(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_storeu(float *p, vf x) { _mm512_storeu_ps(p, x); }
INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_of_i32(vi x) { return _mm512_cvtepi32_ps(x); }
INLINE vi vi_zero(void) { return _mm512_setzero_si512(); }
INLINE vi vi_load(const uint8_t *p) { return _mm512_load_si512(p); }
INLINE vi vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
INLINE vi vi_srl(vi x, unsigned bits) { return _mm512_srli_epi32(x, bits); }
INLINE vi vi_low_nibbles(vi x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
INLINE vi vi_high_nibbles(vi x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }
INLINE vf load_f16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE vf load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
INLINE vi q4_dot(vi s, vi w, vi q) { return _mm512_dpbusd_epi32(s, w, q); }
INLINE vi q4_total(vi s) { return s; }
INLINE vi q8_dot(const pack_form F, vi s, vi w, vi q) { return _mm512_dpbusd_epi32(s, w, q); }
#define Q8_START(F, isum) vi_set1((F) == PACK_Q8_MIN ? 0 : -128 * (isum)) /* sum (code + 128) q = sum code q + 128 sum q */
#include "kernels/cpu/linear_tiles.inc"
#include "kernels/cpu/quantise_zmm.inc"

LINEAR_ISA(linear_avx512)
#pragma GCC pop_options
