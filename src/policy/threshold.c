#include "policy/threshold.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "policy/topk.h"

const char *const threshold_rule_names[] = {"alpha", "top_p", NULL};
const char *const threshold_base_names[] = {"prompt", "position", "kept", NULL};
const char *const threshold_ramp_names[] = {"none", "linear", "log", NULL};

double threshold_ramped(threshold_ramp kind, double first, double last, int layer, int n_layers) {
    if (kind == RAMP_NONE || n_layers < 2) return first;
    double x = (double)layer / (n_layers - 1);
    return first + (last - first) * (kind == RAMP_LOG ? log2(1 + x) : x);
}

static bool stays_first(const head_items *h, int i) { return h->flags[i] & (ITEM_PROTECTED | ITEM_FORCED); }

static int falling(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The smallest key of the set: items from the best until the share is reached; UINT64_MAX if the forced ones reach it alone. */
static uint64_t top_p_key(double p, const decision *d, const head_items *h) {
    double total = 0, have = 0;
    int n = 0;
    for (int i = 0; i < h->n; i++) {
        if (h->target[i] == KV_DROP) continue;
        total += (double)h->score[i];
        if (stays_first(h, i)) have += (double)h->score[i];
        else d->keys[n++] = topk_item_key(d->p, h, i);
    }
    qsort(d->keys, (size_t)n, sizeof *d->keys, falling);
    uint64_t last = UINT64_MAX;
    for (int i = 0; i < n && have < p * total; i++) {
        have += (double)topk_key_score(d->keys[i]);
        last = d->keys[i];
    }
    return last;
}

void threshold_level(const threshold *t, double value, const decision *d, const head_items *h, uint8_t *reached) {
    int n_kept = 0, window = policy_layer_window(d->p, h->layer);
    for (int i = 0; i < h->n; i++) n_kept += h->target[i] != KV_DROP;
    uint64_t key = t->rule == RULE_TOP_P ? top_p_key(value, d, h) : 0;
    for (int i = 0; i < h->n; i++) {
        double per = t->base == BASE_KEPT ? n_kept : window_sees(window, t->base == BASE_PROMPT ? d->n_tokens : (int)h->pos[i] + 1);
        bool yes = t->rule == RULE_TOP_P ? topk_item_key(d->p, h, i) >= key
                                         : threshold_reached((double)h->score[i], value * d->scale, per, t->equal_fails);
        reached[i] = h->target[i] != KV_DROP && (yes || stays_first(h, i));
    }
}
