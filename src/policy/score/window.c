/* Attention that an item received from the last `rows` queries of the prompt, smoothed along positions (SnapKV, arXiv 2404.14469).
 * Per query head: sum or mean over the rows, pooling; then the query heads of a group become one score per KV head.
 * With force_window the last `rows` items are kept first, newest first, inside the budget, and the others are pooled without them.
 * With `live` the score goes on in decode: each step adds what the item received to its score of the prompt (KV-Compress), keeps the larger
 * of both, or replaces it (TOVA, arXiv 2401.06104). A mean that adds stays a mean over the tokens from the item on: the column starts as if
 * all tokens of the prompt from the item on had given it what the rows gave on average (KV-Compress's averages). */
#include <stdio.h>
#include "cache/snapshot.h"
#include "conf/fields.h"
#include "policy/signal/live.h"
#include "policy/signal/pool.h"
#include "policy/stage.h"

typedef struct window_conf {
    int rows, power, pool, width, direction, group, group_order, reduce, sets, live, signal;
    bool force_window;
} window_conf;
STAGE_CONF_FITS(window_conf);

static const char *const pool_names[] = {"none", "avg", "max", NULL};
static const char *const direction_names[] = {"centred", "forward", NULL};
static const char *const group_names[] = {"mean", "max", "sum", NULL};
static const char *const order_names[] = {"after", "before", NULL};
enum { ORDER_AFTER, ORDER_BEFORE };
static const char *const reduce_names[] = {"sum", "mean", "max", NULL};
enum { REDUCE_SUM, REDUCE_MEAN, REDUCE_MAX };
static const char *const sets_names[] = {"head", "layer", NULL};
enum { SETS_HEAD, SETS_LAYER };
static const char *const live_names[] = {"none", "add", "max", "last", NULL};
enum { LIVE_FIRST = 1 }; /* from here on as live_fold */

static const field window_fields[] = {
    FIELD_INT(window_conf, rows, 32, 1, SNAPSHOT_TAIL_ROWS, "last queries of the prompt that are looked at"),
    FIELD_INT(window_conf, power, 1, 1, 2, "power of each probability before it is summed"),
    FIELD_ENUM(window_conf, reduce, "sum", reduce_names, "over the rows"),
    FIELD_ENUM(window_conf, pool, "none", pool_names, "smoothing along positions"),
    FIELD_INT(window_conf, width, 7, 1, 255, "positions pooled; odd when centred"),
    FIELD_ENUM(window_conf, direction, "centred", direction_names, "pool around the position, or from it onwards"),
    FIELD_ENUM(window_conf, group, "mean", group_names, "over the query heads of a KV head"),
    FIELD_ENUM(window_conf, group_order, "after", order_names, "group after or before pooling"),
    FIELD_ENUM(window_conf, sets, "head", sets_names, "one set per KV head, or one per layer by the mean of its heads"),
    FIELD_ENUM(window_conf, live, "none", live_names, "what a decoded token's attention does to the score: nothing, or add, max, last"),
    FIELD_BOOL(window_conf, force_window, true, "keep the last `rows` items first, counted in the budget"),
    FIELD_END};

static err window_parse(policy *p, const node *at, const node *map, void *conf) {
    window_conf *c = conf;
    TRY(fields_read(map, window_fields, c));
    if (c->pool != POOL_NONE && c->direction == POOL_CENTRED && c->width % 2 == 0)
        return NODE_ERR(at, "score window: width %d is even; a centred pool has an odd width", c->width);
    if (c->live) {
        if (c->force_window)
            return NODE_ERR(at, "score window: live: %s ranks every item, but force_window gives the last %d no score: write force_window: "
                            "false, and protect: {recent: n} to keep the newest", live_names[c->live], c->rows);
        p->needs.live = (live_spec){.on = true, .group = c->group == GROUP_MEAN ? LIVE_MEAN : c->group == GROUP_MAX ? LIVE_MAX : LIVE_SUM,
                                    .power = (uint8_t)c->power, .fold = (live_fold)(c->live - LIVE_FIRST)};
    }
    if (c->sets == SETS_LAYER) p->needs.scope = SCOPE_LAYER;
    if (c->force_window) policy_may_force(p, c->rows, p->protect.recent);
    if (c->reduce == REDUCE_SUM) p->score_rows = c->rows;
    signal_request r = {.kind = SIGNAL_WINDOW_MASS, .rows = c->rows, .power = c->power, .max = c->reduce == REDUCE_MAX};
    return policy_request_signal(p, at, r, &c->signal);
}

