/* Decoding by definitions: a token through the model with naive attention in f64 over what a sequence's cache holds, decoded item by item. */
#ifndef KVLAB_TESTS_SUPPORT_NAIVE_DECODE_H
#define KVLAB_TESTS_SUPPORT_NAIVE_DECODE_H
#include "engine/engine_impl.h"

enum { NAIVE_MAX_ITEMS = 160 };
typedef struct naive_item {
    uint32_t pos;
    float k[KV_MAX_HEAD_DIM], v[KV_MAX_HEAD_DIM]; /* in the frame of the model */
} naive_item;

/* Items of a head, at most NAIVE_MAX_ITEMS; returns how many. Without a position column they are the newest tokens. */
int naive_items(const seq *s, int layer, int head, naive_item *out);
/* Logits of token `id` at position `pos`, the last one that the sequence holds: items of sliding layers outside of its window are not seen. */
void naive_step(seq *s, int32_t id, int pos, float *logits);
#endif
