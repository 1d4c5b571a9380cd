/* Keys unlike the others stay: score = -cosine to the mean of all keys, of unit keys as kvpress computes it, or of the raw ones
 * (KeyDiff, arXiv 2504.15364). With `block` the prompt is gone through in blocks, as the paper works during prefill and BlockPress of
 * kvpress emulates it: the budget's first items are kept, then of them and each further block the best, by a mean of these only. */
#include <stdio.h>
#include "conf/fields.h"
#include "policy/stage.h"

typedef struct key_diff_conf { int anchor, block, signal; } key_diff_conf;
STAGE_CONF_FITS(key_diff_conf);

static const char *const anchor_names[] = {"unit", "raw", NULL};
static const field key_diff_fields[] = {
    FIELD_ENUM(key_diff_conf, anchor, "unit", anchor_names, "keys that are averaged"),
    FIELD_INT(key_diff_conf, block, 0, 0, 1 << 16, "tokens that are looked at together; 0 = the whole prompt"), FIELD_END};

static err key_diff_parse(policy *p, const node *at, const node *map, void *conf) {
    key_diff_conf *c = conf;
    TRY(fields_read(map, key_diff_fields, c));
    p->in_blocks = c->block > 0;
    return policy_request_signal(p, at, (signal_request){.kind = SIGNAL_KEY_COSINE, .unit = c->anchor == 0, .rows = c->block}, &c->signal);
}

static void key_diff_describe(const policy *p, const void *conf, char *out, size_t n) {
    const key_diff_conf *c = conf;
    int used = snprintf(out, n, "mean of %s keys", anchor_names[c->anchor]);
    if (c->block && used > 0 && (size_t)used < n) snprintf(out + used, n - (size_t)used, ", blocks of %d", c->block);
}

static void key_diff_score(const void *conf, const decision *d) {
    const float *cosine = d->signal[((const key_diff_conf *)conf)->signal];
    for (int k = 0; k < d->n_heads; k++, cosine += d->heads[0].n)
        for (int i = 0; i < d->heads[k].n; i++) d->heads[k].score[i] = -cosine[i];
}

const stage score_key_diff = {
    .kind = STAGE_SCORE, .name = "key_diff", .help = "unlikeness to the mean key (KeyDiff)",
    .parse = key_diff_parse, .describe = key_diff_describe, .score = key_diff_score};
