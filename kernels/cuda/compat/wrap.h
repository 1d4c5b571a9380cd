// Small wrappers whose spelling or precision differs between the GPU and the executor: 128-bit loads and stores (checked for alignment on
// the CPU), approximate functions, four-way integer dot product.
#pragma once

#ifdef __CUDACC__
__device__ __forceinline__ uint4 ld128(const void *p) { return *static_cast<const uint4 *>(p); }
__device__ __forceinline__ void st128(void *p, uint4 v) { *static_cast<uint4 *>(p) = v; }
__device__ __forceinline__ float fast_exp(float x) { return __expf(x); }
__device__ __forceinline__ float fast_rsqrt(float x) { return rsqrtf(x); }
// c + the four products of signed bytes
__device__ __forceinline__ int dp4a(int a, int b, int c) { return __dp4a(a, b, c); }
#else
namespace simt {
SIMT_NOSAN inline uint4 load_128(Site site, const void *p) {
    plain_access(site, p, 16, false);
    uint4 v;
    __builtin_memcpy(&v, p, 16);
    return v;
}
SIMT_NOSAN inline void store_128(Site site, void *p, uint4 v) {
    plain_access(site, p, 16, true);
    __builtin_memcpy(p, &v, 16);
}
inline int dot_product(int a, int b, int c) {
    count_instruction(Instruction::dot_product, 8);
    for (int i = 0; i < 4; i++) {
        c += static_cast<signed char>(static_cast<unsigned>(a) >> 8 * i) * static_cast<signed char>(static_cast<unsigned>(b) >> 8 * i);
    }
    return c;
}
inline float special(float value) {
    count_instruction(Instruction::special, 0);
    return value;
}
} // namespace simt
#define ld128(p) simt::load_128(SIMT_SITE, (p))
#define st128(p, v) simt::store_128(SIMT_SITE, (p), (v))
inline float fast_exp(float x) { return simt::special(expf(x)); }
inline float fast_rsqrt(float x) { return simt::special(1.0f / sqrtf(x)); }
inline int dp4a(int a, int b, int c) { return simt::dot_product(a, b, c); }
#endif
