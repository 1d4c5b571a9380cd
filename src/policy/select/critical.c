/* Two-stage selection by what an item can do to the output (CriticalKV, arXiv 2502.03805). N_j = norm of the head's share of Wo v_j,
 * mean over the group. First the best m1 items by score stay; the quota is filled with the best (score + epsilon) * N_j.
 *
 * m1 = int(ratio * n * first) under a fixed quota (a product of three, as kvpress truncates it), else the larger of int(quota * first)
 * and the head's safe items (Ada-KV), at least 1 if first > 0.
 *   forced: first   forced items always stay (ours)
 *   forced: score   they stay as far as m1 reaches and then compete with 1 + the largest score of the layer's other items (kvpress)
 *
 * gqa: query_head weighs each query head's own score with its own norm and takes the mean of the products (ours). */
#include <float.h>
#include <stdio.h>
#include <string.h>
#include "conf/fields.h"
#include "policy/signal/pool.h"
#include "policy/topk.h"

typedef struct critical_conf { double first, epsilon; int norm, forced, gqa, signal; } critical_conf;
STAGE_CONF_FITS(critical_conf);

static const char *const norm_names[] = {"l1", "l2", NULL};
static const char *const forced_names[] = {"first", "score", NULL};
static const char *const gqa_names[] = {"group", "query_head", NULL};
static const field critical_fields[] = {
    FIELD_DOUBLE(critical_conf, first, 0.5, 0, 1, "share of the budget that goes to the best scores"),
    FIELD_DOUBLE(critical_conf, epsilon, 1e-4, 0, 1, "added to a score before it is multiplied with the norm"),
    FIELD_ENUM(critical_conf, norm, "l1", norm_names, "of the head's share of the output projection of the value"),
    FIELD_ENUM(critical_conf, forced, "first", forced_names, "forced items stay, or compete beyond the first stage"),
    FIELD_ENUM(critical_conf, gqa, "group", gqa_names, "product of the group's means, or mean of the query heads' products"),
    FIELD_END};

static err critical_parse(policy *p, const node *at, const node *map, void *conf) {
    critical_conf *c = conf;
    TRY(fields_read(map, critical_fields, c));
    const stage *score = p->use[STAGE_SCORE].st;
    if (c->gqa && score && !score->score_query)
        return NODE_ERR(at, "select critical: gqa: query_head needs scores of single query heads, which score %s does not have", score->name);
    return policy_request_signal(p, at, (signal_request){.kind = SIGNAL_VALUE_OUTPUT, .power = c->norm + 1}, &c->signal);
}

static void critical_describe(const policy *p, const void *conf, char *out, size_t n) {
    const critical_conf *c = conf;
    snprintf(out, n, "first %g, %s norm%s%s", c->first, norm_names[c->norm], c->forced ? ", forced compete" : "", c->gqa ? ", per query head" : "");
}

static int first_stage(const critical_conf *c, const policy *p, const head_items *h) {
    if (c->first <= 0) return 0;
    bool fixed = p->use[STAGE_QUOTA].st == stage_find(STAGE_QUOTA, "fixed");
    int m = fixed && p->budget.unit == BUDGET_RATIO ? (int)((1 - (1 - p->budget.amount)) * h->n * c->first) : (int)(h->quota * c->first);
    if (h->safe > m) m = h->safe;
    return m < 1 ? 1 : m > h->quota ? h->quota : m;
}

/* An item's key in the second stage, where it is worth `value`; `threshold` is the lowest key of the first one. */
static uint64_t second_key(const critical_conf *c, const policy *p, const head_items *h, int i, uint64_t threshold, float value) {
    uint64_t key = topk_item_key(p, h, i);
    uint32_t tie = p->ties_high ? h->pos[i] : ~h->pos[i];
    if (h->flags[i] & ITEM_PROTECTED || ((h->flags[i] & ITEM_FORCED) && !c->forced)) return key;
    if (key >= threshold) return (uint64_t)0xfffffffdu << 32 | tie; /* above any score, below forced items */
    return topk_key(value, tie);
}

static const float *norms_of(const critical_conf *c, const decision *d, const head_items *h, int m) {
    int group = d->p->shape.n_heads / d->p->shape.n_kv;
    return d->signal[c->signal] + (size_t)(h->head * group + m) * (size_t)h->n;
}

/* value = (score + epsilon) * mean norm */
static void weigh_group(const critical_conf *c, const decision *d, const head_items *h, float pad, float *value) {
    int group = d->p->shape.n_heads / d->p->shape.n_kv;
    for (int m = 0; m < group; m++) signal_group_add(GROUP_MEAN, m, norms_of(c, d, h, m), h->n, value);
    signal_group_finish(GROUP_MEAN, group, h->n, value);
    for (int i = 0; i < h->n; i++) value[i] *= (h->flags[i] & ITEM_FORCED ? pad : h->score[i]) + (float)c->epsilon;
}

/* value = mean of (the query head's score + epsilon) * its norm; the scores use d->tmp, so the sums lie where the keys will. */
static void weigh_query_heads(const critical_conf *c, const decision *d, const head_items *h, float pad, float *value) {
    const stage_use *score = &d->p->use[STAGE_SCORE];
    int group = d->p->shape.n_heads / d->p->shape.n_kv;
    float *sum = (float *)d->keys, *own = sum + h->n;
    for (int m = 0; m < group; m++) {
        const float *norm = norms_of(c, d, h, m);
        score->st->score_query(score->conf, d, h, m, own);
        for (int i = 0; i < h->n; i++) own[i] = ((h->flags[i] & ITEM_FORCED ? pad : own[i]) + (float)c->epsilon) * norm[i];
        signal_group_add(GROUP_MEAN, m, own, h->n, sum);
    }
    signal_group_finish(GROUP_MEAN, group, h->n, sum);
    memcpy(value, sum, sizeof *value * (size_t)h->n);
}

static void select_head(const critical_conf *c, const decision *d, head_items *h, float pad) {
    const policy *p = d->p;
    int m1 = first_stage(c, p, h);
    float *value = d->tmp;
    if (c->gqa) weigh_query_heads(c, d, h, pad, value);
    else weigh_group(c, d, h, pad, value);
    uint64_t first = UINT64_MAX;
    for (int i = 0; i < h->n; i++) d->keys[i] = topk_item_key(p, h, i);
    if (m1) first = topk_threshold(d->keys, h->n, m1);
    for (int i = 0; i < h->n; i++) d->keys[i] = second_key(c, p, h, i, first, value[i]);
    uint64_t last = topk_threshold(d->keys, h->n, h->quota);
    for (int i = 0; i < h->n; i++) h->target[i] = second_key(c, p, h, i, first, value[i]) >= last ? 0 : KV_DROP;
}

static void critical_select(const void *conf, const decision *d) {
    float pad = -FLT_MAX;
    for (int k = 0; k < d->n_heads; k++)
        for (int i = 0; i < d->heads[k].n; i++)
            if (!(d->heads[k].flags[i] & ITEM_FORCED) && d->heads[k].score[i] > pad) pad = d->heads[k].score[i];
    pad = pad > -FLT_MAX ? pad + 1 : 1;
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        if (h->quota >= h->n || h->quota < 1) memset(h->target, h->quota < 1 ? KV_DROP : 0, (size_t)h->n);
        else select_head(conf, d, h, pad);
    }
}

const stage select_critical = {
    .kind = STAGE_SELECT, .name = "critical", .help = "best scores first, then score times norm of Wo v (CriticalKV)",
    .parse = critical_parse, .describe = critical_describe, .budgeted = true, .ranks = true, .select = critical_select};
