#include "run/contrast.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "run/grid.h"

static const stats_conf conf = {10000, 0.95, 1};

/* ---- axes and pairs ---- */

/* Is name[n] the whole path, or, second, its last part? */
static bool axis_named(const char *path, const char *name, size_t n, bool whole) {
    const char *dot = strrchr(path, '.'), *part = whole ? path : dot ? dot + 1 : "";
    return strlen(part) == n && strncmp(part, name, n) == 0;
}

static const char *value_of(const result_point *p, const char *axis) {
    for (int i = 0; i < p->n_axes; i++)
        if (strcmp(p->axes[i].path, axis) == 0) return p->axes[i].text;
    return NULL;
}

/* "a, b" without doubles: alternatives of an axis, or all axes (axis NULL). mem_free. */
static char *list_names(const results *r, const char *axis) {
    char *out = mem_strdup("");
    for (int p = 0; p < r->n_points; p++)
        for (int i = 0; i < r->points[p].n_axes; i++) {
            const result_axis *a = &r->points[p].axes[i];
            if (axis && strcmp(a->path, axis) != 0) continue;
            const char *name = axis ? a->text : a->path;
            char *padded = mem_sprintf(", %s,", name), *so_far = mem_sprintf(", %s,", out);
            bool there = strstr(so_far, padded) != NULL;
            mem_free(padded);
            mem_free(so_far);
            if (there) continue;
            char *longer = mem_sprintf("%s%s%s", out, *out ? ", " : "", name);
            mem_free(out);
            out = longer;
        }
    return out;
}

static MUST err find_path(const results *r, const char *name, size_t n, const char **path) {
    for (int whole = 1; whole >= 0 && !*path; whole--)
        for (int p = 0; p < r->n_points; p++)
            for (int i = 0; i < r->points[p].n_axes; i++) {
                const char *found = r->points[p].axes[i].path;
                if (!axis_named(found, name, n, whole)) continue;
                if (*path && strcmp(*path, found) != 0)
                    return ERR(ERR_USAGE, "%.*s is the last part of %s and of %s: name the whole path", (int)n, name, *path, found);
                *path = found;
            }
    if (*path) return OK;
    char *names = list_names(r, NULL);
    err e = ERR(ERR_USAGE, "no axis is called %.*s; the sweep has %s", (int)n, name, names);
    mem_free(names);
    return e;
}

static MUST err find_axis(const results *r, const char *what, contrast *c) {
    const char *equals = strchr(what, '=');
    if (!equals) return ERR(ERR_USAGE, "%s is not AXIS=ALTERNATIVE", what);
    TRY(find_path(r, what, (size_t)(equals - what), &c->axis));
    for (int p = 0; p < r->n_points && !c->alternative; p++) {
        const char *text = value_of(&r->points[p], c->axis);
        if (text && strcmp(text, equals + 1) == 0) c->alternative = text;
    }
    if (c->alternative) return OK;
    char *names = list_names(r, c->axis);
    err e = ERR(ERR_USAGE, "axis %s has no alternative %s; it has %s", c->axis, equals + 1, names);
    mem_free(names);
    return e;
}

/* Does q have every axis of p, but for the one in question? *agree: are the values equal where it does? */
static bool has_axes_of(const result_point *q, const result_point *p, const char *axis, bool *agree) {
    bool all = true;
    for (int i = 0; i < p->n_axes; i++) {
        if (strcmp(p->axes[i].path, axis) == 0) continue;
        const char *other = value_of(q, p->axes[i].path);
        all &= other != NULL;
        *agree &= !other || strcmp(other, p->axes[i].text) == 0;
    }
    return all;
}

static bool is_pair(const result_point *p, const result_point *q, const char *axis) {
    bool agree = p->group == q->group;
    bool either = has_axes_of(q, p, axis, &agree) | has_axes_of(p, q, axis, &agree);
    return either && agree;
}

/* ---- rows ---- */

/* The pairs of one task and one other alternative, and their mean. x, y, sum: [n_items]. */
static void add_pairs(const results *r, contrast *c, int task, const char *other, double *x, double *y, double *sum) {
    int n_items = r->tasks[task].n_items, n_pairs = 0;
    double *of = sum + n_items; /* sums of the alternative's own KL */
    memset(sum, 0, sizeof *sum * 2 * (size_t)n_items);
    for (int p = 0; p < r->n_points; p++) {
        const char *mine = value_of(&r->points[p], c->axis);
        if (!mine || strcmp(mine, c->alternative) != 0) continue;
        for (int q = 0; q < r->n_points; q++) {
            const char *theirs = value_of(&r->points[q], c->axis);
            if (!theirs || strcmp(theirs, other) != 0 || !is_pair(&r->points[p], &r->points[q], c->axis)) continue;
            results_column(r, p, task, "kl", x);
            results_column(r, q, task, "kl", y);
            contrast_row w = {task, p, other, 1, stats_mean(x, n_items, conf), stats_paired(y, x, n_items, conf), VERDICT_UNKNOWN};
            if (!w.diff.n) continue;
            w.v = stats_verdict(w.diff, 0);
            c->at[c->n++] = w;
            n_pairs++;
            for (int i = 0; i < n_items; i++) {
                sum[i] += y[i] - x[i]; /* NaN where a point lacks the record: each mean is over the same pairs */
                of[i] += x[i];
            }
        }
    }
    if (n_pairs < 2) return;
    for (int i = 0; i < n_items; i++) {
        sum[i] /= n_pairs;
        of[i] = isnan(sum[i]) ? NAN : of[i] / n_pairs;
    }
    contrast_row all = {task, -1, other, n_pairs, stats_mean(of, n_items, conf), stats_mean(sum, n_items, conf), VERDICT_UNKNOWN};
    all.v = stats_verdict(all.diff, 0);
    if (all.diff.n) c->at[c->n++] = all;
}

