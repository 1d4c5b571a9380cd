/* The walk score -> quota -> select -> tier, at prefill over a layer's heads and in decode over one head at a time. */
#include <string.h>
#include "base/mem.h"
#include "policy/plugin.h"
#include "policy/state.h"

/* Tiers with K per channel take whole groups: of the items on their way to one, the newest beyond the last whole group stay in (or, at
 * prefill, go to) the hot tier. */
static void keep_groups_whole(const policy *p, const head_items *h) {
    for (int t = 1; t < p->needs.n_tiers; t++) {
        int n_left = 0, group = kv_format_item_group(p->needs.tiers[t]);
        for (int i = 0; i < h->n && group > 1; i++) n_left += h->target[i] == t && (!h->tier_now || h->tier_now[i] != t);
        for (n_left %= group; n_left > 0; n_left--) {
            int newest = -1;
            for (int i = 0; i < h->n; i++) {
                bool comes = h->target[i] == t && (!h->tier_now || h->tier_now[i] != t);
                if (comes && (newest < 0 || h->pos[i] > h->pos[newest])) newest = i;
            }
            h->target[newest] = 0;
        }
    }
}

static void score_layer(const policy *p, const decision *d) {
    for (int k = 0; k < d->n_heads; k++) protect_flags(&p->protect, d->n_tokens, &d->heads[k]);
    if (p->use[STAGE_SCORE].st) p->use[STAGE_SCORE].st->score(p->use[STAGE_SCORE].conf, d);
}

static void place_layer(const policy *p, const decision *d) {
    const stage_use *u = p->use;
    u[STAGE_SELECT].st->select(u[STAGE_SELECT].conf, d);
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        for (int i = 0; i < h->n; i++)
            if (h->target[i] != KV_DROP && !(h->flags[i] & ITEM_REPRESENTATIVE)) h->flags[i] |= ITEM_IMPORTANT;
    }
    u[STAGE_TIER].st->assign(u[STAGE_TIER].conf, d);
    for (int k = 0; k < d->n_heads; k++) keep_groups_whole(p, &d->heads[k]);
}

static void decide(const policy *p, const decision *d) {
    score_layer(p, d);
    p->use[STAGE_QUOTA].st->allot(p->use[STAGE_QUOTA].conf, d);
    place_layer(p, d);
}

static err check_bound(const policy *p) {
    if (p->budget.unit == BUDGET_BYTES && !p->bound)
        return ERR(ERR_UNSUPPORTED, "policy: a byte budget needs the page layouts before the first decision (policy_bind)");
    return OK;
}

static int first_unplaced(const policy *p, int n_tokens) {
    return n_tokens > p->protect.recent ? n_tokens - p->protect.recent : 0;
}

static int count_kept(const head_items *h) {
    int n = 0;
    for (int i = 0; i < h->n; i++) n += h->target[i] != KV_DROP;
    return n;
}

static int fullest(const head_items *heads, int n_heads) {
    int most = 0;
    for (int k = 0; k < n_heads; k++) {
        int left = count_kept(&heads[k]);
        most = left > most ? left : most;
    }
    return most;
}

/* One layer; returns the number of items in its fullest head. */
static int prefill_layer(const policy *p, policy_state *s, policy_layer *l, int kept) {
    head_items heads[POLICY_MAX_KV_HEADS];
    size_t n = (size_t)l->n;
    for (int k = 0; k < p->shape.n_kv; k++)
        heads[k] = (head_items){.layer = l->layer, .head = k, .n = l->n, .pos = s->pos, .score = s->score + k * n,
                                .flags = s->flags + k * n, .target = l->target + k * n};
    decision d = {.p = p, .seed = s->seed, .n_tokens = l->n, .kept = kept, .signal = l->signal, .heads = heads,
                  .n_heads = p->shape.n_kv, .keys = s->keys, .tmp = s->tmp};
    decide(p, &d);
    return fullest(heads, p->shape.n_kv);
}

