/* Candidate merges of two neighbouring symbols, best first: the tokenizers' heap. The lowest key comes out; a key holds the rank of the
 * merge and then the place of its left symbol, so that the leftmost of equals is first. Room is the caller's. */
#ifndef KVLAB_TEXT_MERGE_HEAP_H
#define KVLAB_TEXT_MERGE_HEAP_H
#include <stddef.h>
#include <stdint.h>

typedef struct merge_candidate {
    uint64_t key;  /* merge_key */
    int32_t a, b;  /* the tokenizer's own, to tell whether the two are still there */
} merge_candidate;
typedef struct merge_heap {
    merge_candidate *items;
    size_t n;
} merge_heap;

static inline uint64_t merge_key(uint32_t rank, int32_t at) { return (uint64_t)rank << 32 | (uint32_t)at; }
static inline int32_t merge_at(const merge_candidate *c) { return (int32_t)(uint32_t)c->key; }

static inline void merge_heap_push(merge_heap *h, merge_candidate c) {
    size_t i = h->n++;
    for (; i > 0 && c.key < h->items[(i - 1) / 2].key; i = (i - 1) / 2) h->items[i] = h->items[(i - 1) / 2];
    h->items[i] = c;
}

static inline merge_candidate merge_heap_pop(merge_heap *h) {
    merge_candidate top = h->items[0], last = h->items[--h->n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < h->n; i = child) {
        if (child + 1 < h->n && h->items[child + 1].key < h->items[child].key) child++;
        if (h->items[child].key >= last.key) break;
        h->items[i] = h->items[child];
    }
    h->items[i] = last;
    return top;
}
#endif
