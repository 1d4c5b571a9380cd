/* Causal attention of a whole prompt, and its column sums, on bf16 tiles (AVX-512 BF16): q, K, V and probabilities are rounded to bf16, sums are f32.
 *
 * K and V of all tokens are rounded once into tiles of ATTN_TILE keys, pairs of channels (K) or of keys (V) in one dword, as
 * vdpbf16ps takes them. Then work units (KV head, block of rows): per register tile of 6 queries, 64 scores each, in base 2, are
 * made, turned into probabilities and multiplied with V while they lie in L1.
 *
 * Tiles lie at fixed multiples and go in order; every score and output is one chain over ascending pairs. What a row does not see
 * is masked by lane, or, the odd last key of a row, by its half of the dword: a row depends on nothing but itself. */
#include <immintrin.h>
#include <math.h>
#include <string.h>
#include "kernels/cpu/attn.h"
#include "kernels/cpu/attn_plan.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/signals.h"
#include "kernels/cpu/vmath.h"

#pragma GCC push_options
ISA_TARGET_AVX512_BF16
#define FN     static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
enum { VW = 16, ROWS = 6, VECS = 4, PAIRS = ATTN_TILE / 2 };
#define LAZY 32.0f

#define LOG2E 1.44269504f
#define LN2   0.693147181f

/* 2^x for x <= 0 to a relative 4e-6, 0 for -inf: the probability is rounded to 2^-8 anyway. */
FN __m512 exp2_vec(__m512 x) {
    __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF), p = _mm512_set1_ps(0x1.bc31dp-7f); /* r in [0, 1) */
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.aa3fcep-5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.ee5884p-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.62d51cp-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, x); /* takes floor(x) itself */
}
FN __m512i dwords(__m256bh x) { return _mm512_cvtepu16_epi32((__m256i)x); }

/* ---- K and V as tiles of dwords ---- */
static void pack_k(const float *k, int n, int d, uint32_t *tile) { /* [ceil(d / 2)][ATTN_TILE] */
    memset(tile, 0, attn_bf16_k_dwords(d) * sizeof *tile);
    const __m512i stride = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                              _mm512_set1_epi32(ATTN_TILE));
    for (int t = 0; t < n; t++, k += d) {
        int c = 0;
        for (; c + 2 * VW <= d; c += 2 * VW) {
            __m512i x = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(k + c + VW), _mm512_loadu_ps(k + c));
            _mm512_i32scatter_epi32(tile + c / 2 * ATTN_TILE + t, stride, x, 4);
        }
        for (; c < d; c++) tile[c / 2 * ATTN_TILE + t] |= (uint32_t)bf16_from_f32(k[c]) << c % 2 * 16;
    }
}
static void pack_v(const float *v, int n, int d, uint32_t *tile) { /* [PAIRS][round16(d)] */
    memset(tile, 0, attn_bf16_v_dwords(d) * sizeof *tile);
    size_t ld = attn_round16((size_t)d);
    for (int t = 0; t < n; t++, v += d) {
        uint32_t *to = tile + (size_t)(t / 2) * ld;
        int c = 0;
        for (; c + VW <= d; c += VW) {
            __m512i x = dwords(_mm512_cvtneps_pbh(_mm512_loadu_ps(v + c)));
            if (t % 2) x = _mm512_or_si512(_mm512_slli_epi32(x, 16), _mm512_loadu_si512(to + c));
            _mm512_storeu_si512(to + c, x);
        }
        for (; c < d; c++) to[c] |= (uint32_t)bf16_from_f32(v[c]) << t % 2 * 16;
    }
}

/* Rows of one head (of neighbouring heads: ldq = d), scaled into base 2: [n_rows][n_pairs] dwords. */
static void pack_rows(const float *q, size_t ldq, int n_rows, int d, float scale, uint32_t *to) {
    const __m512 factor = _mm512_set1_ps(scale);
    for (int r = 0; r < n_rows; r++, q += ldq, to += (d + 1) / 2) {
        int c = 0;
        for (; c + 2 * VW <= d; c += 2 * VW)
            _mm512_storeu_si512(to + c / 2, (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(_mm512_loadu_ps(q + c + VW), factor),
                                                                        _mm512_mul_ps(_mm512_loadu_ps(q + c), factor)));
        for (; c < d; c += 2) to[c / 2] = bf16_from_f32(q[c] * scale) | (uint32_t)(c + 1 < d ? bf16_from_f32(q[c + 1] * scale) : 0) << 16;
    }
}