/* Each other alternative once, where it first appears. */
static bool is_first(const results *r, const contrast *c, int point) {
    const char *name = value_of(&r->points[point], c->axis);
    if (!name || strcmp(name, c->alternative) == 0) return false;
    for (int p = 0; p < point; p++) {
        const char *before = value_of(&r->points[p], c->axis);
        if (before && strcmp(before, name) == 0) return false;
    }
    return true;
}

err contrast_make(const results *r, const char *what, contrast *out) {
    *out = (contrast){0};
    TRY(find_axis(r, what, out));
    double *x;
    size_t n = (size_t)r->n_points, most = (size_t)r->n_tasks * (n * n + n);
    TRY(mem_alloc(MEM_OTHER, sizeof *x * 4 * (size_t)r->max_items, &x));
    err e = mem_alloc(MEM_OTHER, sizeof *out->at * most, &out->at);
    for (int t = 0; t < r->n_tasks && e == OK; t++)
        for (int p = 0; p < r->n_points && !r->tasks[t].timed && results_find_metric(r, t, "kl") >= 0; p++)
            if (is_first(r, out, p))
                add_pairs(r, out, t, value_of(&r->points[p], out->axis), x, x + r->max_items, x + 2 * r->max_items);
    mem_free(x);
    if (e == OK && !out->n) e = ERR(ERR_USAGE, "no record has a KL of %s %s and of another alternative at equal values of the other axes", out->axis, out->alternative);
    if (e != OK) contrast_free(out);
    return e;
}

void contrast_free(contrast *c) {
    mem_free(c->at);
    *c = (contrast){0};
}

/* ---- output ---- */

/* The point's label without the alternative: "snapkv half unit=1" -> "snapkv unit=1". */
static void cell_name(const result_point *p, const contrast *c, char out[GRID_CELL]) {
    out[0] = 0;
    for (int i = 0; i < p->n_axes; i++) {
        if (strcmp(p->axes[i].path, c->axis) == 0) continue;
        const char *dot = strrchr(p->axes[i].path, '.');
        size_t n = strlen(out);
        snprintf(out + n, GRID_CELL - n, "%s%s%s%s", n ? " " : "", dot ? dot + 1 : "", dot ? "=" : "", p->axes[i].text);
    }
}

static MUST err print_rows(const results *r, const contrast *c, FILE *f, bool color) {
    grid g;
    int n_apart = 0, n_single = 0;
    TRY(grid_make(&g, c->n + 1, 7));
    static const char *const head[] = {"at", "task", "other", "n", "", "other minus that", "95 % interval"};
    for (int k = 0; k < 7; k++) grid_set(&g, 0, k, NULL, "%s", head[k]);
    grid_set(&g, 0, 4, NULL, "KL of %s", c->alternative);
    for (int i = 0; i < c->n; i++) {
        const contrast_row *w = &c->at[i];
        char name[GRID_CELL], t[4][24];
        const double v[4] = {w->kl.mean, w->diff.mean, w->diff.lo, w->diff.hi};
        bool same = w->v == VERDICT_SAME || w->v == VERDICT_UNKNOWN;
        if (w->point < 0) snprintf(name, sizeof name, "mean of %d", w->n_pairs);
        else cell_name(&r->points[w->point], c, name);
        for (int k = 0; k < 4; k++) grid_number(t[k], v[k], "nats");
        grid_set(&g, i + 1, 0, NULL, "%s", name);
        grid_set(&g, i + 1, 1, NULL, "%s", r->tasks[w->task].name);
        grid_set(&g, i + 1, 2, NULL, "%s", w->other);
        grid_set(&g, i + 1, 3, NULL, "%d", w->diff.n);
        grid_set(&g, i + 1, 4, NULL, "%s", t[0]);
        grid_set(&g, i + 1, 5, same ? NULL : w->v == VERDICT_HIGHER ? GRID_GREEN : GRID_RED, "%s%s", same ? "~" : "", t[1]);
        grid_set(&g, i + 1, 6, NULL, "[%s, %s]", t[2], t[3]);
        n_single += w->point >= 0;
        n_apart += w->point >= 0 && !same;
    }
    grid_print(&g, 1, f, color);
    grid_free(&g);
    fprintf(f, "\n%d of %d intervals of single pairs leave out 0; one in twenty would by chance, more of few records.\n", n_apart, n_single);
    return OK;
}

static MUST err print_rows_json(const results *r, const contrast *c, FILE *f) {
    json_t *rows = json_array();
    for (int i = 0; i < c->n; i++) {
        const contrast_row *w = &c->at[i];
        json_array_append_new(rows, json_pack("{s:s, s:o, s:s, s:i, s:o, s:o, s:s}", "task", r->tasks[w->task].name, "point",
                                              w->point < 0 ? json_null() : json_string(r->points[w->point].label), "other", w->other, "pairs", w->n_pairs, "kl",
                                              grid_json_interval(w->kl), "difference", grid_json_interval(w->diff), "verdict", summary_verdict_name(w->v)));
    }
    return grid_print_json(json_pack("{s:s, s:s, s:o}", "axis", c->axis, "alternative", c->alternative, "rows", rows), f);
}

err outputs_contrast(const results *r, const char *what, FILE *f, bool color, bool json) {
    contrast c;
    TRY(contrast_make(r, what, &c));
    err e = json ? print_rows_json(r, &c, f) : print_rows(r, &c, f, color);
    contrast_free(&c);
    return e;
}
