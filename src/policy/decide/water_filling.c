/* RDKV-lite: one budget of bytes over all items, layers and heads of a prompt, each dropped or stored in the tier that saves most output error per
 * byte. Our definition after the idea of RDKV (arXiv 2605.08317), not a reproduction.
 *
 *   a = mean p, m = mean p^2 of an item over the last rows and the group; s = mean squared output change if it went (output_change)
 *   kappa  = sum m / sum a^2                  R = sum mean(p^2 |v - o|^2) / sum m              c = mean |q|^2 R / d^2
 *   e(b)   = kappa (mean |v - v^|^2 + c mean |k - k^|^2)    e(drop) = sum s / sum a^2           over a head's unprotected items
 *   D(b)   = a^2 e(b), or with weight square_mass m e(b) with kappa 1 and sum m under e(drop)
 *   D(drop) = the same of e(drop), or with drop item the item's own s
 *
 * A head with no attention to its unprotected items drops them all. */
#include <stdio.h>
#include <string.h>
#include "cache/snapshot.h"
#include "conf/fields.h"
#include "policy/decide/fill.h"
#include "policy/stage.h"

typedef struct water_conf {
    int rows, weight, key_term, first; /* menu: tiers first .. n_tiers - 1 */
    int mass, square, change, spread, query, key[KV_MAX_TIERS], value[KV_MAX_TIERS];
    bool per_layer, drop_item;
} water_conf;
STAGE_CONF_FITS(water_conf);

typedef struct water_options { int rows, weight, key_term, scope, drop; } water_options;
static const char *const weight_names[] = {"mass_squared", "square_mass", NULL};
static const char *const key_names[] = {"isotropic", "none", NULL};
static const char *const scope_names[] = {"sequence", "layer", NULL};
static const char *const drop_names[] = {"head", "item", NULL};
enum { WEIGHT_MASS_SQUARED, WEIGHT_SQUARE_MASS };

static err request(policy *p, const node *at, water_conf *c) {
    int rows = c->rows;
    TRY(policy_request_signal(p, at, (signal_request){.kind = SIGNAL_WINDOW_MASS, .rows = rows, .power = 1}, &c->mass));
    TRY(policy_request_signal(p, at, (signal_request){.kind = SIGNAL_WINDOW_MASS, .rows = rows, .power = 2}, &c->square));
    TRY(policy_request_signal(p, at, (signal_request){.kind = SIGNAL_WINDOW_CHANGE, .rows = rows}, &c->change));
    if (c->key_term == 0) {
        TRY(policy_request_signal(p, at, (signal_request){.kind = SIGNAL_WINDOW_SPREAD, .rows = rows}, &c->spread));
        TRY(policy_request_signal(p, at, (signal_request){.kind = SIGNAL_QUERY_NORM, .rows = rows}, &c->query));
    }
    for (int t = c->first; t < p->needs.n_tiers; t++) {
        if (c->key_term == 0) TRY(policy_request_signal(p, at, (signal_request){.kind = SIGNAL_KEY_ERROR, .tier = t}, &c->key[t]));
        TRY(policy_request_signal(p, at, (signal_request){.kind = SIGNAL_VALUE_ERROR, .tier = t}, &c->value[t]));
    }
    return OK;
}

static err water_parse(policy *p, const node *at, const node *map, void *conf) {
    static const field fields[] = {
        FIELD_INT(water_options, rows, 64, 1, SNAPSHOT_TAIL_ROWS, "last queries of the prompt that are looked at"),
        FIELD_ENUM(water_options, weight, "mass_squared", weight_names, "distortion grows with the square of the mean attention, or with the mean square"),
        FIELD_ENUM(water_options, key_term, "isotropic", key_names, "errors of keys count through the mean query, or not"),
        FIELD_ENUM(water_options, drop, "head", drop_names, "what an item costs that goes: by its weight, from a mean of the head, or its own output change"),
        FIELD_ENUM(water_options, scope, "sequence", scope_names, "one budget for all layers, or an equal one for each"),
        FIELD_END};
    water_conf *c = conf;
    water_options o;
    TRY(fields_read(map, fields, &o));
    c->rows = o.rows, c->weight = o.weight, c->key_term = o.key_term, c->per_layer = o.scope == 1, c->drop_item = o.drop == 1;
    c->first = p->needs.n_tiers > 1 && kv_format_is_float(p->needs.tiers[0]); /* a float hot tier holds the recent tokens only */
    if (p->needs.n_tiers - c->first < 1) return NODE_ERR(at, "decide water_filling needs a tier for what stays");
    if (p->budget.unit != BUDGET_BYTES) return NODE_ERR(at, "decide water_filling spends bytes: give budget: {bytes: x}");
    if (p->trigger.slack || p->trigger.every)
        return NODE_ERR(at, "decide water_filling is decided from the prompt and moves nothing in decode: remove trigger slack and every");
    p->needs.scope = SCOPE_SEQUENCE;
    return request(p, at, c);
}

