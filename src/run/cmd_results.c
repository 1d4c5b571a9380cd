/* Verbs that read a results directory: export, plot, report, show, compare, verify. */
#include <string.h>

#include "base/log.h"
#include "run/contrast.h"
#include "run/finish.h"
#include "run/provenance.h"

typedef err output_fn(const results *r, const char *dir);

static err write_with(const options *o, output_fn *const *fns, int n, const char *what) {
    results *r;
    TRY(results_load(o->args[0], &r));
    err e = OK;
    for (int i = 0; i < n && e == OK; i++) e = fns[i](r, r->dir);
    if (e == OK) e = manifest_write(r->dir);
    if (e == OK) log_info("%s: wrote %s", r->dir, what);
    results_free(r);
    return e;
}

err cmd_export(const options *o) {
    return write_with(o, (output_fn *const[]){outputs_store, outputs_export}, 2, "sweep.h5 and export/");
}

err cmd_plot(const options *o) {
    return write_with(o, (output_fn *const[]){outputs_plot}, 1, "plots/");
}

err cmd_report(const options *o) {
    return write_with(o, (output_fn *const[]){outputs_report}, 1, "report.html");
}

err cmd_show(const options *o) {
    results *r;
    TRY(results_load(o->args[0], &r));
    err e = finish_table(r, o);
    results_free(r);
    return e;
}

static err find_point(const results *r, const char *name, int *out) {
    int found = -1, n = 0;
    for (int i = 0; i < r->n_points; i++) {
        if (strcmp(r->points[i].label, name) == 0) {
            *out = i;
            return OK;
        }
        if (strlen(name) >= 4 && strncmp(r->points[i].id, name, strlen(name)) == 0) {
            found = i;
            n++;
        }
    }
    *out = found;
    if (n == 1) return OK;
    if (n > 1) return ERR(ERR_USAGE, "%d points begin with id %s", n, name);
    return ERR(ERR_USAGE, "no point is called %s; `kvlab show %s` lists them", name, r->dir);
}

err cmd_compare(const options *o) {
    results *r;
    int a = -1, b = -1;
    TRY(results_load(o->args[0], &r));
    err e = find_point(r, o->args[1], &a);
    if (e == OK) e = find_point(r, o->args[2], &b);
    if (e == OK) e = outputs_compare(r, a, b, stdout, finish_color(o), o->json);
    results_free(r);
    return e;
}

err cmd_contrast(const options *o) {
    results *r;
    TRY(results_load(o->args[0], &r));
    err e = outputs_contrast(r, o->args[1], stdout, finish_color(o), o->json);
    results_free(r);
    return e;
}

err cmd_verify(const options *o) {
    results *r;
    int n_files = 0;
    TRY(results_load(o->args[0], &r));
    err e = r->n_corrupt_lines ? ERR(ERR_VERIFY, "%s: %d corrupted journal lines", r->dir, r->n_corrupt_lines) : OK;
    if (e == OK) e = manifest_check(r->dir, &n_files);
    if (e == OK) e = outputs_verify(r, r->dir);
    if (e == OK) printf("%s: %d files as in MANIFEST.tsv, sweep.h5 agrees with the journal\n", r->dir, n_files);
    results_free(r);
    return e;
}
