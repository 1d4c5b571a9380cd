/* `repeat_back`: a span of text and some other text are prefilled and compressed; then the span comes again, and each
 * of its tokens predicts the next. The compression has not seen what will be asked for, so scorers that watch the last
 * queries lose it. The second copy's first token has no prediction of its own kind (nothing says yet that a copy
 * begins) and is not scored. */
#include <math.h>
#include "task/task_impl.h"

typedef struct repeat_conf {
    int span, filler, skip, stride, records, limit;
    bool first_copy;
} repeat_conf;
static const field repeat_fields[] = {
    FIELD_INT(repeat_conf, span, 256, 2, 1 << 16, "tokens that are repeated"),
    FIELD_INT(repeat_conf, filler, 1024, 0, 1 << 20,
              "other tokens between the copies; they follow the span in the text"),
    FIELD_INT(repeat_conf, skip, 0, 0, 1 << 26, "tokens of the text before the first record"),
    FIELD_INT(repeat_conf, stride, 0, 0, 1 << 26, "tokens from one record to the next; 0: no overlap"),
    FIELD_INT(repeat_conf, records, 8, 0, 1 << 20, "number of records of each text; 0: as many as it holds"),
    FIELD_INT(repeat_conf, limit, 0, 0, 1 << 20, "at most so many records; 0: all"),
    FIELD_BOOL(repeat_conf, first_copy, false,
               "also report the NLL of the span read for the first time (once per record)"),
    FIELD_END,
};

enum { NLL, ACCURACY, KL, KL_P90, TOP1, DNLL, NLL_FIRST, N_METRICS };
static const task_metric repeat_metrics[N_METRICS] = {
    [NLL] = {"nll", "nats", "mean negative log-likelihood of the second copy", METRIC_LOWER, false},
    [ACCURACY] = {"accuracy", "", "share of the second copy's tokens predicted as most likely", METRIC_HIGHER, false},
    [KL] = {"kl", "nats", "KL divergence from the full cache's prediction, mean over the second copy", METRIC_LOWER,
            false},
    [KL_P90] = {"kl_p90", "nats", "90 % quantile of KL over the second copy", METRIC_LOWER, false},
    [TOP1] = {"top1", "", "share of tokens whose most likely prediction equals the full cache's", METRIC_HIGHER, false},
    [DNLL] = {"dnll", "nats", "nll minus the full cache's", METRIC_LOWER, false},
    [NLL_FIRST] = {"nll_first_copy", "nats",
                   "negative log-likelihood of the span without anything before it: what forgetting everything costs",
                   METRIC_NEUTRAL, false},
};

typedef struct repeat {
    repeat_conf c;
    text_windows w;
} repeat;

static err repeat_create(task *t, const node *conf) {
    repeat *m = NULL;
    TRY(mem_alloc(MEM_OTHER, sizeof *m, &m));
    t->impl = m;
    repeat_conf *c = &m->c;
    (void)node_get(conf, "text"); /* read by text_windows_open */
    TRY(fields_read(conf, repeat_fields, c));
    text_windows_conf w = {c->span + c->filler, c->skip, c->stride, c->records, c->limit, false};
    TRY(text_windows_open(t, conf, &w, &m->w));
    t->n_items = m->w.n;
    t->max_prompt = c->span + c->filler;
    t->max_feed = c->span - 1;
    return OK;
}

static void repeat_destroy(task *t) {
    text_windows_close(&((repeat *)t->impl)->w);
}

static err repeat_open(const task *t, int i, task_item *it) {
    const repeat *m = t->impl;
    const int32_t *ids = text_windows_ids(&m->w, i);
    text_windows_describe(&m->w, i, "repeat_back", it->id, sizeof it->id);
    TRY(token_list_add(&it->prompt, ids, m->c.span + m->c.filler));
    TRY(token_list_add(&it->feed, ids, m->c.span - 1));
    return token_list_add(&it->target, ids + 1, m->c.span - 1);
}

static err repeat_prepare(task_item *it, engine *e, struct full_policy *full) {
    const repeat *m = it->t->impl;
    return m->c.first_copy ? teacher_plain_nll(e, full, it->prompt.ids, m->c.span, &it->extra) : OK;
}

static void repeat_measure(const task_item *it, const scores *s, double *value) {
    value[NLL] = mean_of(s->nll, s->n);
    value[ACCURACY] = mean_of(s->hit, s->n);
    value[KL] = mean_of(s->kl, s->n);
    value[KL_P90] = stats_quantile(s->kl, s->n, 0.9);
    value[TOP1] = mean_of(s->top1, s->n);
    value[DNLL] = value[NLL] - mean_of(s->nll_full, s->n);
    value[NLL_FIRST] = it->extra;
}

const task_kind task_repeat_back = {
    .name = "repeat_back",
    .metrics = repeat_metrics,
    .n_metrics = N_METRICS,
    .fidelity = 1u << KL | 1u << KL_P90 | 1u << TOP1 | 1u << DNLL,
    .create = repeat_create,
    .destroy = repeat_destroy,
    .open = repeat_open,
    .prepare = repeat_prepare,
    .measure = repeat_measure,
};
