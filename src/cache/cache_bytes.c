/* Bytes of a cache, counted. */
#include "cache/cache_impl.h"

size_t cache_table_bytes(const cache *c) {
    return sizeof *c + c->n_lists * sizeof *c->lists + c->refs_cap * sizeof *c->refs;
}

size_t cache_live_bytes(const cache *c) {
    size_t n = cache_table_bytes(c);
    for (int t = 0; t < c->n_tiers; t++) {
        const page_layout *l = &c->layout[t];
        n += c->n_items[t] * (l->payload_bytes + l->meta_bytes + l->column_bytes);
    }
    return n;
}

void cache_note_peaks(cache *c) {
    size_t live = cache_live_bytes(c), committed = pool_get_stats(c->pool).committed_bytes;
    if (live > c->peak_live) c->peak_live = live;
    if (committed > c->peak_committed) c->peak_committed = committed;
}

void cache_reset_peaks(cache *c) {
    c->peak_live = c->peak_committed = 0;
    cache_note_peaks(c);
}

cache_bytes cache_get_bytes(const cache *c) {
    cache_bytes b = {.tables = cache_table_bytes(c), .live = cache_live_bytes(c)};
    for (int t = 0; t < c->n_tiers; t++) {
        const page_layout *l = &c->layout[t];
        b.payload += c->n_items[t] * l->payload_bytes;
        b.metadata += c->n_items[t] * l->meta_bytes;
        b.columns += c->n_items[t] * l->column_bytes;
        b.items += c->n_items[t];
    }
    size_t seen = (size_t)c->n_tokens, window = (size_t)c->window, n_sliding = (size_t)c->n_sliding;
    size_t tokens = seen * ((size_t)c->shape.n_layers - n_sliding) + (seen < window ? seen : window) * n_sliding;
    b.slack = c->n_pages * c->layout[0].page_bytes - (b.payload + b.metadata + b.columns);
    b.committed = pool_get_stats(c->pool).committed_bytes;
    b.peak_live = c->peak_live;
    b.peak_committed = c->peak_committed > b.committed ? c->peak_committed : b.committed;
    b.items_full = tokens * (size_t)c->shape.n_kv;
    b.full_f16 = b.items_full * (size_t)c->shape.head_dim * 2 * sizeof(f16);
    size_t lists = (size_t)c->shape.n_kv, cap = c->layout[0].cap, global = (size_t)c->shape.n_layers - n_sliding;
    size_t pages_full = lists * (global * ((seen + cap - 1) / cap) + n_sliding * (((seen < window ? seen : window) + cap - 1) / cap));
    const page_layout *hot = &c->layout[0];
    if (b.items < b.items_full) b.released = (b.items_full - b.items) * (hot->payload_bytes + hot->meta_bytes + hot->column_bytes);
    if (c->n_pages < pages_full) b.released_pages = (pages_full - c->n_pages) * hot->page_bytes;
    return b;
}

void cache_set_sliding(cache *c, int n_layers, int window) {
    c->n_sliding = n_layers;
    c->window = window;
}
