/* binary16 and bfloat16 as bit patterns; conversions round to nearest, ties to even, keep NaN and infinities. */
#ifndef KVLAB_BASE_HALF_H
#define KVLAB_BASE_HALF_H
#include <stdint.h>
#include <string.h>

typedef uint16_t f16;  /* IEEE 754 binary16 */
typedef uint16_t bf16; /* upper half of binary32 */

static inline float f32_from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint32_t f32_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float f16_to_f32(f16 h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 1023;
    if (exp == 31) return f32_from_bits(sign | 0x7f800000u | man << 13);
    if (exp == 0) { /* zero or subnormal: man * 2^-24, exact in f32 */
        float f = (float)man * 0x1p-24f;
        return f32_from_bits(f32_bits(f) | sign);
    }
    return f32_from_bits(sign | (exp + 112) << 23 | man << 13);
}
static inline f16 f16_from_f32(float f) {
    uint32_t u = f32_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffffu;
    if (a >= 0x7f800000u) return (f16)(sign | 0x7c00 | (a > 0x7f800000u ? 0x200 | (a >> 13 & 0x3ff) : 0));
    if (a >= 0x477ff000u) return (f16)(sign | 0x7c00); /* rounds past 65504 */
    if (a < 0x38800000u) {                             /* subnormal: adding 0.5 aligns the last place to 2^-24 */
        float t = f32_from_bits(a) + 0.5f;
        return (f16)(sign | (f32_bits(t) - 0x3f000000u));
    }
    uint32_t r = a - 0x38000000u; /* rebias */
    r += 0xfff + (r >> 13 & 1);
    return (f16)(sign | r >> 13);
}
static inline float bf16_to_f32(bf16 b) { return f32_from_bits((uint32_t)b << 16); }
static inline bf16 bf16_from_f32(float f) {
    uint32_t u = f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (bf16)(u >> 16 | 64);
    return (bf16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
/* The f32 value rounded once to f16 precision. */
static inline float f32_round_f16(float f) { return f16_to_f32(f16_from_f32(f)); }
#endif
