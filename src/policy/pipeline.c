/* The walk score -> quota -> select -> tier, or score -> decide, layer by layer or, under sequence scope, over all of them at once. */
#include <math.h>
#include <string.h>
#include "base/clock.h"
#include "base/clones.h"
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

static void allot(const policy *p, const decision *d) {
    const stage_use *u = &p->use[p->use[STAGE_DECIDE].st ? STAGE_DECIDE : STAGE_QUOTA];
    if (u->st->kind == STAGE_DECIDE) u->st->decide(u->conf, d);
    else u->st->allot(u->conf, d);
}

/* A quota of whole pages in decode: the items of each (head, tier), which lie together, stand as a head of their own, and are selected so. The
 * parts follow the heads. */
static bool splits_tiers(const policy *p, bool in_decode) {
    return in_decode && p->needs.n_tiers > 1 && p->use[STAGE_QUOTA].st && p->use[STAGE_QUOTA].st->chunks;
}

static void allot_tiers(const policy *p, const decision *d) {
    decision parts = *d;
    parts.heads = d->heads + d->n_heads;
    parts.n_heads = 0;
    for (int k = 0; k < d->n_heads; k++) {
        const head_items *h = &d->heads[k];
        for (int i = 0, end; i < h->n; i = end) {
            for (end = i + 1; end < h->n && h->tier_now[end] == h->tier_now[i]; end++) continue;
            head_items part = *h;
            part.n = end - i;
            part.pos += i;
            part.tier_now += i;
            part.score += i;
            part.flags += i;
            part.target += i;
            assert(parts.n_heads < d->n_heads * p->needs.n_tiers);
            parts.heads[parts.n_heads++] = part;
        }
    }
    p->use[STAGE_QUOTA].st->allot(p->use[STAGE_QUOTA].conf, &parts);
    p->use[STAGE_SELECT].st->select(p->use[STAGE_SELECT].conf, &parts);
}

VECTOR_CLONES static void mark_important(const head_items *h) {
    const uint8_t *restrict target = h->target;
    uint8_t *restrict flags = h->flags;
    for (int i = 0, n = h->n; i < n; i++) {
        uint8_t important = target[i] != KV_DROP && !(flags[i] & ITEM_REPRESENTATIVE) ? ITEM_IMPORTANT : 0;
        flags[i] = (uint8_t)((flags[i] & ~ITEM_IMPORTANT) | important); /* of an earlier try */
    }
}

static void select_layer(const policy *p, const decision *d, bool selected) {
    const stage_use *u = p->use;
    if (!u[STAGE_DECIDE].st) {
        double start = d->select_seconds ? clock_thread() : 0;
        if (!selected) u[STAGE_SELECT].st->select(u[STAGE_SELECT].conf, d);
        if (d->select_seconds) *d->select_seconds += clock_thread() - start;
        for (int k = 0; k < d->n_heads; k++) mark_important(&d->heads[k]);
    }
}

static void assign_tiers(const policy *p, const decision *d) {
    const stage_use *u = p->use;
    if (!u[STAGE_DECIDE].st) u[STAGE_TIER].st->assign(u[STAGE_TIER].conf, d);
    for (int k = 0; k < d->n_heads; k++) keep_groups_whole(p, &d->heads[k]);
}

/* Places all layers with the thresholds multiplied by `scale`; the sequence's bytes. */
static double place_scaled(const policy *p, const decision *all, int n_layers, double scale) {
    decision d = *all;
    int n_kv = p->shape.n_kv;
    double bytes = 0;
    d.scale = scale;
    d.n_heads = n_kv;
    for (int l = 0; l < n_layers; l++) {
        d.heads = all->heads + l * n_kv;
        d.signal = all->from[l].signal;
        if (p->use[STAGE_DECIDE].st) allot(p, &d);
        select_layer(p, &d, false);
    }
    d.heads = all->heads;
    d.n_heads = n_layers * n_kv;
    d.signal = NULL;
    assign_tiers(p, &d);
    for (int l = 0; l < n_layers; l++) {
        d.heads = all->heads + l * n_kv;
        for (int k = 0; k < n_kv; k++) {
            int per_tier[KV_MAX_TIERS] = {0};
            for (int i = 0; i < d.heads[k].n; i++)
                if (d.heads[k].target[i] != KV_DROP) per_tier[d.heads[k].target[i]]++;
            bytes += budget_head_share(p) + budget_items_bytes(p, per_tier);
        }
    }
    return bytes;
}

