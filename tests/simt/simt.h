// The device side of the executor: what CUDA C++ kernels use, for g++ and clang++. Kernels include kernels/cuda/compat/compat.h, which
// includes this where the compiler is not nvcc. Collectives and atomics are macros so that each carries its call site.
#pragma once
#include "runtime.h"
#include <cmath>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#ifndef __restrict__
#define __restrict__ __restrict
#endif
#define SIMT_NOSAN __attribute__((no_sanitize("thread"), noinline))
#define SIMT_SITE (simt::Site{__FILE__, __LINE__, __COUNTER__})

namespace simt {

struct Site {
    const char *file;
    int line, id; // id tells two calls on one line apart
};
struct ThreadInfo {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
};
enum class Op : uint8_t {
    sync, ballot, any, all, shuffle, shuffle_up, shuffle_down, shuffle_xor, match_any, match_all,
    add, min_signed, max_signed, min_unsigned, max_unsigned, bit_and, bit_or, bit_xor, exchange
};
enum class Reduce : uint8_t { none, count, all, any };
enum class Instruction : uint8_t { special, dot_product, mma };

// The same for the whole life of a thread, hence const: compilers may keep it in a register.
const ThreadInfo *thread_info() __attribute__((const));
// function tells the instantiations of a template apart: each has arrays of its own.
void *shared_array(Site site, const char *function, size_t bytes, size_t alignment);
void *dynamic_shared();
int block_barrier(Site site, Reduce reduce, int predicate);
uint64_t collective(Site site, Op op, unsigned mask, uint64_t value, int argument, int width);
// All lanes deposit a pointer; the last to arrive runs compute over all 32 deposits, then everybody goes on.
void warp_exchange(Site site, void *deposit, void (*compute)(void *const deposits[32]));
void atomic_access(Site site, const void *p, size_t bytes);
void plain_access(Site site, const void *p, size_t bytes, bool write);
void count_instruction(Instruction which, uint64_t flops);
void async_copy(Site site, void *shared, const void *global, size_t bytes);
void async_commit();
void async_wait(Site site, unsigned n_left);

template <class T> SIMT_NOSAN uint64_t pack(T v) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "shuffles take values of up to 8 bytes");
    uint64_t u = 0;
    __builtin_memcpy(&u, &v, sizeof v);
    return u;
}
template <class T> SIMT_NOSAN T unpack(uint64_t u) {
    T v;
    __builtin_memcpy(&v, &u, sizeof v);
    return v;
}
template <class T> T shuffle(Site s, Op op, unsigned mask, T v, int lane, int width) {
    return unpack<T>(collective(s, op, mask, pack(v), lane, width));
}
template <class T> T shfl(Site s, unsigned m, T v, int lane, int w = 32) { return shuffle(s, Op::shuffle, m, v, lane, w); }
template <class T> T shfl_up(Site s, unsigned m, T v, unsigned d, int w = 32) { return shuffle(s, Op::shuffle_up, m, v, static_cast<int>(d), w); }
template <class T> T shfl_down(Site s, unsigned m, T v, unsigned d, int w = 32) { return shuffle(s, Op::shuffle_down, m, v, static_cast<int>(d), w); }
template <class T> T shfl_xor(Site s, unsigned m, T v, int x, int w = 32) { return shuffle(s, Op::shuffle_xor, m, v, x, w); }
template <class T> unsigned match_any(Site s, unsigned m, T v) { return static_cast<unsigned>(collective(s, Op::match_any, m, pack(v), 0, 32)); }
template <class T> unsigned match_all(Site s, unsigned m, T v, int *all) {
    const unsigned lanes = static_cast<unsigned>(collective(s, Op::match_all, m, pack(v), 0, 32));
    *all = lanes != 0;
    return lanes;
}
struct SyncWarp { // an object, so that the macro takes no argument or one
    Site site;
    void operator()(unsigned m = 0xffffffffu) const { collective(site, Op::sync, m, 0, 0, 32); }
};
inline unsigned vote(Site s, Op op, unsigned m, int p) { return static_cast<unsigned>(collective(s, op, m, p != 0, 0, 32)); }
template <class T> T reduce(Site s, Op on_signed, Op on_unsigned, unsigned m, T v) {
    static_assert(sizeof(T) == 4 && std::is_integral<T>::value, "__reduce_*_sync takes 32-bit integers");
    return unpack<T>(collective(s, std::is_signed<T>::value ? on_signed : on_unsigned, m, pack(v), 0, 32));
}

