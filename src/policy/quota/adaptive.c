/* Budgets of the heads of one layer from the layer's common ranking (Ada-KV, arXiv 2407.11550). Protected and forced items (f per
 * head) are outside the competition; base = kept - f per head, a_h = items of head h among the layer's n_heads * base best.
 *
 *   blend (Ada-KV's authors)  quota_h = f + rint(a_h * (1 - alpha) + int(alpha * base)), halves to even: the layer's total may be
 *                             a few items off (rounding: source), or is met by largest remainders (rounding: exact)
 *   floor (kvpress)           the best int(alpha * kept) of each head (at least 1 if alpha > 0; forced items come first) are
 *                             safe, the rest of the layer's total goes to the best of all heads; the total is exact
 */
#include <math.h>
#include <stdio.h>
#include "conf/fields.h"
#include "policy/quota/ranking.h"

typedef struct adaptive_conf { int mode, rounding, skip; double alpha; bool normalize; } adaptive_conf;
STAGE_CONF_FITS(adaptive_conf);

static const char *const mode_names[] = {"blend", "floor", NULL};
enum { MODE_BLEND, MODE_FLOOR };
static const char *const rounding_names[] = {"auto", "source", "exact", NULL};
enum { ROUND_AUTO, ROUND_SOURCE, ROUND_EXACT };

static const field adaptive_fields[] = {
    FIELD_ENUM(adaptive_conf, mode, "blend", mode_names, "how a head is kept from starving"),
    FIELD_DOUBLE(adaptive_conf, alpha, 0.2, 0, 1, "share of the budget that every head gets"),
    FIELD_ENUM(adaptive_conf, rounding, "auto", rounding_names, "blend: total of a layer; auto is exact under a byte budget, else source"),
    FIELD_BOOL(adaptive_conf, normalize, false, "scale a head's scores by the share its own best `base` hold, for the allotment only"),
    FIELD_INT(adaptive_conf, skip, 0, 0, 1 << 16, "first layers with equal budgets"),
    FIELD_END};

static err adaptive_parse(policy *p, const node *at, const node *map, void *conf) {
    adaptive_conf *c = conf;
    TRY(fields_read(map, adaptive_fields, c));
    if (c->mode == MODE_FLOOR && c->rounding == ROUND_SOURCE)
        return NODE_ERR(at, "quota adaptive: rounding: source belongs to mode: blend; floor has nothing to round");
    if (c->rounding == ROUND_AUTO) c->rounding = budget_needs_layouts(p) ? ROUND_EXACT : ROUND_SOURCE;
    p->needs.scope = SCOPE_LAYER;
    return OK;
}

static void adaptive_describe(const policy *p, const void *conf, char *out, size_t n) {
    const adaptive_conf *c = conf;
    snprintf(out, n, "%s %g%s%s", mode_names[c->mode], c->alpha,
             c->mode == MODE_BLEND && c->rounding == ROUND_EXACT ? ", exact" : "", c->normalize ? ", normalized" : "");
}

static int count_free(const head_items *h) {
    int n = 0;
    for (int i = 0; i < h->n; i++) n += ranking_competes(h, i);
    return n;
}

/* Share of a head's score that its own `base` best hold. */
static float head_weight(const decision *d, const head_items *h, int base) {
    int n = 0;
    for (int i = 0; i < h->n; i++)
        if (ranking_competes(h, i)) d->keys[n++] = topk_item_key(d->p, h, i);
    if (base >= n) return 1.0f;
    uint64_t threshold = topk_threshold(d->keys, n, base);
    double best = 0, all = 0;
    for (int i = 0; i < h->n; i++) {
        if (!ranking_competes(h, i)) continue;
        all += h->score[i];
        if (topk_item_key(d->p, h, i) >= threshold) best += h->score[i];
    }
    return all > 0 ? (float)(best / all) : 1.0f;
}