static void window_describe(const policy *p, const void *conf, char *out, size_t n) {
    const window_conf *c = conf;
    char pool[48] = "";
    if (c->pool) snprintf(pool, sizeof pool, ", %s pool %d%s", pool_names[c->pool], c->width,
                          c->direction == POOL_FORWARD ? " forward" : "");
    snprintf(out, n, "%d rows, %s%s%s, group %s%s%s%s%s%s", c->rows, reduce_names[c->reduce], c->power == 2 ? " of squares" : "",
             pool, group_names[c->group], c->pool && c->group_order == ORDER_BEFORE ? " before pool" : "",
             c->sets == SETS_LAYER ? ", one set per layer" : "", c->force_window ? "" : ", window not forced", c->live ? ", live " : "", c->live ? live_names[c->live] : "");
}

/* Scores of the first n_scored items from query head m, pooled; `x` is scratch. */
static void query_head_scores(const window_conf *c, const decision *d, const head_items *h, int m, int n_scored, float *x, float *out) {
    int rows = c->rows < h->n ? c->rows : h->n, group = d->p->shape.n_heads / d->p->shape.n_kv;
    const float *mass = d->signal[c->signal] + (size_t)(h->head * group + m) * (size_t)h->n;
    for (int j = 0; j < n_scored; j++) x[j] = c->reduce == REDUCE_MEAN ? mass[j] / (float)rows : mass[j];
    signal_pool((pool_kind)c->pool, (pool_direction)c->direction, c->width, x, n_scored, out);
}

static void window_score_query(const void *conf, const decision *d, const head_items *h, int m, float *out) {
    const window_conf *c = conf;
    int rows = c->rows < h->n ? c->rows : h->n, n_scored = c->force_window ? h->n - rows : h->n;
    query_head_scores(c, d, h, m, n_scored, d->tmp, out);
    for (int j = n_scored; j < h->n; j++) out[j] = 0;
}

static void score_head(const window_conf *c, const decision *d, head_items *h, int group, int n_scored) {
    int rows = c->rows < h->n ? c->rows : h->n;
    float *x = d->tmp, *pooled = d->tmp + h->n;
    for (int m = 0; m < group; m++) {
        if (c->group_order == ORDER_BEFORE) {
            const float *mass = d->signal[c->signal] + (size_t)(h->head * group + m) * (size_t)h->n;
            for (int j = 0; j < n_scored; j++) x[j] = c->reduce == REDUCE_MEAN ? mass[j] / (float)rows : mass[j];
            signal_group_add((group_kind)c->group, m, x, n_scored, pooled);
        } else {
            query_head_scores(c, d, h, m, n_scored, x, pooled);
            signal_group_add((group_kind)c->group, m, pooled, n_scored, h->score);
        }
    }
    if (c->group_order == ORDER_BEFORE) {
        signal_group_finish((group_kind)c->group, group, n_scored, pooled);
        signal_pool((pool_kind)c->pool, (pool_direction)c->direction, c->width, pooled, n_scored, h->score);
    } else {
        signal_group_finish((group_kind)c->group, group, n_scored, h->score);
    }
}

/* Between columns, which are sums, and scores, which are means over the tokens from the item on. */
static void averages(const decision *d) {
    for (int k = 0; k < d->n_heads; k++) {
        const head_items *h = &d->heads[k];
        float *restrict x = h->tier_now ? h->score : h->live;
        for (int i = 0; i < h->n; i++) {
            float tokens = (float)(d->n_tokens - (int)h->pos[i]);
            x[i] = h->tier_now ? x[i] / tokens : x[i] * tokens;
        }
    }
}

static void window_score(const void *conf, const decision *d) {
    const window_conf *c = conf;
    int group = d->p->shape.n_heads / d->p->shape.n_kv;
    for (int k = 0; k < d->n_heads && d->signal; k++) {
        head_items *h = &d->heads[k];
        int rows = c->rows < h->n ? c->rows : h->n, n_scored = c->force_window ? h->n - rows : h->n;
        score_head(c, d, h, group, n_scored);
        for (int j = n_scored; j < h->n; j++) {
            h->score[j] = 0;
            h->flags[j] |= ITEM_FORCED;
        }
    }
    live_exchange(d);
    if (c->live == LIVE_FIRST + LIVE_ADD && c->reduce == REDUCE_MEAN) averages(d);
    if (c->sets == SETS_LAYER) live_layer_mean(d);
}

const stage score_window = {
    .kind = STAGE_SCORE, .name = "window", .help = "attention from the last rows of the prompt, pooled (SnapKV)",
    .parse = window_parse, .describe = window_describe, .score = window_score, .score_query = window_score_query};
