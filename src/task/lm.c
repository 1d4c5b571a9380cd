/* `lm`: language modelling over a compressed context. A window of natural text is prefilled and compressed; the tokens
 * that follow it are fed one after the other, and each predicts its successor. What the prefill itself predicts is left
 * out: nothing compressed was read yet. */
#include <math.h>
#include "task/task_impl.h"

typedef struct lm_conf {
    int context, tokens, skip, stride, records, limit;
    bool special_tokens;
} lm_conf;
static const field lm_fields[] = {
    FIELD_INT(lm_conf, context, 1792, 1, 1 << 20, "tokens of compressed context"),
    FIELD_INT(lm_conf, tokens, 128, 1, 1 << 16, "scored tokens that follow"),
    FIELD_INT(lm_conf, skip, 0, 0, 1 << 26, "tokens of the text before the first record"),
    FIELD_INT(lm_conf, stride, 0, 0, 1 << 26, "tokens from one record to the next; 0: no overlap"),
    FIELD_INT(lm_conf, records, 8, 0, 1 << 20, "number of records of each text; 0: as many as it holds"),
    FIELD_INT(lm_conf, limit, 0, 0, 1 << 20, "at most so many records; 0: all"),
    FIELD_BOOL(lm_conf, special_tokens, false, "control tokens that the text spells out, such as <|im_start|>, are tokens"),
    FIELD_END,
};

enum { NLL, PERPLEXITY, KL, KL_P90, TOP1, TOP5, DNLL, N_METRICS };
static const task_metric lm_metrics[N_METRICS] = {
    [NLL] = {"nll", "nats", "mean negative log-likelihood of the scored tokens", METRIC_LOWER, false},
    [PERPLEXITY] = {"perplexity", "", "exp of nll", METRIC_LOWER, false},
    [KL] = {"kl", "nats", "KL divergence from the full cache's prediction, mean over scored tokens", METRIC_LOWER,
            false},
    [KL_P90] = {"kl_p90", "nats", "90 % quantile of KL over scored tokens", METRIC_LOWER, false},
    [TOP1] = {"top1", "", "share of tokens whose most likely prediction equals the full cache's", METRIC_HIGHER, false},
    [TOP5] = {"top5", "", "overlap of the five most likely predictions with the full cache's", METRIC_HIGHER, false},
    [DNLL] = {"dnll", "nats", "nll minus the full cache's", METRIC_LOWER, false},
};

typedef struct lm {
    lm_conf c;
    text_windows w;
} lm;

static err lm_create(task *t, const node *conf) {
    lm *m = NULL;
    TRY(mem_alloc(MEM_OTHER, sizeof *m, &m));
    t->impl = m;
    lm_conf *c = &m->c;
    (void)node_get(conf, "text"); /* read by text_windows_open */
    TRY(fields_read(conf, lm_fields, c));
    text_windows_conf w = {c->context + c->tokens + 1, c->skip, c->stride, c->records, c->limit, c->special_tokens};
    TRY(text_windows_open(t, conf, &w, &m->w));
    t->n_items = m->w.n;
    t->max_prompt = c->context;
    t->max_feed = c->tokens;
    return OK;
}

static void lm_destroy(task *t) {
    text_windows_close(&((lm *)t->impl)->w);
}

static err lm_open(const task *t, int i, task_item *it) {
    const lm *m = t->impl;
    const int32_t *ids = text_windows_ids(&m->w, i);
    text_windows_describe(&m->w, i, "lm", it->id, sizeof it->id);
    TRY(token_list_add(&it->prompt, ids, m->c.context));
    TRY(token_list_add(&it->feed, ids + m->c.context, m->c.tokens));
    return token_list_add(&it->target, ids + m->c.context + 1, m->c.tokens);
}

static void lm_measure(const task_item *it, const scores *s, double *value) {
    value[NLL] = mean_of(s->nll, s->n);
    value[PERPLEXITY] = exp(value[NLL]);
    value[KL] = mean_of(s->kl, s->n);
    value[KL_P90] = stats_quantile(s->kl, s->n, 0.9);
    value[TOP1] = mean_of(s->top1, s->n);
    value[TOP5] = mean_of(s->top5, s->n);
    value[DNLL] = value[NLL] - mean_of(s->nll_full, s->n);
}

const task_kind task_lm = {
    .name = "lm",
    .metrics = lm_metrics,
    .n_metrics = N_METRICS,
    .fidelity = 1u << KL | 1u << KL_P90 | 1u << TOP1 | 1u << TOP5 | 1u << DNLL,
    .create = lm_create,
    .destroy = lm_destroy,
    .open = lm_open,
    .measure = lm_measure,
};
