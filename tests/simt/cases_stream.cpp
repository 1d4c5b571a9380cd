// Kernels that only stream: hardly any arithmetic and no warp operation between their accesses, so what the checker adds to an access shows
// undiluted. stream_elements is small for correctness and large where test_samples measures.
#include "cases.h"
#include "../../kernels/cuda/block.cuh"

static const int n_stream_threads = 128, n_stream_blocks = 8;

#define EACH(i, n) (int i = blockIdx.x * blockDim.x + threadIdx.x, each = gridDim.x * blockDim.x; i < n; i += each)

__global__ void stream_copy(const float *x, int n, float *y) {
    for EACH(i, n) y[i] = x[i];
}
__global__ void stream_axpy(const float *x, int n, float a, float *y) {
    for EACH(i, n) y[i] = y[i] + a * x[i];
}
__global__ void stream_add_one_each(const float *x, const float *y, int n, float *z) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) z[i] = x[i] + y[i];
}
__global__ void stream_copy_vectors(const float4 *x, int n, float4 *y) {
    for EACH(i, n) {
        const float4 v = x[i];
        y[i] = make_float4(v.w, v.z, v.y, v.x);
    }
}
__global__ void stream_copy_128(const uint4 *x, int n, uint4 *y) {
    for EACH(i, n) st128(y + i, ld128(x + i));
}
__global__ void stream_halves(const __half *x, int n, __half *y) {
    for EACH(i, n) y[i] = __hneg(x[i]);
}
__global__ void stream_bytes(const unsigned char *x, int n, unsigned char *y) {
    for EACH(i, n) y[i] = static_cast<unsigned char>(x[i] ^ 0x5a);
}
__global__ void stream_doubles(const double *x, int n, double *y) {
    for EACH(i, n) y[i] = 2.0 * x[i];
}
// Each block reads all of x.
__global__ void stream_shared_input(const int *x, int n, int *sums) {
    int sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
    sums[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
// All threads read the same words.
__global__ void stream_broadcast(const int *x, int n, int *sums) {
    int sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    sums[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
// y[row][column] = sum of a[row][k] * b[k][column]; blocks of 16 x 8.
__global__ void stream_multiply(const float *a, const float *b, int n, float *y) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= n || column >= n) return;
    float sum = 0.0f;
    for (int k = 0; k < n; k++) sum += a[row * n + k] * b[k * n + column];
    y[row * n + column] = sum;
}
__global__ void stream_transpose(const float *x, int n_rows, int n_columns, float *y) {
    for EACH(i, n_rows * n_columns) y[i % n_columns * n_rows + i / n_columns] = x[i];
}
// A tile goes through shared memory over and over.
__global__ void stream_shared_rounds(const float *x, int n_rounds, float *y) {
    SHARED(float, tile, [2][1024]);
    const int t = threadIdx.x;
    for (int i = t; i < 1024; i += blockDim.x) tile[0][i] = x[i];
    __syncthreads();
    for (int round = 0; round < n_rounds; round++) {
        for (int i = t; i < 1024; i += blockDim.x) {
            tile[1 - (round & 1)][i] = tile[round & 1][(i + 1) & 1023] + tile[round & 1][i];
        }
        __syncthreads();
    }
    for (int i = t; i < 1024; i += blockDim.x) y[blockIdx.x * 1024 + i] = tile[n_rounds & 1][i];
}
__global__ void stream_histogram(const unsigned char *x, int n, int *bins) {
    for EACH(i, n) atomicAdd(&bins[x[i]], 1);
}

static const dim3 blocks(n_stream_blocks), threads(n_stream_threads);

static std::vector<float> small_floats(int n) {
    std::vector<float> v(n);
    for (float &f : v) f = static_cast<float>(next_random() % 64);
    return v;
}
static std::vector<unsigned char> random_bytes(int n) {
    std::vector<unsigned char> v(n);
    for (unsigned char &b : v) b = static_cast<unsigned char>(next_random());
    return v;
}

static bool run_copy() {
    const int n = stream_elements - 5;
    const std::vector<float> x = small_floats(n);
    Buffer<float> d_x(x), y(n);
    LAUNCH(stream_copy, blocks, threads, 0, 0, d_x, n, y);
    return y.get() == x && y.ok();
}

static bool run_axpy() {
    const int n = stream_elements;
    std::vector<float> x = small_floats(n), y = small_floats(n);
    Buffer<float> d_x(x), d_y(y);
    LAUNCH(stream_axpy, blocks, threads, 0, 0, d_x, n, 3.0f, d_y);
    for (int i = 0; i < n; i++) y[i] += 3.0f * x[i];
    return d_y.get() == y && d_y.ok();
}

static bool run_add_one_each() {
    const int n = stream_elements - 3;
    std::vector<float> x = small_floats(n), y = small_floats(n);
    Buffer<float> d_x(x), d_y(y), z(n);
    LAUNCH(stream_add_one_each, dim3((n + 127) / 128), threads, 0, 0, d_x, d_y, n, z);
    for (int i = 0; i < n; i++) y[i] += x[i];
    return z.get() == y && z.ok();
}

static bool run_copy_vectors() {
    const int n = stream_elements / 4;
    const std::vector<float> x = small_floats(4 * n);
    Buffer<float> d_x(x), y(4 * static_cast<size_t>(n));
    LAUNCH(stream_copy_vectors, blocks, threads, 0, 0, reinterpret_cast<const float4 *>(static_cast<float *>(d_x)), n,
           reinterpret_cast<float4 *>(static_cast<float *>(y)));
    const std::vector<float> got = y.get();
    for (int i = 0; i < 4 * n; i++) {
        if (got[i] != x[i ^ 3]) return false;
    }
    return y.ok();
}

static bool run_copy_128() {
    const int n = stream_elements / 4;
    const std::vector<float> x = small_floats(4 * n);
    Buffer<float> d_x(x), y(4 * static_cast<size_t>(n));
    LAUNCH(stream_copy_128, blocks, threads, 0, 0, reinterpret_cast<const uint4 *>(static_cast<float *>(d_x)), n,
           reinterpret_cast<uint4 *>(static_cast<float *>(y)));
    return y.get() == x && y.ok();
}

static bool run_halves() {
    const int n = stream_elements - 1;
    std::vector<unsigned short> x(n);
    for (unsigned short &h : x) h = static_cast<unsigned short>(next_random());
    Buffer<unsigned short> d_x(x), y(n);
    LAUNCH(stream_halves, blocks, threads, 0, 0, reinterpret_cast<const __half *>(static_cast<unsigned short *>(d_x)), n,
           reinterpret_cast<__half *>(static_cast<unsigned short *>(y)));
    const std::vector<unsigned short> got = y.get();
    for (int i = 0; i < n; i++) {
        const bool nan = (x[i] & 0x7fff) > 0x7c00; // __hneg of a NaN may be any NaN
        if (nan ? (got[i] & 0x7fff) <= 0x7c00 : got[i] != (x[i] ^ 0x8000)) return false;
    }
    return y.ok();
}

static bool run_bytes() {
    const int n = stream_elements - 2;
    std::vector<unsigned char> x = random_bytes(n);
    Buffer<unsigned char> d_x(x), y(n);
    LAUNCH(stream_bytes, blocks, threads, 0, 0, d_x, n, y);
    for (unsigned char &b : x) b ^= 0x5a;
    return y.get() == x && y.ok();
}

static bool run_doubles() {
    const int n = stream_elements / 2;
    std::vector<double> x(n);
    for (double &d : x) d = static_cast<double>(next_random() % 1000);
    Buffer<double> d_x(x), y(n);
    LAUNCH(stream_doubles, blocks, threads, 0, 0, d_x, n, y);
    for (double &d : x) d *= 2.0;
    return y.get() == x && y.ok();
}

static bool run_reads(void (*kernel)(const int *, int, int *), int n, bool same) {
    std::vector<int> x(n), expected(n_stream_threads * n_stream_blocks, 0);
    for (int i = 0; i < n; i++) x[i] = static_cast<int>(next_random() % 1000);
    for (size_t t = 0; t < expected.size(); t++) {
        for (int i = same ? 0 : static_cast<int>(t) % n_stream_threads; i < n; i += same ? 1 : n_stream_threads) expected[t] += x[i];
    }
    Buffer<int> d_x(x), sums(expected.size());
    LAUNCH(kernel, blocks, threads, 0, 0, d_x, n, sums);
    return sums.get() == expected && sums.ok();
}
static bool run_shared_input() { return run_reads(stream_shared_input, stream_elements / 4, false); }
static bool run_broadcast() { return run_reads(stream_broadcast, stream_elements / 512, true); }

static bool run_multiply() {
    const int n = stream_elements < 50000 ? 24 : 100;
    const std::vector<float> a = small_floats(n * n), b = small_floats(n * n);
    std::vector<float> y(n * n, 0.0f);
    for (int row = 0; row < n; row++) {
        for (int k = 0; k < n; k++) {
            for (int column = 0; column < n; column++) y[row * n + column] += a[row * n + k] * b[k * n + column];
        }
    }
    Buffer<float> d_a(a), d_b(b), d_y(y.size());
    LAUNCH(stream_multiply, dim3((n + 15) / 16, (n + 7) / 8), dim3(16, 8), 0, 0, d_a, d_b, n, d_y);
    return d_y.get() == y && d_y.ok();
}

static bool run_transpose() {
    const int n_columns = 50, n_rows = stream_elements / n_columns;
    const std::vector<float> x = small_floats(n_rows * n_columns);
    Buffer<float> d_x(x), y(x.size());
    LAUNCH(stream_transpose, blocks, threads, 0, 0, d_x, n_rows, n_columns, y);
    const std::vector<float> got = y.get();
    for (int i = 0; i < n_rows * n_columns; i++) {
        if (got[i % n_columns * n_rows + i / n_columns] != x[i]) return false;
    }
    return y.ok();
}

static bool run_shared_rounds() {
    const int n_rounds = stream_elements < 50000 ? 3 : 40;
    std::vector<float> x(1024), next(1024);
    for (float &f : x) f = static_cast<float>(next_random() % 4) / 1024.0f;
    Buffer<float> d_x(x), y(1024 * n_stream_blocks);
    LAUNCH(stream_shared_rounds, blocks, threads, 0, 0, d_x, n_rounds, y);
    for (int round = 0; round < n_rounds; round++, x = next) {
        for (int i = 0; i < 1024; i++) next[i] = x[(i + 1) & 1023] + x[i];
    }
    const std::vector<float> got = y.get();
    for (size_t i = 0; i < got.size(); i++) {
        if (got[i] != x[i % 1024]) return false;
    }
    return y.ok();
}

static bool run_histogram() {
    const int n = stream_elements / 2;
    const std::vector<unsigned char> x = random_bytes(n);
    std::vector<int> expected(256, 0);
    for (unsigned char b : x) expected[b]++;
    Buffer<unsigned char> d_x(x);
    Buffer<int> bins(std::vector<int>(256, 0));
    LAUNCH(stream_histogram, blocks, threads, 0, 0, d_x, n, bins);
    return bins.get() == expected && bins.ok();
}

const std::vector<Case> &stream_cases() {
    static const std::vector<Case> cases = {{"stream: copy", run_copy},
                                            {"stream: axpy", run_axpy},
                                            {"stream: one element each", run_add_one_each},
                                            {"stream: float4", run_copy_vectors},
                                            {"stream: ld128", run_copy_128},
                                            {"stream: halves", run_halves},
                                            {"stream: bytes", run_bytes},
                                            {"stream: doubles", run_doubles},
                                            {"stream: all blocks read all", run_shared_input},
                                            {"stream: all threads read all", run_broadcast},
                                            {"stream: multiply", run_multiply},
                                            {"stream: transpose", run_transpose},
                                            {"stream: shared rounds", run_shared_rounds},
                                            {"stream: histogram", run_histogram}};
    return cases;
}
