/* Prefill: the survivors of one layer go straight into their tiers. Thread 0 counts them and takes the pages; then
 * every thread writes the survivors of its share of the tokens. No byte of a page belongs to two items, so shares need
 * not respect pages. */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include "cache/cache_impl.h"

enum { RUN = 64 }; /* tokens put at once */

static err plan_layer(cache *c, int layer, int n_tokens, const uint8_t *target) {
    if (layer < 0 || layer >= c->shape.n_layers)
        return ERR(ERR_USAGE, "cache: layer %d of %d", layer, c->shape.n_layers);
    if (n_tokens < 0 || (c->layout[0].pos_bytes == 2 && n_tokens > UINT16_MAX + 1))
        return ERR(ERR_UNSUPPORTED, "cache: a prompt of %d tokens; positions of 2 bytes reach %d", n_tokens,
                   UINT16_MAX);
    size_t lo = cache_list_index(c, layer, 0, 0), hi = lo + (size_t)c->shape.n_kv * c->n_tiers, most = 0;
    for (size_t i = lo; i < hi; i++) {
        if (c->lists[i].n_items) return ERR(ERR_USAGE, "cache: layer %d is filled but not empty", layer);
    }
    for (int h = 0; h < c->shape.n_kv; h++) {
        const uint8_t *to = target + (size_t)h * n_tokens;
        size_t count[KV_MAX_TIERS] = {0}, total = 0;
        for (int i = 0; i < n_tokens; i++) {
            if (to[i] == KV_DROP) continue;
            if (to[i] >= c->n_tiers)
                return ERR(ERR_USAGE, "cache: token %d goes to tier %u of %d", i, to[i], c->n_tiers);
            count[to[i]]++;
        }
        for (int t = 0; t < c->n_tiers; t++) {
            if (count[t] % (size_t)kv_format_item_group(c->layout[t].fmt))
                return ERR(ERR_USAGE, "cache: %zu items go to tier %d, which takes whole groups of %d", count[t], t, KV_TOKEN_GROUP);
            cache_list(c, layer, h, t)->want = cache_pages_for(c, t, count[t]);
            total += count[t];
        }
        if (total > most) most = total;
    }
    TRY(cache_reserve_moves(c, most));
    return cache_grow(c, lo, hi);
}

/* Counts items once their pages are there. */
static void count_layer(cache *c, int layer, int n_tokens, const uint8_t *target) {
    for (int h = 0; h < c->shape.n_kv; h++) {
        for (int i = 0; i < n_tokens; i++) {
            uint8_t t = target[(size_t)h * n_tokens + i];
            if (t == KV_DROP) continue;
            cache_list(c, layer, h, t)->n_items++;
            c->n_items[t]++;
        }
    }
    c->n_appended = 0;
}

/* Puts n tokens from token i on as items item0.. of a list, page by page. */
static void put_run(const cache *c, const page_list *l, const page_layout *p, uint32_t item0, int i, int n,
                    const float *k, const float *v) {
    uint32_t pos[RUN];
    size_t d = p->head_dim;
    for (int j = 0; j < n; j++) pos[j] = (uint32_t)(i + j);
    for (int done = 0; done < n;) {
        uint32_t item = item0 + (uint32_t)done, slot = item % p->cap;
        int room = p->cap - (int)slot, m = n - done < room ? n - done : room;
        c->be->page_put(p, cache_page(c, l, item / p->cap), (int)slot, m, k + (i + done) * d, d, v + (i + done) * d, d,
                        pos + done);
        done += m;
    }
}

