/* Inside of a cache, for the files of src/cache only.
 *
 * The page references of all lists lie in one block `refs`; a list is a window of it. When a list outgrows its window
 * the block is laid out anew with a few spare entries per list, so tables are one counted allocation and stay tight. */
#ifndef KVLAB_CACHE_CACHE_IMPL_H
#define KVLAB_CACHE_CACHE_IMPL_H
#include "cache/cache.h"
#include "format/compact.h"

struct cache {
    pool *pool;
    uint8_t *base; /* of the pool */
    const backend *be;
    cache_shape shape;
    int n_tiers;
    page_layout layout[KV_MAX_TIERS];
    bool can_move[KV_MAX_TIERS][KV_MAX_TIERS];

    page_list *lists; /* [n_layers][n_kv][n_tiers] */
    page_ref *refs;
    size_t n_lists, refs_cap;

    plan_move *moves; /* scratch of cache_apply, grown ahead */
    size_t moves_bytes;

    int n_sliding, window; /* layers that see only the last tokens */
    int n_tokens;
    int n_appended; /* rows since the last fill or apply: what truncate may take back */

    size_t n_items[KV_MAX_TIERS], n_pages; /* over all lists */
    size_t peak_live, peak_committed;

    err fill_error; /* of the thread that planned a fill, for the others */
    char fill_text[256];
};

static inline size_t cache_list_index(const cache *c, int layer, int head, int tier) {
    return ((size_t)layer * c->shape.n_kv + head) * c->n_tiers + tier;
}
static inline page_list *cache_list(const cache *c, int layer, int head, int tier) {
    return &c->lists[cache_list_index(c, layer, head, tier)];
}
static inline void *cache_page(const cache *c, const page_list *l, size_t page) {
    return pool_page(c->base, c->refs[l->first + page]);
}
static inline uint32_t cache_pages_for(const cache *c, int tier, size_t n_items) {
    return (uint32_t)((n_items + c->layout[tier].cap - 1) / c->layout[tier].cap);
}

/* Widens the windows of lists lo..hi-1 to `want` references where they are narrower; then `want` is 0 again. */
MUST err cache_widen(cache *c, size_t lo, size_t hi);
/* Gives lists lo..hi-1 `want` pages each where they have fewer; all or none. */
MUST err cache_grow(cache *c, size_t lo, size_t hi);
/* Frees the pages beyond n_keep. */
void cache_shrink(cache *c, page_list *l, uint32_t n_keep);
/* Whether the targets of a head can be carried out, and change anything. */
MUST err cache_check_targets(const cache *c, int layer, int head, const uint8_t *target, bool *changes);
static inline page_codec cache_codec(const cache *c) { return (page_codec){c->be->page_put, c->be->page_move, c->base}; }
/* Room for the moves of a head of n_items. */
MUST err cache_reserve_moves(cache *c, size_t n_items);
/* To be called when items or pages have become more. */
void cache_note_peaks(cache *c);
size_t cache_live_bytes(const cache *c);
size_t cache_table_bytes(const cache *c);

/* Invariants after every change, in builds that check. Memory for the check itself may be missing. */
#ifdef KVLAB_CHECKS
#include <assert.h>
#define CACHE_ASSERT_SOUND(c)                                                                                          \
    do {                                                                                                               \
        err sound_ = cache_check(c);                                                                                   \
        assert(sound_ == OK || sound_ == ERR_NOMEM);                                                                   \
    } while (0)
#else
#define CACHE_ASSERT_SOUND(c) ((void)0)
#endif
#endif
