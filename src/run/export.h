/* What the exports and the store share: the byte columns of a record, text fields of points, the CSV writer. */
#ifndef KVLAB_RUN_EXPORT_H
#define KVLAB_RUN_EXPORT_H
#include <stddef.h>
#include "base/io.h"
#include "run/summary.h"

/* Figures of cache_bytes by name; `ratio` (live / full_f16) is not stored there and comes last, in `export_byte_value`
 * only. */
enum { EXPORT_N_BYTES = 9 };
extern const char *const export_byte_names[EXPORT_N_BYTES];
double export_byte_value(const cache_bytes *b, int k); /* NaN for a ratio without tokens */

const char *export_direction_name(metric_direction d); /* "neutral", "higher", "lower" */
char *export_point_axes(const result_point *p);        /* {"policy.budget":"0.25"}, mem_free */
char *export_point_tiers(const result_point *p);       /* "K8V4 K4V2", mem_free */
/* Id of a task's record, from whichever point has it; "item 3" when none has. mem_free. */
char *export_item_id(const results *r, int task, int item);
/* Letters, digits, '.', '_', '-', '='; anything else becomes '_': names of tasks in names of files. mem_free. */
char *export_file_word(const char *text);

/* One field of a CSV line (RFC 4180): quoted when it has to be; doubles with 17 digits, NaN as nothing. */
void csv_text(FILE *f, const char *text);
void csv_number(FILE *f, double x);

MUST err export_json(const summary *s, const char *dir); /* DIR/results.json */
#endif