/* The smallest factor of all thresholds that meets the byte budget: bytes fall as it grows, in steps of one item where no scores are
 * equal. Bisection to a relative width below that of f32 scores. */
static void place_within_bytes(const policy *p, const decision *all, int n_layers) {
    double limit = budget_sequence_bytes(p, all->n_tokens), lo = 0, hi = 1;
    *all->found_scale = 0;
    if (place_scaled(p, all, n_layers, 0) <= limit) return;
    while (hi < 1e30 && place_scaled(p, all, n_layers, hi) > limit) lo = hi, hi *= 1024;
    *all->found_scale = hi;
    if (hi >= 1e30) {
        *all->clamped = true;
        return;
    }
    for (int i = 0; i < 80 && hi > lo * (1 + 1e-9); i++) {
        double mid = lo > 0 ? sqrt(lo * hi) : hi / 32;
        if (place_scaled(p, all, n_layers, mid) > limit) lo = mid;
        else hi = mid;
    }
    *all->found_scale = hi;
    place_scaled(p, all, n_layers, hi);
}

/* Scores, shares and places the items of `layers` layers of n_kv heads each. */
static void decide(const policy *p, const decision *all, int n_layers, policy_observer observe, void *observer) {
    int n_kv = p->shape.n_kv;
    bool together = p->needs.scope == SCOPE_SEQUENCE, scaled = all->from && policy_scales_to_bytes(p);
    bool split = splits_tiers(p, !all->from);
    decision d = *all;
    d.n_heads = n_kv;
    for (int pass = 0; pass < (together ? 2 : 1); pass++) {
        for (int l = 0; l < n_layers; l++) {
            d.heads = all->heads + l * n_kv;
            d.signal = all->from ? all->from[l].signal : NULL;
            if (pass == 0) score_layer(p, &d);
            if (!together) (split ? allot_tiers : allot)(p, &d);
            if (!together || pass == 1) select_layer(p, &d, split);
            if (!together) assign_tiers(p, &d);
        }
        if (together && pass == 0 && all->from && observe) observe(observer, all->heads, all->n_heads);
        if (together && pass == 0 && !(scaled && p->use[STAGE_DECIDE].st)) (split ? allot_tiers : allot)(p, all);
        if (scaled) {
            place_within_bytes(p, all, n_layers);
            return;
        }
    }
    if (together) assign_tiers(p, all);
}

static bool decides_before_step(const policy *p) { return p->use[STAGE_DECIDE].st && p->use[STAGE_DECIDE].st->before_step; }

static err check_bound(const policy *p) {
    if (budget_needs_layouts(p) && !p->bound)
        return ERR(ERR_UNSUPPORTED, "policy: a budget in bytes or pages needs the page layouts before the first decision (policy_bind)");
    bool measured = p->chunk && (p->chunk == POLICY_CHUNK_PHYSICAL || p->needs.n_tiers > 1);
    if (measured && !p->bound)
        return ERR(ERR_UNSUPPORTED, "policy: quota pages with physical pages or several tiers needs the page layouts before the first decision (policy_bind)");
    return OK;
}

static int first_unplaced(const policy *p, int n_tokens) {
    return n_tokens > p->protect.recent ? n_tokens - p->protect.recent : 0;
}

/* What holds after every decision, in builds that check: protected items stay, targets are tiers that their items can go to. */
static void check_decision(const policy *p, const head_items *heads, int n_heads, int n_tokens) {
#ifdef KVLAB_CHECKS
    int64_t first_recent = (int64_t)n_tokens + decides_before_step(p) - p->protect.recent; /* the coming token is the newest then */
    for (int k = 0; k < n_heads; k++)
        for (int i = 0; i < heads[k].n; i++) {
            const head_items *h = &heads[k];
            uint8_t to = h->target[i];
            assert(to == KV_DROP || to < p->needs.n_tiers);
            assert(to != KV_DROP || !((h->flags[i] & ITEM_SINK) || (int64_t)h->pos[i] >= first_recent));
            assert(to == KV_DROP || !h->tier_now || to == h->tier_now[i] || kv_format_can_move(p->needs.tiers[h->tier_now[i]], p->needs.tiers[to]));
        }
#endif
}

