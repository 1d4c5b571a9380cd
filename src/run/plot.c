#include "run/outputs.h"

#include "base/log.h"

MUST err outputs_plot(const results *r, const char *dir) {
    log_warn("%s/plots/ is not written by this build", dir);
    return OK;
}
