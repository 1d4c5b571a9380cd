/* One process at a time writes a results directory. */
#ifndef KVLAB_RUN_LOCK_H
#define KVLAB_RUN_LOCK_H
#include "base/err.h"
MUST err lock_take(const char *dir, int *fd); /* ERR_ENV names the process that holds it */
void lock_release(int fd);                    /* -1 is fine; a forked child only closes its copy */
#endif
