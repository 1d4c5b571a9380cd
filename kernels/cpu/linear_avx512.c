/* Tiles for AVX-512 with VNNI: vpdpbusd takes the weights as unsigned bytes, four inputs of 16 columns a register, and
 * four activations of a row broadcast. */
#include <immintrin.h>
#include <string.h>
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"

#pragma GCC push_options
ISA_TARGET_AVX512
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

INLINE __m512i bcast4(const int8_t *q) {
    int32_t v;
    memcpy(&v, q, 4);
    return _mm512_set1_epi32(v);
}
INLINE __m512 load_f16(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
/* Columns 16 * half .. of column array i behind the codes. */
INLINE __m512 load_column(const bool f32, const uint8_t *columns, int i, int half) {
    return f32 ? _mm512_load_ps((const float *)columns + i * PANEL + half * 16)
               : load_f16(columns + (i * PANEL + half * 16) * 2);
}
INLINE int sum16(const int8_t *q) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)q);
    return _mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(bytes));
}
INLINE void prefetch_lines(const uint8_t *p, int n_lines) {
    for (int i = 0; i < n_lines; i++) _mm_prefetch((const char *)p + 64 * i, _MM_HINT_T0);
}

/* R rows and C registers of 16 columns are constants at every call. The panel is fetched ahead of its use: in decode it
 * comes from memory, and the next panel follows it (past the last one a prefetch does nothing). */
INLINE void q4_body(const int R, const int C, const bool F32, const uint8_t *panel, int nb, const act_block *a, int half, float *out) {
    const int RECORD = F32 ? Q4_F32_RECORD : Q4_RECORD;
    const __m512i low = _mm512_set1_epi8(15);
    __m512 f[TILE_ROWS][2];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) f[r][c] = _mm512_setzero_ps();
    for (int b = 0; b < nb; b++) {
        const uint8_t *rec = panel + (size_t)b * (size_t)RECORD, *codes = rec + half * 64;
        prefetch_lines(rec + AHEAD_Q4 * RECORD, RECORD / 64);
        __m512i s[TILE_ROWS][2];
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) s[r][c] = _mm512_setzero_si512();
        UNROLL for (int p = 0; p < 4; p++) {
            __m512i lo[2], hi[2];
            UNROLL for (int c = 0; c < C; c++) {
                __m512i x = _mm512_load_si512(codes + p * 128 + c * 64);
                lo[c] = _mm512_and_si512(x, low);
                hi[c] = _mm512_and_si512(_mm512_srli_epi16(x, 4), low);
            }
            UNROLL for (int r = 0; r < R; r++) {
                const int8_t *q = a[(size_t)r * (size_t)nb + (size_t)b].q + p * 8;
                __m512i a0 = bcast4(q), a1 = bcast4(q + 4);
                UNROLL for (int c = 0; c < C; c++) s[r][c] = _mm512_dpbusd_epi32(s[r][c], lo[c], a0);
                UNROLL for (int c = 0; c < C; c++) s[r][c] = _mm512_dpbusd_epi32(s[r][c], hi[c], a1);
            }
        }
        __m512 d[2], m[2];
        UNROLL for (int c = 0; c < C; c++) {
            d[c] = load_column(F32, rec + Q4_CODES, 0, half + c);
            m[c] = load_column(F32, rec + Q4_CODES, 1, half + c);
        }
        UNROLL for (int r = 0; r < R; r++) {
            const act_block *ab = &a[(size_t)r * (size_t)nb + (size_t)b];
            __m512 scale = _mm512_set1_ps(ab->scale), sum = _mm512_set1_ps(ab->sum);
            UNROLL for (int c = 0; c < C; c++) {
                f[r][c] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(s[r][c]), scale), d[c], f[r][c]);
                f[r][c] = _mm512_fmadd_ps(sum, m[c], f[r][c]);
            }
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++)
        _mm512_store_ps(out + r * PANEL + (half + c) * 16, f[r][c]);
}

