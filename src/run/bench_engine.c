/* The engine as its users call it: prompts, single steps at depth, steps of a batch. Token ids are random: nothing depends on them. */
#include <stdio.h>

#include "base/mem.h"
#include "base/rng.h"
#include "run/bench.h"

enum { BATCH = 8, BATCH_DEPTH = 1024, STEPS = 16 };

static err random_tokens(const bench *b, int n, uint64_t seed, int32_t **out) {
    rng r = rng_make(seed, 0);
    TRY(mem_alloc(MEM_OTHER, (size_t)n * sizeof **out, out));
    for (int i = 0; i < n; i++) (*out)[i] = (int32_t)rng_below(&r, (uint32_t)engine_model(b->s.e)->p.n_vocab);
    return OK;
}

/* Sequences under the session's policy, each with its own prompt of n tokens. */
typedef struct group {
    policy *p;
    cache_space *space;
    seq *s[BATCH];
    int n;
    float *logits;
} group;
static void group_close(group *g) {
    for (int i = 0; i < g->n; i++) seq_destroy(g->s[i]);
    cache_space_destroy(g->space);
    policy_destroy(g->p);
    mem_free(g->logits);
}
static err group_open(const bench *b, int depth, group *g) {
    TRY(session_policy(&b->s, NULL, depth + (STEPS + 1) * b->o->repeats, &g->p, &g->space));
    return mem_alloc(MEM_LOGITS, sizeof *g->logits * BATCH * (size_t)engine_model(b->s.e)->p.n_vocab, &g->logits);
}
static err group_add(const bench *b, group *g, const int32_t *ids, int n) {
    seq *s;
    TRY(seq_create(b->s.e, g->space, g->p, b->s.g.seed, &s));
    g->s[g->n++] = s;
    return seq_prefill(s, ids, n, g->logits);
}

static err prefill_at(bench *b, int n, const int32_t *ids) {
    double t[BENCH_MAX_REPEATS];
    err e = OK;
    for (int i = 0; e == OK && i < b->o->repeats; i++) {
        group g = {0};
        e = group_open(b, n, &g);
        double start = bench_now(b->threads);
        if (e == OK) e = group_add(b, &g, ids, n);
        t[i] = bench_now(b->threads) - start;
        group_close(&g);
    }
    TRY(e);
    char what[64];
    snprintf(what, sizeof what, "%d tokens", n);
    bench_row r = {.section = "prefill", .isa = engine_backend(b->s.e)->isa, .what = what, .threads = b->threads,
                   .t = bench_of_samples(t, b->o->repeats), .per = n, .scale = 1e3, .unit = "ms per token", .rate_unit = "tokens/s"};
    r.rate = n / r.t.min;
    bench_add(b, &r);
    return OK;
}

err bench_prefill(bench *b) {
    for (int i = 0; i < b->n_depths; i++) {
        int32_t *ids;
        TRY(random_tokens(b, b->depth[i], 1, &ids));
        err e = prefill_at(b, b->depth[i], ids);
        mem_free(ids);
        TRY(e);
    }
    return OK;
}

static double policy_seconds(const group *g) {
    double sum = 0;
    for (int s = 0; s < g->n; s++) sum += seq_policy_seconds(g->s[s]);
    return sum;
}

/* STEPS steps of every sequence, `repeats` times. The rate of one sequence is bytes: weights and the live cache. */
static err steps_of(bench *b, group *g, const char *section, int depth) {
    double t[BENCH_MAX_REPEATS], decided[BENCH_MAX_REPEATS];
    int32_t ids[BATCH];
    rng r = rng_make(2, 0);
    for (int i = -1; i < b->o->repeats; i++) { /* the first warms up */
        int n = i < 0 ? 1 : STEPS;
        double before = policy_seconds(g);
        double start = bench_now(b->threads);
        for (int k = 0; k < n; k++) {
            for (int s = 0; s < g->n; s++) ids[s] = (int32_t)rng_below(&r, (uint32_t)engine_model(b->s.e)->p.n_vocab);
            TRY(engine_step(b->s.e, g->s, ids, g->n, g->logits));
        }
        if (i < 0) continue;
        t[i] = bench_now(b->threads) - start;
        decided[i] = policy_seconds(g) - before;
    }
    char what[64];
    snprintf(what, sizeof what, "%d sequence%s at depth %d", g->n, g->n > 1 ? "s" : "", depth);
    bench_row row = {.section = section, .isa = engine_backend(b->s.e)->isa, .what = what, .threads = b->threads,
                     .t = bench_of_samples(t, b->o->repeats), .per = STEPS, .scale = 1e3, .unit = "ms per step", .rate_unit = "tokens/s"};
    row.rate = STEPS * g->n / row.t.min;
    bench_add(b, &row);
    bench_times of_policy = bench_of_samples(decided, b->o->repeats);
    if (of_policy.median > 0) { /* the share of medians: a decision falls on few of the steps of a trigger with slack */
        bench_row p = {.section = section, .isa = row.isa, .what = "  decisions and moves of the policy", .threads = b->threads, .t = of_policy,
                       .per = STEPS, .scale = 1e3, .unit = "ms per step", .rate = 100 * of_policy.median / row.t.median, .rate_unit = "% of a step"};
        bench_add(b, &p);
    }
    size_t bytes = model_decode_bytes(engine_model(b->s.e));
    for (int s = 0; s < g->n; s++) bytes += seq_bytes(g->s[s]).live;
    snprintf(what, sizeof what, "  %.1f MB: weights and live cache", (double)bytes * 1e-6);
    row.unit = NULL;
    row.rate = (double)bytes * STEPS / row.t.min * 1e-9;
    row.rate_unit = "GB/s";
    row.of = b->read_gbs;
    bench_add(b, &row);
    return OK;
}

static err decode_at(bench *b, int depth) {
    int32_t *ids;
    group g = {0};
    TRY(random_tokens(b, depth, 1, &ids));
    err e = group_open(b, depth, &g);
    if (e == OK) e = group_add(b, &g, ids, depth);
    if (e == OK) e = steps_of(b, &g, "decode", depth);
    group_close(&g);
    mem_free(ids);
    return e;
}
static bool fits(const bench *b, int depth) { return depth + STEPS * b->o->repeats + 1 <= engine_context(b->s.e); }

err bench_decode(bench *b) {
    TRY(decode_at(b, 1)); /* as good as an empty cache */
    for (int i = 0; i < b->n_depths; i++)
        if (fits(b, b->depth[i])) TRY(decode_at(b, b->depth[i]));
        else return ERR(ERR_USAGE, "a cache of %d tokens leaves no room for %d steps in the context of %d", b->depth[i], STEPS * b->o->repeats + 1, engine_context(b->s.e));
    return OK;
}

err bench_batch(bench *b) {
    int depth = fits(b, BATCH_DEPTH) ? BATCH_DEPTH : 1;
    group g = {0};
    err e = group_open(b, depth, &g);
    for (int i = 0; e == OK && i < BATCH; i++) {
        int32_t *ids = NULL;
        e = random_tokens(b, depth, (uint64_t)i + 1, &ids);
        if (e == OK) e = group_add(b, &g, ids, depth);
        mem_free(ids);
    }
    if (e == OK) e = steps_of(b, &g, "batch", depth);
    group_close(&g);
    return e;
}
