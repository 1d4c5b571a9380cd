/* What sweep.h5 holds: root, points, and what is told of a task as a whole; its records are in store_records.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "run/export.h"
#include "run/jsonx.h"
#include "run/provenance.h"
#include "run/store_walk.h"

const size_t store_type_bytes[] = {
    [STORE_F64] = 8, [STORE_F32] = 4, [STORE_I32] = 4, [STORE_U32] = 4, [STORE_U8] = 1, [STORE_TEXT] = sizeof(char *)};

size_t store_n_elements(const store_array *a) {
    size_t n = 1;
    for (int i = 0; i < a->rank; i++) n *= a->shape[i];
    return n;
}

char *store_task_group(const char *kind, const char *task) {
    char *path = mem_sprintf("/%s/%s", kind, task);
    for (char *c = path + strlen(kind) + 2; *c; c++)
        if (*c == '/') *c = '|';
    return path;
}

err walk_buffer(walk *w, size_t n, size_t each, void *out) {
    TRY(mem_reserve(MEM_OTHER, n * each + 1, &w->buf, &w->buf_bytes));
    *(void **)out = w->buf;
    return OK;
}

err walk_put(walk *w, store_array a) {
    return w->sink->array(w->sink->arg, &a);
}

err walk_put_scale(walk *w, const char *group, const char *name, store_type type, size_t n, const void *data) {
    return walk_put(w, (store_array){.group = group,
                                .name = name,
                                .type = type,
                                .rank = 1,
                                .dim = {name},
                                .shape = {n},
                                .data = data,
                                .scale = true});
}

err walk_put_counts(walk *w, const char *group, const char *name, int n) {
    int *x;
    TRY(walk_buffer(w, (size_t)n, sizeof *x, &x));
    for (int i = 0; i < n; i++) x[i] = i;
    return walk_put_scale(w, group, name, STORE_I32, (size_t)n, x);
}

err walk_begin_group(walk *w, const char *path, bool points, int n_items) {
    TRY(w->sink->group(w->sink->arg, path));
    if (points) TRY(walk_put_scale(w, path, "point", STORE_TEXT, (size_t)w->r->n_points, w->point));
    if (n_items >= 0) TRY(walk_put_scale(w, path, "item", STORE_TEXT, (size_t)n_items, w->item));
    return OK;
}

/* ---- root ---- */

static MUST err put_json(walk *w, const char *name, const json_t *j) {
    if (json_is_object(j)) {
        const char *key;
        json_t *v;
        json_object_foreach((json_t *)j, key, v) {
            char *path = mem_sprintf("%s%s%s", name, *name ? "." : "", key);
            err e = put_json(w, path, v);
            mem_free(path);
            TRY(e);
        }
        return OK;
    }
    if (json_is_string(j)) return w->sink->text(w->sink->arg, "/", name, json_string_value(j));
    if (json_is_number(j)) return w->sink->number(w->sink->arg, "/", name, json_number_value(j), json_is_integer(j));
    if (json_is_boolean(j)) return w->sink->number(w->sink->arg, "/", name, json_is_true(j), true);
    char *text = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
    if (!text) return ERR(ERR_NOMEM, "out of memory: %s cannot be stored", name);
    err e = w->sink->text(w->sink->arg, "/", name, text);
    free(text);
    return e;
}