/* ---- register tiles: R queries times C vectors, both constants at every call ---- */
/* s [R][ATTN_TILE] = start [R] + q k. */
FN void scores_tile(const int R, const int C, int n_pairs, const uint32_t *q, const uint32_t *k, const float *start, float *s) {
    __m512 acc[ROWS][VECS];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) acc[r][c] = _mm512_set1_ps(start[r]);
    for (int i = 0; i < n_pairs; i++) {
        __m512i b[VECS];
        UNROLL for (int c = 0; c < C; c++) b[c] = _mm512_load_si512(k + i * ATTN_TILE + c * VW);
        UNROLL for (int r = 0; r < R; r++) {
            __m512i x = _mm512_set1_epi32((int)q[r * n_pairs + i]);
            UNROLL for (int c = 0; c < C; c++) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], (__m512bh)x, (__m512bh)b[c]);
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) _mm512_store_ps(s + r * ATTN_TILE + c * VW, acc[r][c]);
}
/* o += p v over n_pairs pairs, and then over the first key of the next pair if `half`. */
FN void values_tile(const int R, const int C, int n_pairs, bool half, const uint32_t *p, const uint32_t *v, size_t ld, float *o) {
    __m512 acc[ROWS][VECS];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) acc[r][c] = _mm512_load_ps(o + (size_t)r * ld + c * VW);
    for (int i = 0; i < n_pairs + half; i++) {
        __m512i b[VECS];
        UNROLL for (int c = 0; c < C; c++) b[c] = _mm512_load_si512(v + (size_t)i * ld + c * VW);
        if (half && i == n_pairs) UNROLL for (int c = 0; c < C; c++) b[c] = _mm512_and_si512(b[c], _mm512_set1_epi32(0xffff));
        UNROLL for (int r = 0; r < R; r++) {
            __m512i x = _mm512_set1_epi32((int)p[r * PAIRS + i]);
            UNROLL for (int c = 0; c < C; c++) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], (__m512bh)x, (__m512bh)b[c]);
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) _mm512_store_ps(o + (size_t)r * ld + c * VW, acc[r][c]);
}

typedef void scores_fn(int n_pairs, const uint32_t *q, const uint32_t *k, const float *start, float *s);
typedef void values_fn(int n_pairs, bool half, const uint32_t *p, const uint32_t *v, size_t ld, float *o);
#define DEFINE(R, C)                                                                                                   \
    static void scores_##R##x##C(int n_pairs, const uint32_t *q, const uint32_t *k, const float *start, float *s) {    \
        scores_tile(R, C, n_pairs, q, k, start, s);                                                                    \
    }                                                                                                                  \
    static void values_##R##x##C(int n_pairs, bool half, const uint32_t *p, const uint32_t *v, size_t ld, float *o) {  \
        values_tile(R, C, n_pairs, half, p, v, ld, o);                                                                 \
    }
#define DEFINE_ROWS(C) DEFINE(1, C) DEFINE(2, C) DEFINE(3, C) DEFINE(4, C) DEFINE(5, C) DEFINE(6, C)
DEFINE_ROWS(1) DEFINE_ROWS(2) DEFINE_ROWS(3) DEFINE_ROWS(4)
#define NAMES(f, C) {f##_1x##C, f##_2x##C, f##_3x##C, f##_4x##C, f##_5x##C, f##_6x##C}
static scores_fn *const scores_of[VECS][ROWS] = {NAMES(scores, 1), NAMES(scores, 2), NAMES(scores, 3), NAMES(scores, 4)};
static values_fn *const values_of[VECS][ROWS] = {NAMES(values, 1), NAMES(values, 2), NAMES(values, 3), NAMES(values, 4)};

static void values(int rows, int n_vecs, int n_pairs, bool half, const uint32_t *p, const uint32_t *v, float *o) {
    size_t ld = (size_t)n_vecs * VW;
    for (int c = 0; c < n_vecs; c += VECS)
        values_of[attn_min(VECS, n_vecs - c) - 1][rows - 1](n_pairs, half, p, v + c * VW, ld, o + c * VW);
}

/* Scores from .. seen - 1 of a row's tile (n_vecs vectors were computed), relative to *max already, to probabilities relative to it. *max is
 * the largest score of the first keys that the row sees, and moves only when a later one is above it by more than 2^LAZY: a factor of all
 * sums of a row changes nothing, and what is rounded here has an exponent of its own. `whole`: the row sees all of the tile. */
