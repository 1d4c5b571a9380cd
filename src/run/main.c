#include <stdio.h>

#include "base/log.h"
#include "base/par.h"
#include "run/options.h"
#include "run/provenance.h"
#include "run/signals.h"

static err run(const options *o) {
    if (o->version) {
        printf("kvlab %s, commit %s%s, %s\n", build_version(), build_commit(), build_dirty() ? " with changes" : "",
               build_compiler());
        return OK;
    }
    if (o->help) {
        options_print_help(stdout, o->verb);
        return OK;
    }
    return o->verb->run(o);
}

int main(int argc, char **argv) {
    par_begin(argv);
    options o;
    err e = options_parse(argc, argv, &o);
    log_set(o.quiet ? LOG_ERROR : o.verbose ? LOG_DEBUG : LOG_INFO, !o.no_color);
    if (e == OK) e = run(&o);
    if (e == OK && (fflush(stdout) != 0 || ferror(stdout))) e = ERR(ERR_IO, "cannot write standard output");
    if (e == ERR_INTERRUPTED)
        log_warn("%s", err_text());
    else if (e != OK)
        log_error("%s", err_text());
    if (e != OK && o.verbose) log_debug("from %s", err_place());
    options_free(&o);
    return e == ERR_INTERRUPTED ? signals_exit_status() : err_exit_status(e);
}
