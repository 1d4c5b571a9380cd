/* Tiles for AVX2 with FMA and F16C: vpmaddubsw multiplies unsigned with signed bytes and adds pairs to 16 bits. Neither
 * form saturates: 8 steps of at most 2 * 15 * 127 for 4-bit codes; 2 * 128 * 127 for 8-bit codes, as |code| and q with
 * code's sign. */
#include <immintrin.h>
#include <string.h>
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"

#pragma GCC push_options
ISA_TARGET_AVX2
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

INLINE __m256i bcast4(const int8_t *q) {
    int32_t v;
    memcpy(&v, q, 4);
    return _mm256_set1_epi32(v);
}
INLINE __m256i load32(const uint8_t *p) {
    return _mm256_load_si256((const __m256i *)p);
}
INLINE __m256 load_f16(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
/* Columns 8 * c .. of column array i behind the codes. */
INLINE __m256 load_column(const bool f32, const uint8_t *columns, int i, int c) {
    return f32 ? _mm256_load_ps((const float *)columns + i * PANEL + c * 8) : load_f16(columns + (i * PANEL + c * 8) * 2);
}
INLINE void prefetch_lines(const uint8_t *p, int n_lines) {
    for (int i = 0; i < n_lines; i++) _mm_prefetch((const char *)p + 64 * i, _MM_HINT_T0);
}

/* R rows and C registers of 8 columns, the first at column 8 * c0, are constants at every call. */
INLINE void q4_body(const int R, const int C, const bool F32, const uint8_t *panel, int nb, const act_block *a, int c0, float *out) {
    const int RECORD = F32 ? Q4_F32_RECORD : Q4_RECORD;
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 f[TILE_ROWS][4];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) f[r][c] = _mm256_setzero_ps();
    for (int b = 0; b < nb; b++) {
        const uint8_t *rec = panel + (size_t)b * (size_t)RECORD, *codes = rec + c0 * 32;
        prefetch_lines(rec + AHEAD_Q4 * RECORD, RECORD / 64);
        __m256i s[TILE_ROWS][4];
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) s[r][c] = _mm256_setzero_si256();
        UNROLL for (int p = 0; p < 4; p++) UNROLL for (int c = 0; c < C; c++) {
            __m256i x = load32(codes + p * 128 + c * 32);
            __m256i lo = _mm256_and_si256(x, low), hi = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
            UNROLL for (int r = 0; r < R; r++) {
                const int8_t *q = a[(size_t)r * (size_t)nb + (size_t)b].q + p * 8;
                s[r][c] = _mm256_add_epi16(s[r][c], _mm256_maddubs_epi16(lo, bcast4(q)));
                s[r][c] = _mm256_add_epi16(s[r][c], _mm256_maddubs_epi16(hi, bcast4(q + 4)));
            }
        }
        UNROLL for (int c = 0; c < C; c++) {
            __m256 d = load_column(F32, rec + Q4_CODES, 0, c0 + c),
                   m = load_column(F32, rec + Q4_CODES, 1, c0 + c);
            UNROLL for (int r = 0; r < R; r++) {
                const act_block *ab = &a[(size_t)r * (size_t)nb + (size_t)b];
                __m256 dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(s[r][c], ones));
                f[r][c] = _mm256_fmadd_ps(_mm256_mul_ps(dot, _mm256_set1_ps(ab->scale)), d, f[r][c]);
                f[r][c] = _mm256_fmadd_ps(_mm256_set1_ps(ab->sum), m, f[r][c]);
            }
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++)
        _mm256_store_ps(out + r * PANEL + (c0 + c) * 8, f[r][c]);
}

/* 8-bit codes: signed ones are stored + 128; Q8_MIN has a minimum and codes below 32; Q8_HALVES has a step for each 16
 * inputs. Only plain Q8_0 has its columns in f16. */
