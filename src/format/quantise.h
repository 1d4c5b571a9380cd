/* Quantisers of one group that have a scale and no zero (reference baselines.md 17b, 17c), and the range of those that have one. Codes
 * without a zero are stored with 2^(b-1) added, so they are unsigned and a value is scale * (code - 2^(b-1)). Inline: each ISA path
 * compiles them with its own instructions; every operation is one rounded f32 operation, so all give the same bits. NaN counts as 0,
 * values are clamped to the f16 range. */
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

/* The part of the range of n values that is quantised, in its middle, and what decoded values are multiplied by: 1 and 1 but for QUANT_NARROW
 * with few bits. Found numerically for normal values (rotated keys and values are close to normal), to 0.05, so that the error that is not
 * in the direction of x is least; the gain makes the mean of x^ x that of x x. Without it all of a head's values shrink together,
 * which costs more than the noise that attention averages away. */
typedef struct quantise_part { float kept, gain; } quantise_part;
static inline quantise_part quantise_part_of(int quant, int bits, int n) {
    static const quantise_part part[3][5] = { /* [bits - 1][16, 32, 64, 128, 256 values] */
        {{0.5f, 1.36f}, {0.45f, 1.353f}, {0.45f, 1.219f}, {0.45f, 1.108f}, {0.4f, 1.147f}},
        {{0.8f, 1.095f}, {0.75f, 1.094f}, {0.65f, 1.127f}, {0.6f, 1.127f}, {0.55f, 1.131f}},
        {{0.95f, 1.019f}, {0.9f, 1.03f}, {0.85f, 1.034f}, {0.8f, 1.035f}, {0.75f, 1.036f}}};
    int at = 0;
    if (quant != QUANT_NARROW || bits > 3) return (quantise_part){1.0f, 1.0f};
    while (n >= 32 && at < 4) n /= 2, at++;
    return part[bits - 1][at];
}

static inline void quantise_narrow(quantise_part part, float *min, float *range) {
    if (part.kept == 1.0f) return;
    float cut = *range * (0.5f * (1.0f - part.kept));
    *min = *min + cut;
    *range = *range * part.kept;
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
