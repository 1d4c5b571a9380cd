/* Data of decode_speed: decode tokens per second and cache GB/s against context, a line per policy. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "run/plot.h"

static const double panel_height = 462, label_gap = 15; /* pixels, as in plots/decode_speed.gp */

typedef struct line {
    int point, n;
    double *x, *tps, *gbs;
} line;

static MUST err read_lines(const figure *fig, const summary *s, line **out, int *n_out) {
    const results *r = s->r;
    int items = r->tasks[fig->task].n_items;
    line *l;
    double *pool;
    *n_out = 0;
    TRY(mem_alloc(MEM_OTHER, sizeof *l * (size_t)r->n_points + sizeof *pool * 3 * (size_t)r->n_points * (size_t)items,
                  &l));
    pool = (double *)(l + r->n_points);
    int n = 0;
    for (int p = 0; p < r->n_points; p++) {
        if (r->points[p].group != fig->group) continue;
        line *k = &l[n];
        *k = (line){p, 0, pool, pool + items, pool + 2 * items};
        for (int i = 0; i < items; i++) {
            const unit_record *u = results_unit(r, p, fig->task, i);
            if (!u || u->status != UNIT_OK || isnan(unit_record_metric(u, "decode_tps"))) continue;
            k->x[k->n] = u->n_prompt;
            k->tps[k->n] = unit_record_metric(u, "decode_tps");
            k->gbs[k->n++] = unit_record_metric(u, "kv_gbs");
        }
        if (!k->n) continue;
        pool += 3 * items;
        n++;
    }
    *out = l;
    *n_out = n;
    return OK;
}

/* Names at the right end of the lines, moved apart. */
static MUST err write_names(FILE *f, const plot_families *fam, const line *l, int n, bool gbs, double y1) {
    double *y;
    TRY(mem_alloc(MEM_OTHER, sizeof *y * (size_t)n, &y));
    for (int i = 0; i < n; i++) {
        double v = gbs ? l[i].gbs[l[i].n - 1] : l[i].tps[l[i].n - 1];
        y[i] = isfinite(v) ? v / y1 * panel_height : 0;
    }
    plot_spread(y, n, label_gap, 4, panel_height - 4);
    plot_next_block(f, gbs ? "names of the right panel: y, y of the line's end, x of the line's end, family, text"
                           : "names of the left panel: the same");
    for (int i = 0; i < n; i++) {
        double v = gbs ? l[i].gbs[l[i].n - 1] : l[i].tps[l[i].n - 1];
        fprintf(f, "%.9g %.9g %.9g %d ", y[i] / panel_height * y1, isfinite(v) ? v : 0, l[i].x[l[i].n - 1],
                fam->of_point[l[i].point]);
        plot_quoted(f, fam->brief[l[i].point]);
        fputc('\n', f);
    }
    mem_free(y);
    return OK;
}

err plot_write_speed(const figure *fig, const summary *s, FILE *f) {
    const results *r = s->r;
    const result_group *g = &r->groups[fig->group];
    plot_families fam;
    line *l = NULL;
    int n = 0;
    TRY(plot_families_make(s, &fam));
    err e = read_lines(fig, s, &l, &n);
    if (e != OK) goto done;
    double x0 = INFINITY, x1 = 0, tps = 0, gbs = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < l[i].n; k++) {
            x0 = fmin(x0, l[i].x[k]);
            x1 = fmax(x1, l[i].x[k]);
            tps = fmax(tps, l[i].tps[k]);
            if (isfinite(l[i].gbs[k])) gbs = fmax(gbs, l[i].gbs[k]);
        }
    if (n == 0) x0 = x1 = 1;
    if (!(tps > 0)) tps = 1;
    if (!(gbs > 0)) gbs = 1;
    plot_set(f, "title", "%s", fig->title);
    plot_set(f, "subtitle", "%s, %s %s %s, %d thread%s; one sequence, median of repeats", g->model, g->backend, g->isa,
             g->math, g->threads, g->threads == 1 ? "" : "s");
    plot_set(f, "xmin", "%.9g", x0);
    plot_set(f, "xmax", "%.9g", x1);
    plot_set(f, "ymax1", "%.9g", tps * 1.08);
    plot_set(f, "ymax2", "%.9g", gbs * 1.08);
    plot_set(f, "lines", "%d", n);
    e = write_names(f, &fam, l, n, false, tps * 1.08);
    if (e == OK) e = write_names(f, &fam, l, n, true, gbs * 1.08);
    for (int i = 0; i < n && e == OK; i++) {
        plot_next_block(
            f, "context in tokens, decode tokens/s, cache GB/s, family; first line: name and number of the family");
        plot_quoted(f, fam.brief[l[i].point]);
        fprintf(f, " %d\n", fam.of_point[l[i].point]);
        for (int k = 0; k < l[i].n; k++)
            fprintf(f, "%.9g %.9g %.9g %d\n", l[i].x[k], l[i].tps[k], l[i].gbs[k], fam.of_point[l[i].point]);
    }
done:
    mem_free(l);
    plot_families_free(&fam);
    return e;
}
