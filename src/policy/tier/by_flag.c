/* A tier for each role. An item with several roles counts as recent, else sink, else representative, else important; one that leaves
 * `recent` goes where its remaining role says. */
#include <stdio.h>
#include <string.h>
#include "conf/fields.h"
#include "policy/stage.h"

typedef struct by_flag_conf {
    const char *recent, *sink, *important, *representative;
    int tier_recent, tier_sink, tier_important, tier_representative;
    const policy *p;
} by_flag_conf;
STAGE_CONF_FITS(by_flag_conf);

static const field by_flag_fields[] = {
    FIELD_STRING(by_flag_conf, recent, "", "tier of the last protect.recent tokens; default: the hot tier"),
    FIELD_STRING(by_flag_conf, sink, "", "tier of the first protect.sink tokens; default: as important"),
    FIELD_STRING(by_flag_conf, important, "", "tier of the others (required)"),
    FIELD_STRING(by_flag_conf, representative, "", "tier of items that stand for dropped ones; default: as important"),
    FIELD_END};

static err tier_or(const policy *p, const node *at, const char *name, int fallback, int *tier) {
    *tier = fallback;
    return *name ? policy_find_tier(p, at, "tier by_flag", name, tier) : OK;
}

static err by_flag_parse(policy *p, const node *at, const node *map, void *conf) {
    by_flag_conf *c = conf;
    TRY(fields_read(map, by_flag_fields, c));
    c->p = p;
    if (!*c->important) return NODE_ERR(at, "tier by_flag: `important` is missing: it says where survivors go");
    TRY(tier_or(p, at, c->important, 0, &c->tier_important));
    TRY(tier_or(p, at, c->recent, 0, &c->tier_recent));
    TRY(tier_or(p, at, c->sink, c->tier_important, &c->tier_sink));
    TRY(tier_or(p, at, c->representative, c->tier_important, &c->tier_representative));
    const stage *sel = p->use[STAGE_SELECT].st;
    if (*c->representative && !(sel->marks & ITEM_REPRESENTATIVE))
        return NODE_ERR(at, "tier by_flag places representatives, but select %s marks none", sel->name);
    if (*c->recent && !p->protect.recent)
        return NODE_ERR(at, "tier by_flag places recent tokens, but protect.recent is 0");
    if (*c->sink && !p->protect.sink) return NODE_ERR(at, "tier by_flag places sinks, but protect.sink is 0");
    c->recent = c->sink = c->important = c->representative = NULL; /* belong to the tree, which may go before the policy */
    return OK;
}

static void by_flag_describe(const policy *p, const void *conf, char *out, size_t n) {
    const by_flag_conf *c = conf;
    snprintf(out, n, "recent %s, sink %s, important %s", p->tier_names[c->tier_recent], p->tier_names[c->tier_sink],
             p->tier_names[c->tier_important]);
    size_t used = strlen(out);
    if (p->use[STAGE_SELECT].st->marks & ITEM_REPRESENTATIVE)
        snprintf(out + used, n - used, ", representative %s", p->tier_names[c->tier_representative]);
}

static int by_flag_tier(const by_flag_conf *c, uint8_t flags) {
    return flags & ITEM_RECENT           ? c->tier_recent
           : flags & ITEM_SINK           ? c->tier_sink
           : flags & ITEM_REPRESENTATIVE ? c->tier_representative
                                         : c->tier_important;
}

static void by_flag_assign(const void *conf, const decision *d) {
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        for (int i = 0; i < h->n; i++)
            if (h->target[i] != KV_DROP) h->target[i] = (uint8_t)by_flag_tier(conf, h->flags[i]);
    }
}

static void by_flag_count(const void *conf, int n_sink, int n_recent, int n_rest, int *per_tier) {
    const by_flag_conf *c = conf;
    per_tier[c->tier_recent] += n_recent;
    per_tier[c->tier_sink] += n_sink;
    const stage_use *sel = &c->p->use[STAGE_SELECT];
    int n_free = n_rest - c->p->may_force, marked = sel->st->marked && n_free > 0 ? sel->st->marked(sel->conf, n_free) : 0;
    per_tier[c->tier_representative] += marked;
    per_tier[c->tier_important] += n_rest - marked;
}

static int by_flag_moves(const void *conf, uint8_t (*pairs)[2]) {
    const by_flag_conf *c = conf;
    const int chain[][2] = {{0, c->tier_important}, {0, c->tier_recent}, {0, c->tier_sink}, {0, c->tier_representative},
                            {c->tier_recent, c->tier_important}, {c->tier_recent, c->tier_sink},
                            {c->tier_recent, c->tier_representative}};
    int n = sizeof chain / sizeof *chain;
    for (int i = 0; i < n; i++) pairs[i][0] = (uint8_t)chain[i][0], pairs[i][1] = (uint8_t)chain[i][1];
    return n;
}

static unsigned by_flag_tiers_used(const void *conf) {
    const by_flag_conf *c = conf;
    return 1u << c->tier_recent | 1u << c->tier_sink | 1u << c->tier_important | 1u << c->tier_representative;
}

const stage tier_by_flag = {
    .kind = STAGE_TIER, .name = "by_flag", .help = "a tier for each role: recent, sink, important, representative",
    .live = true,
    .parse = by_flag_parse, .describe = by_flag_describe, .assign = by_flag_assign, .count = by_flag_count,
    .moves = by_flag_moves, .tiers_used = by_flag_tiers_used};
