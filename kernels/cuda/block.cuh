// Block-wide primitives: reduce, scan, radix sort, top-k. All threads of the block call them together; blockDim.x is a multiple of 32, at
// most 1024, and the only dimension. Their scratch memory may be used again at once, so calls can follow each other without a barrier.
#pragma once
#include "compat/compat.h"

#define WARP_FULL 0xffffffffu

struct AddOp {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};
struct MaxOp {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a > b ? a : b; }
};

template <class T, class F> __device__ __forceinline__ T warp_reduce(T v, F combine) {
    UNROLL
    for (int offset = 16; offset; offset >>= 1) v = combine(v, __shfl_xor_sync(WARP_FULL, v, offset));
    return v;
}

// Every thread gets the result. The order of the combination depends on blockDim.x only.
template <class T, class F> __device__ T block_reduce(T v, F combine, T identity) {
    SHARED(T, partial, [32]);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = blockDim.x >> 5;
    v = warp_reduce(v, combine);
    if (lane == 0) partial[warp] = v;
    __syncthreads();
    v = warp_reduce(lane < n_warps ? partial[lane] : identity, combine);
    __syncthreads();
    return v;
}

template <class T> __device__ __forceinline__ T warp_scan_inclusive(T v) {
    const int lane = threadIdx.x & 31;
    UNROLL
    for (int offset = 1; offset < 32; offset <<= 1) {
        const T below = __shfl_up_sync(WARP_FULL, v, offset);
        if (lane >= offset) v += below;
    }
    return v;
}

// The sum of the values of all threads before this one; *total gets the sum of all.
template <class T> __device__ T block_scan_exclusive(T v, T *total) {
    SHARED(T, partial, [32]);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = blockDim.x >> 5;
    const T inclusive = warp_scan_inclusive(v);
    if (lane == 31) partial[warp] = inclusive;
    __syncthreads();
    const T sums = warp_scan_inclusive(lane < n_warps ? partial[lane] : T(0));
    *total = __shfl_sync(WARP_FULL, sums, 31);
    const T before = __shfl_sync(WARP_FULL, sums, warp ? warp - 1 : 0);
    __syncthreads();
    return inclusive - v + (warp ? before : T(0));
}

// Stable, ascending by bits [first_bit, end_bit) of the key, one pair per thread: four bits a pass. A lane's rank among equal digits of its
// warp comes from a match; counts go by digit, then warp.
template <class V> __device__ void block_radix_sort(uint32_t &key, V &value, int first_bit, int end_bit) {
    SHARED(int, count, [16 * 32]);
    SHARED(uint32_t, keys, [1024]);
    SHARED(V, values, [1024]);
    const int t = threadIdx.x, lane = t & 31, warp = t >> 5, n_warps = blockDim.x >> 5;
    for (int bit = first_bit; bit < end_bit; bit += 4) {
        const int n_bits = end_bit - bit < 4 ? end_bit - bit : 4;
        const int digit = static_cast<int>(key >> bit & ((1u << n_bits) - 1u));
        if (lane < 16) count[lane * n_warps + warp] = 0;
        __syncwarp();
        const unsigned peers = __match_any_sync(WARP_FULL, digit);
        const int rank = __popc(peers & ((1u << lane) - 1u));
        if (rank == 0) count[digit * n_warps + warp] = __popc(peers);
        __syncthreads();
        if (warp == 0) {
            const int n = 16 * n_warps, n_each = (n + 31) / 32, first = lane * n_each;
            int sum = 0;
            for (int i = first; i < first + n_each && i < n; i++) sum += count[i];
            int before = warp_scan_inclusive(sum) - sum;
            for (int i = first; i < first + n_each && i < n; i++) {
                const int c = count[i];
                count[i] = before;
                before += c;
            }
        }
        __syncthreads();
        const int place = count[digit * n_warps + warp] + rank;
        keys[place] = key;
        values[place] = value;
        __syncthreads();
        key = keys[t];
        value = values[t];
    }
}

// Larger scores get smaller keys.
__device__ __forceinline__ uint32_t descending_key(float score) {
    const uint32_t u = __float_as_uint(score);
    return u & 0x80000000u ? u : ~u & 0x7fffffffu;
}

// Indices of the k largest of n scores, best first, ties by the lower index; k < blockDim.x. With fewer than k scores the rest is -1.
// The first k threads hold the best so far; the others bring new ones each round.
__device__ inline void block_top_k(const float *scores, int n, int k, int *out) {
    const int t = threadIdx.x, n_new = blockDim.x - k;
    uint32_t key = 0xffffffffu;
    int index = -1;
    for (int first = 0; first < n; first += n_new) {
        if (t >= k) {
            const int i = first + t - k;
            index = i < n ? i : -1;
            key = i < n ? descending_key(scores[i]) : 0xffffffffu;
        }
        block_radix_sort(key, index, 0, 32);
    }
    if (t < k) out[t] = index;
}