/* 8-bit codes: SIGNED ones are stored + 128; MIN adds a minimum; HALVES has a step for each 16 inputs. Only plain Q8_0 has
 * its columns in f16. */
INLINE void q8_body(const int R, const int C, const pack_form F, const int RECORD, const uint8_t *panel, int nb,
                    const act_block *a, int half, float *out) {
    const bool f32 = F != PACK_Q8_F16, is_signed = F != PACK_Q8_MIN;
    const int n_dots = F == PACK_Q8_HALVES ? 2 : 1;
    __m512 f[TILE_ROWS][2];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) f[r][c] = _mm512_setzero_ps();
    for (int b = 0; b < nb; b++) {
        const uint8_t *rec = panel + (size_t)b * (size_t)RECORD, *codes = rec + half * 64;
        prefetch_lines(rec + AHEAD_Q8 * RECORD, RECORD / 64);
        UNROLL for (int h = 0; h < n_dots; h++) {
            __m512i s[TILE_ROWS][2];
            UNROLL for (int r = 0; r < R; r++) { /* sum (code + 128) q = sum code q + 128 sum q */
                const act_block *ab = &a[(size_t)r * (size_t)nb + (size_t)b];
                int sum = n_dots == 1 ? ab->isum : sum16(ab->q + 16 * h);
                __m512i start = _mm512_set1_epi32(is_signed ? -128 * sum : 0);
                UNROLL for (int c = 0; c < C; c++) s[r][c] = start;
            }
            for (int i = 0; i < 8 / n_dots; i++) {
                int p = h * (8 / n_dots) + i;
                __m512i x[2];
                UNROLL for (int c = 0; c < C; c++) x[c] = _mm512_load_si512(codes + p * 128 + c * 64);
                UNROLL for (int r = 0; r < R; r++) {
                    __m512i q = bcast4(a[(size_t)r * (size_t)nb + (size_t)b].q + p * 4);
                    UNROLL for (int c = 0; c < C; c++) s[r][c] = _mm512_dpbusd_epi32(s[r][c], x[c], q);
                }
            }
            __m512 d[2];
            UNROLL for (int c = 0; c < C; c++) d[c] = load_column(f32, rec + Q8_CODES, h, half + c);
            UNROLL for (int r = 0; r < R; r++) {
                __m512 scale = _mm512_set1_ps(a[(size_t)r * (size_t)nb + (size_t)b].scale);
                UNROLL for (int c = 0; c < C; c++) f[r][c] =
                    _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(s[r][c]), scale), d[c], f[r][c]);
            }
        }
        if (F == PACK_Q8_MIN) UNROLL for (int r = 0; r < R; r++) {
                __m512 sum = _mm512_set1_ps(a[(size_t)r * (size_t)nb + (size_t)b].sum);
                UNROLL for (int c = 0; c < C; c++) f[r][c] =
                    _mm512_fmadd_ps(sum, load_column(true, rec + Q8_CODES, 1, half + c), f[r][c]);
            }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++)
        _mm512_store_ps(out + r * PANEL + (half + c) * 16, f[r][c]);
}

