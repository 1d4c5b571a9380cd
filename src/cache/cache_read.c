/* What attention and policies see of a cache. */
#include <string.h>
#include "cache/cache_impl.h"

static uint32_t item_pos(const cache *c, const page_list *l, int tier, uint32_t item) {
    const page_layout *p = &c->layout[tier];
    return p->pos_bytes ? page_pos(p, cache_page(c, l, item / p->cap), (int)(item % p->cap)) : item;
}

static int add_segments(const cache *c, const page_list *l, int tier, int n_items, bool grows, int n_slot_sinks,
                        attn_segment *seg) {
    int n_sinks = 0, n = 0;
    uint8_t rotate = c->layout[tier].fmt.rotate, rotated_k = rotate & ROTATE_K;
    attn_segment s = {.layout = &c->layout[tier], .pages = c->refs + l->first, .query = rotated_k ? ATTN_ROTATED : ATTN_PLAIN,
                      .out_rotated = rotate & ROTATE_V};
    while (n_sinks < (int)l->n_items && item_pos(c, l, tier, (uint32_t)n_sinks) < (uint32_t)n_slot_sinks) n_sinks++;
    if (n_sinks) {
        seg[n] = s;
        seg[n].query = rotated_k ? ATTN_SLOT_ROTATED : ATTN_SLOT;
        seg[n++].n_items = n_sinks;
    }
    if (n_items > n_sinks) {
        seg[n] = s;
        seg[n].first = n_sinks;
        seg[n].n_items = n_items - n_sinks;
        seg[n++].grows = grows;
    }
    return n;
}

/* Tier 0 is always last, so the order of partial results does not depend on whether rows are being appended. */
int cache_segments(const cache *c, int layer, int head, int n_rows_appending, int n_slot_sinks, attn_segment *seg) {
    const page_list *lists = cache_list(c, layer, head, 0);
    int n = 0;
    for (int t = 1; t < c->n_tiers; t++)
        n += add_segments(c, &lists[t], t, (int)lists[t].n_items, false, n_slot_sinks, seg + n);
    bool grows = n_rows_appending > 0;
    return n + add_segments(c, &lists[0], 0, (int)lists[0].n_items + grows, grows, n_slot_sinks, seg + n);
}

int cache_n_before(const cache *c, int layer, int head, int tier, uint32_t pos, int *leading) {
    const page_list *l = cache_list(c, layer, head, tier);
    int n = 0;
    *leading = 0;
    for (uint32_t i = 0; i < l->n_items; i++) {
        if (item_pos(c, l, tier, i) >= pos) continue;
        *leading += n == (int)i;
        n++;
    }
    return n;
}

static void copy_pos(const page_layout *p, const uint8_t *page, uint32_t first, uint32_t n, uint32_t *out) {
    if (p->pos_bytes) page_pos_column(p, page, (int)n, out);
    for (uint32_t i = 0; i < n && !p->pos_bytes; i++) out[i] = first + i;
}

void cache_columns(const cache *c, int layer, int head, item_columns *out) {
    const page_list *lists = cache_list(c, layer, head, 0);
    size_t at = 0;
    for (int t = 0; t < c->n_tiers; t++) {
        const page_list *l = &lists[t];
        const page_layout *p = &c->layout[t];
        for (uint32_t i = 0; i < l->n_items; i += p->cap) {
            const uint8_t *page = cache_page(c, l, i / p->cap);
            uint32_t n = l->n_items - i < p->cap ? l->n_items - i : p->cap;
            if (out->pos) copy_pos(p, page, i, n, out->pos + at);
            if (out->tier) memset(out->tier + at, t, n);
            if (out->score && p->has_score) memcpy(out->score + at, page + p->off_score, n * sizeof *out->score);
            if (out->score && !p->has_score) memset(out->score + at, 0, n * sizeof *out->score);
            at += n;
        }
    }
    out->n = (int)at;
}
