/* Attention that future queries are expected to give, times the norm of the value (ExpectedAttention, arXiv 2510.00636): queries are
 * taken as Gaussian with the prompt's mean and covariance, rotated to the average of the next `future` positions. The first `sinks`
 * positions are outside of the statistics and stay before any score is looked at. */
#include <stdio.h>
#include "conf/fields.h"
#include "policy/signal/pool.h"
#include "policy/stage.h"

typedef struct expected_conf { int sinks, future, group, mass, norm; bool covariance, value_norm; double epsilon; } expected_conf;
STAGE_CONF_FITS(expected_conf);

static const char *const group_names[] = {"mean", "max", "sum", NULL};
static const field expected_fields[] = {
    FIELD_INT(expected_conf, sinks, 4, 0, 1 << 16, "first positions left out and kept"),
    FIELD_INT(expected_conf, future, 512, 1, 1 << 16, "positions after the prompt that are averaged"),
    FIELD_BOOL(expected_conf, covariance, true, "second-order term of the expectation"),
    FIELD_BOOL(expected_conf, value_norm, true, "times the norm of the value"),
    FIELD_DOUBLE(expected_conf, epsilon, 0, 0, 1, "added to the probability before the norm"),
    FIELD_ENUM(expected_conf, group, "mean", group_names, "over the query heads of a KV head"),
    FIELD_END};

static err expected_parse(policy *p, const node *at, const node *map, void *conf) {
    expected_conf *c = conf;
    TRY(fields_read(map, expected_fields, c));
    if (c->value_norm) TRY(policy_request_signal(p, at, (signal_request){.kind = SIGNAL_VALUE_NORM}, &c->norm));
    policy_may_force(p, c->sinks, p->protect.sink);
    signal_request r = {.kind = SIGNAL_EXPECTED_MASS, .first = c->sinks, .future = c->future, .covariance = c->covariance};
    return policy_request_signal(p, at, r, &c->mass);
}

static void expected_describe(const policy *p, const void *conf, char *out, size_t n) {
    const expected_conf *c = conf;
    snprintf(out, n, "%d positions, from %d%s%s, group %s", c->future, c->sinks, c->covariance ? "" : ", mean only",
             c->value_norm ? ", times value norm" : "", group_names[c->group]);
}

static void expected_score(const void *conf, const decision *d) {
    const expected_conf *c = conf;
    int group = d->p->shape.n_heads / d->p->shape.n_kv;
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        size_t n = (size_t)h->n;
        for (int m = 0; m < group; m++)
            signal_group_add((group_kind)c->group, m, d->signal[c->mass] + (size_t)(h->head * group + m) * n, h->n, h->score);
        signal_group_finish((group_kind)c->group, group, h->n, h->score);
        for (int i = 0; i < h->n; i++) {
            h->score[i] += (float)c->epsilon;
            if (c->value_norm) h->score[i] *= d->signal[c->norm][(size_t)h->head * n + (size_t)i];
            if (h->pos[i] < (uint32_t)c->sinks) h->flags[i] |= ITEM_FORCED;
        }
    }
}

static void expected_score_query(const void *conf, const decision *d, const head_items *h, int m, float *out) {
    const expected_conf *c = conf;
    size_t n = (size_t)h->n, group = (size_t)(d->p->shape.n_heads / d->p->shape.n_kv);
    const float *mass = d->signal[c->mass] + ((size_t)h->head * group + (size_t)m) * n;
    for (size_t i = 0; i < n; i++) {
        out[i] = mass[i] + (float)c->epsilon;
        if (c->value_norm) out[i] *= d->signal[c->norm][(size_t)h->head * n + i];
    }
}

const stage score_expected = {
    .kind = STAGE_SCORE, .name = "expected", .help = "attention expected from future queries (ExpectedAttention)",
    .parse = expected_parse, .describe = expected_describe, .score = expected_score, .score_query = expected_score_query};
