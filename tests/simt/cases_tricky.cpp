// Correct code that a careless checker would report: neighbouring bytes, part-warp masks, warps that run apart, memory used again, atomics
// at several levels, blocks that leave early, blocks of three dimensions.
#include "cases.h"
#include "../../kernels/cuda/block.cuh"

// Bytes and halves of one word belong to different threads; whole words are read after the barrier, and written whole again.
__global__ void neighbouring_bytes(unsigned char *bytes, unsigned short *halves, unsigned *words) {
    SHARED(unsigned char, b, [128]);
    SHARED(unsigned short, h, [64]);
    const int t = threadIdx.x;
    b[t] = static_cast<unsigned char>(t);
    bytes[t] = static_cast<unsigned char>(t ^ 1);
    if (t < 64) h[t] = static_cast<unsigned short>(3 * t);
    if (t < 64) halves[t] = static_cast<unsigned short>(t);
    __syncthreads();
    if (t < 32) words[t] = reinterpret_cast<const unsigned *>(b)[t] + reinterpret_cast<const unsigned *>(h)[31 - t];
    __syncthreads();
    if (t < 32) reinterpret_cast<unsigned *>(b)[t] = words[31 - t];
    __syncthreads();
    bytes[128 + t] = b[127 - t];
}

// Two halves of a warp, and groups of equal keys, synchronise by themselves; warps run different numbers of rounds.
__global__ void part_warps(const int *keys, int *out) {
    SHARED(int, s, [64]);
    const int t = threadIdx.x, lane = t & 31, warp = t >> 5;
    const unsigned half_mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    s[t] = t;
    __syncwarp(half_mask);
    int sum = s[t ^ 15];
    __syncwarp(half_mask);
    s[t] = sum + 1;
    __syncwarp();
    sum += s[t ^ 31];
    for (int round = 0; round <= 2 * warp; round++) sum += __shfl_down_sync(half_mask, sum, 1, 16);
    const unsigned peers = __match_any_sync(WARP_FULL, keys[t]);
    sum += __popc(__ballot_sync(peers, lane & 1));
    if (keys[t] == 2) sum += __shfl_sync(peers, lane, __ffs(static_cast<int>(peers)) - 1);
    out[t] = sum;
}

// One array for several purposes, each behind a barrier; reads by all of what one wrote.
__global__ void memory_used_again(int *out, int n_rounds) {
    DYN_SHARED(int, s);
    const int t = threadIdx.x;
    int sum = 0;
    for (int round = 0; round < n_rounds; round++) {
        s[t] = t + round;
        __syncthreads();
        sum += s[(t + 37) % blockDim.x] + s[0];
        __syncthreads();
        if (t == round) s[0] = sum;
        __syncthreads();
        sum += s[0] & 7;
        if (__syncthreads_or(round == 3)) sum++;
    }
    out[blockIdx.x * blockDim.x + t] = sum;
}

// Atomics of lanes, warps and blocks on the same words; plain reads only behind the barrier, or in the next launch.
__global__ void atomics_everywhere(int *bins, unsigned long long *total, float *sum) {
    SHARED(int, c, [4]);
    const int t = threadIdx.x;
    if (t < 4) c[t] = 0;
    __syncthreads();
    atomicAdd(&c[t & 3], 1);
    atomicMax(&c[3], t);
    atomicAdd(total, 1ull);
    atomicAdd(sum, 0.5f);
    __syncthreads();
    if (t < 4) atomicAdd(&bins[t], c[t]);
}
// Half precision throughout: shuffles and atomics of 2 and 4 bytes. All values stay integers below 2,048, so order does not matter.
__global__ void half_sums(const __half2 *x, int n, __half2 *total, __half *n_low, __nv_bfloat162 *most) {
    __half2 sum = __float2half2_rn(0.0f);
    __half2 largest = sum;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        sum = __hfma2(x[i], __float2half2_rn(2.0f), sum);
        largest = __hmax2(largest, x[i]);
    }
    UNROLL
    for (int offset = 16; offset; offset >>= 1) {
        sum = __hadd2(sum, __shfl_xor_sync(WARP_FULL, sum, offset));
        largest = __hmax2(largest, __shfl_xor_sync(WARP_FULL, largest, offset));
    }
    if ((threadIdx.x & 31) != 0) return;
    atomicAdd(total, sum);
    if (__hlt(__low2half(sum), __high2half(sum))) atomicAdd(n_low, __float2half(1.0f));
    most[blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5)] = __floats2bfloat162_rn(__low2float(largest), __high2float(largest));
}
__global__ void read_atomics(const int *bins, int *out) { out[threadIdx.x] = bins[threadIdx.x & 3]; }

