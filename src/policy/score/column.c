/* Attention that an item received from every query of the prompt at least `lag` later: the column sum of H2O (arXiv 2306.14048), or
 * its mean over the queries that could see the item (ObservedAttention of kvpress). Items that nobody observed stay first. With `live`
 * the queries of decode count as those of the prompt do; `lag` is of the prompt alone. */
#include <stdio.h>
#include "conf/fields.h"
#include "policy/signal/pool.h"
#include "policy/stage.h"

typedef struct column_conf { int power, reduce, lag, group, signal; bool live; } column_conf;
STAGE_CONF_FITS(column_conf);

static const char *const reduce_names[] = {"sum", "mean", "max", NULL};
enum { REDUCE_SUM, REDUCE_MEAN, REDUCE_MAX };
static const char *const group_names[] = {"mean", "max", "sum", NULL};
static const field column_fields[] = {
    FIELD_ENUM(column_conf, reduce, "sum", reduce_names, "over the queries; mean divides by those that can see the item"),
    FIELD_INT(column_conf, power, 1, 1, 2, "power of each probability"),
    FIELD_INT(column_conf, lag, 0, 0, 1 << 16, "queries nearer than this do not count"),
    FIELD_ENUM(column_conf, group, "mean", group_names, "over the query heads of a KV head"),
    FIELD_BOOL(column_conf, live, false, "go on in decode"),
    FIELD_END};

static err column_parse(policy *p, const node *at, const node *map, void *conf) {
    column_conf *c = conf;
    TRY(fields_read(map, column_fields, c));
    if (c->live && c->lag && c->reduce == REDUCE_MEAN)
        return NODE_ERR(at, "score column: live counts every decoded query, but reduce: mean with lag: %d divides by those at least so far away: "
                        "use lag: 0 or reduce: sum", c->lag);
    if (c->live)
        p->needs.live = (live_spec){.on = true, .group = c->group == GROUP_MEAN ? LIVE_MEAN : c->group == GROUP_MAX ? LIVE_MAX : LIVE_SUM,
                                    .power = (uint8_t)c->power, .fold = c->reduce == REDUCE_MAX ? LIVE_KEEP_MAX : LIVE_ADD};
    policy_may_force(p, c->lag, p->protect.recent);
    if (c->reduce == REDUCE_SUM && !c->lag) p->score_rows = INT32_MAX;
    signal_request r = {.kind = SIGNAL_ALL_MASS, .power = c->power, .lag = c->lag, .max = c->reduce == REDUCE_MAX};
    return policy_request_signal(p, at, r, &c->signal);
}

static void column_describe(const policy *p, const void *conf, char *out, size_t n) {
    const column_conf *c = conf;
    int used = snprintf(out, n, "%s%s, group %s", reduce_names[c->reduce], c->power == 2 ? " of squares" : "", group_names[c->group]);
    if (c->lag && used > 0 && (size_t)used < n) used += snprintf(out + used, n - (size_t)used, ", lag %d", c->lag);
    if (c->live && used > 0 && (size_t)used < n) snprintf(out + used, n - (size_t)used, ", live");
}

/* From the prompt, of query head m of the group: `column` as it is, or divided by the queries that see the item. */
static void query_head_scores(const column_conf *c, const decision *d, const head_items *h, int m, bool mean, float *out) {
    int group = d->p->shape.n_heads / d->p->shape.n_kv;
    const float *mass = d->signal[c->signal] + (size_t)(h->head * group + m) * (size_t)h->n;
    for (int i = 0; i < h->n; i++) {
        int seen_by = h->n - i - c->lag;
        out[i] = mean && seen_by > 0 ? mass[i] / (float)seen_by : mass[i];
    }
}

static void reduce_group(const column_conf *c, const decision *d, const head_items *h, bool mean, float *out) {
    int group = d->p->shape.n_heads / d->p->shape.n_kv;
    for (int m = 0; m < group; m++) {
        query_head_scores(c, d, h, m, mean, d->tmp);
        signal_group_add((group_kind)c->group, m, d->tmp, h->n, out);
    }
    signal_group_finish((group_kind)c->group, group, h->n, out);
}

static void column_score_query(const void *conf, const decision *d, const head_items *h, int m, float *out) {
    const column_conf *c = conf;
    query_head_scores(c, d, h, m, c->reduce == REDUCE_MEAN, out);
}

static void column_score(const void *conf, const decision *d) {
    const column_conf *c = conf;
    bool mean = c->reduce == REDUCE_MEAN;
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        if (h->tier_now) {
            for (int i = 0; i < h->n; i++) h->score[i] = mean ? h->live[i] / (float)(d->n_tokens - (int)h->pos[i]) : h->live[i];
            continue;
        }
        reduce_group(c, d, h, mean, h->score);
        if (h->live) reduce_group(c, d, h, false, h->live);
        for (int i = h->n - c->lag > 0 ? h->n - c->lag : 0; i < h->n; i++) h->flags[i] |= ITEM_FORCED;
    }
}

const stage score_column = {
    .kind = STAGE_SCORE, .name = "column", .help = "attention from all queries of the prompt (H2O, ObservedAttention)",
    .parse = column_parse, .describe = column_describe, .score = column_score, .score_query = column_score_query};
