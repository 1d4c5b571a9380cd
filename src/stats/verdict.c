/* What a difference says: verdicts against a noise floor, and Holm's correction when several differences are read
 * together. */
#include <math.h>
#include <stdlib.h>
#include "base/mem.h"
#include "stats/stats.h"

verdict stats_verdict(interval d, double noise_floor) {
    if (d.n < 2 || isnan(d.lo) || isnan(d.hi)) return VERDICT_UNKNOWN;
    bool holds_zero = d.lo <= 0 && d.hi >= 0;
    bool within_noise = d.lo >= -noise_floor && d.hi <= noise_floor;
    if (holds_zero || within_noise) return VERDICT_SAME;
    return d.lo > 0 ? VERDICT_HIGHER : VERDICT_LOWER;
}

typedef struct ranked {
    double p;
    int index;
} ranked;

static int compare_ranked(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? -1 : 1;
    return x->index - y->index;
}

/* The smallest of m times m, the next times m - 1, ..., each at least its predecessor and at most 1 (Holm 1979). NaN
 * entries are no tests: they stay and do not count. */
void stats_holm(double *p, int m) {
    ranked *order = NULL;
    int n = 0;
    if (m <= 0) return;
    if (mem_alloc(MEM_OTHER, (size_t)m * sizeof *order, &order)) {
        for (int i = 0; i < m; i++) p[i] = NAN; /* uncorrected values must not pass for corrected ones */
        return;
    }
    for (int i = 0; i < m; i++)
        if (!isnan(p[i])) order[n++] = (ranked){p[i], i};
    qsort(order, (size_t)n, sizeof *order, compare_ranked);
    double least = 0;
    for (int i = 0; i < n; i++) {
        double corrected = fmin(1, order[i].p * (n - i));
        if (corrected < least) corrected = least;
        p[order[i].index] = least = corrected;
    }
    mem_free(order);
}
