/* Stages that do not fit together are configuration errors that name both, at the place of one of them. */
#include "policy/parts.h"

static const node *place(const policy_parts *at, const node *first) { return first ? first : at->root; }

/* A fused `decide` instead of quota, select and tier. */
static err check_decide(const policy *p, const policy_parts *at) {
    const stage *score = p->use[STAGE_SCORE].st, *decide = p->use[STAGE_DECIDE].st;
    const node *here = at->stage[STAGE_DECIDE];
    char limit[64];
    budget_describe(&p->budget, limit, sizeof limit);
    if (decide->budgeted && !p->budget.unit) return NODE_ERR(here, "decide %s needs a budget: a ratio of the tokens, {tokens: n}, {bytes: x} or {pages: n}", decide->name);
    if (p->budget.unit && !decide->budgeted && !policy_scales_to_bytes(p))
        return NODE_ERR(place(at, at->budget), "%s cannot be met: decide %s says itself how much stays", limit, decide->name);
    if (decide->ranks && !score) return NODE_ERR(here, "decide %s reads scores, but there is no score stage", decide->name);
    if (score && !decide->ranks) return NODE_ERR(at->stage[STAGE_SCORE], "score %s has no reader: decide %s reads none", score->name, decide->name);
    return OK;
}

static err check_budget(const policy *p, const policy_parts *at) {
    if (p->use[STAGE_DECIDE].st) return check_decide(p, at);
    const stage *score = p->use[STAGE_SCORE].st, *quota = p->use[STAGE_QUOTA].st, *sel = p->use[STAGE_SELECT].st;
    const stage *tier = p->use[STAGE_TIER].st;
    char limit[64];
    budget_describe(&p->budget, limit, sizeof limit);
    if (quota->budgeted && !p->budget.unit)
        return NODE_ERR(place(at, at->stage[STAGE_QUOTA]),
                        "quota %s needs a budget: a ratio of the tokens, {tokens: n}, {rate: x}, {pages: n} or {bytes: x}", quota->name);
    bool scaled = policy_scales_to_bytes(p);
    if (p->budget.unit && sel->drops && !scaled)
        return NODE_ERR(place(at, at->budget), "%s cannot be met by select %s, which drops by value: {bytes: x} can, with rule alpha", limit, sel->name);
    if (p->budget.unit && !sel->budgeted && !scaled)
        return NODE_ERR(place(at, at->budget), "%s cannot be met: select %s keeps every item", limit, sel->name);
    if (quota->budgeted && !sel->budgeted)
        return NODE_ERR(place(at, at->stage[STAGE_QUOTA]), "quota %s limits items, but select %s %s",
                        quota->name, sel->name, sel->drops ? "drops by value" : "keeps every item");
    if (sel->budgeted && !quota->budgeted)
        return NODE_ERR(place(at, at->stage[STAGE_SELECT]), "select %s needs a limit, but quota %s sets none", sel->name,
                        quota->name);
    if (sel->ranks && !score)
        return NODE_ERR(place(at, at->stage[STAGE_SELECT] ? at->stage[STAGE_SELECT] : at->budget),
                        "select %s ranks items (%s), but there is no score stage", sel->name, limit);
    if (budget_needs_layouts(p) && !scaled && !tier->count)
        return NODE_ERR(place(at, at->budget), "%s cannot be met by counting items: tier %s places them by value; use select: threshold or all",
                        limit, tier->name);
    if (tier->ranks && !score)
        return NODE_ERR(at->stage[STAGE_TIER], "tier %s ranks items, but there is no score stage", tier->name);
    if (score && !sel->ranks && !tier->ranks)
        return NODE_ERR(at->stage[STAGE_SCORE],
                        "score %s has no reader: select %s and tier %s rank nothing; give a budget", score->name, sel->name,
                        tier->name);
    return OK;
}

static err check_prompt_only(const policy *p, const policy_parts *at) {
    for (int k = 0; k < STAGE_N_KINDS; k++) {
        const stage *st = p->use[k].st;
        if (!st || policy_stage_live(p, (stage_kind)k) || p->trigger.prefill) continue;
        return NODE_ERR(place(at, at->trigger), "trigger prefill: false contradicts %s %s, which is decided from the prompt",
                        stage_kind_name((stage_kind)k), st->name);
    }
    const stage *score = p->use[STAGE_SCORE].st, *quota = p->use[STAGE_QUOTA].st;
    if (p->use[STAGE_DECIDE].st) return OK;
    if (p->decode_drops && !quota->live)
        return NODE_ERR(place(at, at->trigger),
                        "quota %s is decided from the prompt and cannot follow score %s in decode: remove trigger slack and "
                        "every, or use quota fixed", quota->name, score->name);
    const stage *sel = p->use[STAGE_SELECT].st;
    if (p->decode_drops && !sel->live)
        return NODE_ERR(place(at, at->stage[STAGE_SELECT]),
                        "select %s is decided from the prompt and cannot follow score %s in decode: remove trigger slack and every, "
                        "or use select top_k", sel->name, score->name);
    const stage *tier = p->use[STAGE_TIER].st;
    if (p->decode_drops && budget_needs_layouts(p) && !tier->live)
        return NODE_ERR(place(at, at->budget),
                        "budget %s cannot be kept up in decode: tier %s places items at prefill only, while score %s keeps dropping",
                        p->budget.unit == BUDGET_BYTES ? "bytes" : "pages", tier->name, score->name);
    return OK;
}

