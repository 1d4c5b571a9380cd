/* Budgets that fall linearly from the first layer to the last (PyramidKV, arXiv 2406.02069). Forced items (w per head, the window) lie
 * inside the budget; S tokens, L layers:
 *
 *   factory  KVCache-Factory, integers: base = kept - w, min = base / beta, max = 2 base - min; if max >= S - w: max = S - w,
 *            min = 2 base - max; layer l keeps w + max - l ((max - min) / (L - 1)). Uniform when S < 2 base. The total overspends.
 *   kvpress  the same in reals from S * ratio, where layer l keeps rint(max - l step) in all, window included; uniform unless
 *            S >= max >= min >= w
 *   exact    the schedule of factory in reals, rounded so that the layers' total is L * kept
 * With sliding layers each layer takes its place in the schedule of its own S and kept.
 */
#include <math.h>
#include <stdio.h>
#include "conf/fields.h"
#include "policy/stage.h"

typedef struct pyramid_conf { int mode, beta; } pyramid_conf;
STAGE_CONF_FITS(pyramid_conf);

static const char *const mode_names[] = {"exact", "factory", "kvpress", NULL};
enum { MODE_EXACT, MODE_FACTORY, MODE_KVPRESS };
static const field pyramid_fields[] = {
    FIELD_ENUM(pyramid_conf, mode, "exact", mode_names, "arithmetic of the schedule"),
    FIELD_INT(pyramid_conf, beta, 20, 1, 1 << 16, "the last layer's share is base / beta"), FIELD_END};

static err pyramid_parse(policy *p, const node *at, const node *map, void *conf) {
    return fields_read(map, pyramid_fields, conf);
}

static void pyramid_describe(const policy *p, const void *conf, char *out, size_t n) {
    const pyramid_conf *c = conf;
    snprintf(out, n, "%s, beta %d", mode_names[c->mode], c->beta);
}

static int factory(int kept, int w, int n, int layer, int n_layers, int beta) {
    int base = kept - w;
    if (base <= 0 || n < 2 * base) return kept;
    int min = base / beta, max = 2 * base - min;
    if (max >= n - w) {
        max = n - w;
        min = 2 * base - max;
    }
    return w + max - layer * (n_layers > 1 ? (max - min) / (n_layers - 1) : 0);
}

static int kvpress(double cap, int w, int n, int layer, int n_layers, int beta) {
    double min = cap / beta, max = 2 * cap - min;
    if (max >= n - w) {
        max = n - w;
        min = 2 * cap - max;
    }
    double kept = rint(cap);
    if (n >= max && max >= min && min >= w) kept = rint(max - layer * (n_layers > 1 ? (max - min) / (n_layers - 1) : 0));
    return kept < 1 ? 1 : (int)kept;
}

static int exact(int kept, int w, int n, int layer, int n_layers, int beta) {
    double base = kept - w;
    if (base <= 0 || n < 2 * base || n_layers == 1) return kept;
    double min = base / beta, max = 2 * base - min;
    if (max >= n - w) {
        max = n - w;
        min = 2 * base - max;
    }
    double step = (max - min) / (n_layers - 1);
    /* what layers 0 .. l keep, rounded, minus what layers 0 .. l - 1 keep, rounded */
    double upto = (layer + 1) * max - step * layer * (layer + 1) / 2, before = layer * max - step * layer * (layer - 1) / 2;
    return w + (int)(rint(upto) - rint(before));
}

static void pyramid_allot(const void *conf, const decision *d) {
    const pyramid_conf *c = conf;
    const policy *p = d->p;
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        int w = 0, least = 0, n_layers = p->shape.n_layers, q;
        for (int i = 0; i < h->n; i++) {
            w += (h->flags[i] & (ITEM_PROTECTED | ITEM_FORCED)) != 0;
            least += (h->flags[i] & ITEM_PROTECTED) != 0;
        }
        double cap = p->budget.unit == BUDGET_RATIO ? h->n * (1 - (1 - p->budget.amount)) : h->kept;
        if (h->kept >= h->n) q = h->n;
        else if (c->mode == MODE_KVPRESS) q = kvpress(cap, w, h->n, h->layer, n_layers, c->beta);
        else if (c->mode == MODE_FACTORY) q = factory(h->kept, w, h->n, h->layer, n_layers, c->beta);
        else q = exact(h->kept, w, h->n, h->layer, n_layers, c->beta);
        q = q > least ? q : least; /* kvpress counts from the ratio, whatever is protected */
        h->quota = q < h->n ? q : h->n;
    }
}

const stage quota_pyramid = {
    .kind = STAGE_QUOTA, .name = "pyramid", .help = "less and less from the first layer to the last (PyramidKV)",
    .parse = pyramid_parse, .describe = pyramid_describe, .budgeted = true, .allot = pyramid_allot};
