/* No limit: who stays is up to select. */
#include "conf/fields.h"
#include "policy/stage.h"

static err none_parse(policy *p, const node *at, const node *map, void *conf) {
    static const field none[] = {FIELD_END};
    return fields_read(map, none, conf);
}

static void none_allot(const void *conf, const decision *d) {
    for (int k = 0; k < d->n_heads; k++) d->heads[k].quota = d->heads[k].n;
}

const stage quota_none = {
    .kind = STAGE_QUOTA, .name = "none", .help = "no limit", .parse = none_parse, .live = true, .allot = none_allot};
