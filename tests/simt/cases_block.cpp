// block.cuh: each primitive twice in a row, as its scratch memory may be used again at once, for block sizes from one warp to 1,024.
#include "cases.h"
#include "../../kernels/cuda/block.cuh"
#include <algorithm>

__global__ void reduce_twice(const int *x, int *sums, int *most) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const int sum = block_reduce(x[i], AddOp(), 0), sum_of_squares = block_reduce(x[i] * x[i], AddOp(), 0);
    const int largest = block_reduce(x[i], MaxOp(), -1000000);
    if (threadIdx.x == blockDim.x - 1) {
        sums[2 * blockIdx.x] = sum;
        sums[2 * blockIdx.x + 1] = sum_of_squares;
        most[blockIdx.x] = largest;
    }
}

__global__ void scan_twice(const int *x, int *out, int *totals) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    int total, total_of_scan;
    const int once = block_scan_exclusive(x[i], &total);
    out[i] = block_scan_exclusive(once, &total_of_scan);
    if (threadIdx.x == 0) totals[2 * blockIdx.x] = total;
    if (threadIdx.x == 1) totals[2 * blockIdx.x + 1] = total_of_scan;
}

// By the low byte, then by the high one: stability makes this a sort by both.
__global__ void sort_twice(uint32_t *keys, float *values) {
    uint32_t key = keys[threadIdx.x];
    float value = values[threadIdx.x];
    block_radix_sort(key, value, 0, 7);
    block_radix_sort(key, value, 7, 16);
    keys[threadIdx.x] = key;
    values[threadIdx.x] = value;
}

__global__ void top_k_twice(const float *scores, int n, int k, int *out) {
    block_top_k(scores, n, k, out);
    block_top_k(scores + n, n, k, out + k);
}

static bool run_reduce(int n_threads) {
    std::vector<int> x(2 * n_threads);
    for (int &v : x) v = static_cast<int>(next_random() % 201) - 100;
    Buffer<int> d_x(x), sums(4), most(2);
    LAUNCH(reduce_twice, dim3(2), dim3(n_threads), 0, 0, d_x, sums, most);
    const std::vector<int> got = sums.get(), got_most = most.get();
    bool ok = sums.ok() && most.ok();
    for (int b = 0; ok && b < 2; b++) {
        int sum = 0, squares = 0, largest = -1000000;
        for (int i = b * n_threads; i < (b + 1) * n_threads; i++) {
            sum += x[i];
            squares += x[i] * x[i];
            largest = std::max(largest, x[i]);
        }
        ok = got[2 * b] == sum && got[2 * b + 1] == squares && got_most[b] == largest;
    }
    return ok;
}

static bool run_scan(int n_threads) {
    std::vector<int> x(n_threads), expected(n_threads);
    for (int &v : x) v = static_cast<int>(next_random() % 11);
    int sum = 0, sum_of_sums = 0;
    for (int i = 0; i < n_threads; i++) {
        expected[i] = sum_of_sums;
        sum_of_sums += sum;
        sum += x[i];
    }
    Buffer<int> d_x(x), out(n_threads), totals(2);
    LAUNCH(scan_twice, dim3(1), dim3(n_threads), 0, 0, d_x, out, totals);
    const std::vector<int> got = out.get(), got_totals = totals.get();
    return out.ok() && totals.ok() && got == expected && got_totals[0] == sum && got_totals[1] == sum_of_sums;
}

static bool run_sort(int n_threads) {
    std::vector<uint32_t> keys(n_threads);
    std::vector<float> values(n_threads);
    for (int i = 0; i < n_threads; i++) {
        keys[i] = next_random() & 0xffff & (i % 5 ? 0x0f0fu : 0xffffu);
        values[i] = static_cast<float>(i);
    }
    Buffer<uint32_t> d_keys(keys);
    Buffer<float> d_values(values);
    LAUNCH(sort_twice, dim3(1), dim3(n_threads), 0, 0, d_keys, d_values);
    const std::vector<float> got = d_values.get();
    std::stable_sort(values.begin(), values.end(), [&](float a, float b) { return keys[static_cast<int>(a)] < keys[static_cast<int>(b)]; });
    return d_values.ok() && got == values;
}

static bool run_top_k(int n_threads, int n, int k) {
    std::vector<float> scores(2 * n);
    for (float &s : scores) s = random_float() * static_cast<float>(next_random() % 2);
    Buffer<float> d_scores(scores);
    Buffer<int> out(2 * k);
    LAUNCH(top_k_twice, dim3(1), dim3(n_threads), 0, 0, d_scores, n, k, out);
    const std::vector<int> got = out.get();
    bool ok = out.ok();
    for (int row = 0; ok && row < 2; row++) {
        std::vector<int> order(n);
        for (int i = 0; i < n; i++) order[i] = i;
        // As the keys have it, +0 comes before -0.
        auto key = [&](int i) { return __builtin_bit_cast(int, scores[row * n + i]); };
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
            const float x = scores[row * n + a], y = scores[row * n + b];
            return x > y || (x == y && key(a) >= 0 && key(b) < 0);
        });
        order.resize(k, -1);
        if (k > n) std::fill(order.begin() + n, order.end(), -1);
        ok = std::equal(order.begin(), order.end(), got.begin() + row * k);
    }
    return ok;
}

static bool run_reduce_32() { return run_reduce(32); }
static bool run_reduce_256() { return run_reduce(256); }
static bool run_reduce_1024() { return run_reduce(1024); }
static bool run_scan_32() { return run_scan(32); }
static bool run_scan_160() { return run_scan(160); }
static bool run_scan_1024() { return run_scan(1024); }
static bool run_sort_32() { return run_sort(32); }
static bool run_sort_224() { return run_sort(224); }
static bool run_sort_1024() { return run_sort(1024); }
static bool run_top_k_many() { return run_top_k(64, 150, 30); }
static bool run_top_k_few() { return run_top_k(64, 5, 9); }

const std::vector<Case> &block_cases() {
    static const std::vector<Case> cases = {
        {"block reduce, 32 threads", run_reduce_32}, {"block reduce, 256 threads", run_reduce_256}, {"block reduce, 1024 threads", run_reduce_1024},
        {"block scan, 32 threads", run_scan_32},     {"block scan, 160 threads", run_scan_160},     {"block scan, 1024 threads", run_scan_1024},
        {"block sort, 32 threads", run_sort_32},     {"block sort, 224 threads", run_sort_224},     {"block sort, 1024 threads", run_sort_1024},
        {"block top-k of many", run_top_k_many},     {"block top-k of few", run_top_k_few}};
    return cases;
}
