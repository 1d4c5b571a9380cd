/* The judge of linear layers: rows as they lie in the file, one output after another, in the order that linear.h
 * defines. */
#include <string.h>
#include "kernels/cpu/linear.h"

static void store(float *y, float f, bool accumulate) {
    *y = accumulate ? *y + f : f;
}

/* ---- exact, and float weights: decode a block, multiply, add ---- */
static float dot_row(const wtype_info *info, const uint8_t *row, const float *x, int k) {
    float f = 0;
    for (int k0 = 0; k0 < k; k0 += QBLOCK) {
        int n = k - k0 < QBLOCK ? k - k0 : QBLOCK;
        float w[QBLOCK], s = 0;
        info->decode(row + (size_t)(k0 / info->block) * (size_t)info->block_bytes, w, (size_t)n);
        for (int i = 0; i < n; i++) s = fmaf(x[k0 + i], w[i], s);
        f = f + s;
    }
    return f;
}

void linear_reference_exact(const par *p, const packed_weight *w, const act *a, float *y, size_t ldy, bool accumulate) {
    const wtype_info *info = wtype_find((uint32_t)w->type);
    ptrdiff_t lo, hi;
    par_range(p, w->n, &lo, &hi);
    for (ptrdiff_t o = lo; o < hi; o++)
        for (int r = 0; r < a->m; r++)
            store(&y[(size_t)r * ldy + (size_t)o],
                  dot_row(info, w->data + (size_t)o * w->panel_bytes, a->x + (size_t)r * (size_t)a->k, w->k),
                  accumulate);
}

/* ---- fast: integer dot per block, then the scales ---- */
static float dot_q4_1(const uint8_t *row, const act_block *a, int n_blocks) {
    float f = 0;
    for (int b = 0; b < n_blocks;
         b++, row += 20, a++) { /* f16 d, f16 m, 16 bytes: low nibbles inputs 0..15, high 16..31 */
        uint16_t d, m;
        memcpy(&d, row, 2);
        memcpy(&m, row + 2, 2);
        int32_t dot = 0;
        for (int j = 0; j < 16; j++) dot += (row[4 + j] & 15) * a->q[j] + (row[4 + j] >> 4) * a->q[j + 16];
        f = fmaf((float)dot * a->scale, f16_to_f32(d), f);
        f = fmaf(a->sum, f16_to_f32(m), f);
    }
    return f;
}
static float dot_q8_0(const uint8_t *row, const act_block *a, int n_blocks) {
    float f = 0;
    for (int b = 0; b < n_blocks; b++, row += 34, a++) { /* f16 d, 32 signed codes */
        uint16_t d;
        memcpy(&d, row, 2);
        int32_t dot = 0;
        for (int j = 0; j < QBLOCK; j++) dot += (int8_t)row[2 + j] * a->q[j];
        f = fmaf((float)dot * a->scale, f16_to_f32(d), f);
    }
    return f;
}

void linear_reference_fast(const par *p, const packed_weight *w, const act *a, float *y, size_t ldy, bool accumulate) {
    if (!wtype_is_quantised(w->type)) {
        linear_reference_exact(p, w, a, y, ldy, accumulate);
        return;
    }
    const int n_blocks = w->k / QBLOCK;
    ptrdiff_t lo, hi;
    par_range(p, w->n, &lo, &hi);
    for (ptrdiff_t o = lo; o < hi; o++)
        for (int r = 0; r < a->m; r++) {
            const uint8_t *row = w->data + (size_t)o * w->panel_bytes;
            const act_block *blocks = (const act_block *)a->q + (size_t)r * (size_t)n_blocks;
            float f = w->type == WTYPE_Q4_1 ? dot_q4_1(row, blocks, n_blocks) : dot_q8_0(row, blocks, n_blocks);
            store(&y[(size_t)r * ldy + (size_t)o], f, accumulate);
        }
}

static void quantise(const float *x, act_block *out) {
    float max = 0;
    for (int i = 0; i < QBLOCK; i++) max = isnan(x[i]) || isnan(max) ? NAN : fmaxf(max, fabsf(x[i]));
    float inverse;
    act_block_scale(max, &out->scale, &inverse);
    out->isum = 0;
    for (int i = 0; i < QBLOCK; i++) {
        out->q[i] = inverse > 0 ? (int8_t)nearbyintf(x[i] * inverse) : 0;
        out->isum += out->q[i];
    }
    out->sum = out->scale * (float)out->isum;
}
void act_prepare_reference(const par *p, act *a) {
    ptrdiff_t lo, hi, n = (ptrdiff_t)a->m * (ptrdiff_t)act_blocks(a->k);
    par_range(p, n, &lo, &hi);
    for (ptrdiff_t i = lo; i < hi; i++) quantise(a->x + i * QBLOCK, (act_block *)a->q + i);
}
