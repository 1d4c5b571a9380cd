/* Sliding layers: a query sees itself and window - 1 tokens before it, and what the next query does not see is freed, whatever the policy.
 *
 * Under `layers: global` such a layer holds one run of tier 0, whose pages go from the front. Under `layers: all` policies decide about it as
 * about any other layer, with what its window holds for the next token (policy_layer.first), and items lie in any tier. There positions tell
 * what is hidden. While a list is in order of positions, which only decode decisions disturb, hidden items lie in front of it: they are
 * left out of the segment, and whole pages of them go. Where a decision has mixed a head's items, hidden ones are dropped one by one, before
 * every row, so such policies take their rows one at a time. */
#include "engine/engine_impl.h"

#include <string.h>

int seq_n_policy_layers(const seq *s) {
    const model_params *p = &s->e->m->p;
    return policy_get_needs(s->pol)->all_layers ? p->n_layers : model_n_global(p);
}

int seq_model_layer(const seq *s, int index) {
    return policy_get_needs(s->pol)->all_layers ? index : model_global_layer(&s->e->m->p, index);
}

int seq_policy_layer(const seq *s, int layer) {
    if (policy_get_needs(s->pol)->all_layers) return layer;
    return s->e->m->layers[layer].window ? -1 : model_global_index(&s->e->m->p, layer);
}

int sliding_first(const engine *e, int layer, int n_tokens) {
    int window = e->m->layers[layer].window;
    return window && n_tokens > window - 1 ? n_tokens - (window - 1) : 0;
}

/* ---- at the end of a prompt ---- */

MUST err sliding_reserve(engine *e, const policy *pol, int n_tokens) {
    const model_params *p = &e->m->p;
    if (!policy_get_needs(pol)->all_layers) return OK;
    int most = n_tokens < p->window ? n_tokens : p->window;
    size_t bytes = sizeof(float) * (size_t)most * (size_t)p->n_kv * (size_t)p->head_dim;
    TRY(scratch_need(&e->window_k, MEM_POLICY, bytes));
    return scratch_need(&e->window_v, MEM_POLICY, bytes);
}

/* All queries of a prompt that come after an item which the next one still sees, see it too. So the signals of these items are those of a
 * prompt that begins with the first of them, given the log-sum-exps of the whole one. */
finish sliding_view(const par *p, const finish *f, int layer) {
    engine *e = f->s->e;
    finish w = *f;
    size_t n_all = (size_t)f->n_tokens, d = (size_t)e->m->p.head_dim;
    w.first = sliding_first(e, layer, f->n_tokens);
    if (!w.first) return w;
    w.n_tokens = f->n_tokens - w.first;
    w.k = e->window_k.p;
    w.v = e->window_v.p;
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)e->m->p.n_kv * w.n_tokens, &lo, &hi);
    for (ptrdiff_t i = lo; i < hi; i++) {
        size_t from = ((size_t)(i / w.n_tokens) * n_all + (size_t)(w.first + i % w.n_tokens)) * d;
        memcpy((float *)e->window_k.p + (size_t)i * d, f->k + from, sizeof(float) * d);
        memcpy((float *)e->window_v.p + (size_t)i * d, f->v + from, sizeof(float) * d);
    }
    par_barrier(p);
    return w;
}

/* ---- in decode ---- */

/* Position of the first item that the query at `pos` sees. */
static uint32_t first_seen(int window, int pos) { return pos > window - 1 ? (uint32_t)(pos - (window - 1)) : 0; }