/* All layers: scores of each, one allotment, then who stays in each. */
static err prefill_sequence(const policy *p, policy_state *s, policy_layer *layers, int n_layers) {
    int n_kv = p->shape.n_kv, n = layers[0].n, n_heads = n_layers * n_kv;
    if (n_layers != p->shape.n_layers)
        return ERR(ERR_UNSUPPORTED, "policy: quota %s ranks all %d layers together, %d were given", p->use[STAGE_QUOTA].st->name,
                   p->shape.n_layers, n_layers);
    TRY(state_reserve(s, n_heads, n));
    TRY(mem_reserve(MEM_POLICY, (size_t)n_heads * sizeof *s->heads, &s->heads, &s->heads_cap));
    int kept = budget_kept(p, n, n, &s->report.budget_clamped);
    decision d = {.p = p, .seed = s->seed, .n_tokens = n, .kept = kept, .n_heads = n_kv, .keys = s->keys, .tmp = s->tmp};
    for (int l = 0; l < n_layers; l++) {
        for (int k = 0; k < n_kv; k++) {
            size_t at = (size_t)(l * n_kv + k) * (size_t)n;
            s->heads[l * n_kv + k] = (head_items){.layer = layers[l].layer, .head = k, .n = n, .pos = s->pos, .score = s->score + at,
                                                  .flags = s->flags + at, .target = layers[l].target + (size_t)k * (size_t)n};
        }
        d.heads = s->heads + l * n_kv;
        d.signal = layers[l].signal;
        score_layer(p, &d);
    }
    decision all = d;
    all.heads = s->heads;
    all.n_heads = n_heads;
    all.signal = NULL;
    p->use[STAGE_QUOTA].st->allot(p->use[STAGE_QUOTA].conf, &all);
    for (int l = 0; l < n_layers; l++) {
        d.heads = s->heads + l * n_kv;
        d.signal = layers[l].signal;
        place_layer(p, &d);
    }
    TRY(plugins_status(p));
    s->report.n_decisions++;
    state_decided(s, n, fullest(s->heads, n_heads), first_unplaced(p, n));
    return OK;
}

err policy_prefill(const policy *p, policy_state *s, policy_layer *layers, int n_layers) {
    TRY(check_bound(p));
    if (p->needs.scope == SCOPE_SEQUENCE && p->trigger.prefill) {
        if (layers[0].n < 1) return ERR(ERR_UNSUPPORTED, "policy: a prompt has at least one token, this one %d", layers[0].n);
        s->n_prompt = layers[0].n;
        TRY(state_reserve_positions(s, layers[0].n));
        return prefill_sequence(p, s, layers, n_layers);
    }
    for (int i = 0; i < n_layers; i++) {
        policy_layer *l = &layers[i];
        bool first = l->layer == 0;
        if (l->n < 1) return ERR(ERR_UNSUPPORTED, "policy: a prompt has at least one token, this one %d", l->n);
        s->n_prompt = l->n;
        if (!p->trigger.prefill) {
            memset(l->target, 0, (size_t)p->shape.n_kv * (size_t)l->n);
            state_decided(s, l->n, l->n, 0);
            continue;
        }
        TRY(state_reserve(s, p->shape.n_kv, l->n));
        TRY(state_reserve_positions(s, l->n));
        int kept = budget_kept(p, l->n, l->n, &s->report.budget_clamped);
        int left = prefill_layer(p, s, l, kept);
        TRY(plugins_status(p));
        if (!first && s->kept > left) left = s->kept;
        s->report.n_decisions += first;
        if (l->layer == p->shape.n_layers - 1) state_decided(s, l->n, left, first_unplaced(p, l->n));
        else s->kept = left;
    }
    return OK;
}

/* An item only ever moves to a tier that it can be re-quantised to. */
static void keep_tiers_falling(const policy *p, const head_items *h) {
    for (int i = 0; i < h->n; i++) {
        uint8_t to = h->target[i], now = h->tier_now[i];
        if (to != KV_DROP && to != now && !kv_format_can_move(p->needs.tiers[now], p->needs.tiers[to])) h->target[i] = now;
    }
}

err policy_decode(const policy *p, policy_state *s, int n_tokens, policy_columns *cols) {
    TRY(check_bound(p));
    int kept = n_tokens, most = 0, n_cols = p->shape.n_layers * p->shape.n_kv;
    bool clamped = false;
    if (p->decode_drops) kept = budget_kept(p, s->n_prompt, n_tokens, &clamped);
    s->report.budget_clamped |= clamped;
    for (int c = 0; c < n_cols; c++) {
        policy_columns *col = &cols[c];
        TRY(state_reserve(s, 1, col->n));
        head_items h = {.layer = col->layer, .head = col->head, .n = col->n, .pos = col->pos, .tier_now = col->tier,
                        .score = s->score, .flags = s->flags, .target = col->target};
        decision d = {.p = p, .seed = s->seed, .n_tokens = n_tokens, .kept = kept, .first_new = s->first_new,
                      .heads = &h, .n_heads = 1, .keys = s->keys, .tmp = s->tmp};
        if (p->decode_drops) {
            decide(p, &d);
        } else { /* what the prompt's score chose stays; only tiers change */
            protect_flags(&p->protect, n_tokens, &h);
            for (int i = 0; i < h.n; i++) h.flags[i] |= ITEM_IMPORTANT;
            memset(h.target, 0, (size_t)h.n);
            if (p->decode_moves) p->use[STAGE_TIER].st->assign(p->use[STAGE_TIER].conf, &d);
            else memcpy(h.target, h.tier_now, (size_t)h.n);
            keep_groups_whole(p, &h);
        }
        keep_tiers_falling(p, &h);
        int left = count_kept(&h);
        most = left > most ? left : most;
    }
    TRY(plugins_status(p));
    s->report.n_decisions++;
    state_decided(s, n_tokens, most, first_unplaced(p, n_tokens));
    return OK;
}