static void water_describe(const policy *p, const void *conf, char *out, size_t n) {
    const water_conf *c = conf;
    snprintf(out, n, "%d rows, %s%s%s%s", c->rows, weight_names[c->weight], c->key_term ? ", values only" : "", c->drop_item ? ", each its own loss" : "",
             c->per_layer ? ", per layer" : "");
}

/* Mean over the rows and the group of item i. */
static double group_mean(const float *signal, int group, int n, int i, int rows) {
    double sum = 0;
    for (int m = 0; m < group; m++) sum += (double)signal[(size_t)m * (size_t)n + (size_t)i];
    return sum / ((double)group * rows);
}

/* What the head's tiers cost; h->score becomes the weight of its items (a, to be squared, or m), `drop` what each costs that goes.
 * Protected items are fixed. */
static void open_head(const water_conf *c, const decision *d, const head_items *h, float *drop, fill_head *out) {
    const policy *p = d->p;
    const float *const *sig = d->from[h->layer - d->from[0].layer].signal;
    int group = p->shape.n_heads / p->shape.n_kv, n = h->n, rows = c->rows < n ? c->rows : n, n_free = 0, n_menu = p->needs.n_tiers - c->first;
    size_t at = (size_t)(h->head * group) * (size_t)n, own = (size_t)h->head * (size_t)n;
    double a2 = 0, m1 = 0, s1 = 0, spread = 0, query = 0, ek[KV_MAX_TIERS] = {0}, ev[KV_MAX_TIERS] = {0}, e[FILL_MAX_TIERS] = {0};
    int bytes[FILL_MAX_TIERS];
    for (int i = 0; i < n; i++) {
        h->target[i] = h->flags[i] & ITEM_PROTECTED ? FILL_FIXED : 0;
        double a = group_mean(sig[c->mass] + at, group, n, i, rows), m = group_mean(sig[c->square] + at, group, n, i, rows);
        h->score[i] = (float)(c->weight == WEIGHT_MASS_SQUARED ? a : m);
        if (h->target[i] == FILL_FIXED) continue;
        n_free++;
        a2 += a * a;
        m1 += m;
        double s = group_mean(sig[c->change] + at, group, n, i, rows);
        s1 += s;
        drop[i] = (float)s;
        if (c->key_term == 0) spread += group_mean(sig[c->spread] + at, group, n, i, rows);
        for (int t = c->first; t < p->needs.n_tiers; t++) {
            ev[t] += (double)sig[c->value[t]][own + (size_t)i];
            if (c->key_term == 0) ek[t] += (double)sig[c->key[t]][own + (size_t)i];
        }
    }
    for (int r = 0; r < rows && c->key_term == 0; r++) query += group_mean(sig[c->query] + at, group, n, r, rows);
    bool squared = c->weight == WEIGHT_MASS_SQUARED;
    *out = (fill_head){.n = n, .weight = h->score, .squared = squared, .taken = h->target};
    double unit = squared ? a2 : m1;
    if (n_free == 0 || !(unit > 0)) return;
    double kappa = squared ? m1 / a2 : 1, key = c->key_term == 0 ? query * (spread / m1) / ((double)p->shape.head_dim * p->shape.head_dim) : 0;
    for (int k = 0; k < n_menu; k++) { /* cheapest first: the last tier */
        int t = p->needs.n_tiers - 1 - k;
        e[k] = kappa * (ev[t] / n_free + key * (ek[t] / n_free));
        bytes[k] = (int)p->item_bytes[t];
    }
    if (c->drop_item) {
        memcpy(out->e, e, sizeof e);
        memcpy(out->bytes, bytes, sizeof bytes);
        out->n_tiers = n_menu;
        out->drop = drop;
    } else {
        fill_make_hull(s1 / unit, e, bytes, n_menu, &out->hull);
    }
}

