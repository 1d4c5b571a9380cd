/* Data of memory: what the bytes of each point's cache are, per token, beside an f16 cache that keeps everything. */
#include <math.h>

#include "run/plot.h"

err plot_write_memory(const figure *fig, const summary *s, FILE *f) {
    const results *r = s->r;
    const result_group *g = &r->groups[fig->group];
    double most = 0, full = 0;
    int n = 0;
    double widest = 0;
    for (int p = 0; p < r->n_points; p++) {
        summary_bytes b = summary_point_bytes(s, p);
        if (r->points[p].group != fig->group || !b.n || !(b.live_per_token > 0)) continue;
        double live = b.payload + b.metadata + b.columns + b.tables;
        most = fmax(most, b.live_per_token * (live + b.slack) / live);
        full = b.full_per_token;
        widest = fmax(widest, plot_text_width(r->points[p].label, 8));
        n++;
    }
    plot_set(f, "title", "%s", fig->title);
    plot_set(f, "subtitle", "%s; end of the prompt, mean over records; beside the bars: live bytes as a share of f16",
             g->model);
    plot_set(f, "rows", "%d", n);
    plot_set(f, "full", "%.9g", full);
    plot_set(f, "widest", "%.0f", widest);
    plot_set(f, "most", "%.9g", fmax(most, full));
    plot_next_block(f,
                    "row from the top, payload, metadata, columns, tables, slack (bytes per token), live / f16, name");
    int row = 0;
    for (int p = 0; p < r->n_points; p++) {
        summary_bytes b = summary_point_bytes(s, p);
        if (r->points[p].group != fig->group || !b.n || !(b.live_per_token > 0)) continue;
        double per_token = b.live_per_token / (b.payload + b.metadata + b.columns + b.tables);
        fprintf(f, "%d %.9g %.9g %.9g %.9g %.9g %.6g ", row++, b.payload * per_token, b.metadata * per_token,
                b.columns * per_token, b.tables * per_token, b.slack * per_token, b.ratio);
        plot_quoted(f, r->points[p].label);
        fputc('\n', f);
    }
    return OK;
}
