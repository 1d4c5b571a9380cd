/* Data of axes: KL of every point over the named alternatives that it is made of, an axis beside the other. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "run/axes.h"
#include "run/plot.h"

static MUST err write_rows(const figure *fig, const summary *s, const axis_rows *x, FILE *f) {
    double lo = INFINITY, hi = 0;
    int best = -1, columns = 0;
    for (int i = 0; i < x->n; i++) {
        columns += 1 + (i > 0 && strcmp(x->at[i].axis, x->at[i - 1].axis) != 0);
        if (x->at[i].n && x->at[i].best < lo) lo = x->at[i].best, best = x->at[i].best_point;
    }
    for (int p = 0; p < s->r->n_points; p++)
        if (s->r->points[p].group == fig->group && x->kl[p] > hi) hi = x->kl[p];
    plot_set(f, "title", "%s", fig->title);
    plot_set(f, "subtitle", "%s; each dot is a point of the sweep, geometric mean over tasks; best: %s, %.4f", s->r->groups[fig->group].model,
             s->r->points[best].label, lo);
    plot_set(f, "columns", "%d", columns);
    plot_set(f, "ymin", "%.6g", lo / 1.3);
    plot_set(f, "ymax", "%.6g", hi * 1.5);
    plot_next_block(f, "column, alternative, points, best KL, median KL, its axis at the first of them, best point");
    for (int i = 0, column = 0; i < x->n; i++, column++) {
        bool first = i == 0 || strcmp(x->at[i].axis, x->at[i - 1].axis) != 0;
        column += first && i > 0; /* a gap between axes */
        fprintf(f, "%d ", column);
        plot_quoted(f, x->at[i].name);
        fprintf(f, " %d %.6g %.6g ", x->at[i].n, x->at[i].n ? x->at[i].best : NAN, x->at[i].n ? x->at[i].middle : NAN);
        plot_quoted(f, first ? x->at[i].axis : "");
        fputc(' ', f);
        plot_quoted(f, x->at[i].n ? s->r->points[x->at[i].best_point].label : "");
        fputc('\n', f);
    }
    plot_next_block(f, "column, KL, is the best of all");
    for (int i = 0, column = 0; i < x->n; i++, column++) {
        column += i > 0 && strcmp(x->at[i].axis, x->at[i - 1].axis) != 0;
        for (int p = 0; p < s->r->n_points; p++) {
            const result_point *q = &s->r->points[p];
            if (axes_point_has(q, x->at[i].axis, x->at[i].name) && q->group == fig->group && !isnan(x->kl[p])) fprintf(f, "%d %.6g %d\n", column, x->kl[p], p == best);
        }
    }
    return OK;
}

err plot_write_axes(const figure *fig, const summary *s, FILE *f) {
    axis_rows x;
    TRY(axes_make(s, fig->group, &x));
    err e = write_rows(fig, s, &x, f);
    axes_free(&x);
    return e;
}

bool plot_has_axes(const summary *s, int group) {
    axis_rows x;
    int n = 0;
    if (axes_make(s, group, &x) != OK) return false;
    for (int i = 0; i < x.n; i++) n += x.at[i].n > 0;
    axes_free(&x);
    return n > 1;
}
