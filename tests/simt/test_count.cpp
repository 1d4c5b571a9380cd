// Counters of kernels whose traffic is known: coalesced and strided global memory, bank conflicts, warp operations, arithmetic; and the
// sample kernels' own claims.
#include "cases.h"
#include "harness.h"
#include "../../kernels/cuda/samples/matrices.cuh"

__global__ void copy_words(float *out, const float *in, int stride) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = in[i * stride];
}
__global__ void copy_vectors(float *out, const float *in) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    st128(out + 4 * i, ld128(in + 4 * i));
}
__global__ void broadcast(float *out, const float *in) { out[threadIdx.x] = in[0]; }
__global__ void shared_stride(float *out, int stride) {
    SHARED(float, s, [32 * 33]);
    const int t = threadIdx.x;
    s[t * stride] = static_cast<float>(t);
    __syncwarp();
    out[t] = s[t * stride];
}
__global__ void axpy(float *y, const float *x, float a, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = a * x[i] + y[i];
}
__global__ void many_operations(float *out, int *sums) {
    const int t = threadIdx.x;
    float v = fast_exp(static_cast<float>(t & 3));
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    if (__any_sync(0xffffffffu, t == 5)) v += 1.0f;
    __syncthreads();
    out[t] = v;
    atomicAdd(&sums[t & 1], dp4a(t, 0x01010101, 1));
}

static const simt::Counters &counted() { return simt::counters(); }
static void fresh() {
    simt::reset();
    simt::options() = simt::Options();
    simt::options().count = true;
    simt::clear_counters();
}

static void test_coalescing() {
    fresh();
    Buffer<float> in(std::vector<float>(128 * 32, 1.0f)), out(size_t(512));
    LAUNCH(copy_words, dim3(2), dim3(64), 0, 0, out, in, 1);
    CHECK(counted().global.read_bytes == 512 && counted().global.written_bytes == 512, "%llu bytes", static_cast<unsigned long long>(counted().global.read_bytes));
    CHECK(counted().global.accesses == 8 && counted().global.transactions == 32 && counted().global.ideal == 32, "%llu accesses, %llu sectors",
          static_cast<unsigned long long>(counted().global.accesses), static_cast<unsigned long long>(counted().global.transactions));
    simt::clear_counters();
    LAUNCH(copy_words, dim3(2), dim3(64), 0, 0, out, in, 32);
    CHECK(counted().global.transactions == 128 + 16 && counted().global.ideal == 32, "stride: %llu", static_cast<unsigned long long>(counted().global.transactions));
    simt::clear_counters();
    LAUNCH(copy_vectors, dim3(1), dim3(128), 0, 0, out, in);
    CHECK(counted().global.transactions == 128 && counted().global.ideal == 128 && counted().global.accesses == 8, "vectors: %llu",
          static_cast<unsigned long long>(counted().global.transactions));
    simt::clear_counters();
    LAUNCH(broadcast, dim3(1), dim3(32), 0, 0, out, in);
    CHECK(counted().global.transactions == 1 + 4, "broadcast: %llu", static_cast<unsigned long long>(counted().global.transactions));
}

static void test_bank_conflicts() {
    fresh();
    Buffer<float> out(size_t(32));
    const int strides[] = {1, 2, 8, 32, 33}, ways[] = {1, 2, 8, 32, 1};
    for (int k = 0; k < 5; k++) {
        simt::clear_counters();
        LAUNCH(shared_stride, dim3(1), dim3(32), 0, 0, out, strides[k]);
        CHECK(counted().shared.transactions == 2u * static_cast<unsigned>(ways[k]) && counted().bank_conflicts == 2u * static_cast<unsigned>(ways[k] - 1),
              "stride %d: %llu passes", strides[k], static_cast<unsigned long long>(counted().shared.transactions));
    }
}

static void test_operations() {
    fresh();
    Buffer<float> out(size_t(64));
    Buffer<int> sums(std::vector<int>(2, 0));
    LAUNCH(many_operations, dim3(1), dim3(64), 0, 0, out, sums);
    const simt::Counters &c = counted();
    CHECK(c.special == 64 && c.dot_products == 64 && c.atomics == 64, "%llu special, %llu dot products, %llu atomics", static_cast<unsigned long long>(c.special),
          static_cast<unsigned long long>(c.dot_products), static_cast<unsigned long long>(c.atomics));
    CHECK(c.shuffles == 2 && c.votes == 2 && c.barriers == 1 && c.warp_syncs == 0, "%llu shuffles, %llu votes, %llu barriers",
          static_cast<unsigned long long>(c.shuffles), static_cast<unsigned long long>(c.votes), static_cast<unsigned long long>(c.barriers));
}

static void test_arithmetic() {
#if defined(__x86_64__)
    fresh();
    const int n = 1000;
    Buffer<float> x(std::vector<float>(n, 1.0f)), y(std::vector<float>(n, 2.0f));
    LAUNCH(axpy, dim3(1), dim3(64), 0, 0, y, x, 3.0f, n);
    CHECK(counted().float_ops == 2 * n, "%llu float operations", static_cast<unsigned long long>(counted().float_ops));
    CHECK(counted().branches >= n && counted().integer_ops >= n, "%llu branches, %llu integer operations", static_cast<unsigned long long>(counted().branches),
          static_cast<unsigned long long>(counted().integer_ops));
#endif
}

static void test_samples_are_conflict_free() {
    fresh();
    Buffer<float> in(std::vector<float>(64 * 64, 1.0f)), out(size_t(64 * 64));
    LAUNCH(transpose, dim3(2, 2), dim3(32, 8), 0, 0, out, in, 64, 64);
    CHECK(counted().bank_conflicts == 0 && counted().shared.accesses > 0, "transposition: %llu conflicts", static_cast<unsigned long long>(counted().bank_conflicts));
    CHECK(counted().global.transactions == counted().global.ideal, "transposition: %llu of %llu sectors",
          static_cast<unsigned long long>(counted().global.transactions), static_cast<unsigned long long>(counted().global.ideal));
    simt::clear_counters();
    Buffer<float> vector(std::vector<float>(512, 1.0f)), y(size_t(8));
    LAUNCH(gemv_async, dim3(2), dim3(128), 0, 0, y, in, vector, 512);
    CHECK(counted().bank_conflicts == 0 && counted().async_copies == 2 * 4 * (4 * 32 + 32), "gemv: %llu conflicts, %llu copies",
          static_cast<unsigned long long>(counted().bank_conflicts), static_cast<unsigned long long>(counted().async_copies));
    simt::clear_counters();
    Buffer<__half> a(std::vector<__half>(16 * 32, __float2half(1.0f))), b(std::vector<__half>(8 * 32, __float2half(1.0f)));
    Buffer<float> c(size_t(128));
    LAUNCH(mma_tile, dim3(1), dim3(32), 0, 0, c, a, b, 32);
    CHECK(counted().mma == 2 && counted().mma_flops == 2 * 2 * 16 * 8 * 16, "%llu mma, %llu flops", static_cast<unsigned long long>(counted().mma),
          static_cast<unsigned long long>(counted().mma_flops));
    CHECK(counted().bank_conflicts == 0, "mma: %llu conflicts", static_cast<unsigned long long>(counted().bank_conflicts));
    CHECK(simt::reports().empty(), "%s", simt::reports()[0].text.c_str());
}

int main() {
    RUN(test_coalescing);
    RUN(test_bank_conflicts);
    RUN(test_operations);
    RUN(test_arithmetic);
    RUN(test_samples_are_conflict_free);
    return finish();
}
