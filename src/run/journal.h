/* The append-only journal of a sweep: journal/units.jsonl (and other *.jsonl of shards beside it).
 *
 * One line = 16 hex digits of XXH3-64 of the JSON text, a space, the JSON on one line, a newline. Numbers carry 17
 * significant digits, so they come back bit for bit. A line counts only with its newline and a right checksum: a torn
 * last line (crash, full disk) is tolerated and cut off by the next writer; a corrupted line elsewhere is left out and
 * reported by its number. */
#ifndef KVLAB_RUN_JOURNAL_H
#define KVLAB_RUN_JOURNAL_H
#include <jansson.h>
#include <stdbool.h>
#include "base/err.h"

typedef struct journal journal;

/* Opens for appending, makes the file if needed, cuts a torn last line. */
MUST err journal_open(const char *path, journal **out);
/* Appends one line; it is on the disk (fdatasync) at latest one second of appends later, or after journal_sync. */
MUST err journal_append(journal *j, const json_t *value);
MUST err journal_sync(journal *j);
MUST err journal_close(journal *j); /* syncs; NULL is fine */

enum { JOURNAL_MAX_NAMED = 8 };
typedef struct journal_report {
    int n_lines, n_good; /* complete lines; of them with a right checksum and JSON */
    int n_corrupt;
    int corrupt[JOURNAL_MAX_NAMED]; /* line numbers from 1 of the first ones */
    bool torn;                      /* the last line has no newline */
} journal_report;
/* Calls `visit` for every good line in order; an error from it stops the reading. A missing file is ERR_IO. */
MUST err journal_read(const char *path, err (*visit)(void *arg, int line, const json_t *value), void *arg,
                      journal_report *report);
/* Every *.jsonl below dir/journal, sorted by name. */
MUST err journal_list(const char *results_dir, char ***paths, int *n);
void journal_list_free(char **paths, int n);
/* The text of one line without the newline, checksum included (mem_free); and its inverse. */
MUST err journal_line_encode(const json_t *value, char **line);
MUST err journal_line_decode(const char *line, size_t n, json_t **value);
#endif
