#include "run/results.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/journal.h"
#include "run/jsonx.h"

enum { HEADER_VERSION = 1, MAX_POINTS = 100000, MAX_TASKS = 1000, MAX_ITEMS = 10000000 };
static const size_t max_text_bytes = 64 << 20;

/* ---- freeing ---- */

static void records_free(unit_record **rec, size_t n) {
    for (size_t i = 0; rec && i < n; i++) {
        if (!rec[i]) continue;
        unit_record_free(rec[i]);
        mem_free(rec[i]);
    }
    mem_free(rec);
}

static void task_free(result_task *t) {
    for (int m = 0; m < t->n_metrics; m++) {
        mem_free(t->metrics[m].name);
        mem_free(t->metrics[m].unit);
        mem_free(t->metrics[m].help);
    }
    mem_free(t->metrics);
    mem_free(t->name);
    mem_free(t->conf);
}

static void point_free(result_point *p) {
    for (int i = 0; i < p->n_axes; i++) {
        mem_free(p->axes[i].path);
        mem_free(p->axes[i].text);
    }
    for (int i = 0; i < p->n_tiers; i++) mem_free(p->tiers[i]);
    mem_free(p->axes);
    mem_free(p->tiers);
    mem_free(p->label);
    mem_free(p->conf);
    mem_free(p->policy);
    mem_free(p->has_task);
}

void results_free(results *r) {
    if (!r) return;
    size_t per_point = (size_t)r->n_tasks * (size_t)r->max_items;
    records_free(r->unit, (size_t)r->n_points * per_point);
    records_free(r->noise, (size_t)r->n_groups * per_point);
    for (int i = 0; i < r->n_groups; i++) {
        result_group *g = &r->groups[i];
        mem_free(g->model);
        mem_free(g->model_sha256);
        mem_free(g->backend);
        mem_free(g->isa);
        mem_free(g->math);
    }
    for (int i = 0; i < r->n_tasks; i++) task_free(&r->tasks[i]);
    for (int i = 0; i < r->n_points; i++) point_free(&r->points[i]);
    mem_free(r->groups);
    mem_free(r->tasks);
    mem_free(r->points);
    mem_free(r->dir);
    mem_free(r->name);
    mem_free(r->question);
    mem_free(r->text_name);
    mem_free(r->text_sha256);
    mem_free(r->resolved_yaml);
    mem_free(r->sweep_yaml);
    mem_free(r->environment_json);
    mem_free(r);
}

/* ---- header to JSON ---- */

static json_t *group_to_json(const result_group *g) {
    char seed[17];
    hash_hex64(g->seed, seed); /* JSON integers are signed here */
    return json_pack("{s:s,s:o,s:s,s:s,s:s,s:s,s:i,s:i,s:s}", "id", g->id, "model", jsonx_text(g->model),
                     "model_sha256", g->model_sha256, "backend", g->backend, "isa", g->isa, "math", g->math, "threads",
                     g->threads, "context", g->context, "seed", seed);
}

static json_t *task_to_json(const result_task *t) {
    json_t *metrics = json_array();
    for (int i = 0; i < t->n_metrics; i++) {
        const result_metric *m = &t->metrics[i];
        json_array_append_new(metrics, json_pack("{s:s,s:s,s:s,s:i,s:b}", "name", m->name, "unit", m->unit, "help",
                                                 m->help, "direction", (int)m->direction, "timing", m->timing));
    }
    return json_pack("{s:o,s:o,s:b,s:i,s:o,s:f,s:f,s:i}", "name", jsonx_text(t->name), "conf", jsonx_text(t->conf),
                     "timed", t->timed, "n_items", t->n_items, "metrics", metrics, "cost_prepare", t->cost_prepare,
                     "cost_unit", t->cost_unit, "prompt_tokens", t->prompt_tokens);
}

static json_t *point_to_json(const result_point *p, int n_tasks) {
    json_t *axes = json_array(), *tiers = json_array(), *tasks = json_array();
    for (int i = 0; i < p->n_axes; i++)
        json_array_append_new(axes, json_pack("[o,o]", jsonx_text(p->axes[i].path), jsonx_text(p->axes[i].text)));
    for (int i = 0; i < p->n_tiers; i++) json_array_append_new(tiers, json_string(p->tiers[i]));
    for (int i = 0; i < n_tasks; i++)
        if (p->has_task[i]) json_array_append_new(tasks, json_integer(i));
    return json_pack("{s:s,s:o,s:o,s:o,s:o,s:o,s:b,s:i,s:o}", "id", p->id, "label", jsonx_text(p->label), "axes", axes,
                     "conf", jsonx_text(p->conf), "policy", jsonx_text(p->policy), "tiers", tiers, "full", p->full,
                     "group", p->group, "tasks", tasks);
}

