/* Data of kl_vs_bytes and score_vs_bytes: a metric of one task against the true bytes of the cache per token. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "run/plot.h"

/* The plot's area in pixels and the size of its labels; plots/against_bytes.gp draws by the same numbers. With many families there is no key:
 * their names stand in a band at the left of the area, each beside its family's smallest cache; marks stay where they are, and intervals only
 * those families have that reach the Pareto front. */
enum { CROWD = 16 /* families above which a figure is drawn so */ };
static const struct area { double width, height, band; } plain_area = {720, 462, 0}, crowded_area = {955, 616, 165};
static const double label_char = 7.0, label_height = 15, name_gap = 13;

typedef struct mark {
    int point, family;
    double bytes, mean, lo, hi;
    double drawn; /* bytes where the mark is drawn */
} mark;

typedef struct frame {
    struct area area;
    bool crowded, log_y;
    double x0, x1, y0, y1;
    double zero; /* where a KL of 0 is drawn; 0 = nobody has one */
} frame;

static int collect(const figure *fig, const summary *s, const plot_families *fam, mark *m) {
    int n = 0;
    for (int p = 0; p < s->r->n_points; p++) {
        const summary_cell *c = summary_at(s, p, fig->task, fig->metric);
        const summary_bytes *b = summary_bytes_at(s, p, fig->task);
        if (s->r->points[p].group != fig->group || !c->present || !b->n || !(b->live_per_token > 0) ||
            !isfinite(c->mean.mean))
            continue;
        m[n++] =
            (mark){p, fam->of_point[p], b->live_per_token, c->mean.mean, c->mean.lo, c->mean.hi, b->live_per_token};
    }
    return n;
}

static frame make_frame(const mark *m, int n, bool crowded, bool log_y, double noise, double full_bytes) {
    frame f = {crowded ? crowded_area : plain_area, crowded, log_y, INFINITY, full_bytes, 0, 1, 0};
    double least = INFINITY, most = 0;
    bool zero = false;
    for (int i = 0; i < n; i++) {
        f.x0 = fmin(f.x0, m[i].bytes);
        f.x1 = fmax(f.x1, m[i].bytes);
        most = fmax(most, m[i].hi);
        if (m[i].mean > 0) least = fmin(least, m[i].mean);
        zero |= m[i].mean <= 0;
    }
    f.x0 /= crowded ? 1.05 : 1.22;
    f.x1 *= 1.22;
    f.x0 *= pow(f.x0 / f.x1, f.area.band / (f.area.width - f.area.band));
    if (!log_y) {
        f.y0 = -0.04;
        f.y1 = fmax(most, 1) * 1.06;
        return f;
    }
    if (noise > 0) least = fmin(least, noise);
    if (!isfinite(least)) least = most = 1e-6;
    if (zero) f.zero = least / 3;
    f.y0 = (zero ? f.zero : least) / 1.8;
    f.y1 = fmax(most, least) * 2; /* nobody has a KL above 0, but there is a noise floor */
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
static double drawn_y(const frame *f, double y) {
    return f->log_y && y <= 0 ? (f->zero > 0 ? f->zero : f->y0) : y;
}

static int by_bytes(const void *a, const void *b) {
    const mark *x = a, *y = b;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes ? 1 : x->point - y->point;
}

/* Staircase of the points that nobody beats in both bytes and mean, from the left; m is sorted by bytes. Budgets are met to an item or a
 * page from below, so bytes within one in a hundred are equal here. xy[2 n + 1][2]; returns the vertices. */
static int make_front(const frame *fr, const mark *m, int n, bool higher, double (*xy)[2]) {
    int k = 0;
    double best = higher ? -INFINITY : INFINITY;
    for (int i = 0; i < n; i++) {
        bool beaten = higher ? m[i].mean <= best : m[i].mean >= best;
        for (int j = i + 1; j < n && m[j].bytes <= 1.01 * m[i].bytes; j++)
            beaten |= higher ? m[j].mean > m[i].mean : m[j].mean < m[i].mean;
        if (beaten) continue;
        if (k) memcpy(xy[k++], (double[]){m[i].bytes, drawn_y(fr, best)}, sizeof *xy);
        best = m[i].mean;
        memcpy(xy[k++], (double[]){m[i].bytes, drawn_y(fr, best)}, sizeof *xy);
    }
    if (k) memcpy(xy[k++], (double[]){fr->x1, drawn_y(fr, best)}, sizeof *xy);
    return k;
}

static plot_segment segment(const frame *fr, double x0, double y0, double x1, double y1) {
    return (plot_segment){
        to_px(x0, fr->x0, fr->x1, fr->area.width, true), to_px(y0, fr->y0, fr->y1, fr->area.height, fr->log_y),
        to_px(x1, fr->x0, fr->x1, fr->area.width, true), to_px(y1, fr->y0, fr->y1, fr->area.height, fr->log_y)};
}

/* The front and the lines that join families: what labels should keep off. */
static int make_lines(const frame *fr, const mark *m, int n, const plot_families *fam, double (*front)[2], int n_front,
                      plot_segment *out) {
    int k = 0;
    for (int i = 0; i + 1 < n_front; i++)
        out[k++] = segment(fr, front[i][0], front[i][1], front[i + 1][0], front[i + 1][1]);
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j < n && *fam->varies[m[i].family]; j++)
            if (m[j].family == m[i].family) {
                out[k++] = segment(fr, m[i].drawn, drawn_y(fr, m[i].mean), m[j].drawn, drawn_y(fr, m[j].mean));
                break;
            }
    return k;
}