static err check_trigger(const policy *p, const policy_parts *at) {
    const stage *score = p->use[STAGE_SCORE].st, *sel = policy_dropper(p), *tier = policy_placer(p)->st;
    bool drops = policy_drops(p);
    const char *dropper = stage_kind_name(sel->kind), *placer = stage_kind_name(tier->kind);
    int n = p->trigger.slack ? p->trigger.slack : p->trigger.every;
    const char *key = p->trigger.slack ? "slack" : "every";
    if (n && !p->decode_drops && !p->decode_moves)
        return NODE_ERR(place(at, at->trigger),
                        "trigger %s: %d has nothing to decide: %s %s drops nothing in decode and %s %s moves nothing", key, n,
                        score && drops ? "score" : dropper, score && drops ? score->name : sel->name, placer, tier->name);
    if (p->trigger.pressure && !p->decode_drops)
        return NODE_ERR(place(at, at->trigger), "trigger pressure frees nothing: %s %s drops nothing in decode", score && drops ? "score" : dropper,
                        score && drops ? score->name : sel->name);
    if (!p->trigger.prefill && !n && !p->trigger.pressure && (drops || p->needs.n_tiers > 1))
        return NODE_ERR(place(at, at->trigger), "trigger prefill: false without slack or every: %s %s and %s %s never run",
                        dropper, sel->name, placer, tier->name);
    if (p->budget.decode_given && !p->decode_drops)
        return NODE_ERR(place(at, at->budget), "budget decode: %s has no effect: %s %s drops nothing in decode%s",
                        p->budget.proportional ? "proportional" : "fixed", score ? "score" : dropper,
                        score ? score->name : sel->name, n ? "" : " without trigger slack or every");
    if (p->needs.live.on && !p->decode_drops)
        return NODE_ERR(at->stage[STAGE_SCORE], "score %s is live, but %s %s drops nothing in decode%s: without a reader in decode leave "
                        "`live` out", score->name, dropper, sel->name, n ? "" : " without trigger slack or every");
    return OK;
}

static err check_prompt_shape(const policy *p, const policy_parts *at) {
    const stage *score = p->use[STAGE_SCORE].st, *quota = p->use[STAGE_QUOTA].st, *sel = policy_dropper(p);
    if (p->skip_layers && p->decode_drops)
        return NODE_ERR(place(at, at->stage[STAGE_QUOTA]), "quota fixed: skip: %d keeps all of the first layers, but score %s drops in decode: leave one "
                        "of them out", p->skip_layers, score ? score->name : sel->name);
    if (p->in_blocks && (!quota->even || sel != stage_find(STAGE_SELECT, "top_k")))
        return NODE_ERR(at->stage[STAGE_SCORE], "score %s: block drops with the budget of an equal head, but %s %s chooses otherwise: use quota fixed and "
                        "select top_k", score->name, quota->even ? stage_kind_name(sel->kind) : "quota", quota->even ? sel->name : quota->name);
    return OK;
}

static err check_positions(const policy *p, const policy_parts *at) {
    const stage *score = p->use[STAGE_SCORE].st, *quota = p->use[STAGE_QUOTA].st;
    if (!p->slot_positions) return OK;
    if (!score || !policy_drops(p))
        return NODE_ERR(at->positions, "positions: slot has no effect: %s %s keeps every item", stage_kind_name(policy_dropper(p)->kind),
                        policy_dropper(p)->name);
    if (!score->no_holes)
        return NODE_ERR(at->positions, "positions: slot needs one run of tokens behind the sinks, but score %s leaves holes",
                        score->name);
    if (policy_dropper(p)->marks & ITEM_REPRESENTATIVE)
        return NODE_ERR(at->positions, "positions: slot needs one run of tokens behind the sinks, but select %s leaves holes", policy_dropper(p)->name);
    if (quota->ranks || !quota->live)
        return NODE_ERR(at->positions, "positions: slot needs equal heads, but quota %s gives each its own budget",
                        quota->name);
    return OK;
}

/* Sliding layers lose single items at any place, and differ from global ones in what they hold. */
static err check_layers(const policy *p, const policy_parts *at) {
    if (!p->needs.all_layers) return OK;
    if (p->slot_positions)
        return NODE_ERR(at->layers, "layers: all contradicts positions: slot: what leaves the window of a sliding layer leaves no one run behind the sinks");
    for (int t = 0; t < p->needs.n_tiers; t++)
        if (p->needs.tiers[t].k_channels)
            return NODE_ERR(at->layers, "layers: all drops single tokens as they leave the window of a sliding layer, but tier %s holds groups of %d: use layers: "
                            "global, or another tier", p->tier_names[t], KV_TOKEN_GROUP);
    if (p->skip_layers && p->budget.unit == BUDGET_BYTES)
        return NODE_ERR(at->layers, "layers: all with quota fixed: skip: %d leaves a budget in bytes to layers of different sizes: give it in tokens or a ratio", p->skip_layers);
    for (int k = 0; k < STAGE_N_KINDS; k++)
        if (p->plugins[k])
            return NODE_ERR(at->layers, "layers: all contradicts %s plugin: plug-ins are promised prompts from position 0 on and one budget for all layers, "
                            "which sliding layers do not have", stage_kind_name((stage_kind)k));
    return OK;
}

