/* Largest attention that an item received while the model repeated the prompt in chunks (KVzip, arXiv 2505.23416): over all rows of the
 * repetition and all query heads of the group. The first `sinks` positions stay before any score is looked at. */
#include <stdio.h>
#include "conf/fields.h"
#include "policy/signal/pool.h"
#include "policy/stage.h"

typedef struct probe_conf { int chunk, sinks, signal; } probe_conf;
STAGE_CONF_FITS(probe_conf);

static const field probe_fields[] = {
    FIELD_INT(probe_conf, chunk, 2048, 16, 1 << 16, "tokens that are repeated in one pass"),
    FIELD_INT(probe_conf, sinks, 4, 0, 1 << 16, "first positions that stay"),
    FIELD_END};

static err probe_parse(policy *p, const node *at, const node *map, void *conf) {
    probe_conf *c = conf;
    TRY(fields_read(map, probe_fields, c));
    return policy_request_signal(p, at, (signal_request){.kind = SIGNAL_PROBE_MASS, .rows = c->chunk}, &c->signal);
}

static void probe_describe(const policy *p, const void *conf, char *out, size_t n) {
    const probe_conf *c = conf;
    snprintf(out, n, "chunks of %d, %d sinks", c->chunk, c->sinks);
}

static void probe_score(const void *conf, const decision *d) {
    const probe_conf *c = conf;
    int group = d->p->shape.n_heads / d->p->shape.n_kv;
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        const float *mass = d->signal[c->signal] + (size_t)(h->head * group) * (size_t)h->n;
        for (int m = 0; m < group; m++) signal_group_add(GROUP_MAX, m, mass + (size_t)m * (size_t)h->n, h->n, h->score);
        for (int i = 0; i < h->n && i < c->sinks; i++) h->flags[i] |= ITEM_FORCED;
    }
}

const stage score_probe = {
    .kind = STAGE_SCORE, .name = "probe", .help = "attention while the prompt is repeated (KVzip)",
    .parse = probe_parse, .describe = probe_describe, .score = probe_score};
