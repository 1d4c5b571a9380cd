#include "run/outputs.h"

#include "base/log.h"

MUST err outputs_report(const results *r, const char *dir) {
    log_warn("%s/report.html is not written by this build", dir);
    return OK;
}