static err check_protect(const policy *p, const policy_parts *at) {
    bool drops = policy_drops(p);
    if (p->protect.recent && !drops && p->needs.n_tiers == 1)
        return NODE_ERR(at->protect,
                        "protect recent: %d has no effect: select %s keeps every item and there is one tier, %s; list a hot tier "
                        "before it", p->protect.recent, p->use[STAGE_SELECT].st->name, p->tier_names[0]);
    if (p->protect.sink && !drops && p->use[STAGE_TIER].st == stage_find(STAGE_TIER, "uniform"))
        return NODE_ERR(at->protect, "protect sink: %d has no effect: select %s keeps every item and tier uniform knows no sinks",
                        p->protect.sink, p->use[STAGE_SELECT].st->name);
    return OK;
}

/* Tiers with K per channel take and lose whole groups, which only the uniform stage can promise. */
static err check_item_groups(const policy *p, const policy_parts *at) {
    const stage *tier = policy_placer(p)->st;
    for (int t = 0; t < p->needs.n_tiers; t++) {
        if (!p->needs.tiers[t].k_channels) continue;
        if (t == 0 || !kv_format_is_float(p->needs.tiers[0]))
            return NODE_ERR(place(at, at->tiers),
                            "tier %s quantises keys over groups of %d tokens and needs a hot tier before it, f16 or f32, that holds the tail",
                            p->tier_names[t], KV_TOKEN_GROUP);
        if (tier != stage_find(STAGE_TIER, "uniform"))
            return NODE_ERR(place(at, at->stage[tier->kind]), "%s %s cannot fill whole groups of %d tokens of %s: use tier uniform",
                            stage_kind_name(tier->kind), tier->name, KV_TOKEN_GROUP, p->tier_names[t]);
        if (p->decode_drops)
            return NODE_ERR(place(at, at->trigger),
                            "%s %s drops single tokens in decode, but %s holds groups of %d: remove trigger slack and every, or use another tier",
                            p->use[STAGE_SCORE].st ? "score" : stage_kind_name(policy_dropper(p)->kind),
                            p->use[STAGE_SCORE].st ? p->use[STAGE_SCORE].st->name : policy_dropper(p)->name, p->tier_names[t], KV_TOKEN_GROUP);
    }
    return OK;
}

static err check_tiers(policy *p, const policy_parts *at) {
    const stage_use *u = policy_placer(p);
    const char *kind = stage_kind_name(u->st->kind);
    unsigned used = u->st->tiers_used(u->conf) | 1u;
    for (int t = 0; t < p->needs.n_tiers; t++)
        if (!(used >> t & 1))
            return NODE_ERR(at->tiers, "tiers lists %s, but %s %s sends nothing there", p->tier_names[t], kind, u->st->name);
    if (!p->trigger.slack && !p->trigger.every && !p->trigger.pressure) return OK;
    uint8_t pairs[STAGE_MAX_MOVES][2];
    int n = u->st->moves(u->conf, pairs);
    for (int i = 0; i < n; i++) {
        int from = pairs[i][0], to = pairs[i][1];
        if (from == to) continue;
        if (!kv_format_can_move(p->needs.tiers[from], p->needs.tiers[to]))
            return NODE_ERR(place(at, at->stage[u->st->kind]),
                            "%s %s would move items from %s to %s in decode, but items only move to tiers with no more bits "
                            "on either side and the same groups, quantiser and rotation", kind, u->st->name, p->tier_names[from], p->tier_names[to]);
        p->decode_moves = true;
    }
    return OK;
}

err policy_check_parts(policy *p, const policy_parts *at) {
    const stage *score = p->use[STAGE_SCORE].st, *decide = p->use[STAGE_DECIDE].st;
    TRY(check_budget(p, at));
    if (policy_scales_to_bytes(p)) p->needs.scope = SCOPE_SEQUENCE; /* one factor for all heads */
    bool known = (!score || policy_stage_live(p, STAGE_SCORE)) && (!decide || decide->live);
    p->decode_drops = policy_drops(p) && known && (p->trigger.slack || p->trigger.every || p->trigger.pressure);
    TRY(check_item_groups(p, at));
    TRY(check_tiers(p, at));
    TRY(check_layers(p, at));
    TRY(check_prompt_only(p, at));
    TRY(check_protect(p, at));
    TRY(check_trigger(p, at));
    TRY(check_prompt_shape(p, at));
    return check_positions(p, at);
}
