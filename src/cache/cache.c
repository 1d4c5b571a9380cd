/* Life of a cache. */
#include "cache/cache.h"
#include <string.h>
#include "base/mem.h"
#include "cache/cache_impl.h"

static err check_arguments(pool *p, cache_shape s, const page_layout *l, int n_tiers) {
    if (n_tiers < 1 || n_tiers > KV_MAX_TIERS)
        return ERR(ERR_UNSUPPORTED, "cache: %d tiers; supported are 1..%d", n_tiers, KV_MAX_TIERS);
    if (s.n_layers < 1 || s.n_kv < 1)
        return ERR(ERR_UNSUPPORTED, "cache: %d layers of %d KV heads", s.n_layers, s.n_kv);
    size_t page_bytes = pool_get_stats(p).page_bytes;
    for (int t = 0; t < n_tiers; t++) {
        if (l[t].page_bytes != page_bytes)
            return ERR(ERR_UNSUPPORTED, "cache: tier %d is laid out for pages of %u bytes, the pool has pages of %zu",
                       t, l[t].page_bytes, page_bytes);
        if (l[t].head_dim != s.head_dim)
            return ERR(ERR_UNSUPPORTED, "cache: tier %d is laid out for head_dim %u, the shape has %d", t,
                       l[t].head_dim, s.head_dim);
        if (l[t].pos_bytes != l[0].pos_bytes || l[t].has_score != l[0].has_score)
            return ERR(ERR_UNSUPPORTED, "cache: tiers 0 and %d have different columns", t);
        if (l[t].fmt.k_channels && (t == 0 || !kv_format_is_float(l[0].fmt))) {
            char name[16];
            kv_format_name(l[t].fmt, name);
            return ERR(ERR_UNSUPPORTED, "cache: tier %d (%s) takes whole groups of items and needs f16 or f32 as tier 0", t, name);
        }
    }
    return OK;
}

err cache_create(pool *p, const backend *be, cache_shape shape, const page_layout *layouts, int n_tiers, cache **out) {
    *out = NULL;
    TRY(check_arguments(p, shape, layouts, n_tiers));
    cache *c = NULL;
    err e;
    GOTO(fail, e, mem_alloc(MEM_TABLES, sizeof *c, &c));
    c->pool = p;
    c->base = pool_base(p);
    c->be = be;
    c->shape = shape;
    c->n_tiers = n_tiers;
    memcpy(c->layout, layouts, (size_t)n_tiers * sizeof *layouts);
    for (int t = 0; t < n_tiers; t++) {
        for (int u = t; u < n_tiers; u++) c->can_move[t][u] = kv_format_can_move(layouts[t].fmt, layouts[u].fmt) && (t == 0 || t == u || !layouts[u].fmt.k_channels);
    }
    c->n_lists = (size_t)shape.n_layers * shape.n_kv * n_tiers;
    GOTO(fail, e, mem_alloc(MEM_TABLES, c->n_lists * sizeof *c->lists, &c->lists));
    GOTO(fail, e, cache_reserve_moves(c, 1));
    cache_reset_peaks(c);
    *out = c;
    return OK;
fail:
    cache_destroy(c);
    return e;
}

void cache_destroy(cache *c) {
    if (!c) return;
    if (c->lists) {
        for (size_t i = 0; i < c->n_lists; i++) cache_shrink(c, &c->lists[i], 0);
    }
    mem_free(c->moves);
    mem_free(c->refs);
    mem_free(c->lists);
    mem_free(c);
}

err cache_clone(const cache *from, cache **out) {
    cache *c;
    TRY(cache_create(from->pool, from->be, from->shape, from->layout, from->n_tiers, &c));
    for (size_t i = 0; i < c->n_lists; i++)
        c->lists[i].want = cache_pages_for(from, (int)(i % (size_t)from->n_tiers), from->lists[i].n_items);
    err e = cache_grow(c, 0, c->n_lists);
    if (e == OK) e = cache_reserve_moves(c, from->moves_bytes / sizeof *from->moves);
    if (e != OK) {
        cache_destroy(c);
        *out = NULL;
        return e;
    }
    size_t page_bytes = c->layout[0].page_bytes;
    for (size_t i = 0; i < c->n_lists; i++) {
        page_list *a = &from->lists[i], *b = &c->lists[i];
        for (uint32_t j = 0; j < b->n_pages; j++) memcpy(cache_page(c, b, j), cache_page(from, a, j), page_bytes);
        b->n_items = a->n_items;
    }
    memcpy(c->n_items, from->n_items, sizeof c->n_items);
    cache_set_sliding(c, from->n_sliding, from->window);
    c->n_tokens = from->n_tokens;
    c->n_appended = from->n_appended;
    cache_reset_peaks(c);
    CACHE_ASSERT_SOUND(c);
    *out = c;
    return OK;
}

cache_shape cache_get_shape(const cache *c) {
    return c->shape;
}
pool *cache_pool(const cache *c) {
    return c->pool;
}
int cache_n_tiers(const cache *c) {
    return c->n_tiers;
}
const page_layout *cache_layout(const cache *c, int tier) {
    return &c->layout[tier];
}
int cache_n_items(const cache *c, int layer, int head, int tier) {
    return (int)cache_list(c, layer, head, tier)->n_items;
}
int cache_n_tokens(const cache *c) {
    return c->n_tokens;
}
void cache_set_n_tokens(cache *c, int n_tokens) {
    c->n_tokens = n_tokens;
}

int cache_n_items_head(const cache *c, int layer, int head) {
    int n = 0;
    for (int t = 0; t < c->n_tiers; t++) n += cache_n_items(c, layer, head, t);
    return n;
}