INLINE void q8_body(const int R, const int C, const pack_form F, const int RECORD, const uint8_t *panel, int nb,
                    const act_block *a, int c0, float *out) {
    const bool f32 = F != PACK_Q8_F16;
    const int n_dots = F == PACK_Q8_HALVES ? 2 : 1;
    const __m256i offset = _mm256_set1_epi8(-128), ones = _mm256_set1_epi16(1);
    __m256 f[TILE_ROWS][4];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) f[r][c] = _mm256_setzero_ps();
    for (int b = 0; b < nb; b++) {
        const uint8_t *rec = panel + (size_t)b * (size_t)RECORD, *codes = rec + c0 * 32;
        prefetch_lines(rec + AHEAD_Q8 * RECORD, RECORD / 64);
        UNROLL for (int h = 0; h < n_dots; h++) {
            __m256i s[TILE_ROWS][4];
            UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) s[r][c] = _mm256_setzero_si256();
            for (int i = 0; i < 8 / n_dots; i++) UNROLL for (int c = 0; c < C; c++) {
                int p = h * (8 / n_dots) + i;
                __m256i x = load32(codes + p * 128 + c * 32);
                if (F != PACK_Q8_MIN) x = _mm256_xor_si256(x, offset);
                __m256i abs_x = F == PACK_Q8_MIN ? x : _mm256_abs_epi8(x);
                UNROLL for (int r = 0; r < R; r++) {
                    __m256i q = bcast4(a[(size_t)r * (size_t)nb + (size_t)b].q + p * 4);
                    if (F != PACK_Q8_MIN) q = _mm256_sign_epi8(q, x);
                    __m256i pairs = _mm256_maddubs_epi16(abs_x, q);
                    s[r][c] = _mm256_add_epi32(s[r][c], _mm256_madd_epi16(pairs, ones));
                }
            }
            UNROLL for (int c = 0; c < C; c++) {
                __m256 d = load_column(f32, rec + Q8_CODES, h, c0 + c);
                UNROLL for (int r = 0; r < R; r++) {
                    __m256 scale = _mm256_set1_ps(a[(size_t)r * (size_t)nb + (size_t)b].scale);
                    f[r][c] = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(s[r][c]), scale), d, f[r][c]);
                }
            }
        }
        if (F == PACK_Q8_MIN) UNROLL for (int c = 0; c < C; c++) {
                __m256 m = load_column(true, rec + Q8_CODES, 1, c0 + c);
                UNROLL for (int r = 0; r < R; r++) f[r][c] =
                    _mm256_fmadd_ps(_mm256_set1_ps(a[(size_t)r * (size_t)nb + (size_t)b].sum), m, f[r][c]);
            }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++)
        _mm256_store_ps(out + r * PANEL + (c0 + c) * 8, f[r][c]);
}

/* B blocks of n inputs side by side: their sums are independent, which hides latency when there are few rows. */
INLINE void f32_blocks(const int R, const int C, const int B, int n, const float *w, const float *x, size_t ldx,
                       float *out) {
    __m256 s[4][TILE_ROWS][4];
    UNROLL for (int b = 0; b < B; b++) UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++)
        s[b][r][c] = _mm256_setzero_ps();
    for (int i = 0; i < n; i++) UNROLL for (int b = 0; b < B; b++) {
            __m256 wv[4];
            UNROLL for (int c = 0; c < C; c++) wv[c] = _mm256_load_ps(w + (b * QBLOCK + i) * PANEL + c * 8);
            UNROLL for (int r = 0; r < R; r++) {
                __m256 xv = _mm256_set1_ps(x[(size_t)r * ldx + (size_t)(b * QBLOCK + i)]);
                UNROLL for (int c = 0; c < C; c++) s[b][r][c] = _mm256_fmadd_ps(xv, wv[c], s[b][r][c]);
            }
        }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) {
        float *o = out + r * PANEL + c * 8;
        __m256 f = _mm256_load_ps(o);
        UNROLL for (int b = 0; b < B; b++) f = _mm256_add_ps(f, s[b][r][c]);
        _mm256_store_ps(o, f);
    }
}
INLINE void f32_body(const int R, const int C, const float *w, int k, const float *x, size_t ldx, int c0, float *out) {
    const int B = R == 1 ? 2 : 1;
    int i = 0;
    w += c0 * 8;
    out += c0 * 8;
    for (; i + B * QBLOCK <= k; i += B * QBLOCK) f32_blocks(R, C, B, QBLOCK, w + i * PANEL, x + i, ldx, out);
    for (; i < k; i += QBLOCK) f32_blocks(R, C, 1, k - i < QBLOCK ? k - i : QBLOCK, w + i * PANEL, x + i, ldx, out);
}

