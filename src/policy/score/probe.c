/* Largest attention that an item received while the model repeated the prompt in chunks (KVzip, arXiv 2505.23416): over all rows of the
 * repetition and all query heads of the group. The first `sinks` positions stay before any score is looked at.
 *
 * normalise: output (KVzip+, arXiv 2601.07891) looks at what the item adds to the stream: each probability times |Wo v| of the query head, over
 * the norm of the row's input. chat: where the prompt begins with the opening of the model's chat template, that is not repeated and has
 * no score, and what the template puts behind a user's text stands before the repetition; auto looks whether it does, always insists. */
#include <stdio.h>
#include "conf/fields.h"
#include "policy/signal/pool.h"
#include "policy/stage.h"

typedef struct probe_conf { int chunk, sinks, normalise, chat, signal, norm; } probe_conf;
STAGE_CONF_FITS(probe_conf);

static const char *const normalise_names[] = {"none", "output", NULL};
static const char *const chat_names[] = {"auto", "never", "always", NULL};
static const field probe_fields[] = {
    FIELD_INT(probe_conf, chunk, 2048, 16, 1 << 16, "tokens that are repeated in one pass"),
    FIELD_INT(probe_conf, sinks, 4, 0, 1 << 16, "first positions that stay"),
    FIELD_ENUM(probe_conf, normalise, "none", normalise_names, "probability alone, or times |Wo v| over the norm of the row (KVzip+)"),
    FIELD_ENUM(probe_conf, chat, "auto", chat_names, "whether the opening of the model's chat template is told apart"),
    FIELD_END};

static err probe_parse(policy *p, const node *at, const node *map, void *conf) {
    probe_conf *c = conf;
    TRY(fields_read(map, probe_fields, c));
    if (c->normalise) TRY(policy_request_signal(p, at, (signal_request){.kind = SIGNAL_VALUE_OUTPUT, .power = 2}, &c->norm));
    policy_may_force(p, c->sinks, p->protect.sink);
    signal_request r = {.kind = SIGNAL_PROBE_MASS, .rows = c->chunk, .first = c->chat, .unit = c->normalise, .sliding = p->needs.all_layers};
    return policy_request_signal(p, at, r, &c->signal);
}

static void probe_describe(const policy *p, const void *conf, char *out, size_t n) {
    const probe_conf *c = conf;
    snprintf(out, n, "chunks of %d, %d sinks%s%s%s", c->chunk, c->sinks, c->normalise ? ", times |Wo v| over the row's norm" : "",
             c->chat ? ", chat " : "", c->chat ? chat_names[c->chat] : "");
}

static void probe_score_query(const void *conf, const decision *d, const head_items *h, int m, float *out) {
    const probe_conf *c = conf;
    int group = d->p->shape.n_heads / d->p->shape.n_kv;
    size_t at = (size_t)(h->head * group + m) * (size_t)h->n;
    for (int i = 0; i < h->n; i++) out[i] = d->signal[c->signal][at + (size_t)i] * (c->normalise ? d->signal[c->norm][at + (size_t)i] : 1);
}

static void probe_score(const void *conf, const decision *d) {
    const probe_conf *c = conf;
    int group = d->p->shape.n_heads / d->p->shape.n_kv;
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        for (int m = 0; m < group; m++) {
            probe_score_query(c, d, h, m, d->tmp);
            signal_group_add(GROUP_MAX, m, d->tmp, h->n, h->score);
        }
        for (int i = 0; i < h->n && h->pos[i] < (uint32_t)c->sinks; i++) h->flags[i] |= ITEM_FORCED;
    }
}

const stage score_probe = {
    .kind = STAGE_SCORE, .name = "probe", .help = "attention while the prompt is repeated (KVzip)",
    .parse = probe_parse, .describe = probe_describe, .score = probe_score, .score_query = probe_score_query};
