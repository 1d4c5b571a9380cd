/* Finishing a layer: signals from the query tail, the policy's decision, survivors written once into their tiers. Prefill and fork
 * both come through here, so a fork equals the real flow bit for bit. */
#include "engine/engine_impl.h"

#include "base/clock.h"

static size_t signal_floats(const engine *e, int n_tokens) { return (size_t)e->m->p.n_heads * (size_t)n_tokens; }

MUST err finish_reserve(engine *e, const policy *pol, int n_tokens, int n_layers) {
    const policy_needs *need = policy_get_needs(pol);
    TRY(scratch_need(&e->signals, MEM_POLICY, sizeof(float) * signal_floats(e, n_tokens) * (size_t)need->n_signals * (size_t)n_layers));
    size_t n_items = (size_t)e->m->p.n_kv * (size_t)n_tokens * (size_t)n_layers;
    TRY(scratch_need(&e->target, MEM_POLICY, n_items));
    if (need->score_column) TRY(scratch_need(&e->live, MEM_POLICY, sizeof(float) * n_items));
    return signals_reserve(e, need, n_tokens);
}

/* Signal i of a layer lies at slot * n_signals + i. */
static float *signal_at(const finish *f, int layer_slot, int i) {
    const engine *e = f->s->e;
    int n = policy_get_needs(f->s->pol)->n_signals;
    return (float *)e->signals.p + signal_floats(e, f->n_tokens) * ((size_t)layer_slot * (size_t)n + (size_t)i);
}

void finish_signals(const par *p, finish *f, int layer, int layer_slot) {
    for (int i = 0; i < policy_get_needs(f->s->pol)->n_signals; i++) {
        signal_compute(p, f, layer, i, signal_at(f, layer_slot, i));
        par_barrier(p);
    }
}

policy_layer finish_policy_layer(finish *f, int layer, int layer_slot) {
    const policy_needs *need = policy_get_needs(f->s->pol);
    const engine *e = f->s->e;
    policy_layer l = {.layer = model_global_index(&e->m->p, layer), .n = f->n_tokens};
    for (int i = 0; i < need->n_signals; i++) l.signal[i] = signal_at(f, layer_slot, i);
    size_t at = (size_t)e->m->p.n_kv * (size_t)f->n_tokens * (size_t)layer_slot;
    l.target = (uint8_t *)e->target.p + at;
    if (need->score_column) l.live = (float *)e->live.p + at;
    return l;
}

/* Survivors into their tiers, and the scores that decode goes on from beside them. */
MUST err finish_fill(const par *p, const finish *f, int layer, const policy_layer *l) {
    TRY(cache_fill(f->s->c, p, layer, f->n_tokens, f->k, f->v, l->target));
    if (l->live) {
        cache_fill_scores(f->s->c, p, layer, f->n_tokens, l->live, l->target);
        par_barrier(p);
    }
    return OK;
}

/* The next token sees itself and window - 1 tokens before it; older ones are freed whatever the policy. */
uint8_t *finish_window_target(const par *p, finish *f, int layer, int slot) {
    const engine *e = f->s->e;
    uint8_t *target = (uint8_t *)e->target.p + (size_t)e->m->p.n_kv * (size_t)f->n_tokens * (size_t)slot;
    int n = f->n_tokens, hidden = n - (e->m->layers[layer].window - 1);
    if (p->ith == 0)
        for (int h = 0; h < e->m->p.n_kv; h++)
            for (int i = 0; i < n; i++) target[(size_t)h * (size_t)n + (size_t)i] = i < hidden ? KV_DROP : 0;
    par_barrier(p);
    return target;
}

MUST err finish_layer(const par *p, finish *f, int layer) {
    if (f->s->e->m->layers[layer].window)
        return cache_fill(f->s->c, p, layer, f->n_tokens, f->k, f->v, finish_window_target(p, f, layer, 0));
    double start = clock_now();
    finish_signals(p, f, layer, 0);
    policy_layer l = finish_policy_layer(f, layer, 0);
    if (p->ith == 0) {
        f->e = policy_prefill(f->s->pol, f->s->state, &l, 1);
        f->s->policy_seconds += clock_now() - start;
    }
    par_barrier(p);
    if (f->e != OK) return f->e;
    return finish_fill(p, f, layer, &l);
}
