#include "run/workset.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

static bool group_has_task(const experiment *x, int group, int t) {
    for (int i = 0; i < x->n_points; i++) {
        if (x->points[i].group != group) continue;
        for (int k = 0; k < x->points[i].n_tasks; k++)
            if (x->points[i].tasks[k] == t) return true;
    }
    return false;
}

static engine_conf conf_of(const experiment_group *g) {
    return (engine_conf){g->model_path, g->backend, g->isa, g->math, g->threads, g->context};
}

static err open_tasks(workset *w) {
    const experiment *x = w->x;
    TRY(mem_alloc(MEM_OTHER, (size_t)x->n_tasks * sizeof *w->tasks, &w->tasks));
    for (int t = 0; t < x->n_tasks; t++) {
        if (!group_has_task(x, w->group, t)) continue;
        err e = task_create(x->tasks[t].conf, w->e, x->text, x->groups[w->group].seed, &w->tasks[t]);
        if (e != OK) return err_wrap(e, "task %s", x->tasks[t].name);
    }
    return OK;
}

err workset_open(const experiment *x, int group, workset *out) {
    *out = (workset){.x = x, .group = group};
    engine_conf c = conf_of(&x->groups[group]);
    err e = engine_open(&c, &out->e);
    if (e == OK) e = open_tasks(out);
    if (e != OK) workset_close(out);
    return e;
}

void workset_close(workset *w) {
    for (int t = 0; w->tasks && t < w->x->n_tasks; t++) task_destroy(w->tasks[t]);
    mem_free(w->tasks);
    if (w->other) engine_close(w->other);
    if (w->e) engine_close(w->e);
    *w = (workset){0};
}

err workset_other(workset *w, engine **out) {
    if (!w->other) {
        engine_conf c = conf_of(&w->x->groups[w->group]);
        c.math = c.math == MATH_FAST ? MATH_EXACT : MATH_FAST;
        TRY(engine_open(&c, &w->other));
    }
    *out = w->other;
    return OK;
}

uint64_t unit_seed(const experiment *x, int group, int task_index, int item) {
    const char *conf = x->tasks[task_index].canonical;
    uint64_t h = hash_bytes(conf, strlen(conf), x->groups[group].seed);
    return hash_bytes(&item, sizeof item, h);
}

/* ---- survey ---- */

static err copy_metrics(const task *t, result_task *out) {
    const task_metric *m;
    int n = task_list_metrics(t, &m);
    TRY(mem_alloc(MEM_OTHER, (size_t)n * sizeof *out->metrics, &out->metrics));
    for (int i = 0; i < n; i++)
        out->metrics[i] = (result_metric){mem_strdup(m[i].name), mem_strdup(m[i].unit ? m[i].unit : ""),
                                          mem_strdup(m[i].help ? m[i].help : ""), m[i].direction, m[i].timing};
    out->n_metrics = n;
    return OK;
}

static err note_task(const workset *w, int i, result_task *out) {
    const task *t = w->tasks[i];
    if (!t) return OK;
    bool first = out->metrics == NULL;
    if (first) {
        out->timed = task_is_timed(t);
        out->cost_unit = task_item_cost(t, false);
        out->cost_prepare = task_item_cost(t, true) - out->cost_unit;
        TRY(copy_metrics(t, out));
    }
    if (task_n_items(t) > out->n_items) out->n_items = task_n_items(t);
    if (task_prompt_tokens(t) > out->prompt_tokens) out->prompt_tokens = task_prompt_tokens(t);
    return OK;
}

static void note_group(const workset *w, result_group *out) {
    const experiment_group *g = &w->x->groups[w->group];
    const backend *be = engine_backend(w->e);
    memcpy(out->id, g->id, sizeof out->id);
    out->model = mem_strdup(g->model);
    out->model_sha256 = mem_strdup(g->model_sha256);
    out->backend = mem_strdup(be->name);
    out->isa = mem_strdup(be->isa);
    out->math = mem_strdup(g->math == MATH_FAST ? "fast" : "exact");
    out->threads = engine_threads(w->e);
    out->context = engine_context(w->e);
    out->seed = g->seed;
}

/* Layouts and byte budgets are only known with an engine: a point that cannot be laid out is found here, before
 * anything runs. */
