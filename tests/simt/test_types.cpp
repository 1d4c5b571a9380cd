// Our half, bf16 and fp8 against exact arithmetic, and bit for bit against the toolkit's headers where WITH_TOOLKIT says they are present.
#include "harness.h"
#include "../../kernels/cuda/compat/fp8.h"
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#define NAME(f) own_##f
#include "types_api.inc"
#undef NAME
#ifdef WITH_TOOLKIT
extern "C" {
uint32_t toolkit_half_to_float(uint16_t);
uint16_t toolkit_float_to_half(float);
uint16_t toolkit_float_to_half_rz(float);
uint32_t toolkit_bf16_to_float(uint16_t);
uint16_t toolkit_float_to_bf16(float);
uint16_t toolkit_float_to_bf16_rz(float);
uint8_t toolkit_float_to_fp8(float, int, int);
uint16_t toolkit_fp8_to_half(uint8_t, int);
uint8_t toolkit_half_to_fp8(uint16_t, int, int);
uint32_t toolkit_fp8_class_to_float(uint8_t, int);
#define EITHER(h)                                                                                                      \
    uint16_t toolkit_##h##_op(int, uint16_t, uint16_t);                                                                \
    uint32_t toolkit_##h##_compare(uint16_t, uint16_t);                                                                \
    uint32_t toolkit_##h##_pair_op(int, uint32_t, uint32_t);                                                           \
    int64_t toolkit_##h##_to_integer(int, uint16_t);                                                                   \
    uint16_t toolkit_##h##_from_integer(int, int64_t);                                                                 \
    uint16_t toolkit_##h##_directed(float, int);                                                                       \
    uint16_t toolkit_##h##_from_double(double);
EITHER(half)
EITHER(bfloat16)
#undef EITHER
void toolkit_layout(size_t[48]);
}
#endif

// The value a format's bits stand for, from its definition, in double: sign, exponent field, mantissa field.
static double value_of(uint32_t bits, int n_exponent, int n_mantissa) {
    const uint32_t mantissa = bits & ((1u << n_mantissa) - 1), exponent = bits >> n_mantissa & ((1u << n_exponent) - 1);
    const int bias = (1 << (n_exponent - 1)) - 1;
    const double sign = bits >> (n_exponent + n_mantissa) & 1 ? -1 : 1;
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - n_mantissa);
    return sign * std::ldexp(1.0 + std::ldexp(mantissa, -n_mantissa), static_cast<int>(exponent) - bias);
}

static float from_bits(uint32_t u) { return bits_float(u); }

// Every value of a format with this many magnitude codes, and the floats at and around it and around the midpoint to the next.
template <class F> static void around(int n_codes, int n_exponent, int n_mantissa, F visit) {
    for (int code = 0; code < n_codes; code++) {
        const double v = value_of(code, n_exponent, n_mantissa), next = value_of(code + 1, n_exponent, n_mantissa);
        for (double at : {v, (v + next) / 2}) {
            const float f = static_cast<float>(at);
            for (float near : {std::nextafterf(f, -INFINITY), f, std::nextafterf(f, INFINITY)}) {
                visit(near);
                visit(-near);
            }
        }
    }
}

// Nearest code, ties to the even one, from the definition: search among the codes on both sides.
static uint32_t nearest(float f, int n_codes, int n_exponent, int n_mantissa) {
    const double a = std::fabs(static_cast<double>(f));
    int low = 0, high = n_codes;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (value_of(middle, n_exponent, n_mantissa) <= a ? low : high) = middle;
    }
    const double below = a - value_of(low, n_exponent, n_mantissa), above = value_of(low + 1, n_exponent, n_mantissa) - a;
    const int code = above < below || (above == below && (low & 1)) ? low + 1 : low;
    return static_cast<uint32_t>(code) | (std::signbit(f) ? 1u << (n_exponent + n_mantissa) : 0u);
}

static const float specials[] = {0.0f, -0.0f, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1e-45f, 448.0f, 464.0f, 464.1f, 480.0f, 57344.0f,
                                 61440.0f, 61441.0f, 65504.0f, 65519.996f, 65520.0f, 65536.0f, 1e10f};

