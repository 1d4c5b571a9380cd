/* Page codecs per ISA path, bit-equal to page_put and page_move of format/layout.h. */
#ifndef KVLAB_KERNELS_CPU_CODEC_H
#define KVLAB_KERNELS_CPU_CODEC_H
#include "format/layout.h"

typedef void (*page_put_fn)(const page_layout *l, void *page, int slot0, int n, const float *k, size_t ldk,
                            const float *v, size_t ldv, const uint32_t *pos);
typedef void (*page_move_fn)(const page_layout *from, const void *src, int src_slot, const page_layout *to, void *dst,
                             int dst_slot);

void page_put_avx2(const page_layout *l, void *page, int slot0, int n, const float *k, size_t ldk, const float *v,
                   size_t ldv, const uint32_t *pos);
void page_move_avx2(const page_layout *from, const void *src, int src_slot, const page_layout *to, void *dst,
                    int dst_slot);
void page_put_avx512(const page_layout *l, void *page, int slot0, int n, const float *k, size_t ldk, const float *v,
                     size_t ldv, const uint32_t *pos);
void page_move_avx512(const page_layout *from, const void *src, int src_slot, const page_layout *to, void *dst,
                      int dst_slot);

/* The scalar path is the reference; these names let tables be filled by path. */
#define page_put_scalar     page_put
#define page_move_scalar    page_move
#define page_put_reference  page_put
#define page_move_reference page_move

/* isa: a name of kernels/cpu/isa.h that this CPU has; others get the reference. */
page_put_fn codec_put_best(const char *isa);
page_move_fn codec_move_best(const char *isa);
#endif
