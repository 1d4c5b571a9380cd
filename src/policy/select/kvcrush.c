/* KVCrush (arXiv 2503.00022, reference kvcrush.md): a part of a head's free room goes to representatives of what the base selection drops.
 * Positions that are neither protected nor forced form units; a unit's signature has one bit per position and row - KV heads, query heads
 * or their sum - that says whether the row ranks the position high. Units are ordered by the Hamming distance to one anchor, and the
 * representatives are picked along that order. Of M free items of a head, int(representatives * M / unit) units are representatives, at
 * least one where M holds one; the best units by the sum of their scores take the rest. What neither fills - part units, too few
 * candidates - goes to the next best items by score, so the quota is met exactly. */
#include <stdio.h>
#include <string.h>
#include "base/rng.h"
#include "conf/fields.h"
#include "policy/signature.h"
#include "policy/topk.h"

typedef struct kvcrush_conf {
    double representatives, fraction;
    int unit, signature, bits, scope, anchor, anchor_scope, order, pick, eligible, accounting, control;
} kvcrush_conf;
STAGE_CONF_FITS(kvcrush_conf);

static const char *const signature_names[] = {"query_head", "head", "head_sum", NULL};
enum { ROWS_QUERY_HEAD, ROWS_HEAD, ROWS_HEAD_SUM };
static const char *const bits_names[] = {"top_fraction", "retained", NULL};
enum { BITS_TOP_FRACTION, BITS_RETAINED };
static const char *const scope_names[] = {"all", "unimportant", NULL};
static const char *const anchor_names[] = {"mean", "inverse_mean", "random", "zeros", "ones", "alternating", NULL}; /* anchor_kind */
static const char *const anchor_scope_names[] = {"item", "unit", NULL};
static const char *const order_names[] = {"rising", "falling", NULL};
static const char *const pick_names[] = {"linspace", "floor_step", "bucket", NULL}; /* pick_kind */
static const char *const eligible_names[] = {"head", "union", "head0", NULL};
enum { ELIGIBLE_HEAD, ELIGIBLE_UNION, ELIGIBLE_HEAD0 };
static const char *const accounting_names[] = {"inside", "on_top", NULL};
static const char *const control_names[] = {"none", "random", "position", NULL};
enum { CONTROL_NONE, CONTROL_RANDOM, CONTROL_POSITION };

static const field kvcrush_fields[] = {
    FIELD_DOUBLE(kvcrush_conf, representatives, 0.25, 0, 1, "share of a head's free room; 0 is the base selection"),
    FIELD_INT(kvcrush_conf, unit, 1, 1, 64, "positions that are ordered and kept together"),
    FIELD_ENUM(kvcrush_conf, signature, "query_head", signature_names, "rows that give one bit per position"),
    FIELD_ENUM(kvcrush_conf, bits, "top_fraction", bits_names, "1 for the row's best `fraction`, or for as many as the head keeps"),
    FIELD_DOUBLE(kvcrush_conf, fraction, 0.5, 0, 1, "of the positions in scope"),
    FIELD_ENUM(kvcrush_conf, scope, "all", scope_names, "positions that compete for bits"),
    FIELD_ENUM(kvcrush_conf, anchor, "mean", anchor_names, "vector that distances are taken to"),
    FIELD_ENUM(kvcrush_conf, anchor_scope, "item", anchor_scope_names, "a bit per bit of the signature, or one for a whole unit"),
    FIELD_ENUM(kvcrush_conf, order, "rising", order_names, "of the distance"),
    FIELD_ENUM(kvcrush_conf, pick, "linspace", pick_names, "places along the order"),
    FIELD_ENUM(kvcrush_conf, eligible, "head", eligible_names, "units that the head, any head, or head 0 keeps are no candidates"),
    FIELD_ENUM(kvcrush_conf, accounting, "inside", accounting_names, "representatives inside the quota or beside it"),
    FIELD_ENUM(kvcrush_conf, control, "none", control_names, "another order instead of the signature's: units at random or by position"),
    FIELD_END};

static int n_rows(const policy *p, const kvcrush_conf *c) {
    return c->signature == ROWS_QUERY_HEAD ? p->shape.n_heads : c->signature == ROWS_HEAD ? p->shape.n_kv : 1;
}