static int protected_tier(const water_conf *c, uint8_t flags) { return flags & ITEM_RECENT ? 0 : c->first; }

/* What the items of heads may cost: their share of the budget less protected items and the most that page tables can take. */
static int64_t item_budget(const water_conf *c, const decision *d, const head_items *heads, int n_heads) {
    const policy *p = d->p;
    double all = budget_sequence_bytes(p, d->n_tokens) * n_heads / (p->shape.n_layers * p->shape.n_kv), page = 0;
    if (c->per_layer) all = budget_layer_bytes(p, heads[0].layer, d->n_tokens);
    double left = all;
    for (int t = 0; t < p->needs.n_tiers; t++) {
        double bytes = (double)p->page_items[t] * p->item_bytes[t];
        if (page == 0 || bytes < page) page = bytes;
    }
    left -= n_heads * (budget_head_share(p) + p->needs.n_tiers * 40.0) + 4.25 * all / page; /* a list and its spare per tier, an entry per page */
    for (int k = 0; k < n_heads; k++)
        for (int i = 0; i < heads[k].n; i++)
            if (heads[k].flags[i] & ITEM_PROTECTED) left -= p->item_bytes[protected_tier(c, heads[k].flags[i])];
    if (left < 0) *d->clamped = true;
    return left > 0 ? (int64_t)left : 0;
}

static void fill_heads(const water_conf *c, const decision *d, head_items *heads, int n_heads, fill_head *fill) {
    fill_spend(fill, n_heads, item_budget(c, d, heads, n_heads));
    for (int k = 0; k < n_heads; k++)
        for (int i = 0; i < heads[k].n; i++) {
            uint8_t *t = &heads[k].target[i];
            *t = (uint8_t)(*t == FILL_FIXED ? protected_tier(c, heads[k].flags[i])
                           : *t == 0        ? KV_DROP
                                            : d->p->needs.n_tiers - 1 - fill_tier(&fill[k], i));
        }
}

static void water_decide(const void *conf, const decision *d) {
    const water_conf *c = conf;
    _Static_assert(sizeof(fill_head) <= STAGE_HEAD_KEYS * sizeof(uint64_t), "a head's record fits the keys of a few items");
    fill_head *fill = (fill_head *)d->keys; /* one record per head in place of sorting keys */
    float *drop = (float *)(d->keys + (size_t)d->n_heads * STAGE_HEAD_KEYS); /* behind the records, an item each */
    for (int k = 0; k < d->n_heads; drop += d->heads[k++].n) open_head(c, d, &d->heads[k], drop, &fill[k]);
    int step = c->per_layer ? d->p->shape.n_kv : d->n_heads;
    for (int k = 0; k < d->n_heads; k += step) fill_heads(c, d, d->heads + k, step, fill + k);
}

static void water_count(const void *conf, int n_sink, int n_recent, int n_rest, int *per_tier) {
    const water_conf *c = conf;
    per_tier[0] += n_recent;
    per_tier[c->first] += n_sink + n_rest;
}

static int water_moves(const void *conf, uint8_t (*pairs)[2]) {
    pairs[0][0] = pairs[0][1] = 0;
    return 1;
}

static unsigned water_tiers_used(const void *conf) { return ~0u; }

const stage decide_water_filling = {
    .kind = STAGE_DECIDE, .name = "water_filling", .help = "bytes where they save most output error: drop or tier of every item (RDKV-lite)",
    .budgeted = true, .drops = true, .parse = water_parse, .describe = water_describe, .decide = water_decide, .count = water_count,
    .moves = water_moves, .tiers_used = water_tiers_used};
