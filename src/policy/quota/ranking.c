#include "policy/quota/ranking.h"

uint64_t ranking_key(const decision *d, const head_items *h, int i) {
    uint32_t n = (uint32_t)d->n_heads, rank = (uint32_t)(h - d->heads);
    assert((uint64_t)h->pos[i] * n + n <= UINT32_MAX);
    if (h->flags[i] & ITEM_FORCED) return (uint64_t)0xfffffffeu << 32 | (h->pos[i] * n + rank); /* above the key of any score */
    return topk_key(h->score[i], d->p->ties_high ? h->pos[i] * n + (n - 1 - rank) : ~(h->pos[i] * n + rank));
}

void ranking_allot(const decision *d, int64_t total) {
    int64_t forced = 0;
    int n = 0;
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        h->quota = 0;
        for (int i = 0; i < h->n; i++) {
            if (ranking_competes(h, i)) d->keys[n++] = ranking_key(d, h, i);
            else h->quota++;
        }
        forced += h->quota;
    }
    if (total <= forced && forced > 0) {
        for (int k = 0; k < d->n_heads; k++) {
            int room = d->heads[k].kept < d->heads[k].n ? d->heads[k].kept : d->heads[k].n;
            if (d->heads[k].quota > room) d->heads[k].quota = room;
        }
        return;
    }
    int64_t free_items = total - forced;
    if (free_items <= 0 || n == 0) return;
    uint64_t threshold = topk_threshold(d->keys, n, free_items < n ? (int)free_items : n);
    for (int k = 0; k < d->n_heads; k++)
        for (int i = 0; i < d->heads[k].n; i++)
            if (ranking_competes(&d->heads[k], i) && ranking_key(d, &d->heads[k], i) >= threshold) d->heads[k].quota++;
}
