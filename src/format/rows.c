#include "format/rows.h"

void f16_row_from_f32(const float *x, f16 *y, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t u = f32_bits(x[i]), a = u & 0x7fffffffu;
        uint32_t normal = (a - 0x38000000u + 0xfff + (a >> 13 & 1)) >> 13;
        uint32_t tiny = f32_bits(f32_from_bits(a) + 0.5f) - 0x3f000000u; /* adding 0.5 aligns the last place to 2^-24 */
        uint32_t nan = 0x7e00u | (a >> 13 & 0x3ff);
        uint32_t r = a < 0x38800000u ? tiny : normal;
        r = a >= 0x477ff000u ? 0x7c00u : r;
        r = a > 0x7f800000u ? nan : r;
        y[i] = (f16)(r | (u >> 16 & 0x8000));
    }
}

void f16_row_to_f32(const f16 *x, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t sign = (uint32_t)(x[i] & 0x8000) << 16, m = (uint32_t)(x[i] & 0x7fff) << 13;
        float scaled = f32_from_bits(m) * 0x1p112f; /* rebias; exact for normal and subnormal numbers */
        uint32_t r = m >= 0x0f800000u ? m | 0x7f800000u : f32_bits(scaled);
        y[i] = f32_from_bits(r | sign);
    }
}
