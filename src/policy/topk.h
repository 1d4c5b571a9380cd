/* Selection by 64-bit keys: unique keys make the choice independent of order, ties and algorithm. */
#ifndef KVLAB_POLICY_TOPK_H
#define KVLAB_POLICY_TOPK_H
#include "policy/stage.h"

/* First half of the key of a score: 0 for NaN. Without branches, so that loops over it become vectors. */
static inline uint32_t topk_score_key(float score) {
    uint32_t u = f32_bits(score + 0.0f);
    uint32_t key = u ^ ((uint32_t)((int32_t)u >> 31) | 0x80000000u);
    return score == score ? key : 0;
}
/* Key of a score: larger is kept first; NaN comes last, -0 equals 0. `tie` decides among equal scores. */
static inline uint64_t topk_key(float score, uint32_t tie) { return (uint64_t)topk_score_key(score) << 32 | tie; }
/* The score that a key of topk_key was made from (0 for NaN). */
static inline float topk_key_score(uint64_t key) {
    uint32_t u = (uint32_t)(key >> 32);
    return u == 0 ? 0 : f32_from_bits(u & 0x80000000u ? u ^ 0x80000000u : ~u);
}
/* Key of item i inside its head: protected items, then forced ones from the newest, then by score. */
uint64_t topk_item_key(const policy *p, const head_items *h, int i);
/* Key of an unprotected item among n_heads heads, its score times `weight`: among equals the position decides, then the lower head. */
uint64_t topk_layer_key(const policy *p, const head_items *h, int i, int n_heads, float weight);

/* Sorts n keys, lowest first; tmp [n]. */
void topk_sort(uint64_t *keys, uint64_t *tmp, int n);
/* The best `quota` items of the head get target 0, the others KV_DROP. */
void topk_select(const decision *d, const head_items *h);

/* The k-th largest of n keys, 1 <= k <= n, in O(n) time; `keys` is used up. */
uint64_t topk_threshold(uint64_t *keys, int n, int k);
#endif
