/* What compression costs a prompt: time of a prefill under each preset over that of `full`, both real flows of the same tokens. Rounds are
 * interleaved: each times `full` before and after every few presets and divides by the mean of the two around them. Of a preset with
 * representatives the CPU time of its selection is shown too, beside that of the same preset without representatives (its base): the
 * difference is what signatures, order and picks cost. */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "run/bench.h"
#include "run/preset.h"
#include "run/resolve.h"
#include "stats/stats.h"

enum { NEIGHBOURS = 3 }; /* presets between two runs of `full` */

typedef struct candidate {
    const char *name;
    policy *p, *base;        /* base: without representatives; NULL where the preset has none */
    double *ratio;           /* [repeats] */
    double *select, *beyond; /* [repeats] with a base: selection over full's prefill; what it takes more than the base's, likewise */
} candidate;

typedef struct costs {
    const bench *b;
    candidate *c; /* [n] */
    int n, n_tokens;
    int32_t *ids;
    policy *full;
} costs;

/* Presets that a glob of --only matches; without one all that drop something. */
static bool wanted(const bench *b, const char *name, const node *conf) {
    const text_list *only = &b->o->only;
    for (int i = 0; i < only->n; i++)
        if (fnmatch(only->at[i], name, 0) == 0) return true;
    return only->n == 0 && (node_path(conf, "budget") || node_path(conf, "select") || node_path(conf, "decide"));
}

static err create_loaded(const bench *b, const node *conf, policy **out) {
    policy *p;
    TRY(policy_create(conf, resolve_shape(&b->s.g), &p));
    err e = policy_load(p);
    if (e == OK) *out = p;
    else policy_destroy(p);
    return e;
}

static err resolve(const char *name, const char *overrides, node **conf) {
    node *given;
    char *text = mem_sprintf("{preset: %s%s}", name, overrides);
    err e = node_parse_text(text, strlen(text), "bench", &given);
    mem_free(text);
    TRY(e);
    e = preset_resolve_policy(given, conf);
    node_free(given);
    return e;
}

static err open_base(const bench *b, const char *name, policy **out) {
    node *conf;
    TRY(resolve(name, ", select: {kvcrush: {representatives: 0}}", &conf));
    err e = create_loaded(b, conf, out);
    node_free(conf);
    return e;
}

/* c->p stays NULL: not asked for, or, when no preset was asked for by name, one that this model cannot have (a head profile of another). */
static err open_preset(const bench *b, const char *name, candidate *c) {
    node *conf;
    TRY(resolve(name, "", &conf));
    bool picks = node_path(conf, "select.kvcrush") != NULL;
    err e = wanted(b, name, conf) ? create_loaded(b, conf, &c->p) : OK;
    node_free(conf);
    if (e != OK && b->o->only.n == 0) {
        log_warn("bench policies leaves %s out: %s", name, err_text());
        e = OK;
    }
    return e == OK && c->p && picks ? open_base(b, name, &c->base) : e;
}

/* `select` may be NULL. */
static err prefill_seconds(const costs *k, policy *p, double *out, double *select) {
    cache_space *space;
    seq *s = NULL;
    TRY(cache_space_create(k->b->s.e, p, k->n_tokens, 0, &space));
    err e = seq_create(k->b->s.e, space, p, k->b->s.g.seed, &s);
    double start = bench_now(k->b->threads);
    if (e == OK) e = seq_prefill(s, k->ids, k->n_tokens, NULL);
    *out = bench_now(k->b->threads) - start;
    if (select && e == OK) *select = seq_policy_report(s).select_seconds;
    seq_destroy(s);
    cache_space_destroy(space);
    return e;
}

