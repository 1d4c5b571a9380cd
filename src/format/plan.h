/* The move planner: a pure function from (lengths, target tiers) to moves and freed pages, for one (sequence, layer, KV head).
 * Its device twin must return the same. Holes are filled from the tail of their tier; items that change tier are appended to
 * the target tier in column order; tiers never rise except DROP. */
#ifndef KVLAB_FORMAT_PLAN_H
#define KVLAB_FORMAT_PLAN_H
#include "format/layout.h"

enum { KV_DROP = 0xff }; /* in a column of target tiers */

typedef struct plan_move {
    uint8_t from_tier, to_tier;
    uint32_t from_slot, to_slot; /* item index inside the tier (page = slot / cap) */
} plan_move;

typedef struct plan {
    plan_move *moves; /* caller's buffer of at least n_items entries; applied in order, never overwriting a source still needed */
    int n_moves;
    int n_after[KV_MAX_TIERS]; /* items per tier afterwards */
} plan;

/* The first of the items at .. end-1 that does not stay in `tier`; end if all do. */
int plan_next_leaver(const uint8_t *target, int at, int end, int tier);

/* Items are numbered tier by tier: tier 0's slots 0..n[0]-1 first, then tier 1's, ... `target[i]` is the tier item i goes to, or
 * KV_DROP. Because several tiers exchange items, an application must first stage pages: the to_slots of tier t may exceed its
 * present pages; n_after tells how many are needed at the end, and never more than max(n[t], n_after[t]) are used in between. */
void plan_moves(const int *n /* [n_tiers] */, int n_tiers, const uint8_t *target /* [sum n] */, plan *out);
#endif
