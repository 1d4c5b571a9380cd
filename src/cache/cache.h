/* The paged cache of one sequence: per (layer, KV head) and tier a list of pages and an item count (design section 5).
 *
 * Tier 0 is the hot one: decode appends there. Items keep the order in which they came into a tier, except that planner moves fill
 * holes from the tail. The cache never calls a policy: it stores, moves, frees and counts. */
#ifndef KVLAB_CACHE_CACHE_H
#define KVLAB_CACHE_CACHE_H
#include "backend/backend.h"
#include "cache/pool.h"
#include "format/plan.h"

typedef struct cache cache;

typedef struct cache_shape { int n_layers, n_kv, head_dim; } cache_shape;

/* Bytes of one cache or the sum of several; every figure is counted, none estimated. */
typedef struct cache_bytes {
    size_t payload;    /* codes or floats of K and V of occupied items */
    size_t metadata;   /* scales and zeros of occupied items */
    size_t columns;    /* positions and scores of occupied items */
    size_t tables;     /* page tables and lengths, as allocated */
    size_t live;       /* payload + metadata + columns + tables */
    size_t slack;      /* rest of the pages in use */
    size_t committed;  /* extents of the pool (whole pool: shared by its sequences) */
    size_t peak_live, peak_committed; /* since creation or cache_reset_peaks */
    size_t full_f16;   /* what an f16 `full` would hold for the tokens seen: payload only */
    size_t released;   /* logical: what the items that are gone would hold in tier 0 (payload, metadata, columns) */
    size_t released_pages; /* physical: whole pages that tier 0 would fill with all tokens, beyond those in use; 0 if there are none */
    size_t items, items_full; /* occupied items; tokens seen * n_layers * n_kv */
} cache_bytes;

/* Item columns of one (layer, KV head), gathered for a policy; arrays of the caller, n entries each. Order: tier by tier, slot by slot. */
typedef struct item_columns {
    int n;
    uint32_t *pos;    /* 0 .. when the layout has no position column: the slot index */
    uint8_t *tier;
    float *score;     /* live score column, 0 without it */
} item_columns;

MUST err cache_create(pool *p, const backend *be, cache_shape shape, const page_layout *layouts, int n_tiers, cache **out);
void cache_destroy(cache *c); /* its pages go back to the pool */
/* A second cache with the same items, on the same pool (forking a sequence). */
MUST err cache_clone(const cache *c, cache **out);

cache_shape cache_get_shape(const cache *c);
pool *cache_pool(const cache *c);
int cache_n_tiers(const cache *c);
const page_layout *cache_layout(const cache *c, int tier);
int cache_n_items(const cache *c, int layer, int head, int tier);
int cache_n_items_head(const cache *c, int layer, int head); /* all tiers */
int cache_n_tokens(const cache *c);                          /* tokens seen: next append's position */

/* Prefill: writes each survivor of one layer once, straight into its tier. SPMD; every thread gets the same result (barriers inside).
 * k, v: [n_kv][n_tokens][head_dim] f32 (already rounded); target: [n_kv][n_tokens] tier or KV_DROP; items go in position order.
 * The layer must be empty; tiers with K per channel get whole groups of KV_TOKEN_GROUP. After the last layer: cache_set_n_tokens. */
MUST err cache_fill(cache *c, const par *p, int layer, int n_tokens, const float *k, const float *v, const uint8_t *target);
/* Score columns of what cache_fill just put there, from score [n_kv][n_tokens]; layouts without the column are left out. SPMD, no barrier. */
void cache_fill_scores(cache *c, const par *p, int layer, int n_tokens, const float *score, const uint8_t *target);
void cache_set_n_tokens(cache *c, int n_tokens);

/* Decode: reserve pages for n more items per (layer, head) in tier 0; then rows may be put by any thread, each (layer, head, row) once;
 * they are seen by segments at once (lengths passed through `grows`), and count as items after cache_commit. */
MUST err cache_reserve(cache *c, int n_rows);
size_t cache_pages_wanted(const cache *c, int n_rows); /* pages that cache_reserve would take from the pool */
void cache_append(cache *c, int layer, int head, int row, const float *k, const float *v); /* position = n_tokens + row */
void cache_append_ahead(const cache *c, int layer, int head); /* asks for the memory that row 0 will be put to: a hint for its speed */
void cache_commit(cache *c, int n_rows);

/* Drops the items appended last until n_tokens are left; only rows appended after the last cache_apply or cache_fill can go:
 * otherwise ERR_UNSUPPORTED. */
MUST err cache_truncate(cache *c, int n_tokens);

/* n_layers of the cache are sliding ones: `full` would hold at most `window` tokens there (full_f16, items_full). */
void cache_set_sliding(cache *c, int n_layers, int window);
/* Sliding layers: frees the pages that hold nothing but the first n items of a tier; the others keep their order. Rows appended
 * before can no longer be taken back. Returns the items freed. */
int cache_drop_oldest(cache *c, int layer, int head, int tier, int n);
/* Items of a tier at positions before `pos`, and how many of them lie in front of the first other one. */
int cache_n_before(const cache *c, int layer, int head, int tier, uint32_t pos, int *leading);

/* Fills `seg` (ATTN_MAX_SEGMENTS) for one (layer, head); the hot segment, if rows are being appended, comes last and has
 * `grows` set with n_items counting row 0's own item. n_slot_sinks > 0 splits off leading items with position < n_slot_sinks as ATTN_SLOT. */
int cache_segments(const cache *c, int layer, int head, int n_rows_appending, int n_slot_sinks, attn_segment *seg);

/* Item columns for a policy. */
void cache_columns(const cache *c, int layer, int head, item_columns *out);
/* Carries out target tiers for one (layer, head): plan, moves, freed pages. target[i] belongs to column entry i. Tiers with K per
 * channel are entered from tier 0, and left, by whole groups only. */
MUST err cache_apply(cache *c, int layer, int head, const uint8_t *target);
/* The same for many heads of caches on one pool at once, by n_threads threads: parallel compaction as format/compact.h specifies. Leaves what
 * cache_apply leaves for each of them in turn, but for which pages of the pool are used. If the pool has too few pages for
 * items that change tier: ERR_NOMEM, with some heads done; items that go need none. */
typedef struct cache_change { cache *c; int layer, head; const uint8_t *target; } cache_change;
typedef struct compactor compactor; /* scratch and the ring of recycled pages; grows to what its largest call needed */
MUST err compactor_create(compactor **out);
void compactor_destroy(compactor *k);
/* Room for calls of up to n_changes heads of n_items items in all; later calls within it allocate nothing. */
MUST err compactor_reserve(compactor *k, int n_changes, size_t n_items, int n_threads);
MUST err cache_compact(compactor *k, const cache_change *changes, int n, int n_threads);
/* Pages of the emptiest extents are moved together and extents given back; `caches` are all caches of the pool. */
void cache_trim(cache **caches, int n);

cache_bytes cache_get_bytes(const cache *c);
void cache_reset_peaks(cache *c);
/* Debug and san builds call this after every apply: slots unique, counts conserved, pages owned once. */
MUST err cache_check(const cache *c);
#endif