/* Policies with equal bytes have their intervals on top of each other; a few pixels keep them apart. */
static MUST err set_side_by_side(const frame *fr, mark *m, int n) {
    double *x;
    for (int i = 0; i < n; i++) m[i].drawn = m[i].bytes;
    if (fr->crowded) return OK;
    TRY(mem_alloc(MEM_OTHER, sizeof *x * (size_t)n, &x));
    for (int i = 0; i < n; i++) x[i] = to_px(m[i].bytes, fr->x0, fr->x1, fr->area.width, true);
    plot_spread(x, n, 6, 0, fr->area.width);
    for (int i = 0; i < n; i++) m[i].drawn = from_px(x[i], fr->x0, fr->x1, fr->area.width, true);
    mem_free(x);
    return OK;
}

/* Does a line join the points of a family in a crowded figure, so that its name stands in the band? */
static bool named_at_end(const frame *fr, const plot_families *fam, int family) {
    return fr->crowded && *fam->varies[family];
}

static int count_beside(const frame *fr, const mark *m, int n, const plot_families *fam) {
    int k = 0;
    for (int i = 0; i < n; i++) k += !named_at_end(fr, fam, m[i].family);
    return k;
}

/* One line of the block of labels; the line of a label ends at (ex, ey), all in pixels. */
static void write_label(FILE *f, const frame *fr, const mark *m, double x, double y, double ex, double ey, bool at_end, const char *text) {
    fprintf(f, "%.9g %.9g %.9g %.9g %.9g %.9g %d ", from_px(x, fr->x0, fr->x1, fr->area.width, true),
            from_px(y, fr->y0, fr->y1, fr->area.height, fr->log_y), m->drawn, drawn_y(fr, m->mean),
            from_px(ex, fr->x0, fr->x1, fr->area.width, true), from_px(ey, fr->y0, fr->y1, fr->area.height, fr->log_y), m->family);
    plot_quoted(f, text);
    fprintf(f, " %d\n", at_end);
}

