#include "policy/state.h"
#include "base/mem.h"

err state_reserve(policy_state *s, int n_heads, size_t n_items, int n_tokens) {
    TRY(mem_reserve(MEM_POLICY, (size_t)n_heads * sizeof *s->heads, &s->heads, &s->heads_cap));
    TRY(mem_reserve(MEM_POLICY, n_items * sizeof *s->score, &s->score, &s->score_cap));
    TRY(mem_reserve(MEM_POLICY, n_items * sizeof *s->flags, &s->flags, &s->flags_cap));
    TRY(mem_reserve(MEM_POLICY, (n_items + STAGE_HEAD_KEYS * (size_t)n_heads) * sizeof *s->keys, &s->keys, &s->keys_cap));
    TRY(mem_reserve(MEM_POLICY, (size_t)s->p->work_words * (size_t)n_tokens * sizeof *s->work, &s->work, &s->work_cap));
    return mem_reserve(MEM_POLICY, 2 * (size_t)n_tokens * sizeof *s->tmp, &s->tmp, &s->tmp_cap);
}

err state_reserve_positions(policy_state *s, int n) {
    if ((size_t)n * sizeof *s->pos <= s->pos_cap) return OK;
    TRY(mem_reserve(MEM_POLICY, (size_t)n * sizeof *s->pos, &s->pos, &s->pos_cap));
    for (size_t i = 0; i < s->pos_cap / sizeof *s->pos; i++) s->pos[i] = (uint32_t)i;
    return OK;
}

void state_decided(policy_state *s, int n_tokens, int kept, int first_new) {
    s->n_last = n_tokens;
    s->kept = kept;
    s->first_new = first_new;
    s->due = trigger_due(s->p, s->n_prompt, n_tokens, kept, first_new);
}

/* Decode looks at one layer at a time, of at most `context` items per head: with this much, its decisions never grow the heap. Sequence
 * scope holds all layers, and grows with what they hold. */
static err reserve_decode(policy_state *s) {
    const policy *p = s->p;
    if (!p->decode_drops && !p->decode_moves) return OK;
    return state_reserve(s, p->shape.n_kv, (size_t)p->shape.n_kv * (size_t)p->shape.context, p->shape.context);
}

err policy_state_create(const policy *p, uint64_t seed, policy_state **out) {
    policy_state *s;
    TRY(mem_alloc(MEM_POLICY, sizeof *s, &s));
    s->p = p;
    s->seed = seed;
    s->scale = 1;
    state_decided(s, 0, 0, 0);
    err e = reserve_decode(s);
    if (e) policy_state_destroy(s);
    else *out = s;
    return e;
}

err policy_state_clone(const policy_state *from, policy_state **out) {
    policy_state *s;
    TRY(policy_state_create(from->p, from->seed, &s));
    s->n_prompt = from->n_prompt;
    s->n_last = from->n_last;
    s->kept = from->kept;
    s->first_new = from->first_new;
    s->due = from->due;
    s->scale = from->scale;
    s->report = from->report;
    *out = s;
    return OK;
}

void policy_state_destroy(policy_state *s) {
    if (!s) return;
    mem_free(s->score);
    mem_free(s->tmp);
    mem_free(s->work);
    mem_free(s->flags);
    mem_free(s->keys);
    mem_free(s->pos);
    mem_free(s->heads);
    mem_free(s);
}

void policy_state_observe(policy_state *s, policy_observer observe, void *observer) {
    s->observe = observe;
    s->observer = observer;
}

bool policy_on_pressure(const policy *p) { return p->trigger.pressure; }

int64_t policy_pressure_rank(const policy *p, const policy_state *s, int n_tokens, size_t n_items) {
    bool clamped;
    int64_t heads = (int64_t)p->shape.n_layers * p->shape.n_kv;
    switch ((pressure_order)p->trigger.order) {
    case ORDER_UNCOMPRESSED: return s->report.n_decisions > 0;
    case ORDER_COMPRESSIBLE: return heads * budget_kept(p, s->n_prompt, n_tokens, &clamped) - (int64_t)n_items;
    case ORDER_STALE: return s->report.n_decisions ? s->n_last - n_tokens : 0; /* never compressed: counts as just compressed */
    }
    return 0;
}

policy_report policy_state_report(const policy_state *s) { return s->report; }

int policy_rows_until_due(const policy *p, const policy_state *s, int n_tokens) {
    if (s->due == INT32_MAX) return INT32_MAX;
    return s->due > n_tokens ? s->due - n_tokens : 0;
}