FN void softmax_row(const bool whole, const float *s, int n_vecs, int from, int seen, uint32_t *p, float *o, int o_vecs, float *max, float *sum) {
    const __m512 none = _mm512_set1_ps(-INFINITY), one = _mm512_set1_ps(1);
    uint64_t live = (seen >= ATTN_TILE ? ~(uint64_t)0 : ((uint64_t)1 << seen) - 1) & (from > 0 ? ~(uint64_t)0 << from : ~(uint64_t)0);
    __m512 x[VECS];
    UNROLL for (int c = 0; c < VECS; c++)
        x[c] = whole ? _mm512_load_ps(s + c * VW) : c < n_vecs ? _mm512_mask_load_ps(none, (__mmask16)(live >> c * VW), s + c * VW) : none;
    __m512 top = _mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3])), total = _mm512_load_ps(sum);
    bool first = *max == -INFINITY;
    if (__builtin_expect(_mm512_cmp_ps_mask(top, _mm512_set1_ps(first ? -INFINITY : LAZY), _CMP_GT_OQ), 0)) {
        float rise = _mm512_reduce_max_ps(top);
        __m512 factor = first ? _mm512_setzero_ps() : exp2_vec(_mm512_set1_ps(-rise));
        for (int c = 0; c < o_vecs; c++) _mm512_store_ps(o + c * VW, _mm512_mul_ps(_mm512_load_ps(o + c * VW), factor));
        total = _mm512_mul_ps(total, factor);
        UNROLL for (int c = 0; c < VECS; c++) x[c] = _mm512_sub_ps(x[c], _mm512_set1_ps(rise));
        *max = first ? rise : *max + rise;
    } else if (first) { /* nothing seen so far: all keys lie before the window */
        memset(p, 0, PAIRS * sizeof *p);
        return;
    }
    __m512 e[VECS];
    UNROLL for (int c = 0; c < VECS; c++) {
        e[c] = exp2_vec(x[c]);
        total = _mm512_fmadd_ps(e[c], one, total); /* a sum; adders are busier here than multipliers */
    }
    _mm512_store_ps(sum, total);
    _mm512_store_si512(p, (__m512i)_mm512_cvtne2ps_pbh(e[1], e[0]));
    _mm512_store_si512(p + VW, (__m512i)_mm512_cvtne2ps_pbh(e[3], e[2]));
}

typedef struct unit {
    const attn_prefill *a;
    const attn_bf16_buf *b;
    int group, row0, n_rows, n_pairs, o_vecs;
    const uint32_t *k, *v; /* the KV head's tiles */
} unit;

/* Queries q .. q + rows - 1 of the unit against a tile; the first sees at least one of its keys. */
static void register_tile(const unit *u, int q, int rows, int t0, const uint32_t *k, const uint32_t *v) {
    const attn_bf16_buf *b = u->b;
    float s[ROWS * ATTN_TILE] __attribute__((aligned(64)));
    uint32_t p[ROWS * PAIRS] __attribute__((aligned(64)));
    int seen[ROWS], ld = u->o_vecs * VW;
    float start[ROWS];
    for (int r = 0; r < rows; r++) {
        seen[r] = attn_min(ATTN_TILE, u->row0 + (q + r) / u->group + 1 - t0);
        start[r] = b->max[q + r] == -INFINITY ? 0 : -b->max[q + r];
    }
    int n_vecs = (seen[rows - 1] + VW - 1) / VW; /* the last row sees most */
    scores_of[n_vecs - 1][rows - 1](u->n_pairs, b->q + (size_t)q * (size_t)u->n_pairs, k, start, s);
    for (int r = 0; r < rows; r++) {
        int row = u->row0 + (q + r) / u->group, from = u->a->window ? attn_min(ATTN_TILE - 1, row - u->a->window + 1 - t0) : 0;
        if (u->a->window && row - u->a->window + 1 - t0 >= ATTN_TILE) seen[r] = 0;
        float *o = b->o + (size_t)(q + r) * (size_t)ld, *max = b->max + q + r, *sum = b->sum + (size_t)(q + r) * VW;
        if (seen[r] == ATTN_TILE && from <= 0) softmax_row(true, s + r * ATTN_TILE, VECS, 0, ATTN_TILE, p + r * PAIRS, o, u->o_vecs, max, sum);
        else softmax_row(false, s + r * ATTN_TILE, n_vecs, from, seen[r], p + r * PAIRS, o, u->o_vecs, max, sum);
    }
    int common = ATTN_TILE;
    for (int r = 0; r < rows; r++) common = attn_min(common, seen[r]);
    common &= ~1;
    float *o = b->o + (size_t)q * (size_t)ld;
    if (common) values(rows, u->o_vecs, common / 2, false, p, v, o);
    for (int r = 0; r < rows; r++)
        if (seen[r] > common)
            values(1, u->o_vecs, (seen[r] - common) / 2, seen[r] % 2, p + r * PAIRS + common / 2, v + (size_t)(common / 2) * (size_t)ld,
                   o + (size_t)r * (size_t)ld);
}