/* Leaves out what row `row` of those being appended does not see. Every row is a job of its own. */
void sliding_see(const seq *s, int layer, int head, int row, attn_job *j) {
    int window = s->e->m->layers[layer].window, n = 0;
    bool all = policy_get_needs(s->pol)->all_layers;
    uint32_t from = first_seen(window, cache_n_tokens(s->c) + row);
    if (!all) j->live.on = false;
    for (int i = 0; i < j->n_segs; i++) {
        attn_segment g = j->seg[i];
        int tier = (int)(g.layout - cache_layout(s->c, 0)), stored = cache_n_items(s->c, layer, head, tier), hidden;
        if (g.grows) g.n_items += row;
        g.grows = false;
        if (all) cache_n_before(s->c, layer, head, tier, from, &hidden);
        else hidden = g.n_items > window ? g.n_items - window : 0;
        if (all && tier == 0 && hidden == stored && row > window - 1) hidden += row - (window - 1); /* rows of the same pass */
        g.first += hidden;
        g.n_items -= hidden;
        if (g.n_items > 0) j->seg[n++] = g;
    }
    j->n_segs = n;
}

static bool in_order(const seq *s, int layer, int head, uint32_t from) {
    for (int t = 0; t < cache_n_tiers(s->c); t++) {
        int leading;
        if (cache_n_before(s->c, layer, head, t, from, &leading) != leading) return false;
    }
    return true;
}

static void free_pages(const seq *s, int layer, int head, uint32_t from) {
    for (int t = 0; t < cache_n_tiers(s->c); t++) {
        int leading;
        cache_n_before(s->c, layer, head, t, from, &leading);
        cache_drop_oldest(s->c, layer, head, t, leading);
    }
}

int sliding_mark_hidden(const seq *s, int layer, const item_columns *ic, uint8_t *target) {
    int window = s->e->m->layers[layer].window, n = 0;
    uint32_t from = window ? first_seen(window, cache_n_tokens(s->c)) : 0;
    for (int i = 0; i < ic->n; i++) {
        target[i] = ic->pos[i] < from ? KV_DROP : ic->tier[i];
        n += ic->pos[i] < from;
    }
    return n;
}

/* Heads whose hidden items are scattered. */
static MUST err drop_scattered(seq *s, uint32_t from) {
    engine *e = s->e;
    const model_params *mp = &e->m->p;
    size_t n_changes = (size_t)mp->n_layers * (size_t)mp->n_kv, n_items = 0, at = 0;
    for (int l = 0; l < mp->n_layers; l++)
        for (int h = 0; h < mp->n_kv && e->m->layers[l].window; h++) n_items += (size_t)cache_n_items_head(s->c, l, h);
    n_items = (n_items / 4096 + 1) * 4096;
    TRY(scratch_need(&e->sliding, MEM_POLICY, n_changes * sizeof(cache_change) + n_items * (sizeof(uint32_t) + 2)));
    cache_change *changes = e->sliding.p;
    uint32_t *pos = (uint32_t *)(changes + n_changes);
    uint8_t *tier = (uint8_t *)(pos + n_items), *target = tier + n_items;
    int n = 0;
    for (int l = 0; l < mp->n_layers; l++)
        for (int h = 0; h < mp->n_kv && e->m->layers[l].window; h++) {
            if (in_order(s, l, h, from)) continue;
            item_columns ic = {0, pos + at, tier + at, NULL};
            cache_columns(s->c, l, h, &ic);
            (void)sliding_mark_hidden(s, l, &ic, target + at);
            changes[n++] = (cache_change){s->c, l, h, target + at};
            at += (size_t)ic.n;
        }
    return cache_compact(e->compactor, changes, n, e->threads);
}

MUST err sliding_free(seq *s, int n_newest) {
    const engine *e = s->e;
    const model_params *mp = &e->m->p;
    const policy_needs *need = policy_get_needs(s->pol);
    if (!mp->window) return OK;
    uint32_t from = first_seen(mp->window, cache_n_tokens(s->c) - n_newest);
    if (need->all_layers && need->decides) TRY(drop_scattered(s, from));
    for (int l = 0; l < mp->n_layers; l++)
        for (int h = 0; h < mp->n_kv && e->m->layers[l].window; h++) {
            if (need->all_layers) free_pages(s, l, h, from);
            else cache_drop_oldest(s->c, l, h, 0, cache_n_items(s->c, l, h, 0) - n_newest - (mp->window - 1));
        }
    return OK;
}
