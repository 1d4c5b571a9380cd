/* What a decision of several sequences costs the cache: head after head (cache_apply) beside all heads at once (cache_compact), in the shape
 * of the model. Half of the items go; with two tiers half of the rest moves to the lower one. */
#include "base/mem.h"
#include "base/rng.h"
#include "cache/cache.h"
#include "run/bench.h"

enum { N_SEQS = 4, N_ITEMS = 1024 };

typedef struct compact_case {
    const backend *be;
    cache_shape shape;
    page_layout layout[2];
    int n_tiers, n_heads; /* heads of one sequence */
    pool *pages;
    cache *from[N_SEQS], *to[N_SEQS];
    uint8_t *target;      /* [N_SEQS][n_heads][N_ITEMS] */
    cache_change *change; /* [N_SEQS * n_heads] */
    compactor *all;
} compact_case;

static err fill(compact_case *c) {
    float *kv = NULL;
    uint8_t *stay = NULL;
    size_t n = (size_t)c->shape.n_kv * N_ITEMS;
    rng r = rng_make(1, 1);
    err e;
    GOTO(done, e, mem_alloc(MEM_OTHER, n * (size_t)c->shape.head_dim * sizeof *kv, &kv));
    GOTO(done, e, mem_alloc(MEM_OTHER, n, &stay));
    for (size_t i = 0; i < n * (size_t)c->shape.head_dim; i++) kv[i] = (float)rng_uniform(&r);
    for (int s = 0; s < N_SEQS; s++) {
        GOTO(done, e, cache_create(c->pages, c->be, c->shape, c->layout, c->n_tiers, &c->from[s]));
        for (int l = 0; l < c->shape.n_layers; l++) GOTO(done, e, cache_fill(c->from[s], &par_single, l, N_ITEMS, kv, kv, stay));
        cache_set_n_tokens(c->from[s], N_ITEMS);
    }
    for (int i = 0; i < N_SEQS * c->n_heads * N_ITEMS; i++) {
        uint32_t x = rng_below(&r, 4);
        c->target[i] = x < 2 ? KV_DROP : (uint8_t)(x == 2 ? c->n_tiers - 1 : 0);
    }
done:
    mem_free(kv);
    mem_free(stay);
    return e;
}

static err begin(compact_case *c, const char *const *tiers) {
    kv_format f[2];
    for (int t = 0; t < c->n_tiers; t++) TRY(kv_format_parse(tiers[t], &f[t]));
    TRY(page_layout_search(f, c->n_tiers, c->shape.head_dim, 2, false, N_ITEMS, c->layout));
    TRY(pool_create(c->layout[0].page_bytes, 0, &c->pages));
    TRY(compactor_create(&c->all));
    size_t n = (size_t)N_SEQS * (size_t)c->n_heads;
    TRY(mem_alloc(MEM_OTHER, n * N_ITEMS, &c->target));
    TRY(mem_alloc(MEM_OTHER, n * sizeof *c->change, &c->change));
    return fill(c);
}

static void destroy_all(cache **list) {
    for (int s = 0; s < N_SEQS; s++) {
        if (list[s]) cache_destroy(list[s]);
        list[s] = NULL;
    }
}

static void finish(compact_case *c) {
    destroy_all(c->from);
    if (c->all) compactor_destroy(c->all);
    if (c->pages) pool_destroy(c->pages);
    mem_free(c->target);
    mem_free(c->change);
}

/* threads 0: head after head */
static err once(compact_case *c, int threads, double *seconds) {
    err e = OK;
    int n_kv = c->shape.n_kv, n = N_SEQS * c->n_heads;
    for (int s = 0; s < N_SEQS && e == OK; s++) e = cache_clone(c->from[s], &c->to[s]);
    for (int k = 0; k < n && e == OK; k++) {
        int h = k % c->n_heads;
        c->change[k] = (cache_change){c->to[k / c->n_heads], h / n_kv, h % n_kv, c->target + (size_t)k * N_ITEMS};
    }
    double start = bench_now(threads > 1 ? threads : 1);
    if (e == OK && threads) e = cache_compact(c->all, c->change, n, threads);
    for (int k = 0; k < n && e == OK && !threads; k++) e = cache_apply(c->change[k].c, c->change[k].layer, c->change[k].head, c->change[k].target);
    *seconds = bench_now(threads > 1 ? threads : 1) - start;
    destroy_all(c->to);
    return e;
}

static err one_case(const bench *b, const char *name, const char *const *tiers, int n_tiers) {
    const model *m = engine_model(b->s.e);
    compact_case c = {.be = m->be, .shape = {m->p.n_layers, m->p.n_kv, m->p.head_dim}, .n_tiers = n_tiers, .n_heads = m->p.n_layers * m->p.n_kv};
    double s[BENCH_MAX_REPEATS];
    err e = begin(&c, tiers);
    for (int way = 0; way < 3 && e == OK; way++) {
        int threads = way == 0 ? 0 : way == 1 ? 1 : b->threads;
        if (way == 2 && threads == 1) break;
        for (int i = 0; i < b->o->repeats && e == OK; i++) e = once(&c, threads, &s[i]);
        if (e != OK) break;
        char what[96];
        snprintf(what, sizeof what, "%s, %s", name, way ? "all heads at once" : "head after head");
        bench_row r = {.section = "compact", .isa = m->be->isa, .what = what, .threads = threads ? threads : 1, .t = bench_of_samples(s, b->o->repeats),
                       .per = N_SEQS, .scale = 1e3, .unit = "ms per sequence", .rate_unit = "GB/s moved"};
        r.rate = (double)N_SEQS * c.n_heads * N_ITEMS / 2 * c.layout[0].payload_bytes / r.t.min * 1e-9; /* what stays, read and written at most once */
        bench_add(b, &r);
    }
    finish(&c);
    return e;
}

err bench_compact(bench *b) {
    TRY(one_case(b, "f16", (const char *const[]){"f16"}, 1));
    return one_case(b, "k8v4 + k4v2", (const char *const[]){"k8v4", "k4v2"}, 2);
}
