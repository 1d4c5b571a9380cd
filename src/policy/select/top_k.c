/* The best `quota` items of each head stay: protected ones first, then forced ones from the newest, then by score. */
#include <stdio.h>
#include "conf/fields.h"
#include "policy/topk.h"

typedef struct top_k_conf { int ties; } top_k_conf;
STAGE_CONF_FITS(top_k_conf);

static const char *const ties_names[] = {"low", "high", NULL};

static const field top_k_fields[] = {
    FIELD_ENUM(top_k_conf, ties, "low", ties_names, "position that stays among equal scores"), FIELD_END};

static err top_k_parse(policy *p, const node *at, const node *map, void *conf) {
    top_k_conf *c = conf;
    TRY(fields_read(map, top_k_fields, c));
    p->ties_high = c->ties == 1;
    return OK;
}

static void top_k_describe(const policy *p, const void *conf, char *out, size_t n) {
    snprintf(out, n, "%s", p->ties_high ? "ties high" : "");
}

static void top_k_select(const void *conf, const decision *d) {
    for (int k = 0; k < d->n_heads; k++) topk_select(d, &d->heads[k]);
}

const stage select_top_k = {
    .kind = STAGE_SELECT, .name = "top_k", .help = "the best of each head, up to its quota",
    .live = true, .parse = top_k_parse, .describe = top_k_describe, .budgeted = true, .ranks = true, .select = top_k_select};
