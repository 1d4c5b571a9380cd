/* Tiers of roles, for tier stages that place an item once, at the prompt's end: in decode what is placed stays where it is, and a token
 * that leaves `recent` goes to one tier. */
#ifndef KVLAB_POLICY_TIER_ROLES_H
#define KVLAB_POLICY_TIER_ROLES_H
#include "policy/stage.h"

typedef struct role_tiers { int recent, sink, after; } role_tiers;

/* Reads `recent` (default: the hot tier), `sink` and `after_recent` (default: `best`) of a stage's map. */
MUST err role_tiers_read(const policy *p, const node *map, const char *stage_name, int best, role_tiers *out);
void role_tiers_decode(const role_tiers *r, const decision *d, head_items *h);
int role_tiers_moves(const role_tiers *r, uint8_t (*pairs)[2]);
static inline int role_tiers_protected(const role_tiers *r, uint8_t flags) { return flags & ITEM_RECENT ? r->recent : r->sink; }
static inline unsigned role_tiers_used(const role_tiers *r) { return 1u << r->recent | 1u << r->sink | 1u << r->after; }
#endif
