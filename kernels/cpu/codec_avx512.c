#include "kernels/cpu/codec.h"
#include <assert.h>
#include <immintrin.h>
#include <string.h>
#include "format/quantise.h"
#include "format/rotate.h"
#include "kernels/cpu/isa.h"

#pragma GCC push_options
ISA_TARGET_AVX512
#define NAME(op) op##_avx512

/* NaN counts as 0, values are clamped to the f16 range, -0 becomes +0: minima and maxima are then the same in any
 * order. */
static inline __m512 sane(__m512 x) {
    x = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x);
    x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(65504.0f)), _mm512_set1_ps(-65504.0f));
    return _mm512_add_ps(x, _mm512_setzero_ps());
}

static inline void quantise(const float *x, int n, int bits, quantise_part part, f16 *scale, f16 *zero, uint8_t *code) {
    __m512 s[KV_MAX_HEAD_DIM / 16], lo, hi;
    s[0] = lo = hi = sane(_mm512_loadu_ps(x));
    for (int i = 1; i < n / 16; i++) {
        s[i] = sane(_mm512_loadu_ps(x + 16 * i));
        lo = _mm512_min_ps(lo, s[i]);
        hi = _mm512_max_ps(hi, s[i]);
    }
    float min = _mm512_reduce_min_ps(lo), range = _mm512_reduce_max_ps(hi) - min;
    quantise_narrow(part, &min, &range);
    float levels = (float)((1 << bits) - 1), step = range / levels;
    *zero = f16_from_f32(quantise_sane(min * part.gain));
    *scale = f16_from_f32(range * part.gain / 255.0f);
    if (step == 0.0f) {
        memset(code, 0, (size_t)n);
        return;
    }
    __m512 vmin = _mm512_set1_ps(min), vstep = _mm512_set1_ps(step), top = _mm512_set1_ps(levels);
    for (int i = 0; i < n / 16; i++) {
        __m512 q = _mm512_max_ps(_mm512_min_ps(_mm512_div_ps(_mm512_sub_ps(s[i], vmin), vstep), top), _mm512_setzero_ps());
        _mm_storeu_si128((__m128i *)(void *)(code + 16 * i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(q)));
    }
}

static inline void halves_from(const float *x, f16 *h, int n) {
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xffff;
        __m256i y = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(m, x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_mask_storeu_epi16(h + i, m, y);
    }
}

static inline void halves_to(const f16 *h, float *x, int n) {
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xffff;
        _mm512_mask_storeu_ps(x + i, m, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, h + i)));
    }
}

#include "kernels/cpu/codec.inc"
#pragma GCC pop_options
