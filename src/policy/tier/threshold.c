/* A tier for each threshold that an item's score reaches (LeanKV): `levels` maps tiers to values, best first; an item goes to the first
 * one whose level it reaches, the last tier takes the rest and has the value 0. Decided at prefill; in decode as by_rank. */
#include <stdio.h>
#include <string.h>
#include "conf/fields.h"
#include "policy/threshold.h"
#include "policy/tier/roles.h"

typedef struct tier_conf {
    int n, tier[KV_MAX_TIERS], rule, base, equal;
    double value[KV_MAX_TIERS];
    role_tiers roles;
} tier_conf;
STAGE_CONF_FITS(tier_conf);

static const char *const equal_names[] = {"better", "worse", NULL};

static err read_levels(const policy *p, const node *at, const node *levels, tier_conf *c) {
    if (node_type(levels) != NODE_MAP || node_count(levels) < 1)
        return NODE_ERR(at, "tier threshold: `levels` maps tiers to values, best first, the last to 0: {k8v4: 1, k4v2: 0}");
    if (node_count(levels) > KV_MAX_TIERS)
        return NODE_ERR(levels, "tier threshold: %d levels, at most %d tiers", node_count(levels), KV_MAX_TIERS);
    c->n = node_count(levels);
    for (int i = 0; i < c->n; i++) {
        const node *v = node_get(levels, node_key(levels, i));
        TRY(policy_find_tier(p, v, "tier threshold", node_key(levels, i), &c->tier[i]));
        TRY(node_as_double(v, &c->value[i]));
        bool last = i == c->n - 1, rises = i > 0 && (c->rule == RULE_TOP_P ? c->value[i] < c->value[i - 1] : c->value[i] > c->value[i - 1]);
        if (last && c->value[i] != 0)
            return NODE_ERR(v, "tier threshold: the last level, %s, takes the rest and has the value 0, not %g", node_key(levels, i), c->value[i]);
        if (!(c->value[i] >= 0) || (c->rule == RULE_TOP_P && c->value[i] > 1))
            return NODE_ERR(v, "tier threshold: level %g of %s: %s", c->value[i], node_key(levels, i),
                            c->rule == RULE_TOP_P ? "a share of the score is between 0 and 1" : "an alpha is at least 0");
        if (!last && rises)
            return NODE_ERR(v, "tier threshold: levels are listed best first: %s at %g comes after %g", node_key(levels, i), c->value[i], c->value[i - 1]);
    }
    return OK;
}

typedef struct tier_options { int rule, base, equal; } tier_options;

static err threshold_parse(policy *p, const node *at, const node *map, void *conf) {
    static const field fields[] = {
        FIELD_ENUM(tier_options, rule, "alpha", threshold_rule_names, "levels are alphas of score >= alpha * base, or shares of the head's score"),
        FIELD_ENUM(tier_options, base, "prompt", threshold_base_names, "1 / prompt tokens, 1 / tokens up to the item, 1 / items that stay"),
        FIELD_ENUM(tier_options, equal, "better", equal_names, "tier of a score that equals a threshold"),
        FIELD_END};
    tier_conf *c = conf;
    tier_options o;
    if (node_type(map) != NODE_MAP) return NODE_ERR(at, "tier threshold needs `levels`: {levels: {k8v4: 1, k4v2: 0}}");
    const node *levels = node_get(map, "levels");
    TRY(role_tiers_read(p, map, "tier threshold", 0, &c->roles)); /* marks the keys as read; `best` is known below */
    TRY(fields_read(map, fields, &o));
    c->rule = o.rule, c->base = o.base, c->equal = o.equal;
    TRY(read_levels(p, at, levels, c));
    p->scales |= c->rule == RULE_ALPHA;
    return role_tiers_read(p, map, "tier threshold", c->tier[0], &c->roles);
}

static void threshold_describe(const policy *p, const void *conf, char *out, size_t n) {
    const tier_conf *c = conf;
    size_t used = 0;
    for (int t = 0; t < c->n && used < n; t++)
        used += (size_t)snprintf(out + used, n - used, "%s%s %g", t ? ", " : "", p->tier_names[c->tier[t]], c->value[t]);
    if (used < n) snprintf(out + used, n - used, "%s%s", c->rule == RULE_TOP_P ? " of the score" : " per ", c->rule == RULE_TOP_P ? "" : threshold_base_names[c->base]);
}

static void place(const tier_conf *c, const decision *d, head_items *h) {
    threshold t = {(threshold_rule)c->rule, (threshold_base)c->base, c->equal == 1};
    uint8_t *level = (uint8_t *)d->tmp, *reached = level + h->n; /* level: the first one reached */
    memset(level, c->n - 1, (size_t)h->n);
    for (int l = c->n - 2; l >= 0; l--) {
        threshold_level(&t, c->value[l], d, h, reached);
        for (int i = 0; i < h->n; i++)
            if (reached[i]) level[i] = (uint8_t)l;
    }
    for (int i = 0; i < h->n; i++) {
        if (h->target[i] == KV_DROP) continue;
        h->target[i] = (uint8_t)(h->flags[i] & ITEM_PROTECTED ? role_tiers_protected(&c->roles, h->flags[i]) : c->tier[level[i]]);
    }
}

static void threshold_assign(const void *conf, const decision *d) {
    const tier_conf *c = conf;
    for (int k = 0; k < d->n_heads; k++) {
        if (d->heads[k].tier_now) role_tiers_decode(&c->roles, d, &d->heads[k]);
        else place(c, d, &d->heads[k]);
    }
}

static int threshold_moves(const void *conf, uint8_t (*pairs)[2]) { return role_tiers_moves(&((const tier_conf *)conf)->roles, pairs); }

static unsigned threshold_tiers_used(const void *conf) {
    const tier_conf *c = conf;
    unsigned used = role_tiers_used(&c->roles);
    for (int t = 0; t < c->n; t++) used |= 1u << c->tier[t];
    return used;
}

const stage tier_threshold = {
    .kind = STAGE_TIER, .name = "threshold", .help = "tiers by thresholds on the score (LeanKV)",
    .parse = threshold_parse, .describe = threshold_describe, .ranks = true, .assign = threshold_assign,
    .moves = threshold_moves, .tiers_used = threshold_tiers_used};
