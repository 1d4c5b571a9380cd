/* Everything stays. */
#include <string.h>
#include "conf/fields.h"
#include "policy/stage.h"

static err all_parse(policy *p, const node *at, const node *map, void *conf) {
    static const field none[] = {FIELD_END};
    return fields_read(map, none, conf);
}

static void all_select(const void *conf, const decision *d) {
    for (int k = 0; k < d->n_heads; k++) memset(d->heads[k].target, 0, (size_t)d->heads[k].n);
}

const stage select_all = {
    .kind = STAGE_SELECT, .name = "all", .help = "everything stays", .live = true, .parse = all_parse, .select = all_select};
