#include "run/axes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static double point_kl(const summary *s, int p) {
    double sum = 0;
    int n = 0;
    for (int t = 0; t < s->r->n_tasks; t++) {
        int m = results_find_metric(s->r, t, "kl");
        if (m < 0) continue;
        const summary_cell *c = summary_at(s, p, t, m);
        if (!c->present || !(c->mean.mean > 0)) return NAN;
        sum += log(c->mean.mean);
        n++;
    }
    return n ? exp(sum / n) : NAN;
}

bool axes_point_has(const result_point *p, const char *axis, const char *name) {
    for (int a = 0; a < p->n_axes; a++)
        if (!strcmp(p->axes[a].path, axis) && !strcmp(p->axes[a].text, name)) return true;
    return false;
}

/* Behind the rows of the same axis, so that axes stay together. */
static void add_row(axis_rows *x, const result_axis *a) {
    int at = x->n;
    for (int i = 0; i < x->n; i++) {
        if (strcmp(x->at[i].axis, a->path) != 0) continue;
        if (!strcmp(x->at[i].name, a->text)) return;
        at = i + 1;
    }
    memmove(x->at + at + 1, x->at + at, (size_t)(x->n - at) * sizeof *x->at);
    x->at[at] = (axis_row){.axis = a->path, .name = a->text, .best_point = -1};
    x->n++;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void fill_row(const summary *s, int group, const double *kl, double *sorted, axis_row *row) {
    for (int p = 0; p < s->r->n_points; p++) {
        const result_point *q = &s->r->points[p];
        if (q->group != group || isnan(kl[p]) || !axes_point_has(q, row->axis, row->name)) continue;
        if (row->best_point < 0 || kl[p] < kl[row->best_point]) row->best_point = p;
        sorted[row->n++] = kl[p];
    }
    if (!row->n) return;
    qsort(sorted, (size_t)row->n, sizeof *sorted, by_value);
    row->best = sorted[0];
    row->middle = row->n % 2 ? sorted[row->n / 2] : (sorted[row->n / 2 - 1] + sorted[row->n / 2]) / 2;
}

err axes_make(const summary *s, int group, axis_rows *out) {
    const results *r = s->r;
    size_t most = 0;
    *out = (axis_rows){0};
    for (int p = 0; p < r->n_points; p++) most += (size_t)r->points[p].n_axes;
    if (!most) return OK;
    TRY(mem_alloc(MEM_OTHER, most * sizeof *out->at, &out->at));
    double *sorted = NULL;
    err e = mem_alloc(MEM_OTHER, (size_t)r->n_points * sizeof *out->kl, &out->kl);
    if (e == OK) e = mem_alloc(MEM_OTHER, (size_t)r->n_points * sizeof *sorted, &sorted);
    if (e != OK) {
        axes_free(out);
        return e;
    }
    for (int p = 0; p < r->n_points; p++) {
        const result_point *q = &r->points[p];
        out->kl[p] = q->full ? NAN : point_kl(s, p);
        for (int a = 0; q->group == group && a < q->n_axes; a++)
            if (!strchr(q->axes[a].path, '.')) add_row(out, &q->axes[a]);
    }
    for (int i = 0; i < out->n; i++) fill_row(s, group, out->kl, sorted, &out->at[i]);
    mem_free(sorted);
    return OK;
}

void axes_free(axis_rows *x) {
    mem_free(x->at);
    mem_free(x->kl);
    *x = (axis_rows){0};
}
