/* The same number of items for every head, but of the first `skip` layers, which keep everything (L2Norm of KVCache-Factory). The amount
 * is the policy's `budget`, or written here in the same units; skipped layers count in a budget of bytes. */
#include <stdio.h>
#include "policy/stage.h"

static err fixed_parse(policy *p, const node *at, const node *map, void *conf) {
    const node *skip = node_type(map) == NODE_MAP ? node_get(map, "skip") : NULL;
    if (skip) {
        int64_t n;
        TRY(node_as_int(skip, &n));
        if (n < 0 || n > 1 << 16) return NODE_ERR(skip, "quota fixed: skip %lld is not a number of layers", (long long)n);
        p->skip_layers = (int)(n < p->shape.n_layers ? n : p->shape.n_layers);
    }
    if (node_type(map) == NODE_NULL || (node_type(map) == NODE_MAP && node_count(map) == (skip != NULL))) return OK;
    if (p->budget.unit)
        return NODE_ERR(map, "quota fixed gives an amount and so does budget: leave one of them out");
    return budget_parse(map, &p->budget);
}

static void fixed_describe(const policy *p, const void *conf, char *out, size_t n) {
    if (p->skip_layers) snprintf(out, n, "not the first %d layers", p->skip_layers);
}

static void fixed_allot(const void *conf, const decision *d) {
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        h->quota = h->kept < h->n && h->layer >= d->p->skip_layers ? h->kept : h->n;
    }
}

const stage quota_fixed = {
    .kind = STAGE_QUOTA, .name = "fixed", .help = "equal for every head",
    .parse = fixed_parse, .describe = fixed_describe, .live = true, .budgeted = true, .even = true, .allot = fixed_allot};
