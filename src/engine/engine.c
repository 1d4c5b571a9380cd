/* Opening and closing: model, tokenizer, threads; cache spaces; sequences' lifetime. */
#include "engine/engine_impl.h"

#include <string.h>

MUST err scratch_need(scratch *s, mem_tag tag, size_t bytes) { return mem_reserve(tag, bytes, &s->p, &s->cap); }

MUST err engine_open(const engine_conf *c, engine **out) {
    const backend *be;
    TRY(backend_find(c->backend ? c->backend : "auto", c->isa ? c->isa : "auto", c->math, &be));
    engine *e;
    TRY(mem_alloc(MEM_OTHER, sizeof *e, &e));
    e->threads = c->threads > 0 ? c->threads : par_n_cpus();
    err r;
    GOTO(fail, r, compactor_create(&e->compactor));
    GOTO(fail, r, model_load(c->model_path, be, c->context, &e->m));
    GOTO(fail, r, tokenizer_create(e->m->file, &e->tok));
    if (tokenizer_n_vocab(e->tok) != e->m->p.n_vocab) {
        r = ERR(ERR_FORMAT, "%s: the tokenizer has %d tokens, the embedding %d rows", c->model_path, tokenizer_n_vocab(e->tok),
                e->m->p.n_vocab);
        goto fail;
    }
    e->context = c->context ? c->context : e->m->p.context;
    *out = e;
    return OK;
fail:
    engine_close(e);
    return r;
}

static scratch *all_scratch(engine *e, int *n) {
    *n = (int)((sizeof *e - offsetof(engine, x)) / sizeof(scratch));
    return &e->x;
}

void engine_close(engine *e) {
    if (!e) return;
    int n;
    scratch *s = all_scratch(e, &n);
    for (int i = 0; i < n; i++) mem_free(s[i].p);
    compactor_destroy(e->compactor);
    tokenizer_destroy(e->tok);
    model_free(e->m);
    mem_free(e);
}

size_t engine_scratch_bytes(const engine *e) {
    int n;
    const scratch *s = all_scratch((engine *)e, &n);
    size_t sum = 0;
    for (int i = 0; i < n; i++) sum += s[i].cap;
    return sum;
}

const model *engine_model(const engine *e) { return e->m; }
const tokenizer *engine_tokenizer(const engine *e) { return e->tok; }
const backend *engine_backend(const engine *e) { return e->m->be; }
int engine_threads(const engine *e) { return e->threads; }
int engine_context(const engine *e) { return e->context; }

policy_shape policy_shape_of_model(const model_params *p, int context) {
    return (policy_shape){.n_layers = model_n_global(p), .n_heads = p->n_heads, .n_kv = p->n_kv, .head_dim = p->head_dim, .context = context,
                          .window = p->window, .n_all_layers = p->n_layers, .slide_period = p->slide_period};
}

policy_shape engine_policy_shape(const engine *e) {
    const model_params *p = &e->m->p;
    return policy_shape_of_model(p, e->context);
}

/* Pages for the tiers. Sliding layers hold few items whatever the hint. */
static MUST err choose_layouts(const engine *e, const policy *p, int tokens_hint, page_layout *out) {
    const policy_needs *need = policy_get_needs(p);
    const model_params *mp = &e->m->p;
    int d = mp->head_dim, pos_bytes = !need->pos_column ? 0 : e->context <= 65536 ? 2 : 4;
    for (int t = 0; t < need->n_tiers && need->page_bytes; t++)
        TRY(page_layout_make(need->tiers[t], d, pos_bytes, need->score_column, (size_t)need->page_bytes, &out[t]));
    if (need->page_bytes) return OK;
    if (policy_is_full(p) && need->n_tiers == 1 && !mp->window)
        return page_layout_search_full(need->tiers[0], d, pos_bytes, need->score_column, tokens_hint, out);
    return page_layout_search(need->tiers, need->n_tiers, d, pos_bytes, need->score_column, tokens_hint, out);
}

MUST err cache_space_create(engine *e, policy *p, int tokens_hint, size_t max_bytes, cache_space **out) {
    cache_space *s;
    TRY(engine_declare(e, p));
    TRY(mem_alloc(MEM_OTHER, sizeof *s, &s));
    s->e = e;
    s->n_tiers = policy_get_needs(p)->n_tiers;
    err r;
    GOTO(fail, r, choose_layouts(e, p, tokens_hint, s->layouts));
    GOTO(fail, r, policy_bind(p, s->layouts));
    GOTO(fail, r, pool_create(s->layouts[0].page_bytes, max_bytes, &s->pages));
    *out = s;
    return OK;
fail:
    mem_free(s);
    return r;
}

