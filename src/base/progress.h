/* One progress line with ETA on a terminal, a heartbeat line every 10 s elsewhere; log lines do not tear it. stderr. */
#ifndef KVLAB_BASE_PROGRESS_H
#define KVLAB_BASE_PROGRESS_H
#include <stdbool.h>
typedef struct progress progress;
progress *progress_begin(const char *what, double total, bool enabled); /* total in any unit of work; may be weighted */
void progress_update(progress *p, double done, const char *note);       /* note: "snapkv passkey 3/8", may be NULL */
void progress_end(progress *p, bool finished);                          /* frees p */
/* Writes one line to stderr above the progress line. log.c's way out; everybody else calls log_*. */
void progress_print(const char *prefix, const char *text);
#endif
