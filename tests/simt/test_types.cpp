// Our half, bf16 and fp8 against exact arithmetic, and bit for bit against the toolkit's headers where WITH_TOOLKIT says they are present.
#include "harness.h"
#include "../../kernels/cuda/compat/fp8.h"
#include <cmath>
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
uint16_t toolkit_half_op(int, uint16_t, uint16_t);
uint16_t toolkit_bf16_op(int, uint16_t, uint16_t);
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

static void test_arithmetic() {
    CHECK(own_half_op(0, 0x3c00, 0x3c00) == 0x4000 && own_half_op(2, 0x4000, 0x4200) == 0x4600, "half 1+1, 2*3");
    CHECK(own_bf16_op(1, 0x4040, 0x3f80) == 0x4000, "bf16 3-1");
    const __half2 pair = __floats2half2_rn(1.5f, -2.0f);
    CHECK(__low2float(pair) == 1.5f && __high2float(pair) == -2.0f, "half2");
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
        const uint16_t c = static_cast<uint16_t>(h * 40503u >> 3);
        for (int op = 0; op < 3; op++) {
            CHECK(own_half_op(op, b, c) == toolkit_half_op(op, b, c), "half %04x op %d %04x", h, op, c);
            CHECK(own_bf16_op(op, b, c) == toolkit_bf16_op(op, b, c), "bf16 %04x op %d %04x", h, op, c);
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
#endif

int main() {
    RUN(test_half);
    RUN(test_bf16);
    RUN(test_fp8);
    RUN(test_arithmetic);
#ifdef WITH_TOOLKIT
    RUN(test_toolkit);
#else
    puts("ok types: equal to the toolkit's # SKIP the toolkit's headers are not installed");
#endif
    return finish();
}
