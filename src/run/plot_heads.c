/* Data of kept_heads: the share of a prompt's items that each layer and KV head keeps, a panel per evicting policy. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "run/plot.h"

enum { MAX_PANELS = 12 };

/* Mean share of prompt tokens kept by every (layer, head) over the ok records of untimed tasks; *n = records that told.
 * share [layers][heads]. */
static MUST err kept_share(const results *r, int point, double **share, int *n_layers, int *n_heads, int *n) {
    double *sum = NULL;
    *n = *n_layers = *n_heads = 0;
    *share = NULL;
    for (int t = 0; t < r->n_tasks; t++)
        for (int i = 0; i < r->tasks[t].n_items; i++) {
            const unit_record *u = results_unit(r, point, t, i);
            if (!u || u->status != UNIT_OK || !u->kept || !u->n_prompt || r->tasks[t].timed) continue;
            if (!sum) {
                TRY(mem_alloc(MEM_OTHER, sizeof *sum * (size_t)u->n_layers * (size_t)u->n_kv, &sum));
                *n_layers = u->n_layers;
                *n_heads = u->n_kv;
            }
            if (u->n_layers != *n_layers || u->n_kv != *n_heads) continue;
            for (int h = 0; h < u->n_layers * u->n_kv; h++)
                for (int k = 0; k < u->n_tiers; k++) sum[h] += (double)u->kept[h * u->n_tiers + k] / u->n_prompt;
            ++*n;
        }
    for (int h = 0; h < *n_layers * *n_heads; h++) sum[h] /= *n;
    *share = sum;
    return OK;
}

bool plot_point_evicts(const summary *s, int point) {
    const results *r = s->r;
    summary_bytes b = summary_point_bytes(s, point);
    if (!b.n || !(b.kept < 0.9995)) return false;
    for (int t = 0; t < r->n_tasks; t++)
        for (int i = 0; i < r->tasks[t].n_items && !r->tasks[t].timed; i++) {
            const unit_record *u = results_unit(r, point, t, i);
            if (u && u->status == UNIT_OK && u->kept && u->n_prompt) return true;
        }
    return false;
}

err plot_write_heads(const figure *fig, const summary *s, FILE *f) {
    const results *r = s->r;
    int panel[MAX_PANELS], n_panels = 0, n_evicting = 0;
    for (int p = 0; p < r->n_points; p++)
        if (r->points[p].group == fig->group && plot_point_evicts(s, p)) {
            if (n_panels < MAX_PANELS) panel[n_panels++] = p;
            n_evicting++;
        }
    double *share[MAX_PANELS] = {NULL}, most = 0;
    int layers[MAX_PANELS], heads[MAX_PANELS], n_records[MAX_PANELS], max_layers = 1, max_heads = 1;
    err e = OK;
    for (int k = 0; k < n_panels; k++) {
        GOTO(done, e, kept_share(r, panel[k], &share[k], &layers[k], &heads[k], &n_records[k]));
        for (int h = 0; h < layers[k] * heads[k]; h++) most = fmax(most, share[k][h]);
        if (layers[k] > max_layers) max_layers = layers[k];
        if (heads[k] > max_heads) max_heads = heads[k];
    }
    const result_group *g = &r->groups[fig->group];
    plot_set(f, "title", "%s", fig->title);
    if (n_evicting > n_panels)
        plot_set(f, "subtitle", "%s; mean over records of the untimed tasks; the first %d of %d evicting points",
                 g->model, n_panels, n_evicting);
    else
        plot_set(f, "subtitle", "%s; mean over records of the untimed tasks", g->model);
    plot_set(f, "panels", "%d", n_panels);
    plot_set(f, "layers", "%d", max_layers);
    plot_set(f, "heads", "%d", max_heads);
    plot_set(f, "most", "%.3g", fmin(1, fmax(0.1, ceil(most * 10 - 1e-9) / 10)));
    plot_next_block(f, "panels: mean share kept, name in two parts");
    for (int k = 0; k < n_panels; k++) {
        double mean = 0;
        for (int h = 0; h < layers[k] * heads[k]; h++) mean += share[k][h] / (layers[k] * heads[k]);
        const char *label = r->points[panel[k]].label;
        char *first = mem_sprintf("%.*s", (int)strcspn(label, " "), label);
        fprintf(f, "%.6g ", mean);
        plot_quoted(f, first);
        fputc(' ', f);
        plot_quoted(f, label[strlen(first)] ? label + strlen(first) + 1 : "");
        fputc('\n', f);
        mem_free(first);
    }
    for (int k = 0; k < n_panels; k++) {
        plot_next_block(f, "layer, KV head, share of the prompt's items kept");
        for (int l = 0; l < layers[k]; l++)
            for (int h = 0; h < heads[k]; h++) fprintf(f, "%d %d %.6g\n", l, h, share[k][l * heads[k] + h]);
    }
done:
    for (int k = 0; k < n_panels; k++) mem_free(share[k]);
    return e;
}
