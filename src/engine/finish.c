/* Finishing a layer: signals from the query tail, the policy's decision, survivors written once into their tiers. Prefill and fork
 * both come through here, so a fork equals the real flow bit for bit. */
#include "engine/engine_impl.h"

#include <string.h>

#include "base/clock.h"

static size_t signal_floats(const engine *e, int n_tokens) { return (size_t)e->m->p.n_heads * (size_t)n_tokens; }

MUST err finish_reserve(engine *e, const policy *pol, int n_tokens, int n_layers) {
    const policy_needs *need = policy_get_needs(pol);
    TRY(scratch_need(&e->signals, MEM_POLICY, sizeof(float) * signal_floats(e, n_tokens) * (size_t)need->n_signals * (size_t)n_layers));
    size_t n_items = (size_t)e->m->p.n_kv * (size_t)n_tokens * (size_t)n_layers;
    TRY(scratch_need(&e->target, MEM_POLICY, n_items));
    if (need->score_column) TRY(scratch_need(&e->live, MEM_POLICY, sizeof(float) * n_items));
    TRY(sliding_reserve(e, pol, n_tokens));
    return signals_reserve(e, need, n_tokens);
}

/* Signal i of a layer lies at slot * n_signals + i. */
static float *signal_at(const finish *f, int layer_slot, int i) {
    const engine *e = f->s->e;
    int n = policy_get_needs(f->s->pol)->n_signals;
    return (float *)e->signals.p + signal_floats(e, f->n_tokens) * ((size_t)layer_slot * (size_t)n + (size_t)i);
}

void finish_signals(const par *p, finish *f, int layer, int layer_slot) {
    int n = policy_get_needs(f->s->pol)->n_signals;
    if (!n) return;
    finish view = sliding_view(p, f, layer);
    for (int i = 0; i < n; i++) {
        signal_compute(p, &view, layer, i, signal_at(f, layer_slot, i));
        par_barrier(p);
    }
}

policy_layer finish_policy_layer(finish *f, int layer, int layer_slot) {
    const policy_needs *need = policy_get_needs(f->s->pol);
    const engine *e = f->s->e;
    int first = sliding_first(e, layer, f->n_tokens);
    policy_layer l = {.layer = seq_policy_layer(f->s, layer), .n = f->n_tokens - first, .first = first, .ld = f->n_tokens};
    for (int i = 0; i < need->n_signals; i++) l.signal[i] = signal_at(f, layer_slot, i);
    size_t at = (size_t)e->m->p.n_kv * (size_t)f->n_tokens * (size_t)layer_slot + (size_t)first;
    l.target = (uint8_t *)e->target.p + at;
    if (need->score_column) l.live = (float *)e->live.p + at;
    return l;
}

/* Survivors into their tiers, and the scores that decode goes on from beside them. */
MUST err finish_fill(const par *p, const finish *f, int layer, const policy_layer *l) {
    const uint8_t *target = l->target - l->first;
    TRY(cache_fill(f->s->c, p, layer, f->n_tokens, f->k, f->v, target));
    if (l->live) {
        cache_fill_scores(f->s->c, p, layer, f->n_tokens, l->live - l->first, target);
        par_barrier(p);
    }
    return OK;
}

static uint8_t *targets_at(const finish *f, int slot) {
    return (uint8_t *)f->s->e->target.p + (size_t)f->s->e->m->p.n_kv * (size_t)f->n_tokens * (size_t)slot;
}

/* The next token sees itself and window - 1 tokens before it; older ones are freed whatever the policy. */
void finish_hide(const par *p, const finish *f, int layer, int slot) {
    const engine *e = f->s->e;
    int hidden = sliding_first(e, layer, f->n_tokens);
    for (int h = 0; h < e->m->p.n_kv && p->ith == 0 && hidden; h++) memset(targets_at(f, slot) + (size_t)h * (size_t)f->n_tokens, KV_DROP, (size_t)hidden);
    par_barrier(p);
}

uint8_t *finish_window_target(const par *p, finish *f, int layer, int slot) {
    if (p->ith == 0) memset(targets_at(f, slot), 0, (size_t)f->s->e->m->p.n_kv * (size_t)f->n_tokens);
    finish_hide(p, f, layer, slot);
    return targets_at(f, slot);
}

MUST err finish_layer(const par *p, finish *f, int layer) {
    if (seq_policy_layer(f->s, layer) < 0)
        return cache_fill(f->s->c, p, layer, f->n_tokens, f->k, f->v, finish_window_target(p, f, layer, 0));
    double start = clock_now();
    finish_signals(p, f, layer, 0);
    policy_layer l = finish_policy_layer(f, layer, 0);
    if (p->ith == 0) {
        f->e = policy_prefill(f->s->pol, f->s->state, &l, 1);
        f->s->policy_seconds += clock_now() - start;
    }
    finish_hide(p, f, layer, 0);
    if (f->e != OK) return f->e;
    return finish_fill(p, f, layer, &l);
}
