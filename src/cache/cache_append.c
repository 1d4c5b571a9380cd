/* Decode: rows join tier 0 and may be taken back. */
#include <assert.h>
#include <string.h>
#include "cache/cache_impl.h"

enum { ROWS_AHEAD = 64 }; /* scratch for moves grows before it is needed */

size_t cache_pages_wanted(const cache *c, int n_rows) {
    size_t n = 0;
    for (size_t i = 0; i < c->n_lists; i += (size_t)c->n_tiers) {
        uint32_t pages = cache_pages_for(c, 0, (size_t)c->lists[i].n_items + (size_t)n_rows);
        if (pages > c->lists[i].n_pages) n += pages - c->lists[i].n_pages;
    }
    return n;
}

err cache_reserve(cache *c, int n_rows) {
    size_t most = 0;
    if (c->layout[0].pos_bytes == 2 && c->n_tokens + n_rows > UINT16_MAX + 1)
        return ERR(ERR_UNSUPPORTED, "cache: %d tokens; positions of 2 bytes reach %d", c->n_tokens + n_rows,
                   UINT16_MAX);
    for (int l = 0; l < c->shape.n_layers; l++) {
        for (int h = 0; h < c->shape.n_kv; h++) {
            page_list *hot = cache_list(c, l, h, 0);
            hot->want = cache_pages_for(c, 0, (size_t)hot->n_items + n_rows);
            size_t items = (size_t)cache_n_items_head(c, l, h);
            if (items > most) most = items;
        }
    }
    err e = cache_reserve_moves(c, most + (size_t)n_rows + ROWS_AHEAD);
    if (e != OK) {
        for (size_t i = 0; i < c->n_lists; i++) c->lists[i].want = 0;
        return e;
    }
    TRY(cache_grow(c, 0, c->n_lists));
    cache_note_peaks(c);
    return OK;
}

void cache_append(cache *c, int layer, int head, int row, const float *k, const float *v) {
    const page_list *hot = cache_list(c, layer, head, 0);
    const page_layout *l = &c->layout[0];
    uint32_t item = hot->n_items + (uint32_t)row, pos = (uint32_t)(c->n_tokens + row);
    assert(item / l->cap < hot->n_pages);
    c->be->page_put(l, cache_page(c, hot, item / l->cap), (int)(item % l->cap), 1, k, l->head_dim, v, l->head_dim,
                    &pos);
}

void cache_append_ahead(const cache *c, int layer, int head) {
    const page_list *hot = cache_list(c, layer, head, 0);
    const page_layout *l = &c->layout[0];
    page_prefetch(l, cache_page(c, hot, hot->n_items / l->cap), (int)(hot->n_items % l->cap));
}

void cache_commit(cache *c, int n_rows) {
    size_t heads = (size_t)c->shape.n_layers * c->shape.n_kv;
    for (size_t i = 0; i < heads; i++) c->lists[i * c->n_tiers].n_items += (uint32_t)n_rows;
    c->n_items[0] += heads * n_rows;
    c->n_tokens += n_rows;
    c->n_appended += n_rows;
    cache_note_peaks(c);
}

err cache_truncate(cache *c, int n_tokens) {
    int drop = c->n_tokens - n_tokens;
    if (drop < 0 || n_tokens < 0)
        return ERR(ERR_USAGE, "cache: cannot truncate %d tokens to %d", c->n_tokens, n_tokens);
    if (drop > c->n_appended)
        return ERR(ERR_UNSUPPORTED,
                   "cache: cannot truncate %d tokens to %d: only the %d appended since the last compression can go",
                   c->n_tokens, n_tokens, c->n_appended);
    size_t heads = (size_t)c->shape.n_layers * c->shape.n_kv;
    for (size_t i = 0; i < heads; i++) {
        page_list *hot = &c->lists[i * c->n_tiers];
        hot->n_items -= (uint32_t)drop;
        cache_shrink(c, hot, cache_pages_for(c, 0, hot->n_items));
    }
    c->n_items[0] -= heads * drop;
    c->n_tokens = n_tokens;
    c->n_appended -= drop;
    CACHE_ASSERT_SOUND(c);
    return OK;
}

int cache_drop_oldest(cache *c, int layer, int head, int tier, int n) {
    page_list *l = cache_list(c, layer, head, tier);
    uint32_t cap = c->layout[tier].cap, pages = n > 0 ? (uint32_t)n / cap : 0;
    if (!pages) return 0;
    page_ref *refs = c->refs + l->first;
    page_ref freed;
    for (uint32_t i = 0; i < pages; i++) { /* to the end, from where cache_shrink frees */
        freed = refs[0];
        memmove(refs, refs + 1, (l->n_pages - 1) * sizeof *refs);
        refs[l->n_pages - 1] = freed;
    }
    l->n_items -= pages * cap;
    c->n_items[tier] -= pages * cap;
    c->n_appended = 0;
    cache_shrink(c, l, l->n_pages - pages);
    CACHE_ASSERT_SOUND(c);
    return (int)(pages * cap);
}
