// Kernels over matrices: transposition without bank conflicts, a matrix-vector product fed by double-buffered cp.async, tensor-core tiles
// in half and int8, an int8 product by dp4a, softmax, and rotation of heads.
#pragma once
#include "../block.cuh"

CONSTANT(float, rope_frequencies, [8]) = {1.0f, 0.31622777f, 0.1f, 0.031622777f, 0.01f, 0.0031622777f, 0.001f, 0.00031622777f};

// 32 x 32 tiles, 32 x 8 threads; the 33rd column keeps columns in different banks.
__global__ void transpose(float *out, const float *in, int width, int height) {
    SHARED(float, tile, [32][33]);
    const int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32;
    for (int j = threadIdx.y; j < 32; j += 8) {
        if (x < width && y + j < height) tile[j][threadIdx.x] = in[(y + j) * width + x];
    }
    __syncthreads();
    const int ox = blockIdx.y * 32 + threadIdx.x, oy = blockIdx.x * 32;
    for (int j = threadIdx.y; j < 32; j += 8) {
        if (ox < height && oy + j < width) out[(oy + j) * height + ox] = tile[threadIdx.x][j];
    }
}

// y = A x. A block takes 4 rows, a warp each; while one piece of 128 columns is used the next is on its way.
__global__ void gemv_async(float *y, const float *a, const float *x, int n_columns) {
    SHARED(float, rows, [2][4][128]);
    SHARED(float, vector, [2][128]);
    const int t = threadIdx.x, lane = t & 31, warp = t >> 5, row = blockIdx.x * 4 + warp, n_pieces = n_columns / 128;
    cp_async<16>(&rows[0][warp][4 * lane], a + row * n_columns + 4 * lane);
    if (warp == 0) cp_async<16>(&vector[0][4 * lane], x + 4 * lane);
    cp_async_commit();
    float sum = 0.0f;
    for (int piece = 0; piece < n_pieces; piece++) {
        const int now = piece & 1, next = now ^ 1;
        if (piece + 1 < n_pieces) {
            const int column = (piece + 1) * 128 + 4 * lane;
            cp_async<16>(&rows[next][warp][4 * lane], a + row * n_columns + column);
            if (warp == 0) cp_async<16>(&vector[next][4 * lane], x + column);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        for (int i = lane; i < 128; i += 32) sum += rows[now][warp][i] * vector[now][i];
        __syncthreads();
    }
    sum = warp_reduce(sum, AddOp());
    if (lane == 0) y[row] = sum;
}

// c[16][8] = a[16][k] * b[k][8], b given by columns; one warp a block, one tile.
__global__ void mma_tile(float *c, const __half *a, const __half *b, int k) {
    SHARED(__half, a_tile, [16][24]); // rows 48 bytes apart: no two rows of eight share a bank
    SHARED(__half, b_tile, [8][24]);
    const int lane = threadIdx.x;
    float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int k0 = 0; k0 < k; k0 += 16) {
        st128(&a_tile[lane % 16][8 * (lane / 16)], ld128(a + (lane % 16) * k + k0 + 8 * (lane / 16)));
        if (lane < 16) st128(&b_tile[lane % 8][8 * (lane / 8)], ld128(b + (lane % 8) * k + k0 + 8 * (lane / 8)));
        __syncwarp();
        uint32_t af[4], bf[2];
        ldmatrix_x4(af, &a_tile[lane % 16][8 * (lane / 16)]);
        for (int i = 0; i < 2; i++) bf[i] = *reinterpret_cast<const uint32_t *>(&b_tile[lane / 4][2 * (lane % 4) + 8 * i]);
        mma_m16n8k16_f16(acc, af, bf, acc);
        __syncwarp();
    }
    for (int i = 0; i < 4; i++) c[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = acc[i];
}

// The same in int8, fragments straight from global memory.
__global__ void mma_tile_int8(int *c, const signed char *a, const signed char *b, int k) {
    const int lane = threadIdx.x, group = lane / 4, part = lane % 4;
    int acc[4] = {0, 0, 0, 0};
    for (int k0 = 0; k0 < k; k0 += 32) {
        uint32_t af[4], bf[2];
        for (int i = 0; i < 4; i++) af[i] = *reinterpret_cast<const uint32_t *>(a + (group + 8 * (i % 2)) * k + k0 + 4 * part + 16 * (i / 2));
        for (int i = 0; i < 2; i++) bf[i] = *reinterpret_cast<const uint32_t *>(b + group * k + k0 + 4 * part + 16 * i);
        mma_m16n8k32_s8(acc, af, bf, acc);
    }
    for (int i = 0; i < 4; i++) c[(group + 8 * (i / 2)) * 8 + 2 * part + i % 2] = acc[i];
}

// A warp per row, sixteen codes a lane and step.
__global__ void gemv_int8(int *y, const signed char *a, const signed char *x, int n_rows, int n_columns) {
    const int lane = threadIdx.x & 31, row = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    int sum = 0;
    for (int i = 16 * lane; row < n_rows && i < n_columns; i += 16 * 32) {
        const uint4 u = ld128(a + row * n_columns + i), v = ld128(x + i);
        sum = dp4a(static_cast<int>(u.x), static_cast<int>(v.x), sum);
        sum = dp4a(static_cast<int>(u.y), static_cast<int>(v.y), sum);
        sum = dp4a(static_cast<int>(u.z), static_cast<int>(v.z), sum);
        sum = dp4a(static_cast<int>(u.w), static_cast<int>(v.w), sum);
    }
    sum = warp_reduce(sum, AddOp());
    if (lane == 0 && row < n_rows) y[row] = sum;
}

__global__ void softmax_rows(float *x, int n) {
    float *row = x + blockIdx.x * n;
    float most = -1e30f, sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) most = fmaxf(most, row[i]);
    most = block_reduce(most, MaxOp(), -1e30f);
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        row[i] = fast_exp(row[i] - most);
        sum += row[i];
    }
    sum = block_reduce(sum, AddOp(), 0.0f);
    for (int i = threadIdx.x; i < n; i += blockDim.x) row[i] /= sum;
}

// Rotates pairs (i, i + 8) of heads of 16; a thread per pair.
__global__ void rope_heads(float *x, const int *positions, int n_heads) {
    const int i = threadIdx.x & 7, head = blockIdx.x * (blockDim.x >> 3) + (threadIdx.x >> 3);
    if (head >= n_heads) return;
    float *h = x + head * 16;
    const float angle = positions[head] * rope_frequencies[i], c = cosf(angle), s = sinf(angle), a = h[i], b = h[i + 8];
    h[i] = a * c - b * s;
    h[i + 8] = a * s + b * c;
}
