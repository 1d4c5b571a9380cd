/* One decision of a plug-in: the items as its interface shows them, the call, and whether the answer can be. After a failure the
 * stage answers something harmless, and the decision as a whole ends in an error. */
#include <math.h>
#include <string.h>
#include "base/mem.h"
#include "policy/plugin.h"

static plugin *plugin_of(const void *conf) { return ((const plugin_conf *)conf)->pl; }

static bool prepare(plugin *pl, const decision *d) {
    size_t items = 0;
    if (!pl->stage) plugin_fail(pl, "it was not opened before the first decision (policy_load)");
    if (pl->failed) return false;
    for (int k = 0; k < d->n_heads; k++) items += (size_t)d->heads[k].n;
    if (mem_reserve(MEM_POLICY, (size_t)d->n_heads * sizeof *pl->heads, &pl->heads, &pl->heads_cap) ||
        mem_reserve(MEM_POLICY, items, &pl->mark, &pl->mark_cap)) {
        plugin_fail(pl, "%s", err_text());
        return false;
    }
    memset(pl->mark, 0, items);
    uint8_t *mark = pl->mark;
    for (int k = 0; k < d->n_heads; k++) {
        const head_items *h = &d->heads[k];
        pl->heads[k] = (kvlab_head){.layer = h->layer, .head = h->head, .n = h->n, .pos = h->pos, .tier_now = h->tier_now, .flags = h->flags,
                                    .score = h->score, .quota = h->quota, .target = h->target, .mark = mark};
        mark += h->n;
    }
    return true;
}

static bool call(plugin *pl, const decision *d) {
    const float *signal[KVLAB_MAX_SIGNALS];
    for (int i = 0; i < pl->needs.n_signals; i++) signal[i] = d->signal ? d->signal[pl->signal[i]] : NULL;
    kvlab_decision c = {.seed = d->seed, .n_tokens = d->n_tokens, .kept = d->heads[0].kept, .prefill = d->heads[0].tier_now == NULL,
                        .first_new = d->first_new, .n_tiers = d->p->needs.n_tiers, .tier_item_bytes = d->p->item_bytes, .n_heads = d->n_heads,
                        .heads = pl->heads, .signals = d->signal ? signal : NULL};
    char why[KVLAB_WHY_BYTES] = "";
    if (pl->stage->run(pl->state, &c, why) == 0) return true;
    why[sizeof why - 1] = 0;
    plugin_fail(pl, "%s", *why ? why : "it failed without a reason");
    return false;
}

static int n_protected(const head_items *h) {
    int n = 0;
    for (int i = 0; i < h->n; i++) n += (h->flags[i] & ITEM_PROTECTED) != 0;
    return n;
}

/* ---- score ---- */

static void take_scores(plugin *pl, const decision *d) {
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        for (int i = 0; i < h->n; i++) {
            if (isnan(h->score[i])) {
                plugin_fail(pl, "the score of position %u in layer %d, head %d is not a number, or was not written", h->pos[i], h->layer, h->head);
                return;
            }
            if (pl->heads[k].mark[i]) h->flags[i] |= ITEM_FORCED;
        }
    }
}

static void plugin_score(const void *conf, const decision *d) {
    plugin *pl = plugin_of(conf);
    for (int k = 0; k < d->n_heads; k++)
        for (int i = 0; i < d->heads[k].n; i++) d->heads[k].score[i] = NAN;
    if (prepare(pl, d) && call(pl, d)) take_scores(pl, d);
    if (!pl->failed) return;
    for (int k = 0; k < d->n_heads; k++) memset(d->heads[k].score, 0, sizeof(float) * (size_t)d->heads[k].n);
}

/* ---- quota ---- */

static void take_quotas(plugin *pl, const decision *d) {
    int64_t given = 0, allowed = 0;
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        int quota = pl->heads[k].quota, least = n_protected(h);
        if (quota < 0 || quota > h->n) {
            plugin_fail(pl, "a quota of %d for layer %d, head %d, which has %d items", quota, h->layer, h->head, h->n);
            return;
        }
        if (quota < least) {
            plugin_fail(pl, "a quota of %d for layer %d, head %d, which has %d protected items", quota, h->layer, h->head, least);
            return;
        }
        h->quota = quota;
        given += quota;
        allowed += h->kept < h->n ? h->kept : h->n;
    }
    if (given > allowed) plugin_fail(pl, "quotas of %lld items together, the budget holds %lld", (long long)given, (long long)allowed);
}

