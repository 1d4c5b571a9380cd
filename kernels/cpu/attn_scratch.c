/* Scratch sizes of the attention ops: shared results first, then one share per thread (attn_plan.h). */
#include "kernels/cpu/attn.h"
#include "kernels/cpu/attn_plan.h"

enum { ALIGN_SLACK = 64 }; /* the ops align their base themselves */

size_t attn_decode_scratch_bytes(const attn_batch *b, int nth) {
    attn_place at = {0};
    for (int i = 0; i < b->n_jobs; i++) attn_place_next(&at, &b->jobs[i]);
    return ALIGN_SLACK + (at.end + (size_t)nth * attn_decode_thread_floats(b)) * sizeof(float);
}

size_t attn_prefill_scratch_bytes(const attn_prefill *a, int nth) {
    attn_bf16_buf bf16 = attn_bf16_buf_at(NULL, a, 0);
    size_t floats = (size_t)nth * attn_prefill_thread_floats(a), bf16_floats = bf16.shared + (size_t)nth * bf16.own;
    return ALIGN_SLACK + (floats > bf16_floats ? floats : bf16_floats) * sizeof(float);
}

size_t attn_mass_scratch_bytes(const attn_mass *a, int nth) {
    return ALIGN_SLACK + attn_mass_buf_at(NULL, a, 0, nth).floats * sizeof(float);
}