static void test_half() {
    for (uint32_t h = 0; h < 65536; h++) {
        const uint32_t u = own_half_to_float(static_cast<uint16_t>(h));
        if ((h >> 10 & 31) == 31) {
            CHECK((h & 0x3ff) ? std::isnan(from_bits(u)) : std::isinf(from_bits(u)), "half %04x is not special", h);
        } else {
            CHECK(from_bits(u) == static_cast<float>(value_of(h, 5, 10)), "half %04x to float", h);
            CHECK(own_float_to_half(from_bits(u)) == h && own_float_to_half_rz(from_bits(u)) == h, "half %04x there and back", h);
        }
    }
    around(0x7c00, 5, 10, [](float f) { CHECK(own_float_to_half(f) == nearest(f, 0x7c00, 5, 10), "%a to half", f); });
}

static void test_bf16() {
    for (uint32_t h = 0; h < 65536; h++) {
        const uint32_t u = own_bf16_to_float(static_cast<uint16_t>(h));
        CHECK(u == h << 16, "bf16 %04x to float", h);
        if ((h & 0x7fff) <= 0x7f80) CHECK(own_float_to_bf16(from_bits(u)) == h, "bf16 %04x there and back", h);
    }
    around(0x7f7f, 8, 7, [](float f) { CHECK(own_float_to_bf16(f) == nearest(f, 0x7f80, 8, 7), "%a to bf16", f); });
}

static void test_fp8() {
    for (int e5m2 = 0; e5m2 < 2; e5m2++) {
        const int n_exponent = e5m2 ? 5 : 4, n_mantissa = e5m2 ? 2 : 3, n_finite = e5m2 ? 0x7c : 0x7f;
        for (int x = 0; x < 256; x++) {
            const float f = from_bits(own_half_to_float(own_fp8_to_half(static_cast<uint8_t>(x), e5m2)));
            if ((x & 0x7f) < n_finite) {
                CHECK(f == static_cast<float>(value_of(x, n_exponent, n_mantissa)), "fp8 %02x e5m2=%d", x, e5m2);
                CHECK(own_float_to_fp8(f, e5m2, 0) == x, "fp8 %02x e5m2=%d there and back", x, e5m2);
            } else {
                CHECK(e5m2 && (x & 0x7f) == 0x7c ? std::isinf(f) : std::isnan(f), "fp8 %02x e5m2=%d is not special", x, e5m2);
            }
        }
        around(n_finite - 1, n_exponent, n_mantissa, [&](float f) {
            CHECK(own_float_to_fp8(f, e5m2, 1) == nearest(f, n_finite, n_exponent, n_mantissa), "%a to fp8 e5m2=%d", f, e5m2);
        });
        CHECK(own_float_to_fp8(1e9f, e5m2, 1) == n_finite - 1, "saturation");
        CHECK(own_float_to_fp8(-1e9f, e5m2, 0) == (0x80 | n_finite), "overflow without saturation");
    }
}

static void test_pairs() {
    const __half2 pair = __floats2half2_rn(1.5f, -2.0f);
    CHECK(__low2float(pair) == 1.5f && __high2float(pair) == -2.0f, "half2");
}

// ---- arithmetic against its definition: the nearest code to the exact result ----------------------------------------------------------

static uint32_t random_state = 1;
static uint32_t random_bits() {
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 16 | (random_state * 40503u & 0xffff0000u);
}

struct Exact { // high + low, unevaluated; low says which side of high the value lies on
    double high, low;
};
static Exact exact_sum(double a, double b) {
    const double s = a + b, part = s - a;
    return {s, (a - (s - part)) + (b - part)};
}
// Three times as precise as float's quotient, and its remainder's sign.
static Exact exact_quotient(double a, double b) {
    const double q = a / b;
    return {q, std::fma(-q, b, a) / b};
}

