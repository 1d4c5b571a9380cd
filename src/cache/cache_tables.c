/* Page lists grow and shrink. */
#include <string.h>
#include "base/mem.h"
#include "cache/cache_impl.h"

/* Spare entries of a list that holds pages: a growing list makes the block move only now and then. */
static uint32_t with_spare(uint32_t n_pages) {
    return n_pages ? n_pages + 3 + n_pages / 16 : 0;
}

static uint32_t new_window(const page_list *l) {
    uint32_t n = l->n_pages > l->want ? l->n_pages : l->want;
    return l->want > l->cap ? with_spare(n) : with_spare(n) < l->cap ? with_spare(n) : l->cap;
}

/* Lays the block out anew so that every list's window holds `want`; nothing changes on failure. */
static err widen_tables(cache *c) {
    size_t total = 0;
    for (size_t i = 0; i < c->n_lists; i++) total += new_window(&c->lists[i]);
    page_ref *refs;
    TRY(mem_alloc(MEM_TABLES, total * sizeof *refs, &refs));
    uint32_t at = 0;
    for (size_t i = 0; i < c->n_lists; i++) {
        page_list *l = &c->lists[i];
        uint32_t cap = new_window(l);
        if (l->n_pages) memcpy(refs + at, c->refs + l->first, l->n_pages * sizeof *refs);
        l->first = at;
        l->cap = cap;
        at += cap;
    }
    mem_free(c->refs);
    c->refs = refs;
    c->refs_cap = total;
    return OK;
}

static void free_fresh(cache *c, size_t lo, size_t list, uint32_t page) {
    for (size_t i = lo; i <= list; i++) {
        page_list *l = &c->lists[i];
        uint32_t end = i < list ? l->want : page;
        for (uint32_t j = l->n_pages; j < end; j++) pool_free(c->pool, c->refs[l->first + j]);
    }
}

static err take_pages(cache *c, size_t lo, size_t hi) {
    for (size_t i = lo; i < hi; i++) {
        page_list *l = &c->lists[i];
        for (uint32_t j = l->n_pages; j < l->want; j++) {
            err e = pool_alloc(c->pool, &c->refs[l->first + j]);
            if (e == OK) continue;
            free_fresh(c, lo, i, j);
            return e;
        }
    }
    for (size_t i = lo; i < hi; i++) {
        page_list *l = &c->lists[i];
        if (l->want <= l->n_pages) continue;
        c->n_pages += l->want - l->n_pages;
        l->n_pages = l->want;
    }
    return OK;
}

static err widen(cache *c, size_t lo, size_t hi) {
    bool wide = true;
    for (size_t i = lo; i < hi; i++) wide = wide && c->lists[i].want <= c->lists[i].cap;
    return wide ? OK : widen_tables(c);
}

err cache_widen(cache *c, size_t lo, size_t hi) {
    err e = widen(c, lo, hi);
    for (size_t i = lo; i < hi; i++) c->lists[i].want = 0;
    return e;
}

err cache_grow(cache *c, size_t lo, size_t hi) {
    err e = widen(c, lo, hi);
    if (e == OK) e = take_pages(c, lo, hi);
    for (size_t i = lo; i < hi; i++) c->lists[i].want = 0;
    return e;
}

void cache_shrink(cache *c, page_list *l, uint32_t n_keep) {
    for (; l->n_pages > n_keep; c->n_pages--) pool_free(c->pool, c->refs[l->first + --l->n_pages]);
}

err cache_reserve_moves(cache *c, size_t n_items) {
    if (n_items * sizeof *c->moves <= c->moves_bytes) return OK;
    size_t chunk = 512; /* ahead, so that decoding seldom comes here */
    return mem_reserve(MEM_SCRATCH, (n_items / chunk + 1) * chunk * sizeof *c->moves, &c->moves, &c->moves_bytes);
}
