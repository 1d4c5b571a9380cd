// CUDA's vector types for compilers that do not bring them: same names, sizes and alignments as the toolkit's vector_types.h.
// The inline namespace keeps our inline functions apart from the toolkit's where one program holds both (the conformance test does).
#pragma once
#include <cstddef>
#include <cstdint>

inline namespace simt_types {

#define SIMT_VEC1(T, N, A)                                                                                             \
    struct alignas(A) N##1 {                                                                                           \
        T x;                                                                                                           \
    };                                                                                                                 \
    constexpr N##1 make_##N##1(T x) { return {x}; }
#define SIMT_VEC2(T, N, A)                                                                                             \
    struct alignas(A) N##2 {                                                                                           \
        T x, y;                                                                                                        \
    };                                                                                                                 \
    constexpr N##2 make_##N##2(T x, T y) { return {x, y}; }
#define SIMT_VEC3(T, N)                                                                                                \
    struct N##3 {                                                                                                      \
        T x, y, z;                                                                                                     \
    };                                                                                                                 \
    constexpr N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; }
#define SIMT_VEC4(T, N, A)                                                                                             \
    struct alignas(A) N##4 {                                                                                           \
        T x, y, z, w;                                                                                                  \
    };                                                                                                                 \
    constexpr N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define SIMT_VECTORS(T, N)                                                                                             \
    SIMT_VEC1(T, N, sizeof(T))                                                                                         \
    SIMT_VEC2(T, N, 2 * sizeof(T))                                                                                     \
    SIMT_VEC3(T, N)                                                                                                    \
    SIMT_VEC4(T, N, (4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16))

SIMT_VECTORS(signed char, char)
SIMT_VECTORS(unsigned char, uchar)
SIMT_VECTORS(short, short)
SIMT_VECTORS(unsigned short, ushort)
SIMT_VECTORS(int, int)
SIMT_VECTORS(unsigned, uint)
SIMT_VECTORS(float, float)
SIMT_VEC1(long long, longlong, 8)
SIMT_VEC2(long long, longlong, 16)
SIMT_VEC1(unsigned long long, ulonglong, 8)
SIMT_VEC2(unsigned long long, ulonglong, 16)
SIMT_VEC1(double, double, 8)
SIMT_VEC2(double, double, 16)

#undef SIMT_VEC1
#undef SIMT_VEC2
#undef SIMT_VEC3
#undef SIMT_VEC4
#undef SIMT_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

} // namespace simt_types
