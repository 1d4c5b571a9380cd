/* Items below a threshold go, however many they are (LeanKV): score < alpha * base, or outside of the smallest set that holds the share
 * p of the head's score. There is no budget; under {bytes: x} all alphas of the policy are multiplied by one factor that meets it. */
#include <stdio.h>
#include <string.h>
#include "conf/fields.h"
#include "policy/threshold.h"

typedef struct select_conf { double alpha, p, ramp_to; int rule, base, ramp; } select_conf;
STAGE_CONF_FITS(select_conf);

static err threshold_parse(policy *p, const node *at, const node *map, void *conf) {
    static const field fields[] = {
        FIELD_ENUM(select_conf, rule, "alpha", threshold_rule_names, "score against alpha * base, or share of the head's score"),
        FIELD_DOUBLE(select_conf, alpha, 0.02, 0, 1e6, "an item below alpha * base is dropped; 0 drops none"),
        FIELD_ENUM(select_conf, base, "prompt", threshold_base_names, "1 / prompt tokens, 1 / tokens up to the item, 1 / items of the head"),
        FIELD_DOUBLE(select_conf, p, 0.95, 0, 1, "rule top_p: share of the head's score that stays"),
        FIELD_ENUM(select_conf, ramp, "none", threshold_ramp_names, "alpha grows from layer to layer"),
        FIELD_DOUBLE(select_conf, ramp_to, 0, 0, 1e6, "alpha of the last layer, with a ramp"),
        FIELD_END};
    select_conf *c = conf;
    TRY(fields_read(map, fields, c));
    if (c->rule == RULE_TOP_P && (node_get(map, "alpha") || node_get(map, "base") || c->ramp))
        return NODE_ERR(at, "select threshold: rule top_p keeps a share p of the score; alpha, base and ramp belong to rule alpha");
    if (c->rule == RULE_ALPHA && node_get(map, "p")) return NODE_ERR(at, "select threshold: p belongs to rule: top_p");
    if ((c->ramp != RAMP_NONE) != (node_get(map, "ramp_to") != NULL))
        return NODE_ERR(at, "select threshold: ramp and ramp_to belong together: %s is missing", c->ramp ? "ramp_to" : "ramp");
    p->scales |= c->rule == RULE_ALPHA;
    return OK;
}

static void threshold_describe(const policy *p, const void *conf, char *out, size_t n) {
    const select_conf *c = conf;
    char ramp[48] = "";
    if (c->rule == RULE_TOP_P) {
        snprintf(out, n, "top_p %g", c->p);
        return;
    }
    if (c->ramp) snprintf(ramp, sizeof ramp, ", %s ramp to %g", threshold_ramp_names[c->ramp], c->ramp_to);
    snprintf(out, n, "alpha %g per %s%s", c->alpha, threshold_base_names[c->base], ramp);
}

static void threshold_select(const void *conf, const decision *d) {
    const select_conf *c = conf;
    threshold t = {(threshold_rule)c->rule, (threshold_base)c->base, false};
    uint8_t *reached = (uint8_t *)d->tmp;
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        double alpha = threshold_ramped((threshold_ramp)c->ramp, c->alpha, c->ramp_to, h->layer, d->p->shape.n_layers);
        memset(h->target, 0, (size_t)h->n);
        threshold_level(&t, c->rule == RULE_TOP_P ? c->p : alpha, d, h, reached);
        for (int i = 0; i < h->n; i++)
            if (!reached[i]) h->target[i] = KV_DROP;
    }
}

const stage select_threshold = {
    .kind = STAGE_SELECT, .name = "threshold", .help = "items above a threshold stay, however many (LeanKV)",
    .parse = threshold_parse, .describe = threshold_describe, .ranks = true, .drops = true, .select = threshold_select};