/* quota[h] = items of each head among the layer's `total` best; `safe` best ones of each head (all, if it has fewer) come first. */
static void layer_ranking(const decision *d, const float *weight, const int *room, int total, int safe) {
    uint64_t safe_threshold[POLICY_MAX_KV_HEADS];
    int rest = total;
    for (int k = 0; k < d->n_heads; k++) {
        int n = 0, own = safe < room[k] ? safe : room[k];
        const head_items *h = &d->heads[k];
        safe_threshold[k] = UINT64_MAX;
        rest -= own;
        if (own == 0) continue;
        for (int i = 0; i < h->n; i++)
            if (ranking_competes(h, i)) d->keys[n++] = topk_layer_key(d->p, h, i, d->n_heads, weight[k]);
        safe_threshold[k] = topk_threshold(d->keys, n, own);
    }
    int n = 0;
    for (int k = 0; k < d->n_heads; k++)
        for (int i = 0; i < d->heads[k].n; i++) {
            if (!ranking_competes(&d->heads[k], i)) continue;
            uint64_t key = topk_layer_key(d->p, &d->heads[k], i, d->n_heads, weight[k]);
            if (key < safe_threshold[k]) d->keys[n++] = key;
        }
    if (rest > n) rest = n;
    uint64_t threshold = rest > 0 ? topk_threshold(d->keys, n, rest) : UINT64_MAX;
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        h->quota = 0;
        for (int i = 0; i < h->n; i++) {
            if (!ranking_competes(h, i)) continue;
            uint64_t key = topk_layer_key(d->p, h, i, d->n_heads, weight[k]);
            h->quota += key >= safe_threshold[k] || key >= threshold;
        }
    }
}

/* Parts sum to n_heads * base: floors first, then one each by falling remainder, lower heads first among equals; a full head passes
 * its share on. */
static void blend_exact(const decision *d, double alpha, int base, const int *room) {
    double part[POLICY_MAX_KV_HEADS];
    int left = d->n_heads * base;
    for (int k = 0; k < d->n_heads; k++) {
        int *q = &d->heads[k].quota;
        part[k] = *q * (1 - alpha) + alpha * base;
        *q = (int)part[k];
        part[k] -= *q;
        if (*q > room[k]) *q = room[k];
        left -= *q;
    }
    for (; left > 0; left--) {
        int best = -1;
        for (int k = 0; k < d->n_heads; k++)
            if (d->heads[k].quota < room[k] && (best < 0 || part[k] > part[best])) best = k;
        if (best < 0) return;
        d->heads[best].quota++;
        part[best] -= 1;
    }
}

/* The layer keeps as much as under quota fixed: n_heads times what the budget allows beyond protected and forced items, which are as
 * many in every head. */
static void adaptive_allot(const void *conf, const decision *d) {
    const adaptive_conf *c = conf;
    int room[POLICY_MAX_KV_HEADS], all_room = 0, forced = d->heads[0].n - count_free(&d->heads[0]), base = d->heads[0].kept - forced;
    for (int k = 0; k < d->n_heads; k++) {
        room[k] = count_free(&d->heads[k]);
        all_room += room[k];
        assert(d->heads[k].n - room[k] == forced);
    }
    if (base <= 0 || all_room <= d->n_heads * base || d->heads[0].layer < c->skip) {
        bool all = base > 0 && all_room <= d->n_heads * base;
        for (int k = 0; k < d->n_heads; k++) d->heads[k].quota = all || d->heads[k].kept > d->heads[k].n ? d->heads[k].n : d->heads[k].kept;
        return;
    }
    float weight[POLICY_MAX_KV_HEADS];
    for (int k = 0; k < d->n_heads; k++) weight[k] = c->normalize ? head_weight(d, &d->heads[k], base) : 1.0f;
    int safe = 0;
    if (c->mode == MODE_FLOOR && c->alpha > 0) {
        safe = (int)(d->heads[0].kept * c->alpha);
        if (safe < 1) safe = 1;
        for (int k = 0; k < d->n_heads; k++) d->heads[k].safe = safe;
        safe = safe > forced ? safe - forced : 0;
        if (safe > base) safe = base;
    }
    layer_ranking(d, weight, room, d->n_heads * base, safe);
    if (c->mode == MODE_BLEND && c->rounding == ROUND_EXACT) blend_exact(d, c->alpha, base, room);
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        if (c->mode == MODE_BLEND && c->rounding == ROUND_SOURCE) {
            int q = (int)rint(h->quota * (1 - c->alpha) + (int)(c->alpha * base));
            h->quota = q < room[k] ? q : room[k];
        }
        h->quota += forced;
    }
}

const stage quota_adaptive = {
    .kind = STAGE_QUOTA, .name = "adaptive", .help = "per head, from one ranking of the layer (Ada-KV)",
    .parse = adaptive_parse, .describe = adaptive_describe, .live = true, .budgeted = true, .ranks = true, .allot = adaptive_allot};
