/* Tiles in portable C, for CPUs without AVX2. Columns are the inner loops, which a compiler may vectorise: no sum
 * crosses columns. */
#include "kernels/cpu/linear.h"

static void q4_tile(const uint8_t *panel, int n_blocks, const act_block *a, int n_rows, int half, int n_halves,
                    float *out) {
    const int c0 = half * PANEL_HALF, c1 = c0 + n_halves * PANEL_HALF;
    for (int r = 0; r < n_rows; r++) {
        float *f = out + r * PANEL;
        for (int c = c0; c < c1; c++) f[c] = 0;
        for (int b = 0; b < n_blocks; b++) {
            const act_block *ab = &a[(size_t)r * (size_t)n_blocks + (size_t)b];
            const uint8_t *rec = panel + (size_t)b * Q4_RECORD;
            const uint16_t *d = (const uint16_t *)(rec + Q4_CODES), *m = d + PANEL;
            for (int c = c0; c < c1; c++) {
                int32_t dot = 0;
                for (int p = 0; p < 4; p++)
                    for (int i = 0; i < 4; i++) {
                        uint8_t code = rec[p * 128 + c * 4 + i];
                        dot += (code & 15) * ab->q[8 * p + i] + (code >> 4) * ab->q[8 * p + 4 + i];
                    }
                f[c] = fmaf((float)dot * ab->scale, f16_to_f32(d[c]), f[c]);
                f[c] = fmaf(ab->sum, f16_to_f32(m[c]), f[c]);
            }
        }
    }
}
static void q8_tile(const uint8_t *panel, int n_blocks, const act_block *a, int n_rows, int half, int n_halves,
                    float *out) {
    const int c0 = half * PANEL_HALF, c1 = c0 + n_halves * PANEL_HALF;
    for (int r = 0; r < n_rows; r++) {
        float *f = out + r * PANEL;
        for (int c = c0; c < c1; c++) f[c] = 0;
        for (int b = 0; b < n_blocks; b++) {
            const act_block *ab = &a[(size_t)r * (size_t)n_blocks + (size_t)b];
            const uint8_t *rec = panel + (size_t)b * Q8_RECORD;
            const uint16_t *d = (const uint16_t *)(rec + Q8_CODES);
            for (int c = c0; c < c1; c++) {
                int32_t dot = 0;
                for (int p = 0; p < 8; p++)
                    for (int i = 0; i < 4; i++) dot += (rec[p * 128 + c * 4 + i] - 128) * ab->q[4 * p + i];
                f[c] = fmaf((float)dot * ab->scale, f16_to_f32(d[c]), f[c]);
            }
        }
    }
}
static void f32_tile(const float *w, int k, const float *x, size_t ldx, int n_rows, int half, int n_halves,
                     float *out) {
    const int c0 = half * PANEL_HALF, n_cols = n_halves * PANEL_HALF;
    for (int r = 0; r < n_rows; r++)
        for (int k0 = 0; k0 < k; k0 += QBLOCK) {
            float s[PANEL] = {0};
            for (int i = k0; i < k && i < k0 + QBLOCK; i++)
                for (int c = 0; c < n_cols; c++)
                    s[c] = fmaf(x[(size_t)r * ldx + (size_t)i], w[i * PANEL + c0 + c], s[c]);
            for (int c = 0; c < n_cols; c++) out[r * PANEL + c0 + c] += s[c];
        }
}

static void q4_decode(const uint8_t *rec, float *out) {
    const uint16_t *d = (const uint16_t *)(rec + Q4_CODES), *m = d + PANEL;
    for (int c = 0; c < PANEL; c++) {
        float df = f16_to_f32(d[c]), mf = f16_to_f32(m[c]);
        for (int p = 0; p < 4; p++)
            for (int i = 0; i < 4; i++) {
                uint8_t code = rec[p * 128 + c * 4 + i];
                out[(8 * p + i) * PANEL + c] = df * (float)(code & 15) + mf;
                out[(8 * p + 4 + i) * PANEL + c] = df * (float)(code >> 4) + mf;
            }
    }
}
static void q8_decode(const uint8_t *rec, float *out) {
    const uint16_t *d = (const uint16_t *)(rec + Q8_CODES);
    for (int c = 0; c < PANEL; c++) {
        float df = f16_to_f32(d[c]);
        for (int p = 0; p < 8; p++)
            for (int i = 0; i < 4; i++) out[(4 * p + i) * PANEL + c] = df * (float)(rec[p * 128 + c * 4 + i] - 128);
    }
}
static void f16_decode(const uint16_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) out[i] = f16_to_f32(src[i]);
}
static void bf16_decode(const uint16_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) out[i] = bf16_to_f32(src[i]);
}

static void quantise(const float *x, act_block *out) {
    uint32_t max = 0; /* bits of |x| order as the values do, NaN above infinity */
    for (int i = 0; i < QBLOCK; i++) {
        uint32_t u = f32_bits(x[i]) & 0x7fffffffu;
        max = u > max ? u : max;
    }
    float inverse;
    act_block_scale(f32_from_bits(max), &out->scale, &inverse);
    int32_t sum = 0;
    for (int i = 0; i < QBLOCK; i++) {
        int32_t v = inverse > 0 ? (int32_t)lrintf(x[i] * inverse) : 0;
        out->q[i] = (int8_t)v;
        sum += v;
    }
    out->isum = sum;
    out->sum = out->scale * (float)sum;
}

const linear_isa linear_scalar = {q4_tile, q8_tile, f32_tile, q4_decode, q8_decode, f16_decode, bf16_decode, quantise};