// Whole blocks leave before the barrier; the others have three dimensions and no full warp.
__global__ void blocks_that_leave(int *out, int n_blocks) {
    SHARED(int, s, [3][4][5]);
    if (static_cast<int>(blockIdx.x) >= n_blocks) return;
    s[threadIdx.z][threadIdx.y][threadIdx.x] = static_cast<int>(threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z);
    __syncthreads();
    const int i = threadIdx.x + 5 * (threadIdx.y + 4 * threadIdx.z);
    out[blockIdx.x * 60 + i] = s[2 - threadIdx.z][3 - threadIdx.y][4 - threadIdx.x];
}

static bool run_bytes() {
    Buffer<unsigned char> bytes(size_t(256));
    Buffer<unsigned short> halves(size_t(64));
    Buffer<unsigned> words(size_t(32));
    LAUNCH(neighbouring_bytes, dim3(1), dim3(128), 0, 0, bytes, halves, words);
    const std::vector<unsigned char> got = bytes.get();
    const std::vector<unsigned> w = words.get();
    bool ok = bytes.ok() && words.ok();
    for (int t = 0; ok && t < 32; t++) {
        const unsigned b = 0x03020100u + 0x04040404u * static_cast<unsigned>(t), h = static_cast<unsigned>(3 * 2 * (31 - t)) | static_cast<unsigned>(3 * (2 * (31 - t) + 1)) << 16;
        ok = w[t] == b + h;
    }
    for (int t = 0; ok && t < 128; t++) ok = got[t] == (t ^ 1) && got[128 + t] == static_cast<unsigned char>(w[31 - (127 - t) / 4] >> (127 - t) % 4 * 8);
    return ok;
}
static bool run_part_warps() {
    std::vector<int> keys(64);
    for (int &k : keys) k = static_cast<int>(next_random() % 4);
    Buffer<int> d_keys(keys), out(size_t(64));
    LAUNCH(part_warps, dim3(1), dim3(64), 0, 0, d_keys, out);
    const std::vector<int> got = out.get();
    bool ok = out.ok();
    for (int warp = 0; ok && warp < 2; warp++) {
        int sum[32], next[32];
        for (int l = 0; l < 32; l++) sum[l] = ((32 * warp + l) ^ 15) + (((32 * warp + (l ^ 31)) ^ 15) + 1);
        for (int round = 0; round <= 2 * warp; round++) {
            for (int l = 0; l < 32; l++) next[l] = sum[l] + sum[l % 16 == 15 ? l : l + 1];
            for (int l = 0; l < 32; l++) sum[l] = next[l];
        }
        for (int l = 0; ok && l < 32; l++) {
            int odd = 0, first = -1;
            for (int m = 0; m < 32; m++) {
                if (keys[32 * warp + m] != keys[32 * warp + l]) continue;
                odd += m & 1;
                if (first < 0) first = m;
            }
            ok = got[32 * warp + l] == sum[l] + odd + (keys[32 * warp + l] == 2 ? first : 0);
        }
    }
    return ok;
}
static bool run_used_again() {
    const int n = 64, n_rounds = 5;
    Buffer<int> out(size_t(2 * n));
    LAUNCH(memory_used_again, dim3(2), dim3(n), n * sizeof(int), 0, out, n_rounds);
    const std::vector<int> got = out.get();
    std::vector<int> sum(n, 0);
    for (int round = 0; round < n_rounds; round++) {
        for (int t = 0; t < n; t++) sum[t] += (t + 37) % n + round + round;
        const int written = sum[round];
        for (int t = 0; t < n; t++) sum[t] += (written & 7) + (round == 3);
    }
    bool ok = out.ok();
    for (int i = 0; ok && i < 2 * n; i++) ok = got[i] == sum[i % n];
    return ok;
}
static bool run_atomics() {
    Buffer<int> bins(std::vector<int>(4, 0)), out(size_t(32));
    Buffer<unsigned long long> total(std::vector<unsigned long long>(1, 0));
    Buffer<float> sum(std::vector<float>(1, 0.0f));
    LAUNCH(atomics_everywhere, dim3(3), dim3(96), 0, 0, bins, total, sum);
    LAUNCH(read_atomics, dim3(1), dim3(32), 0, 0, bins, out);
    const std::vector<int> got = out.get();
    const std::vector<unsigned long long> n = total.get();
    const std::vector<float> f = sum.get();
    bool ok = out.ok() && total.ok() && sum.ok() && n[0] == 288 && f[0] == 144.0f;
    // The last bin counts and takes maxima, in any order: at least its largest thread, at most that and all its counts.
    for (int i = 0; ok && i < 32; i++) ok = i % 4 == 3 ? got[i] >= 3 * 95 && got[i] <= 3 * (95 + 24) : got[i] == 72;
    return ok;
}
static bool run_half_sums() {
    const int n = 300, n_warps = 4;
    std::vector<float> x(2 * n);
    std::vector<unsigned> bits(n);
    float total[2] = {0, 0}, sums[n_warps][2] = {}, most[n_warps][2] = {}, n_low = 0;
    for (int i = 0; i < 2 * n; i++) {
        x[i] = static_cast<float>(next_random() % 3);
        bits[i / 2] |= (x[i] == 0.0f ? 0u : x[i] == 1.0f ? 0x3c00u : 0x4000u) << 16 * (i % 2);
        const int warp = i / 2 % 128 / 32;
        total[i % 2] += 2.0f * x[i];
        sums[warp][i % 2] += 2.0f * x[i];
        if (x[i] > most[warp][i % 2]) most[warp][i % 2] = x[i];
    }
    for (int w = 0; w < n_warps; w++) n_low += sums[w][0] < sums[w][1];
    Buffer<unsigned> d_x(bits), d_total(std::vector<unsigned>(1, 0)), d_most(std::vector<unsigned>(n_warps, 0)), d_low(std::vector<unsigned>(1, 0));
    LAUNCH(half_sums, dim3(2), dim3(64), 0, 0, reinterpret_cast<const __half2 *>(static_cast<unsigned *>(d_x)), n,
           reinterpret_cast<__half2 *>(static_cast<unsigned *>(d_total)), reinterpret_cast<__half *>(static_cast<unsigned *>(d_low)),
           reinterpret_cast<__nv_bfloat162 *>(static_cast<unsigned *>(d_most)));
    const unsigned got = d_total.get()[0], low = d_low.get()[0];
    const std::vector<unsigned> largest = d_most.get();
    bool ok = d_total.ok() && d_low.ok() && d_most.ok() && __half2float(__ushort_as_half(low & 0xffffu)) == n_low;
    for (int k = 0; k < 2; k++) {
        ok = ok && __half2float(__ushort_as_half(got >> 16 * k & 0xffffu)) == total[k];
        for (int w = 0; w < n_warps; w++) ok = ok && __bfloat162float(__ushort_as_bfloat16(largest[w] >> 16 * k & 0xffffu)) == most[w][k];
    }
    return ok;
}
static bool run_leaving() {
    Buffer<int> out(size_t(120));
    LAUNCH(blocks_that_leave, dim3(5), dim3(5, 4, 3), 0, 0, out, 2);
    const std::vector<int> got = out.get();
    bool ok = out.ok();
    for (int i = 0; ok && i < 120; i++) ok = got[i] == (4 - i % 5) + 10 * (3 - i / 5 % 4) + 100 * (2 - i / 20 % 3);
    return ok;
}

const std::vector<Case> &tricky_cases() {
    static const std::vector<Case> cases = {{"neighbouring bytes", run_bytes}, {"part-warp masks", run_part_warps},
                                            {"memory used again", run_used_again}, {"atomics everywhere", run_atomics},
                                            {"blocks that leave", run_leaving},      {"sums in half", run_half_sums}};
    return cases;
}