static err kvcrush_parse(policy *p, const node *at, const node *map, void *conf) {
    kvcrush_conf *c = conf;
    TRY(fields_read(map, kvcrush_fields, c));
    const stage *score = p->use[STAGE_SCORE].st;
    int rows = n_rows(p, c);
    if (c->signature == ROWS_QUERY_HEAD && !c->control && score && !score->score_query)
        return NODE_ERR(at, "select kvcrush: signature: query_head needs scores of single query heads, which score %s does not have: use head or head_sum",
                        score->name);
    if (c->unit * rows > SIGNATURE_MAX_BITS)
        return NODE_ERR(at, "select kvcrush: units of %d positions with %d rows have more than %d bits", c->unit, rows, SIGNATURE_MAX_BITS);
    if (c->accounting && p->budget.unit == BUDGET_BYTES)
        return NODE_ERR(at, "select kvcrush: accounting: on_top keeps more than the budget of %g of the bytes: use inside, or a budget in tokens", p->budget.amount);
    if (p->needs.scope == SCOPE_HEAD) p->needs.scope = SCOPE_LAYER;
    if (p->work_words < rows + 3) p->work_words = rows + 3;
    return OK;
}

static void kvcrush_describe(const policy *p, const void *conf, char *out, size_t n) {
    const kvcrush_conf *c = conf;
    size_t used = (size_t)snprintf(out, n, "%g%s of units of %d", c->representatives, c->accounting ? " on top" : "", c->unit);
    if (used >= n) return;
    if (c->control) snprintf(out + used, n - used, ", by %s", control_names[c->control]);
    else
        snprintf(out + used, n - used, ", %s bits %s, anchor %s%s, %s %s, eligible %s", signature_names[c->signature], bits_names[c->bits],
                 anchor_names[c->anchor], c->anchor_scope ? " per unit" : "", order_names[c->order], pick_names[c->pick], eligible_names[c->eligible]);
}

/* One layer on its way through the stage; arrays lie in the decision's scratch. */
typedef struct crush {
    const kvcrush_conf *c;
    const decision *d;
    int n, n_mid, n_units, rows;
    int *mid;               /* [n_mid] items that no head protects or forces, by position */
    int *distance, *order;  /* [n_units] */
    float *row;             /* [n] scores of one row */
    signatures sig;
} crush;

static crush begin(const kvcrush_conf *c, const decision *d) {
    crush x = {.c = c, .d = d, .n = d->heads[0].n, .rows = n_rows(d->p, c)};
    x.sig.bits = d->work;
    x.mid = (int *)(d->work + (size_t)x.rows * (size_t)x.n);
    x.distance = x.mid + x.n;
    x.order = x.distance + x.n;
    x.row = (float *)(x.order + x.n);
    for (int i = 0; i < x.n; i++) {
        int kept = 0;
        for (int k = 0; k < d->n_heads; k++) kept |= d->heads[k].flags[i] & (ITEM_PROTECTED | ITEM_FORCED);
        if (!kept) x.mid[x.n_mid++] = i;
    }
    x.n_units = (x.n_mid + c->unit - 1) / c->unit;
    return x;
}

static int unit_end(const crush *x, int u) { return (u + 1) * x->c->unit < x->n_mid ? (u + 1) * x->c->unit : x->n_mid; }

static float unit_score(const crush *x, const head_items *h, int u) {
    float sum = 0;
    for (int j = u * x->c->unit; j < unit_end(x, u); j++) sum += h->score[x->mid[j]];
    return sum;
}

/* Kept for its score; representatives of this decision do not count, so heads may be served in any order. */
static bool unit_important(const crush *x, const head_items *h, int u) {
    int first = x->mid[u * x->c->unit];
    return h->target[first] != KV_DROP && !(h->flags[first] & ITEM_REPRESENTATIVE);
}

static void keep_unit(const crush *x, head_items *h, int u, int role) {
    for (int j = u * x->c->unit; j < unit_end(x, u); j++) {
        if (h->target[x->mid[j]] == KV_DROP) h->flags[x->mid[j]] |= (uint8_t)role;
        h->target[x->mid[j]] = 0;
    }
}