struct Format {
    int n_exponent, n_mantissa, infinity;
    uint16_t (*from_float)(float);
    float value(uint16_t h) const {
        if ((h & 0x7fff) > infinity) return NAN;
        if ((h & 0x7fff) == infinity) return h & 0x8000 ? -INFINITY : INFINITY;
        return static_cast<float>(value_of(h, n_exponent, n_mantissa));
    }
    // The code nearest to e, which is finite and not zero.
    uint16_t nearest_to(Exact e) const {
        const uint32_t sign = e.high < 0 ? 0x8000u : 0u;
        if (sign) e = {-e.high, -e.low};
        int low = 0, high = infinity; // the value of `low` is at most e
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            const double d = e.high - value_of(middle, n_exponent, n_mantissa);
            (d > 0 || (d == 0 && e.low >= 0) ? low : high) = middle;
        }
        const double half_way = (value_of(low, n_exponent, n_mantissa) + value_of(low + 1, n_exponent, n_mantissa)) / 2, d = e.high - half_way;
        const bool up = d > 0 || (d == 0 && (e.low > 0 || (e.low == 0 && (low & 1))));
        return static_cast<uint16_t>(sign | static_cast<uint32_t>(low + up));
    }
    // One operand in four is special, and they are often close together.
    uint16_t operand(uint16_t near) const {
        const uint32_t r = random_bits();
        const uint16_t special[] = {0, 0x8000, 1, 0x8001, static_cast<uint16_t>(infinity), static_cast<uint16_t>(infinity | 0x8000),
                                    static_cast<uint16_t>(infinity + 1), static_cast<uint16_t>(infinity - 1), static_cast<uint16_t>(1 << n_mantissa)};
        if (r % 8 == 0) return special[(r >> 8) % 9];
        if (r % 8 == 1) return static_cast<uint16_t>(near + (r >> 8 & 7) - 3);
        if (r % 8 == 2) return static_cast<uint16_t>(near ^ 0x8000 ^ (r >> 8 & 0x3f));
        return static_cast<uint16_t>(r >> 8);
    }
};
static const Format half_format = {5, 10, 0x7c00, own_float_to_half}, bf16_format = {8, 7, 0x7f80, own_float_to_bf16};

static void check_result(const Format &format, const char *what, uint16_t got, double plain, Exact exact) {
    if (std::isnan(plain)) CHECK(got == 0x7fff, "%s is no number but %04x", what, got);
    else if (std::isinf(plain) || plain == 0) CHECK(got == format.from_float(static_cast<float>(plain)), "%s: %04x", what, got);
    else CHECK(got == format.nearest_to(exact), "%s: %04x, not %04x", what, got, format.nearest_to(exact));
}

template <class H, class Op, class Fma> static void test_format(const Format &format, H (*as)(unsigned short), Op op, Fma bits_of) {
    for (int i = 0; i < 300000; i++) {
        const uint16_t ha = static_cast<uint16_t>(random_bits()), hb = format.operand(ha), hc = format.operand(hb);
        const double a = format.value(ha), b = format.value(hb), c = format.value(hc);
        char what[64];
        snprintf(what, sizeof what, "%04x, %04x, %04x of %d bits", ha, hb, hc, format.n_mantissa);
        check_result(format, what, op(0, ha, hb), a + b, exact_sum(a, b));
        check_result(format, what, op(1, ha, hb), a - b, exact_sum(a, -b));
        check_result(format, what, op(2, ha, hb), a * b, {a * b, 0});
        check_result(format, what, op(3, ha, hb), a / b, exact_quotient(a, b));
        check_result(format, what, bits_of(__hfma(as(ha), as(hb), as(hc))), a * b + c, exact_sum(a * b, c));
        const uint16_t fused = bits_of(__hfma(as(ha), as(hb), as(hc)));
        const float clamped = std::isnan(format.value(fused)) ? 0.0f : std::fmin(std::fmax(format.value(fused), 0.0f), 1.0f);
        CHECK(format.value(bits_of(__hfma_sat(as(ha), as(hb), as(hc)))) == clamped, "%s, saturated", what);
        const uint16_t relu = bits_of(__hfma_relu(as(ha), as(hb), as(hc)));
        CHECK(std::isnan(format.value(fused)) ? relu == 0x7fff : format.value(relu) == std::fmax(format.value(fused), 0.0f), "%s, relu", what);
    }
}

