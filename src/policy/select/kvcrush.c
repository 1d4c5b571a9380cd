/* KVCrush (arXiv 2503.00022, reference kvcrush.md): a part of a head's free room goes to representatives of what the base selection drops.
 * Positions that are neither protected nor forced form units; a unit's signature has one bit per position and row - KV heads, query heads
 * or their sum - that says whether the row ranks the position high. Units are ordered by the Hamming distance to one anchor, and the
 * representatives are picked along that order. Of M free items of a head, int(representatives * M / unit) units are representatives, at
 * least one where M holds one; the best units by the sum of their scores take the rest. (With `coverage` it is the other way round: the
 * fewest units that hold this share of the head's score are important, and representatives take the rest.) What neither fills - part units,
 * too few candidates - goes to the next best items by score, so the quota is met exactly.
 *
 * In decode the same is done anew with the items that are left: units keep their positions, a head may hold parts of them. */
#include <stdio.h>
#include <string.h>
#include "conf/fields.h"
#include "policy/select/kvcrush_units.h"

static const char *const unit_score_names[] = {"sum", "per_query", NULL};
static const char *const signature_names[] = {"query_head", "head", "head_sum", NULL};
static const char *const bits_names[] = {"top_fraction", "retained", "base", NULL};
static const char *const scope_names[] = {"all", "unimportant", NULL};
static const char *const anchor_names[] = {"mean", "inverse_mean", "random", "zeros", "ones", "alternating", NULL}; /* anchor_kind */
static const char *const anchor_scope_names[] = {"item", "unit", NULL};
static const char *const order_names[] = {"rising", "falling", NULL};
static const char *const pick_names[] = {"linspace", "floor_step", "bucket", NULL}; /* pick_kind */
static const char *const eligible_names[] = {"head", "union", "head0", "base", NULL};
enum { ELIGIBLE_HEAD, ELIGIBLE_UNION, ELIGIBLE_HEAD0, ELIGIBLE_BASE };
static const char *const accounting_names[] = {"inside", "on_top", NULL};
static const char *const control_names[] = {"none", "random", "position", NULL};

static const field kvcrush_fields[] = {
    FIELD_DOUBLE(kvcrush_conf, representatives, 0.25, 0, 1, "share of a head's free room; 0 is the base selection"),
    FIELD_DOUBLE(kvcrush_conf, coverage, 0, 0, 1, "instead: important units hold this share of the score, representatives take the rest"),
    FIELD_INT(kvcrush_conf, unit, 1, 1, 64, "positions that are ordered and kept together"),
    FIELD_ENUM(kvcrush_conf, unit_score, "sum", unit_score_names, "of its items' scores, or of these over the queries that saw each item"),
    FIELD_ENUM(kvcrush_conf, signature, "query_head", signature_names, "rows that give one bit per position"),
    FIELD_ENUM(kvcrush_conf, bits, "top_fraction", bits_names, "1 for the row's best `fraction`, for as many as the head keeps, or would alone"),
    FIELD_DOUBLE(kvcrush_conf, fraction, 0.5, 0, 1, "of the positions in scope"),
    FIELD_ENUM(kvcrush_conf, scope, "all", scope_names, "positions that compete for bits"),
    FIELD_ENUM(kvcrush_conf, anchor, "mean", anchor_names, "vector that distances are taken to"),
    FIELD_ENUM(kvcrush_conf, anchor_scope, "item", anchor_scope_names, "a bit per bit of the signature, or one for a whole unit"),
    FIELD_ENUM(kvcrush_conf, order, "rising", order_names, "of the distance"),
    FIELD_ENUM(kvcrush_conf, pick, "linspace", pick_names, "places along the order"),
    FIELD_ENUM(kvcrush_conf, eligible, "head", eligible_names, "no candidates: units that the head, any head, or head 0 keeps, or the head's base would"),
    FIELD_ENUM(kvcrush_conf, accounting, "inside", accounting_names, "representatives inside the quota or beside it"),
    FIELD_ENUM(kvcrush_conf, control, "none", control_names, "another order instead of the signature's: units at random or by position"),
    FIELD_END};

static err check_decode(const policy *p, const node *at, const kvcrush_conf *c) {
    if (!p->use[STAGE_SCORE].st || !policy_stage_live(p, STAGE_SCORE) || (!p->trigger.slack && !p->trigger.every && !p->trigger.pressure)) return OK;
    if (c->signature == ROWS_QUERY_HEAD && !c->control)
        return NODE_ERR(at, "select kvcrush: signature: query_head needs scores of single query heads, which score %s does not keep in decode: use head or "
                        "head_sum, or remove trigger slack and every", p->use[STAGE_SCORE].st->name);
    const stage *quota = p->use[STAGE_QUOTA].st;
    if (quota && quota->chunks && p->needs.n_tiers > 1)
        return NODE_ERR(at, "select kvcrush: quota %s takes pages of each tier apart in decode, but units lie across tiers: use one tier, another quota, or "
                        "no trigger in decode", quota->name);
    return OK;
}