err results_header_json(const results *r, json_t **out) {
    json_t *groups = json_array(), *tasks = json_array(), *points = json_array();
    int bad = 0;
    for (int i = 0; i < r->n_groups; i++) bad |= json_array_append_new(groups, group_to_json(&r->groups[i]));
    for (int i = 0; i < r->n_tasks; i++) bad |= json_array_append_new(tasks, task_to_json(&r->tasks[i]));
    for (int i = 0; i < r->n_points; i++)
        bad |= json_array_append_new(points, point_to_json(&r->points[i], r->n_tasks));
    *out = json_pack("{s:s,s:i,s:o,s:o,s:s,s:o,s:o,s:o,s:o,s:o}", "kind", "sweep", "version", HEADER_VERSION, "name",
                     jsonx_text(r->name), "question", jsonx_text(r->question), "sweep_id", r->sweep_id, "text_name",
                     jsonx_text(r->text_name), "text_sha256", jsonx_text(r->text_sha256), "groups", groups, "tasks",
                     tasks, "points", points);
    if (!bad && *out) return OK;
    json_decref(*out);
    *out = NULL;
    return ERR(ERR_NOMEM, "out of memory: the header of sweep %s cannot be encoded", r->name);
}

/* ---- header from JSON ---- */

static err group_from_json(const json_t *j, result_group *g) {
    char seed[17];
    TRY(jsonx_get_id(j, "id", g->id));
    TRY(jsonx_get_text_required(j, "model", &g->model));
    TRY(jsonx_get_text_required(j, "model_sha256", &g->model_sha256));
    TRY(jsonx_get_text_required(j, "backend", &g->backend));
    TRY(jsonx_get_text_required(j, "isa", &g->isa));
    TRY(jsonx_get_text_required(j, "math", &g->math));
    TRY(jsonx_get_int(j, "threads", 0, 1 << 20, &g->threads));
    TRY(jsonx_get_int(j, "context", 0, 1 << 30, &g->context));
    TRY(jsonx_get_id(j, "seed", seed));
    g->seed = strtoull(seed, NULL, 16);
    return OK;
}

static err metric_from_json(const json_t *j, result_metric *m) {
    int direction;
    TRY(jsonx_get_text_required(j, "name", &m->name));
    TRY(jsonx_get_text_required(j, "unit", &m->unit));
    TRY(jsonx_get_text_required(j, "help", &m->help));
    TRY(jsonx_get_int(j, "direction", METRIC_NEUTRAL, METRIC_LOWER, &direction));
    m->direction = (metric_direction)direction;
    return jsonx_get_bool(j, "timing", &m->timing);
}

static err task_from_json(const json_t *j, result_task *t) {
    json_t *metrics;
    TRY(jsonx_get_text_required(j, "name", &t->name));
    TRY(jsonx_get_text_required(j, "conf", &t->conf));
    TRY(jsonx_get_bool(j, "timed", &t->timed));
    TRY(jsonx_get_int(j, "n_items", 0, MAX_ITEMS, &t->n_items));
    TRY(jsonx_get_double(j, "cost_prepare", &t->cost_prepare));
    TRY(jsonx_get_double(j, "cost_unit", &t->cost_unit));
    if (!isfinite(t->cost_prepare) || !isfinite(t->cost_unit)) /* null, the form of NaN, cannot be written again */
        return ERR(ERR_FORMAT, "cost_prepare and cost_unit of task %s are not both numbers", t->name);
    TRY(jsonx_get_int(j, "prompt_tokens", 0, 1 << 30, &t->prompt_tokens));
    TRY(jsonx_get_array(j, "metrics", &metrics));
    int n = (int)json_array_size(metrics);
    if (n > TASK_MAX_METRICS)
        return ERR(ERR_FORMAT, "task %s has %d metrics, at most %d", t->name, n, TASK_MAX_METRICS);
    TRY(mem_alloc(MEM_OTHER, (size_t)n * sizeof *t->metrics, &t->metrics));
    t->n_metrics = n;
    for (int i = 0; i < n; i++) {
        err e = metric_from_json(json_array_get(metrics, (size_t)i), &t->metrics[i]);
        if (e != OK) return err_wrap(e, "task %s, metric %d", t->name, i);
    }
    return OK;
}