static int free_room(const head_items *h) {
    int room = h->quota;
    for (int i = 0; i < h->n; i++) room -= (h->flags[i] & (ITEM_PROTECTED | ITEM_FORCED)) != 0;
    return room;
}

static int representative_units(const kvcrush_conf *c, int room) {
    int units = (int)(c->representatives * room / c->unit);
    if (units < 1) return c->representatives > 0 && room >= c->unit;
    return units;
}

/* Items of the important set, before part units are filled up. */
static int important_items(const kvcrush_conf *c, int room) { return c->accounting ? room : room - representative_units(c, room) * c->unit; }

static void keep_important(const crush *x, head_items *h) {
    int room = free_room(h), units = important_items(x->c, room) / x->c->unit;
    for (int i = 0; i < h->n; i++) h->target[i] = h->flags[i] & (ITEM_PROTECTED | ITEM_FORCED) ? 0 : KV_DROP;
    if (units > x->n_units) units = x->n_units;
    if (units < 1) return;
    for (int u = 0; u < x->n_units; u++) x->d->keys[u] = topk_key(unit_score(x, h, u), x->d->p->ties_high ? (uint32_t)u : ~(uint32_t)u);
    uint64_t threshold = topk_threshold(x->d->keys, x->n_units, units);
    for (int u = 0; u < x->n_units; u++)
        if (topk_key(unit_score(x, h, u), x->d->p->ties_high ? (uint32_t)u : ~(uint32_t)u) >= threshold) keep_unit(x, h, u, 0);
}

/* ---- signatures ---- */

static const float *row_scores(const crush *x, int r) {
    const decision *d = x->d;
    int group = d->p->shape.n_heads / d->p->shape.n_kv;
    if (x->c->signature == ROWS_HEAD) return d->heads[r].score;
    if (x->c->signature == ROWS_QUERY_HEAD) {
        const stage_use *score = &d->p->use[STAGE_SCORE];
        score->st->score_query(score->conf, d, &d->heads[r / group], r % group, x->row);
        return x->row;
    }
    for (int i = 0; i < x->n; i++) {
        x->row[i] = 0;
        for (int k = 0; k < d->n_heads; k++) x->row[i] += d->heads[k].score[i];
    }
    return x->row;
}

static bool in_scope(const crush *x, int i) {
    if (!x->c->scope) return true;
    for (int k = 0; k < x->d->n_heads; k++)
        if (x->d->heads[k].target[i] != KV_DROP) return false;
    return true;
}

/* Ones of a row: its best `fraction`, or as many as its KV head finds important (the heads' mean where they are summed). */
static int row_ones(const crush *x, int r, int n_scope) {
    const decision *d = x->d;
    if (x->c->bits == BITS_TOP_FRACTION) return (int)(x->c->fraction * n_scope);
    int first = 0, n = d->n_heads, sum = 0;
    if (x->c->signature != ROWS_HEAD_SUM) first = x->c->signature == ROWS_HEAD ? r : r / (d->p->shape.n_heads / d->p->shape.n_kv), n = 1;
    for (int k = first; k < first + n; k++) sum += important_items(x->c, free_room(&d->heads[k]));
    return sum / n < n_scope ? sum / n : n_scope;
}

static void sign_units(crush *x) {
    x->sig.n_units = x->n_units;
    x->sig.n_bits = x->c->unit * x->rows;
    memset(x->sig.bits, 0, (size_t)x->n_units * (size_t)signature_words(x->sig.n_bits) * sizeof *x->sig.bits);
    for (int r = 0; r < x->rows; r++) {
        const float *score = row_scores(x, r);
        int n = 0;
        for (int j = 0; j < x->n_mid; j++)
            if (in_scope(x, x->mid[j])) x->d->keys[n++] = topk_key(score[x->mid[j]], ~(uint32_t)j);
        int ones = row_ones(x, r, n);
        if (ones < 1) continue;
        uint64_t threshold = topk_threshold(x->d->keys, n, ones);
        for (int j = 0; j < x->n_mid; j++)
            if (in_scope(x, x->mid[j]) && topk_key(score[x->mid[j]], ~(uint32_t)j) >= threshold)
                signature_set(&x->sig, j / x->c->unit, j % x->c->unit * x->rows + r);
    }
}

