// Kernels over lists: compaction, scan over many blocks, histogram, top-k, radix sort, and two sorts that show barriers at both levels.
#pragma once
#include "../block.cuh"

// ---- compaction: indices of kept elements, in order ------------------------------------------------------------------------------
__global__ void compact_count(const unsigned char *keep, int n, int *counts) {
    SHARED(int, count, );
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    const unsigned kept = __ballot_sync(WARP_FULL, i < n && keep[i]);
    if ((threadIdx.x & 31) == 0) atomicAdd(&count, __popc(kept));
    __syncthreads();
    if (threadIdx.x == 0) counts[blockIdx.x] = count;
}

// One block; counts become sums of those before, and counts[n] the total.
__global__ void scan_counts(int *counts, int n) {
    int total;
    int running = 0;
    for (int first = 0; first < n; first += blockDim.x) {
        const int i = first + threadIdx.x;
        const int before = block_scan_exclusive(i < n ? counts[i] : 0, &total);
        if (i < n) counts[i] = running + before;
        running += total;
    }
    if (threadIdx.x == 0) counts[n] = running;
}

__global__ void compact_scatter(const unsigned char *keep, int n, const int *base, int *out) {
    SHARED(int, warp_counts, [32]);
    const int t = threadIdx.x, lane = t & 31, warp = t >> 5, i = blockIdx.x * blockDim.x + t;
    const bool kept = i < n && keep[i];
    const unsigned ballot = __ballot_sync(WARP_FULL, kept);
    if (lane == 0) warp_counts[warp] = __popc(ballot);
    __syncthreads();
    int place = base[blockIdx.x] + __popc(ballot & ((1u << lane) - 1u));
    for (int w = 0; w < warp; w++) place += warp_counts[w];
    if (kept) out[place] = i;
}

// ---- scan: sums within blocks, then the blocks' bases ----------------------------------------------------------------------------
__global__ void scan_blocks(const int *x, int n, int *y, int *sums) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    int total;
    const int before = block_scan_exclusive(i < n ? x[i] : 0, &total);
    if (i < n) y[i] = before;
    if (threadIdx.x == 0) sums[blockIdx.x] = total;
}
__global__ void scan_add_bases(int *y, int n, const int *bases) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += bases[blockIdx.x];
}

// ---- histogram -------------------------------------------------------------------------------------------------------------------
__global__ void histogram(const int *x, int n, int *bins, float *sum) {
    SHARED(int, local, [64]);
    for (int b = threadIdx.x; b < 64; b += blockDim.x) local[b] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        atomicAdd(&local[x[i] & 63], 1);
        atomicAdd(sum, 1.0f);
    }
    __syncthreads();
    for (int b = threadIdx.x; b < 64; b += blockDim.x) {
        if (local[b]) atomicAdd(&bins[b], local[b]);
    }
}

// ---- selection and sorting -------------------------------------------------------------------------------------------------------
__global__ void top_k(const float *scores, int n, int k, int *out) {
    block_top_k(scores + blockIdx.x * n, n, k, out + blockIdx.x * k);
}

__global__ void radix_sort(uint32_t *keys, int *values) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t key = keys[i];
    int value = values[i];
    block_radix_sort(key, value, 0, 32);
    keys[i] = key;
    values[i] = value;
}

// Ascending by score, then index; 256 elements a block.
__global__ void bitonic_sort(float *scores, int *indices) {
    SHARED(float, score, [256]);
    SHARED(int, index, [256]);
    const int t = threadIdx.x, i = blockIdx.x * 256 + t;
    score[t] = scores[i];
    index[t] = indices[i];
    __syncthreads();
    for (int size = 2; size <= 256; size <<= 1) {
        for (int stride = size >> 1; stride; stride >>= 1) {
            const int p = t ^ stride;
            if (p > t) {
                const bool greater = score[t] > score[p] || (score[t] == score[p] && index[t] > index[p]);
                if (greater == ((t & size) == 0)) {
                    const float s = score[t];
                    const int v = index[t];
                    score[t] = score[p], index[t] = index[p];
                    score[p] = s, index[p] = v;
                }
            }
            __syncthreads();
        }
    }
    scores[i] = score[t];
    indices[i] = index[t];
}

// Every warp sorts its 32 values through shared memory; only its own lanes ever meet, so __syncwarp is enough.
__global__ void odd_even_sort(int *values) {
    SHARED(int, all, [8][32]);
    int *mine = all[threadIdx.x >> 5];
    const int lane = threadIdx.x & 31, i = blockIdx.x * blockDim.x + threadIdx.x;
    mine[lane] = values[i];
    __syncwarp();
    for (int round = 0; round < 32; round++) {
        const int a = 2 * lane + (round & 1);
        if (a + 1 < 32) {
            const int low = min(mine[a], mine[a + 1]), high = max(mine[a], mine[a + 1]);
            mine[a] = low;
            mine[a + 1] = high;
        }
        __syncwarp();
    }
    values[i] = mine[lane];
}