static void plugin_allot(const void *conf, const decision *d) {
    plugin *pl = plugin_of(conf);
    for (int k = 0; k < d->n_heads; k++) d->heads[k].quota = -1;
    if (prepare(pl, d) && call(pl, d)) take_quotas(pl, d);
    for (int k = 0; k < d->n_heads && pl->failed; k++) d->heads[k].quota = d->heads[k].kept < d->heads[k].n ? d->heads[k].kept : d->heads[k].n;
}

/* ---- select ---- */

enum { UNDECIDED = 254 };

static bool take_selection(plugin *pl, const head_items *h, const uint8_t *mark) {
    int kept = 0;
    for (int i = 0; i < h->n; i++) {
        if (h->target[i] != 0 && h->target[i] != KV_DROP) {
            plugin_fail(pl, "target %d for position %u in layer %d, head %d: 0 (stays) and 255 (goes) are answers%s", h->target[i], h->pos[i],
                        h->layer, h->head, h->target[i] == UNDECIDED ? "; it was not written" : "");
            return false;
        }
        if (h->target[i] == KV_DROP && (h->flags[i] & ITEM_PROTECTED)) {
            plugin_fail(pl, "the protected position %u in layer %d, head %d is dropped", h->pos[i], h->layer, h->head);
            return false;
        }
        kept += h->target[i] == 0;
        if (mark[i] && h->target[i] == 0) h->flags[i] |= ITEM_REPRESENTATIVE;
    }
    if (kept <= h->quota) return true;
    plugin_fail(pl, "%d items stay in layer %d, head %d, whose quota is %d", kept, h->layer, h->head, h->quota);
    return false;
}

static void plugin_select(const void *conf, const decision *d) {
    plugin *pl = plugin_of(conf);
    for (int k = 0; k < d->n_heads; k++) memset(d->heads[k].target, UNDECIDED, (size_t)d->heads[k].n);
    if (prepare(pl, d) && call(pl, d))
        for (int k = 0; k < d->n_heads && take_selection(pl, &d->heads[k], pl->heads[k].mark); k++) continue;
    for (int k = 0; k < d->n_heads && pl->failed; k++) memset(d->heads[k].target, 0, (size_t)d->heads[k].n);
}

/* ---- tier ---- */

static void plugin_count(const void *conf, int n_sink, int n_recent, int n_rest, int *per_tier) {
    plugin *pl = plugin_of(conf);
    int32_t count[KVLAB_MAX_TIERS] = {0};
    int64_t sum = 0;
    char why[KVLAB_WHY_BYTES] = "";
    bool asked = pl->stage && pl->stage->count && !pl->failed;
    if (asked && pl->stage->count(pl->state, n_sink, n_recent, n_rest, count, why)) {
        why[sizeof why - 1] = 0;
        plugin_fail(pl, "%s", *why ? why : "its `count` failed without a reason");
    }
    bool fine = true;
    for (int t = 0; t < KVLAB_MAX_TIERS; t++) {
        fine &= count[t] >= 0;
        sum += count[t];
    }
    int all = n_sink + n_recent + n_rest;
    if (asked && !pl->failed && (!fine || sum != all)) plugin_fail(pl, "its `count` places %lld of %d items", (long long)sum, all);
    if (!asked || pl->failed) { /* the dearest answer */
        per_tier[0] += all;
        return;
    }
    for (int t = 0; t < KVLAB_MAX_TIERS; t++) per_tier[t] += count[t];
}