/* Pads what a half-read list would leave NULL, so that everything read so far can be used and freed. */
static err text_at(const json_t *array, int i, const char *what, char **out) {
    const char *s = json_string_value(json_array_get(array, (size_t)i));
    *out = mem_strdup(s ? s : "");
    return s ? OK : ERR(ERR_FORMAT, "%s %d is not a string", what, i);
}

static err point_from_json(const json_t *j, const results *r, result_point *p) {
    json_t *axes, *tiers, *tasks;
    TRY(jsonx_get_id(j, "id", p->id));
    TRY(jsonx_get_text_required(j, "label", &p->label));
    TRY(jsonx_get_text_required(j, "conf", &p->conf));
    TRY(jsonx_get_text_required(j, "policy", &p->policy));
    TRY(jsonx_get_bool(j, "full", &p->full));
    TRY(jsonx_get_int(j, "group", 0, r->n_groups - 1, &p->group));
    TRY(jsonx_get_array(j, "axes", &axes));
    TRY(jsonx_get_array(j, "tiers", &tiers));
    TRY(jsonx_get_array(j, "tasks", &tasks));
    if (json_array_size(axes) > 1000) return ERR(ERR_FORMAT, "point %s has too many axes", p->label);
    if (json_array_size(tiers) > KV_MAX_TIERS) return ERR(ERR_FORMAT, "point %s has too many tiers", p->label);
    TRY(mem_alloc(MEM_OTHER, json_array_size(axes) * sizeof *p->axes, &p->axes));
    for (int i = 0; i < (int)json_array_size(axes); i++) {
        const json_t *pair = json_array_get(axes, (size_t)i);
        p->n_axes++;
        TRY(text_at(pair, 0, "axis path", &p->axes[i].path));
        TRY(text_at(pair, 1, "axis value", &p->axes[i].text));
    }
    TRY(mem_alloc(MEM_OTHER, json_array_size(tiers) * sizeof *p->tiers, &p->tiers));
    for (int i = 0; i < (int)json_array_size(tiers); i++) {
        p->n_tiers++;
        TRY(text_at(tiers, i, "tier", &p->tiers[i]));
    }
    TRY(mem_alloc(MEM_OTHER, (size_t)r->n_tasks * sizeof *p->has_task, &p->has_task));
    for (size_t i = 0; i < json_array_size(tasks); i++) {
        const json_t *v = json_array_get(tasks, i);
        json_int_t t = json_integer_value(v);
        if (!json_is_integer(v) || t < 0 || t >= r->n_tasks)
            return ERR(ERR_FORMAT, "point %s names an unknown task", p->label);
        p->has_task[t] = true;
    }
    return OK;
}

static err header_read(const json_t *h, results *r) {
    json_t *groups, *tasks, *points;
    int version;
    TRY(jsonx_get_int(h, "version", HEADER_VERSION, HEADER_VERSION, &version));
    TRY(jsonx_get_text_required(h, "name", &r->name));
    TRY(jsonx_get_text_required(h, "question", &r->question));
    TRY(jsonx_get_id(h, "sweep_id", r->sweep_id));
    TRY(jsonx_get_text_required(h, "text_name", &r->text_name));
    TRY(jsonx_get_text_required(h, "text_sha256", &r->text_sha256));
    TRY(jsonx_get_array(h, "groups", &groups));
    TRY(jsonx_get_array(h, "tasks", &tasks));
    TRY(jsonx_get_array(h, "points", &points));
    size_t n_g = json_array_size(groups), n_t = json_array_size(tasks), n_p = json_array_size(points);
    if (n_g > MAX_POINTS || n_t > MAX_TASKS || n_p > MAX_POINTS)
        return ERR(ERR_FORMAT, "%zu groups, %zu tasks, %zu points: too many", n_g, n_t, n_p);
    TRY(mem_alloc(MEM_OTHER, n_g * sizeof *r->groups, &r->groups));
    for (; r->n_groups < (int)n_g;) {
        int i = r->n_groups++;
        TRY(group_from_json(json_array_get(groups, (size_t)i), &r->groups[i]));
    }
    TRY(mem_alloc(MEM_OTHER, n_t * sizeof *r->tasks, &r->tasks));
    for (; r->n_tasks < (int)n_t;) {
        int i = r->n_tasks++;
        TRY(task_from_json(json_array_get(tasks, (size_t)i), &r->tasks[i]));
        if (r->tasks[i].n_items > r->max_items) r->max_items = r->tasks[i].n_items;
    }
    TRY(mem_alloc(MEM_OTHER, n_p * sizeof *r->points, &r->points));
    for (; r->n_points < (int)n_p;) {
        int i = r->n_points++;
        TRY(point_from_json(json_array_get(points, (size_t)i), r, &r->points[i]));
    }
    return OK;
}