VECTOR_CLONES static int count_kept(const head_items *h) {
    int n = 0;
    for (int i = 0; i < h->n; i++) n += h->target[i] != KV_DROP;
    return n;
}

/* What heads hold after a decision, on average: quotas that differ from head to head keep their sum. */
static int mean_kept(const head_items *heads, int n_heads) {
    int64_t sum = 0;
    for (int k = 0; k < n_heads; k++) sum += count_kept(&heads[k]);
    return n_heads ? (int)(sum / n_heads) : 0;
}
static int mean_items(const head_items *heads, int n_heads) {
    int64_t sum = 0;
    for (int k = 0; k < n_heads; k++) sum += heads[k].n;
    return n_heads ? (int)(sum / n_heads) : 0;
}

/* Whole pages may leave a few more items than the budget, and so may representatives on top of it: slack counts from what a decision left. */
static int left_of_budget(const policy *p, int left, int kept) {
    bool more = p->over_budget || (p->use[STAGE_QUOTA].st && p->use[STAGE_QUOTA].st->chunks);
    return more && left > kept ? kept : left;
}

/* Items per head that the budget allows in the decision at n_tokens tokens: all of them where no count limits it. */
static void find_budgets(const policy *p, policy_state *s, int n_tokens, bool limited) {
    bool clamped = false, counted = limited && !policy_scales_to_bytes(p), all = p->needs.all_layers;
    s->budget_layer[0] = counted && policy_n_sliding(p) < p->shape.n_layers ? budget_kept(p, 0, s->n_prompt, n_tokens, &clamped) : n_tokens;
    s->budget_layer[1] = counted && all ? budget_kept(p, p->shape.window, s->n_prompt, n_tokens, &clamped) : n_tokens;
    s->budget_now[KEPT_GLOBAL] = counted ? class_mean(p, s->budget_layer[0], s->budget_layer[1]) : n_tokens;
    s->budget_now[KEPT_SLIDING] = s->budget_layer[1];
    s->report.budget_clamped |= clamped;
}

/* Items of n_layers layers at prefill: scratch of the state, entry by entry. */
static void prompt_heads(const policy *p, policy_state *s, policy_layer *layers, int n_layers) {
    int n_kv = p->shape.n_kv;
    size_t at = 0;
    for (int l = 0; l < n_layers; l++)
        for (int k = 0; k < n_kv; k++) {
            policy_layer *y = &layers[l];
            size_t own = (size_t)k * (size_t)(y->ld ? y->ld : y->n);
            s->own.heads[l * n_kv + k] = (head_items){.layer = y->layer, .head = k, .n = y->n, .pos = s->pos + y->first, .score = s->own.score + at,
                                                      .live = y->live ? y->live + own : NULL, .flags = s->own.flags + at, .target = y->target + own};
            at += (size_t)y->n;
        }
}

/* Layers that are decided together: one, or all under sequence scope. `left`: the mean number of items a head keeps. */
static err prefill_layers(const policy *p, policy_state *s, policy_layer *layers, int n_layers, int *left) {
    int n = layers[0].first + layers[0].n, n_heads = n_layers * p->shape.n_kv, class = class_of_layer(p, layers[0].layer);
    size_t n_items = 0;
    for (int l = 0; l < n_layers; l++) n_items += (size_t)p->shape.n_kv * (size_t)layers[l].n;
    TRY(scratch_reserve(&s->own, p, n_heads, n_items, n));
    TRY(state_reserve_positions(s, n));
    prompt_heads(p, s, layers, n_layers);
    decision d = {.p = p, .seed = s->seed, .n_tokens = n, .n_prompt = n, .scale = 1, .found_scale = &s->scale, .clamped = &s->report.budget_clamped,
                  .select_seconds = &s->report.select_seconds, .heads = s->own.heads, .n_heads = n_heads, .keys = s->own.keys, .tmp = s->own.tmp,
                  .work = s->own.work, .from = layers};
    if (p->trigger.prefill) {
        find_budgets(p, s, n, true);
        for (int k = 0; k < n_heads; k++) s->own.heads[k].kept = s->budget_layer[policy_layer_slides(p, s->own.heads[k].layer)];
        decide(p, &d, n_layers, s->observe, s->observer);
        check_decision(p, s->own.heads, n_heads, n);
        *left = left_of_budget(p, mean_kept(s->own.heads, n_heads), s->budget_now[class]);
        return OK;
    }
    for (int l = 0; l < n_layers; l++) {
        d.heads = s->own.heads + l * p->shape.n_kv;
        d.n_heads = p->shape.n_kv;
        d.signal = layers[l].signal;
        if (p->needs.live.on) score_layer(p, &d); /* fills the columns that decode goes on from */
        for (int k = 0; k < d.n_heads; k++) memset(d.heads[k].target, 0, (size_t)d.heads[k].n);
    }
    *left = mean_items(s->own.heads, n_heads);
    return OK;
}

