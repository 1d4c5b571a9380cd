// Tensor-core tiles: d[16][8] = a[16][k] * b[k][8] + c[16][8] by one whole warp, and ldmatrix, which fills the fragments of a and b from
// shared memory. The fragment layout is PTX's: with g = lane / 4 and t = lane % 4, a register holds 32 bits of consecutive k,
//   a[0]: row g, k = t*n ..   a[1]: row g+8   a[2]: row g, upper half of k   a[3]: row g+8, upper half of k    (n elements per register)
//   b[0]: k = t*n .., column g   b[1]: upper half of k
//   c, d: [0] row g, column 2t   [1] row g, column 2t+1   [2], [3]: row g+8
// On the CPU the last lane to arrive gathers all fragments and computes the tile in double precision.
#pragma once

#ifdef __CUDACC__
#define SIMT_MMA(name, T, C, minimum_arch, text)                                                                       \
    __device__ __forceinline__ void name(T d[4], const uint32_t a[4], const uint32_t b[2], const T c[4]) {             \
        SIMT_MMA_BODY_##minimum_arch(C, text)                                                                          \
    }
#define SIMT_MMA_ASM(C, text)                                                                                          \
    asm volatile(text " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"                           \
                 : "=" C(d[0]), "=" C(d[1]), "=" C(d[2]), "=" C(d[3])                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), C(c[0]), C(c[1]), C(c[2]), C(c[3]));
#if __CUDA_ARCH__ >= 800
#define SIMT_MMA_BODY_800(C, text) SIMT_MMA_ASM(C, text)
#else
#define SIMT_MMA_BODY_800(C, text) (void)a, (void)b, (void)c, (void)d, __trap();
#endif
#if __CUDA_ARCH__ >= 890
#define SIMT_MMA_BODY_890(C, text) SIMT_MMA_ASM(C, text)
#else
#define SIMT_MMA_BODY_890(C, text) (void)a, (void)b, (void)c, (void)d, __trap();
#endif
SIMT_MMA(mma_m16n8k16_f16, float, "f", 800, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")
SIMT_MMA(mma_m16n8k16_bf16, float, "f", 800, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
SIMT_MMA(mma_m16n8k32_s8, int, "r", 800, "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32")
SIMT_MMA(mma_m16n8k32_e4m3, float, "f", 890, "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32")
// Four 8 x 8 matrices of 16-bit elements; lane 8*i + r points to row r (16 bytes, aligned) of matrix i.
__device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *row) {
#if __CUDA_ARCH__ >= 750
    const unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
#endif
}
#else

namespace simt {
template <class T> struct MmaFragments {
    uint32_t a[4], b[2];
    T c[4], d[4];
};
struct HalfPair {
    static const int k = 16;
    static double element(uint32_t word, int i) { return half_bits_to_float(static_cast<uint16_t>(word >> 16 * i)); }
};
struct Bf16Pair {
    static const int k = 16;
    static double element(uint32_t word, int i) { return bits_float(word >> 16 * i << 16); }
};
struct SignedBytes {
    static const int k = 32;
    static double element(uint32_t word, int i) { return static_cast<signed char>(word >> 8 * i); }
};
struct E4m3Bytes {
    static const int k = 32;
    static double element(uint32_t word, int i) {
        return half_bits_to_float(__nv_cvt_fp8_to_halfraw(static_cast<unsigned char>(word >> 8 * i), __NV_E4M3).x);
    }
};
// All deposits are fragments of the 32 lanes. Element k of row r of a lives in lane 4*(r%8) + k%(K/2)/n, register r/8 + 2*(k/(K/2)).
template <class T, class E> __attribute__((no_sanitize("thread"))) void compute_mma(void *const deposits[32]) {
    const int n = E::k / 8; // elements per register
    MmaFragments<T> *const *lanes = reinterpret_cast<MmaFragments<T> *const *>(deposits);
    double a[16][E::k], b[8][E::k];
    for (int k = 0; k < E::k; k++) {
        const int upper = k / (E::k / 2), within = k % (E::k / 2);
        for (int row = 0; row < 16; row++) a[row][k] = E::element(lanes[4 * (row % 8) + within / n]->a[row / 8 + 2 * upper], within % n);
        for (int column = 0; column < 8; column++) b[column][k] = E::element(lanes[4 * column + within / n]->b[upper], within % n);
    }
    for (int row = 0; row < 16; row++) {
        for (int column = 0; column < 8; column++) {
            MmaFragments<T> &owner = *lanes[4 * (row % 8) + column / 2];
            const int i = 2 * (row / 8) + column % 2;
            double sum = static_cast<double>(owner.c[i]);
            for (int k = 0; k < E::k; k++) sum += a[row][k] * b[column][k];
            owner.d[i] = static_cast<T>(sum);
        }
    }
}
template <class T, class E> SIMT_NOSAN void mma(Site site, T *d, const uint32_t *a, const uint32_t *b, const T *c) {
    MmaFragments<T> mine;
    __builtin_memcpy(mine.a, a, sizeof mine.a);
    __builtin_memcpy(mine.b, b, sizeof mine.b);
    __builtin_memcpy(mine.c, c, sizeof mine.c);
    count_instruction(Instruction::mma, 2 * 16 * 8 * E::k / 32);
    warp_exchange(site, &mine, compute_mma<T, E>);
    __builtin_memcpy(d, mine.d, sizeof mine.d);
}
struct MatrixRow {
    uint32_t row[4], out[4];
};
__attribute__((no_sanitize("thread"))) inline void compute_ldmatrix(void *const deposits[32]) {
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) {
            static_cast<MatrixRow *>(deposits[lane])->out[i] = static_cast<MatrixRow *>(deposits[8 * i + lane / 4])->row[lane % 4];
        }
    }
}
SIMT_NOSAN inline void load_matrix(Site site, uint32_t *r, const void *row) {
    MatrixRow mine;
    plain_access(site, row, 16, false);
    __builtin_memcpy(mine.row, row, 16);
    warp_exchange(site, &mine, compute_ldmatrix);
    __builtin_memcpy(r, mine.out, 16);
}
} // namespace simt
#define mma_m16n8k16_f16(d, a, b, c) simt::mma<float, simt::HalfPair>(SIMT_SITE, d, a, b, c)
#define mma_m16n8k16_bf16(d, a, b, c) simt::mma<float, simt::Bf16Pair>(SIMT_SITE, d, a, b, c)
#define mma_m16n8k32_s8(d, a, b, c) simt::mma<int, simt::SignedBytes>(SIMT_SITE, d, a, b, c)
#define mma_m16n8k32_e4m3(d, a, b, c) simt::mma<float, simt::E4m3Bytes>(SIMT_SITE, d, a, b, c)
#define ldmatrix_x4(r, row) simt::load_matrix(SIMT_SITE, r, row)
#endif
