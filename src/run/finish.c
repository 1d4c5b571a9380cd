#include "run/finish.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "run/provenance.h"

bool finish_color(const options *o) {
    const char *no_color = getenv("NO_COLOR");
    return !o->no_color && !(no_color && *no_color) && isatty(STDOUT_FILENO);
}

err finish_table(const results *r, const options *o) {
    return outputs_table(r, stdout, finish_color(o), o->json);
}

/* One output that fails does not cost the others. */
err finish_outputs(const results *r) {
    static err (*const outputs[])(const results *r, const char *dir) = {outputs_store, outputs_export, outputs_plot,
                                                                        outputs_report};
    err first = OK;
    char *text = NULL;
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
        err e = outputs[i](r, r->dir);
        if (e == ERR_ENV && outputs[i] == outputs_plot) {
            log_warn("no pictures: %s", err_text());
        } else if (e != OK && first == OK) {
            first = e;
            text = mem_strdup(err_text());
        }
    }
    err e = manifest_write(r->dir);
    if (first != OK) e = ERR(first, "%s", text);
    mem_free(text);
    return e;
}