// Atomics: the access is checked, then done with the host's own atomic operations, since blocks may run on several host threads.
template <class T> struct Same { typedef T type; };
template <class T, class F> SIMT_NOSAN T atomic_update(Site s, T *p, F next) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8, "atomics take 2, 4 or 8 bytes");
    atomic_access(s, p, sizeof(T));
    typedef typename std::conditional<sizeof(T) == 2, uint16_t, typename std::conditional<sizeof(T) == 4, uint32_t, uint64_t>::type>::type U;
    U *u = reinterpret_cast<U *>(p), old = __atomic_load_n(u, __ATOMIC_RELAXED), fresh;
    T value;
    do {
        __builtin_memcpy(&value, &old, sizeof value);
        const T result = next(value);
        __builtin_memcpy(&fresh, &result, sizeof fresh);
    } while (!__atomic_compare_exchange_n(u, &old, fresh, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return value;
}
#define SIMT_ATOMIC(name, expression)                                                                                  \
    template <class T> T name(Site s, T *p, typename Same<T>::type v) {                                                \
        return atomic_update(s, p, [v](T old) __attribute__((no_sanitize("thread"))) -> T { return expression; });     \
    }
SIMT_ATOMIC(atomic_add, static_cast<T>(old + v))
SIMT_ATOMIC(atomic_sub, static_cast<T>(old - v))
SIMT_ATOMIC(atomic_max, old > v ? old : v)
SIMT_ATOMIC(atomic_min, old < v ? old : v)
SIMT_ATOMIC(atomic_and, old & v)
SIMT_ATOMIC(atomic_or, old | v)
SIMT_ATOMIC(atomic_xor, old ^ v)
SIMT_ATOMIC(atomic_exch, (static_cast<void>(old), v))
SIMT_ATOMIC(atomic_inc, old >= v ? 0 : old + 1)
#undef SIMT_ATOMIC
template <class T> T atomic_cas(Site s, T *p, typename Same<T>::type expected, typename Same<T>::type v) {
    return atomic_update(s, p, [expected, v](T old) __attribute__((no_sanitize("thread"))) -> T { return old == expected ? v : old; });
}

template <class F, class... P> struct KernelClosure final : Closure {
    F *kernel;
    std::tuple<P...> arguments;
    template <class... A> KernelClosure(F *k, A &&...a) : kernel(k), arguments(std::forward<A>(a)...) { bytes = sizeof *this; }
    void run() override { std::apply(kernel, arguments); }
};
template <class... P> struct Launcher {
    const char *name;
    void (*kernel)(P...);
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
    template <class... A> void operator()(A &&...a) const {
        static_assert(sizeof...(P) == sizeof...(A), "a launch with the wrong number of arguments");
        launch_closure(name, reinterpret_cast<const void *>(kernel), grid, block, shared_bytes, stream,
                       std::unique_ptr<Closure>(new KernelClosure<void(P...), std::decay_t<P>...>(kernel, static_cast<std::decay_t<P>>(a)...)));
    }
};
template <class... P>
Launcher<P...> launcher(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream) {
    return {name, kernel, grid, block, shared_bytes, stream};
}
struct RegisterConstant {
    RegisterConstant(const void *p, size_t bytes) { register_constant(p, bytes); }
};

} // namespace simt

#define threadIdx (simt::thread_info()->thread)
#define blockIdx (simt::thread_info()->block)
#define blockDim (simt::thread_info()->block_dim)
#define gridDim (simt::thread_info()->grid_dim)
#define warpSize 32

