/* kvlab validate: a sweep file or a results directory. */
#include <stdio.h>
#include <sys/stat.h>

#include "run/experiment.h"
#include "run/options.h"

static err validate_directory(const char *dir) {
    results *r;
    TRY(results_load(dir, &r));
    err e = r->n_corrupt_lines ? ERR(ERR_VERIFY, "%s: %d corrupted journal lines", dir, r->n_corrupt_lines) : OK;
    if (e == OK)
        printf("%s: ok, %d points, %d of %d units\n", dir, r->n_points,
               r->n_ok + r->n_failed + r->n_crashed + r->n_skipped, r->n_expected);
    results_free(r);
    return e;
}

err cmd_validate(const options *o) {
    struct stat st;
    if (stat(o->args[0], &st) == 0 && S_ISDIR(st.st_mode)) return validate_directory(o->args[0]);
    experiment *x;
    TRY(experiment_load(o->args[0], o, &x));
    printf("%s: ok, %d points, %d tasks, %d engines\n", o->args[0], x->n_points, x->n_tasks, x->n_groups);
    experiment_free(x);
    return OK;
}