err policy_prefill(const policy *p, policy_state *s, policy_layer *layers, int n_layers) {
    TRY(check_bound(p));
    bool together = p->needs.scope == SCOPE_SEQUENCE;
    if (together && n_layers != p->shape.n_layers)
        return ERR(ERR_UNSUPPORTED, "policy: %s %s ranks all %d layers together, %d were given", stage_kind_name(p->use[STAGE_DECIDE].st ? STAGE_DECIDE : STAGE_QUOTA),
                   p->use[p->use[STAGE_DECIDE].st ? STAGE_DECIDE : STAGE_QUOTA].st->name, p->shape.n_layers, n_layers);
    for (int i = 0; i < n_layers; i += together ? n_layers : 1) {
        policy_layer *l = &layers[i];
        int left, n = l->first + l->n, class = class_of_layer(p, l->layer);
        if (l->n < 1) return ERR(ERR_UNSUPPORTED, "policy: a prompt has at least one token, this one %d", l->n);
        s->n_prompt = n;
        TRY(prefill_layers(p, s, l, together ? n_layers : 1, &left));
        TRY(plugins_status(p));
        bool first = l->layer == 0, last = together || l->layer == p->shape.n_layers - 1;
        if (first) memset(s->kept, 0, sizeof s->kept);
        if (left > s->kept[class]) s->kept[class] = left; /* the fullest layer */
        s->report.n_decisions += first && p->trigger.prefill;
        if (!last) continue;
        state_decided(s, n, s->kept, p->trigger.prefill ? first_unplaced(p, n) : 0);
        if (decides_before_step(p) && s->due != INT32_MAX) s->due = n;
    }
    return OK;
}

/* How many bytes, up to n, are equal at the beginning. */
static int same_bytes(const uint8_t *a, const uint8_t *b, int n) {
    int i = 0;
    for (uint64_t x, y; i + 8 <= n; i += 8) {
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        if (x != y) break;
    }
    while (i < n && a[i] == b[i]) i++;
    return i;
}

/* An item only ever moves to a tier that it can be re-quantised to. */
static void keep_tiers_falling(const policy *p, const head_items *h) {
    for (int i = 0; i < h->n && p->needs.n_tiers > 1; i++) {
        i += same_bytes(h->target + i, h->tier_now + i, h->n - i);
        if (i == h->n) return;
        uint8_t to = h->target[i], now = h->tier_now[i];
        if (to != KV_DROP && to != now && !kv_format_can_move(p->needs.tiers[now], p->needs.tiers[to])) h->target[i] = now;
    }
}

/* What the prompt's score chose stays; only tiers change. */
static void move_only(const policy *p, const decision *d) {
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        protect_flags(&p->protect, d->n_tokens, h);
        for (int i = 0; i < h->n; i++) h->flags[i] |= ITEM_IMPORTANT;
        memset(h->target, 0, (size_t)h->n);
        if (!p->decode_moves) memcpy(h->target, h->tier_now, (size_t)h->n);
    }
    if (p->decode_moves) p->use[STAGE_TIER].st->assign(p->use[STAGE_TIER].conf, d);
    for (int k = 0; k < d->n_heads; k++) keep_groups_whole(p, &d->heads[k]);
}