#define __syncthreads() simt::block_barrier(SIMT_SITE, simt::Reduce::none, 0)
#define __syncthreads_count(p) simt::block_barrier(SIMT_SITE, simt::Reduce::count, (p) != 0)
#define __syncthreads_and(p) simt::block_barrier(SIMT_SITE, simt::Reduce::all, (p) != 0)
#define __syncthreads_or(p) simt::block_barrier(SIMT_SITE, simt::Reduce::any, (p) != 0)
#define __syncwarp(...) simt::SyncWarp{SIMT_SITE}(__VA_ARGS__)
#define __ballot_sync(m, p) simt::vote(SIMT_SITE, simt::Op::ballot, (m), (p) != 0)
#define __any_sync(m, p) static_cast<int>(simt::vote(SIMT_SITE, simt::Op::any, (m), (p) != 0))
#define __all_sync(m, p) static_cast<int>(simt::vote(SIMT_SITE, simt::Op::all, (m), (p) != 0))
#define __shfl_sync(...) simt::shfl(SIMT_SITE, __VA_ARGS__)
#define __shfl_up_sync(...) simt::shfl_up(SIMT_SITE, __VA_ARGS__)
#define __shfl_down_sync(...) simt::shfl_down(SIMT_SITE, __VA_ARGS__)
#define __shfl_xor_sync(...) simt::shfl_xor(SIMT_SITE, __VA_ARGS__)
#define __match_any_sync(...) simt::match_any(SIMT_SITE, __VA_ARGS__)
#define __match_all_sync(...) simt::match_all(SIMT_SITE, __VA_ARGS__)
#define __reduce_add_sync(...) simt::reduce(SIMT_SITE, simt::Op::add, simt::Op::add, __VA_ARGS__)
#define __reduce_min_sync(...) simt::reduce(SIMT_SITE, simt::Op::min_signed, simt::Op::min_unsigned, __VA_ARGS__)
#define __reduce_max_sync(...) simt::reduce(SIMT_SITE, simt::Op::max_signed, simt::Op::max_unsigned, __VA_ARGS__)
#define __reduce_and_sync(...) simt::reduce(SIMT_SITE, simt::Op::bit_and, simt::Op::bit_and, __VA_ARGS__)
#define __reduce_or_sync(...) simt::reduce(SIMT_SITE, simt::Op::bit_or, simt::Op::bit_or, __VA_ARGS__)
#define __reduce_xor_sync(...) simt::reduce(SIMT_SITE, simt::Op::bit_xor, simt::Op::bit_xor, __VA_ARGS__)
#define atomicAdd(...) simt::atomic_add(SIMT_SITE, __VA_ARGS__)
#define atomicSub(...) simt::atomic_sub(SIMT_SITE, __VA_ARGS__)
#define atomicMax(...) simt::atomic_max(SIMT_SITE, __VA_ARGS__)
#define atomicMin(...) simt::atomic_min(SIMT_SITE, __VA_ARGS__)
#define atomicAnd(...) simt::atomic_and(SIMT_SITE, __VA_ARGS__)
#define atomicOr(...) simt::atomic_or(SIMT_SITE, __VA_ARGS__)
#define atomicXor(...) simt::atomic_xor(SIMT_SITE, __VA_ARGS__)
#define atomicExch(...) simt::atomic_exch(SIMT_SITE, __VA_ARGS__)
#define atomicInc(...) simt::atomic_inc(SIMT_SITE, __VA_ARGS__)
#define atomicCAS(...) simt::atomic_cas(SIMT_SITE, __VA_ARGS__)

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __float_as_int(float f) { return __builtin_bit_cast(int, f); }
inline unsigned __float_as_uint(float f) { return __builtin_bit_cast(unsigned, f); }
inline float __int_as_float(int i) { return __builtin_bit_cast(float, i); }
inline float __uint_as_float(unsigned u) { return __builtin_bit_cast(float, u); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
template <class T> inline T __ldg(const T *p) { return *p; }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