static void test_arithmetic() {
    test_format<__half>(half_format, __ushort_as_half, own_half_op, __half_as_ushort);
    test_format<__nv_bfloat16>(bf16_format, __ushort_as_bfloat16, own_bfloat16_op, __bfloat16_as_ushort);
    // Rounded in double first, this would end a tie upwards.
    const __half a = __ushort_as_half(0x3c01), tiny = __ushort_as_half(0x0001);
    CHECK(__half_as_ushort(__hfma(a, __half(0.5f), __hneg(tiny))) == half_format.nearest_to(exact_sum(1.0009765625 * 0.5, -5.9604644775390625e-8)), "fma");
    CHECK(own_half_pair_op(0, 0x40003c00, 0x3c003c00) == 0x42004000, "two sums at once");
}

template <class Compare> static void test_comparisons_of(const Format &format, Compare compare) {
    for (int i = 0; i < 200000; i++) {
        const uint16_t ha = i < 65536 ? static_cast<uint16_t>(i) : format.operand(static_cast<uint16_t>(i)), hb = format.operand(ha);
        const float a = format.value(ha), b = format.value(hb);
        const bool none = std::isnan(a) || std::isnan(b), plain[] = {a == b, !none && a != b, a < b, a <= b, a > b, a >= b};
        uint32_t expected = 0;
        for (bool one : plain) expected = expected << 1 | one;
        for (bool one : plain) expected = expected << 1 | (one || none);
        for (int op = 0; op < 6; op++) expected = expected << 1 | (plain[op] || (op == 1 && none)); // operator!= holds for no number
        expected = expected << 3 | static_cast<uint32_t>(std::isnan(a) << 2) | static_cast<uint32_t>((std::isinf(a) && a > 0) << 1) |
                   static_cast<uint32_t>(std::isinf(a) && a < 0);
        CHECK(compare(ha, hb) == expected, "%04x compared with %04x", ha, hb);
    }
}
static void test_comparisons() {
    test_comparisons_of(half_format, own_half_compare);
    test_comparisons_of(bf16_format, own_bfloat16_compare);
}

// Every pattern, in all four rounding modes; out of range goes to the nearest there is.
static void test_to_integers() {
    for (uint32_t h = 0; h < 65536; h++) {
        const __half a = __ushort_as_half(static_cast<uint16_t>(h));
        const __nv_bfloat16 b = __ushort_as_bfloat16(static_cast<uint16_t>(h));
        const double v = half_format.value(static_cast<uint16_t>(h)), w = bf16_format.value(static_cast<uint16_t>(h));
        auto limited = [](double x, double low, double high) { return std::isnan(x) ? 0.0 : std::fmin(std::fmax(x, low), high); };
        const double rounded[4] = {std::nearbyint(v), std::trunc(v), std::floor(v), std::ceil(v)};
        const double wide[4] = {std::nearbyint(w), std::trunc(w), std::floor(w), std::ceil(w)};
        const int ints[4] = {__half2int_rn(a), __half2int_rz(a), __half2int_rd(a), __half2int_ru(a)};
        const unsigned short shorts[4] = {__half2ushort_rn(a), __half2ushort_rz(a), __half2ushort_rd(a), __half2ushort_ru(a)};
        const short bf_shorts[4] = {__bfloat162short_rn(b), __bfloat162short_rz(b), __bfloat162short_rd(b), __bfloat162short_ru(b)};
        const unsigned bf_uints[4] = {__bfloat162uint_rn(b), __bfloat162uint_rz(b), __bfloat162uint_rd(b), __bfloat162uint_ru(b)};
        for (int mode = 0; mode < 4; mode++) {
            CHECK(ints[mode] == limited(rounded[mode], -2147483648.0, 2147483647.0), "half %04x to int, mode %d: %d", h, mode, ints[mode]);
            CHECK(shorts[mode] == limited(rounded[mode], 0, 65535), "half %04x to ushort, mode %d", h, mode);
            CHECK(bf_shorts[mode] == limited(wide[mode], -32768, 32767), "bf16 %04x to short, mode %d", h, mode);
            CHECK(bf_uints[mode] == limited(wide[mode], 0, 4294967295.0), "bf16 %04x to uint, mode %d", h, mode);
        }
    }
}

