/* The items of a segment as dense arrays: quantised ones as codes, steps and zeros (x = step code + zero), read by the layout's definition and
 * held against page_get. */
#ifndef KVLAB_TESTS_SUPPORT_DENSE_ITEMS_H
#define KVLAB_TESTS_SUPPORT_DENSE_ITEMS_H
#include "backend/backend.h"

typedef struct dense_items {
    int n, d, gs;            /* gs: channels of V that share a step */
    float *k, *v;            /* [n][d] float formats: as stored; else the codes */
    float *k_step, *k_zero;  /* [n][d] quantised formats only */
    float *v_step, *v_zero;  /* [n][d] */
    float *size;             /* [n] max|v| */
} dense_items;

/* The first n items of the segment; pages hold NaN patterns or anything where no item lies. */
void dense_items_read(const attn_segment *seg, const uint8_t *pool_base, int n, dense_items *out);
void dense_items_free(dense_items *x);
#endif
