/* Attention mass: every path against f64; the same bits for any number of threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/support/attn_paths.h"
#include "tests/support/seed.h"

static void mass_oracle(const attn_mass *a, int h, double *out) {
    int d = a->head_dim, n = a->n_tokens;
    const float *k = a->k + (size_t)(h / (a->n_heads / a->n_kv)) * (size_t)n * (size_t)d;
    double *e = malloc((size_t)n * sizeof(double));
    for (int t = 0; t < n; t++) out[t] = 0;
    for (int r = 0; r < a->n_rows; r++) {
        const float *q = a->q + ((size_t)r * (size_t)a->n_heads + (size_t)h) * (size_t)d;
        int n_seen = n - a->n_rows + r + 1;
        double sum = 0;
        for (int t = 0; t < n_seen; t++) {
            double s = 0;
            for (int c = 0; c < d; c++) s += (double)q[c] * (double)k[t * d + c];
            sum += e[t] = exp(s * (double)a->scale);
        }
        for (int t = 0; t < n_seen; t++) {
            double p = pow(e[t] / sum, a->power);
            out[t] = a->max ? fmax(out[t], p) : out[t] + p;
        }
    }
    free(e);
}

static void every_path_agrees_with_f64_for_any_threads(void **state) {
    rng r = rng_make(seed_get(), 1);
    attn_path paths[4];
    int n_paths = attn_paths(paths);
    for (int round = 0; round < 24; round++) {
        int n = 1 + (int)rng_below(&r, round < 16 ? 300 : 900), n_kv = 1 + (int)rng_below(&r, 3), group = 1 + (int)rng_below(&r, 8);
        int d = (const int[]){64, 80, 96, 128, 256, 64, 64, 20}[round % 8];
        int n_rows = round % 5 == 0 ? attn_path_min(64, n) : 1 + (int)rng_below(&r, (uint32_t)attn_path_min(64, n));
        float *q = attn_random(&r, (size_t)(n_rows * n_kv * group * d), 1.5f);
        float *k = attn_random(&r, (size_t)(n_kv * n * d), 1.5f);
        size_t n_out = (size_t)(n_kv * group * n);
        float *out = malloc(n_out * sizeof(float)), *one = malloc(n_out * sizeof(float));
        double *want = malloc((size_t)n * sizeof(double));
        attn_mass a = {.q = q, .k = k, .n_rows = n_rows, .n_tokens = n, .n_heads = n_kv * group, .n_kv = n_kv, .head_dim = d,
                       .scale = 1.0f / sqrtf((float)d), .power = 1 + round / 2 % 2, .max = round % 2};
        for (int i = 0; i < n_paths; i++) {
            a.out = one;
            attn_call_run(&paths[i], 'm', &a, 1);
            for (int h = 0; h < a.n_heads; h++) {
                mass_oracle(&a, h, want);
                for (int t = 0; t < n; t++)
                    if (!(fabs((double)one[h * n + t] - want[t]) <= 3e-5 * want[t] + 1e-30))
                        fail_msg("%s: n %d, rows %d, d %d, power %d, max %d: head %d, key %d has %g, f64 %g", paths[i].name, n,
                                 n_rows, d, a.power, a.max, h, t, (double)one[h * n + t], want[t]);
            }
            a.out = out;
            for (int threads = 2; threads <= 3; threads++) {
                memset(out, 0xff, n_out * sizeof(float));
                attn_call_run(&paths[i], 'm', &a, threads);
                assert_memory_equal(out, one, n_out * sizeof(float));
            }
        }
        free(q);
        free(k);
        free(out);
        free(one);
        free(want);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_path_agrees_with_f64_for_any_threads),
    };
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests_name("attn_mass", tests, NULL, NULL));
}