static MUST err walk_root(walk *w) {
    const results *r = w->r;
    store_sink *k = w->sink;
    json_error_t je;
    json_t *environment = json_loads(r->environment_json, 0, &je);
    const char *time = json_string_value(json_object_get(environment, "time"));
    const struct {
        const char *name, *value;
    } texts[] = {{"kvlab_version", build_version()},  {"name", r->name},
                 {"question", r->question},           {"sweep_id", r->sweep_id},
                 {"date", time ? time : ""},          {"text_name", r->text_name},
                 {"text_sha256", r->text_sha256},     {"environment_json", r->environment_json},
                 {"resolved_yaml", r->resolved_yaml}, {"sweep_yaml", r->sweep_yaml}};
    const struct {
        const char *name;
        int value;
    } numbers[] = {{"schema", STORE_SCHEMA},    {"n_points", r->n_points},  {"n_tasks", r->n_tasks},
                   {"n_units", r->n_expected},  {"n_ok", r->n_ok},          {"n_failed", r->n_failed},
                   {"n_crashed", r->n_crashed}, {"n_skipped", r->n_skipped}};
    err e = k->group(k->arg, "/");
    for (size_t i = 0; i < sizeof texts / sizeof *texts && e == OK; i++)
        e = k->text(k->arg, "/", texts[i].name, texts[i].value);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && e == OK; i++)
        e = k->number(k->arg, "/", numbers[i].name, numbers[i].value, true);
    if (e == OK && environment) e = put_json(w, "environment", environment);
    json_decref(environment);
    return e;
}

/* ---- points ---- */

static MUST err put_point_texts(walk *w, const char *name, const char *help, char **text) {
    return walk_put(w, (store_array){.group = "/points",
                                .name = name,
                                .type = STORE_TEXT,
                                .rank = 1,
                                .dim = {"point"},
                                .shape = {(size_t)w->r->n_points},
                                .data = text,
                                .help = help});
}

/* Text k of a point; owned says whether the caller frees it. */
static char *point_text(const results *r, int p, int k, bool *owned) {
    const result_point *x = &r->points[p];
    const result_group *g = &r->groups[x->group];
    char *borrowed[] = {(char *)x->id,   x->policy,  x->conf, (char *)g->id, g->model,
                        g->model_sha256, g->backend, g->isa,  g->math};
    int n = (int)(sizeof borrowed / sizeof *borrowed);
    *owned = k >= n;
    return k < n ? borrowed[k] : k == n ? export_point_tiers(x) : export_point_axes(x);
}

static MUST err walk_point_texts(walk *w) {
    static const struct {
        const char *name, *help;
    } columns[] = {{"id", "hash of the resolved point"},
                   {"policy", "what the policy does, in one line"},
                   {"conf", "resolved point as JSON"},
                   {"group", "points of one group share model, engine and seed"},
                   {"model", "preset or path"},
                   {"model_sha256", ""},
                   {"backend", ""},
                   {"isa", "instructions that were dispatched"},
                   {"math", "mode of arithmetic"},
                   {"tiers", "formats, hot one first"},
                   {"axes", "what the sweep varies, as JSON"}};
    const results *r = w->r;
    char **text;
    TRY(mem_alloc(MEM_OTHER, sizeof *text * (size_t)r->n_points, &text));
    err e = OK;
    for (int k = 0; k < (int)(sizeof columns / sizeof *columns) && e == OK; k++) {
        bool owned = false;
        for (int p = 0; p < r->n_points; p++) text[p] = point_text(r, p, k, &owned);
        e = put_point_texts(w, columns[k].name, columns[k].help, text);
        for (int p = 0; p < r->n_points && owned; p++) mem_free(text[p]);
    }
    mem_free(text);
    return e;
}

static MUST err walk_point_axes(walk *w) {
    const results *r = w->r;
    json_t *seen = json_object();
    char **text;
    err e = mem_alloc(MEM_OTHER, sizeof *text * (size_t)r->n_points, &text);
    for (int p = 0; p < r->n_points && e == OK; p++)
        for (int a = 0; a < r->points[p].n_axes && e == OK; a++) {
            const char *path = r->points[p].axes[a].path;
            if (json_object_get(seen, path)) continue;
            json_object_set_new(seen, path, json_true());
            for (int q = 0; q < r->n_points; q++) {
                text[q] = "";
                for (int b = 0; b < r->points[q].n_axes; b++)
                    if (strcmp(r->points[q].axes[b].path, path) == 0) text[q] = r->points[q].axes[b].text;
            }
            char *name = mem_sprintf("axis.%s", path);
            for (char *c = name; *c; c++)
                if (*c == '/') *c = '|';
            e = put_point_texts(w, name, "value of this axis; empty where the point has none", text);
            mem_free(name);
        }
    mem_free(text);
    json_decref(seen);
    return e;
}