static void test_from_integers() {
    for (int i = 0; i < 200000; i++) {
        const int n_bits = 1 + static_cast<int>(random_bits() % 64);
        const int64_t v = static_cast<int64_t>((static_cast<uint64_t>(random_bits()) << 32 | random_bits()) >> (64 - n_bits)) ^ -static_cast<int64_t>(i & 1);
        const Exact exact = exact_sum(static_cast<double>(v - (v & 0xffffffff)), static_cast<double>(v & 0xffffffff));
        for (const Format *f : {&half_format, &bf16_format}) {
            const uint16_t got = f == &half_format ? own_half_from_integer(4, v) : own_bfloat16_from_integer(4, v);
            CHECK(got == (v ? f->nearest_to(exact) : 0), "%lld to %d bits: %04x", static_cast<long long>(v), f->n_mantissa, got);
            const int as_int = static_cast<int>(v);
            const uint16_t from_int = f == &half_format ? own_half_from_integer(0, as_int) : own_bfloat16_from_integer(0, as_int);
            CHECK(from_int == (as_int ? f->nearest_to({static_cast<double>(as_int), 0}) : 0), "%d to %d bits: %04x", as_int, f->n_mantissa, from_int);
        }
    }
}

#ifdef WITH_TOOLKIT
static void compare_float(float f) {
    CHECK(own_float_to_half(f) == toolkit_float_to_half(f), "%a to half", f);
    CHECK(own_float_to_half_rz(f) == toolkit_float_to_half_rz(f), "%a to half toward zero", f);
    CHECK(own_float_to_bf16(f) == toolkit_float_to_bf16(f), "%a to bf16", f);
    CHECK(own_float_to_bf16_rz(f) == toolkit_float_to_bf16_rz(f), "%a to bf16 toward zero", f);
    for (int k = 0; k < 4; k++) {
        CHECK(own_float_to_fp8(f, k & 1, k >> 1) == toolkit_float_to_fp8(f, k & 1, k >> 1), "%a to fp8 kind %d: %02x %02x", f, k,
              own_float_to_fp8(f, k & 1, k >> 1), toolkit_float_to_fp8(f, k & 1, k >> 1));
    }
}

static void test_toolkit() {
    size_t own[48], toolkit[48];
    own_layout(own);
    toolkit_layout(toolkit);
    CHECK(memcmp(own, toolkit, sizeof own) == 0, "sizes or alignments of the vector types differ");
    for (uint32_t h = 0; h < 65536; h++) {
        const uint16_t b = static_cast<uint16_t>(h);
        CHECK(own_half_to_float(b) == toolkit_half_to_float(b), "half %04x to float: %08x %08x", h, own_half_to_float(b), toolkit_half_to_float(b));
        CHECK(own_bf16_to_float(b) == toolkit_bf16_to_float(b), "bf16 %04x to float", h);
        for (int k = 0; k < 4; k++) {
            CHECK(own_half_to_fp8(b, k & 1, k >> 1) == toolkit_half_to_fp8(b, k & 1, k >> 1), "half %04x to fp8 kind %d", h, k);
        }
    }
    for (int x = 0; x < 256; x++) {
        for (int e5m2 = 0; e5m2 < 2; e5m2++) {
            const uint8_t b = static_cast<uint8_t>(x);
            CHECK(own_fp8_to_half(b, e5m2) == toolkit_fp8_to_half(b, e5m2), "fp8 %02x e5m2=%d to half: %04x %04x", x, e5m2,
                  own_fp8_to_half(b, e5m2), toolkit_fp8_to_half(b, e5m2));
            CHECK(own_fp8_class_to_float(b, e5m2) == toolkit_fp8_class_to_float(b, e5m2), "fp8 %02x e5m2=%d to float", x, e5m2);
        }
    }
    around(0x7c00, 5, 10, compare_float);
    around(0x7f7f, 8, 7, compare_float);
    around(0x7e, 4, 3, compare_float);
    around(0x7b, 5, 2, compare_float);
    for (float f : specials) compare_float(f);
    compare_float(NAN);
    compare_float(-NAN);
}

