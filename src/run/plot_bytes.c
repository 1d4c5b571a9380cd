/* Data of kl_vs_bytes and score_vs_bytes: a metric of one task against the true bytes of the cache per token. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "run/plot.h"

/* The plot's area in pixels and the size of its labels; plots/kl_vs_bytes.gp and score_vs_bytes.gp draw by the same numbers. */
static const double area_width = 720, area_height = 462, label_char = 7.0, label_height = 15;

typedef struct mark {
    int point, family;
    double bytes, mean, lo, hi;
} mark;

typedef struct frame {
    bool log_y;
    double x0, x1, y0, y1;
    double zero; /* where a KL of 0 is drawn; 0 = nobody has one */
} frame;

static int collect(const figure *fig, const summary *s, const plot_families *fam, mark *m) {
    int n = 0;
    for (int p = 0; p < s->r->n_points; p++) {
        const summary_cell *c = summary_at(s, p, fig->task, fig->metric);
        const summary_bytes *b = summary_bytes_at(s, p, fig->task);
        if (s->r->points[p].group != fig->group || !c->present || !b->n || !(b->live_per_token > 0) || !isfinite(c->mean.mean)) continue;
        m[n++] = (mark){p, fam->of_point[p], b->live_per_token, c->mean.mean, c->mean.lo, c->mean.hi};
    }
    return n;
}

static frame make_frame(const mark *m, int n, bool log_y, double noise, double full_bytes) {
    frame f = {log_y, INFINITY, full_bytes, 0, 1, 0};
    double least = INFINITY, most = 0;
    bool zero = false;
    for (int i = 0; i < n; i++) {
        f.x0 = fmin(f.x0, m[i].bytes);
        f.x1 = fmax(f.x1, m[i].bytes);
        most = fmax(most, m[i].hi);
        if (m[i].mean > 0) least = fmin(least, m[i].mean);
        zero |= m[i].mean <= 0;
    }
    f.x0 /= 1.22;
    f.x1 *= 1.22;
    if (!log_y) {
        f.y0 = -0.04;
        f.y1 = fmax(most, 1) * 1.06;
        return f;
    }
    if (noise > 0) least = fmin(least, noise);
    if (!isfinite(least)) least = most = 1e-6;
    if (zero) f.zero = least / 3;
    f.y0 = (zero ? f.zero : least) / 1.8;
    f.y1 = most * 2;
    return f;
}

static double to_px(double v, double lo, double hi, double size, bool log_scale) {
    if (log_scale) return size * log(fmax(v, lo) / lo) / log(hi / lo);
    return size * (v - lo) / (hi - lo);
}
static double from_px(double px, double lo, double hi, double size, bool log_scale) {
    double at = px / size;
    return log_scale ? lo * pow(hi / lo, at) : lo + (hi - lo) * at;
}
static double drawn_y(const frame *f, double y) { return f->log_y && y <= 0 ? (f->zero > 0 ? f->zero : f->y0) : y; }

static int by_bytes(const void *a, const void *b) {
    const mark *x = a, *y = b;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes ? 1 : x->point - y->point;
}

/* Nobody has both fewer bytes and a better mean; drawn as a staircase from the left. */
static void write_front(FILE *f, const frame *fr, const mark *m, int n, bool higher) {
    bool first = true;
    double best = 0;
    for (int i = 0; i < n; i++) { /* m is sorted by bytes */
        if (!first && !(higher ? m[i].mean > best : m[i].mean < best)) continue;
        if (!first) fprintf(f, "%.9g %.9g\n", m[i].bytes, drawn_y(fr, best));
        best = m[i].mean;
        fprintf(f, "%.9g %.9g\n", m[i].bytes, drawn_y(fr, best));
        first = false;
    }
    if (!first) fprintf(f, "%.9g %.9g\n", fr->x1, drawn_y(fr, best));
}

static MUST err write_labels(FILE *f, const frame *fr, const mark *m, int n, const plot_families *fam) {
    plot_label *l;
    TRY(mem_alloc(MEM_OTHER, sizeof *l * (size_t)n, &l));
    for (int i = 0; i < n; i++) {
        double y = drawn_y(fr, m[i].mean);
        l[i].x = to_px(m[i].bytes, fr->x0, fr->x1, area_width, true);
        l[i].y = to_px(y, fr->y0, fr->y1, area_height, fr->log_y);
        l[i].y_lo = m[i].mean <= 0 && fr->log_y ? l[i].y : to_px(fmax(m[i].lo, fr->y0), fr->y0, fr->y1, area_height, fr->log_y);
        l[i].y_hi = fmax(l[i].y, to_px(fmax(m[i].hi, fr->y0), fr->y0, fr->y1, area_height, fr->log_y));
        l[i].w = plot_text_width(fam->label[m[i].point], label_char);
        l[i].h = label_height;
    }
    plot_labels_place(l, n, area_width, area_height);
    for (int i = 0; i < n; i++) {
        double y = drawn_y(fr, m[i].mean);
        double lx = from_px(l[i].lx, fr->x0, fr->x1, area_width, true), ly = from_px(l[i].ly, fr->y0, fr->y1, area_height, fr->log_y);
        /* The line ends at the edge of the text that is nearest to the mark. */
        double ex = fmax(l[i].lx - l[i].w / 2, fmin(l[i].x, l[i].lx + l[i].w / 2)), ey = fmax(l[i].ly - l[i].h / 2, fmin(l[i].y, l[i].ly + l[i].h / 2));
        double leader_x = l[i].leader ? from_px(ex, fr->x0, fr->x1, area_width, true) : m[i].bytes;
        double leader_y = l[i].leader ? from_px(ey, fr->y0, fr->y1, area_height, fr->log_y) : y;
        fprintf(f, "%.9g %.9g %.9g %.9g %.9g %.9g %d ", lx, ly, m[i].bytes, y, leader_x, leader_y, m[i].family);
        plot_quoted(f, fam->label[m[i].point]);
        fputc('\n', f);
    }
    mem_free(l);
    return OK;
}

