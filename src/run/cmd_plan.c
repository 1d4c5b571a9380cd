/* kvlab plan: the points of a sweep, what they cost, and what cannot run; nothing is written. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/jsonx.h"
#include "run/provenance.h"
#include "run/worklist.h"
#include "run/workset.h"

typedef struct estimate {
    double seconds, gflops;
    size_t memory_bytes;
} estimate;

/* What is there already, if the directory holds this sweep. */
static err present(const experiment *x, results **out) {
    char *folder = io_join(x->dir, "journal");
    bool there = io_exists(folder);
    mem_free(folder);
    *out = NULL;
    if (!there) return OK;
    if (results_load(x->dir, out) != OK) return OK; /* `run` says what is wrong with it */
    if (strcmp((*out)->sweep_id, x->id) == 0) return OK;
    log_warn("%s holds another sweep: `run` will want -o or --force", x->dir);
    results_free(*out);
    *out = NULL;
    return OK;
}

/* task_item_cost counts in GFLOP: one short prefill tells how many of them a second has here. */
static err measure_speed(const workset *w, double *gflops) {
    enum { N = 128 };
    const model_params *p = &engine_model(w->e)->p;
    int32_t ids[N];
    int n = engine_context(w->e) < N ? engine_context(w->e) : N;
    for (int i = 0; i < n; i++) ids[i] = i % p->n_vocab;
    double q = (double)p->n_heads * p->head_dim, kv = (double)p->n_kv * p->head_dim, best = 0;
    double work =
        2e-9 * n * p->n_layers * p->n_embd * (2 * q + 2 * kv + 3.0 * p->n_ff) + 2e-9 * n * n * p->n_layers * q;
    for (int round = 0; round < 2; round++) {
        snapshot *s;
        double began = clock_now();
        TRY(engine_snapshot(w->e, ids, n, &s));
        double speed = work / (clock_now() - began);
        snapshot_destroy(s);
        if (speed > best) best = speed;
    }
    *gflops = best;
    return OK;
}

/* Weights, the snapshot and two caches of the longest prompt (reference and policy), and reference logits. Sliding layers hold their
 * window in caches, everything in the snapshot. */
static size_t memory_of(const workset *w, const results *r) {
    enum { LOGIT_ROWS = 256 };
    const model_params *p = &engine_model(w->e)->p;
    size_t longest = 0, number = w->x->groups[w->group].math == MATH_EXACT ? 4 : 2;
    for (int t = 0; t < r->n_tasks; t++)
        if ((size_t)r->tasks[t].prompt_tokens > longest) longest = (size_t)r->tasks[t].prompt_tokens;
    size_t token = (size_t)p->n_kv * (size_t)p->head_dim * 2 * number;
    size_t kv = token * (longest * (size_t)p->n_layers + 2 * model_cached_tokens(p, longest));
    return mem_live_bytes(MEM_WEIGHTS) + gguf_file_bytes(engine_model(w->e)->file) + kv +
           (size_t)LOGIT_ROWS * (size_t)p->n_vocab * sizeof(float) + engine_scratch_bytes(w->e);
}

static err make_estimate(const experiment *x, const results *r, const worklist *list, workset *kept, estimate *out) {
    workset opened = {0};
    workset *w = kept->x ? kept : &opened;
    if (!kept->x) TRY(workset_open(x, 0, &opened));
    err e = measure_speed(w, &out->gflops);
    out->memory_bytes = memory_of(w, r);
    if (e == OK) out->seconds = list->cost / out->gflops;
    if (opened.x) workset_close(&opened);
    return e;
}

