/* Invariants: counts conserved, pages owned once and by this cache, positions unique per head. */
#include "base/mem.h"
#include "cache/cache_impl.h"

static err check_counts(const cache *c) {
    size_t items[KV_MAX_TIERS] = {0}, pages = 0, refs = 0;
    for (size_t i = 0; i < c->n_lists; i++) {
        const page_list *l = &c->lists[i];
        int t = (int)(i % (size_t)c->n_tiers);
        items[t] += l->n_items;
        pages += l->n_pages;
        if (l->n_pages > l->cap || l->n_pages < cache_pages_for(c, t, l->n_items) ||
            (l->cap && l->first + (size_t)l->cap > c->refs_cap))
            return ERR(ERR_VERIFY, "cache: list %zu holds %u items in %u pages of a table of %u", i, l->n_items,
                       l->n_pages, l->cap);
        refs += l->cap;
    }
    if (pages != c->n_pages || refs != c->refs_cap)
        return ERR(ERR_VERIFY, "cache: %zu pages are listed, %zu counted", pages, c->n_pages);
    for (int t = 0; t < c->n_tiers; t++) {
        if (items[t] != c->n_items[t])
            return ERR(ERR_VERIFY, "cache: tier %d lists %zu items, %zu are counted", t, items[t], c->n_items[t]);
    }
    return OK;
}

/* seen: one bit per unit that a page reference counts. */
static bool mark(uint64_t *seen, size_t i) {
    uint64_t bit = (uint64_t)1 << i % 64;
    bool first = !(seen[i / 64] & bit);
    seen[i / 64] |= bit;
    return first;
}

static err check_pages(const cache *c) {
    uint64_t *seen;
    page_ref top = 0;
    for (size_t i = 0; i < c->n_lists; i++) {
        const page_list *l = &c->lists[i];
        for (uint32_t j = 0; j < l->n_pages; j++) {
            page_ref r = c->refs[l->first + j];
            if (!pool_is_used(c->pool, r))
                return ERR(ERR_VERIFY, "cache: page %u of list %zu is not a page in use", j, i);
            if (r > top) top = r;
        }
    }
    TRY(mem_alloc(MEM_OTHER, ((size_t)top / 64 + 1) * sizeof *seen, &seen));
    err e = OK;
    for (size_t i = 0; i < c->n_lists && e == OK; i++) {
        const page_list *l = &c->lists[i];
        for (uint32_t j = 0; j < l->n_pages && e == OK; j++) {
            if (!mark(seen, c->refs[l->first + j]))
                e = ERR(ERR_VERIFY, "cache: page %u of list %zu belongs to two lists", j, i);
        }
    }
    mem_free(seen);
    return e;
}

static err check_head(const cache *c, int layer, int head, uint64_t *seen, size_t n_pos) {
    for (size_t i = 0; i < n_pos / 64 + 1; i++) seen[i] = 0;
    for (int t = 0; t < c->n_tiers; t++) {
        const page_layout *p = &c->layout[t];
        const page_list *l = cache_list(c, layer, head, t);
        for (uint32_t i = 0; i < l->n_items; i++) {
            uint32_t pos = page_pos(p, cache_page(c, l, i / p->cap), (int)(i % p->cap));
            if (pos > n_pos || (c->n_tokens && pos >= (uint32_t)c->n_tokens))
                return ERR(ERR_VERIFY, "cache: layer %d head %d tier %d: item %u has position %u of %d tokens", layer,
                           head, t, i, pos, c->n_tokens);
            if (!mark(seen, pos))
                return ERR(ERR_VERIFY, "cache: layer %d head %d holds position %u twice", layer, head, pos);
        }
    }
    return OK;
}

static err check_positions(const cache *c) {
    if (!c->layout[0].pos_bytes) return OK;
    /* before cache_set_n_tokens a prompt's length is not known: look for the highest position */
    size_t n_pos = (size_t)c->n_tokens;
    for (int l = 0; !c->n_tokens && l < c->shape.n_layers; l++) {
        for (int h = 0; h < c->shape.n_kv; h++) {
            for (int t = 0; t < c->n_tiers; t++) {
                const page_list *list = cache_list(c, l, h, t);
                for (uint32_t i = 0; i < list->n_items; i++) {
                    const page_layout *p = &c->layout[t];
                    uint32_t pos = page_pos(p, cache_page(c, list, i / p->cap), (int)(i % p->cap));
                    if (pos > n_pos) n_pos = pos;
                }
            }
        }
    }
    uint64_t *seen;
    TRY(mem_alloc(MEM_OTHER, (n_pos / 64 + 1) * sizeof *seen, &seen));
    err e = OK;
    for (int l = 0; l < c->shape.n_layers && e == OK; l++) {
        for (int h = 0; h < c->shape.n_kv && e == OK; h++) e = check_head(c, l, h, seen, n_pos);
    }
    mem_free(seen);
    return e;
}

err cache_check(const cache *c) {
    TRY(check_counts(c));
    TRY(check_pages(c));
    return check_positions(c);
}
