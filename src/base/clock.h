#ifndef KVLAB_BASE_CLOCK_H
#define KVLAB_BASE_CLOCK_H
#include <stddef.h>
double clock_now(void);                             /* monotonic seconds */
double clock_thread(void);                          /* CPU seconds of this thread */
double clock_wall(void);                            /* seconds since the epoch */
void clock_iso8601(double wall, char out[32]);      /* UTC, "2026-11-22T16:10:00Z" */
void clock_duration(double s, char out[16]);        /* "0.8s", "1m32s", "2h05m" */
#endif
