/* What each named alternative of a sweep's axes reaches over all points that have it: the table of a search. */
#ifndef KVLAB_RUN_AXES_H
#define KVLAB_RUN_AXES_H
#include "run/summary.h"

typedef struct axis_row { /* one alternative */
    const char *axis, *name; /* of the results */
    int n;                   /* points with a KL */
    double best, middle;     /* smallest and median KL: of a point, the geometric mean over the tasks that have one */
    int best_point;
} axis_row;
typedef struct axis_rows {
    axis_row *at; /* axis by axis, alternatives in the sweep's order */
    int n;
    double *kl; /* [n_points]; NaN where a point has no KL on every such task, or is uncompressed */
} axis_rows;

/* Axes that have named alternatives (their paths have no dot) in one group; n = 0 without such axes. */
MUST err axes_make(const summary *s, int group, axis_rows *out);
void axes_free(axis_rows *x);
/* Is the point made of that alternative? */
bool axes_point_has(const result_point *p, const char *axis, const char *name);
#endif
