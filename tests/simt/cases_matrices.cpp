// Transposition, products by cp.async, tensor tiles and dp4a, softmax and rotation against plain loops.
#include "cases.h"
#include "../../kernels/cuda/samples/matrices.cuh"
#include <cmath>

static bool run_transpose() {
    const int width = 70, height = 45;
    std::vector<float> in(width * height);
    for (float &x : in) x = random_float();
    Buffer<float> d_in(in), out(in.size());
    LAUNCH(transpose, dim3((width + 31) / 32, (height + 31) / 32), dim3(32, 8), 0, 0, out, d_in, width, height);
    const std::vector<float> got = out.get();
    bool ok = out.ok();
    for (int y = 0; ok && y < height; y++) {
        for (int x = 0; x < width; x++) ok = ok && got[x * height + y] == in[y * width + x];
    }
    return ok;
}

static bool run_gemv_async() {
    const int rows = 8, columns = 512;
    std::vector<float> a(rows * columns), x(columns);
    for (float &v : a) v = random_float();
    for (float &v : x) v = random_float();
    Buffer<float> d_a(a), d_x(x), y(rows);
    LAUNCH(gemv_async, dim3(rows / 4), dim3(128), 0, 0, y, d_a, d_x, columns);
    const std::vector<float> got = y.get();
    bool ok = y.ok();
    for (int r = 0; ok && r < rows; r++) {
        double sum = 0;
        for (int i = 0; i < columns; i++) sum += static_cast<double>(a[r * columns + i]) * x[i];
        ok = near(got[r], sum, 1e-4);
    }
    return ok;
}

static bool run_mma() {
    const int k = 64;
    std::vector<__half> a(16 * k), b(8 * k);
    for (__half &v : a) v = __float2half(random_float());
    for (__half &v : b) v = __float2half(random_float());
    Buffer<__half> d_a(a), d_b(b);
    Buffer<float> c(128);
    LAUNCH(mma_tile, dim3(1), dim3(32), 0, 0, c, d_a, d_b, k);
    const std::vector<float> got = c.get();
    bool ok = c.ok();
    for (int i = 0; ok && i < 128; i++) {
        double sum = 0;
        for (int j = 0; j < k; j++) sum += static_cast<double>(__half2float(a[i / 8 * k + j])) * __half2float(b[i % 8 * k + j]);
        ok = near(got[i], sum, 1e-3);
    }
    return ok;
}

static bool run_mma_int8() {
    const int k = 96;
    std::vector<signed char> a(16 * k), b(8 * k);
    for (signed char &v : a) v = static_cast<signed char>(next_random());
    for (signed char &v : b) v = static_cast<signed char>(next_random());
    Buffer<signed char> d_a(a), d_b(b);
    Buffer<int> c(128);
    LAUNCH(mma_tile_int8, dim3(1), dim3(32), 0, 0, c, d_a, d_b, k);
    const std::vector<int> got = c.get();
    bool ok = c.ok();
    for (int i = 0; ok && i < 128; i++) {
        int sum = 0;
        for (int j = 0; j < k; j++) sum += a[i / 8 * k + j] * b[i % 8 * k + j];
        ok = got[i] == sum;
    }
    return ok;
}

static bool run_gemv_int8() {
    const int rows = 7, columns = 1024;
    std::vector<signed char> a(rows * columns), x(columns);
    for (signed char &v : a) v = static_cast<signed char>(next_random());
    for (signed char &v : x) v = static_cast<signed char>(next_random());
    Buffer<signed char> d_a(a), d_x(x);
    Buffer<int> y(rows);
    LAUNCH(gemv_int8, dim3(2), dim3(128), 0, 0, y, d_a, d_x, rows, columns);
    const std::vector<int> got = y.get();
    bool ok = y.ok();
    for (int r = 0; ok && r < rows; r++) {
        int sum = 0;
        for (int i = 0; i < columns; i++) sum += a[r * columns + i] * x[i];
        ok = got[r] == sum;
    }
    return ok;
}

static bool run_softmax() {
    const int rows = 3, n = 200;
    std::vector<float> x(rows * n);
    for (float &v : x) v = 8 * random_float();
    Buffer<float> d_x(x);
    LAUNCH(softmax_rows, dim3(rows), dim3(64), 0, 0, d_x, n);
    const std::vector<float> got = d_x.get();
    bool ok = d_x.ok();
    for (int r = 0; ok && r < rows; r++) {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += std::exp(static_cast<double>(x[r * n + i]));
        for (int i = 0; ok && i < n; i++) ok = near(got[r * n + i], std::exp(static_cast<double>(x[r * n + i])) / sum, 1e-5);
    }
    return ok;
}

static bool run_rope() {
    const int n_heads = 21;
    std::vector<float> x(n_heads * 16);
    std::vector<int> positions(n_heads);
    for (float &v : x) v = random_float();
    for (int &p : positions) p = static_cast<int>(next_random() % 500);
    Buffer<float> d_x(x);
    Buffer<int> d_positions(positions);
    LAUNCH(rope_heads, dim3(2), dim3(128), 0, 0, d_x, d_positions, n_heads);
    const std::vector<float> got = d_x.get();
    bool ok = d_x.ok();
    for (int h = 0; ok && h < n_heads; h++) {
        for (int i = 0; i < 8; i++) {
            const double angle = positions[h] * std::pow(10.0, -0.5 * i), a = x[h * 16 + i], b = x[h * 16 + i + 8];
            ok = ok && near(got[h * 16 + i], a * std::cos(angle) - b * std::sin(angle), 2e-4) &&
                 near(got[h * 16 + i + 8], a * std::sin(angle) + b * std::cos(angle), 2e-4);
        }
    }
    return ok;
}

const std::vector<Case> &matrix_cases() {
    static const std::vector<Case> cases = {{"transpose", run_transpose}, {"cp.async matrix-vector product", run_gemv_async},
                                            {"mma half tile", run_mma},   {"mma int8 tile", run_mma_int8},
                                            {"dp4a product", run_gemv_int8}, {"softmax", run_softmax},
                                            {"rotation of heads", run_rope}};
    return cases;
}
