#include "policy/state.h"
#include <string.h>
#include "base/mem.h"

err scratch_reserve(decision_scratch *x, const policy *p, int n_heads, size_t n_items, int n_tokens) {
    TRY(mem_reserve(MEM_POLICY, (size_t)n_heads * sizeof *x->heads, &x->heads, &x->heads_cap));
    TRY(mem_reserve(MEM_POLICY, n_items * sizeof *x->score, &x->score, &x->score_cap));
    TRY(mem_reserve(MEM_POLICY, n_items * sizeof *x->flags, &x->flags, &x->flags_cap));
    TRY(mem_reserve(MEM_POLICY, (n_items + STAGE_HEAD_KEYS * (size_t)n_heads) * sizeof *x->keys, &x->keys, &x->keys_cap));
    TRY(mem_reserve(MEM_POLICY, (size_t)p->work_words * (size_t)n_tokens * sizeof *x->work, &x->work, &x->work_cap));
    return mem_reserve(MEM_POLICY, 2 * (size_t)n_tokens * sizeof *x->tmp, &x->tmp, &x->tmp_cap);
}

static void scratch_free(decision_scratch *x) {
    mem_free(x->heads);
    mem_free(x->score);
    mem_free(x->flags);
    mem_free(x->keys);
    mem_free(x->work);
    mem_free(x->tmp);
}

err state_reserve_positions(policy_state *s, int n) {
    if ((size_t)n * sizeof *s->pos <= s->pos_cap) return OK;
    TRY(mem_reserve(MEM_POLICY, (size_t)n * sizeof *s->pos, &s->pos, &s->pos_cap));
    for (size_t i = 0; i < s->pos_cap / sizeof *s->pos; i++) s->pos[i] = (uint32_t)i;
    return OK;
}

void state_decided(policy_state *s, int n_tokens, const int *kept, int first_new) {
    s->n_last = n_tokens;
    memcpy(s->kept, kept, sizeof s->kept);
    s->first_new = first_new;
    s->due = trigger_due(s->p, s->n_prompt, n_tokens, kept, first_new);
}

/* Decode looks at one layer at a time, of at most `context` items per head: with this much, its decisions never grow the heap. Sequence
 * scope holds all layers, and grows with what they hold. */
static err reserve_decode(decision_scratch *x, const policy *p) {
    if (!p->decode_drops && !p->decode_moves) return OK;
    return scratch_reserve(x, p, p->shape.n_kv, (size_t)p->shape.n_kv * (size_t)p->shape.context, p->shape.context);
}

static err more_threads(policy_state *s, int n_others) {
    decision_scratch *more;
    TRY(mem_alloc(MEM_POLICY, (size_t)n_others * sizeof *more, &more));
    if (s->n_others) memcpy(more, s->others, (size_t)s->n_others * sizeof *more);
    mem_free(s->others);
    s->others = more;
    s->n_others = n_others;
    return OK;
}

/* The other threads have what the items at hand need, ahead by a quarter: sequences seldom come here again. */
err state_reserve_threads(policy_state *s, int n_threads, size_t n_items, int n_tokens) {
    const policy *p = s->p;
    if (n_threads - 1 > s->n_others) TRY(more_threads(s, n_threads - 1));
    for (int i = 0; i < n_threads - 1; i++) {
        decision_scratch *x = &s->others[i];
        if (n_items * sizeof *x->score <= x->score_cap && 2 * (size_t)n_tokens * sizeof *x->tmp <= x->tmp_cap) continue;
        TRY(scratch_reserve(x, p, p->shape.n_kv, n_items + n_items / 4 + 1024, n_tokens + n_tokens / 4 + 1024));
    }
    return OK;
}

err policy_state_create(const policy *p, uint64_t seed, policy_state **out) {
    policy_state *s;
    TRY(mem_alloc(MEM_POLICY, sizeof *s, &s));
    s->p = p;
    s->seed = seed;
    s->scale = 1;
    state_decided(s, 0, (const int[KEPT_CLASSES]){0}, 0);
    err e = reserve_decode(&s->own, p);
    if (e) policy_state_destroy(s);
    else *out = s;
    return e;
}

err policy_state_clone(const policy_state *from, policy_state **out) {
    policy_state *s;
    TRY(policy_state_create(from->p, from->seed, &s));
    s->n_prompt = from->n_prompt;
    s->n_last = from->n_last;
    memcpy(s->kept, from->kept, sizeof s->kept);
    s->first_new = from->first_new;
    s->due = from->due;
    s->scale = from->scale;
    s->report = from->report;
    *out = s;
    return OK;
}

void policy_state_destroy(policy_state *s) {
    if (!s) return;
    for (int i = 0; i <= s->n_others; i++) scratch_free(state_scratch(s, i));
    mem_free(s->others);
    mem_free(s->pos);
    mem_free(s);
}

void policy_state_observe(policy_state *s, policy_observer observe, void *observer) {
    s->observe = observe;
    s->observer = observer;
}

bool policy_on_pressure(const policy *p) { return p->trigger.pressure; }

int64_t policy_pressure_rank(const policy *p, const policy_state *s, int n_tokens, size_t n_items) {
    bool clamped;
    int64_t n_sliding = policy_n_sliding(p), n_global = p->shape.n_layers - n_sliding;
    switch ((pressure_order)p->trigger.order) {
    case ORDER_UNCOMPRESSED: return s->report.n_decisions > 0;
    case ORDER_COMPRESSIBLE:
        return (n_global * budget_kept(p, 0, s->n_prompt, n_tokens, &clamped) +
                n_sliding * budget_kept(p, p->shape.window, s->n_prompt, n_tokens, &clamped)) * p->shape.n_kv - (int64_t)n_items;
    case ORDER_STALE: return s->report.n_decisions ? s->n_last - n_tokens : 0; /* never compressed: counts as just compressed */
    }
    return 0;
}

policy_report policy_state_report(const policy_state *s) { return s->report; }

int policy_rows_until_due(const policy *p, const policy_state *s, int n_tokens) {
    if (s->due == INT32_MAX) return INT32_MAX;
    return s->due > n_tokens ? s->due - n_tokens : 0;
}
