/* Quantisers of one group that have a scale and no zero (reference baselines.md 17b, 17c). Codes are stored with 2^(b-1) added, so they
 * are unsigned and a value is scale * (code - 2^(b-1)). Inline: each ISA path compiles them with its own instructions; every
 * operation is one rounded f32 operation, so all give the same bits. NaN counts as 0, values are clamped to the f16 range. */
#ifndef KVLAB_FORMAT_QUANTISE_H
#define KVLAB_FORMAT_QUANTISE_H
#include <math.h>
#include "format/format.h"

static inline float quantise_sane(float x) {
    x = x == x ? x : 0.0f;
    x = x < 65504.0f ? x : 65504.0f;
    x = x > -65504.0f ? x : -65504.0f;
    return x + 0.0f;
}

static inline float quantise_inverse(float step) { /* 0 for steps whose inverse overflows: their values are below any f16 scale */
    float inverse = step != 0 ? 1.0f / step : 0.0f;
    return fabsf(inverse) < INFINITY ? inverse : 0.0f;
}

/* scale = amax / M, code = clamp(rne(x / scale), -M, M), M = 2^(b-1) - 1. */
static inline void quantise_symmetric(const float *x, int n, int bits, f16 *scale, uint8_t *code) {
    float amax = 0, top = (float)((1 << (bits - 1)) - 1);
    for (int i = 0; i < n; i++) {
        float a = fabsf(quantise_sane(x[i]));
        amax = a > amax ? a : amax;
    }
    float step = amax / top, inverse = quantise_inverse(step);
    *scale = f16_from_f32(step);
    for (int i = 0; i < n; i++) {
        float q = quantise_sane(x[i]) * inverse;
        q = q < top ? q : top;
        q = q > -top ? q : -top;
        code[i] = (uint8_t)((int)(f32_bits(q + 0x1.8p23f) & 0xff) + (1 << (bits - 1))); /* the sum's unit in the last place is 1 */
    }
}

/* q8_0: d = amax / 127, code = x / d rounded half away from zero. */
static inline void quantise_q8_0(const float *x, int n, f16 *scale, uint8_t *code) {
    float amax = 0;
    for (int i = 0; i < n; i++) {
        float a = fabsf(quantise_sane(x[i]));
        amax = a > amax ? a : amax;
    }
    float step = amax / 127.0f, inverse = quantise_inverse(step);
    *scale = f16_from_f32(step);
    for (int i = 0; i < n; i++) code[i] = (uint8_t)((int)roundf(quantise_sane(x[i]) * inverse) + 128);
}

/* q4_0: d = e / -8, e being the first value of largest magnitude with its sign; code = min(15, trunc(x / d + 8.5)). */
static inline void quantise_q4_0(const float *x, int n, f16 *scale, uint8_t *code) {
    float amax = 0, extreme = 0;
    for (int i = 0; i < n; i++) {
        float s = quantise_sane(x[i]);
        if (fabsf(s) > amax) amax = fabsf(s), extreme = s;
    }
    float step = extreme / -8.0f, inverse = quantise_inverse(step);
    *scale = f16_from_f32(step);
    for (int i = 0; i < n; i++) {
        int q = (int)(quantise_sane(x[i]) * inverse + 8.5f);
        code[i] = (uint8_t)(q < 15 ? q : 15);
    }
}

static inline void quantise_without_zero(int quant, const float *x, int n, int bits, f16 *scale, uint8_t *code) {
    if (quant == QUANT_SYMMETRIC) quantise_symmetric(x, n, bits, scale, code);
    else if (bits == 8) quantise_q8_0(x, n, scale, code);
    else quantise_q4_0(x, n, scale, code);
}
#endif
