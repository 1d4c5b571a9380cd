/* Attention of the CPU backends: tiled causal prefill, decode over pages, and the attention mass that keys receive. One set of
 * ops per ISA path; "reference" is the plainest form of the same formulas, in f64, and judges the others: outputs to 1e-5 of
 * sum p max|v|, masses and score columns to a relative 3e-5.
 *
 * Within one path a row's result has the same bits for any number of threads, batch, and number of rows in the call. */
#ifndef KVLAB_KERNELS_CPU_ATTN_H
#define KVLAB_KERNELS_CPU_ATTN_H
#include "backend/backend.h"

#define ATTN_DECLARE(path)                                                                                             \
    void attn_prefill_##path(const par *p, const attn_prefill *a);                                                     \
    void attn_decode_##path(const par *p, const attn_batch *b);                                                        \
    void attn_mass_##path(const par *p, const attn_mass *a);
ATTN_DECLARE(reference)
ATTN_DECLARE(scalar)
ATTN_DECLARE(avx2)
ATTN_DECLARE(avx512)
#undef ATTN_DECLARE
/* Decode with queries and weights of quantised items in integers (fast math): within 1e-3 of sum p max|v|, with weights in 8
 * bits (values of at most 4 bits, attn_codes.inc) within 2.5e-2; queries that are rounded to 8 bits, or most of whose runs are (keys of at most 4
 * bits; of 8 beside values of at most 4), are taken as rounded.
 *
 * The integer kernels alone: codes times integers, which every path computes alike. granule: K (V) of 8 items each, padded to 4 more that can be read; n_lanes
 * items. Scores: q [nq][head_dim], -127 .. 127 where codes_k_bytes holds, or codes_k_runs but for codes_runs_wide
 * runs within -RUNS_MAX .. RUNS_MAX, channel group g, at most ATTN_TILE items, arranged: scratch of
 * nq * 4 codes_query_floats bytes, s [nq][ATTN_TILE]. Values: w [n_groups][nq][ATTN_P_LD], n_lanes a multiple of 8, o [nq][head_dim]; in bytes, where codes_v_bytes holds: scale
 * [n_groups][nq][ATTN_P_TILES], o += scale x sum, tile by tile, equal in exact arithmetic (plain C does not fuse what it adds). */
#define ATTN_WORDS_DECLARE(path)                                                                                       \
    void attn_decode_words_##path(const par *p, const attn_batch *b);                                                  \
    void attn_code_scores_##path(const page_layout *l, int g, int nq, const int16_t *q, const uint8_t *const *granule, int n_lanes, \
                                  uint8_t *arranged, int32_t *s);                                                      \
    void attn_words_values_##path(const page_layout *l, int nq, const int16_t *w, const uint8_t *const *granule, int n_lanes, int32_t *o); \
    void attn_bytes_values_##path(const page_layout *l, int nq, const uint8_t *w, const float *scale, const uint8_t *const *granule,         \
                                  int n_lanes, float *o);
ATTN_WORDS_DECLARE(scalar)
ATTN_WORDS_DECLARE(avx2)
ATTN_WORDS_DECLARE(avx512)
#undef ATTN_WORDS_DECLARE
/* Prefill on bf16 tiles. Judged by the reference on q scale log2(e), K and V rounded to bf16: to 2^-8 of sum p |v|. */
void attn_prefill_avx512_bf16(const par *p, const attn_prefill *a);

/* Scratch that suits every path; any alignment. */
size_t attn_prefill_scratch_bytes(const attn_prefill *a, int nth);
size_t attn_decode_scratch_bytes(const attn_batch *b, int nth);
size_t attn_mass_scratch_bytes(const attn_mass *a, int nth);
#endif
