/* What one group of points needs to run: its engine and its tasks; and the survey of all groups that plan and run start
 * from. */
#ifndef KVLAB_RUN_WORKSET_H
#define KVLAB_RUN_WORKSET_H
#include "run/experiment.h"
#include "run/results.h"

typedef struct workset {
    const experiment *x;
    int group;
    engine *e;
    engine *other; /* the other math mode, for the noise floor; opened when first asked for */
    task **tasks;  /* [x->n_tasks], NULL where no point of the group has it */
} workset;

MUST err workset_open(const experiment *x, int group, workset *out);
void workset_close(workset *w);
MUST err workset_other(workset *w, engine **out);

/* The skeleton of the results: opens every group once, checks that every point fits, counts records. With one group, it
 * stays open in *keep (if not NULL). */
MUST err survey(const experiment *x, results **out, workset *keep);

/* Seed of one unit: of the sweep's seed, the task and the record, never of the policy, so that policies stay paired. */
uint64_t unit_seed(const experiment *x, int group, int task_index, int item);
#endif
