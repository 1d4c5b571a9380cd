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

void topk_select(const decision *d, const head_items *h) {
    if (h->quota >= h->n || h->quota < 1) {
        memset(h->target, h->quota < 1 ? KV_DROP : 0, (size_t)h->n);
        return;
    }
    for (int i = 0; i < h->n; i++) d->keys[i] = topk_item_key(d->p, h, i);
    uint64_t threshold = topk_threshold(d->keys, h->n, h->quota);
    for (int i = 0; i < h->n; i++) h->target[i] = topk_item_key(d->p, h, i) >= threshold ? 0 : KV_DROP;
}
