/* Parallel compaction of caches: the host's part around format/compact.h - checks, windows, pages from and to the pool, counts. */
#include <stdatomic.h>
#include <string.h>
#include "base/mem.h"
#include "cache/cache_impl.h"

struct compactor {
    compact c;
    compact_seg *seg;
    uint32_t *order;
    compact_sums *before;
    compact_share (*share)[2];
    plan_move *moves;
    uint8_t *changes;
    page_ring ring;
    size_t seg_bytes, order_bytes, before_bytes, share_bytes, moves_bytes, changes_bytes, ring_bytes;
    const cache_change *change; /* of the call under way */
    int n_change;
    atomic_int bad; /* lowest number of a change that cannot be carried out, or n_change */
};

err compactor_create(compactor **out) { return mem_alloc(MEM_SCRATCH, sizeof **out, out); }

void compactor_destroy(compactor *k) {
    if (!k) return;
    mem_free(k->seg);
    mem_free(k->order);
    mem_free(k->before);
    mem_free(k->share);
    mem_free(k->moves);
    mem_free(k->changes);
    mem_free(k->ring.slot);
    mem_free(k);
}

err compactor_reserve(compactor *k, int n_changes, size_t n_items, int n_threads) {
    size_t n = (size_t)n_changes, chunk = 4096;
    n_items = (n_items / chunk + 1) * chunk; /* ahead, so that growing sequences seldom come here */
    TRY(mem_reserve(MEM_SCRATCH, n * sizeof *k->seg, &k->seg, &k->seg_bytes));
    TRY(mem_reserve(MEM_SCRATCH, n * sizeof *k->order, &k->order, &k->order_bytes));
    TRY(mem_reserve(MEM_SCRATCH, (n + 1) * sizeof *k->before, &k->before, &k->before_bytes));
    TRY(mem_reserve(MEM_SCRATCH, n, &k->changes, &k->changes_bytes));
    TRY(mem_reserve(MEM_SCRATCH, (size_t)n_threads * sizeof *k->share, &k->share, &k->share_bytes));
    return mem_reserve(MEM_SCRATCH, n_items * sizeof *k->moves, &k->moves, &k->moves_bytes);
}

/* The ring is empty between calls: it may be laid out anew. */
static err ring_reserve(compactor *k, uint64_t n_refs) {
    uint64_t size = 1024;
    while (size < n_refs) size *= 2;
    if (size <= k->ring.size) return OK;
    k->ring.size = 0;
    TRY(mem_reserve(MEM_SCRATCH, size * sizeof *k->ring.slot, &k->ring.slot, &k->ring_bytes));
    k->ring.size = size;
    return OK;
}

static void check_body(const par *p, void *arg) {
    compactor *k = arg;
    ptrdiff_t lo, hi;
    par_range(p, k->n_change, &lo, &hi);
    for (ptrdiff_t i = lo; i < hi; i++) {
        const cache_change *x = &k->change[i];
        bool changes;
        if (cache_check_targets(x->c, x->layer, x->head, x->target, &changes) == OK) {
            k->changes[i] = changes;
            continue;
        }
        int bad = atomic_load(&k->bad);
        while ((int)i < bad && !atomic_compare_exchange_weak(&k->bad, &bad, (int)i)) continue;
        return;
    }
}
static void plan_body(const par *p, void *arg) { compact_plan(p, &((compactor *)arg)->c); }
static void carry_out_body(const par *p, void *arg) { compact_carry_out(p, &((compactor *)arg)->c); }

/* Segments of the changes that change something. */
static void make_segments(compactor *k) {
    size_t items = 0;
    k->c.n_segs = 0;
    for (int i = 0; i < k->n_change; i++) {
        if (!k->changes[i]) continue;
        const cache_change *x = &k->change[i];
        k->seg[k->c.n_segs++] = (compact_seg){.lists = cache_list(x->c, x->layer, x->head, 0), .refs = x->c->refs, .target = x->target,
                                              .plan = {.moves = k->moves + items}};
        items += (size_t)cache_n_items_head(x->c, x->layer, x->head);
    }
}

