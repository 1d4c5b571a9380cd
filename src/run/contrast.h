/* One alternative of an axis against the others, at equal values of all other axes: does it matter which one is taken? */
#ifndef KVLAB_RUN_CONTRAST_H
#define KVLAB_RUN_CONTRAST_H
#include <stdbool.h>
#include <stdio.h>
#include "run/results.h"
#include "stats/stats.h"

typedef struct contrast_row { /* of one task; KL, mean over records */
    int task;
    int point;         /* has the alternative; -1: the mean over all n_pairs pairs of points, record by record */
    const char *other; /* of the results */
    int n_pairs;
    interval kl, diff; /* of the point; of the other minus that, paired by record: above 0 the other is worse */
    verdict v;
} contrast_row;
typedef struct contrast {
    const char *axis, *alternative; /* of the results */
    contrast_row *at;               /* task by task, other by other: its pairs in the order of points, then the mean */
    int n;
} contrast;

/* `what` is AXIS=ALTERNATIVE; an axis is named by its path or the path's last part. Two points are a pair
 * when all axes of one are axes of the other, with equal values: a base without a setting stands against all values of that setting. */
MUST err contrast_make(const results *r, const char *what, contrast *out);
void contrast_free(contrast *c);
MUST err outputs_contrast(const results *r, const char *what, FILE *f, bool color, bool json);
#endif