/* Whether item i may go where it is sent: a tier that exists, and in decode one it can be re-quantised to. */
static bool may_go(plugin *pl, const decision *d, const head_items *h, int i) {
    const policy_needs *needs = &d->p->needs;
    int to = h->target[i], now = h->tier_now ? h->tier_now[i] : 0;
    if (to == KV_DROP) return true;
    if (to >= needs->n_tiers) {
        plugin_fail(pl, "tier %d for position %u in layer %d, head %d: there are %d tiers", to, h->pos[i], h->layer, h->head, needs->n_tiers);
        return false;
    }
    if (!h->tier_now || to == now || kv_format_can_move(needs->tiers[now], needs->tiers[to])) return true;
    plugin_fail(pl, "position %u in layer %d, head %d would move from %s to %s: moves only lower precision", h->pos[i], h->layer, h->head,
                d->p->tier_names[now], d->p->tier_names[to]);
    return false;
}

static bool take_tiers(plugin *pl, const decision *d, const head_items *h, const uint8_t *before) {
    for (int i = 0; i < h->n; i++) {
        if ((h->target[i] == KV_DROP) != (before[i] != 0)) {
            plugin_fail(pl, "position %u in layer %d, head %d is %s by select and %s here", h->pos[i], h->layer, h->head,
                        before[i] ? "dropped" : "kept", before[i] ? "kept" : "dropped");
            return false;
        }
        if (!may_go(pl, d, h, i)) return false;
    }
    return true;
}

/* A byte budget was solved with `count`. */
static bool agrees_with_count(plugin *pl, const decision *d, const head_items *h) {
    int want[KV_MAX_TIERS] = {0}, got[KV_MAX_TIERS] = {0}, n_sink = 0, n_recent = 0, n_rest = 0;
    if (!budget_needs_layouts(d->p) || h->tier_now) return true;
    for (int i = 0; i < h->n; i++) {
        if (h->target[i] == KV_DROP) continue;
        got[h->target[i]]++;
        if (h->flags[i] & ITEM_RECENT) n_recent++;
        else if (h->flags[i] & ITEM_SINK) n_sink++;
        else n_rest++;
    }
    plugin_count(&(plugin_conf){pl}, n_sink, n_recent, n_rest, want);
    for (int t = 0; t < d->p->needs.n_tiers && !pl->failed; t++)
        if (got[t] != want[t])
            plugin_fail(pl, "%d items in %s in layer %d, head %d, where its `count` says %d", got[t], d->p->tier_names[t], h->layer, h->head, want[t]);
    return !pl->failed;
}

static void plugin_assign(const void *conf, const decision *d) {
    plugin *pl = plugin_of(conf);
    if (!prepare(pl, d)) return;
    uint8_t *before = pl->mark; /* what select said: the plug-in marks nothing here */
    for (int k = 0; k < d->n_heads; k++) {
        for (int i = 0; i < d->heads[k].n; i++) pl->heads[k].mark[i] = d->heads[k].target[i] == KV_DROP;
        pl->heads[k].mark = NULL;
    }
    bool fine = call(pl, d);
    for (int k = 0; k < d->n_heads && fine; k++) {
        fine = take_tiers(pl, d, &d->heads[k], before) && agrees_with_count(pl, d, &d->heads[k]);
        before += d->heads[k].n;
    }
    for (int k = 0; k < d->n_heads && pl->failed; k++) memset(d->heads[k].target, 0, (size_t)d->heads[k].n);
}

/* ---- decide ---- */

static void take_decision(plugin *pl, const decision *d) {
    int64_t kept = 0, allowed = 0;
    for (int k = 0; k < d->n_heads; k++) {
        const head_items *h = &d->heads[k];
        for (int i = 0; i < h->n; i++) {
            if (h->target[i] == KV_DROP && (h->flags[i] & ITEM_PROTECTED)) {
                plugin_fail(pl, "the protected position %u in layer %d, head %d is dropped", h->pos[i], h->layer, h->head);
                return;
            }
            if (!may_go(pl, d, h, i)) return;
            kept += h->target[i] != KV_DROP;
        }
        if (!agrees_with_count(pl, d, h)) return;
        allowed += h->kept < h->n ? h->kept : h->n;
    }
    if (d->p->budget.unit && kept > allowed) plugin_fail(pl, "%lld items stay, the budget holds %lld", (long long)kept, (long long)allowed);
}