/* Groups of a tier with K per channel whose first item is among tokens lo .. hi - 1: by the thread that has that token. */
static void put_group_share(const cache *c, int layer, int head, int tier, int n_tokens, int lo, int hi, const float *k,
                            const float *v, const uint8_t *target) {
    const page_list *list = cache_list(c, layer, head, tier);
    const page_layout *l = &c->layout[tier];
    size_t d = l->head_dim;
    uint32_t item = 0;
    item_group g;
    g.n = 0;
    for (int i = 0; i < lo; i++) item += target[i] == tier;
    item = (item + KV_TOKEN_GROUP - 1) / KV_TOKEN_GROUP * KV_TOKEN_GROUP; /* the first group of this share */
    uint32_t skip = item;
    for (int i = 0; i < lo; i++) skip -= target[i] == tier;
    for (int i = lo; i < n_tokens && (i < hi || g.n); i++) {
        if (target[i] != tier) continue;
        if (skip) {
            skip--;
            continue;
        }
        memcpy(g.k + (size_t)g.n * d, k + (size_t)i * d, d * sizeof *k);
        memcpy(g.v + (size_t)g.n * d, v + (size_t)i * d, d * sizeof *v);
        g.pos[g.n++] = (uint32_t)i;
        if (g.n < KV_TOKEN_GROUP) continue;
        c->be->page_put(l, cache_page(c, list, item / l->cap), (int)(item % l->cap), g.n, g.k, d, g.v, d, g.pos);
        item += KV_TOKEN_GROUP;
        g.n = 0;
    }
}

static void put_share(const cache *c, int layer, int head, int n_tokens, int lo, int hi, const float *k, const float *v,
                      const uint8_t *target) {
    uint32_t next[KV_MAX_TIERS] = {0};
    for (int i = 0; i < lo; i++) {
        if (target[i] != KV_DROP) next[target[i]]++;
    }
    for (int i = lo; i < hi;) {
        uint8_t t = target[i];
        int end = i + 1;
        while (end < hi && end - i < RUN && target[end] == t) end++;
        if (t != KV_DROP && !c->layout[t].fmt.k_channels) {
            put_run(c, cache_list(c, layer, head, t), &c->layout[t], next[t], i, end - i, k, v);
            next[t] += (uint32_t)(end - i);
        }
        i = end;
    }
}

err cache_fill(cache *c, const par *p, int layer, int n_tokens, const float *k, const float *v, const uint8_t *target) {
    if (p->ith == 0) {
        c->fill_error = plan_layer(c, layer, n_tokens, target);
        if (c->fill_error)
            snprintf(c->fill_text, sizeof c->fill_text, "%s", err_text());
        else
            count_layer(c, layer, n_tokens, target);
    }
    par_barrier(p);
    if (c->fill_error) {
        err e = c->fill_error;
        if (p->ith) e = ERR(e, "%s", c->fill_text);
        par_barrier(p); /* all have read the error before the next fill sets it */
        return e;
    }

    ptrdiff_t lo, hi;
    size_t plane = (size_t)n_tokens * c->shape.head_dim;
    par_range(p, (ptrdiff_t)c->shape.n_kv * n_tokens, &lo, &hi);
    while (lo < hi) {
        int h = (int)(lo / n_tokens), from = (int)(lo % n_tokens);
        ptrdiff_t n = hi - lo < n_tokens - from ? hi - lo : n_tokens - from;
        put_share(c, layer, h, n_tokens, from, from + (int)n, k + h * plane, v + h * plane,
                  target + (size_t)h * n_tokens);
        for (int t = 1; t < c->n_tiers; t++)
            if (c->layout[t].fmt.k_channels)
                put_group_share(c, layer, h, t, n_tokens, from, from + (int)n, k + h * plane, v + h * plane,
                                target + (size_t)h * n_tokens);
        lo += n;
    }
    par_barrier(p);
    if (p->ith == 0) {
        cache_note_peaks(c);
        CACHE_ASSERT_SOUND(c);
    }
    return OK;
}

void cache_fill_scores(cache *c, const par *p, int layer, int n_tokens, const float *score, const uint8_t *target) {
    ptrdiff_t lo, hi;
    par_range(p, c->shape.n_kv, &lo, &hi);
    for (int h = (int)lo; h < hi; h++) {
        uint32_t next[KV_MAX_TIERS] = {0};
        size_t at = (size_t)h * (size_t)n_tokens;
        for (int i = 0; i < n_tokens; i++) {
            uint8_t t = target[at + (size_t)i];
            if (t == KV_DROP) continue;
            const page_layout *l = &c->layout[t];
            uint32_t item = next[t]++;
            page_set_score(l, cache_page(c, cache_list(c, layer, h, t), item / l->cap), (int)(item % l->cap), score[at + (size_t)i]);
        }
    }
}
