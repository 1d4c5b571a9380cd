/* Signals that policies ask for beside attention itself (backend.h): columns of the attention matrix, forms of items under a matrix,
 * and what the removal of an item would change. "reference" computes in f64 by the definitions and judges the other paths. */
#ifndef KVLAB_KERNELS_CPU_SIGNALS_H
#define KVLAB_KERNELS_CPU_SIGNALS_H
#include "backend/backend.h"

#define SIGNALS_DECLARE(path)                                                                                          \
    void attn_columns_##path(const par *p, const attn_columns *a);                                                     \
    void item_form_##path(const par *p, const item_form *a);                                                           \
    void attn_change_##path(const par *p, const attn_change *a);
SIGNALS_DECLARE(reference)
SIGNALS_DECLARE(scalar)
SIGNALS_DECLARE(avx2)
SIGNALS_DECLARE(avx512)
#undef SIGNALS_DECLARE
void attn_columns_avx512_bf16(const par *p, const attn_columns *a); /* of attention on bf16 tiles (attn_bf16.c) */
void item_form_avx512_int8(const par *p, const item_form *a);       /* norms on int8 codes, within form_int8.c's bound */

enum { SIGNAL_BLOCK = 48 }; /* rows of a matrix product that are reduced before they are added to the total */
static inline size_t signal_thread_floats(int head_dim) {
    return (2 * (((size_t)head_dim + 15) & ~(size_t)15) + 2 * SIGNAL_BLOCK) * 64; /* two tiles of 64 items, two blocks of products */
}
/* One behind the last row that sees item t. */
static inline int signal_end_row(const attn_columns *a, int t) {
    int end = a->first + a->n_rows;
    return a->window && t < end - a->window ? t + a->window : end;
}
size_t signal_scratch_bytes(int head_dim, int nth); /* suits every op and path; any alignment */
#endif
