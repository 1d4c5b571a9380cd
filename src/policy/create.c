/* From YAML to a policy: tiers, what surrounds the stages, the stages, then the checks between them. */
#include <stdio.h>
#include <string.h>
#include "base/mem.h"
#include "policy/parts.h"
#include "policy/plugin.h"
#include "policy/profile.h"

void policy_tier_list(const policy *p, char *out, size_t n) {
    size_t used = 0;
    *out = 0;
    for (int t = 0; t < p->needs.n_tiers && used < n; t++)
        used += (size_t)snprintf(out + used, n - used, "%s%s", t ? ", " : "", p->tier_names[t]);
}

err policy_find_tier(const policy *p, const node *at, const char *stage_name, const char *tier, int *index) {
    for (int t = 0; t < p->needs.n_tiers; t++)
        if (!strcmp(p->tier_names[t], tier)) {
            *index = t;
            return OK;
        }
    char list[80];
    policy_tier_list(p, list, sizeof list);
    return NODE_ERR(at, "%s names the tier \"%s\", which is not in tiers: [%s]", stage_name, tier, list);
}

err policy_request_signal(policy *p, const node *at, signal_request r, int *index) {
    policy_needs *needs = &p->needs;
    for (int i = 0; i < needs->n_signals; i++) {
        if (!memcmp(&needs->signals[i], &r, sizeof r)) {
            *index = i;
            return OK;
        }
    }
    if (needs->n_signals == POLICY_MAX_SIGNALS)
        return NODE_ERR(at, "policy asks for more than %d signals", POLICY_MAX_SIGNALS);
    *index = needs->n_signals;
    needs->signals[needs->n_signals++] = r;
    return OK;
}

int policy_chunk(const policy *p, int tier) {
    if (p->chunk == POLICY_CHUNK_PHYSICAL) return p->page_items[tier];
    if (tier == 0) return p->chunk;
    uint32_t n = (uint32_t)p->chunk * p->item_bytes[0] / p->item_bytes[tier];
    return n < 1 ? 1 : (int)n;
}

static err add_tier(policy *p, const node *n) {
    policy_needs *needs = &p->needs;
    if (node_type(n) != NODE_SCALAR) return NODE_ERR(n, "tiers is a list of format names such as [f16, k8v4]");
    if (needs->n_tiers == KV_MAX_TIERS) return NODE_ERR(n, "tiers lists more than %d formats", KV_MAX_TIERS);
    kv_format f;
    err e = kv_format_parse(node_text(n), &f);
    if (!e) e = kv_format_check(f, p->shape.head_dim);
    if (e) {
        char cause[256];
        snprintf(cause, sizeof cause, "%s", err_text());
        return NODE_ERR(n, "tiers: %s", cause);
    }
    char *name = p->tier_names[needs->n_tiers];
    kv_format_name(f, name);
    for (int t = 0; t < needs->n_tiers; t++)
        if (!strcmp(p->tier_names[t], name)) return NODE_ERR(n, "tiers lists %s twice", name);
    needs->tiers[needs->n_tiers++] = f;
    return OK;
}

static err parse_tiers(policy *p, const node *n) {
    if (node_type(n) == NODE_NULL) {
        p->needs.tiers[0] = (kv_format){.k_bits = 16, .v_bits = 16};
        kv_format_name(p->needs.tiers[0], p->tier_names[0]);
        p->needs.n_tiers = 1;
        return OK;
    }
    if (node_type(n) == NODE_SCALAR) return add_tier(p, n);
    if (node_type(n) != NODE_LIST || node_count(n) == 0)
        return NODE_ERR(n, "tiers is a list of format names such as [f16, k8v4]");
    for (int i = 0; i < node_count(n); i++) TRY(add_tier(p, node_at(n, i)));
    return OK;
}

/* Whatever is written here, what leaves the window of a sliding layer goes; `global` keeps the rest of it in tier 0. */
static err parse_layers(policy *p, const node *n) {
    const char *text = node_type(n) == NODE_SCALAR ? node_text(n) : "";
    bool all = !strcmp(text, "all");
    if (node_type(n) != NODE_NULL && !all && strcmp(text, "global"))
        return NODE_ERR(n, "layers is \"%s\": global and all (those with a sliding window too) are supported", text);
    if (!all || !p->shape.window) return OK;
    p->needs.all_layers = true;
    p->n_global = p->shape.n_layers;
    p->shape.n_layers = p->shape.n_all_layers;
    return OK;
}

