/* Mean attention that an item receives from the queries that see it, the largest of its KV head's query heads (LeanKV, arXiv
 * 2412.03131). From the last `rows` queries of the prompt as LeanKV's code measures it, or from all of them (rows 0) as its paper says;
 * the paper counts later queries only (own: false). The group may also be taken query by query before they are summed (sum_of_max). */
#include <stdio.h>
#include <string.h>
#include "cache/snapshot.h"
#include "conf/fields.h"
#include "policy/significance.h"
#include "policy/signal/pool.h"

const char *const significance_order_names[] = {"max_of_sum", "sum_of_max", NULL};
const char *const significance_group_names[] = {"mean", "max", NULL};

static const field significance_fields[] = {
    FIELD_INT(significance, rows, 64, 0, SNAPSHOT_TAIL_ROWS, "last queries of the prompt that are looked at; 0 = all"),
    FIELD_ENUM(significance, group, "max", significance_group_names, "over the query heads of a KV head"),
    FIELD_ENUM(significance, order, "max_of_sum", significance_order_names, "sum each query head over the queries first, or group each query first"),
    FIELD_BOOL(significance, own, true, "the item's own query counts; false needs rows: 0"),
    FIELD_BOOL(significance, normalise, false, "scores of a head sum to 1"),
    FIELD_END};

err significance_request(policy *p, const node *at, const char *who, significance *s) {
    if (s->order == ORDER_SUM_OF_MAX && s->group != GROUP_MAX)
        return NODE_ERR(at, "%s: order sum_of_max needs group: max; with group: mean the order changes nothing", who);
    if (!s->own && s->rows)
        return NODE_ERR(at, "%s: own: false leaves out an item's own query only where all queries are looked at: set rows: 0", who);
    signal_request r = {.kind = s->rows ? SIGNAL_WINDOW_MASS : SIGNAL_ALL_MASS, .rows = s->rows, .power = 1,
                        .lag = s->own ? 0 : 1, .group_max = s->order == ORDER_SUM_OF_MAX};
    return policy_request_signal(p, at, r, &s->signal);
}

int significance_observers(const significance *s, int n_prompt, int pos) {
    int n = n_prompt - pos - !s->own;
    return s->rows && s->rows < n ? s->rows : n;
}

void significance_score(const significance *s, const decision *d, head_items *h, float *sum_out) {
    int group = s->order == ORDER_SUM_OF_MAX ? 1 : d->p->shape.n_heads / d->p->shape.n_kv;
    const float *mass = d->signal[s->signal] + (size_t)(h->head * group) * (size_t)h->n;
    for (int m = 0; m < group; m++) signal_group_add((group_kind)s->group, m, mass + (size_t)m * (size_t)h->n, h->n, h->score);
    signal_group_finish((group_kind)s->group, group, h->n, h->score);
    if (sum_out) memcpy(sum_out, h->score, (size_t)h->n * sizeof *sum_out);
    double sum = 0;
    for (int i = 0; i < h->n; i++) {
        int n = significance_observers(s, h->n, i);
        if (n > 0) h->score[i] /= (float)n;
        else h->flags[i] |= ITEM_FORCED; /* nobody looked at it yet */
        sum += (double)h->score[i];
    }
    for (int i = 0; i < h->n && s->normalise && sum > 0; i++) h->score[i] = (float)((double)h->score[i] / sum);
}

static err stage_parse(policy *p, const node *at, const node *map, void *conf) {
    TRY(fields_read(map, significance_fields, conf));
    policy_may_force(p, !((const significance *)conf)->own, p->protect.recent);
    return significance_request(p, at, "score significance", conf);
}

void significance_describe(const significance *s, char *out, size_t n) {
    char rows[24] = "all rows";
    if (s->rows) snprintf(rows, sizeof rows, "%d rows", s->rows);
    snprintf(out, n, "%s%s, group %s%s%s", rows, s->own ? "" : " but its own", significance_group_names[s->group],
             s->order == ORDER_SUM_OF_MAX ? " of each row" : "", s->normalise ? ", normalised" : "");
}

static void stage_describe(const policy *p, const void *conf, char *out, size_t n) { significance_describe(conf, out, n); }

static void stage_score(const void *conf, const decision *d) {
    for (int k = 0; k < d->n_heads; k++) significance_score(conf, d, &d->heads[k], NULL);
}

STAGE_CONF_FITS(significance);
const stage score_significance = {
    .kind = STAGE_SCORE, .name = "significance", .help = "mean attention per query that sees the item (LeanKV)",
    .parse = stage_parse, .describe = stage_describe, .score = stage_score};
