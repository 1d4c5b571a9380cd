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

void protect_count(const protect *p, int n_tokens, int *n_sink, int *n_recent) {
    *n_recent = p->recent < n_tokens ? p->recent : n_tokens;
    int older = n_tokens - *n_recent;
    *n_sink = p->sink < older ? p->sink : older;
}

/* First length at which `kept` items plus the appended ones exceed the budget by `slack`. The excess grows by at most one per
 * token, so stepping by what is missing cannot jump over it. */
static int64_t due_drop(const policy *p, int n_prompt, int n_last, int kept) {
    int64_t n = n_last;
    for (;;) {
        bool clamped = false;
        int64_t missing = p->trigger.slack - (kept + n - n_last - budget_kept(p, n_prompt, (int)n, &clamped));
        if (missing <= 0) return n;
        n += missing;
        if (n > p->shape.context) return INT32_MAX;
    }
}

int trigger_due(const policy *p, int n_prompt, int n_last, int kept, int first_hot) {
    if ((!p->decode_drops && !p->decode_moves) || (!p->trigger.slack && !p->trigger.every)) return INT32_MAX;
    int64_t due = INT32_MAX;
    if (p->trigger.every) {
        due = (int64_t)n_last + p->trigger.every;
    } else {
        if (p->decode_drops) due = due_drop(p, n_prompt, n_last, kept);
        int64_t moves = (int64_t)first_hot + p->protect.recent + p->trigger.slack;
        if (p->decode_moves && moves < due) due = moves;
    }
    return due < INT32_MAX ? (int)due : INT32_MAX;
}
