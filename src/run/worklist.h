/* What of a sweep is still to be done. */
#ifndef KVLAB_RUN_WORKLIST_H
#define KVLAB_RUN_WORKLIST_H
#include "run/experiment.h"
#include "run/results.h"

typedef struct worklist {
    int n_points, n_groups, n_tasks, max_items;
    bool *unit;  /* [n_points][n_tasks][max_items] */
    bool *noise; /* [n_groups][n_tasks][max_items] */
    int n_units, n_noise;
    double cost; /* of all of it, in the units of task_item_cost */
} worklist;

typedef struct work_filter {
    text_list only;    /* globs over labels and ids; none = all points */
    int limit;         /* records per task, 0 = all */
    bool retry_failed; /* crashed units are always tried again */
} work_filter;

/* r: of the same sweep as x (equal indices). */
MUST err worklist_create(const experiment *x, const results *r, work_filter f, worklist *out);
void worklist_free(worklist *w);
static inline bool *worklist_unit(const worklist *w, int p, int t, int i) {
    return &w->unit[((size_t)p * (size_t)w->n_tasks + (size_t)t) * (size_t)w->max_items + (size_t)i];
}
static inline bool *worklist_noise(const worklist *w, int g, int t, int i) {
    return &w->noise[((size_t)g * (size_t)w->n_tasks + (size_t)t) * (size_t)w->max_items + (size_t)i];
}
/* Points of the group with item i of task t to do; whether anything (noise included) is. */
int worklist_points(const worklist *w, const experiment *x, int g, int t, int i);
bool worklist_any(const worklist *w, const experiment *x, int g, int t, int i);
#endif