static void find_baselines(results *r) {
    for (int i = 0; i < r->n_points; i++) {
        r->points[i].baseline = -1;
        for (int k = 0; k < r->n_points && r->points[i].baseline < 0; k++)
            if (r->points[k].full && r->points[k].group == r->points[i].group) r->points[i].baseline = k;
    }
}

static err allocate_records(results *r) {
    size_t per_point = (size_t)r->n_tasks * (size_t)r->max_items, n = (size_t)r->n_points * per_point;
    if (per_point > (size_t)1 << 30 || n > (size_t)1 << 30) return ERR(ERR_FORMAT, "%zu work units: too many", n);
    TRY(mem_alloc(MEM_OTHER, n * sizeof *r->unit, &r->unit));
    TRY(mem_alloc(MEM_OTHER, (size_t)r->n_groups * per_point * sizeof *r->noise, &r->noise));
    for (int p = 0; p < r->n_points; p++)
        for (int t = 0; t < r->n_tasks; t++)
            if (r->points[p].has_task[t]) r->n_expected += r->tasks[t].n_items;
    return OK;
}

err results_from_header(const json_t *header, const char *dir, results **out) {
    results *r;
    *out = NULL;
    TRY(mem_alloc(MEM_OTHER, sizeof *r, &r));
    r->dir = mem_strdup(dir);
    r->resolved_yaml = mem_strdup("");
    r->sweep_yaml = mem_strdup("");
    r->environment_json = mem_strdup("");
    err e = header_read(header, r);
    if (e == OK) {
        find_baselines(r);
        e = allocate_records(r);
    }
    if (e != OK) {
        if (!r->unit || !r->noise) r->max_items = 0; /* nothing to walk over */
        results_free(r);
        return err_wrap(e, "header of a sweep");
    }
    *out = r;
    return OK;
}

/* ---- records ---- */

static int find_task(const results *r, const char *name) {
    for (int t = 0; t < r->n_tasks; t++)
        if (strcmp(r->tasks[t].name, name) == 0) return t;
    return -1;
}

static unit_record **find_slot(const results *r, const unit_record *rec) {
    int t = find_task(r, rec->task), owner = -1;
    if (t < 0 || rec->item < 0 || rec->item >= r->tasks[t].n_items) return NULL;
    for (int i = 0; owner < 0 && i < (rec->noise ? r->n_groups : r->n_points); i++)
        if (strcmp(rec->noise ? r->groups[i].id : r->points[i].id, rec->point) == 0) owner = i;
    if (owner < 0 || (!rec->noise && !r->points[owner].has_task[t])) return NULL;
    unit_record **base = rec->noise ? r->noise : r->unit;
    return &base[((size_t)owner * (size_t)r->n_tasks + (size_t)t) * (size_t)r->max_items + (size_t)rec->item];
}

static int *status_count(results *r, unit_status s) {
    switch (s) {
    case UNIT_OK:
        return &r->n_ok;
    case UNIT_FAILED:
        return &r->n_failed;
    case UNIT_CRASHED:
        return &r->n_crashed;
    default:
        return &r->n_skipped;
    }
}

err results_add(results *r, unit_record *rec) {
    unit_record **slot = find_slot(r, rec);
    if (!slot) return OK;
    if (*slot) {
        if ((*slot)->status == UNIT_OK && rec->status != UNIT_OK) return OK;
        if (!rec->noise) --*status_count(r, (*slot)->status);
        unit_record_free(*slot);
    } else {
        TRY(mem_alloc(MEM_OTHER, sizeof **slot, slot));
    }
    **slot = *rec;
    *rec = (unit_record){0};
    if (!(*slot)->noise) ++*status_count(r, (*slot)->status);
    return OK;
}

