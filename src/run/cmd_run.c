/* kvlab run, kvlab resume */
#include <string.h>

#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/finish.h"
#include "run/runner.h"

static err judge(const results *r) {
    int bad = r->n_failed + r->n_crashed, noise = results_bad_noise(r);
    if (!bad && !noise) return OK;
    if (!bad)
        return ERR(ERR_FAILED, "%d records of the noise floor failed: `kvlab status %s` lists them", noise, r->dir);
    return ERR(ERR_FAILED, "%d of %d units failed: `kvlab status %s` lists them", bad, r->n_expected, r->dir);
}

static err run_and_finish(const experiment *x, const options *o, run_conf c) {
    results *r = NULL;
    c.filter.only = o->only;
    c.filter.limit = o->limit;
    c.progress = !o->no_progress && !o->quiet;
    err e = runner_run(x, &c, &r);
    if (e == OK) e = finish_table(r, o); /* first: whatever happens to files, the numbers are seen */
    if (e == OK) e = finish_outputs(r);
    if (e == OK) {
        log_info("%s: sweep.h5 (all data), export/ (csv, dat), plots/ (pictures), report.html", x->dir);
        e = judge(r);
    }
    results_free(r);
    return e;
}

/* Each glob of --only must match a point: one that matches none is a slip of the keyboard. */
static err matches_something(const experiment *x, text_list globs) {
    for (int k = 0; k < globs.n; k++) {
        bool any = false;
        for (int i = 0; i < x->n_points && !any; i++) any = experiment_point_matches(x, i, (text_list){globs.at + k, 1});
        if (!any)
            return ERR(ERR_USAGE, "--only %s matches none of the %d points: `kvlab plan %s` lists them", globs.at[k],
                       x->n_points, x->file);
    }
    return OK;
}

err cmd_run(const options *o) {
    experiment *x;
    TRY(experiment_load(o->args[0], o, &x));
    err e = matches_something(x, o->only);
    if (e == OK) e = run_and_finish(x, o, (run_conf){.fresh = o->force});
    experiment_free(x);
    return e;
}

err cmd_resume(const options *o) {
    const char *dir = o->args[0];
    char *file = io_join(dir, "sweep.yaml");
    experiment *x = NULL;
    options with = *o; /* resume takes no -o: the directory is the argument */
    with.out = dir;
    err e = io_exists(file) ? experiment_load(file, &with, &x)
                            : ERR(ERR_USAGE, "%s is not a results directory: no sweep.yaml in it", dir);
    if (e == OK) e = matches_something(x, o->only);
    if (e == OK) e = run_and_finish(x, o, (run_conf){.filter.retry_failed = o->force, .must_exist = true});
    experiment_free(x);
    mem_free(file);
    return e;
}