/* Beside the marks, where there is room. */
static MUST err write_labels(FILE *f, const frame *fr, const mark *marks, int n_marks, const plot_families *fam,
                             const plot_segment *lines, int n_lines) {
    plot_label *l;
    const mark **m;
    int n = 0;
    TRY(mem_alloc(MEM_OTHER, (sizeof *l + sizeof *m) * (size_t)n_marks, &l));
    m = (const mark **)(l + n_marks);
    for (int i = 0; i < n_marks; i++)
        if (!named_at_end(fr, fam, marks[i].family)) m[n++] = &marks[i];
    for (int i = 0; i < n; i++) {
        double y = drawn_y(fr, m[i]->mean);
        l[i].x = to_px(m[i]->drawn, fr->x0, fr->x1, fr->area.width, true);
        l[i].y = to_px(y, fr->y0, fr->y1, fr->area.height, fr->log_y);
        l[i].y_lo = m[i]->mean <= 0 && fr->log_y ? l[i].y : to_px(fmax(m[i]->lo, fr->y0), fr->y0, fr->y1, fr->area.height, fr->log_y);
        l[i].y_hi = fmax(l[i].y, to_px(fmax(m[i]->hi, fr->y0), fr->y0, fr->y1, fr->area.height, fr->log_y));
        l[i].w = plot_text_width(fam->label[m[i]->point], label_char) + 5;
        l[i].h = label_height;
    }
    plot_labels_place(l, n, lines, n_lines, fr->area.width, fr->area.height);
    for (int i = 0; i < n; i++) {
        /* The line ends at the edge of the text that is nearest to the mark. */
        double ex = fmax(l[i].lx - l[i].w / 2, fmin(l[i].x, l[i].lx + l[i].w / 2)),
               ey = fmax(l[i].ly - l[i].h / 2, fmin(l[i].y, l[i].ly + l[i].h / 2));
        write_label(f, fr, m[i], l[i].lx, l[i].ly, l[i].leader ? ex : l[i].x, l[i].leader ? ey : l[i].y, false, fam->label[m[i]->point]);
    }
    mem_free(l);
    return OK;
}

/* In the band, moved apart in the order of their families' first marks. */
static MUST err write_names(FILE *f, const frame *fr, const mark *m, int n, const plot_families *fam) {
    const mark **first;
    double *y;
    int n_names = 0;
    TRY(mem_alloc(MEM_OTHER, (sizeof *first + sizeof *y) * (size_t)fam->n, &first));
    y = (double *)(first + fam->n);
    for (int k = 0; k < fam->n; k++)
        for (int i = 0; i < n && named_at_end(fr, fam, k); i++) { /* m is sorted by bytes */
            if (m[i].family != k) continue;
            first[n_names] = &m[i];
            y[n_names++] = to_px(drawn_y(fr, m[i].mean), fr->y0, fr->y1, fr->area.height, fr->log_y);
            break;
        }
    plot_spread(y, n_names, name_gap, 6, fr->area.height - 6);
    for (int i = 0; i < n_names; i++)
        write_label(f, fr, first[i], fr->area.band - 24, y[i], fr->area.band - 20, y[i], true, fam->name[first[i]->family]);
    mem_free(first);
    return OK;
}

/* Is one of the family's points a corner of the staircase? */
static bool on_front(const mark *m, int n, int family, double (*front)[2], int n_front, const frame *fr) {
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n_front && m[i].family == family; k++)
            if (front[k][0] == m[i].bytes && front[k][1] == drawn_y(fr, m[i].mean)) return true;
    return false;
}

static void write_families(FILE *f, const frame *fr, const mark *m, int n, const plot_families *fam, double (*front)[2], int n_front) {
    for (int k = 0; k < fam->n; k++) {
        int count = 0;
        for (int i = 0; i < n; i++) count += m[i].family == k;
        if (!count) continue;
        plot_next_block(f, "bytes per token, mean, interval low and high, bytes, mean and interval as drawn, family, "
                           "label; first line: name and number of the family, whether a line joins its points, whether it is on the front");
        bool joined = *fam->varies[k] != 0;
        char *name = joined ? mem_sprintf("%s (%s)", fam->name[k], fam->varies[k]) : mem_strdup(fam->name[k]);
        plot_quoted(f, name);
        fprintf(f, " %d %d %d\n", k, joined, on_front(m, n, k, front, n_front, fr));
        mem_free(name);
        for (int i = 0; i < n; i++) {
            if (m[i].family != k) continue;
            double y = drawn_y(fr, m[i].mean);
            double lo = m[i].lo > fr->y0 ? m[i].lo : fr->log_y ? fr->y0 : m[i].lo, hi = m[i].hi > fr->y0 ? m[i].hi : y;
            fprintf(f, "%.9g %.9g %.9g %.9g %.9g %.9g %.9g %.9g %d ", m[i].bytes, m[i].mean, m[i].lo, m[i].hi,
                    m[i].drawn, y, m[i].mean <= 0 && fr->log_y ? y : lo, hi, k);
            plot_quoted(f, fam->label[m[i].point]);
            fputc('\n', f);
        }
    }
}

