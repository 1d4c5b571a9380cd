// fp8 e4m3 (4 exponent bits, no infinity, largest 448) and e5m2 (as half with two mantissa bits) for compilers without the toolkit.
#pragma once
#include "float16_math.h"

inline namespace simt_types {

typedef unsigned char __nv_fp8_storage_t;
typedef unsigned short __nv_fp8x2_storage_t;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

constexpr __nv_fp8_storage_t __nv_cvt_float_to_fp8(float f, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
    const bool e4m3 = kind == __NV_E4M3;
    const uint32_t n_mantissa = e4m3 ? 3 : 2, bias = e4m3 ? 7 : 15;
    const uint32_t largest = e4m3 ? 0x7eu : 0x7bu, overflow = e4m3 ? 0x7fu : 0x7cu;
    const uint32_t u = float_bits(f), a = u & 0x7fffffffu, sign = u >> 24 & 0x80u;
    if (a > 0x7f800000u) return 0x7f;
    uint32_t mantissa = 0, shift = 23 - n_mantissa;
    const uint32_t smallest_normal = (128u - bias) << 23;
    if (a >= smallest_normal) {
        mantissa = a - ((127u - bias) << 23);
    } else {
        const uint32_t exponent = a >> 23;
        shift += 128u - bias - exponent;
        if (shift > 24u) return static_cast<__nv_fp8_storage_t>(sign); // less than half of the smallest subnormal
        mantissa = (a & 0x7fffffu) | 0x800000u;
    }
    uint32_t code = mantissa >> shift;
    const uint32_t rest = mantissa & ((1u << shift) - 1u), tie = 1u << (shift - 1u);
    if (rest > tie || (rest == tie && (code & 1u))) code++;
    if (code > largest) code = saturate == __NV_SATFINITE ? largest : overflow;
    return static_cast<__nv_fp8_storage_t>(sign | code);
}

constexpr __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t x, __nv_fp8_interpretation_t kind) {
    const uint32_t sign = static_cast<uint32_t>(x & 0x80u) << 8, magnitude = x & 0x7fu;
    if (kind == __NV_E5M2) {
        return {static_cast<unsigned short>(magnitude > 0x7cu ? 0x7fffu : sign | magnitude << 8)};
    }
    if (magnitude == 0x7fu) return {0x7fffu};
    const uint32_t exponent = magnitude >> 3, mantissa = magnitude & 7u;
    // e4m3's subnormals are normal in half, whose range is wider: scale exactly through float.
    const float value = exponent ? bits_float(((exponent + 120u) << 23) | (mantissa << 20))
                                 : static_cast<float>(mantissa) * 0.001953125f;
    return {static_cast<unsigned short>(sign | half_bits_from_float(value, true))};
}

constexpr __nv_fp8_storage_t __nv_cvt_halfraw_to_fp8(__half_raw h, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
    return __nv_cvt_float_to_fp8(half_bits_to_float(h.x), saturate, kind);
}

struct __nv_fp8_e4m3 {
    __nv_fp8_storage_t __x;
    __nv_fp8_e4m3() = default;
    constexpr explicit __nv_fp8_e4m3(float f) : __x(__nv_cvt_float_to_fp8(f, __NV_SATFINITE, __NV_E4M3)) {}
    constexpr explicit operator float() const { return half_bits_to_float(__nv_cvt_fp8_to_halfraw(__x, __NV_E4M3).x); }
};
struct __nv_fp8_e5m2 {
    __nv_fp8_storage_t __x;
    __nv_fp8_e5m2() = default;
    constexpr explicit __nv_fp8_e5m2(float f) : __x(__nv_cvt_float_to_fp8(f, __NV_SATFINITE, __NV_E5M2)) {}
    constexpr explicit operator float() const { return half_bits_to_float(__nv_cvt_fp8_to_halfraw(__x, __NV_E5M2).x); }
};

} // namespace simt_types
