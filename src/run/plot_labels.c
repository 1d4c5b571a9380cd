/* Where labels go so that they can be read. */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "run/plot.h"

enum { N_ANGLES = 16, N_RADII = 4, MARK = 7 /* half a mark's size */, N_PASSES = 8 };

typedef struct box {
    double x0, y0, x1, y1;
} box;

static double overlap(box a, box b) {
    double w = fmin(a.x1, b.x1) - fmax(a.x0, b.x0), h = fmin(a.y1, b.y1) - fmax(a.y0, b.y0);
    return w > 0 && h > 0 ? w * h : 0;
}

static box label_box(const plot_label *l, double x, double y) {
    return (box){x - l->w / 2, y - l->h / 2, x + l->w / 2, y + l->h / 2};
}

static void candidate(const plot_label *l, int k, double *x, double *y) {
    static const double radii[N_RADII] = {10, 24, 42, 64};
    int angle = k % N_ANGLES;
    double a = 2 * M_PI * angle / N_ANGLES, r = radii[k / N_ANGLES];
    /* from the mark outwards, the text's own half size added on both axes */
    *x = l->x + cos(a) * (r + l->w / 2);
    *y = l->y + sin(a) * (r + l->h / 2);
}

/* Length of the part of a line that lies under a box, by samples a few pixels apart. */
static double covered(box b, plot_segment s) {
    double length = hypot(s.x1 - s.x0, s.y1 - s.y0);
    int n = 1 + (int)(length / 3), hits = 0;
    for (int i = 0; i <= n; i++) {
        double x = s.x0 + (s.x1 - s.x0) * i / n, y = s.y0 + (s.y1 - s.y0) * i / n;
        hits += x > b.x0 && x < b.x1 && y > b.y0 && y < b.y1;
    }
    return hits * length / (n + 1);
}

static double cost(const plot_label *l, int n, const plot_segment *lines, int n_lines, int i, int k, double width,
                   double height) {
    double x, y, sum = 0;
    candidate(&l[i], k, &x, &y);
    box b = label_box(&l[i], x, y);
    box inside = {0, 0, width, height};
    sum += 60 * (l[i].w * l[i].h - overlap(b, inside));
    for (int j = 0; j < n; j++) {
        sum += 30 * overlap(b, (box){l[j].x - MARK, l[j].y - MARK, l[j].x + MARK, l[j].y + MARK});
        sum += 6 * overlap(b, (box){l[j].x - 3, l[j].y_lo, l[j].x + 3, l[j].y_hi});
        if (j != i) sum += 20 * overlap(b, label_box(&l[j], l[j].lx, l[j].ly));
    }
    for (int j = 0; j < n_lines; j++) sum += 5 * covered(b, lines[j]);
    static const double by_radius[N_RADII] = {0, 60, 160, 300};
    int angle = k % N_ANGLES;
    double sideways = angle == 0 ? 0 : fmin(angle, N_ANGLES - angle) * 2; /* right of the mark reads best */
    return sum + by_radius[k / N_ANGLES] + sideways;
}

void plot_labels_place(plot_label *l, int n, const plot_segment *lines, int n_lines, double width, double height) {
    for (int i = 0; i < n; i++) candidate(&l[i], 0, &l[i].lx, &l[i].ly);
    for (int pass = 0; pass < N_PASSES; pass++)
        for (int i = 0; i < n; i++) {
            int best = 0;
            double least = INFINITY;
            for (int k = 0; k < N_ANGLES * N_RADII; k++) {
                double c = cost(l, n, lines, n_lines, i, k, width, height);
                if (c < least) {
                    least = c;
                    best = k;
                }
            }
            candidate(&l[i], best, &l[i].lx, &l[i].ly);
            l[i].leader = best >= N_ANGLES;
        }
}

typedef struct spread {
    double z; /* where it would be if all gaps were taken out */
    int at;
} spread;

static int by_z(const void *a, const void *b) {
    const spread *x = a, *y = b;
    return x->z < y->z ? -1 : x->z > y->z ? 1 : x->at - y->at;
}

/* Least squares under an order: without the gaps the heights may not fall, so runs that do fall share their mean (pooled from the left). */
void plot_spread(double *y, int n, double gap, double lo, double hi) {
    if (n == 0) return;
    if (n > 1 && gap * (n - 1) > hi - lo) gap = (hi - lo) / (n - 1);
    spread *s = mem_alloc_small(sizeof *s * (size_t)n);
    double *mean = mem_alloc_small(sizeof *mean * (size_t)n);
    int *count = mem_alloc_small(sizeof *count * (size_t)n), k = 0;
    for (int i = 0; i < n; i++) s[i] = (spread){y[i], i};
    qsort(s, (size_t)n, sizeof *s, by_z);
    for (int i = 0; i < n; i++) {
        mean[k] = s[i].z - gap * i;
        count[k++] = 1;
        for (; k > 1 && mean[k - 2] > mean[k - 1]; k--) {
            int m = count[k - 2] + count[k - 1];
            mean[k - 2] = (mean[k - 2] * count[k - 2] + mean[k - 1] * count[k - 1]) / m;
            count[k - 2] = m;
        }
    }
    for (int i = 0, b = 0, left = count[0]; i < n; i++, left--) {
        if (left == 0) left = count[++b];
        y[s[i].at] = fmax(lo, fmin(mean[b], hi - gap * (n - 1))) + gap * i;
    }
    mem_free(s);
    mem_free(mean);
    mem_free(count);
}

double plot_text_width(const char *s, double px_per_char) {
    double n = 0;
    for (; *s; s++)
        if ((*s & 0xc0) != 0x80) n += *s == '.' || *s == ' ' || *s == ':' || *s == 'l' || *s == 'i' ? 0.55 : 1;
    return n * px_per_char;
}