/* A switch over the height, so that each body is compiled with it as a constant. One or two rows take all columns at
 * once, which hides latency; more rows take them half by half, which fits the 16 registers. */
#define CASE(body, R, ...)                                                                                             \
    case R:                                                                                                            \
        body(R, 2, __VA_ARGS__);                                                                                       \
        break;
#define CASE_WIDE(body, R, ...)                                                                                        \
    case R + 6:                                                                                                        \
        body(R, 4, __VA_ARGS__);                                                                                       \
        break;
#define DISPATCH(body, ...)                                                                                            \
    for (int wide = n_halves == 2 && n_rows <= 2, h = half; h < half + n_halves; h += 1 + wide)                        \
        switch (n_rows + 6 * wide) {                                                                                   \
            CASE(body, 1, __VA_ARGS__)                                                                                 \
            CASE(body, 2, __VA_ARGS__)                                                                                 \
            CASE(body, 3, __VA_ARGS__)                                                                                 \
            CASE(body, 4, __VA_ARGS__)                                                                                 \
            CASE(body, 5, __VA_ARGS__)                                                                                 \
            CASE(body, 6, __VA_ARGS__)                                                                                 \
            CASE_WIDE(body, 1, __VA_ARGS__)                                                                            \
            CASE_WIDE(body, 2, __VA_ARGS__)                                                                            \
        }
#define TILE(name, body, ...)                                                                                          \
    static void name##_tile(const uint8_t *panel, int n_blocks, const act_block *a, int n_rows, int half,              \
                            int n_halves, float *out) {                                                                \
        DISPATCH(body, __VA_ARGS__, panel, n_blocks, a, 2 * h, out)                                                    \
    }
TILE(q4, q4_body, false)
TILE(q4_f32, q4_body, true)
TILE(q8, q8_body, PACK_Q8_F16, Q8_RECORD)
TILE(q8_min, q8_body, PACK_Q8_MIN, Q8_MIN_RECORD)
TILE(q8_halves, q8_body, PACK_Q8_HALVES, Q8_HALVES_RECORD)
static void f32_tile(const float *w, int k, const float *x, size_t ldx, int n_rows, int half, int n_halves,
                     float *out) {
    DISPATCH(f32_body, w, k, x, ldx, 2 * h, out)
}