static int n_records(const summary *s, const figure *fig, const mark *m, int n) {
    int most = 0;
    for (int i = 0; i < n; i++)
        if (summary_at(s, m[i].point, fig->task, fig->metric)->mean.n > most)
            most = summary_at(s, m[i].point, fig->task, fig->metric)->mean.n;
    return most;
}

err plot_write_bytes(const figure *fig, const summary *s, FILE *f) {
    const results *r = s->r;
    const result_metric *metric = &r->tasks[fig->task].metrics[fig->metric];
    const result_group *g = &r->groups[fig->group];
    bool log_y = strcmp(metric->name, "kl") == 0;
    plot_families fam;
    mark *m = NULL;
    double(*front)[2] = NULL;
    plot_segment *lines = NULL;
    err e;
    TRY(plot_families_make(s, &fam));
    GOTO(done, e, mem_alloc(MEM_OTHER, sizeof *m * (size_t)r->n_points, &m));
    GOTO(done, e, mem_alloc(MEM_OTHER, sizeof *front * (2 * (size_t)r->n_points + 1), &front));
    GOTO(done, e, mem_alloc(MEM_OTHER, sizeof *lines * (3 * (size_t)r->n_points + 1), &lines));
    int n = collect(fig, s, &fam, m), n_families = 0;
    if (n > 1) qsort(m, (size_t)n, sizeof *m, by_bytes);
    for (int k = 0; k < fam.n; k++) {
        bool used = false;
        for (int i = 0; i < n; i++) used |= m[i].family == k;
        n_families += used;
    }
    double noise = n ? summary_at(s, m[0].point, fig->task, fig->metric)->noise : 0,
           full_bytes = n ? summary_bytes_at(s, m[0].point, fig->task)->full_per_token : 1;
    frame fr = make_frame(m, n, n_families > CROWD, log_y, noise, full_bytes);
    int records = n_records(s, fig, m, n);
    plot_set(f, "title", "%s", fig->title);
    plot_set(f, "subtitle", "%s, %s: %d record%s of %s; bars: 95 %% bootstrap intervals%s", g->model, g->math, records,
             records == 1 ? "" : "s", r->tasks[fig->task].name, fr.crowded ? " of policies that reach the Pareto front, the grey staircase" : "");
    if (strcmp(metric->name, "kl") == 0)
        plot_set(f, "ylabel", "KL(full || policy), nats per token");
    else
        plot_set(f, "ylabel", "%s: %s", metric->name, metric->help);
    plot_set(f, "xmin", "%.9g", fr.x0);
    plot_set(f, "xmax", "%.9g", fr.x1);
    plot_set(f, "ymin", "%.9g", fr.y0);
    plot_set(f, "ymax", "%.9g", fr.y1);
    plot_set(f, "zero", "%.9g", fr.zero);
    plot_set(f, "noise", "%.9g", log_y ? noise : 0);
    plot_set(f, "full_bytes", "%.9g", full_bytes);
    plot_set(f, "families", "%d", n_families);
    plot_set(f, "crowded", "%d", fr.crowded);
    plot_set(f, "band", "%.9g", from_px(fr.area.band, fr.x0, fr.x1, fr.area.width, true)); /* bytes where it ends */
    plot_set(f, "beside", "%d", count_beside(&fr, m, n, &fam));
    plot_next_block(f, "Pareto front: bytes per token, metric as drawn");
    int n_front = make_front(&fr, m, n, metric->direction == METRIC_HIGHER, front);
    for (int i = 0; i < n_front; i++) fprintf(f, "%.9g %.9g\n", front[i][0], front[i][1]);
    plot_next_block(f, "labels: x y of the text, x y of the mark, x y where a line from the mark ends, family, text, whether it stands in the band");
    GOTO(done, e, set_side_by_side(&fr, m, n));
    int n_lines = make_lines(&fr, m, n, &fam, front, n_front, lines);
    e = write_labels(f, &fr, m, n, &fam, lines, n_lines);
    if (e == OK) e = write_names(f, &fr, m, n, &fam);
    if (e == OK) write_families(f, &fr, m, n, &fam, front, n_front);
done:
    mem_free(m);
    mem_free(front);
    mem_free(lines);
    plot_families_free(&fam);
    return e;
}
