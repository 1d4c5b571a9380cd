/* LeanKV / DiffKV (arXiv 2412.03131), both phases. The prompt phase is that of score significance with select and tier threshold; in
 * decode (a trigger is given) each head gives up or downgrades its least significant items, step by step (leankv_decode.c). `mode`
 * sets every option left at `auto` as the paper says, as its code does (zyqCSL/DiffKV 6cf5d20), or as the first version probably did. */
#include "policy/decide/leankv.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cache/snapshot.h"
#include "conf/fields.h"
#include "policy/signal/pool.h"
#include "policy/topk.h"

typedef struct options {
    double alpha_h, alpha_l, p_h, p_l, min_distance;
    const char *high, *low;
    int mode, rows, group, order, own, normalise, base, base_decode, equal, age, index, ramp, victims;
    bool eager;
} options;

static const char *const mode_names[] = {"code", "paper", "v1_top_p", NULL};
static const char *const group_names[] = {"auto", "mean", "max", NULL};
static const char *const order_names[] = {"auto", "max_of_sum", "sum_of_max", NULL};
static const char *const yes_names[] = {"auto", "false", "true", NULL};
static const char *const base_names[] = {"auto", "prompt", "position", "kept", NULL};
static const char *const base_decode_names[] = {"tokens", "kept", NULL};
static const char *const equal_names[] = {"auto", "better", "worse", NULL};
static const char *const age_names[] = {"auto", "stored", "own", NULL};
static const char *const index_names[] = {"own", "rank", NULL};

enum { ALL = 0 };
static const struct { int rows, group, order, own, normalise, base, equal, age; } defaults[] = { /* of the modes; enums after "auto" */
    [LEANKV_CODE] = {64, GROUP_MAX, ORDER_MAX_OF_SUM, true, false, BASE_PROMPT, 0, AGE_STORED},
    [LEANKV_PAPER] = {ALL, GROUP_MAX, ORDER_MAX_OF_SUM, false, false, BASE_POSITION, 1, AGE_OWN},
    [LEANKV_V1] = {ALL, GROUP_MAX, ORDER_SUM_OF_MAX, true, true, BASE_PROMPT, 0, AGE_OWN},
};

static const field fields[] = {
    FIELD_ENUM(options, mode, "code", mode_names, "what options left at auto follow"),
    FIELD_DOUBLE(options, alpha_h, 1, 0, 1e6, "items below alpha_h * base are stored in the low tier"),
    FIELD_DOUBLE(options, alpha_l, 0.02, 0, 1e6, "items below alpha_l * base are dropped"),
    FIELD_DOUBLE(options, p_h, 0.8, 0, 1, "v1_top_p: share of the head's score in the high tier"),
    FIELD_DOUBLE(options, p_l, 0.95, 0, 1, "v1_top_p: share of the head's score that stays"),
    FIELD_STRING(options, high, "", "tier of significant items; default: the last but one, or the only one"),
    FIELD_STRING(options, low, "", "tier of the others; default: the last one"),
    FIELD_INT(options, rows, -1, -1, SNAPSHOT_TAIL_ROWS, "queries of the prompt that count: last ones, 0 = all, -1 = auto (code: 64, else all)"),
    FIELD_ENUM(options, group, "auto", group_names, "over the query heads of a KV head (auto: max)"),
    FIELD_ENUM(options, order, "auto", order_names, "group after or before the sum over queries of the prompt (v1: sum_of_max); decode: always before"),
    FIELD_ENUM(options, own, "auto", yes_names, "an item's own query counts (paper: false)"),
    FIELD_ENUM(options, normalise, "auto", yes_names, "scores of a head sum to 1 (v1: true)"),
    FIELD_ENUM(options, base, "auto", base_names, "of the prompt: 1 / its tokens (code), 1 / tokens up to the item (paper), 1 / items that stay"),
    FIELD_ENUM(options, base_decode, "tokens", base_decode_names, "in decode: 1 / tokens seen, or 1 / items of the head"),
    FIELD_ENUM(options, equal, "auto", equal_names, "tier of a score that equals alpha_h * base (paper: worse)"),
    FIELD_ENUM(options, age, "auto", age_names, "when a token leaves the window: by its position, or by the position stored with its score (code)"),
    FIELD_ENUM(options, index, "own", index_names, "whose score a prompt token keeps: its own, or that at its rank (a bug of the code, prompts up to 4,000 tokens)"),
    FIELD_ENUM(options, ramp, "none", threshold_ramp_names, "alpha_l grows from layer to layer towards alpha_h - min_distance"),
    FIELD_DOUBLE(options, min_distance, 0, 0, 1e6, "between alpha_l and alpha_h in the last layer, with a ramp"),
    FIELD_INT(options, victims, 1, 0, 1 << 20, "items that a head may give up or downgrade per step; 0 = all that are below"),
    FIELD_BOOL(options, eager, false, "drop low items below alpha_l at every step, not only when a downgrade needs the place"),
    FIELD_END};