INLINE void q4_decode_body(const bool F32, const uint8_t *rec, float *out) {
    const int RECORD = F32 ? Q4_F32_RECORD : Q4_RECORD;
    prefetch_lines(rec + AHEAD_Q4 * RECORD, RECORD / 64);
    const __m256i low = _mm256_set1_epi32(15);
    for (int c = 0; c < 4; c++) {
        __m256 d = load_column(F32, rec + Q4_CODES, 0, c), m = load_column(F32, rec + Q4_CODES, 1, c);
        for (int p = 0; p < 4; p++) {
            __m256i x = load32(rec + p * 128 + c * 32);
            for (int i = 0; i < 8; i++) { /* nibble 2i of each column: input 8p + i, nibble 2i + 1: input 8p + 4 + i */
                __m256 v = _mm256_cvtepi32_ps(_mm256_and_si256(x, low));
                int k = 8 * p + i / 2 + i % 2 * 4;
                _mm256_store_ps(out + k * PANEL + c * 8, _mm256_add_ps(_mm256_mul_ps(d, v), m));
                x = _mm256_srli_epi32(x, 4);
            }
        }
    }
}
INLINE void q8_decode_body(const pack_form F, const int RECORD, const uint8_t *rec, float *out) {
    const bool f32 = F != PACK_Q8_F16;
    prefetch_lines(rec + AHEAD_Q8 * RECORD, RECORD / 64);
    const __m256i low = _mm256_set1_epi32(255), offset = _mm256_set1_epi32(F == PACK_Q8_MIN ? 0 : 128);
    for (int c = 0; c < 4; c++) {
        __m256 d0 = load_column(f32, rec + Q8_CODES, 0, c), d1 = f32 ? load_column(true, rec + Q8_CODES, 1, c) : d0;
        for (int p = 0; p < 8; p++) {
            __m256i x = load32(rec + p * 128 + c * 32);
            for (int i = 0; i < 4; i++) {
                __m256 v = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(x, low), offset));
                v = _mm256_mul_ps(F == PACK_Q8_HALVES && p >= 4 ? d1 : d0, v);
                if (F == PACK_Q8_MIN) v = _mm256_add_ps(v, d1);
                _mm256_store_ps(out + (4 * p + i) * PANEL + c * 8, v);
                x = _mm256_srli_epi32(x, 8);
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
    for (size_t i = 0; i < n; i += 8) _mm256_store_ps(out + i, load_f16((const uint8_t *)(src + i)));
}
static void bf16_decode(const uint16_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i += 8) {
        __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(src + i)));
        _mm256_store_si256((__m256i *)(out + i), _mm256_slli_epi32(x, 16));
    }
}

static void quantise(const float *x, act_block *out) {
    const __m256i abs_mask = _mm256_set1_epi32(0x7fffffff);
    __m256 v[4];
    __m256i max8 = _mm256_setzero_si256();
    UNROLL for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        max8 =
            _mm256_max_epi32(max8, _mm256_and_si256(_mm256_castps_si256(v[i]), abs_mask)); /* NaN is above infinity */
    }
    __m128i max4 = _mm_max_epi32(_mm256_castsi256_si128(max8), _mm256_extracti128_si256(max8, 1));
    max4 = _mm_max_epi32(max4, _mm_shuffle_epi32(max4, 0x4e));
    max4 = _mm_max_epi32(max4, _mm_shuffle_epi32(max4, 0xb1));
    float inverse;
    act_block_scale(f32_from_bits((uint32_t)_mm_cvtsi128_si32(max4)), &out->scale, &inverse);
    __m256 s = _mm256_set1_ps(inverse);
    __m256i keep = _mm256_set1_epi32(inverse > 0 ? -1 : 0), q[4], sum8 = _mm256_setzero_si256();
    UNROLL for (int i = 0; i < 4; i++) {
        q[i] = _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(v[i], s)), keep);
        sum8 = _mm256_add_epi32(sum8, q[i]);
    }
    /* packs works within 128-bit lanes: dwords 0 2 4 6 / 1 3 5 7 of the result must be interleaved again */
    __m256i codes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    codes = _mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)out->q, codes);
    __m128i sum4 = _mm_add_epi32(_mm256_castsi256_si128(sum8), _mm256_extracti128_si256(sum8, 1));
    sum4 = _mm_add_epi32(sum4, _mm_shuffle_epi32(sum4, 0x4e));
    sum4 = _mm_add_epi32(sum4, _mm_shuffle_epi32(sum4, 0xb1));
    out->isum = _mm_cvtsi128_si32(sum4);
    out->sum = out->scale * (float)out->isum;
}

const linear_isa linear_avx2 = {
    {q4_tile, q8_tile, q4_f32_tile, q8_min_tile, q8_halves_tile},
    f32_tile,
    {q4_decode, q8_decode, q4_f32_decode, q8_min_decode, q8_halves_decode},
    f16_decode,
    bf16_decode,
    quantise,
};
#pragma GCC pop_options
