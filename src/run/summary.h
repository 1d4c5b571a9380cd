/* What a sweep says, in numbers: per (point, task, metric) the mean with its interval, the paired difference to the group's uncompressed point
 * with a verdict, and the bytes of each point. Table, export, plots and report all read these figures, so they never disagree. */
#ifndef KVLAB_RUN_SUMMARY_H
#define KVLAB_RUN_SUMMARY_H
#include "run/results.h"
#include "stats/stats.h"

typedef struct summary_cell {
    bool present;      /* at least one record has the metric */
    interval mean;     /* over records */
    interval diff;     /* point minus the group's `full`, paired by record; n = 0 without such a point */
    verdict verdict;   /* of diff against the noise floor */
    double noise;      /* floor in the metric's unit: |mean(full in the other math - full)|; 0 where none was measured */
} summary_cell;

typedef struct summary_bytes { /* means over the ok records of one (point, task) */
    int n;
    double live_per_token, full_per_token; /* bytes per prompt token at the end of the prompt */
    double ratio;                          /* live / full_f16 */
    double payload, metadata, columns, tables, slack, committed, released, released_pages; /* bytes at the end of the prompt */
    double live_end, ratio_end;            /* at the end of decoding */
    double kept;                           /* items / items of full */
    int n_clamped;                         /* records whose budget was below the protected items */
} summary_bytes;

typedef struct summary {
    const results *r;
    stats_conf conf;
    int max_metrics;
    summary_cell *cells;   /* [n_points][n_tasks][max_metrics] */
    summary_bytes *bytes;  /* [n_points][n_tasks] */
    bool *uninformative;   /* [n_groups][n_tasks] full does not beat the floor policy (StreamingLLM) at equal bytes; false if it cannot be told */
} summary;

MUST err summary_make(const results *r, summary **out);
void summary_free(summary *s);
const char *summary_verdict_name(verdict v); /* "same", "higher", "lower", "unknown" */
static inline const summary_cell *summary_at(const summary *s, int point, int task, int metric) {
    return &s->cells[((size_t)point * (size_t)s->r->n_tasks + (size_t)task) * (size_t)s->max_metrics + (size_t)metric];
}
static inline const summary_bytes *summary_bytes_at(const summary *s, int point, int task) {
    return &s->bytes[(size_t)point * (size_t)s->r->n_tasks + (size_t)task];
}
/* The metrics that stand for a task in a narrow place (table, plots): at most `max` indices, most telling first; returns their number. */
int summary_headline(const results *r, int task, int *metrics, int max);
/* Bytes of a point over all its untimed tasks (timed ones when there is no other). */
summary_bytes summary_point_bytes(const summary *s, int point);
#endif
