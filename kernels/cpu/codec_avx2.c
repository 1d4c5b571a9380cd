#include "kernels/cpu/codec.h"
#include <assert.h>
#include <immintrin.h>
#include <string.h>
#include "format/quantise.h"
#include "format/rotate.h"
#include "kernels/cpu/isa.h"

#pragma GCC push_options
ISA_TARGET_AVX2
#define NAME(op) op##_avx2

/* NaN counts as 0, values are clamped to the f16 range, -0 becomes +0: minima and maxima are then the same in any
 * order. */
static inline __m256 sane(__m256 x) {
    x = _mm256_and_ps(x, _mm256_cmp_ps(x, x, _CMP_ORD_Q));
    x = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(65504.0f)), _mm256_set1_ps(-65504.0f));
    return _mm256_add_ps(x, _mm256_setzero_ps());
}

static inline float least_lane(__m256 x) {
    __m128 y = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_min_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_min_ss(y, _mm_movehdup_ps(y)));
}
static inline float greatest_lane(__m256 x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

static inline __m256i codes_of(__m256 s, __m256 min, __m256 step, __m256 top) {
    return _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(_mm256_div_ps(_mm256_sub_ps(s, min), step), top), _mm256_setzero_ps()));
}

static inline void quantise(const float *x, int n, int bits, quantise_part part, f16 *scale, f16 *zero, uint8_t *code) {
    __m256 s[KV_MAX_HEAD_DIM / 8], lo, hi;
    s[0] = lo = hi = sane(_mm256_loadu_ps(x));
    for (int i = 1; i < n / 8; i++) {
        s[i] = sane(_mm256_loadu_ps(x + 8 * i));
        lo = _mm256_min_ps(lo, s[i]);
        hi = _mm256_max_ps(hi, s[i]);
    }
    float min = least_lane(lo), range = greatest_lane(hi) - min;
    quantise_narrow(part, &min, &range);
    float levels = (float)((1 << bits) - 1), step = range / levels;
    *zero = f16_from_f32(quantise_sane(min * part.gain));
    *scale = f16_from_f32(range * part.gain / 255.0f);
    if (step == 0.0f) {
        memset(code, 0, (size_t)n);
        return;
    }
    __m256 vmin = _mm256_set1_ps(min), vstep = _mm256_set1_ps(step), top = _mm256_set1_ps(levels);
    for (int i = 0; i < n / 16; i++) {
        __m256i a = codes_of(s[2 * i], vmin, vstep, top), b = codes_of(s[2 * i + 1], vmin, vstep, top);
        __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8); /* packs works within halves */
        __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
        _mm_storeu_si128((__m128i *)(void *)(code + 16 * i), bytes);
    }
}

static inline void halves_from(const float *x, f16 *h, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(h + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    for (; i < n; i++) h[i] = f16_from_f32(x[i]);
}

static inline void halves_to(const f16 *h, float *x, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(x + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(h + i))));
    for (; i < n; i++) x[i] = f16_to_f32(h[i]);
}

#include "kernels/cpu/codec.inc"
#pragma GCC pop_options