/* Windows wide enough for what the plan asks. A cache's changes need not lie together. */
static err widen_windows(compactor *k) {
    const compact *c = &k->c;
    for (int i = 0, s = 0; i < k->n_change; i++) {
        if (!k->changes[i]) continue;
        const compact_seg *g = &c->seg[s++];
        for (int t = 0; t < c->n_tiers; t++) g->lists[t].want = cache_pages_for(k->change[i].c, t, (size_t)g->plan.n_after[t]);
    }
    for (int i = 0; i < k->n_change; i++)
        if (i == 0 || k->change[i].c != k->change[i - 1].c) TRY(cache_widen(k->change[i].c, 0, k->change[i].c->n_lists));
    for (int i = 0, s = 0; i < k->n_change; i++)
        if (k->changes[i]) c->seg[s++].refs = k->change[i].c->refs;
    return OK;
}

/* As many pages as the plan asks for, or as there are. */
static err fill_ring(compactor *k, pool *pages) {
    compact_sums all = k->c.before[k->c.n_segs];
    TRY(ring_reserve(k, all.need + all.spare));
    for (uint64_t i = 0; i < all.need; i++) {
        page_ref r;
        if (pool_alloc(pages, &r) != OK) break;
        *page_ring_at(&k->ring, k->ring.tail++) = r;
    }
    return OK;
}

static void count_again(cache *c) {
    memset(c->n_items, 0, sizeof c->n_items);
    c->n_pages = 0;
    for (size_t i = 0; i < c->n_lists; i++) {
        c->n_items[i % (size_t)c->n_tiers] += c->lists[i].n_items;
        c->n_pages += c->lists[i].n_pages;
    }
    c->n_appended = 0;
}

static err check_arguments(const cache_change *x, int n) {
    for (int i = 0; i < n; i++) {
        const cache *a = x[0].c, *b = x[i].c;
        if (x[i].layer < 0 || x[i].layer >= b->shape.n_layers || x[i].head < 0 || x[i].head >= b->shape.n_kv)
            return ERR(ERR_USAGE, "cache: compaction of head %d of layer %d, there are %d in %d layers", x[i].head, x[i].layer, b->shape.n_kv, b->shape.n_layers);
        if (b->pool != a->pool || b->be != a->be || b->n_tiers != a->n_tiers || memcmp(b->layout, a->layout, (size_t)a->n_tiers * sizeof *a->layout))
            return ERR(ERR_USAGE, "cache: caches that are compacted together share a pool, its layouts and a backend");
    }
    return OK;
}

static err carry_out(compactor *k, int n_threads) {
    compact *c = &k->c;
    const cache_change *x = k->change;
    par_run(n_threads, plan_body, k);
    TRY(widen_windows(k));
    TRY(fill_ring(k, x[0].c->pool));
    for (int i = 0; i < k->n_change; i++)
        if (i == 0 || x[i].c != x[i - 1].c) cache_note_peaks(x[i].c); /* before: items only become smaller */
    c->ring = &k->ring;
    par_run(n_threads, carry_out_body, k);
    while (k->ring.head < k->ring.tail) pool_free(x[0].c->pool, *page_ring_at(&k->ring, k->ring.head++));
    return OK;
}

err cache_compact(compactor *k, const cache_change *changes, int n, int n_threads) {
    if (n == 0) return OK;
    TRY(check_arguments(changes, n));
    size_t items = 0;
    for (int i = 0; i < n; i++) items += (size_t)cache_n_items_head(changes[i].c, changes[i].layer, changes[i].head);
    TRY(compactor_reserve(k, n, items, n_threads));
    k->change = changes;
    k->n_change = n;
    atomic_store(&k->bad, n);
    par_run(n_threads, check_body, k);
    int bad = atomic_load(&k->bad);
    bool any;
    if (bad < n) return cache_check_targets(changes[bad].c, changes[bad].layer, changes[bad].head, changes[bad].target, &any);
    const cache *first = changes[0].c;
    k->c = (compact){.n_tiers = first->n_tiers, .layout = first->layout, .codec = cache_codec(first), .seg = k->seg, .order = k->order,
                     .before = k->before, .share = k->share};
    make_segments(k);
    err e = k->c.n_segs ? carry_out(k, n_threads) : OK;
    for (int i = 0; i < n; i++) {
        if (i > 0 && changes[i].c == changes[i - 1].c) continue;
        count_again(changes[i].c);
        CACHE_ASSERT_SOUND(changes[i].c);
    }
    if (e == OK && k->c.n_done < k->c.n_segs)
        e = ERR(ERR_NOMEM, "the page pool is full: items of %d heads cannot change tier", k->c.n_segs - k->c.n_done);
    return e;
}