static void unit_begin(const unit *u, int kv) {
    const attn_prefill *a = u->a;
    int d = a->head_dim, nq = u->n_rows * u->group;
    for (int r = 0; r < u->n_rows; r++)
        pack_rows(a->q + ((size_t)(u->row0 + r) * (size_t)a->n_heads + (size_t)(kv * u->group)) * (size_t)d, (size_t)d, u->group, d, a->scale * LOG2E,
                  u->b->q + (size_t)(r * u->group) * (size_t)u->n_pairs);
    for (int q = 0; q < nq; q++) u->b->max[q] = -INFINITY;
    memset(u->b->sum, 0, (size_t)nq * VW * sizeof(float));
    memset(u->b->o, 0, (size_t)nq * (size_t)u->o_vecs * VW * sizeof(float));
}
static void unit_end(const unit *u, int kv) {
    const attn_prefill *a = u->a;
    int d = a->head_dim, nq = u->n_rows * u->group;
    for (int q = 0; q < nq; q++) {
        int row = u->row0 + q / u->group, h = kv * u->group + q % u->group;
        const float *o = u->b->o + (size_t)q * (size_t)u->o_vecs * VW;
        float *to = a->out + ((size_t)row * (size_t)a->n_heads + (size_t)h) * (size_t)d;
        float sum = vsum16_x16(_mm512_load_ps(u->b->sum + (size_t)q * VW)), inv = 1.0f / sum;
        for (int c = 0; c < d; c++) to[c] = o[c] * inv;
        if (a->lse) a->lse[(size_t)h * (size_t)a->n_tokens + (size_t)row] = (u->b->max[q] + log2f(sum)) * LN2;
    }
}
static void unit_run(const unit *u, int kv) {
    int nq = u->n_rows * u->group, end = u->row0 + u->n_rows, window = u->a->window;
    unit_begin(u, kv);
    for (int t0 = window && u->row0 >= window ? (u->row0 - window + 1) / ATTN_TILE * ATTN_TILE : 0; t0 < end; t0 += ATTN_TILE) {
        size_t tile = (size_t)(t0 / ATTN_TILE);
        const uint32_t *k = u->k + tile * attn_bf16_k_dwords(u->a->head_dim), *v = u->v + tile * attn_bf16_v_dwords(u->a->head_dim);
        for (int q = attn_max(0, t0 - u->row0) * u->group; q < nq; q += ROWS) register_tile(u, q, attn_min(ROWS, nq - q), t0, k, v);
    }
    unit_end(u, kv);
}

void attn_prefill_avx512_bf16(const par *p, const attn_prefill *a) {
    int d = a->head_dim, group = a->n_heads / a->n_kv, step = attn_block_rows(group, ATTN_BF16_QUERIES);
    int n_blocks = (a->n_tokens - a->first + step - 1) / step, n_tiles = (a->n_tokens + ATTN_TILE - 1) / ATTN_TILE;
    attn_bf16_buf b = attn_bf16_buf_at(attn_align64(a->scratch), a, p->ith);
    size_t k_dwords = attn_bf16_k_dwords(d), v_dwords = attn_bf16_v_dwords(d);
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)a->n_kv * n_tiles, &lo, &hi);
    for (ptrdiff_t i = lo; i < hi; i++) {
        int t0 = (int)(i % n_tiles) * ATTN_TILE, n = attn_min(ATTN_TILE, a->n_tokens - t0);
        size_t at = ((size_t)(i / n_tiles) * (size_t)a->n_tokens + (size_t)t0) * (size_t)d;
        pack_k(a->k + at, n, d, b.k + (size_t)i * k_dwords);
        pack_v(a->v + at, n, d, b.v + (size_t)i * v_dwords);
    }
    par_barrier(p);
    for (int i = 0; i < n_blocks * a->n_kv; i++) { /* longest rows first, dealt out forwards and backwards in turn */
        int deal = i % (2 * p->nth), kv = i % a->n_kv;
        if ((deal < p->nth ? deal : 2 * p->nth - 1 - deal) != p->ith) continue;
        int row0 = a->first + (n_blocks - 1 - i / a->n_kv) * step;
        unit u = {a, &b, group, row0, attn_min(step, a->n_tokens - row0), (d + 1) / 2, (d + VW - 1) / VW,
                  b.k + (size_t)kv * (size_t)n_tiles * k_dwords, b.v + (size_t)kv * (size_t)n_tiles * v_dwords};
        unit_run(&u, kv);
    }
}

