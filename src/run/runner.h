/* Runs what a sweep lacks: a worker process computes, this process keeps the journal, draws progress, and replaces a
 * worker that dies. */
#ifndef KVLAB_RUN_RUNNER_H
#define KVLAB_RUN_RUNNER_H
#include "run/worklist.h"

typedef struct run_conf {
    work_filter filter;
    bool fresh;      /* --force of `run`: the journal there is put aside */
    bool must_exist; /* `resume`: the directory holds this sweep already */
    bool progress;
} run_conf;

/* ERR_INTERRUPTED after a signal (signals_exit_status), ERR_FAILED is never returned for failed units: see the counts
 * of *out. *out is everything the journal holds; set whenever the journal could be read. */
MUST err runner_run(const experiment *x, const run_conf *c, results **out);
#endif
