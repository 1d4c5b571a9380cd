/* Exact squared change of the attention outputs of the last `rows` queries if the item alone went (DropKV, kvpress PR 285). Unlike the
 * window score, pooling is off by default, sees all positions, and comes after the group; the last `rows` items stay first. */
#include <stdio.h>
#include <string.h>
#include "cache/snapshot.h"
#include "conf/fields.h"
#include "policy/signal/pool.h"
#include "policy/stage.h"

typedef struct change_conf { int rows, pool, width, group, signal; } change_conf;
STAGE_CONF_FITS(change_conf);

static const char *const pool_names[] = {"none", "avg", "max", NULL};
static const char *const group_names[] = {"mean", "max", "sum", NULL};
static const field change_fields[] = {
    FIELD_INT(change_conf, rows, 32, 1, SNAPSHOT_TAIL_ROWS, "last queries of the prompt that are looked at"),
    FIELD_ENUM(change_conf, pool, "none", pool_names, "smoothing along positions, after the group"),
    FIELD_INT(change_conf, width, 7, 1, 255, "positions pooled; odd"),
    FIELD_ENUM(change_conf, group, "sum", group_names, "over the query heads of a KV head"),
    FIELD_END};

static err change_parse(policy *p, const node *at, const node *map, void *conf) {
    change_conf *c = conf;
    TRY(fields_read(map, change_fields, c));
    if (c->pool != POOL_NONE && c->width % 2 == 0)
        return NODE_ERR(at, "score output_change: width %d is even; a centred pool has an odd width", c->width);
    policy_may_force(p, c->rows, p->protect.recent);
    return policy_request_signal(p, at, (signal_request){.kind = SIGNAL_WINDOW_CHANGE, .rows = c->rows}, &c->signal);
}

static void change_describe(const policy *p, const void *conf, char *out, size_t n) {
    const change_conf *c = conf;
    char pool[32] = "";
    if (c->pool) snprintf(pool, sizeof pool, ", %s pool %d", pool_names[c->pool], c->width);
    snprintf(out, n, "%d rows, group %s%s", c->rows, group_names[c->group], pool);
}

static void change_score(const void *conf, const decision *d) {
    const change_conf *c = conf;
    int group = d->p->shape.n_heads / d->p->shape.n_kv;
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        const float *change = d->signal[c->signal] + (size_t)(h->head * group) * (size_t)h->n;
        for (int m = 0; m < group; m++) signal_group_add((group_kind)c->group, m, change + (size_t)m * (size_t)h->n, h->n, d->tmp);
        signal_group_finish((group_kind)c->group, group, h->n, d->tmp);
        signal_pool((pool_kind)c->pool, POOL_CENTRED, c->width, d->tmp, h->n, h->score);
        for (int i = h->n > c->rows ? h->n - c->rows : 0; i < h->n; i++) h->flags[i] |= ITEM_FORCED;
    }
}

const stage score_output_change = {
    .kind = STAGE_SCORE, .name = "output_change", .help = "what the outputs of the last rows would lose (DropKV)",
    .parse = change_parse, .describe = change_describe, .score = change_score};