/* B blocks of n inputs side by side: their sums are independent, which hides latency when there are few rows. */
INLINE void f32_blocks(const int R, const int C, const int B, int n, const float *w, const float *x, size_t ldx,
                       float *out) {
    __m512 s[4][TILE_ROWS][2];
    UNROLL for (int b = 0; b < B; b++) UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++)
        s[b][r][c] = _mm512_setzero_ps();
    for (int i = 0; i < n; i++) UNROLL for (int b = 0; b < B; b++) {
            __m512 wv[2];
            UNROLL for (int c = 0; c < C; c++) wv[c] = _mm512_load_ps(w + (b * QBLOCK + i) * PANEL + c * 16);
            UNROLL for (int r = 0; r < R; r++) {
                __m512 xv = _mm512_set1_ps(x[(size_t)r * ldx + (size_t)(b * QBLOCK + i)]);
                UNROLL for (int c = 0; c < C; c++) s[b][r][c] = _mm512_fmadd_ps(xv, wv[c], s[b][r][c]);
            }
        }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) {
        float *o = out + r * PANEL + c * 16;
        __m512 f = _mm512_load_ps(o);
        UNROLL for (int b = 0; b < B; b++) f = _mm512_add_ps(f, s[b][r][c]);
        _mm512_store_ps(o, f);
    }
}
INLINE void f32_body(const int R, const int C, const float *w, int k, const float *x, size_t ldx, int half,
                     float *out) {
    const int B = R == 1 ? 4 : R == 2 ? 2 : 1;
    int i = 0;
    w += half * 16;
    out += half * 16;
    for (; i + B * QBLOCK <= k; i += B * QBLOCK) f32_blocks(R, C, B, QBLOCK, w + i * PANEL, x + i, ldx, out);
    for (; i < k; i += QBLOCK) f32_blocks(R, C, 1, k - i < QBLOCK ? k - i : QBLOCK, w + i * PANEL, x + i, ldx, out);
}

/* A switch over height and width, so that each body is compiled with both as constants. */
#define CASE(body, R, ...)                                                                                             \
    case R * 2 - 1:                                                                                                    \
        body(R, 1, __VA_ARGS__);                                                                                       \
        break;                                                                                                         \
    case R * 2:                                                                                                        \
        body(R, 2, __VA_ARGS__);                                                                                       \
        break;
#define DISPATCH(body, ...)                                                                                            \
    switch (n_rows * 2 + n_halves - 2) {                                                                               \
        CASE(body, 1, __VA_ARGS__)                                                                                     \
        CASE(body, 2, __VA_ARGS__)                                                                                     \
        CASE(body, 3, __VA_ARGS__)                                                                                     \
        CASE(body, 4, __VA_ARGS__)                                                                                     \
        CASE(body, 5, __VA_ARGS__)                                                                                     \
        CASE(body, 6, __VA_ARGS__)                                                                                     \
    }
#define TILE(name, body, ...)                                                                                          \
    static void name##_tile(const uint8_t *panel, int n_blocks, const act_block *a, int n_rows, int half,              \
                            int n_halves, float *out) {                                                                \
        DISPATCH(body, __VA_ARGS__, panel, n_blocks, a, half, out)                                                     \
    }
TILE(q4, q4_body, false)
TILE(q4_f32, q4_body, true)
TILE(q8, q8_body, PACK_Q8_F16, Q8_RECORD)
TILE(q8_min, q8_body, PACK_Q8_MIN, Q8_MIN_RECORD)
TILE(q8_halves, q8_body, PACK_Q8_HALVES, Q8_HALVES_RECORD)
static void f32_tile(const float *w, int k, const float *x, size_t ldx, int n_rows, int half, int n_halves,
                     float *out) {
    DISPATCH(f32_body, w, k, x, ldx, half, out)
}

