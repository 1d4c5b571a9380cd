#include "run/finish.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "run/provenance.h"

bool finish_color(const options *o) {
    const char *no_color = getenv("NO_COLOR");
    return !o->no_color && !(no_color && *no_color) && isatty(STDOUT_FILENO);
}

err finish_table(const results *r, const options *o) {
    return outputs_table(r, stdout, finish_color(o), o->json);
}

err finish_outputs(const results *r) {
    TRY(outputs_store(r, r->dir));
    TRY(outputs_export(r, r->dir));
    err e = outputs_plot(r, r->dir);
    if (e == ERR_ENV)
        log_warn("no pictures: %s", err_text());
    else if (e != OK)
        return e;
    TRY(outputs_report(r, r->dir));
    return manifest_write(r->dir);
}