static MUST err walk_points(walk *w) {
    const results *r = w->r;
    TRY(walk_begin_group(w, "/points", true, -1));
    TRY(walk_point_texts(w));
    TRY(walk_point_axes(w));
    for (int k = 0; k < 3; k++) {
        int *x;
        TRY(walk_buffer(w, (size_t)r->n_points, sizeof *x, &x));
        for (int p = 0; p < r->n_points; p++) {
            const result_group *g = &r->groups[r->points[p].group];
            x[p] = k == 0 ? r->points[p].full : k == 1 ? g->threads : g->context;
        }
        TRY(walk_put(w, (store_array){.group = "/points",
                                 .name = (const char *const[]){"full", "threads", "context"}[k],
                                 .type = STORE_I32,
                                 .rank = 1,
                                 .dim = {"point"},
                                 .shape = {(size_t)r->n_points},
                                 .data = x,
                                 .help = k == 0 ? "1: keeps everything in one floating-point tier" : ""}));
    }
    double *seed;
    TRY(walk_buffer(w, (size_t)r->n_points, sizeof *seed, &seed));
    for (int p = 0; p < r->n_points; p++) seed[p] = (double)r->groups[r->points[p].group].seed;
    return walk_put(w, (store_array){.group = "/points",
                                .name = "seed",
                                .type = STORE_F64,
                                .rank = 1,
                                .dim = {"point"},
                                .shape = {(size_t)r->n_points},
                                .data = seed});
}

/* ---- metrics ---- */

static MUST err walk_metrics(walk *w, int t) {
    const results *r = w->r;
    const result_task *k = &r->tasks[t];
    char *group = store_task_group("metrics", k->name);
    err e = walk_begin_group(w, group, true, k->n_items);
    if (e == OK) e = w->sink->text(w->sink->arg, group, "task", k->name);
    if (e == OK) e = w->sink->text(w->sink->arg, group, "conf", k->conf);
    for (int m = 0; m < k->n_metrics && e == OK; m++) {
        double *x;
        e = walk_buffer(w, (size_t)r->n_points * (size_t)k->n_items, sizeof *x, &x);
        if (e != OK) break;
        for (int p = 0; p < r->n_points; p++)
            results_column(r, p, t, k->metrics[m].name, x + (size_t)p * (size_t)k->n_items);
        e = walk_put(w, (store_array){.group = group,
                                 .name = k->metrics[m].name,
                                 .type = STORE_F64,
                                 .rank = 2,
                                 .dim = {"point", "item"},
                                 .shape = {(size_t)r->n_points, (size_t)k->n_items},
                                 .data = x,
                                 .unit = k->metrics[m].unit,
                                 .help = k->metrics[m].help,
                                 .direction = export_direction_name(k->metrics[m].direction),
                                 .timing = k->metrics[m].timing});
    }
    mem_free(group);
    return e;
}