/* What keeps everything in tier 0 does with sliding layers what is done with them anyway. */
static void leave_sliding_layers(policy *p) {
    if (!p->needs.all_layers || !policy_is_full(p)) return;
    p->needs.all_layers = false;
    p->shape.n_layers = p->n_global;
}

static err parse_positions(policy *p, const node *n) {
    if (node_type(n) == NODE_NULL) return OK;
    const char *text = node_type(n) == NODE_SCALAR ? node_text(n) : "";
    p->slot_positions = !strcmp(text, "slot");
    if (!p->slot_positions && strcmp(text, "absolute"))
        return NODE_ERR(n, "positions is \"%s\": absolute and slot are supported", text);
    return OK;
}

static err unknown_stage(const node *n, stage_kind kind, const char *name) {
    const char *names[32], *hint;
    int count = stage_names(kind, names, 32);
    char list[200];
    size_t used = 0;
    *list = 0;
    for (int i = 0; i < count && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    hint = node_suggest(name, names, count);
    return NODE_ERR(n, "%s \"%s\" does not exist%s%s%s; there are: %s", stage_kind_name(kind), name,
                    hint ? ", did you mean \"" : "", hint ? hint : "", hint ? "\"" : "", list);
}

/* A size that a system fixes, in place of the one with the least slack (DiffKV: 6,784 bytes at head_dim 128). */
static err parse_page_bytes(policy *p, const node *n) {
    enum { LEAST = 1024, MOST = 65536, UNIT = 64 };
    int64_t bytes;
    if (node_type(n) == NODE_NULL) return OK;
    TRY(node_as_int(n, &bytes));
    if (bytes < LEAST || bytes > MOST || bytes % UNIT)
        return NODE_ERR(n, "page_bytes is %lld: multiples of %d from %d to %d are supported", (long long)bytes, UNIT, LEAST, MOST);
    p->needs.page_bytes = (int)bytes;
    for (int t = 0; t < p->needs.n_tiers; t++) {
        page_layout l;
        if (page_layout_make(p->needs.tiers[t], p->shape.head_dim, 4, true, (size_t)bytes, &l) == OK) continue;
        return NODE_ERR(n, "page_bytes: %lld bytes do not hold the fewest items that a page of %s takes", (long long)bytes, p->tier_names[t]);
    }
    return OK;
}

/* `score: random` or `score: {window: {rows: 32}}`; `fallback` (may be NULL) when nothing is written. */
static err parse_stage(policy *p, const policy_parts *at, stage_kind kind, const char *fallback) {
    const node *n = at->stage[kind], *map = NULL;
    const char *name = fallback;
    if (node_type(n) == NODE_SCALAR) {
        name = node_text(n);
    } else if (node_type(n) == NODE_MAP) {
        if (node_count(n) != 1)
            return NODE_ERR(n, "%s names %d stages instead of one%s%s%s%s", stage_kind_name(kind), node_count(n),
                            node_count(n) ? ": " : "", node_count(n) ? node_key(n, 0) : "", node_count(n) ? ", " : "",
                            node_count(n) ? node_key(n, 1) : "");
        name = node_key(n, 0);
        map = node_get(n, name);
        if (node_type(map) == NODE_NULL) map = NULL;
        else if (node_type(map) != NODE_MAP)
            return NODE_ERR(map, "%s %s takes a map of parameters", stage_kind_name(kind), name);
    } else if (node_type(n) != NODE_NULL) {
        return NODE_ERR(n, "%s is the name of a stage, or {name: {parameters}}", stage_kind_name(kind));
    }
    if (!name) return OK;
    stage_use *u = &p->use[kind];
    u->st = stage_find(kind, name);
    if (!u->st) return unknown_stage(n, kind, name);
    return u->st->parse(p, n ? n : at->root, map, u->conf);
}

/* `decide` stands for quota, select and tier, of which none may be written then. */
static err parse_decide(policy *p, const policy_parts *at) {
    TRY(parse_stage(p, at, STAGE_SCORE, NULL));
    TRY(parse_stage(p, at, STAGE_DECIDE, NULL));
    for (int k = STAGE_QUOTA; k <= STAGE_TIER; k++)
        if (node_type(at->stage[k]) != NODE_NULL)
            return NODE_ERR(at->stage[k], "%s is written, but decide %s takes its place: leave one of them out",
                            stage_kind_name((stage_kind)k), p->use[STAGE_DECIDE].st->name);
    p->use[STAGE_QUOTA].st = stage_find(STAGE_QUOTA, "none");
    p->use[STAGE_SELECT].st = stage_find(STAGE_SELECT, "all");
    p->use[STAGE_TIER].st = stage_find(STAGE_TIER, "uniform");
    return OK;
}

/* Does the configuration name this stage? */
static bool names_stage(const node *n, const char *name) {
    return node_type(n) == NODE_SCALAR ? !strcmp(node_text(n), name) : node_type(n) == NODE_MAP && node_count(n) == 1 && !strcmp(node_key(n, 0), name);
}

static err parse_stages(policy *p, const policy_parts *at) {
    if (node_type(at->stage[STAGE_DECIDE]) != NODE_NULL) return parse_decide(p, at);
    bool scaled = p->budget.unit == BUDGET_BYTES /* thresholds meet it, not item counts */
        && (names_stage(at->stage[STAGE_SELECT], "threshold")
            || (names_stage(at->stage[STAGE_TIER], "threshold") && !names_stage(at->stage[STAGE_SELECT], "top_k")));
    bool counted = p->budget.unit && !scaled;
    TRY(parse_stage(p, at, STAGE_SCORE, NULL));
    TRY(parse_stage(p, at, STAGE_QUOTA, counted ? "fixed" : "none"));
    TRY(parse_stage(p, at, STAGE_SELECT, p->use[STAGE_QUOTA].st->budgeted ? "top_k" : "all"));
    if (p->needs.n_tiers > 1 && node_type(at->stage[STAGE_TIER]) == NODE_NULL) {
        char list[80];
        policy_tier_list(p, list, sizeof list);
        return NODE_ERR(at->tiers, "tiers are [%s], but no tier stage says what goes where", list);
    }
    return parse_stage(p, at, STAGE_TIER, "uniform");
}

static void append(char *text, size_t cap, const char *separator, const char *what) {
    size_t used = strlen(text);
    if (used < cap) snprintf(text + used, cap - used, "%s%s", used ? separator : "", what);
}

static void describe(policy *p) {
    char text[640] = "", part[256];
    for (int k = 0; k < STAGE_N_KINDS; k++) {
        const stage_use *u = &p->use[k];
        bool stands_in = p->use[STAGE_DECIDE].st && k >= STAGE_QUOTA && k <= STAGE_TIER;
        if (!u->st || stands_in || (k == STAGE_QUOTA && !u->st->budgeted)) continue;
        char params[160] = "";
        if (u->st->describe) u->st->describe(p, u->conf, params, sizeof params);
        snprintf(part, sizeof part, "%s %s%s%s%s", stage_kind_name((stage_kind)k), u->st->name, *params ? " (" : "", params,
                 *params ? ")" : "");
        append(text, sizeof text, " . ", part);
    }
    if (p->budget.unit) {
        budget_describe(&p->budget, part, sizeof part);
        append(text, sizeof text, " . ", part);
    }
    if (p->needs.n_tiers > 1) {
        char list[80];
        policy_tier_list(p, list, sizeof list);
        snprintf(part, sizeof part, "tiers %s", list);
        append(text, sizeof text, " . ", part);
    }
    const struct { const char *name; int value; } numbers[] = {
        {"sink", p->protect.sink}, {"recent", p->protect.recent}, {"slack", p->trigger.slack}, {"every", p->trigger.every}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (!numbers[i].value) continue;
        snprintf(part, sizeof part, "%s %d", numbers[i].name, numbers[i].value);
        append(text, sizeof text, " . ", part);
    }
    if (p->trigger.pressure) append(text, sizeof text, " . ", "under pressure");
    if (!p->trigger.prefill) append(text, sizeof text, " . ", "not at prefill");
    if (p->slot_positions) append(text, sizeof text, " . ", "slot positions");
    if (p->needs.all_layers) append(text, sizeof text, " . ", "all layers");
    if (p->needs.page_bytes) {
        snprintf(part, sizeof part, "pages of %d bytes", p->needs.page_bytes);
        append(text, sizeof text, " . ", part);
    }
    p->text = mem_strdup(text);
}

static err build(policy *p, const node *conf) {
    policy_parts at = {.root = conf};
    const node *page_bytes = NULL;
    if (node_type(conf) != NODE_NULL && node_type(conf) != NODE_MAP)
        return NODE_ERR(conf, "policy is a map of budget, tiers, trigger, protect, positions, layers, page_bytes, score, quota, select, tier and decide");
    if (conf && node_type(conf) == NODE_MAP) {
        const char *const about[] = {"origin", "summary", "preset"}; /* belong to preset files and the runner */
        for (size_t i = 0; i < sizeof about / sizeof *about; i++) (void)node_get(conf, about[i]);
        at.budget = node_get(conf, "budget");
        at.tiers = node_get(conf, "tiers");
        at.trigger = node_get(conf, "trigger");
        at.protect = node_get(conf, "protect");
        at.positions = node_get(conf, "positions");
        at.layers = node_get(conf, "layers");
        page_bytes = node_get(conf, "page_bytes");
        for (int k = 0; k < STAGE_N_KINDS; k++) at.stage[k] = node_get(conf, stage_kind_name((stage_kind)k));
        TRY(node_check_read(conf));
    }
    p->needs.scope = SCOPE_HEAD;
    TRY(parse_layers(p, at.layers));
    TRY(parse_tiers(p, at.tiers));
    TRY(parse_page_bytes(p, page_bytes));
    TRY(protect_parse(at.protect, &p->protect));
    TRY(trigger_parse(at.trigger, &p->trigger));
    TRY(parse_positions(p, at.positions));
    TRY(budget_parse(at.budget, &p->budget));
    TRY(parse_stages(p, &at));
    TRY(policy_check_parts(p, &at));
    p->needs.score_column = p->needs.live.on;
    leave_sliding_layers(p);
    if (p->shape.n_layers == 0 && !policy_is_full(p))
        return NODE_ERR(conf, "policies act on layers without a sliding window, and every layer of this model has one "
                              "(supported: layers: all, policies that keep everything in tier 0, or an engine.context up to the window)");
    p->needs.decides = p->decode_drops || p->decode_moves;
    p->needs.pos_column = p->needs.decides || p->slot_positions || p->needs.all_layers;
    p->needs.slot_sinks = p->slot_positions ? p->protect.sink : 0;
    describe(p);
    return OK;
}

err policy_create(const node *conf, policy_shape shape, policy **out) {
    assert(shape.n_kv > 0 && shape.n_heads % shape.n_kv == 0);
    if (shape.n_kv > POLICY_MAX_KV_HEADS)
        return ERR(ERR_UNSUPPORTED, "policy: %d KV heads, at most %d are supported", shape.n_kv, POLICY_MAX_KV_HEADS);
    policy *p;
    TRY(mem_alloc(MEM_POLICY, sizeof *p, &p));
    p->shape = shape;
    err e = build(p, conf);
    if (e) policy_destroy(p);
    else *out = p;
    return e;
}

void policy_destroy(policy *p) {
    if (!p) return;
    for (int k = 0; k < STAGE_N_KINDS; k++) plugin_free(p->plugins[k]);
    mem_free(p->text);
    mem_free(p->joined);
    mem_free(p->bias);
    head_profile_free(p->profile);
    mem_free(p);
}

const policy_needs *policy_get_needs(const policy *p) { return &p->needs; }
const char *policy_describe(const policy *p) { return p->text; }

bool policy_is_full(const policy *p) {
    const stage_use *tier = policy_placer(p);
    return !policy_drops(p) && tier->st->tiers_used(tier->conf) == 1u;
}

int policy_prompt_kept(const policy *p, int layer, int n) {
    bool clamped;
    return budget_kept(p, policy_layer_window(p, layer), n, n, &clamped);
}

err policy_bind(policy *p, const page_layout *layouts) {
    for (int t = 0; t < p->needs.n_tiers; t++) {
        const page_layout *l = &layouts[t];
        const kv_format *f = &p->needs.tiers[t];
        if (!kv_format_equal(l->fmt, *f)) {
            char name[16];
            kv_format_name(l->fmt, name);
            return ERR(ERR_UNSUPPORTED, "policy: tier %d is %s, but the page layout given for it is %s", t, p->tier_names[t], name);
        }
        p->item_bytes[t] = l->payload_bytes + l->meta_bytes + l->column_bytes;
        p->page_items[t] = l->cap;
    }
    p->bound = true;
    return OK;
}
