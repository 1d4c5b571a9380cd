/* What one work unit leaves behind: plain numbers and names, no engine. Written to the journal, read back bit for bit.
 */
#ifndef KVLAB_RUN_RECORD_H
#define KVLAB_RUN_RECORD_H
#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>
#include "base/err.h"
#include "cache/cache.h"

typedef enum unit_status {
    UNIT_OK,
    UNIT_FAILED,  /* an error came back; `text` says which */
    UNIT_CRASHED, /* the worker died on it; `text` names the signal */
    UNIT_SKIPPED, /* does not apply; `text` says why */
    UNIT_N_STATUS
} unit_status;
const char *unit_status_name(unit_status s);

typedef struct named_value {
    char *name;
    double value;
} named_value; /* NaN = not applicable (null in JSON) */

/* One (point, task, item). A noise record (`full` in the other math mode against the reference) has noise = true and
 * stands for the points' group instead of a point: `point` then holds the group's id (results.h). */
typedef struct unit_record {
    bool noise;
    char point[17]; /* id of the point, or of the group when noise */
    char *label;    /* of the point: "snapkv budget=0.25"; "noise" */
    char *task;     /* unique task name, as in results.h */
    int item;       /* 0-based */
    char *item_id;  /* "passkey/0003 depth=0.50"; "" when the item could not be opened */
    unit_status status;
    char *text; /* why it is not ok; "" */
    int n_metrics;
    named_value *metrics; /* [n_metrics], in the task's order */
    int n_series;         /* scored tokens; 0 = no series */
    float *kl, *nll;      /* [n_series] nats */
    uint8_t *top1;        /* [n_series] 0 or 1 */
    cache_bytes at_prompt, at_end;
    int n_layers, n_kv, n_tiers;
    uint32_t *kept; /* [n_layers][n_kv][n_tiers] items after compression; NULL when a size is 0 */
    int n_prompt, n_decoded;
    bool budget_clamped;
    double seconds; /* of the unit, wall clock: varies from run to run */
    char *output;   /* generated text or NULL */
} unit_record;

void unit_record_free(unit_record *r); /* what it holds; the struct is zeroed */
/* Value of a metric by name; NaN if absent. */
double unit_record_metric(const unit_record *r, const char *name);
MUST err unit_record_to_json(const unit_record *r, json_t **out);
/* Checks every field; ERR_FORMAT names the one that is wrong. */
MUST err unit_record_from_json(const json_t *j, unit_record *out);
#endif
