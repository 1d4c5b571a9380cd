// Asynchronous copies of 4, 8 or 16 bytes from global to shared memory. On the CPU the bytes arrive only at the wait, and until then the
// destination counts as uninitialised, so reading too early shows; a group never waited for is reported when its thread exits.
//
//   cp_async<16>(to_shared, from_global);  cp_async_commit();  cp_async_wait<1>();  __syncthreads();
#pragma once

#ifdef __CUDACC__
template <int bytes> __device__ __forceinline__ void cp_async(void *shared, const void *global) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
#if __CUDA_ARCH__ >= 800
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(bytes) : "memory");
#else
    if (bytes == 4) *static_cast<unsigned *>(shared) = *static_cast<const unsigned *>(global);
    if (bytes == 8) *static_cast<uint2 *>(shared) = *static_cast<const uint2 *>(global);
    if (bytes == 16) *static_cast<uint4 *>(shared) = *static_cast<const uint4 *>(global);
#endif
}
__device__ __forceinline__ void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Returns when at most n_left of this thread's newest groups are still under way.
template <int n_left> __device__ __forceinline__ void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(n_left) : "memory");
#endif
}
#else
namespace simt {
// The name must stay usable with template arguments, so the macro below yields an object of the call site.
struct AsyncAt {
    Site site;
    template <int bytes> void copy(void *shared, const void *global) const {
        static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
        async_copy(site, shared, global, bytes);
    }
    template <int n_left> void wait() const { async_wait(site, n_left); }
};
} // namespace simt
#define cp_async simt::AsyncAt{SIMT_SITE}.copy
#define cp_async_commit() simt::async_commit()
#define cp_async_wait simt::AsyncAt{SIMT_SITE}.wait
#endif
