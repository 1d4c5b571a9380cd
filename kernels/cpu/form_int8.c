/* Norms of matrix products (item_form: CriticalKV's |Wo v|) on int8 codes, for AVX-512 with VNNI: an item's vector and a row of the matrix
 * are rounded to 8 bits with one step each, x ~ a u and m_r ~ b_r w_r, so that every product is an exact integer:
 *
 *   sum_r |m_r . x| ~ a sum_r b_r |w_r . u|        sum_r (m_r . x)^2 ~ a^2 sum_r (b_r (w_r . u))^2
 *
 * Rounding moves m_r . x by at most (a |w_r|_1 b_r + b_r |u|_1 a) / 2 + d a b_r / 4 with a, b_r the largest of a vector / 127. Lanes are items;
 * products are reduced in registers and never stored. Blocks of rows lie at fixed multiples, so an item's sum depends on itself alone. */
#include <immintrin.h>
#include <string.h>
#include "kernels/cpu/attn_plan.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/signals.h"
#include "kernels/cpu/weights.h"

#pragma GCC push_options
ISA_TARGET_AVX512
#define FN     static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
enum {
    LANES = 16,
    ROWS = 6,         /* rows of a register tile, times VECS vectors of items */
    VECS = ATTN_TILE / LANES,
    UNIT_TILES = 8,   /* tiles of items for which a block of rows is rounded once */
};
_Static_assert(12 * KV_MAX_HEAD_DIM + 2 * SIGNAL_BLOCK + 3 * UNIT_TILES * ATTN_TILE <= 2 * SIGNAL_BLOCK * ATTN_TILE, "buffers fit signal_scratch_bytes");

/* d values to codes (0 beyond, up to a multiple of 16) with one step; sum of the codes. */
static float quantise(const float *x, int d, int8_t *codes, int32_t *sum) {
    const __m512i abs_mask = _mm512_set1_epi32(0x7fffffff);
    __m512i max = _mm512_setzero_si512(), total = _mm512_setzero_si512();
    for (int c = 0; c < d; c += LANES) {
        __mmask16 live = d - c >= LANES ? 0xffff : (__mmask16)((1u << (d - c)) - 1);
        max = _mm512_max_epi32(max, _mm512_and_si512(_mm512_maskz_loadu_epi32(live, x + c), abs_mask)); /* NaN is above infinity */
    }
    float scale, inverse;
    act_block_scale(f32_from_bits((uint32_t)_mm512_reduce_max_epi32(max)), &scale, &inverse);
    for (int c = 0; c < d; c += LANES) {
        __mmask16 live = inverse > 0 ? d - c >= LANES ? 0xffff : (__mmask16)((1u << (d - c)) - 1) : 0;
        __m512i q = _mm512_maskz_cvtps_epi32(live, _mm512_mul_ps(_mm512_maskz_loadu_ps(live, x + c), _mm512_set1_ps(inverse)));
        _mm_storeu_si128((__m128i *)(codes + c), _mm512_cvtepi32_epi8(q));
        total = _mm512_add_epi32(total, q);
    }
    *sum = _mm512_reduce_add_epi32(total);
    return scale;
}

/* Up to ATTN_TILE items as unsigned bytes, code + 128: [round16(d) / 4][ATTN_TILE] dwords of four channels. */
static void pack_items(const float *x, int n, int d, uint32_t *tile, float *scale) {
    const __m512i stride = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(ATTN_TILE));
    int8_t codes[KV_MAX_HEAD_DIM] __attribute__((aligned(64)));
    size_t quads = attn_round16((size_t)d) / 4;
    if (n < ATTN_TILE) memset(tile, 0, quads * ATTN_TILE * sizeof *tile);
    for (int t = 0; t < n; t++, x += d) {
        int32_t sum;
        scale[t] = quantise(x, d, codes, &sum);
        for (size_t i = 0; i < quads; i += LANES) {
            __mmask16 live = quads - i >= LANES ? 0xffff : (__mmask16)((1u << (quads - i)) - 1);
            __m512i four = _mm512_xor_si512(_mm512_maskz_loadu_epi32(live, codes + 4 * i), _mm512_set1_epi8(-128));
            _mm512_mask_i32scatter_epi32(tile + i * ATTN_TILE + t, live, stride, four, 4);
        }
    }
}

typedef struct matrix_block { /* SIGNAL_BLOCK rows at most */
    int8_t *codes;  /* [rows][ld] */
    size_t ld;
    float *scale;
    int32_t *start; /* -128 times the sum of a row's codes: takes back what the items' codes are above */
} matrix_block;

