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
/* Prefill on bf16 tiles. Judged by the reference on q scale log2(e), K and V rounded to bf16: to 2^-8 of sum p |v|. */
void attn_prefill_avx512_bf16(const par *p, const attn_prefill *a);

/* Scratch that suits every path; any alignment. */
size_t attn_prefill_scratch_bytes(const attn_prefill *a, int nth);
size_t attn_decode_scratch_bytes(const attn_batch *b, int nth);
size_t attn_mass_scratch_bytes(const attn_mass *a, int nth);
#endif
