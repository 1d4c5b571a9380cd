#include "run/outputs.h"

#include "base/log.h"

MUST err outputs_export(const results *r, const char *dir) {
    log_warn("%s/export/ is not written by this build", dir);
    return OK;
}