typedef struct loading {
    const char *dir, *path;
    results *r;
} loading;

static err load_line(void *arg, int line, const json_t *value) {
    loading *l = arg;
    const char *kind = json_string_value(json_object_get(value, "kind"));
    if (kind && strcmp(kind, "sweep") == 0) {
        const char *id = json_string_value(json_object_get(value, "sweep_id"));
        if (l->r && (!id || strcmp(id, l->r->sweep_id) != 0))
            return ERR(ERR_FORMAT, "%s:%d: sweep %s beside sweep %s: journals of different sweeps do not merge",
                       l->path, line, id ? id : "?", l->r->sweep_id);
        if (l->r) return OK;
        err e = results_from_header(value, l->dir, &l->r);
        return e == OK ? OK : err_wrap(e, "%s:%d", l->path, line);
    }
    if (!l->r) return ERR(ERR_FORMAT, "%s:%d: a record before the header of its sweep", l->path, line);
    unit_record rec;
    err e = unit_record_from_json(value, &rec);
    if (e != OK) return err_wrap(e, "%s:%d", l->path, line);
    e = results_add(l->r, &rec);
    unit_record_free(&rec);
    return e;
}

static void read_side_file(const char *dir, const char *name, char **text) {
    char *path = io_join(dir, name), *read;
    size_t n;
    if (io_exists(path) && io_read_file(path, max_text_bytes, &read, &n) == OK) {
        mem_free(*text);
        *text = read;
    }
    mem_free(path);
}

static void warn_corrupt(const char *path, const journal_report *rep) {
    for (int i = 0; i < rep->n_corrupt && i < JOURNAL_MAX_NAMED; i++)
        log_warn("%s:%d: corrupted line left out (its checksum is wrong)", path, rep->corrupt[i]);
    if (rep->n_corrupt > JOURNAL_MAX_NAMED)
        log_warn("%s: %d more corrupted lines left out", path, rep->n_corrupt - JOURNAL_MAX_NAMED);
}

err results_load(const char *dir, results **out) {
    char **paths;
    int n, n_corrupt = 0;
    *out = NULL;
    TRY(journal_list(dir, &paths, &n));
    loading l = {.dir = dir};
    err e = OK;
    for (int i = 0; i < n && e == OK; i++) {
        journal_report rep;
        l.path = paths[i];
        e = journal_read(paths[i], load_line, &l, &rep);
        if (e == OK) warn_corrupt(paths[i], &rep);
        n_corrupt += rep.n_corrupt;
    }
    if (e == OK && !l.r) e = ERR(ERR_FORMAT, "%s holds no readable header of a sweep in journal/*.jsonl", dir);
    journal_list_free(paths, n);
    if (e != OK) {
        results_free(l.r);
        return e;
    }
    l.r->n_corrupt_lines = n_corrupt;
    read_side_file(dir, "resolved.yaml", &l.r->resolved_yaml);
    read_side_file(dir, "sweep.yaml", &l.r->sweep_yaml);
    read_side_file(dir, "environment.json", &l.r->environment_json);
    *out = l.r;
    return OK;
}

/* ---- columns ---- */

int results_bad_noise(const results *r) {
    int n = 0;
    for (size_t i = 0, end = (size_t)r->n_groups * (size_t)r->n_tasks * (size_t)r->max_items; i < end; i++)
        n += r->noise[i] && (r->noise[i]->status == UNIT_FAILED || r->noise[i]->status == UNIT_CRASHED);
    return n;
}

int results_find_metric(const results *r, int t, const char *name) {
    for (int m = 0; m < r->tasks[t].n_metrics; m++)
        if (strcmp(r->tasks[t].metrics[m].name, name) == 0) return m;
    return -1;
}

void results_column(const results *r, int p, int t, const char *metric, double *x) {
    for (int i = 0; i < r->tasks[t].n_items; i++) {
        const unit_record *u = results_unit(r, p, t, i);
        x[i] = u && u->status == UNIT_OK ? unit_record_metric(u, metric) : NAN;
    }
}

void results_noise_column(const results *r, int g, int t, const char *metric, double *x) {
    for (int i = 0; i < r->tasks[t].n_items; i++) {
        const unit_record *u = results_noise(r, g, t, i);
        x[i] = u && u->status == UNIT_OK ? unit_record_metric(u, metric) : NAN;
    }
}
