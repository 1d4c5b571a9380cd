/* The process that runs engines. It reads nothing and writes one JSON object per line to its pipe:
 *
 *   {"kind":"sweep",...}              the header, when it surveyed the sweep itself
 *   {"kind":"begin","group","task","item","point"}   point -1: preparing the record for all points; -2: noise floor
 *   {"kind":"prepared","task"}        a record was prefilled
 *   {"kind":"unit"|"noise",...}       a finished record
 *   {"kind":"log","text"}             a warning
 *   {"kind":"fatal","code","text","place"}           it cannot go on
 *   {"kind":"done","stopped"}         nothing left, or stopped by SIGTERM */
#ifndef KVLAB_RUN_WORKER_H
#define KVLAB_RUN_WORKER_H
#include "run/worklist.h"

enum { WORKER_PREPARE = -1, WORKER_NOISE = -2 };
/* r and list: NULL = survey first, then everything that `filter` leaves. Never returns. */
void worker_main(int fd, const experiment *x, const results *r, const worklist *list, work_filter filter)
    __attribute__((noreturn));
#endif
