/* One ranking over all KV heads of all layers (or of each layer) decides how many items each head keeps; forced and protected items
 * come first and count. There is no floor: a head may keep nothing else (KVzip, arXiv 2505.23416).
 *
 *   count kept      as many stay as the budget allows the heads together
 *   count evicted   the int(items * (1 - ratio)) lowest of the prompt go, as kvpress counts: up to one item more stays; needs a budget in ratio
 */
#include <stdio.h>
#include "conf/fields.h"
#include "policy/quota/ranking.h"

typedef struct global_conf { int over, count; } global_conf;
STAGE_CONF_FITS(global_conf);

static const char *const over_names[] = {"sequence", "layer", NULL};
static const char *const count_names[] = {"kept", "evicted", NULL};
static const field global_fields[] = {
    FIELD_ENUM(global_conf, over, "sequence", over_names, "heads that are ranked together"),
    FIELD_ENUM(global_conf, count, "kept", count_names, "what the ratio is truncated to"), FIELD_END};

static err global_parse(policy *p, const node *at, const node *map, void *conf) {
    global_conf *c = conf;
    TRY(fields_read(map, global_fields, c));
    if (c->count && p->budget.unit != BUDGET_RATIO) {
        char limit[64];
        budget_describe(&p->budget, limit, sizeof limit);
        return NODE_ERR(at, "quota global: count: evicted rounds a ratio of the tokens, but the budget is %s", p->budget.unit ? limit : "missing");
    }
    const stage *score = p->use[STAGE_SCORE].st;
    if (c->count && score && policy_stage_live(p, STAGE_SCORE) && (p->trigger.slack || p->trigger.every))
        return NODE_ERR(at, "quota global: count: evicted counts what leaves the prompt, but score %s with trigger %s goes on in decode: use count: "
                        "kept", score->name, p->trigger.slack ? "slack" : "every");
    p->needs.scope = c->over ? SCOPE_LAYER : SCOPE_SEQUENCE;
    return OK;
}

static void global_describe(const policy *p, const void *conf, char *out, size_t n) {
    const global_conf *c = conf;
    snprintf(out, n, "over %s%s", c->over ? "a layer" : "all layers", c->count ? ", evicted counted" : "");
}

static void global_allot(const void *conf, const decision *d) {
    const global_conf *c = conf;
    int64_t items = 0, total = 0;
    for (int k = 0; k < d->n_heads; k++) {
        items += d->heads[k].n;
        total += d->heads[k].kept;
    }
    if (total > items) total = items;
    if (c->count) total = items - (int64_t)((double)items * (1 - d->p->budget.amount));
    ranking_allot(d, total);
}

const stage quota_global = {
    .kind = STAGE_QUOTA, .name = "global", .help = "per head, from one ranking of all layers (KVzip)",
    .parse = global_parse, .describe = global_describe, .live = true, .budgeted = true, .ranks = true, .allot = global_allot};
