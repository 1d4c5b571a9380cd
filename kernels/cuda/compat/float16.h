// half, half2, bf16 and bf16x2 for compilers without the toolkit: conversions equal its host functions bit for bit (tests/simt compares
// all 65,536 patterns and every rounding boundary). What computes with them is in float16_math.h.
#pragma once
#include "vector.h"

inline namespace simt_types {

constexpr uint32_t float_bits(float f) { return __builtin_bit_cast(uint32_t, f); }
constexpr float bits_float(uint32_t u) { return __builtin_bit_cast(float, u); }

constexpr uint16_t half_bits_from_float(float f, bool nearest) {
    const uint32_t u = float_bits(f), a = u & 0x7fffffffu;
    const uint16_t sign = static_cast<uint16_t>(u >> 16 & 0x8000u);
    if (a > 0x7f800000u) return 0x7fffu;
    if (a == 0x7f800000u) return static_cast<uint16_t>(sign | 0x7c00u);
    if (a >= 0x47800000u) return static_cast<uint16_t>(sign | (nearest ? 0x7c00u : 0x7bffu)); // 65,536 and above
    uint32_t mantissa = 0, shift = 13, code = 0;
    if (a >= 0x38800000u) {
        mantissa = a - 0x38000000u;
    } else {
        if (a < 0x33000000u) return sign; // less than half of the smallest subnormal
        shift = 126u - (a >> 23);
        mantissa = (a & 0x7fffffu) | 0x800000u;
    }
    code = mantissa >> shift;
    const uint32_t rest = mantissa & ((1u << shift) - 1u), tie = 1u << (shift - 1u);
    if (nearest && (rest > tie || (rest == tie && (code & 1u)))) code++;
    return static_cast<uint16_t>(sign | code);
}

constexpr float half_bits_to_float(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = h >> 10 & 31u, mantissa = h & 0x3ffu;
    if (exponent == 31u) return bits_float(mantissa ? 0x7fffffffu : sign | 0x7f800000u);
    if (exponent) return bits_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f; // times 2^-24, exact
    return bits_float(sign | float_bits(magnitude));
}

constexpr uint16_t bf16_bits_from_float(float f, bool nearest) {
    const uint32_t u = float_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return static_cast<uint16_t>((nearest ? u + 0x7fffu + (u >> 16 & 1u) : u) >> 16);
}

struct __half_raw {
    unsigned short x;
};
struct __nv_bfloat16_raw {
    unsigned short x;
};

struct alignas(2) __half {
    unsigned short __x;
    __half() = default;
    constexpr __half(__half_raw raw) : __x(raw.x) {}
    constexpr __half(float f) : __x(half_bits_from_float(f, true)) {}
    constexpr operator float() const { return half_bits_to_float(__x); }
    constexpr operator __half_raw() const { return {__x}; }
};

struct alignas(2) __nv_bfloat16 {
    unsigned short __x;
    __nv_bfloat16() = default;
    constexpr __nv_bfloat16(__nv_bfloat16_raw raw) : __x(raw.x) {}
    constexpr __nv_bfloat16(float f) : __x(bf16_bits_from_float(f, true)) {}
    constexpr operator float() const { return bits_float(static_cast<uint32_t>(__x) << 16); }
};

struct alignas(4) __half2 {
    __half x, y;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
typedef __half half;
typedef __half2 half2;
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

constexpr __half __ushort_as_half(unsigned short bits) { return __half(__half_raw{bits}); }
constexpr unsigned short __half_as_ushort(__half h) { return h.__x; }
constexpr float __half2float(__half h) { return half_bits_to_float(h.__x); }
constexpr __half __float2half(float f) { return __half(f); }
constexpr __half __float2half_rn(float f) { return __half(f); }
constexpr __half __float2half_rz(float f) { return __ushort_as_half(half_bits_from_float(f, false)); }
constexpr __half2 __halves2half2(__half a, __half b) { return {a, b}; }
constexpr __half2 __half2half2(__half a) { return {a, a}; }
constexpr __half __low2half(__half2 v) { return v.x; }
constexpr __half __high2half(__half2 v) { return v.y; }
constexpr __half2 __low2half2(__half2 v) { return {v.x, v.x}; }
constexpr __half2 __high2half2(__half2 v) { return {v.y, v.y}; }
constexpr __half2 __lows2half2(__half2 a, __half2 b) { return {a.x, b.x}; }
constexpr __half2 __highs2half2(__half2 a, __half2 b) { return {a.y, b.y}; }
constexpr __half2 make_half2(__half x, __half y) { return {x, y}; }
constexpr float __low2float(__half2 v) { return __half2float(v.x); }
constexpr float __high2float(__half2 v) { return __half2float(v.y); }
constexpr __half2 __floats2half2_rn(float a, float b) { return {__half(a), __half(b)}; }
constexpr __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
constexpr __half2 __float2half2_rn(float a) { return {__half(a), __half(a)}; }
constexpr float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }

constexpr unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.__x; }
constexpr __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return __nv_bfloat16(__nv_bfloat16_raw{bits}); }
constexpr float __bfloat162float(__nv_bfloat16 b) { return static_cast<float>(b); }
constexpr __nv_bfloat16 __float2bfloat16(float f) { return __nv_bfloat16(f); }
constexpr __nv_bfloat16 __float2bfloat16_rn(float f) { return __nv_bfloat16(f); }
constexpr __nv_bfloat16 __float2bfloat16_rz(float f) { return __ushort_as_bfloat16(bf16_bits_from_float(f, false)); }
constexpr __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__nv_bfloat16(a), __nv_bfloat16(b)}; }
constexpr __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) { return {a, b}; }
constexpr float __low2float(__nv_bfloat162 v) { return __bfloat162float(v.x); }
constexpr float __high2float(__nv_bfloat162 v) { return __bfloat162float(v.y); }
constexpr __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {__nv_bfloat16(v.x), __nv_bfloat16(v.y)}; }
constexpr __nv_bfloat162 __float2bfloat162_rn(float a) { return {__nv_bfloat16(a), __nv_bfloat16(a)}; }
constexpr __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) { return {a, a}; }
constexpr __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) { return v.x; }
constexpr __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) { return v.y; }
constexpr __nv_bfloat162 __low2bfloat162(__nv_bfloat162 v) { return {v.x, v.x}; }
constexpr __nv_bfloat162 __high2bfloat162(__nv_bfloat162 v) { return {v.y, v.y}; }
constexpr __nv_bfloat162 __lows2bfloat162(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x, b.x}; }
constexpr __nv_bfloat162 __highs2bfloat162(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.y, b.y}; }
constexpr __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
constexpr float2 __bfloat1622float2(__nv_bfloat162 v) { return {__bfloat162float(v.x), __bfloat162float(v.y)}; }

} // namespace simt_types
