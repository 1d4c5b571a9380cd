/* What a cache costs beside the items that it holds: free room of pages and page tables over live bytes, counted after a prompt of which
 * nothing was dropped. Two tiers hold half of the items each, chosen head by head. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "run/bench.h"

static const struct {
    const char *name, *policy;
} sets[] = {
    {"f16", "{tiers: [f16]}"},
    {"k8v4", "{tiers: [k8v4]}"},
    {"k4v2", "{tiers: [k4v2]}"},
    {"k8v4 k4v2", "{tiers: [k8v4, k4v2], score: key_norm, tier: {by_rank: {shares: {k8v4: 0.5, k4v2: 0.5}}}}"},
    {"f16 k8v4 k4v2",
     "{tiers: [f16, k8v4, k4v2], protect: {recent: 64}, score: key_norm, tier: {by_rank: {shares: {k8v4: 0.5, k4v2: 0.5}}}}"},
};

static err measure(bench *b, const char *name, const node *conf, const int32_t *ids, int n) {
    policy *p;
    cache_space *space;
    seq *s = NULL;
    TRY(session_policy(&b->s, conf, n, &p, &space));
    err e = seq_create(b->s.e, space, p, b->s.g.seed, &s);
    if (e == OK) e = seq_prefill(s, ids, n, NULL);
    if (e == OK) {
        cache_bytes c = seq_bytes(s);
        char *what = mem_sprintf("%s, %d tokens", name, n);
        char *unit = mem_sprintf("%% slack + tables of %.2f MB live, pages of %u B", (double)c.live * 1e-6, (unsigned)pool_get_stats(cache_space_pool(space)).page_bytes);
        bench_add(b, &(bench_row){.section = "memory", .isa = "-", .what = what, .threads = b->threads, .per = 1,
                                  .rate = 100 * (double)(c.slack + c.tables) / (double)c.live, .rate_unit = unit});
        mem_free(what);
        mem_free(unit);
    }
    seq_destroy(s);
    cache_space_destroy(space);
    policy_destroy(p);
    return e;
}

static err memory_at(bench *b, int n) {
    int32_t *ids;
    TRY(mem_alloc(MEM_OTHER, sizeof *ids * (size_t)n, &ids));
    rng r = rng_make(1, 0);
    for (int i = 0; i < n; i++) ids[i] = (int32_t)rng_below(&r, (uint32_t)engine_model(b->s.e)->p.n_vocab);
    err e = OK;
    for (size_t i = 0; e == OK && i < sizeof sets / sizeof *sets; i++) {
        node *conf;
        e = node_parse_text(sets[i].policy, strlen(sets[i].policy), "bench", &conf);
        if (e != OK) break;
        e = measure(b, sets[i].name, conf, ids, n);
        node_free(conf);
    }
    mem_free(ids);
    return e;
}

err bench_memory(bench *b) {
    for (int i = 0; i < b->n_depths; i++) TRY(memory_at(b, b->depth[i]));
    return OK;
}