/* Columns of n_heads heads as the scratch's heads. */
static err column_heads(const policy *p, const policy_state *s, decision_scratch *x, const policy_columns *cols, int n_heads, int n_tokens) {
    size_t n_items = 0;
    for (int k = 0; k < n_heads; k++) n_items += (size_t)cols[k].n;
    int parts = splits_tiers(p, true) ? p->needs.n_tiers : 0;
    TRY(scratch_reserve(x, p, n_heads * (1 + parts), n_items, n_tokens));
    size_t at = 0;
    for (int k = 0; k < n_heads; k++) {
        const policy_columns *c = &cols[k];
        x->heads[k] = (head_items){.layer = c->layer, .head = c->head, .n = c->n, .pos = c->pos, .tier_now = c->tier, .score = x->score + at,
                                   .live = p->needs.live.on ? c->score : NULL, .flags = x->flags + at, .target = c->target,
                                   .kept = s->budget_layer[policy_layer_slides(p, c->layer)]};
        at += (size_t)c->n;
    }
    return OK;
}

/* n_layers layers that are decided together: one, or all under sequence scope. */
static err decode_layers(const policy *p, policy_state *s, decision_scratch *x, int n_tokens, const policy_columns *cols, int n_layers) {
    int n_heads = n_layers * p->shape.n_kv;
    bool clamped = false; /* budgets are met before */
    TRY(column_heads(p, s, x, cols, n_heads, n_tokens));
    decision d = {.p = p, .seed = s->seed, .n_tokens = n_tokens, .n_prompt = s->n_prompt, .scale = s->scale, .clamped = &clamped,
                  .first_new = s->first_new, .heads = x->heads, .n_heads = n_heads, .keys = x->keys, .tmp = x->tmp, .work = x->work};
    if (p->decode_drops) decide(p, &d, n_layers, NULL, NULL);
    else move_only(p, &d);
    for (int k = 0; k < n_heads; k++) keep_tiers_falling(p, &x->heads[k]);
    check_decision(p, x->heads, n_heads, n_tokens);
    int class = class_of_layer(p, cols[0].layer), left = left_of_budget(p, mean_kept(x->heads, n_heads), s->budget_now[class]);
    if (left > x->most[class]) x->most[class] = left;
    return OK;
}

bool policy_decides_by_layer(const policy *p) {
    for (int k = 0; k < STAGE_N_KINDS; k++)
        if (p->plugins[k]) return false; /* need not stand being called by several threads */
    return p->needs.scope != SCOPE_SEQUENCE;
}

err policy_decode_begin(const policy *p, policy_state *s, int n_tokens, size_t most_items, int n_threads) {
    TRY(check_bound(p));
    find_budgets(p, s, n_tokens, p->decode_drops);
    TRY(state_reserve_threads(s, n_threads, most_items, n_tokens));
    for (int i = 0; i <= s->n_others; i++) memset(state_scratch(s, i)->most, 0, sizeof s->own.most);
    return OK;
}

err policy_decode_layer(const policy *p, policy_state *s, int thread, int n_tokens, const policy_columns *cols) {
    return decode_layers(p, s, state_scratch(s, thread), n_tokens, cols, 1);
}

err policy_decode_end(const policy *p, policy_state *s, int n_tokens) {
    int most[KEPT_CLASSES] = {0};
    for (int i = 0; i <= s->n_others; i++)
        for (int c = 0; c < KEPT_CLASSES; c++)
            if (state_scratch(s, i)->most[c] > most[c]) most[c] = state_scratch(s, i)->most[c];
    TRY(plugins_status(p));
    s->report.n_decisions++;
    int first_new = first_unplaced(p, n_tokens + decides_before_step(p));
    state_decided(s, n_tokens, most, first_new < n_tokens ? first_new : n_tokens);
    return OK;
}

err policy_decode(const policy *p, policy_state *s, int n_tokens, policy_columns *cols) {
    int together = p->needs.scope == SCOPE_SEQUENCE ? p->shape.n_layers : 1;
    TRY(policy_decode_begin(p, s, n_tokens, 0, 1));
    for (int l = 0; l < p->shape.n_layers; l += together) TRY(decode_layers(p, s, &s->own, n_tokens, cols + l * p->shape.n_kv, together));
    return policy_decode_end(p, s, n_tokens);
}
