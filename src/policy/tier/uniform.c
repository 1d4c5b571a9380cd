/* One tier for all survivors; the last protect.recent tokens stay in the hot tier and move when they leave it. */
#include <stdio.h>
#include "conf/fields.h"
#include "policy/stage.h"

typedef struct uniform_conf { const char *format; int tier; } uniform_conf;
STAGE_CONF_FITS(uniform_conf);

static const field uniform_fields[] = {
    FIELD_STRING(uniform_conf, format, "", "tier of the survivors; default: the only one"), FIELD_END};

static err uniform_parse(policy *p, const node *at, const node *map, void *conf) {
    uniform_conf *c = conf;
    TRY(fields_read(map, uniform_fields, c));
    if (*c->format) TRY(policy_find_tier(p, at, "tier uniform", c->format, &c->tier));
    else if (p->needs.n_tiers > 1) {
        char list[80];
        policy_tier_list(p, list, sizeof list);
        return NODE_ERR(at, "tier uniform: say with `format` which of the tiers [%s] survivors go to", list);
    }
    c->format = NULL; /* belongs to the tree, which may go before the policy */
    return OK;
}

static void uniform_describe(const policy *p, const void *conf, char *out, size_t n) {
    const uniform_conf *c = conf;
    snprintf(out, n, "%s", p->tier_names[c->tier]);
}

static void uniform_assign(const void *conf, const decision *d) {
    const uniform_conf *c = conf;
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        uint8_t *target = h->target, tier = (uint8_t)c->tier;
        const uint8_t *flags = h->flags;
        for (int i = 0, n = h->n; i < n; i++) target[i] = target[i] == KV_DROP ? KV_DROP : flags[i] & ITEM_RECENT ? 0 : tier;
    }
}

static void uniform_count(const void *conf, int n_sink, int n_recent, int n_rest, int *per_tier) {
    const uniform_conf *c = conf;
    per_tier[0] += n_recent;
    per_tier[c->tier] += n_sink + n_rest;
}

static int uniform_moves(const void *conf, uint8_t (*pairs)[2]) {
    const uniform_conf *c = conf;
    pairs[0][0] = 0, pairs[0][1] = (uint8_t)c->tier;
    return 1;
}

static unsigned uniform_tiers_used(const void *conf) { return 1u << ((const uniform_conf *)conf)->tier; }

const stage tier_uniform = {
    .kind = STAGE_TIER, .name = "uniform", .help = "one tier for survivors, the hot one for recent tokens",
    .live = true,
    .parse = uniform_parse, .describe = uniform_describe, .assign = uniform_assign, .count = uniform_count,
    .moves = uniform_moves, .tiers_used = uniform_tiers_used};