/* ---- columns of the same attention (H2O, KVzip): scores rounded as above, whose log-sum-exps are at hand ---- */

static uint64_t lanes_below(int n) { return n >= ATTN_TILE ? ~(uint64_t)0 : ((uint64_t)1 << attn_max(0, n)) - 1; }

/* total (op)= the block's rows in order; a row counts for the lanes from .. seen - 1, both one more with every row. */
static void columns_block(const attn_columns *a, const uint32_t *q, const float *lse, int n_rows, int seen, int from, int n_vecs, const uint32_t *k, float *total) {
    float s[ROWS * ATTN_TILE] __attribute__((aligned(64)));
    int n_pairs = (a->head_dim + 1) / 2;
    __m512 sum[VECS];
    UNROLL for (int v = 0; v < VECS; v++) sum[v] = _mm512_setzero_ps();
    for (int first = 0; first < n_rows; first += ROWS) {
        int rows = attn_min(ROWS, n_rows - first);
        float start[ROWS];
        for (int r = 0; r < rows; r++) start[r] = -lse[first + r] * LOG2E;
        scores_of[n_vecs - 1][rows - 1](n_pairs, q + (size_t)first * (size_t)n_pairs, k, start, s);
        for (int r = 0; r < rows; r++) {
            uint64_t live = lanes_below(seen + first + r) & ~lanes_below(from + first + r);
            UNROLL for (int v = 0; v < VECS; v++) {
                if (v >= n_vecs) break;
                __mmask16 m = (__mmask16)(live >> v * VW);
                __m512 x = exp2_vec(_mm512_load_ps(s + r * ATTN_TILE + v * VW));
                if (a->power == 2) x = _mm512_mul_ps(x, x);
                sum[v] = a->max ? _mm512_mask_max_ps(sum[v], m, sum[v], x) : _mm512_mask_add_ps(sum[v], m, sum[v], x);
            }
        }
    }
    for (int v = 0; v < n_vecs; v++) {
        __m512 old = _mm512_loadu_ps(total + v * VW);
        _mm512_storeu_ps(total + v * VW, a->max ? _mm512_max_ps(old, sum[v]) : _mm512_add_ps(old, sum[v]));
    }
}

/* The largest of a group's heads, row by row, stays with the f32 tiles: it is taken before rows are added, so sums cannot stay in registers. */
void attn_columns_avx512_bf16(const par *p, const attn_columns *a) {
    if (a->group_max) {
        attn_columns_avx512(p, a);
        return;
    }
    int d = a->head_dim, group = a->n_heads / a->n_kv, n_tiles = (a->n_tokens + ATTN_TILE - 1) / ATTN_TILE;
    size_t ldq = (size_t)a->n_heads * (size_t)d;
    uint32_t *k = (uint32_t *)attn_align64(a->scratch) + (size_t)p->ith * signal_thread_floats(d), *q = k + attn_bf16_k_dwords(d);
    for (int u = p->ith; u < n_tiles * a->n_kv; u += p->nth) {
        int kv = u % a->n_kv, t0 = u / a->n_kv * ATTN_TILE, n = attn_min(ATTN_TILE, a->n_tokens - t0);
        pack_k(a->k + ((size_t)kv * (size_t)a->n_tokens + (size_t)t0) * (size_t)d, n, d, k);
        for (int h = kv * group; h < (kv + 1) * group; h++) {
            float total[ATTN_TILE] = {0};
            int end = signal_end_row(a, t0 + n - 1);
            for (int row = attn_max(a->first, t0 + a->lag); row < end; row += SIGNAL_BLOCK) {
                int n_rows = attn_min(SIGNAL_BLOCK, end - row), at = row - a->first;
                pack_rows(a->q + (size_t)at * ldq + (size_t)h * (size_t)d, ldq, n_rows, d, a->scale * LOG2E, q);
                columns_block(a, q, a->lse + (size_t)h * a->ld_lse + (size_t)at, n_rows, row - a->lag + 1 - t0, a->window ? row - a->window + 1 - t0 : -SIGNAL_BLOCK,
                              (n + VW - 1) / VW, k, total);
            }
            memcpy(a->out + (size_t)h * (size_t)a->n_tokens + (size_t)t0, total, (size_t)n * sizeof *total);
        }
    }
}
#pragma GCC pop_options
