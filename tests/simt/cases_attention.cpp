// Mixed-tier paged attention, quantisation and RMSNorm against double precision. Unused pages and rows past a sequence's end stay as the
// arena poisons them: whoever reads them gets NaN, and a report from the checker.
#include "cases.h"
#include "../../kernels/cuda/samples/attention.cuh"
#include <algorithm>
#include <cmath>

static bool run_attention() {
    const int n_sequences = 3, max_pages = 4, pages_per_tier = 5;
    const int lengths[n_sequences] = {max_pages * page_tokens, 17, 1};
    const int pool_elements = pages_per_tier * page_tokens * head_dim;
    std::vector<double> k(n_sequences * max_pages * page_tokens * head_dim), v(k.size());
    std::vector<__half> half_k(pool_elements), half_v(pool_elements), scale(2 * pages_per_tier * page_tokens);
    std::vector<signed char> int8_k(pool_elements), int8_v(pool_elements);
    std::vector<__nv_fp8_e4m3> fp8_k(pool_elements), fp8_v(pool_elements);
    for (__half &x : half_k) x = __ushort_as_half(0x7fff);
    half_v = half_k;
    for (__half &x : scale) x = __ushort_as_half(0x7fff);
    for (__nv_fp8_e4m3 &x : fp8_k) x.__x = 0x7f;
    fp8_v = fp8_k;
    std::vector<int> table(n_sequences * max_pages, 0x7fffffff), tiers(table.size(), -1);
    int used[3] = {0, 0, 0};
    for (int s = 0; s < n_sequences; s++) {
        for (int token = 0; token < lengths[s]; token++) {
            const int entry = s * max_pages + token / page_tokens;
            if (token % page_tokens == 0) {
                tiers[entry] = (s + token / page_tokens) % 3;
                table[entry] = pages_per_tier - 1 - used[tiers[entry]]++;
            }
            const int row = table[entry] * page_tokens + token % page_tokens;
            scale[2 * row] = tiers[entry] == tier_int8 ? __float2half(0.01f) : scale[2 * row];
            scale[2 * row + 1] = tiers[entry] == tier_int8 ? __float2half(0.02f) : scale[2 * row + 1];
            for (int i = 0; i < head_dim; i++) {
                const int at = row * head_dim + i;
                double *to_k = &k[(s * max_pages * page_tokens + token) * head_dim + i], *to_v = to_k - k.data() + v.data();
                if (tiers[entry] == tier_half) {
                    half_k[at] = __float2half(random_float());
                    half_v[at] = __float2half(random_float());
                    *to_k = __half2float(half_k[at]);
                    *to_v = __half2float(half_v[at]);
                } else if (tiers[entry] == tier_int8) {
                    int8_k[at] = static_cast<signed char>(next_random());
                    int8_v[at] = static_cast<signed char>(next_random());
                    *to_k = int8_k[at] * static_cast<double>(__half2float(scale[2 * row]));
                    *to_v = int8_v[at] * static_cast<double>(__half2float(scale[2 * row + 1]));
                } else {
                    fp8_k[at] = __nv_fp8_e4m3(random_float());
                    fp8_v[at] = __nv_fp8_e4m3(random_float());
                    *to_k = static_cast<float>(fp8_k[at]);
                    *to_v = static_cast<float>(fp8_v[at]);
                }
            }
        }
    }
    std::vector<float> q(n_sequences * head_dim);
    for (float &x : q) x = random_float();
    Buffer<float> d_q(q), out(q.size());
    Buffer<__half> d_half_k(half_k), d_half_v(half_v), d_scale(scale);
    Buffer<signed char> d_int8_k(int8_k), d_int8_v(int8_v);
    Buffer<__nv_fp8_e4m3> d_fp8_k(fp8_k), d_fp8_v(fp8_v);
    Buffer<int> d_table(table), d_tiers(tiers), d_lengths(std::vector<int>(lengths, lengths + n_sequences));
    const PagePools pools = {d_half_k, d_half_v, d_int8_k, d_int8_v, d_scale, d_fp8_k, d_fp8_v};
    const size_t shared_bytes = sizeof(float) * max_pages * page_tokens;
    LAUNCH(paged_attention, dim3(n_sequences), dim3(128), shared_bytes, 0, out, d_q, pools, d_table, d_tiers, d_lengths, max_pages, 0.125f);
    const std::vector<float> got = out.get();
    bool ok = out.ok();
    for (int s = 0; ok && s < n_sequences; s++) {
        std::vector<double> weight(lengths[s]), sum(head_dim, 0.0);
        double total = 0;
        for (int token = 0; token < lengths[s]; token++) {
            for (int i = 0; i < head_dim; i++) {
                weight[token] += k[(s * max_pages * page_tokens + token) * head_dim + i] * q[s * head_dim + i] * 0.125;
            }
            weight[token] = std::exp(weight[token]);
            total += weight[token];
            for (int i = 0; i < head_dim; i++) sum[i] += weight[token] * v[(s * max_pages * page_tokens + token) * head_dim + i];
        }
        for (int i = 0; ok && i < head_dim; i++) ok = near(got[s * head_dim + i], sum[i] / total, 1e-4);
    }
    return ok;
}

static bool run_quantise() {
    const int n = 11;
    std::vector<float> x(n * head_dim);
    for (float &v : x) v = 3 * random_float();
    for (int i = 0; i < head_dim; i++) x[5 * head_dim + i] = 0;
    Buffer<float> d_x(x);
    Buffer<signed char> codes(x.size());
    Buffer<__half> scales(n);
    LAUNCH(quantise_tokens, dim3(2), dim3(256), 0, 0, codes, scales, d_x, n);
    const std::vector<signed char> got = codes.get();
    const std::vector<__half> scale = scales.get();
    bool ok = codes.ok() && scales.ok();
    for (int t = 0; ok && t < n; t++) {
        float most = 0;
        for (int i = 0; i < head_dim; i++) most = std::max(most, std::fabs(x[t * head_dim + i]));
        for (int i = 0; ok && i < head_dim; i++) {
            ok = near(got[t * head_dim + i] * static_cast<double>(__half2float(scale[t])), x[t * head_dim + i], most / 127 * 0.52 + most * 5e-4);
        }
    }
    return ok;
}

static bool run_rms_norm() {
    const int rows = 2, n = 300;
    std::vector<__nv_bfloat16> x(rows * n);
    std::vector<float> gain(n);
    for (__nv_bfloat16 &v : x) v = __float2bfloat16(random_float());
    for (float &g : gain) g = random_float();
    Buffer<__nv_bfloat16> d_x(x), y(x.size());
    Buffer<float> d_gain(gain);
    LAUNCH(rms_norm, dim3(rows), dim3(96), 0, 0, y, d_x, d_gain, n, 1e-6f);
    const std::vector<__nv_bfloat16> got = y.get();
    bool ok = y.ok();
    for (int r = 0; ok && r < rows; r++) {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += static_cast<double>(__bfloat162float(x[r * n + i])) * __bfloat162float(x[r * n + i]);
        for (int i = 0; ok && i < n; i++) {
            const double expected = __bfloat162float(x[r * n + i]) / std::sqrt(sum / n + 1e-6) * gain[i];
            ok = near(__bfloat162float(got[r * n + i]), expected, std::fabs(expected) / 200 + 1e-6);
        }
    }
    return ok;
}

const std::vector<Case> &attention_cases() {
    static const std::vector<Case> cases = {{"mixed-tier paged attention", run_attention}, {"quantisation", run_quantise}, {"RMSNorm", run_rms_norm}};
    return cases;
}
