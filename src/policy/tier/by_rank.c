/* Shares of the survivors of a head, or of all heads together (over: sequence), best first, decided at prefill: of m survivors that are
 * neither sink nor recent, those of rank int(m * c_t-1) .. int(m * c_t) - 1 go to the t-th tier, c_t being the cumulated shares. Forced
 * items rank above all scores. In decode nothing is ranked again: items stay where they are and a token that leaves `recent` goes to `after_recent`. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "policy/quota/ranking.h"
#include "policy/tier/roles.h"

typedef struct by_rank_conf {
    int n, tier[KV_MAX_TIERS];
    double cumulated[KV_MAX_TIERS];
    role_tiers roles;
    int over;
} by_rank_conf;
STAGE_CONF_FITS(by_rank_conf);

static const char *const over_names[] = {"head", "sequence", NULL};
enum { OVER_HEAD, OVER_SEQUENCE };

static err read_shares(const policy *p, const node *at, const node *shares, by_rank_conf *c) {
    if (node_type(shares) != NODE_MAP || node_count(shares) == 0)
        return NODE_ERR(at, "tier by_rank: `shares` maps tiers to shares, best first: {k8v4: 0.5, k4v2: 0.5}");
    if (node_count(shares) > KV_MAX_TIERS)
        return NODE_ERR(shares, "tier by_rank: %d shares, at most %d tiers", node_count(shares), KV_MAX_TIERS);
    double sum = 0;
    for (int i = 0; i < node_count(shares); i++) {
        double share;
        const node *v = node_get(shares, node_key(shares, i));
        TRY(policy_find_tier(p, v, "tier by_rank", node_key(shares, i), &c->tier[i]));
        TRY(node_as_double(v, &share));
        if (!(share > 0 && share <= 1))
            return NODE_ERR(v, "tier by_rank: share %g of %s is not above 0 and at most 1", share, node_key(shares, i));
        c->cumulated[i] = sum += share;
    }
    if (fabs(sum - 1) > 1e-6) return NODE_ERR(shares, "tier by_rank: shares sum to %g instead of 1", sum);
    c->n = node_count(shares);
    c->cumulated[c->n - 1] = 1;
    return OK;
}

static err by_rank_parse(policy *p, const node *at, const node *map, void *conf) {
    by_rank_conf *c = conf;
    if (node_type(map) != NODE_MAP) return NODE_ERR(at, "tier by_rank needs `shares`: {shares: {k8v4: 0.5, k4v2: 0.5}}");
    TRY(read_shares(p, map, node_get(map, "shares"), c));
    TRY(role_tiers_read(p, map, "tier by_rank", c->tier[0], &c->roles));
    const node *over = node_get(map, "over");
    const char *text = !over ? over_names[OVER_HEAD] : node_type(over) == NODE_SCALAR ? node_text(over) : "";
    c->over = !strcmp(text, over_names[OVER_SEQUENCE]);
    if (!c->over && strcmp(text, over_names[OVER_HEAD])) return NODE_ERR(over, "tier by_rank: over is \"%s\": head and sequence are supported", text);
    if (c->over && p->needs.scope != SCOPE_SEQUENCE)
        return NODE_ERR(over, "tier by_rank over: sequence ranks the items of all layers, but quota %s decides layer by layer: use quota global or profile",
                        p->use[STAGE_QUOTA].st->name);
    return node_check_read(map);
}

static void by_rank_describe(const policy *p, const void *conf, char *out, size_t n) {
    const by_rank_conf *c = conf;
    size_t used = 0;
    for (int t = 0; t < c->n && used < n; t++)
        used += (size_t)snprintf(out + used, n - used, "%s%s %g", t ? ", " : "", p->tier_names[c->tier[t]],
                                 c->cumulated[t] - (t ? c->cumulated[t - 1] : 0));
    if (c->over && used < n) snprintf(out + used, n - used, " of all heads");
}

/* Survivors up to the end of share t, of m. */
static int share_end(const by_rank_conf *c, int t, int m) { return t == c->n - 1 ? m : (int)(m * c->cumulated[t]); }

static bool ranked(const head_items *h, int i) { return h->target[i] != KV_DROP && !(h->flags[i] & ITEM_PROTECTED); }

static uint64_t rank_key(const by_rank_conf *c, const decision *d, const head_items *h, int i) {
    return c->over == OVER_HEAD ? topk_item_key(d->p, h, i) : ranking_key(d, h, i);
}

/* The heads whose survivors share the shares. */
static void place_survivors(const by_rank_conf *c, const decision *d, head_items *heads, int n_heads) {
    int m = 0;
    for (int k = 0; k < n_heads; k++)
        for (int i = 0; i < heads[k].n; i++) m += ranked(&heads[k], i);
    uint64_t threshold[KV_MAX_TIERS];
    for (int t = 0; t < c->n; t++) {
        int end = share_end(c, t, m), n = 0;
        for (int k = 0; k < n_heads; k++)
            for (int i = 0; i < heads[k].n; i++)
                if (ranked(&heads[k], i)) d->keys[n++] = rank_key(c, d, &heads[k], i);
        threshold[t] = end > 0 ? topk_threshold(d->keys, n, end) : UINT64_MAX;
    }
    for (int k = 0; k < n_heads; k++) {
        head_items *h = &heads[k];
        for (int i = 0; i < h->n; i++) {
            if (h->target[i] == KV_DROP) continue;
            if (h->flags[i] & ITEM_PROTECTED) {
                h->target[i] = (uint8_t)role_tiers_protected(&c->roles, h->flags[i]);
                continue;
            }
            uint64_t key = rank_key(c, d, h, i);
            int t = 0;
            while (t < c->n - 1 && key < threshold[t]) t++;
            h->target[i] = (uint8_t)c->tier[t];
        }
    }
}

static void by_rank_assign(const void *conf, const decision *d) {
    const by_rank_conf *c = conf;
    if (!d->heads[0].tier_now && c->over == OVER_SEQUENCE) {
        place_survivors(c, d, d->heads, d->n_heads);
        return;
    }
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        if (h->tier_now) role_tiers_decode(&c->roles, d, h);
        else place_survivors(c, d, h, 1);
    }
}

static void by_rank_count(const void *conf, int n_sink, int n_recent, int n_rest, int *per_tier) {
    const by_rank_conf *c = conf;
    per_tier[c->roles.recent] += n_recent;
    per_tier[c->roles.sink] += n_sink;
    for (int t = 0, begin = 0; t < c->n; t++) {
        int end = share_end(c, t, n_rest);
        per_tier[c->tier[t]] += end - begin;
        begin = end;
    }
}

static int by_rank_moves(const void *conf, uint8_t (*pairs)[2]) { return role_tiers_moves(&((const by_rank_conf *)conf)->roles, pairs); }

static unsigned by_rank_tiers_used(const void *conf) {
    const by_rank_conf *c = conf;
    unsigned used = role_tiers_used(&c->roles);
    for (int t = 0; t < c->n; t++) used |= 1u << c->tier[t];
    return used;
}

const stage tier_by_rank = {
    .kind = STAGE_TIER, .name = "by_rank", .help = "shares of the survivors of each head, or of all, best first",
    .parse = by_rank_parse, .describe = by_rank_describe, .ranks = true, .assign = by_rank_assign, .count = by_rank_count,
    .moves = by_rank_moves, .tiers_used = by_rank_tiers_used};
