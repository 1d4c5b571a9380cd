/* The same number of items for every head of every layer. The amount is the policy's `budget`, or written here in the same units. */
#include "policy/stage.h"

static err fixed_parse(policy *p, const node *at, const node *map, void *conf) {
    if (node_type(map) == NODE_NULL || (node_type(map) == NODE_MAP && node_count(map) == 0)) return OK;
    if (p->budget.unit)
        return NODE_ERR(map, "quota fixed gives an amount and so does budget: leave one of them out");
    return budget_parse(map, &p->budget);
}

static void fixed_allot(const void *conf, const decision *d) {
    for (int k = 0; k < d->n_heads; k++) d->heads[k].quota = d->kept < d->heads[k].n ? d->kept : d->heads[k].n;
}

const stage quota_fixed = {
    .kind = STAGE_QUOTA, .name = "fixed", .help = "equal for every head",
    .parse = fixed_parse, .live = true, .budgeted = true, .even = true, .allot = fixed_allot};