/* A stream of random numbers of its own for each sequence, layer and time of decision. */
static uint64_t stream_of(const decision *d) { return (uint64_t)0x6b766372 << 32 ^ (uint64_t)d->heads[0].layer << 40 ^ (uint64_t)d->n_tokens; }

static void order_units(crush *x) {
    const decision *d = x->d;
    if (x->c->control == CONTROL_NONE) {
        sign_units(x);
        (x->c->anchor_scope ? signature_distances_per_unit : signature_distances)(&x->sig, (anchor_kind)x->c->anchor, d->seed, stream_of(d), x->distance);
        signature_order(x->distance, x->n_units, x->c->order, x->order);
        return;
    }
    for (int u = 0; u < x->n_units; u++) x->order[u] = u;
    if (x->c->control == CONTROL_POSITION) return;
    rng r = rng_make(d->seed, stream_of(d));
    for (int u = x->n_units - 1; u > 0; u--) {
        int other = (int)rng_below(&r, (uint32_t)u + 1), held = x->order[u];
        x->order[u] = x->order[other];
        x->order[other] = held;
    }
}

/* ---- representatives ---- */

static bool candidate(const crush *x, const head_items *h, int u) {
    if (x->c->eligible == ELIGIBLE_HEAD0) h = &x->d->heads[0];
    if (x->c->eligible != ELIGIBLE_UNION) return !unit_important(x, h, u);
    for (int k = 0; k < x->d->n_heads; k++)
        if (unit_important(x, &x->d->heads[k], u)) return false;
    return true;
}

static int best_of_run(const crush *x, const head_items *h, const int *run, int n) {
    int best = run[0];
    for (int i = 1; i < n; i++)
        if (unit_score(x, h, run[i]) > unit_score(x, h, best)) best = run[i];
    return best;
}

static void keep_representatives(const crush *x, head_items *h, const int *among, int m) {
    int r = representative_units(x->c, free_room(h));
    if (r > m) r = m;
    for (int i = 0; i < r; i++) {
        int at = signature_pick((pick_kind)x->c->pick, i, r, m);
        bool bucket = x->c->pick == PICK_BUCKET;
        int u = bucket ? best_of_run(x, h, among + at, signature_pick(PICK_BUCKET, i + 1, r, m) - at) : among[at];
        keep_unit(x, h, u, ITEM_REPRESENTATIVE);
    }
}

static void fill_up(const crush *x, head_items *h) {
    int want = h->quota + (x->c->accounting ? representative_units(x->c, free_room(h)) * x->c->unit : 0), n = 0;
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
    bool base = c->representatives == 0 && c->unit == 1, tight = true; /* tight: no head has room for a choice */
    for (int k = 0; k < d->n_heads; k++) tight &= free_room(&d->heads[k]) <= 0 || d->heads[k].quota >= d->heads[k].n;
    if (base || tight) {
        for (int k = 0; k < d->n_heads; k++) topk_select(d, &d->heads[k]);
        return;
    }
    crush x = begin(c, d);
    for (int k = 0; k < d->n_heads; k++) keep_important(&x, &d->heads[k]);
    if (c->representatives > 0) {
        order_units(&x);
        for (int k = 0; k < d->n_heads; k++) {
            int m = 0;
            for (int i = 0; i < x.n_units; i++) /* along the order, into an array that is no longer needed: m never passes i */
                if (candidate(&x, &d->heads[k], x.order[i])) x.distance[m++] = x.order[i];
            keep_representatives(&x, &d->heads[k], x.distance, m);
        }
    }
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        if (free_room(h) <= 0 || h->quota >= h->n) topk_select(d, h);
        else fill_up(&x, h);
    }
}

const stage select_kvcrush = {
    .kind = STAGE_SELECT, .name = "kvcrush", .help = "the best, and representatives of the rest by binary signatures (KVCrush)",
    .parse = kvcrush_parse, .describe = kvcrush_describe, .budgeted = true, .ranks = true, .marks = ITEM_REPRESENTATIVE, .select = kvcrush_select};