static err kvcrush_parse(policy *p, const node *at, const node *map, void *conf) {
    kvcrush_conf *c = conf;
    TRY(fields_read(map, kvcrush_fields, c));
    const stage *score = p->use[STAGE_SCORE].st;
    int rows = crush_rows(p, c);
    if (c->signature == ROWS_QUERY_HEAD && !c->control && score && !score->score_query)
        return NODE_ERR(at, "select kvcrush: signature: query_head needs scores of single query heads, which score %s does not have: use head or head_sum",
                        score->name);
    if (c->unit * rows > SIGNATURE_MAX_BITS)
        return NODE_ERR(at, "select kvcrush: units of %d positions with %d rows have more than %d bits", c->unit, rows, SIGNATURE_MAX_BITS);
    if (c->accounting && (p->budget.unit == BUDGET_BYTES || p->budget.unit == BUDGET_PAGES)) {
        char limit[64];
        budget_describe(&p->budget, limit, sizeof limit);
        return NODE_ERR(at, "select kvcrush: accounting: on_top keeps more than the %s: use inside, or a budget in tokens", limit);
    }
    if (c->coverage > 0 && (c->accounting || node_get(map, "representatives")))
        return NODE_ERR(at, "select kvcrush: coverage: %g leaves the rest of the room to representatives, which contradicts %s", c->coverage,
                        c->accounting ? "accounting: on_top" : "a share of `representatives`");
    if (c->unit_score == UNIT_PER_QUERY && !p->score_rows)
        return NODE_ERR(at, "select kvcrush: unit_score: per_query divides sums over queries, which score %s is not: use sum, or score window or column with "
                        "reduce: sum", score ? score->name : "(none)");
    TRY(check_decode(p, at, c));
    p->over_budget = c->accounting;
    if (p->needs.scope == SCOPE_HEAD) p->needs.scope = SCOPE_LAYER;
    if (p->work_words < crush_work_words(p, c)) p->work_words = crush_work_words(p, c);
    return OK;
}

static void kvcrush_describe(const policy *p, const void *conf, char *out, size_t n) {
    const kvcrush_conf *c = conf;
    char share[32];
    snprintf(share, sizeof share, c->coverage > 0 ? "beyond %g" : "%g", c->coverage > 0 ? c->coverage : c->representatives);
    size_t used = (size_t)snprintf(out, n, "%s%s of units of %d%s", share, c->accounting ? " on top" : "", c->unit, c->unit_score ? " per query" : "");
    if (used >= n) return;
    if (c->control) snprintf(out + used, n - used, ", by %s", control_names[c->control]);
    else
        snprintf(out + used, n - used, ", %s bits %s, anchor %s%s, %s %s, eligible %s", signature_names[c->signature], bits_names[c->bits],
                 anchor_names[c->anchor], c->anchor_scope ? " per unit" : "", order_names[c->order], pick_names[c->pick], eligible_names[c->eligible]);
}

/* ---- important units ---- */

static void keep_unit(const crush *x, int head, int unit, int role) {
    const head_items *h = &x->d->heads[head];
    for (int j = x->first[unit]; j < x->first[unit + 1]; j++) {
        int i = crush_item(x, head, j);
        if (i < 0) continue;
        if (h->target[i] == KV_DROP) h->flags[i] |= (uint8_t)role;
        h->target[i] = 0;
    }
}

static uint64_t unit_key(const crush *x, int head, int unit) {
    return topk_key(crush_score(x, head, unit), x->d->p->ties_high ? (uint32_t)unit : ~(uint32_t)unit);
}

/* Key of the n-th best unit of a head: those with at least this key are its n best. */
static uint64_t unit_threshold(const crush *x, int head, int n) {
    if (n > x->n_units) n = x->n_units;
    if (n < 1) return UINT64_MAX;
    for (int u = 0; u < x->n_units; u++) x->d->keys[u] = unit_key(x, head, u);
    return topk_threshold(x->d->keys, x->n_units, n);
}

/* The fewest units that hold this share of the head's score, at most `most`. */
static int covering_units(const crush *x, int head, double share, int most) {
    double all = 0, sum = 0;
    for (int u = 0; u < x->n_units; u++) {
        if (crush_holds(x, head, u)) all += (double)crush_score(x, head, u);
        x->d->keys[u] = unit_key(x, head, u);
    }
    topk_sort(x->d->keys, (uint64_t *)(void *)x->d->tmp, x->n_units);
    if (most > x->n_units) most = x->n_units;
    for (int n = 0; n < most; n++) {
        if (sum >= share * all) return n;
        sum += (double)topk_key_score(x->d->keys[x->n_units - 1 - n]);
    }
    return most;
}

static int representative_units(const kvcrush_conf *c, int room) {
    int units = (int)(c->representatives * room / c->unit);
    if (units < 1) return c->representatives > 0 && room >= c->unit;
    return units;
}

