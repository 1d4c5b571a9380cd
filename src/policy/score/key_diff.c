/* Keys unlike the others stay: score = -cosine to the mean of all keys, of unit keys as kvpress computes it, or of the raw ones
 * (KeyDiff, arXiv 2504.15364). */
#include <stdio.h>
#include "conf/fields.h"
#include "policy/stage.h"

typedef struct key_diff_conf { int anchor, signal; } key_diff_conf;
STAGE_CONF_FITS(key_diff_conf);

static const char *const anchor_names[] = {"unit", "raw", NULL};
static const field key_diff_fields[] = {FIELD_ENUM(key_diff_conf, anchor, "unit", anchor_names, "keys that are averaged"), FIELD_END};

static err key_diff_parse(policy *p, const node *at, const node *map, void *conf) {
    key_diff_conf *c = conf;
    TRY(fields_read(map, key_diff_fields, c));
    return policy_request_signal(p, at, (signal_request){.kind = SIGNAL_KEY_COSINE, .unit = c->anchor == 0}, &c->signal);
}

static void key_diff_describe(const policy *p, const void *conf, char *out, size_t n) {
    snprintf(out, n, "mean of %s keys", anchor_names[((const key_diff_conf *)conf)->anchor]);
}

static void key_diff_score(const void *conf, const decision *d) {
    const float *cosine = d->signal[((const key_diff_conf *)conf)->signal];
    for (int k = 0; k < d->n_heads; k++, cosine += d->heads[0].n)
        for (int i = 0; i < d->heads[k].n; i++) d->heads[k].score[i] = -cosine[i];
}

const stage score_key_diff = {
    .kind = STAGE_SCORE, .name = "key_diff", .help = "unlikeness to the mean key (KeyDiff)",
    .parse = key_diff_parse, .describe = key_diff_describe, .score = key_diff_score};
