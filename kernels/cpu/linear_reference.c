/* The judge of linear layers: rows as they lie in the file, one output after another, in the order that linear.h
 * defines. */
#include <string.h>
#include "kernels/cpu/linear.h"

static void store(float *y, float f, bool accumulate) {
    *y = accumulate ? *y + f : f;
}

/* ---- exact, and float weights: decode a block, multiply, add ---- */
static float dot_row(const wtype_info *info, const uint8_t *row, const float *x, int k) {
    enum { MAX_BLOCK = 256 };
    const int n_decoded = info->block > QBLOCK ? info->block : QBLOCK;
    float f = 0, w[MAX_BLOCK];
    for (int k0 = 0; k0 < k; k0 += QBLOCK) {
        int n = k - k0 < QBLOCK ? k - k0 : QBLOCK, at = k0 % n_decoded;
        if (at == 0)
            info->decode(row + (size_t)(k0 / info->block) * (size_t)info->block_bytes, w,
                         (size_t)(info->block > QBLOCK ? info->block : n));
        float s = 0;
        for (int i = 0; i < n; i++) s = fmaf(x[k0 + i], w[at + i], s);
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
static float dot_quantised(wtype t, const uint8_t *row, const act_block *a, int n_blocks) {
    const pack_form form = pack_form_of(t);
    const int n_dots = form == PACK_Q8_HALVES ? 2 : 1, n = QBLOCK / n_dots;
    const bool has_min = form == PACK_Q4_F16 || form == PACK_Q4_F32 || form == PACK_Q8_MIN;
    float f = 0;
    for (int b = 0; b < n_blocks; b++, a++) {
        quant_block w;
        quant_block_read(t, row, b, &w);
        for (int h = 0; h < n_dots; h++) {
            int32_t dot = 0;
            for (int j = h * n; j < (h + 1) * n; j++) dot += w.code[j] * a->q[j];
            f = fmaf((float)dot * a->scale, w.d[h], f);
        }
        if (has_min) f = fmaf(a->sum, w.m, f);
    }
    return f;
}

void linear_reference_fast(const par *p, const packed_weight *w, const act *a, float *y, size_t ldy, bool accumulate) {
    if (w->form == PACK_FLOAT) {
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
            float f = dot_quantised(w->type, row, blocks, n_blocks);
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
void act_row_reference(const act *a, int row) {
    size_t n = act_blocks(a->k);
    for (size_t i = (size_t)row * n; i < ((size_t)row + 1) * n; i++) quantise(a->x + i * QBLOCK, (act_block *)a->q + i);
}
void act_prepare_reference(const par *p, act *a) {
    ptrdiff_t lo, hi;
    par_range(p, a->m, &lo, &hi);
    for (ptrdiff_t r = lo; r < hi; r++) act_row_reference(a, (int)r);
}