static void share_room(crush *x, int head) {
    const kvcrush_conf *c = x->c;
    int room = crush_room(&x->d->heads[head]);
    if (c->coverage > 0) {
        x->important[head] = covering_units(x, head, c->coverage, room / c->unit);
        x->representative[head] = room > 0 ? room / c->unit - x->important[head] : 0;
        return;
    }
    x->representative[head] = representative_units(c, room);
    x->important[head] = (c->accounting ? room : room - x->representative[head] * c->unit) / c->unit;
}

static void keep_important(crush *x, int head) {
    const head_items *h = &x->d->heads[head];
    share_room(x, head);
    for (int i = 0; i < h->n; i++) h->target[i] = h->flags[i] & (ITEM_PROTECTED | ITEM_FORCED) ? 0 : KV_DROP;
    uint64_t threshold = unit_threshold(x, head, x->important[head]);
    for (int u = 0; u < x->n_units; u++)
        if (unit_key(x, head, u) >= threshold) keep_unit(x, head, u, 0);
}

/* ---- representatives ---- */

static bool candidate(const crush *x, int head, int unit, uint64_t base) {
    if (!crush_holds(x, head, unit) || unit_key(x, head, unit) >= base) return false;
    if (x->c->eligible == ELIGIBLE_HEAD0) return !crush_important(x, 0, unit);
    if (x->c->eligible != ELIGIBLE_UNION) return !crush_important(x, head, unit);
    for (int k = 0; k < x->d->n_heads; k++)
        if (crush_important(x, k, unit)) return false;
    return true;
}

static int best_of_run(const crush *x, int head, const int *run, int n) {
    int best = run[0];
    for (int i = 1; i < n; i++)
        if (crush_score(x, head, run[i]) > crush_score(x, head, best)) best = run[i];
    return best;
}

static void keep_representatives(const crush *x, int head) {
    int m = 0, *among = x->distance; /* which is no longer needed */
    uint64_t base = x->c->eligible == ELIGIBLE_BASE ? unit_threshold(x, head, crush_room(&x->d->heads[head]) / x->c->unit) : UINT64_MAX;
    for (int i = 0; i < x->n_units; i++)
        if (candidate(x, head, x->order[i], base)) among[m++] = x->order[i];
    int r = x->representative[head] < m ? x->representative[head] : m;
    for (int i = 0; i < r; i++) {
        int at = signature_pick((pick_kind)x->c->pick, i, r, m);
        bool bucket = x->c->pick == PICK_BUCKET;
        int u = bucket ? best_of_run(x, head, among + at, signature_pick(PICK_BUCKET, i + 1, r, m) - at) : among[at];
        keep_unit(x, head, u, ITEM_REPRESENTATIVE);
    }
}

static void fill_up(const crush *x, int head) {
    const head_items *h = &x->d->heads[head];
    int want = h->quota + (x->c->accounting ? x->representative[head] * x->c->unit : 0), n = 0;
    for (int i = 0; i < h->n; i++) {
        want -= h->target[i] != KV_DROP;
        if (h->target[i] == KV_DROP) x->d->keys[n++] = topk_item_key(x->d->p, h, i);
    }
    if (want < 1 || n == 0) return;
    uint64_t threshold = topk_threshold(x->d->keys, n, want < n ? want : n);
    for (int i = 0; i < h->n; i++)
        if (h->target[i] == KV_DROP && topk_item_key(x->d->p, h, i) >= threshold) h->target[i] = 0;
}

static void kvcrush_select(const void *conf, const decision *d) {
    const kvcrush_conf *c = conf;
    bool picks = c->representatives > 0 || c->coverage > 0, tight = true; /* tight: no head has room for a choice */
    for (int k = 0; k < d->n_heads; k++) tight &= crush_room(&d->heads[k]) <= 0;
    if (tight || (!picks && c->unit == 1 && c->unit_score == UNIT_SUM)) {
        for (int k = 0; k < d->n_heads; k++) topk_select(d, &d->heads[k]);
        return;
    }
    crush x;
    crush_begin(&x, c, d);
    for (int k = 0; k < d->n_heads; k++) keep_important(&x, k);
    if (picks) {
        crush_order(&x);
        for (int k = 0; k < d->n_heads; k++) keep_representatives(&x, k);
    }
    for (int k = 0; k < d->n_heads; k++) {
        if (crush_room(&d->heads[k]) <= 0) topk_select(d, &d->heads[k]);
        else fill_up(&x, k);
    }
}

/* With coverage, or units that other heads rule out, none are promised. */
static int kvcrush_marked(const void *conf, int n_free) {
    const kvcrush_conf *c = conf;
    if (c->eligible != ELIGIBLE_HEAD || c->coverage > 0) return 0;
    int n = (int)(c->representatives * n_free) - c->unit;
    return n > 0 ? n : 0;
}

const stage select_kvcrush = {
    .kind = STAGE_SELECT, .name = "kvcrush", .help = "the best, and representatives of the rest by binary signatures (KVCrush)",
    .live = true, .parse = kvcrush_parse, .describe = kvcrush_describe, .budgeted = true, .ranks = true, .marks = ITEM_REPRESENTATIVE,
    .select = kvcrush_select, .marked = kvcrush_marked};
