// Decode attention over a paged cache whose pages are stored in three tiers: half, int8 with a scale per token, fp8 e4m3. And the two
// kernels around it: quantising new tokens to int8, and RMSNorm in bf16.
#pragma once
#include "../block.cuh"

constexpr int head_dim = 64, page_tokens = 16;
enum PageTier { tier_half, tier_int8, tier_fp8 };

// Pools are [page][token][head_dim]; a page's tier says which pool its number counts in.
struct PagePools {
    const __half *half_k, *half_v;
    const signed char *int8_k, *int8_v;
    const __half *int8_scale; // [page][token][2]
    const __nv_fp8_e4m3 *fp8_k, *fp8_v;
};

// Two neighbouring elements of a token's row, as floats.
__device__ __forceinline__ float2 load_pair(const PagePools &pools, int tier, int page, int token, int pair, bool value) {
    const int row = page * page_tokens + token;
    if (tier == tier_half) {
        const __half *p = (value ? pools.half_v : pools.half_k) + row * head_dim;
        return __half22float2(reinterpret_cast<const __half2 *>(p)[pair]);
    }
    if (tier == tier_int8) {
        const char2 c = reinterpret_cast<const char2 *>((value ? pools.int8_v : pools.int8_k) + row * head_dim)[pair];
        const float scale = __half2float(pools.int8_scale[row * 2 + (value ? 1 : 0)]);
        return make_float2(c.x * scale, c.y * scale);
    }
    const __nv_fp8_e4m3 *p = (value ? pools.fp8_v : pools.fp8_k) + row * head_dim + 2 * pair;
    return make_float2(static_cast<float>(p[0]), static_cast<float>(p[1]));
}

// One block per sequence and head, four warps; a warp takes a token at a time. Dynamic shared memory: a float per token of the longest.
__global__ void paged_attention(float *out, const float *q, PagePools pools, const int *table, const int *tiers, const int *lengths,
                                int max_pages, float scale) {
    DYN_SHARED(float, scores);
    SHARED(float, query, [head_dim]);
    SHARED(float, partial, [4][head_dim]);
    const int s = blockIdx.x, t = threadIdx.x, lane = t & 31, warp = t >> 5, n = lengths[s];
    if (t < head_dim) query[t] = q[s * head_dim + t] * scale;
    __syncthreads();
    float most = -1e30f;
    for (int token = warp; token < n; token += 4) {
        const int entry = s * max_pages + token / page_tokens;
        const float2 k = load_pair(pools, tiers[entry], table[entry], token % page_tokens, lane, false);
        const float score = warp_reduce(k.x * query[2 * lane] + k.y * query[2 * lane + 1], AddOp());
        if (lane == 0) scores[token] = score;
        most = fmaxf(most, score);
    }
    most = block_reduce(most, MaxOp(), -1e30f);
    float sum = 0.0f;
    for (int i = t; i < n; i += blockDim.x) {
        const float e = fast_exp(scores[i] - most);
        scores[i] = e;
        sum += e;
    }
    sum = block_reduce(sum, AddOp(), 0.0f);
    float2 acc = make_float2(0.0f, 0.0f);
    for (int token = warp; token < n; token += 4) {
        const int entry = s * max_pages + token / page_tokens;
        const float2 v = load_pair(pools, tiers[entry], table[entry], token % page_tokens, lane, true);
        acc.x += scores[token] * v.x;
        acc.y += scores[token] * v.y;
    }
    partial[warp][2 * lane] = acc.x;
    partial[warp][2 * lane + 1] = acc.y;
    __syncthreads();
    if (t < head_dim) out[s * head_dim + t] = (partial[0][t] + partial[1][t] + partial[2][t] + partial[3][t]) / sum;
}

// A warp per token: int8 codes, two a lane, and the scale that maps the largest magnitude to 127.
__global__ void quantise_tokens(signed char *codes, __half *scales, const float *x, int n_tokens) {
    const int lane = threadIdx.x & 31, token = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    const bool live = token < n_tokens;
    const float2 v = live ? reinterpret_cast<const float2 *>(x + token * head_dim)[lane] : make_float2(0.0f, 0.0f);
    const float most = warp_reduce(fmaxf(fabsf(v.x), fabsf(v.y)), MaxOp());
    const __half scale = __float2half_rn(most / 127.0f);
    const float inverse = most > 0.0f ? 1.0f / __half2float(scale) : 0.0f;
    char2 c;
    c.x = static_cast<signed char>(max(-127, min(127, __float2int_rn(v.x * inverse))));
    c.y = static_cast<signed char>(max(-127, min(127, __float2int_rn(v.y * inverse))));
    if (live) {
        reinterpret_cast<char2 *>(codes + token * head_dim)[lane] = c;
        if (lane == 0) scales[token] = scale;
    }
}

__global__ void rms_norm(__nv_bfloat16 *y, const __nv_bfloat16 *x, const float *gain, int n, float epsilon) {
    const __nv_bfloat16 *row = x + blockIdx.x * n;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        const float f = __bfloat162float(row[i]);
        sum += f * f;
    }
    const float inverse = fast_rsqrt(block_reduce(sum, AddOp(), 0.0f) / n + epsilon);
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[blockIdx.x * n + i] = __float2bfloat16(__bfloat162float(row[i]) * inverse * gain[i]);
}
