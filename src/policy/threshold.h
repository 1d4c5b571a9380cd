/* Thresholds on scores (LeanKV, arXiv 2412.03131): an item reaches a level when its score is at least alpha times a base, or (rule top_p,
 * the first version of the paper) when it belongs to the smallest set that holds the share p of the head's score. */
#ifndef KVLAB_POLICY_THRESHOLD_H
#define KVLAB_POLICY_THRESHOLD_H
#include "policy/stage.h"

typedef enum threshold_rule { RULE_ALPHA, RULE_TOP_P } threshold_rule;
typedef enum threshold_base {
    BASE_PROMPT,   /* 1 / tokens of the prompt; a sliding layer: that its last query sees */
    BASE_POSITION, /* 1 / tokens up to the item, itself included; a sliding layer: that the item's query sees */
    BASE_KEPT,     /* 1 / items of the head that are still there */
} threshold_base;
typedef enum threshold_ramp { RAMP_NONE, RAMP_LINEAR, RAMP_LOG } threshold_ramp;
extern const char *const threshold_rule_names[], *const threshold_base_names[], *const threshold_ramp_names[]; /* NULL-terminated */

typedef struct threshold {
    threshold_rule rule;
    threshold_base base;
    bool equal_fails; /* rule alpha: a score equal to the threshold does not reach it */
} threshold;

/* alpha of a layer: from `first` in the first layer to `last` in the last one, linear in x = layer / (layers - 1) or by log2(1 + x). */
double threshold_ramped(threshold_ramp kind, double first, double last, int layer, int n_layers);
/* Is the score at least alpha * base, base = 1 / per? In f64, the score as it is. */
static inline bool threshold_reached(double score, double alpha, double per, bool equal_fails) {
    double limit = alpha / per;
    return equal_fails ? score > limit : score >= limit;
}
/* reached[i]: does item i reach the level? Only items with target other than KV_DROP take part; protected and forced ones always
 * reach it, and their share of the score counts first under top_p. */
void threshold_level(const threshold *t, double value, const decision *d, const head_items *h, uint8_t *reached /* [n] */);
#endif