/* sum [ATTN_TILE] += what the form makes of rows r .. r + R - 1; R and `square` are constants at every call. */
FN void form_tile(const int R, const bool square, const uint32_t *items, const matrix_block *m, int r0, float *sum) {
    __m512i acc[ROWS][VECS];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < VECS; v++) acc[r][v] = _mm512_set1_epi32(m->start[r0 + r]);
    const int8_t *codes = m->codes + (size_t)r0 * m->ld;
    for (size_t i = 0; i < m->ld / 4; i++) {
        __m512i x[VECS];
        UNROLL for (int v = 0; v < VECS; v++) x[v] = _mm512_load_si512(items + i * ATTN_TILE + v * LANES);
        UNROLL for (int r = 0; r < R; r++) {
            int32_t four;
            memcpy(&four, codes + (size_t)r * m->ld + 4 * i, 4);
            __m512i w = _mm512_set1_epi32(four);
            UNROLL for (int v = 0; v < VECS; v++) acc[r][v] = _mm512_dpbusd_epi32(acc[r][v], x[v], w);
        }
    }
    UNROLL for (int v = 0; v < VECS; v++) {
        __m512 s = _mm512_load_ps(sum + v * LANES);
        UNROLL for (int r = 0; r < R; r++) {
            __m512 step = _mm512_set1_ps(m->scale[r0 + r]);
            if (square) {
                __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[r][v]), step);
                s = _mm512_fmadd_ps(y, y, s);
            } else {
                s = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_abs_epi32(acc[r][v])), step, s);
            }
        }
        _mm512_store_ps(sum + v * LANES, s);
    }
}
#define CASE(R)                                                                                                        \
    case R:                                                                                                            \
        if (square) form_tile(R, true, items, m, r0, sum);                                                             \
        else form_tile(R, false, items, m, r0, sum);                                                                   \
        break;
static void form_rows(bool square, int rows, const uint32_t *items, const matrix_block *m, int r0, float *sum) {
    switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
}

/* Items t0 .. t0 + n - 1 of one KV head. */
static void form_unit(const item_form *a, int kv, int t0, int n, float *own) {
    int d = a->head_dim, group = a->n_heads / a->n_kv, n_tiles = (n + ATTN_TILE - 1) / ATTN_TILE;
    size_t ld = attn_round16((size_t)d), tile = ld / 4 * ATTN_TILE;
    uint32_t *items = (uint32_t *)own;
    float *scale = own + UNIT_TILES * tile, *total = scale + UNIT_TILES * ATTN_TILE, *steps = total + UNIT_TILES * ATTN_TILE;
    matrix_block m = {(int8_t *)(steps + 2 * SIGNAL_BLOCK), ld, steps, (int32_t *)(steps + SIGNAL_BLOCK)};
    for (int i = 0; i < n_tiles; i++)
        pack_items(a->x + ((size_t)kv * (size_t)a->n_items + (size_t)(t0 + i * ATTN_TILE)) * (size_t)d, attn_min(ATTN_TILE, n - i * ATTN_TILE), d,
                   items + (size_t)i * tile, scale + i * ATTN_TILE);
    for (int h = kv * group; h < (kv + 1) * group; h++) {
        memset(total, 0, (size_t)n_tiles * ATTN_TILE * sizeof *total);
        for (int row = 0; row < a->n_rows; row += SIGNAL_BLOCK) {
            int n_rows = attn_min(SIGNAL_BLOCK, a->n_rows - row);
            for (int r = 0; r < n_rows; r++) {
                m.scale[r] = quantise(a->m + (size_t)h * a->head_stride + (size_t)(row + r) * a->ldm, d, m.codes + (size_t)r * ld, &m.start[r]);
                m.start[r] *= -128;
            }
            for (int i = 0; i < n_tiles; i++) {
                float sum[ATTN_TILE] __attribute__((aligned(64))) = {0};
                for (int r = 0; r < n_rows; r += ROWS)
                    form_rows(a->kind == FORM_SQUARE, attn_min(ROWS, n_rows - r), items + (size_t)i * tile, &m, r, sum);
                for (int t = 0; t < ATTN_TILE; t++) total[i * ATTN_TILE + t] += sum[t];
            }
        }
        float *out = a->out + (size_t)h * (size_t)a->n_items + (size_t)t0;
        for (int t = 0; t < n; t++) out[t] = total[t] * scale[t] * (a->kind == FORM_SQUARE ? scale[t] : 1);
    }
}

/* Quadratic forms (ExpectedAttention) keep f32: they stand in an exponent. */
void item_form_avx512_int8(const par *p, const item_form *a) {
    if (a->kind == FORM_QUADRATIC) {
        item_form_avx512(p, a);
        return;
    }
    float *own = attn_align64(a->scratch) + (size_t)p->ith * signal_thread_floats(a->head_dim);
    int n_tiles = (a->n_items + ATTN_TILE - 1) / ATTN_TILE; /* short prompts in smaller units, so that all threads have work */
    int per_unit = attn_max(1, attn_min(UNIT_TILES, n_tiles * a->n_kv / (4 * p->nth)));
    int n_units = (n_tiles + per_unit - 1) / per_unit;
    for (int u = p->ith; u < n_units * a->n_kv; u += p->nth) {
        int t0 = u / a->n_kv * per_unit * ATTN_TILE;
        form_unit(a, u % a->n_kv, t0, attn_min(per_unit * ATTN_TILE, a->n_items - t0), own);
    }
}
#pragma GCC pop_options
