// Compaction, scan, histogram, top-k and sorts against the standard library.
#include "cases.h"
#include "../../kernels/cuda/samples/lists.cuh"
#include <algorithm>

static bool run_compaction() {
    const int n = 5 * 128 - 37, n_blocks = 5;
    std::vector<unsigned char> keep(n);
    std::vector<int> expected;
    for (int i = 0; i < n; i++) {
        keep[i] = next_random() % 3 == 0;
        if (keep[i]) expected.push_back(i);
    }
    Buffer<unsigned char> d_keep(keep);
    Buffer<int> counts(n_blocks + 1), out(std::vector<int>(n, -1));
    LAUNCH(compact_count, dim3(n_blocks), dim3(128), 0, 0, d_keep, n, counts);
    LAUNCH(scan_counts, dim3(1), dim3(64), 0, 0, counts, n_blocks);
    LAUNCH(compact_scatter, dim3(n_blocks), dim3(128), 0, 0, d_keep, n, counts, out);
    const std::vector<int> total = counts.get(), got = out.get();
    if (!counts.ok() || !out.ok() || total[n_blocks] != static_cast<int>(expected.size())) return false;
    return std::equal(expected.begin(), expected.end(), got.begin()) && (expected.size() == got.size() || got[expected.size()] == -1);
}

static bool run_scan() {
    const int n = 700, n_blocks = 6;
    std::vector<int> x(n), expected(n);
    for (int i = 0, sum = 0; i < n; i++) {
        x[i] = static_cast<int>(next_random() % 100) - 50;
        expected[i] = sum;
        sum += x[i];
    }
    Buffer<int> d_x(x), y(n), sums(n_blocks + 1);
    LAUNCH(scan_blocks, dim3(n_blocks), dim3(128), 0, 0, d_x, n, y, sums);
    LAUNCH(scan_counts, dim3(1), dim3(32), 0, 0, sums, n_blocks);
    LAUNCH(scan_add_bases, dim3(n_blocks), dim3(128), 0, 0, y, n, sums);
    const std::vector<int> got = y.get();
    return y.ok() && got == expected;
}

static bool run_histogram() {
    const int n = 1000;
    std::vector<int> x(n), expected(64, 0);
    for (int &v : x) {
        v = static_cast<int>(next_random() & 1023);
        expected[v & 63]++;
    }
    Buffer<int> d_x(x), bins(std::vector<int>(64, 0));
    Buffer<float> sum(std::vector<float>(1, 0.0f));
    LAUNCH(histogram, dim3(3), dim3(128), 0, 0, d_x, n, bins, sum);
    const std::vector<int> got = bins.get();
    const std::vector<float> total = sum.get();
    return bins.ok() && sum.ok() && got == expected && total[0] == static_cast<float>(n);
}

static bool run_top_k() {
    const int n = 300, k = 20, n_rows = 2;
    std::vector<float> scores(n * n_rows);
    for (float &s : scores) s = static_cast<float>(static_cast<int>(next_random() % 41) - 20) / 4.0f; // many ties
    Buffer<float> d_scores(scores);
    Buffer<int> out(k * n_rows);
    LAUNCH(top_k, dim3(n_rows), dim3(128), 0, 0, d_scores, n, k, out);
    const std::vector<int> got = out.get();
    if (!out.ok()) return false;
    for (int row = 0; row < n_rows; row++) {
        std::vector<int> order(n);
        for (int i = 0; i < n; i++) order[i] = i;
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[row * n + a] > scores[row * n + b]; });
        if (!std::equal(order.begin(), order.begin() + k, got.begin() + row * k)) return false;
    }
    return true;
}

static bool run_radix_sort() {
    const int n_each = 96, n_blocks = 2, n = n_each * n_blocks;
    std::vector<uint32_t> keys(n);
    std::vector<int> values(n);
    for (int i = 0; i < n; i++) {
        keys[i] = next_random() % 50 * 0x01010101u * (next_random() % 3);
        values[i] = i;
    }
    Buffer<uint32_t> d_keys(keys);
    Buffer<int> d_values(values);
    LAUNCH(radix_sort, dim3(n_blocks), dim3(n_each), 0, 0, d_keys, d_values);
    const std::vector<int> got = d_values.get();
    const std::vector<uint32_t> got_keys = d_keys.get();
    if (!d_values.ok() || !d_keys.ok()) return false;
    for (int b = 0; b < n_blocks; b++) {
        std::stable_sort(values.begin() + b * n_each, values.begin() + (b + 1) * n_each, [&](int a, int c) { return keys[a] < keys[c]; });
    }
    for (int i = 0; i < n; i++) {
        if (got[i] != values[i] || got_keys[i] != keys[values[i]]) return false;
    }
    return true;
}

static bool run_bitonic_sort() {
    const int n = 256;
    std::vector<float> scores(n);
    std::vector<int> indices(n);
    for (int i = 0; i < n; i++) scores[i] = static_cast<float>(next_random() % 100), indices[i] = i;
    Buffer<float> d_scores(scores);
    Buffer<int> d_indices(indices);
    LAUNCH(bitonic_sort, dim3(1), dim3(256), 0, 0, d_scores, d_indices);
    const std::vector<int> got = d_indices.get();
    std::stable_sort(indices.begin(), indices.end(), [&](int a, int b) { return scores[a] < scores[b]; });
    return d_indices.ok() && got == indices;
}

static bool run_odd_even_sort() {
    const int n = 128;
    std::vector<int> values(n);
    for (int &v : values) v = static_cast<int>(next_random() % 1000);
    Buffer<int> d_values(values);
    LAUNCH(odd_even_sort, dim3(1), dim3(n), 0, 0, d_values);
    const std::vector<int> got = d_values.get();
    for (int w = 0; w < n; w += 32) std::sort(values.begin() + w, values.begin() + w + 32);
    return d_values.ok() && got == values;
}

const std::vector<Case> &list_cases() {
    static const std::vector<Case> cases = {{"compaction", run_compaction},     {"scan", run_scan},
                                            {"histogram", run_histogram},       {"top-k", run_top_k},
                                            {"radix sort", run_radix_sort},     {"bitonic sort", run_bitonic_sort},
                                            {"odd-even sort", run_odd_even_sort}};
    return cases;
}
