/* Parallel compaction: target tiers of many heads - of all sequences, layers and KV heads at once - become moved items, new page
 * lists and recycled pages. This page is the specification; a device twin must leave the same bytes in pages, lists, references
 * and ring.
 *
 * A segment is one (sequence, layer, KV head): a page list per tier, the references that its lists are windows of, and a column of
 * targets, tier by tier and slot by slot. Segments are numbered 0 .. n_segs - 1 by the caller; the ring is a queue of page references
 * with counters that only grow: reference i lies at slot[i mod size], head <= i < tail.
 *
 *   1 plan     each segment alone: plan_moves (format/plan.h) gives its moves and n_after. pages(t, n) = ceil(n / cap of t).
 *              need  = sum over tiers of max(0, pages(t, n_after) - n_pages)     pages it takes from the ring
 *              spare = sum over tiers of max(0, n_pages - pages(t, n_after))     pages it gives to the ring
 *              work  = moves + 1
 *   2 scan     order: first the segments with need 0, then the others, each in rising number. Over this order exclusive prefix sums of
 *              need, spare and work.
 *   3 waves    from the first segment not done, as many as the ring can serve: sum of need <= tail - head. None: stop, the rest is
 *              left as it was. (The host between 2 and 3: windows wide enough for max(n_pages, pages(t, n_after)), pages into the ring.)
 *   4 take     the segment whose sum of need is s within the wave appends references head + s, head + s + 1, ... to its lists, from
 *              tier 0 up, each list from its end on.
 *   5 move     its moves in order. A run of moves with equal from_tier and equal (from_tier == to_tier) can be done at once: their
 *              sources and destinations are all different. Moves into tiers with K per channel are gathered in groups of KV_TOKEN_GROUP.
 *   6 recycle  lists get n_items = n_after and n_pages = pages(t, n_after); references beyond, tier by tier from the first one on,
 *              go to ring places tail + s', s' being the sum of spare within the wave. When all segments of the wave are done:
 *              head += its need, tail += its spare; next wave.
 *
 * Segments of a wave touch nothing in common: pages, lists and ring places are theirs alone. So the result does not depend on the
 * number of threads or on who takes which segment. */
#ifndef KVLAB_FORMAT_COMPACT_H
#define KVLAB_FORMAT_COMPACT_H
#include "base/par.h"
#include "format/plan.h"

/* The pages of one (layer, KV head, tier). */
typedef struct page_list {
    uint32_t first, cap; /* window in a block of references */
    uint32_t n_pages;    /* >= pages that n_items fill: decode reserves ahead */
    uint32_t n_items;
    uint32_t want; /* pages that a growth under way asks for; compaction leaves it alone */
} page_list;

typedef struct page_ring {
    uint32_t *slot;
    uint64_t size; /* a power of two, not less than what it holds plus all that one compaction recycles */
    uint64_t head, tail;
} page_ring;
static inline uint32_t *page_ring_at(const page_ring *r, uint64_t i) { return &r->slot[i & (r->size - 1)]; }

typedef struct item_group { /* items on their way into a tier with K per channel, put when they are a whole group */
    int n;
    float k[KV_TOKEN_GROUP * KV_MAX_HEAD_DIM], v[KV_TOKEN_GROUP * KV_MAX_HEAD_DIM]; /* [n][head_dim] */
    uint32_t pos[KV_TOKEN_GROUP];
    float score[KV_TOKEN_GROUP];
} item_group;

/* How bytes of items are written: page_put and page_move of format/layout.h or their equals. */
typedef struct page_codec {
    void (*put)(const page_layout *l, void *page, int slot0, int n, const float *k, size_t ldk, const float *v, size_t ldv,
                const uint32_t *pos);
    void (*move)(const page_layout *from, const void *src, int src_slot, const page_layout *to, void *dst, int dst_slot);
    uint8_t *base; /* page reference r lies at base + 64 r */
} page_codec;

typedef struct compact_seg {
    page_list *lists;      /* [n_tiers] */
    uint32_t *refs;        /* the block that the lists are windows of */
    const uint8_t *target; /* [sum of n_items]: KV_DROP, or a tier not above the item's own that its format can be moved to */
    plan plan;             /* moves: room for as many entries as items, one segment's behind the other's; the rest by step 1 */
    uint32_t n_need, n_spare;
} compact_seg;

typedef struct compact_sums { uint64_t need, spare, work; } compact_sums;
typedef struct compact_share { uint64_t n_segs; compact_sums sums; } compact_share; /* of one thread's segments */
typedef struct compact {
    int n_segs, n_tiers;
    const page_layout *layout; /* [n_tiers] */
    page_codec codec;
    compact_seg *seg;      /* [n_segs] */
    page_ring *ring;
    uint32_t *order;       /* [n_segs] out of step 2 */
    compact_sums *before;  /* [n_segs + 1] out of step 2: over the order; the last entry holds the totals */
    compact_share (*share)[2]; /* [threads] scratch: without need, with need */
    int n_done;            /* of the order, out of compact_carry_out */
} compact;

/* Steps 1 and 2; then 3 to 6. SPMD, with barriers inside and at the end. */
void compact_plan(const par *p, compact *c);
void compact_carry_out(const par *p, compact *c);

/* Step 5 for one segment whose lists have their pages. */
void compact_move(const page_codec *codec, const page_layout *layout, int n_tiers, const page_list *lists, const uint32_t *refs, const plan *plan);
#endif