void cache_space_destroy(cache_space *s) {
    if (!s) return;
    pool_destroy(s->pages);
    mem_free(s->caches);
    mem_free(s);
}

pool *cache_space_pool(cache_space *s) { return s->pages; }

static MUST err space_add(cache_space *s, cache *c) {
    if (s->n_caches == s->cap_caches) {
        int cap = s->cap_caches ? 2 * s->cap_caches : 4;
        cache **grown;
        TRY(mem_alloc(MEM_TABLES, sizeof *grown * (size_t)cap, &grown));
        if (s->n_caches) memcpy(grown, s->caches, sizeof *grown * (size_t)s->n_caches);
        mem_free(s->caches);
        s->caches = grown;
        s->cap_caches = cap;
    }
    s->caches[s->n_caches++] = c;
    return OK;
}

static void space_remove(cache_space *s, const cache *c) {
    for (int i = 0; i < s->n_caches; i++)
        if (s->caches[i] == c) {
            s->caches[i] = s->caches[--s->n_caches];
            return;
        }
}

/* Keeps committed <= pages in use + one extent after pages were freed. */
void space_trim(cache_space *s) {
    pool_stats st = pool_get_stats(s->pages);
    size_t needed = (st.pages_used + st.pages_per_extent - 1) / st.pages_per_extent;
    if (st.extents > needed + 1) cache_trim(s->caches, s->n_caches);
}

static MUST err seq_new(engine *e, cache_space *space, policy *p, seq **out) {
    seq *s;
    TRY(mem_alloc(MEM_OTHER, sizeof *s, &s));
    *s = (seq){.e = e, .space = space, .pol = p};
    *out = s;
    return OK;
}

MUST err seq_create(engine *e, cache_space *space, policy *p, uint64_t seed, seq **out) {
    const model_params *mp = &e->m->p;
    seq *s;
    TRY(seq_new(e, space, p, &s));
    err r;
    GOTO(fail, r, policy_state_create(p, seed, &s->state));
    GOTO(fail, r, cache_create(space->pages, e->m->be, (cache_shape){mp->n_layers, mp->n_kv, mp->head_dim}, space->layouts, space->n_tiers, &s->c));
    cache_set_sliding(s->c, mp->n_layers - model_n_global(mp), mp->window);
    GOTO(fail, r, space_add(space, s->c));
    *out = s;
    return OK;
fail:
    seq_destroy(s);
    return r;
}

MUST err seq_clone(const seq *from, seq **out) {
    seq *s;
    TRY(seq_new(from->e, from->space, from->pol, &s));
    err r;
    s->policy_seconds = from->policy_seconds;
    GOTO(fail, r, policy_state_clone(from->state, &s->state));
    GOTO(fail, r, cache_clone(from->c, &s->c));
    GOTO(fail, r, space_add(s->space, s->c));
    *out = s;
    return OK;
fail:
    seq_destroy(s);
    return r;
}

void seq_destroy(seq *s) {
    if (!s) return;
    if (s->c) {
        space_remove(s->space, s->c);
        cache_destroy(s->c);
        space_trim(s->space);
    }
    if (s->state) policy_state_destroy(s->state);
    mem_free(s);
}

int seq_n_tokens(const seq *s) { return cache_n_tokens(s->c); }
const cache *seq_cache(const seq *s) { return s->c; }
cache_bytes seq_bytes(const seq *s) { return cache_get_bytes(s->c); }
void seq_observe_scores(seq *s, policy_observer observe, void *observer) {
    policy_state_observe(s->state, observe, observer);
}
policy_report seq_policy_report(const seq *s) { return policy_state_report(s->state); }
double seq_policy_seconds(const seq *s) { return s->policy_seconds; }
MUST err seq_truncate(seq *s, int n_tokens) {
    if (policy_get_needs(s->pol)->live.on && n_tokens < cache_n_tokens(s->c))
        return ERR(ERR_UNSUPPORTED, "tokens after %d cannot be taken back under '%s': their attention is in its live scores; clone the sequence before them",
                   n_tokens, policy_describe(s->pol));
    return cache_truncate(s->c, n_tokens);
}
