/* Attention that an item received from every query of the prompt at least `lag` later: the column sum of H2O (arXiv 2306.14048), or
 * its mean over the queries that could see the item (ObservedAttention of kvpress). Items that nobody observed stay first. */
#include <stdio.h>
#include "conf/fields.h"
#include "policy/signal/pool.h"
#include "policy/stage.h"

typedef struct column_conf { int power, reduce, lag, group, signal; } column_conf;
STAGE_CONF_FITS(column_conf);

static const char *const reduce_names[] = {"sum", "mean", "max", NULL};
enum { REDUCE_SUM, REDUCE_MEAN, REDUCE_MAX };
static const char *const group_names[] = {"mean", "max", "sum", NULL};
static const field column_fields[] = {
    FIELD_ENUM(column_conf, reduce, "sum", reduce_names, "over the queries; mean divides by those that can see the item"),
    FIELD_INT(column_conf, power, 1, 1, 2, "power of each probability"),
    FIELD_INT(column_conf, lag, 0, 0, 1 << 16, "queries nearer than this do not count"),
    FIELD_ENUM(column_conf, group, "mean", group_names, "over the query heads of a KV head"),
    FIELD_END};

static err column_parse(policy *p, const node *at, const node *map, void *conf) {
    column_conf *c = conf;
    TRY(fields_read(map, column_fields, c));
    signal_request r = {.kind = SIGNAL_ALL_MASS, .power = c->power, .lag = c->lag, .max = c->reduce == REDUCE_MAX};
    return policy_request_signal(p, at, r, &c->signal);
}

static void column_describe(const policy *p, const void *conf, char *out, size_t n) {
    const column_conf *c = conf;
    int used = snprintf(out, n, "%s%s, group %s", reduce_names[c->reduce], c->power == 2 ? " of squares" : "", group_names[c->group]);
    if (c->lag && used > 0 && (size_t)used < n) snprintf(out + used, n - (size_t)used, ", lag %d", c->lag);
}

static void column_score(const void *conf, const decision *d) {
    const column_conf *c = conf;
    int group = d->p->shape.n_heads / d->p->shape.n_kv;
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        const float *mass = d->signal[c->signal] + (size_t)(h->head * group) * (size_t)h->n;
        for (int m = 0; m < group; m++, mass += h->n) {
            for (int i = 0; i < h->n; i++) {
                int seen_by = h->n - i - c->lag;
                d->tmp[i] = c->reduce == REDUCE_MEAN && seen_by > 0 ? mass[i] / (float)seen_by : mass[i];
            }
            signal_group_add((group_kind)c->group, m, d->tmp, h->n, h->score);
        }
        signal_group_finish((group_kind)c->group, group, h->n, h->score);
        for (int i = h->n - c->lag > 0 ? h->n - c->lag : 0; i < h->n; i++) h->flags[i] |= ITEM_FORCED;
    }
}

const stage score_column = {
    .kind = STAGE_SCORE, .name = "column", .help = "attention from all queries of the prompt (H2O, ObservedAttention)",
    .parse = column_parse, .describe = column_describe, .score = column_score};