static err print_json(const experiment *x, const results *r, const worklist *list, const estimate *est) {
    json_t *points = json_array(), *tasks = json_array();
    for (int i = 0; i < r->n_points; i++) {
        json_t *tiers = json_array();
        for (int t = 0; t < r->points[i].n_tiers; t++) json_array_append_new(tiers, json_string(r->points[i].tiers[t]));
        json_array_append_new(points, json_pack("{s:s,s:o,s:o,s:o}", "id", r->points[i].id, "label",
                                                jsonx_text(r->points[i].label), "policy",
                                                jsonx_text(r->points[i].policy), "tiers", tiers));
    }
    for (int t = 0; t < r->n_tasks; t++)
        json_array_append_new(tasks, json_pack("{s:o,s:i,s:b,s:i}", "name", jsonx_text(r->tasks[t].name), "records",
                                               r->tasks[t].n_items, "timed", r->tasks[t].timed, "prompt_tokens",
                                               r->tasks[t].prompt_tokens));
    json_t *root = json_pack("{s:o,s:s,s:s,s:o,s:o,s:i,s:i,s:i,s:f,s:f,s:I}", "name", jsonx_text(x->name), "sweep_id",
                             x->id, "dir", x->dir, "points", points, "tasks", tasks, "units", r->n_expected, "to_do",
                             list->n_units, "noise_units", list->n_noise, "seconds", est->seconds, "gflops",
                             est->gflops, "memory_bytes", (json_int_t)est->memory_bytes);
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(root);
    if (!text) return ERR(ERR_NOMEM, "out of memory: the plan cannot be encoded");
    puts(text);
    free(text);
    return OK;
}

static void print_text(const experiment *x, const results *r, const worklist *list, const estimate *est) {
    char duration[16];
    int width = 5;
    for (int i = 0; i < r->n_points; i++)
        if ((int)strlen(r->points[i].label) > width) width = (int)strlen(r->points[i].label);
    printf("%s: %d points\n", x->name, r->n_points);
    if (*x->question) printf("%s\n", x->question);
    printf("\n  %-16s  %-*s  policy\n", "id", width, "label");
    for (int i = 0; i < r->n_points; i++)
        printf("  %-16s  %-*s  %s\n", r->points[i].id, width, r->points[i].label, r->points[i].policy);
    printf("\n  %-24s %8s %14s\n", "task", "records", "prompt tokens");
    for (int t = 0; t < r->n_tasks; t++)
        printf("  %-24s %8d %14d%s\n", r->tasks[t].name, r->tasks[t].n_items, r->tasks[t].prompt_tokens,
               r->tasks[t].timed ? "  (timed: runs alone)" : "");
    for (int g = 0; g < r->n_groups; g++)
        printf("\nmodel %s, %s math, %s %s, %d threads, context %d, seed %llu", r->groups[g].model, r->groups[g].math,
               r->groups[g].backend, r->groups[g].isa, r->groups[g].threads, r->groups[g].context,
               (unsigned long long)r->groups[g].seed);
    clock_duration(est->seconds, duration);
    printf("\n%d units, %d to do and %d for the noise floor: about %s at %.0f GFLOP/s, %.2f GB of memory\nresults go "
           "to %s\n",
           r->n_expected, list->n_units, list->n_noise, duration, est->gflops, (double)est->memory_bytes * 1e-9,
           x->dir);
}

static err plan_and_print(const experiment *x, const options *o) {
    results *r = NULL, *there = NULL;
    workset kept;
    worklist list = {0};
    estimate est = {0};
    err e;
    TRY(survey(x, &r, &kept));
    GOTO(done, e, present(x, &there));
    GOTO(done, e, worklist_create(x, there ? there : r, (work_filter){.only = o->only, .limit = o->limit}, &list));
    GOTO(done, e, make_estimate(x, r, &list, &kept, &est));
    size_t available = machine_memory_bytes();
    if (available && est.memory_bytes > available)
        GOTO(done, e,
             ERR(ERR_ENV, "the sweep needs about %.1f GB of memory, this machine has %.1f GB",
                 (double)est.memory_bytes * 1e-9, (double)available * 1e-9));
    if (o->json)
        e = print_json(x, r, &list, &est);
    else
        print_text(x, r, &list, &est);
done:
    worklist_free(&list);
    if (kept.x) workset_close(&kept);
    results_free(there);
    results_free(r);
    return e;
}

err cmd_plan(const options *o) {
    experiment *x;
    TRY(experiment_load(o->args[0], o, &x));
    err e = plan_and_print(x, o);
    experiment_free(x);
    return e;
}