static err check_point(const workset *w, int point) {
    const experiment_point *p = &w->x->points[point];
    for (int k = 0; k < p->n_tasks; k++) {
        policy *made;
        cache_space *space = NULL;
        TRY(experiment_policy(w->x, point, &made));
        int hint = task_prompt_tokens(w->tasks[p->tasks[k]]);
        err e = cache_space_create(w->e, made, hint > 0 ? hint : 1, 0, &space);
        cache_space_destroy(space);
        policy_destroy(made);
        if (e != OK) return err_wrap(e, "point %s, task %s", p->label, w->x->tasks[p->tasks[k]].name);
    }
    return OK;
}

static err survey_group(const experiment *x, int g, results *r, workset *keep) {
    workset w;
    TRY(workset_open(x, g, &w));
    note_group(&w, &r->groups[g]);
    err e = OK;
    for (int t = 0; t < x->n_tasks && e == OK; t++) e = note_task(&w, t, &r->tasks[t]);
    for (int i = 0; i < x->n_points && e == OK; i++)
        if (x->points[i].group == g) e = check_point(&w, i);
    if (e == OK && keep && x->n_groups == 1)
        *keep = w;
    else
        workset_close(&w);
    return e;
}

static err copy_point(const experiment *x, const experiment_point *p, result_point *out) {
    memcpy(out->id, p->id, sizeof out->id);
    out->label = mem_strdup(p->label);
    out->conf = mem_strdup(p->canonical);
    out->policy = mem_strdup(p->describe);
    out->full = p->full;
    out->group = p->group;
    TRY(mem_alloc(MEM_OTHER, (size_t)x->n_tasks * sizeof *out->has_task, &out->has_task));
    for (int k = 0; k < p->n_tasks; k++) out->has_task[p->tasks[k]] = true;
    TRY(mem_alloc(MEM_OTHER, (size_t)p->source->n_axes * sizeof *out->axes, &out->axes));
    for (int i = 0; i < p->source->n_axes; i++)
        out->axes[out->n_axes++] =
            (result_axis){mem_strdup(p->source->axes[i].path), mem_strdup(p->source->axes[i].text)};
    TRY(mem_alloc(MEM_OTHER, (size_t)p->n_tiers * sizeof *out->tiers, &out->tiers));
    for (int i = 0; i < p->n_tiers; i++) out->tiers[out->n_tiers++] = mem_strdup(p->tiers[i]);
    return OK;
}

static err fill(const experiment *x, results *r, workset *keep) {
    r->name = mem_strdup(x->name);
    r->question = mem_strdup(x->question);
    memcpy(r->sweep_id, x->id, sizeof r->sweep_id);
    r->text_name = mem_strdup(x->text ? text_source_name(x->text) : "");
    r->text_sha256 = mem_strdup(x->text ? text_source_sha256(x->text) : "");
    TRY(mem_alloc(MEM_OTHER, (size_t)x->n_groups * sizeof *r->groups, &r->groups));
    r->n_groups = x->n_groups;
    TRY(mem_alloc(MEM_OTHER, (size_t)x->n_tasks * sizeof *r->tasks, &r->tasks));
    r->n_tasks = x->n_tasks;
    TRY(mem_alloc(MEM_OTHER, (size_t)x->n_points * sizeof *r->points, &r->points));
    r->n_points = x->n_points;
    for (int t = 0; t < x->n_tasks; t++) {
        r->tasks[t].name = mem_strdup(x->tasks[t].name);
        r->tasks[t].conf = mem_strdup(x->tasks[t].canonical);
    }
    for (int i = 0; i < x->n_points; i++) TRY(copy_point(x, &x->points[i], &r->points[i]));
    for (int g = 0; g < x->n_groups; g++) TRY(survey_group(x, g, r, keep));
    return OK;
}

err survey(const experiment *x, results **out, workset *keep) {
    results *draft;
    json_t *header = NULL;
    *out = NULL;
    if (keep) *keep = (workset){0};
    TRY(mem_alloc(MEM_OTHER, sizeof *draft, &draft));
    err e = fill(x, draft, keep);
    if (e == OK) e = results_header_json(draft, &header);
    results_free(draft); /* what counts is what comes back from the header */
    if (e == OK) e = results_from_header(header, x->dir, out);
    json_decref(header);
    if (e != OK && keep && keep->x) workset_close(keep);
    return e;
}