static err one_round(const costs *k, int round) {
    double before, after, seconds;
    TRY(prefill_seconds(k, k->full, &before, NULL));
    for (int at = 0; at < k->n; at += NEIGHBOURS) {
        int end = at + NEIGHBOURS < k->n ? at + NEIGHBOURS : k->n;
        for (int i = at; i < end; i++) {
            candidate *c = &k->c[i];
            TRY(prefill_seconds(k, c->p, &c->ratio[round], &c->select[round]));
            if (!c->base) continue;
            TRY(prefill_seconds(k, c->base, &seconds, &c->beyond[round]));
            c->beyond[round] = c->select[round] - c->beyond[round];
        }
        TRY(prefill_seconds(k, k->full, &after, NULL));
        for (int i = at; i < end; i++) {
            k->c[i].ratio[round] /= (before + after) / 2;
            k->c[i].select[round] /= (before + after) / 2;
            k->c[i].beyond[round] /= (before + after) / 2;
        }
        before = after;
    }
    return OK;
}

/* A row of shares of full's prefill; `less` is taken from each before it is given in percent. */
static void add_row(const costs *k, const char *name, const char *part, double *share, double less, const char *percent) {
    const bench *b = k->b;
    interval v = stats_mean(share, b->o->repeats, (stats_conf){2000, 0.95, 1});
    char *what = mem_sprintf("%s%s, %d tokens", name, part, k->n_tokens);
    char *bounds = mem_sprintf("%% %s [%.*f, %.*f]", percent, less > 0 ? 1 : 3, 100 * (v.lo - less), less > 0 ? 1 : 3, 100 * (v.hi - less));
    bench_add(b, &(bench_row){.section = "policies", .isa = engine_backend(b->s.e)->isa, .what = what, .threads = b->threads,
                              .t = bench_of_samples(share, b->o->repeats), .per = 1, .scale = 1, .unit = "of full's prefill",
                              .rate = 100 * (v.mean - less), .rate_unit = bounds});
    mem_free(what);
    mem_free(bounds);
}

static err measure(const costs *k) {
    double warm;
    TRY(prefill_seconds(k, k->full, &warm, NULL));
    for (int round = 0; round < k->b->o->repeats; round++) TRY(one_round(k, round));
    for (int i = 0; i < k->n; i++) {
        const candidate *c = &k->c[i];
        add_row(k, c->name, "", c->ratio, 1, "more than full");
        if (!c->base) continue;
        add_row(k, c->name, ": selection", c->select, 0, "of full");
        add_row(k, c->name, ": signatures to picks", c->beyond, 0, "of full, more than without representatives");
    }
    return OK;
}

static err open_all(costs *k, char **names, int n_names) {
    for (int i = 0; i < n_names; i++) {
        candidate *c = &k->c[k->n];
        size_t n = (size_t)k->b->o->repeats;
        TRY(open_preset(k->b, names[i], c));
        if (!c->p) continue;
        c->name = names[i];
        k->n++;
        TRY(mem_alloc(MEM_OTHER, 3 * n * sizeof *c->ratio, &c->ratio));
        c->select = c->ratio + n;
        c->beyond = c->select + n;
    }
    return k->n ? OK : ERR(ERR_USAGE, "--only matches no policy preset; `kvlab ls policies` lists them");
}

err bench_policies(bench *b) {
    costs k = {.b = b, .n_tokens = b->depth[b->n_depths - 1]}; /* the longest prompt that was asked for */
    char **names;
    int n_names;
    node *conf = NULL;
    TRY(preset_list("policies", &names, &n_names));
    err e = mem_alloc(MEM_OTHER, sizeof *k.c * (size_t)n_names, &k.c);
    if (e == OK) e = open_all(&k, names, n_names);
    if (e == OK) e = session_full_conf(&b->s, &conf);
    if (e == OK) e = create_loaded(b, conf, &k.full);
    if (e == OK) e = mem_alloc(MEM_OTHER, sizeof *k.ids * (size_t)k.n_tokens, &k.ids);
    if (e == OK) {
        rng r = rng_make(1, 0);
        for (int i = 0; i < k.n_tokens; i++) k.ids[i] = (int32_t)rng_below(&r, (uint32_t)engine_model(b->s.e)->p.n_vocab);
        e = measure(&k);
    }
    for (int i = 0; k.c && i < n_names; i++) {
        policy_destroy(k.c[i].p);
        policy_destroy(k.c[i].base);
        mem_free(k.c[i].ratio);
    }
    policy_destroy(k.full);
    mem_free(k.ids);
    mem_free(k.c);
    node_free(conf);
    preset_list_free(names, n_names);
    return e;
}