static MUST err walk_noise(walk *w, int t) {
    const results *r = w->r;
    const result_task *k = &r->tasks[t];
    bool any = false;
    for (int g = 0; g < r->n_groups; g++)
        for (int i = 0; i < k->n_items; i++) any |= results_noise(r, g, t, i) != NULL;
    if (!any) return OK;
    char *group = store_task_group("noise", k->name), **ids;
    err e = mem_alloc(MEM_OTHER, sizeof *ids * (size_t)r->n_groups, &ids);
    if (e != OK) goto done;
    for (int g = 0; g < r->n_groups; g++) ids[g] = r->groups[g].id;
    e = w->sink->group(w->sink->arg, group);
    if (e == OK) e = walk_put_scale(w, group, "group", STORE_TEXT, (size_t)r->n_groups, ids);
    if (e == OK) e = walk_put_scale(w, group, "item", STORE_TEXT, (size_t)k->n_items, w->item);
    for (int m = 0; m < k->n_metrics && e == OK; m++) {
        double *x;
        e = walk_buffer(w, (size_t)r->n_groups * (size_t)k->n_items, sizeof *x, &x);
        if (e != OK) break;
        bool has = false;
        for (int g = 0; g < r->n_groups; g++)
            results_noise_column(r, g, t, k->metrics[m].name, x + (size_t)g * (size_t)k->n_items);
        for (size_t i = 0; i < (size_t)r->n_groups * (size_t)k->n_items; i++) has |= !isnan(x[i]);
        if (!has) continue;
        e = walk_put(w, (store_array){.group = group,
                                 .name = k->metrics[m].name,
                                 .type = STORE_F64,
                                 .rank = 2,
                                 .dim = {"group", "item"},
                                 .shape = {(size_t)r->n_groups, (size_t)k->n_items},
                                 .data = x,
                                 .unit = k->metrics[m].unit,
                                 .help = "of full in the other math mode"});
    }
done:
    mem_free(ids);
    mem_free(group);
    return e;
}

static const char *const stat_names[] = {"mean", "lo", "hi", "n", "diff_mean", "diff_lo", "diff_hi", "diff_n", "noise"};
enum { N_STATS = sizeof stat_names / sizeof *stat_names };

static MUST err put_summary(walk *w, const char *group, int t, int m) {
    const results *r = w->r;
    const result_metric *d = &r->tasks[t].metrics[m];
    double *x;
    TRY(walk_buffer(w, (size_t)r->n_points * N_STATS, sizeof *x, &x));
    for (int p = 0; p < r->n_points; p++) {
        const summary_cell *c = summary_at(w->s, p, t, m);
        bool has = c->present, diff = c->diff.n > 0;
        const double v[N_STATS] = {has ? c->mean.mean : NAN,
                                   has ? c->mean.lo : NAN,
                                   has ? c->mean.hi : NAN,
                                   c->mean.n,
                                   diff ? c->diff.mean : NAN,
                                   diff ? c->diff.lo : NAN,
                                   diff ? c->diff.hi : NAN,
                                   c->diff.n,
                                   c->noise};
        memcpy(x + (size_t)p * N_STATS, v, sizeof v);
    }
    TRY(walk_put(w, (store_array){.group = group,
                             .name = d->name,
                             .type = STORE_F64,
                             .rank = 2,
                             .dim = {"point", "stat"},
                             .shape = {(size_t)r->n_points, N_STATS},
                             .data = x,
                             .unit = d->unit,
                             .help = d->help,
                             .direction = export_direction_name(d->direction),
                             .timing = d->timing}));
    char **verdict, *name = mem_sprintf("%s_verdict", d->name);
    err e = walk_buffer(w, (size_t)r->n_points, sizeof *verdict, &verdict);
    if (e == OK) {
        for (int p = 0; p < r->n_points; p++)
            verdict[p] = (char *)summary_verdict_name(summary_at(w->s, p, t, m)->verdict);
        e = walk_put(w, (store_array){.group = group,
                                 .name = name,
                                 .type = STORE_TEXT,
                                 .rank = 1,
                                 .dim = {"point"},
                                 .shape = {(size_t)r->n_points},
                                 .data = verdict,
                                 .help = "of the paired difference to full against the noise floor",
                                 .timing = d->timing});
    }
    mem_free(name);
    return e;
}

static MUST err walk_summary(walk *w, int t) {
    char *group = store_task_group("summary", w->r->tasks[t].name);
    err e = walk_begin_group(w, group, true, -1);
    if (e == OK) e = walk_put_scale(w, group, "stat", STORE_TEXT, N_STATS, stat_names);
    for (int m = 0; m < w->r->tasks[t].n_metrics && e == OK; m++) e = put_summary(w, group, t, m);
    mem_free(group);
    return e;
}

