/* Tiles in portable C, for CPUs without AVX2. Columns are the inner loops, which a compiler may vectorise: no sum
 * crosses columns. */
#include "kernels/cpu/linear.h"

/* Each form's body is compiled with the form as a constant. */
#define INLINE static inline __attribute__((always_inline))

INLINE int code_at(const pack_form F, const uint8_t *rec, int c, int k) {
    if (F == PACK_Q4_F16 || F == PACK_Q4_F32) return rec[k / 8 * 128 + c * 4 + k % 4] >> (k / 4 % 2 * 4) & 15;
    int byte = rec[k / 4 * 128 + c * 4 + k % 4];
    return F == PACK_Q8_MIN ? byte : byte - 128;
}
INLINE bool has_min(const pack_form F) {
    return F == PACK_Q4_F16 || F == PACK_Q4_F32 || F == PACK_Q8_MIN;
}
/* Value c of column array i behind the codes: d, then m or the second d. */
INLINE float column_at(const pack_form F, const uint8_t *rec, int i, int c) {
    const uint8_t *columns = rec + (F == PACK_Q4_F16 || F == PACK_Q4_F32 ? Q4_CODES : Q8_CODES);
    if (F == PACK_Q4_F16 || F == PACK_Q8_F16) return f16_to_f32(((const f16 *)columns)[i * PANEL + c]);
    return ((const float *)columns)[i * PANEL + c];
}

INLINE void tile_body(const pack_form F, const size_t record, const uint8_t *panel, int n_blocks, const act_block *a,
                      int n_rows, int half, int n_halves, float *y, size_t ldy, bool accumulate) {
    const int c0 = half * PANEL_HALF, c1 = c0 + n_halves * PANEL_HALF, n_dots = F == PACK_Q8_HALVES ? 2 : 1;
    for (int r = 0; r < n_rows; r++) {
        float f[PANEL] = {0};
        for (int b = 0; b < n_blocks; b++) {
            const act_block *ab = &a[(size_t)r * (size_t)n_blocks + (size_t)b];
            const uint8_t *rec = panel + (size_t)b * record;
            for (int c = c0; c < c1; c++) {
                for (int h = 0; h < n_dots; h++) {
                    int32_t dot = 0;
                    for (int k = h * QBLOCK / n_dots; k < (h + 1) * QBLOCK / n_dots; k++)
                        dot += code_at(F, rec, c, k) * ab->q[k];
                    f[c] = fmaf((float)dot * ab->scale, column_at(F, rec, h, c), f[c]);
                }
                if (has_min(F)) f[c] = fmaf(ab->sum, column_at(F, rec, 1, c), f[c]);
            }
        }
        float *to = y + (size_t)r * ldy;
        for (int c = c0; c < c1; c++) to[c] = accumulate ? to[c] + f[c] : f[c];
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

INLINE void decode_body(const pack_form F, const uint8_t *rec, float *out) {
    for (int k = 0; k < QBLOCK; k++)
        for (int c = 0; c < PANEL; c++) {
            float w = column_at(F, rec, F == PACK_Q8_HALVES ? k / 16 : 0, c) * (float)code_at(F, rec, c, k);
            out[k * PANEL + c] = has_min(F) ? w + column_at(F, rec, 1, c) : w;
        }
}

#define FORM(name, F, record)                                                                                          \
    static void name##_tile(const uint8_t *panel, int n_blocks, const act_block *a, int n_rows, int half,              \
                            int n_halves, float *y, size_t ldy, bool accumulate, const uint8_t *next, int n_lines) {   \
        tile_body(F, record, panel, n_blocks, a, n_rows, half, n_halves, y, ldy, accumulate);                          \
    }                                                                                                                  \
    static void name##_decode(const uint8_t *rec, float *out) {                                                        \
        decode_body(F, rec, out);                                                                                      \
    }
FORM(q4, PACK_Q4_F16, Q4_RECORD)
FORM(q8, PACK_Q8_F16, Q8_RECORD)
FORM(q4_f32, PACK_Q4_F32, Q4_F32_RECORD)
FORM(q8_min, PACK_Q8_MIN, Q8_MIN_RECORD)
FORM(q8_halves, PACK_Q8_HALVES, Q8_HALVES_RECORD)

static void f16_decode(const uint16_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) out[i] = f16_to_f32(src[i]);
}
static void bf16_decode(const uint16_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) out[i] = bf16_to_f32(src[i]);
}

static void quantise_block(const float *x, act_block *out) {
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
static void quantise(const float *x, size_t n, act_block *out) {
    for (size_t i = 0; i < n; i++) quantise_block(x + i * QBLOCK, &out[i]);
}

const linear_isa linear_scalar = {
    {q4_tile, q8_tile, q4_f32_tile, q8_min_tile, q8_halves_tile},
    f32_tile,
    {q4_decode, q8_decode, q4_f32_decode, q8_min_decode, q8_halves_decode},
    f16_decode,
    bf16_decode,
    quantise,
    TILE_ROWS,
};
