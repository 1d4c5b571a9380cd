/* Keys with a small norm draw attention: score = -|k| (Knorm of kvpress; L2 norm, arXiv 2406.11430). */
#include "conf/fields.h"
#include "policy/stage.h"

typedef struct key_norm_conf { int signal; } key_norm_conf;
STAGE_CONF_FITS(key_norm_conf);

static err key_norm_parse(policy *p, const node *at, const node *map, void *conf) {
    static const field none[] = {FIELD_END};
    TRY(fields_read(map, none, conf));
    return policy_request_signal(p, at, (signal_request){.kind = SIGNAL_KEY_NORM}, &((key_norm_conf *)conf)->signal);
}

static void key_norm_score(const void *conf, const decision *d) {
    const float *norm = d->signal[((const key_norm_conf *)conf)->signal];
    for (int k = 0; k < d->n_heads; k++, norm += d->heads[0].n)
        for (int i = 0; i < d->heads[k].n; i++) d->heads[k].score[i] = -norm[i];
}

const stage score_key_norm = {
    .kind = STAGE_SCORE, .name = "key_norm", .help = "minus the norm of the key (Knorm)",
    .parse = key_norm_parse, .score = key_norm_score};