static int or_auto(int chosen, int fallback) { return chosen ? chosen - 1 : fallback; }

static err read_tiers(const policy *p, const node *at, const options *o, leankv *c) {
    int high = p->needs.n_tiers > 1 ? p->needs.n_tiers - 2 : 0, low = p->needs.n_tiers - 1;
    if (*o->high) TRY(policy_find_tier(p, at, "decide leankv", o->high, &high));
    if (*o->low) TRY(policy_find_tier(p, at, "decide leankv", o->low, &low));
    if (p->needs.n_tiers > 3)
        return NODE_ERR(at, "decide leankv takes a high and a low tier and a hot one for the window, not %d tiers", p->needs.n_tiers);
    if (high > low || (p->needs.n_tiers > 1 && high == low))
        return NODE_ERR(at, "decide leankv: the high tier %s must come before the low tier %s", p->tier_names[high], p->tier_names[low]);
    c->high = (uint8_t)high, c->low = (uint8_t)low;
    c->has_low = high != low;
    return OK;
}

static err check_options(const node *at, const node *map, const options *o) {
    const char *const of_alpha[] = {"alpha_h", "alpha_l", "base", "base_decode", "equal", "ramp", "min_distance", "eager"}, *const of_top_p[] = {"p_h", "p_l"};
    bool v1 = o->mode == LEANKV_V1;
    const char *const *foreign = v1 ? of_alpha : of_top_p;
    for (int i = 0; i < (v1 ? 8 : 2); i++)
        if (node_get(map, foreign[i])) return NODE_ERR(at, "decide leankv: %s has no effect in mode %s", foreign[i], mode_names[o->mode]);
    if (v1 && o->p_h > o->p_l) return NODE_ERR(at, "decide leankv: p_h %g is above p_l %g: the high tier is a part of what stays", o->p_h, o->p_l);
    if (!v1 && o->alpha_l > o->alpha_h && o->alpha_h > 0)
        return NODE_ERR(at, "decide leankv: alpha_l %g is above alpha_h %g: the low tier lies between them", o->alpha_l, o->alpha_h);
    if (!v1 && o->ramp == RAMP_NONE && node_get(map, "min_distance"))
        return NODE_ERR(at, "decide leankv: min_distance has no effect without a ramp");
    if (o->ramp != RAMP_NONE && o->alpha_h - o->min_distance < o->alpha_l)
        return NODE_ERR(at, "decide leankv: the ramp would fall from alpha_l %g to %g (alpha_h - min_distance)", o->alpha_l, o->alpha_h - o->min_distance);
    return OK;
}

static err leankv_parse(policy *p, const node *at, const node *map, void *conf) {
    leankv *c = conf;
    options o;
    TRY(fields_read(map, fields, &o));
    TRY(check_options(at, map, &o));
    TRY(read_tiers(p, at, &o, c));
    int rows = o.rows < 0 ? defaults[o.mode].rows : o.rows;
    bool own = or_auto(o.own, rows ? true : defaults[o.mode].own); /* with a window an item's own query is always seen */
    c->alpha_h = o.alpha_h, c->alpha_l = o.alpha_l, c->p_h = o.p_h, c->p_l = o.p_l, c->min_distance = o.min_distance;
    c->sig = (significance){.rows = rows, .group = or_auto(o.group, defaults[o.mode].group), .order = or_auto(o.order, defaults[o.mode].order), .own = own,
                            .normalise = or_auto(o.normalise, defaults[o.mode].normalise)};
    if (!o.order && c->sig.group != GROUP_MAX) c->sig.order = ORDER_MAX_OF_SUM;
    c->mode = (uint8_t)o.mode, c->ramp = (uint8_t)o.ramp, c->victims = o.victims, c->eager = o.eager;
    c->base = (uint8_t)or_auto(o.base, defaults[o.mode].base), c->base_decode = (uint8_t)o.base_decode, c->index = (uint8_t)o.index;
    c->equal_worse = or_auto(o.equal, defaults[o.mode].equal), c->age = (uint8_t)or_auto(o.age, defaults[o.mode].age);
    p->scales |= o.mode != LEANKV_V1;
    if (p->trigger.every || p->trigger.slack)
        p->needs.live = (live_spec){.on = true, .group = c->sig.group == GROUP_MEAN ? LIVE_MEAN : LIVE_MAX, .power = 1, .fold = LIVE_ADD};
    else if (o.index == INDEX_RANK)
        return NODE_ERR(at, "decide leankv: index: rank changes what decode starts from; without trigger every there is no decode phase");
    if (p->trigger.slack)
        return NODE_ERR(at, "decide leankv has no budget to exceed: give trigger {every: n} instead of slack: %d", p->trigger.slack);
    return significance_request(p, at, "decide leankv", &c->sig);
}

