// Arithmetic, comparisons, integer conversions and functions of half, half2, bf16 and bf16x2 for compilers without the toolkit, under its
// names. Results equal the toolkit's host functions bit for bit where it has them; a fused multiply-add is rounded once, as on a device.
// Exponential, logarithm and their like are rounded from float's; a device approximates them, so compare them with tolerances.
//
// Sums, differences, products, quotients and square roots go through float: it has more than twice the digits plus two of both formats,
// so the second rounding changes nothing. Where that is not enough, the first rounding is to odd: exact, or the neighbour whose last bit
// is set, which no later rounding to fewer digits takes for exact or for a tie.
#pragma once
#include "float16.h"

inline namespace simt_types {

constexpr double sum_to_odd(double a, double b) {
    const double s = a + b, part = s - a, error = (a - (s - part)) + (b - part); // a + b = s + error, exactly
    const uint64_t u = __builtin_bit_cast(uint64_t, s);
    if (error == 0.0 || error != error || (u & 1u)) return s;
    return __builtin_bit_cast(double, (error > 0.0) == (s > 0.0) ? u + 1 : u - 1);
}
constexpr float float_to_odd(double d) {
    const float f = static_cast<float>(d);
    const double back = static_cast<double>(f);
    const uint32_t u = float_bits(f);
    if (back == d || d != d || (u & 1u)) return f;
    return bits_float((d > back) == (d > 0.0) ? u + 1 : u - 1);
}
constexpr double to_odd(long long i) { // the upper and lower halves are exact
    return sum_to_odd(static_cast<double>(i - (i & 0xffffffffll)), static_cast<double>(i & 0xffffffffll));
}
constexpr double to_odd(unsigned long long i) {
    return sum_to_odd(static_cast<double>(i - (i & 0xffffffffull)), static_cast<double>(i & 0xffffffffull));
}

// Rounded down or up: toward zero, then one code further if that was inexact and on the wrong side.
constexpr uint16_t directed(uint16_t toward_zero, float value_of_it, float f, bool up) {
    const bool further = up ? value_of_it < f : value_of_it > f;
    return static_cast<uint16_t>(toward_zero + (further ? 1 : 0));
}
constexpr __half __float2half_rd(float f) {
    const __half z = __float2half_rz(f);
    return __ushort_as_half(directed(z.__x, __half2float(z), f, false));
}
constexpr __half __float2half_ru(float f) {
    const __half z = __float2half_rz(f);
    return __ushort_as_half(directed(z.__x, __half2float(z), f, true));
}
constexpr __nv_bfloat16 __float2bfloat16_rd(float f) {
    const __nv_bfloat16 z = __float2bfloat16_rz(f);
    return __ushort_as_bfloat16(directed(z.__x, __bfloat162float(z), f, false));
}
constexpr __nv_bfloat16 __float2bfloat16_ru(float f) {
    const __nv_bfloat16 z = __float2bfloat16_rz(f);
    return __ushort_as_bfloat16(directed(z.__x, __bfloat162float(z), f, true));
}
constexpr __half __double2half(double d) { return __half(float_to_odd(d)); }
constexpr __nv_bfloat16 __double2bfloat16(double d) { return __nv_bfloat16(float_to_odd(d)); }
constexpr short __half_as_short(__half h) { return static_cast<short>(h.__x); }
constexpr __half __short_as_half(short bits) { return __ushort_as_half(static_cast<unsigned short>(bits)); }
constexpr short __bfloat16_as_short(__nv_bfloat16 b) { return static_cast<short>(b.__x); }
constexpr __nv_bfloat16 __short_as_bfloat16(short bits) { return __ushort_as_bfloat16(static_cast<unsigned short>(bits)); }

// ---- arithmetic ------------------------------------------------------------------------------------------------------------------

#define SIMT_PAIRED_2(H, H2, name, single)                                                                             \
    constexpr H2 name(H2 a, H2 b) { return {single(a.x, b.x), single(a.y, b.y)}; }
#define SIMT_PAIRED_3(H, H2, name, single)                                                                             \
    constexpr H2 name(H2 a, H2 b, H2 c) { return {single(a.x, b.x, c.x), single(a.y, b.y, c.y)}; }
#define SIMT_COMPARE(H, H2, name, op, or_none)                                                                                \
    constexpr bool __h##name(H a, H b) { return !__hisnan(a) && !__hisnan(b) && float(a) op float(b); }                \
    constexpr bool __h##name##u(H a, H b) { return __hisnan(a) || __hisnan(b) || float(a) op float(b); }               \
    constexpr H2 __h##name##2(H2 a, H2 b) { return {H(float(__h##name(a.x, b.x))), H(float(__h##name(a.y, b.y)))}; }   \
    constexpr H2 __h##name##u2(H2 a, H2 b) {                                                                           \
        return {H(float(__h##name##u(a.x, b.x))), H(float(__h##name##u(a.y, b.y)))};                                   \
    }                                                                                                                  \
    constexpr bool __hb##name##2(H2 a, H2 b) { return __h##name(a.x, b.x) && __h##name(a.y, b.y); }                    \
    constexpr bool __hb##name##u2(H2 a, H2 b) { return __h##name##u(a.x, b.x) && __h##name##u(a.y, b.y); }             \
    constexpr unsigned __h##name##2_mask(H2 a, H2 b) {                                                                 \
        return (__h##name(a.x, b.x) ? 0xffffu : 0u) | (__h##name(a.y, b.y) ? 0xffff0000u : 0u);                        \
    }                                                                                                                  \
    constexpr unsigned __h##name##u2_mask(H2 a, H2 b) {                                                                \
        return (__h##name##u(a.x, b.x) ? 0xffffu : 0u) | (__h##name##u(a.y, b.y) ? 0xffff0000u : 0u);                  \
    }                                                                                                                  \
    constexpr bool operator op(H a, H b) { return __h##name##or_none(a, b); }                                          \
    constexpr bool operator op(H2 a, H2 b) { return __hb##name##or_none##2(a, b); }
#define SIMT_OPERATOR(T, op, function)                                                                                 \
    constexpr T operator op(T a, T b) { return function(a, b); }                                                       \
    constexpr T &operator op##=(T &a, T b) { return a = function(a, b); }

#define SIMT_FLOAT16(H, H2)                                                                                            \
    constexpr bool __hisnan(H a) { return float(a) != float(a); }                                                      \
    constexpr int __hisinf(H a) { return float(a) - float(a) == 0.0f || __hisnan(a) ? 0 : float(a) > 0.0f ? 1 : -1; }  \
    constexpr H __hadd(H a, H b) { return H(float(a) + float(b)); }                                                    \
    constexpr H __hsub(H a, H b) { return H(float(a) - float(b)); }                                                    \
    constexpr H __hmul(H a, H b) { return H(float(a) * float(b)); }                                                    \
    constexpr H __hdiv(H a, H b) { return H(float(a) / float(b)); }                                                    \
    constexpr H __hadd_rn(H a, H b) { return __hadd(a, b); }                                                           \
    constexpr H __hsub_rn(H a, H b) { return __hsub(a, b); }                                                           \
    constexpr H __hmul_rn(H a, H b) { return __hmul(a, b); }                                                           \
    constexpr H __hneg(H a) { return H(-float(a)); }                                                                   \
    constexpr H __habs(H a) { return H(bits_float(float_bits(float(a)) & 0x7fffffffu)); }                              \
    SIMT_COMPARE(H, H2, eq, ==, )                                                                                       \
    SIMT_COMPARE(H, H2, ne, !=, u)                                                                                      \
    SIMT_COMPARE(H, H2, lt, <, )                                                                                        \
    SIMT_COMPARE(H, H2, le, <=, )                                                                                       \
    SIMT_COMPARE(H, H2, gt, >, )                                                                                        \
    SIMT_COMPARE(H, H2, ge, >=, )                                                                                       \
    /* The number if one is none; -0 lies below +0. */                                                                 \
    constexpr H __hmax(H a, H b) {                                                                                     \
        if (__hisnan(a)) return H(float(b));                                                                           \
        if (__hisnan(b) || __hgt(a, b)) return a;                                                                      \
        return __heq(a, b) && a.__x < b.__x ? a : b;                                                                   \
    }                                                                                                                  \
    constexpr H __hmin(H a, H b) {                                                                                     \
        if (__hisnan(a)) return H(float(b));                                                                           \
        if (__hisnan(b) || __hlt(a, b)) return a;                                                                      \
        return __heq(a, b) && a.__x > b.__x ? a : b;                                                                   \
    }                                                                                                                  \
    constexpr H __hmax_nan(H a, H b) { return __hisnan(a) || __hisnan(b) ? H(float(a) + float(b)) : __hmax(a, b); }    \
    constexpr H __hmin_nan(H a, H b) { return __hisnan(a) || __hisnan(b) ? H(float(a) + float(b)) : __hmin(a, b); }    \
    constexpr H __hsat(H a) { return __hmin(__hmax(a, H(0.0f)), H(1.0f)); }                                            \
    constexpr H __hadd_sat(H a, H b) { return __hsat(__hadd(a, b)); }                                                  \
    constexpr H __hsub_sat(H a, H b) { return __hsat(__hsub(a, b)); }                                                  \
    constexpr H __hmul_sat(H a, H b) { return __hsat(__hmul(a, b)); }                                                  \
    constexpr H __hfma(H a, H b, H c) { /* the product is exact in double */                                           \
        return H(float_to_odd(sum_to_odd(static_cast<double>(float(a)) * float(b), static_cast<double>(float(c)))));   \
    }                                                                                                                  \
    constexpr H __hfma_sat(H a, H b, H c) { return __hsat(__hfma(a, b, c)); }                                          \
    constexpr H __hfma_relu(H a, H b, H c) { return __hmax_nan(__hfma(a, b, c), H(0.0f)); }                            \
    SIMT_PAIRED_2(H, H2, __hadd2, __hadd)                                                                              \
    SIMT_PAIRED_2(H, H2, __hsub2, __hsub)                                                                              \
    SIMT_PAIRED_2(H, H2, __hmul2, __hmul)                                                                              \
    SIMT_PAIRED_2(H, H2, __hadd2_rn, __hadd)                                                                           \
    SIMT_PAIRED_2(H, H2, __hsub2_rn, __hsub)                                                                           \
    SIMT_PAIRED_2(H, H2, __hmul2_rn, __hmul)                                                                           \
    SIMT_PAIRED_2(H, H2, __h2div, __hdiv)                                                                              \
    SIMT_PAIRED_2(H, H2, __hadd2_sat, __hadd_sat)                                                                      \
    SIMT_PAIRED_2(H, H2, __hsub2_sat, __hsub_sat)                                                                      \
    SIMT_PAIRED_2(H, H2, __hmul2_sat, __hmul_sat)                                                                      \
    SIMT_PAIRED_2(H, H2, __hmax2, __hmax)                                                                              \
    SIMT_PAIRED_2(H, H2, __hmin2, __hmin)                                                                              \
    SIMT_PAIRED_2(H, H2, __hmax2_nan, __hmax_nan)                                                                      \
    SIMT_PAIRED_2(H, H2, __hmin2_nan, __hmin_nan)                                                                      \
    SIMT_PAIRED_3(H, H2, __hfma2, __hfma)                                                                              \
    SIMT_PAIRED_3(H, H2, __hfma2_sat, __hfma_sat)                                                                      \
    SIMT_PAIRED_3(H, H2, __hfma2_relu, __hfma_relu)                                                                    \
    constexpr H2 __hneg2(H2 a) { return {__hneg(a.x), __hneg(a.y)}; }                                                  \
    constexpr H2 __habs2(H2 a) { return {__habs(a.x), __habs(a.y)}; }                                                  \
    constexpr H2 __hisnan2(H2 a) { return {H(float(__hisnan(a.x))), H(float(__hisnan(a.y)))}; }                        \
    constexpr H2 __lowhigh2highlow(H2 a) { return {a.y, a.x}; }                                                        \
    SIMT_OPERATOR(H, +, __hadd)                                                                                        \
    SIMT_OPERATOR(H, -, __hsub)                                                                                        \
    SIMT_OPERATOR(H, *, __hmul)                                                                                        \
    SIMT_OPERATOR(H, /, __hdiv)                                                                                        \
    SIMT_OPERATOR(H2, +, __hadd2)                                                                                      \
    SIMT_OPERATOR(H2, -, __hsub2)                                                                                      \
    SIMT_OPERATOR(H2, *, __hmul2)                                                                                      \
    SIMT_OPERATOR(H2, /, __h2div)                                                                                      \
    constexpr H operator+(H a) { return a; }                                                                           \
    constexpr H operator-(H a) { return __hneg(a); }                                                                   \
    constexpr H2 operator+(H2 a) { return a; }                                                                         \
    constexpr H2 operator-(H2 a) { return __hneg2(a); }                                                                \
    constexpr H &operator++(H &a) { return a = __hadd(a, H(1.0f)); }                                                   \
    constexpr H &operator--(H &a) { return a = __hsub(a, H(1.0f)); }

SIMT_FLOAT16(__half, __half2)
SIMT_FLOAT16(__nv_bfloat16, __nv_bfloat162)

// ---- integers --------------------------------------------------------------------------------------------------------------------

// Out of range: the nearest integer there is; none: 0, or for 64 bits the one with only the upper bit set.
template <class I> constexpr I integer_of(float whole) {
    constexpr bool is_signed = static_cast<I>(-1) < static_cast<I>(0);
    constexpr I top_bit = static_cast<I>(static_cast<I>(1) << (8 * sizeof(I) - 1)), most = static_cast<I>(is_signed ? ~top_bit : ~static_cast<I>(0));
    const float limit = 2.0f * static_cast<float>(static_cast<unsigned long long>(1) << (8 * sizeof(I) - (is_signed ? 2 : 1)));
    if (whole != whole) return sizeof(I) == 8 ? top_bit : static_cast<I>(0);
    if (whole >= limit) return most;
    if (whole < (is_signed ? -limit : 0.0f)) return is_signed ? top_bit : static_cast<I>(0);
    return static_cast<I>(whole);
}
inline float nearest_even(float f) {
    const float down = __builtin_floorf(f), rest = f - down;
    if (rest != 0.5f) return rest > 0.5f ? down + 1.0f : down;
    return down * 0.5f == __builtin_floorf(down * 0.5f) ? down : down + 1.0f;
}

#define SIMT_INTEGER(H, h, I, i, wide)                                                                                 \
    inline I __##h##2##i##_rn(H a) { return integer_of<I>(nearest_even(float(a))); }                                   \
    inline I __##h##2##i##_rz(H a) { return integer_of<I>(__builtin_truncf(float(a))); }                               \
    inline I __##h##2##i##_rd(H a) { return integer_of<I>(__builtin_floorf(float(a))); }                               \
    inline I __##h##2##i##_ru(H a) { return integer_of<I>(__builtin_ceilf(float(a))); }                                \
    constexpr H __##i##2##h##_rn(I a) { return H(float_to_odd(to_odd(static_cast<wide>(a)))); }                        \
    constexpr H __##i##2##h##_rz(I a) { return __float2##h##_rz(float_to_odd(to_odd(static_cast<wide>(a)))); }         \
    constexpr H __##i##2##h##_rd(I a) { return __float2##h##_rd(float_to_odd(to_odd(static_cast<wide>(a)))); }         \
    constexpr H __##i##2##h##_ru(I a) { return __float2##h##_ru(float_to_odd(to_odd(static_cast<wide>(a)))); }
#define SIMT_INTEGERS(H, h)                                                                                            \
    SIMT_INTEGER(H, h, int, int, long long)                                                                            \
    SIMT_INTEGER(H, h, unsigned, uint, long long)                                                                      \
    SIMT_INTEGER(H, h, short, short, long long)                                                                        \
    SIMT_INTEGER(H, h, unsigned short, ushort, long long)                                                              \
    SIMT_INTEGER(H, h, long long, ll, long long)                                                                       \
    SIMT_INTEGER(H, h, unsigned long long, ull, unsigned long long)
SIMT_INTEGERS(__half, half)
SIMT_INTEGERS(__nv_bfloat16, bfloat16)

// ---- functions -------------------------------------------------------------------------------------------------------------------

inline float exp10_of(float x) { return __builtin_powf(10.0f, x); }
inline float reciprocal(float x) { return 1.0f / x; }
inline float reciprocal_root(float x) { return 1.0f / __builtin_sqrtf(x); }
#define SIMT_FUNCTION(H, H2, name, function)                                                                           \
    inline H h##name(H a) { return H(function(float(a))); }                                                            \
    inline H2 h2##name(H2 a) { return {h##name(a.x), h##name(a.y)}; }
#define SIMT_FUNCTIONS(H, H2)                                                                                          \
    SIMT_FUNCTION(H, H2, ceil, __builtin_ceilf)                                                                        \
    SIMT_FUNCTION(H, H2, floor, __builtin_floorf)                                                                      \
    SIMT_FUNCTION(H, H2, trunc, __builtin_truncf)                                                                      \
    SIMT_FUNCTION(H, H2, rint, __builtin_nearbyintf)                                                                   \
    SIMT_FUNCTION(H, H2, sqrt, __builtin_sqrtf)                                                                        \
    SIMT_FUNCTION(H, H2, rsqrt, reciprocal_root)                                                                       \
    SIMT_FUNCTION(H, H2, rcp, reciprocal)                                                                              \
    SIMT_FUNCTION(H, H2, exp, __builtin_expf)                                                                          \
    SIMT_FUNCTION(H, H2, exp2, __builtin_exp2f)                                                                        \
    SIMT_FUNCTION(H, H2, exp10, exp10_of)                                                                              \
    SIMT_FUNCTION(H, H2, log, __builtin_logf)                                                                          \
    SIMT_FUNCTION(H, H2, log2, __builtin_log2f)                                                                        \
    SIMT_FUNCTION(H, H2, log10, __builtin_log10f)                                                                      \
    SIMT_FUNCTION(H, H2, sin, __builtin_sinf)                                                                          \
    SIMT_FUNCTION(H, H2, cos, __builtin_cosf)                                                                          \
    SIMT_FUNCTION(H, H2, tanh, __builtin_tanhf)
SIMT_FUNCTIONS(__half, __half2)
SIMT_FUNCTIONS(__nv_bfloat16, __nv_bfloat162)

#undef SIMT_PAIRED_2
#undef SIMT_PAIRED_3
#undef SIMT_COMPARE
#undef SIMT_OPERATOR
#undef SIMT_FLOAT16
#undef SIMT_INTEGER
#undef SIMT_INTEGERS
#undef SIMT_FUNCTION
#undef SIMT_FUNCTIONS

} // namespace simt_types