/* Points of one setting that varies ("0.5", "0.25") belong on a line; presets side by side do not. */
static bool is_series(const plot_families *fam, const mark *m, int n, int family) {
    for (int i = 0; i < n; i++) {
        const char *label = fam->label[m[i].point];
        if (m[i].family == family && !isdigit((unsigned char)label[strncmp(label, "bytes:", 6) == 0 ? 6 : 0])) return false;
    }
    return true;
}

static void write_families(FILE *f, const frame *fr, const mark *m, int n, const plot_families *fam) {
    for (int k = 0; k < fam->n; k++) {
        int count = 0;
        for (int i = 0; i < n; i++) count += m[i].family == k;
        if (!count) continue;
        plot_next_block(f, "bytes per token, mean, interval low and high, mean and interval as drawn, family, label; first line: name and number of the family, whether a line joins its points");
        plot_quoted(f, fam->name[k]);
        fprintf(f, " %d %d\n", k, is_series(fam, m, n, k));
        for (int i = 0; i < n; i++) {
            if (m[i].family != k) continue;
            double y = drawn_y(fr, m[i].mean);
            double lo = m[i].lo > fr->y0 ? m[i].lo : fr->log_y ? fr->y0 : m[i].lo, hi = m[i].hi > fr->y0 ? m[i].hi : y;
            fprintf(f, "%.9g %.9g %.9g %.9g %.9g %.9g %.9g %d ", m[i].bytes, m[i].mean, m[i].lo, m[i].hi, y, m[i].mean <= 0 && fr->log_y ? y : lo, hi, k);
            plot_quoted(f, fam->label[m[i].point]);
            fputc('\n', f);
        }
    }
}

static int n_records(const summary *s, const figure *fig, const mark *m, int n) {
    int most = 0;
    for (int i = 0; i < n; i++)
        if (summary_at(s, m[i].point, fig->task, fig->metric)->mean.n > most) most = summary_at(s, m[i].point, fig->task, fig->metric)->mean.n;
    return most;
}

err plot_write_bytes(const figure *fig, const summary *s, FILE *f) {
    const results *r = s->r;
    const result_metric *metric = &r->tasks[fig->task].metrics[fig->metric];
    const result_group *g = &r->groups[fig->group];
    bool log_y = strcmp(metric->name, "kl") == 0;
    plot_families fam;
    mark *m = NULL;
    TRY(plot_families_make(s, &fam));
    err e = mem_alloc(MEM_OTHER, sizeof *m * (size_t)r->n_points, &m);
    if (e != OK) goto done;
    int n = collect(fig, s, &fam, m), n_families = 0;
    if (n > 1) qsort(m, (size_t)n, sizeof *m, by_bytes);
    for (int k = 0; k < fam.n; k++) {
        bool used = false;
        for (int i = 0; i < n; i++) used |= m[i].family == k;
        n_families += used;
    }
    double noise = n ? summary_at(s, m[0].point, fig->task, fig->metric)->noise : 0, full_bytes = n ? summary_bytes_at(s, m[0].point, fig->task)->full_per_token : 1;
    frame fr = make_frame(m, n, log_y, noise, full_bytes);
    plot_set(f, "title", "%s", fig->title);
    plot_set(f, "subtitle", "%s, %s: %d records of %s; bars: 95 %% bootstrap intervals", g->model, g->math, n_records(s, fig, m, n), r->tasks[fig->task].name);
    if (strcmp(metric->name, "kl") == 0) plot_set(f, "ylabel", "KL(full || policy), nats per token");
    else plot_set(f, "ylabel", "%s: %s", metric->name, metric->help);
    plot_set(f, "xmin", "%.9g", fr.x0);
    plot_set(f, "xmax", "%.9g", fr.x1);
    plot_set(f, "ymin", "%.9g", fr.y0);
    plot_set(f, "ymax", "%.9g", fr.y1);
    plot_set(f, "zero", "%.9g", fr.zero);
    plot_set(f, "noise", "%.9g", log_y ? noise : 0);
    plot_set(f, "full_bytes", "%.9g", full_bytes);
    plot_set(f, "families", "%d", n_families);
    plot_next_block(f, "Pareto front: bytes per token, metric as drawn");
    write_front(f, &fr, m, n, metric->direction == METRIC_HIGHER);
    plot_next_block(f, "labels: x y of the text, x y of the mark, x y where a line from the mark ends, family, text");
    e = write_labels(f, &fr, m, n, &fam);
    if (e == OK) write_families(f, &fr, m, n, &fam);
done:
    mem_free(m);
    plot_families_free(&fam);
    return e;
}