INLINE void q4_decode_body(const bool F32, const uint8_t *rec, float *out) {
    const int RECORD = F32 ? Q4_F32_RECORD : Q4_RECORD;
    prefetch_lines(rec + AHEAD_Q4 * RECORD, RECORD / 64);
    const __m512i low = _mm512_set1_epi32(15);
    for (int c = 0; c < 2; c++) {
        __m512 d = load_column(F32, rec + Q4_CODES, 0, c), m = load_column(F32, rec + Q4_CODES, 1, c);
        for (int p = 0; p < 4; p++) {
            __m512i x = _mm512_load_si512(rec + p * 128 + c * 64);
            for (int i = 0; i < 8; i++) { /* nibble 2i of each column: input 8p + i, nibble 2i + 1: input 8p + 4 + i */
                __m512 v = _mm512_cvtepi32_ps(_mm512_and_si512(x, low));
                int k = 8 * p + i / 2 + i % 2 * 4;
                _mm512_store_ps(out + k * PANEL + c * 16, _mm512_add_ps(_mm512_mul_ps(d, v), m));
                x = _mm512_srli_epi32(x, 4);
            }
        }
    }
}
INLINE void q8_decode_body(const pack_form F, const int RECORD, const uint8_t *rec, float *out) {
    const bool f32 = F != PACK_Q8_F16;
    prefetch_lines(rec + AHEAD_Q8 * RECORD, RECORD / 64);
    const __m512i low = _mm512_set1_epi32(255), offset = _mm512_set1_epi32(F == PACK_Q8_MIN ? 0 : 128);
    for (int c = 0; c < 2; c++) {
        __m512 d0 = load_column(f32, rec + Q8_CODES, 0, c), d1 = f32 ? load_column(true, rec + Q8_CODES, 1, c) : d0;
        for (int p = 0; p < 8; p++) {
            __m512i x = _mm512_load_si512(rec + p * 128 + c * 64);
            for (int i = 0; i < 4; i++) {
                __m512 v = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_and_si512(x, low), offset));
                v = _mm512_mul_ps(F == PACK_Q8_HALVES && p >= 4 ? d1 : d0, v);
                if (F == PACK_Q8_MIN) v = _mm512_add_ps(v, d1);
                _mm512_store_ps(out + (4 * p + i) * PANEL + c * 16, v);
                x = _mm512_srli_epi32(x, 8);
            }
        }
    }
}
#define DECODE(name, body, ...)                                                                                        \
    static void name##_decode(const uint8_t *rec, float *out) {                                                        \
        body(__VA_ARGS__, rec, out);                                                                                   \
    }
DECODE(q4, q4_decode_body, false)
DECODE(q4_f32, q4_decode_body, true)
DECODE(q8, q8_decode_body, PACK_Q8_F16, Q8_RECORD)
DECODE(q8_min, q8_decode_body, PACK_Q8_MIN, Q8_MIN_RECORD)
DECODE(q8_halves, q8_decode_body, PACK_Q8_HALVES, Q8_HALVES_RECORD)

static void f16_decode(const uint16_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i += 16) _mm512_store_ps(out + i, load_f16((const uint8_t *)(src + i)));
}
static void bf16_decode(const uint16_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i += 16) {
        __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(src + i)));
        _mm512_store_si512(out + i, _mm512_slli_epi32(x, 16));
    }
}

static void quantise(const float *x, act_block *out) {
    __m512 v0 = _mm512_loadu_ps(x), v1 = _mm512_loadu_ps(x + 16);
    const __m512i abs_mask = _mm512_set1_epi32(0x7fffffff);
    __m512i a0 = _mm512_and_si512(_mm512_castps_si512(v0), abs_mask),
            a1 = _mm512_and_si512(_mm512_castps_si512(v1), abs_mask);
    float max = f32_from_bits((uint32_t)_mm512_reduce_max_epi32(_mm512_max_epi32(a0, a1))); /* NaN is above infinity */
    float inverse;
    act_block_scale(max, &out->scale, &inverse);
    __m512 s = _mm512_set1_ps(inverse);
    __mmask16 keep = inverse > 0 ? 0xffff : 0;
    __m512i q0 = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(v0, s)),
            q1 = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(v1, s));
    _mm_storeu_si128((__m128i *)out->q, _mm512_cvtepi32_epi8(q0));
    _mm_storeu_si128((__m128i *)(out->q + 16), _mm512_cvtepi32_epi8(q1));
    out->isum = _mm512_reduce_add_epi32(_mm512_add_epi32(q0, q1));
    out->sum = out->scale * (float)out->isum;
}

const linear_isa linear_avx512 = {
    {q4_tile, q8_tile, q4_f32_tile, q8_min_tile, q8_halves_tile},
    f32_tile,
    {q4_decode, q8_decode, q4_f32_decode, q8_min_decode, q8_halves_decode},
    f16_decode,
    bf16_decode,
    quantise,
};
#pragma GCC pop_options