static void leankv_describe(const policy *p, const void *conf, char *out, size_t n) {
    const leankv *c = conf;
    char sig[60], how[80];
    significance_describe(&c->sig, sig, sizeof sig);
    if (c->mode == LEANKV_V1) snprintf(how, sizeof how, "p_h %g, p_l %g", c->p_h, c->p_l);
    else snprintf(how, sizeof how, "alpha_h %g, alpha_l %g%s", c->alpha_h, c->alpha_l, c->ramp ? " ramped" : "");
    snprintf(out, n, "mode %s, %s, %s, %s%s%s", mode_names[c->mode], how, sig, p->tier_names[c->high], c->has_low ? " above " : "",
             c->has_low ? p->tier_names[c->low] : "");
}

double leankv_alpha_l(const leankv *c, const decision *d, int layer) {
    return threshold_ramped((threshold_ramp)c->ramp, c->alpha_l, c->alpha_h - c->min_distance, layer, d->p->shape.n_layers);
}

static int rising(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Sums that decode goes on from; under index rank the token of rank r in rising order (the window last) keeps the sum of token r. */
static void start_columns(const leankv *c, const decision *d, head_items *h, const float *sum) {
    memcpy(h->live, sum, (size_t)h->n * sizeof *h->live);
    if (c->index == INDEX_OWN) return;
    for (int i = 0; i < h->n; i++) d->keys[i] = topk_key(h->flags[i] & ITEM_RECENT ? 1 : h->score[i], (uint32_t)i);
    qsort(d->keys, (size_t)h->n, sizeof *d->keys, rising);
    for (int r = 0; r < h->n; r++) h->live[(uint32_t)d->keys[r]] = sum[r];
}

static void decide_prompt(const leankv *c, const decision *d, head_items *h) {
    threshold keep = {c->mode == LEANKV_V1 ? RULE_TOP_P : RULE_ALPHA, (threshold_base)c->base, false}, high = keep;
    high.equal_fails = c->equal_worse;
    uint8_t *reached = (uint8_t *)d->tmp;
    significance_score(&c->sig, d, h, h->live ? d->tmp : NULL);
    if (h->live) start_columns(c, d, h, d->tmp);
    memset(h->target, c->high, (size_t)h->n);
    threshold_level(&keep, c->mode == LEANKV_V1 ? c->p_l : leankv_alpha_l(c, d, h->layer), d, h, reached);
    for (int i = 0; i < h->n; i++)
        if (!reached[i]) h->target[i] = KV_DROP;
    threshold_level(&high, c->mode == LEANKV_V1 ? c->p_h : c->alpha_h, d, h, reached);
    for (int i = 0; i < h->n; i++) {
        if (h->target[i] == KV_DROP) continue;
        h->target[i] = h->flags[i] & ITEM_RECENT ? 0 : reached[i] ? c->high : c->low;
    }
}

static void leankv_decide(const void *conf, const decision *d) {
    for (int k = 0; k < d->n_heads; k++) {
        if (d->heads[k].tier_now) leankv_decode(conf, d, &d->heads[k]);
        else decide_prompt(conf, d, &d->heads[k]);
    }
}

static int leankv_moves(const void *conf, uint8_t (*pairs)[2]) {
    const leankv *c = conf;
    const uint8_t chain[][2] = {{0, c->high}, {c->high, c->low}, {0, c->low}};
    memcpy(pairs, chain, sizeof chain);
    return 3;
}

static unsigned leankv_tiers_used(const void *conf) { return 1u << ((const leankv *)conf)->high | 1u << ((const leankv *)conf)->low; }

STAGE_CONF_FITS(leankv);
const stage decide_leankv = {
    .kind = STAGE_DECIDE, .name = "leankv", .help = "thresholds on significance for two tiers, kept up in decode (LeanKV / DiffKV)",
    .live = true, .drops = true, .before_step = true, .parse = leankv_parse, .describe = leankv_describe, .decide = leankv_decide,
    .moves = leankv_moves, .tiers_used = leankv_tiers_used};