static MUST err walk_memory(walk *w, int t) {
    static const struct {
        const char *name, *unit, *help;
        size_t offset;
    } columns[] = {
#define COLUMN(f, u, h) {#f, u, h, offsetof(summary_bytes, f)}
        COLUMN(live_per_token, "B", "live bytes per prompt token at the end of the prompt"),
        COLUMN(full_per_token, "B", "payload of an f16 cache that keeps everything"),
        COLUMN(ratio, "", "live / full_f16"),
        COLUMN(payload, "B", ""),
        COLUMN(metadata, "B", ""),
        COLUMN(columns, "B", ""),
        COLUMN(tables, "B", ""),
        COLUMN(slack, "B", ""),
        COLUMN(committed, "B", ""),
        COLUMN(released, "B", "logical: what the items that are gone would hold in tier 0"),
        COLUMN(released_pages, "B", "physical: whole pages fewer than tier 0 would fill with all tokens"),
        COLUMN(live_end, "B", "at the end of decoding"),
        COLUMN(ratio_end, "", "at the end of decoding"),
        COLUMN(kept, "", "items / items of full")};
#undef COLUMN
    const results *r = w->r;
    char *group = store_task_group("memory", r->tasks[t].name);
    err e = walk_begin_group(w, group, true, -1);
    for (size_t k = 0; k < sizeof columns / sizeof *columns && e == OK; k++) {
        double *x;
        e = walk_buffer(w, (size_t)r->n_points, sizeof *x, &x);
        if (e != OK) break;
        for (int p = 0; p < r->n_points; p++) {
            const summary_bytes *b = summary_bytes_at(w->s, p, t);
            x[p] = NAN;
            if (b->n) memcpy(&x[p], (const char *)b + columns[k].offset, sizeof *x);
        }
        e = walk_put(w, (store_array){.group = group,
                                 .name = columns[k].name,
                                 .type = STORE_F64,
                                 .rank = 1,
                                 .dim = {"point"},
                                 .shape = {(size_t)r->n_points},
                                 .data = x,
                                 .unit = columns[k].unit,
                                 .help = columns[k].help});
    }
    mem_free(group);
    return e;
}

static MUST err walk_task(walk *w, int t) {
    static err (*const parts[])(walk *, int) = {walk_metrics, walk_summary, walk_memory, walk_items,
                                                walk_series,  walk_heads,   walk_noise};
    int n = w->r->tasks[t].n_items;
    err e = mem_alloc(MEM_OTHER, sizeof *w->item * (size_t)n, &w->item);
    for (int i = 0; i < n && e == OK; i++) w->item[i] = export_item_id(w->r, t, i);
    for (size_t k = 0; k < sizeof parts / sizeof *parts && e == OK; k++) e = parts[k](w, t);
    for (int i = 0; w->item && i < n; i++) mem_free(w->item[i]);
    mem_free(w->item);
    w->item = NULL;
    return e;
}

err store_walk(const results *r, store_sink *sink) {
    static const char *const folders[] = {"/metrics", "/summary", "/memory", "/items", "/series", "/heads", "/noise"};
    summary *s;
    TRY(summary_make(r, &s));
    walk w = {.r = r, .s = s, .sink = sink};
    err e = mem_alloc(MEM_OTHER, sizeof *w.point * (size_t)r->n_points, &w.point);
    for (int p = 0; p < r->n_points && e == OK; p++) w.point[p] = r->points[p].label;
    if (e == OK) e = walk_root(&w);
    if (e == OK) e = walk_points(&w);
    for (size_t i = 0; i < sizeof folders / sizeof *folders && e == OK; i++) e = sink->group(sink->arg, folders[i]);
    for (int t = 0; t < r->n_tasks && e == OK; t++) e = walk_task(&w, t);
    mem_free(w.buf);
    mem_free(w.point);
    summary_free(s);
    return e;
}