static void plugin_decide(const void *conf, const decision *d) {
    plugin *pl = plugin_of(conf);
    for (int k = 0; k < d->n_heads; k++) {
        const head_items *h = &d->heads[k];
        if (h->tier_now) memcpy(h->target, h->tier_now, (size_t)h->n);
        else memset(h->target, 0, (size_t)h->n);
    }
    if (prepare(pl, d) && call(pl, d)) take_decision(pl, d);
    for (int k = 0; k < d->n_heads && pl->failed; k++) memset(d->heads[k].target, 0, (size_t)d->heads[k].n);
}

/* Every tier may follow every dearer one: what the plug-in does with that is checked move by move. */
static int plugin_moves(const void *conf, uint8_t (*pairs)[2]) {
    const plugin *pl = plugin_of(conf);
    if (!pl->row.live) {
        pairs[0][0] = pairs[0][1] = 0;
        return 1;
    }
    for (int t = 1; t < pl->n_tiers; t++) pairs[t - 1][0] = 0, pairs[t - 1][1] = (uint8_t)t;
    return pl->n_tiers - 1;
}

static unsigned plugin_tiers_used(const void *conf) { return (1u << plugin_of(conf)->n_tiers) - 1; }

/* ---- the rows ---- */

static err parse_score(policy *p, const node *at, const node *map, void *conf);
static err parse_quota(policy *p, const node *at, const node *map, void *conf);
static err parse_select(policy *p, const node *at, const node *map, void *conf);
static err parse_tier(policy *p, const node *at, const node *map, void *conf);
static err parse_decide(policy *p, const node *at, const node *map, void *conf);

/* The file's name without what could break a line of text. */
static void plugin_describe(const policy *p, const void *conf, char *out, size_t n) {
    const char *path = plugin_of(conf)->path, *slash = strrchr(path, '/');
    size_t i = 0;
    for (const char *c = slash ? slash + 1 : path; *c && i + 1 < n; c++, i++)
        out[i] = *c <= ' ' || *c == '"' || *c == '\\' || *c > '~' ? '_' : *c;
    out[i] = 0;
}

const stage score_plugin = {.kind = STAGE_SCORE, .name = "plugin", .help = "scores from a shared object (kvlab_plugin.h)", .parse = parse_score,
                            .describe = plugin_describe, .score = plugin_score};
const stage quota_plugin = {.kind = STAGE_QUOTA, .name = "plugin", .help = "quotas from a shared object", .parse = parse_quota,
                            .describe = plugin_describe, .allot = plugin_allot};
const stage select_plugin = {.kind = STAGE_SELECT, .name = "plugin", .help = "who stays, from a shared object", .parse = parse_select,
                             .describe = plugin_describe, .select = plugin_select};
const stage tier_plugin = {.kind = STAGE_TIER, .name = "plugin", .help = "tiers from a shared object", .parse = parse_tier,
                           .describe = plugin_describe, .assign = plugin_assign, .count = plugin_count, .moves = plugin_moves,
                           .tiers_used = plugin_tiers_used};
const stage decide_plugin = {.kind = STAGE_DECIDE, .name = "plugin", .help = "who stays and where, from a shared object", .parse = parse_decide,
                             .describe = plugin_describe, .decide = plugin_decide, .count = plugin_count, .moves = plugin_moves,
                             .tiers_used = plugin_tiers_used};

static err parse_score(policy *p, const node *at, const node *map, void *conf) { return plugin_parse(p, STAGE_SCORE, &score_plugin, at, map, conf); }
static err parse_quota(policy *p, const node *at, const node *map, void *conf) { return plugin_parse(p, STAGE_QUOTA, &quota_plugin, at, map, conf); }
static err parse_select(policy *p, const node *at, const node *map, void *conf) { return plugin_parse(p, STAGE_SELECT, &select_plugin, at, map, conf); }
static err parse_tier(policy *p, const node *at, const node *map, void *conf) { return plugin_parse(p, STAGE_TIER, &tier_plugin, at, map, conf); }
static err parse_decide(policy *p, const node *at, const node *map, void *conf) { return plugin_parse(p, STAGE_DECIDE, &decide_plugin, at, map, conf); }
