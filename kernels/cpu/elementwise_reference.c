/* The judge of the row operations: one value after another, written from the definitions in elementwise.h. */
#include "kernels/cpu/elementwise.h"
#include <assert.h>
#include "kernels/cpu/vmath.h"

void rms_norm_reference(const par *p, const float *x, const float *weight, float eps, int m, int n, float *y) {
    ptrdiff_t lo, hi;
    par_range(p, m, &lo, &hi);
    for (ptrdiff_t r = lo; r < hi; r++) {
        double lane[8] = {0};
        for (int k = 0; k < n; k++) lane[k % 8] += (double)x[r * n + k] * (double)x[r * n + k];
        for (int step = 4; step > 0; step /= 2)
            for (int l = 0; l < step; l++) lane[l] += lane[l + step];
        float scale = (float)(1.0 / sqrt(lane[0] / n + (double)eps));
        for (int k = 0; k < n; k++) y[r * n + k] = x[r * n + k] * scale * weight[k];
    }
}

void norm_prepare_reference(const par *p, const float *x, const float *weight, float eps, float *y, act *a,
                            act_row_fn *prepare) {
    ptrdiff_t lo, hi;
    rms_norm_reference(p, x, weight, eps, a->m, a->k, y);
    par_range(p, a->m, &lo, &hi); /* as rms_norm divides rows */
    for (ptrdiff_t r = lo; r < hi && prepare; r++) prepare(a, (int)r);
}

static float silu(float g) {
    float sigmoid_inverse = 1.0f + vexp(-g);
    return g / sigmoid_inverse;
}
static float gelu_tanh(float g) {
    float cube = g * g * g;
    float sigmoid_inverse = 1.0f + vexp(GELU_A * (g + GELU_B * cube));
    return g / sigmoid_inverse;
}

void gate_prepare_reference(const par *p, bool gelu, const float *gate, const float *up, float *y, act *a,
                            act_row_fn *prepare) {
    ptrdiff_t lo, hi;
    par_range(p, a->m, &lo, &hi);
    for (ptrdiff_t r = lo; r < hi; r++) {
        for (ptrdiff_t i = r * a->k; i < (r + 1) * a->k; i++) y[i] = (gelu ? gelu_tanh(gate[i]) : silu(gate[i])) * up[i];
        if (prepare) prepare(a, (int)r);
    }
}

void rope_reference(const par *p, const rope_table *t, const uint32_t *pos, float *x, size_t ldx, int m, int n_heads,
                    int head_dim) {
    const int n_pairs = t->n_dims / 2;
    ptrdiff_t lo, hi;
    par_range(p, m, &lo, &hi);
    for (ptrdiff_t r = lo; r < hi; r++)
        for (int h = 0; h < n_heads; h++)
            for (int i = 0; i < n_pairs; i++) {
                assert(pos[r] < (uint32_t)t->n_pos);
                float c = t->cos[(size_t)pos[r] * (size_t)n_pairs + (size_t)i];
                float s = t->sin[(size_t)pos[r] * (size_t)n_pairs + (size_t)i];
                float *head = x + (size_t)r * ldx + (size_t)h * (size_t)head_dim;
                float *a = &head[t->neox ? i : 2 * i], *b = &head[t->neox ? i + n_pairs : 2 * i + 1];
                float u = *a, v = *b;
                *a = u * c - v * s;
                *b = u * s + v * c;
            }
}

void round_f16_reference(const par *p, float *x, size_t n) {
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)n, &lo, &hi);
    for (ptrdiff_t i = lo; i < hi; i++) x[i] = f32_round_f16(x[i]);
}

void row_moments_reference(const par *p, const row_moments *a) {
    int d = a->head_dim;
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)a->n_heads * d, &lo, &hi);
    for (ptrdiff_t u = lo; u < hi; u++) {
        ptrdiff_t h = u / d, c = u % d;
        double *sum = a->sums + h * (d + d * d);
        for (int r = 0; r < a->n_rows; r++) {
            const float *x = a->x + (size_t)r * a->ldx + (size_t)(h * d);
            sum[c] += (double)x[c];
            for (int b = (int)c; b < d; b++) sum[d + c * d + b] += (double)x[c] * (double)x[b];
        }
    }
}
