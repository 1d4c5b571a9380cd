#include "policy/topk.h"
#include <string.h>

enum { KEY_PROTECTED = 0xffffffff, KEY_FORCED = 0xfffffffe }; /* above the key of any score */

static uint64_t forced_key(const head_items *h, int i) {
    uint64_t top = h->flags[i] & ITEM_PROTECTED ? (uint64_t)(uint32_t)KEY_PROTECTED : (uint64_t)(uint32_t)KEY_FORCED;
    return top << 32 | h->pos[i];
}

uint64_t topk_item_key(const policy *p, const head_items *h, int i) {
    if (h->flags[i] & (ITEM_PROTECTED | ITEM_FORCED)) return forced_key(h, i);
    return topk_key(h->score[i], p->ties_high ? h->pos[i] : ~h->pos[i]);
}

uint64_t topk_layer_key(const policy *p, const head_items *h, int i, int n_heads, float weight) {
    uint32_t n = (uint32_t)n_heads, head = (uint32_t)h->head;
    assert((uint64_t)h->pos[i] * n + n <= UINT32_MAX);
    uint32_t tie = p->ties_high ? h->pos[i] * n + (n - 1 - head) : ~(h->pos[i] * n + head);
    return topk_key(h->score[i] * weight, tie);
}

/* Bytes from the lowest up, stable; a byte that all keys share is passed over. */
void topk_sort(uint64_t *keys, uint64_t *tmp, int n) {
    uint64_t *from = keys, *to = tmp;
    for (int shift = 0; shift < 64 && n > 1; shift += 8) {
        int at[256] = {0}, sum = 0;
        for (int i = 0; i < n; i++) at[from[i] >> shift & 255]++;
        if (at[from[0] >> shift & 255] == n) continue;
        for (int b = 0; b < 256; b++) {
            int count = at[b];
            at[b] = sum;
            sum += count;
        }
        for (int i = 0; i < n; i++) to[at[from[i] >> shift & 255]++] = from[i];
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != keys) memcpy(keys, from, (size_t)n * sizeof *keys);
}

/* Radix selection: at each byte, from the top, only the bucket that holds the k-th key survives. */
uint64_t topk_threshold(uint64_t *keys, int n, int k) {
    assert(k >= 1 && k <= n);
    for (int shift = 56; n > 1 && shift >= 0; shift -= 8) {
        int count[256] = {0};
        for (int i = 0; i < n; i++) count[keys[i] >> shift & 255]++;
        int b = 255;
        while (k > count[b]) k -= count[b--];
        int m = 0;
        for (int i = 0; i < n; i++)
            if ((int)(keys[i] >> shift & 255) == b) keys[m++] = keys[i];
        n = m;
    }
    return keys[0];
}

/* A step of decode drops an item or two of hundreds: blocks of items are passed over by the least first half of their keys. */
enum { FEW = 8, BLOCK = 64 };

static uint32_t least_of(const head_items *h, int first, int end) {
    uint32_t least = KEY_PROTECTED;
    for (int i = first; i < end; i++) {
        uint32_t u = topk_score_key(h->score[i]);
        u = h->flags[i] & (ITEM_PROTECTED | ITEM_FORCED) ? (uint32_t)KEY_FORCED : u;
        least = u < least ? u : least;
    }
    return least;
}

/* Marks the n_drop items of the lowest keys. */
static void drop_few(const policy *p, const head_items *h, int n_drop) {
    uint64_t low[FEW]; /* ascending */
    int item[FEW], n = 0;
    for (int first = 0; first < h->n; first += BLOCK) {
        int end = first + BLOCK < h->n ? first + BLOCK : h->n;
        if (n == n_drop && least_of(h, first, end) > low[n - 1] >> 32) continue;
        for (int i = first; i < end; i++) {
            uint64_t key = topk_item_key(p, h, i);
            if (n == n_drop && key > low[n - 1]) continue;
            int at = n < n_drop ? n++ : n - 1;
            for (; at > 0 && low[at - 1] > key; at--) low[at] = low[at - 1], item[at] = item[at - 1];
            low[at] = key;
            item[at] = i;
        }
    }
    for (int i = 0; i < h->n; i++) h->target[i] = 0;
    for (int k = 0; k < n; k++) h->target[item[k]] = KV_DROP;
}

void topk_select(const decision *d, const head_items *h) {
    if (h->quota >= h->n || h->quota < 1) {
        memset(h->target, h->quota < 1 ? KV_DROP : 0, (size_t)h->n);
        return;
    }
    if (h->n - h->quota <= FEW) {
        drop_few(d->p, h, h->n - h->quota);
        return;
    }
    for (int i = 0; i < h->n; i++) d->keys[i] = topk_item_key(d->p, h, i);
    uint64_t threshold = topk_threshold(d->keys, h->n, h->quota);
    for (int i = 0; i < h->n; i++) h->target[i] = topk_item_key(d->p, h, i) >= threshold ? 0 : KV_DROP;
}
