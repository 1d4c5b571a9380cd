#include "policy/trigger.h"
#include "base/clones.h"
#include "conf/fields.h"
#include "policy/stage.h"

err trigger_parse(const node *map, trigger *out) {
    static const char *const orders[] = {"uncompressed", "compressible", "stale", NULL};
    static const field fields[] = {
        FIELD_BOOL(trigger, pressure, false, "decide when a bounded pool has too few pages for the next step"),
        FIELD_ENUM(trigger, order, "uncompressed", orders, "under pressure: never compressed first, most to give first, longest since the last first"),
        FIELD_BOOL(trigger, prefill, true, "decide once after the prompt"),
        FIELD_INT(trigger, slack, 0, 0, 1 << 20, "decide as soon as so many tokens exceed the budget or `recent`; 0 = never"),
        FIELD_INT(trigger, every, 0, 0, 1 << 20, "decide every so many decoded tokens; 0 = never"),
        FIELD_END};
    TRY(fields_read(map, fields, out));
    if (out->slack && out->every)
        return NODE_ERR(map, "trigger has both slack: %d and every: %d: give one", out->slack, out->every);
    if (out->order && !out->pressure) return NODE_ERR(map, "trigger order: %s has no effect without pressure: true", orders[out->order]);
    return OK;
}

err protect_parse(const node *map, protect *out) {
    static const field fields[] = {
        FIELD_INT(protect, sink, 0, 0, 1 << 20, "first positions of the sequence, never dropped"),
        FIELD_INT(protect, recent, 0, 0, 1 << 20, "last positions of the sequence, never dropped"),
        FIELD_END};
    return fields_read(map, fields, out);
}

VECTOR_CLONES void protect_flags(const protect *p, int n_tokens, head_items *h) {
    int64_t first_recent = (int64_t)n_tokens - p->recent;
    uint32_t sinks = (uint32_t)p->sink, recent = first_recent > 0 ? (uint32_t)first_recent : 0;
    const uint32_t *restrict pos = h->pos;
    uint8_t *restrict flags = h->flags;
    for (int i = 0, n = h->n; i < n; i++) flags[i] = (uint8_t)((pos[i] < sinks ? ITEM_SINK : 0) | (pos[i] >= recent ? ITEM_RECENT : 0));
}

void protect_count(const protect *p, int window, int n_tokens, int *n_sink, int *n_recent) {
    int first = n_tokens - window_holds(window, n_tokens), recent = n_tokens - p->recent; /* positions */
    if (recent < first) recent = first;
    *n_recent = n_tokens - recent;
    *n_sink = (p->sink < recent ? p->sink : recent) - first;
    if (*n_sink < 0) *n_sink = 0;
}

static bool shares_all(const policy *p) { return p->needs.scope == SCOPE_SEQUENCE || !p->needs.all_layers; }

bool class_exists(const policy *p, int class) {
    if (shares_all(p)) return class == KEPT_GLOBAL;
    return class == KEPT_SLIDING ? policy_n_sliding(p) > 0 : policy_n_sliding(p) < p->shape.n_layers;
}

int class_of_layer(const policy *p, int layer) { return !shares_all(p) && policy_layer_slides(p, layer) ? KEPT_SLIDING : KEPT_GLOBAL; }

int class_mean(const policy *p, int global, int sliding) {
    int64_t n_sliding = policy_n_sliding(p), n_global = p->shape.n_layers - n_sliding;
    return shares_all(p) && n_sliding ? (int)((n_global * global + n_sliding * sliding) / p->shape.n_layers) : global;
}

/* Items per head that the budget allows the layers of a class. */
static int class_kept(const policy *p, int class, int n_prompt, int n_tokens) {
    bool clamped = false;
    int global = class == KEPT_GLOBAL ? budget_kept(p, 0, n_prompt, n_tokens, &clamped) : 0;
    int sliding = p->needs.all_layers ? budget_kept(p, p->shape.window, n_prompt, n_tokens, &clamped) : 0;
    return class == KEPT_SLIDING ? sliding : class_mean(p, global, sliding);
}

/* First length at which `kept` items plus the appended ones exceed the budget by `slack`. The excess grows by at most one per
 * token, so stepping by what is missing cannot jump over it. Sliding layers hold no more than their window; where they share a
 * budget with global ones, what leaves the window is not foreseen, and a decision may come early. */
static int64_t due_drop(const policy *p, int class, int n_prompt, int n_last, int kept) {
    int64_t n = n_last;
    for (;;) {
        int64_t held = kept + n - n_last;
        if (class == KEPT_SLIDING && held > p->shape.window - 1) held = p->shape.window - 1;
        int64_t missing = p->trigger.slack - (held - class_kept(p, class, n_prompt, (int)n));
        if (missing <= 0) return n;
        n += missing;
        if (n > p->shape.context) return INT32_MAX;
    }
}

int trigger_due(const policy *p, int n_prompt, int n_last, const int kept[KEPT_CLASSES], int first_hot) {
    if ((!p->decode_drops && !p->decode_moves) || (!p->trigger.slack && !p->trigger.every)) return INT32_MAX;
    int64_t due = INT32_MAX;
    if (p->trigger.every) {
        due = (int64_t)n_last + p->trigger.every;
    } else {
        for (int c = 0; c < KEPT_CLASSES && p->decode_drops; c++) {
            int64_t drop = class_exists(p, c) ? due_drop(p, c, n_prompt, n_last, kept[c]) : INT32_MAX;
            if (drop < due) due = drop;
        }
        int64_t moves = (int64_t)first_hot + p->protect.recent + p->trigger.slack;
        if (p->decode_moves && moves < due) due = moves;
    }
    return due < INT32_MAX ? (int)due : INT32_MAX;
}
