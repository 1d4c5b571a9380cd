/* One ranking over the items of several heads, of one layer or of all. */
#ifndef KVLAB_POLICY_RANKING_H
#define KVLAB_POLICY_RANKING_H
#include "policy/topk.h"

/* Neither protected nor forced: its score decides. */
static inline bool ranking_competes(const head_items *h, int i) { return !(h->flags[i] & (ITEM_PROTECTED | ITEM_FORCED)); }
/* Forced items rank above all scores, the newest first. Among equal scores the lower position stays, then the lower layer, then the lower head; `ties_high` turns that round. */
uint64_t ranking_key(const decision *d, const head_items *h, int i);
/* Quotas: all protected and forced items, then the best of all heads until `total` items stay. If the forced ones alone are more, each
 * head keeps its newest, as many as the budget holds. */
void ranking_allot(const decision *d, int64_t total);
#endif