static void test_toolkit_arithmetic() {
#define EITHER(h, format)                                                                                              \
    for (int i = 0; i < 400000; i++) {                                                                                 \
        const uint16_t a = static_cast<uint16_t>(i), b = format.operand(a);                                            \
        const uint32_t pair = a | static_cast<uint32_t>(b) << 16, other = b | random_bits() << 16;                     \
        for (int op = i % 2; op < 17; op += 2) CHECK(own_##h##_op(op, a, b) == toolkit_##h##_op(op, a, b), #h " %04x op %d %04x: %04x %04x", a, op, b, own_##h##_op(op, a, b), toolkit_##h##_op(op, a, b)); \
        CHECK(own_##h##_compare(a, b) == toolkit_##h##_compare(a, b), #h " %04x compared with %04x", a, b);            \
        for (int op = i % 3; op < 26; op += 3) CHECK(own_##h##_pair_op(op, pair, other) == toolkit_##h##_pair_op(op, pair, other), #h " pair %08x op %d %08x: %08x %08x", pair, op, other, own_##h##_pair_op(op, pair, other), toolkit_##h##_pair_op(op, pair, other)); \
        const int64_t wide = static_cast<int64_t>((static_cast<uint64_t>(random_bits()) << 32 | random_bits()) >> (i % 64)) ^ -static_cast<int64_t>(b & 1); \
        const double value = format.value(a);                                                                          \
        for (int kind = 0; kind < 6; kind++) {                                                                         \
            CHECK(own_##h##_from_integer(kind, wide) == toolkit_##h##_from_integer(kind, wide), "%lld to " #h " kind %d: %04x %04x", static_cast<long long>(wide), kind, own_##h##_from_integer(kind, wide), toolkit_##h##_from_integer(kind, wide)); \
            /* At the powers of two just past an integer type the toolkit's host code leaves the result to the compiler. */ \
            if (std::fabs(value) == 2147483648.0 || value == 4294967296.0 || std::fabs(value) == 9223372036854775808.0 || value == 18446744073709551616.0) continue; \
            CHECK(own_##h##_to_integer(kind, a) == toolkit_##h##_to_integer(kind, a), #h " %04x to integer, kind %d: %lld %lld", a, kind, static_cast<long long>(own_##h##_to_integer(kind, a)), static_cast<long long>(toolkit_##h##_to_integer(kind, a))); \
        }                                                                                                              \
        const float f = from_bits(random_bits());                                                                      \
        const double d = static_cast<double>(format.value(a)) + format.value(b) * 1e-9;                                \
        CHECK(own_##h##_directed(f, i & 1) == toolkit_##h##_directed(f, i & 1), "%a to " #h ", rounded %s", f, i & 1 ? "up" : "down"); \
        CHECK(own_##h##_from_double(d) == toolkit_##h##_from_double(d), "%a to " #h, d);                               \
    }
    EITHER(half, half_format)
    EITHER(bfloat16, bf16_format)
#undef EITHER
}
#endif

int main() {
    RUN(test_half);
    RUN(test_bf16);
    RUN(test_fp8);
    RUN(test_pairs);
    RUN(test_arithmetic);
    RUN(test_comparisons);
    RUN(test_to_integers);
    RUN(test_from_integers);
#ifdef WITH_TOOLKIT
    RUN(test_toolkit);
    RUN(test_toolkit_arithmetic);
#else
    puts("ok types: equal to the toolkit's # SKIP the toolkit's headers are not installed");
#endif
    return finish();
}
