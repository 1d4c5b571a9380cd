/* The results of a sweep in memory: points x tasks x items, built from the journals of a results directory and nothing
 * else. Table, store, plots and report read this; they know numbers and names, not engines. */
#ifndef KVLAB_RUN_RESULTS_H
#define KVLAB_RUN_RESULTS_H
#include "run/record.h"
#include "task/task.h" /* metric_direction */

typedef struct result_metric {
    char *name, *unit, *help;
    metric_direction direction;
    bool timing; /* varies from run to run */
} result_metric;

typedef struct result_task {
    char *name; /* unique in the sweep: "lm", or "lm tokens=128" beside another lm */
    char *conf; /* canonical JSON of its map */
    bool timed;
    int n_items;
    result_metric *metrics;
    int n_metrics;
    double cost_prepare, cost_unit; /* comparable units (task_item_cost): prefilling a record once; one policy on it */
    int prompt_tokens;              /* of the largest record */
} result_task;

typedef struct result_axis {
    char *path, *text;
} result_axis; /* "policy.budget" = "0.25" */

typedef struct result_group { /* points that share model, engine and seed: their records pair up */
    char id[17];
    char *model, *model_sha256; /* preset name or path */
    char *backend, *isa, *math; /* as dispatched: "cpu", "avx512-vnni", "fast" */
    int threads, context;
    uint64_t seed;
} result_group;

typedef struct result_point {
    char id[17];
    char *label; /* "snapkv budget=0.25" */
    result_axis *axes;
    int n_axes;
    char *conf;   /* canonical JSON of the resolved point */
    char *policy; /* policy_describe: one line */
    char **tiers; /* format names, hot one first */
    int n_tiers;
    bool full; /* keeps everything in one floating-point tier */
    int group;
    int baseline;   /* index of the group's uncompressed point; -1 = the sweep has none */
    bool *has_task; /* [n_tasks] */
} result_point;

typedef struct results {
    char *dir; /* results directory */
    char *name, *question;
    char sweep_id[17];
    result_group *groups;
    int n_groups;
    result_task *tasks;
    int n_tasks;
    result_point *points;
    int n_points;
    char *text_name, *text_sha256;                       /* natural text that was used; "" if none */
    char *resolved_yaml, *sweep_yaml, *environment_json; /* whole files; "" when absent */
    int max_items;                                       /* largest n_items of the tasks */
    unit_record **unit;                                  /* [n_points][n_tasks][max_items]; NULL = not there yet */
    unit_record **noise;                                 /* [n_groups][n_tasks][max_items] */
    int n_expected;                                      /* units the sweep asks for */
    int n_ok, n_failed, n_crashed, n_skipped;
    int n_corrupt_lines; /* of all journals, already warned about */
} results;

/* Reads DIR/journal/<any>.jsonl; several journals (shards, restarts) of one sweep merge: for a unit the last `ok` wins,
 * otherwise the last. */
MUST err results_load(const char *dir, results **out);
void results_free(results *r);

/* The skeleton (groups, tasks, points) as the journal's header line, and back (`unit` and `noise` allocated empty). */
MUST err results_header_json(const results *r, json_t **out);
MUST err results_from_header(const json_t *header, const char *dir, results **out);
/* Takes over *rec when it belongs here (zeroes it) and updates the counts; records of unknown points or tasks are left
 * out. */
MUST err results_add(results *r, unit_record *rec);

static inline unit_record *results_unit(const results *r, int p, int t, int i) {
    return r->unit[((size_t)p * (size_t)r->n_tasks + (size_t)t) * (size_t)r->max_items + (size_t)i];
}
static inline unit_record *results_noise(const results *r, int g, int t, int i) {
    return r->noise[((size_t)g * (size_t)r->n_tasks + (size_t)t) * (size_t)r->max_items + (size_t)i];
}
int results_bad_noise(const results *r); /* noise records that failed or crashed; not among the counts of units */
int results_find_metric(const results *r, int t, const char *name); /* -1 if the task has none of that name */
/* x[n_items] of one point and task by record; NaN where the unit is missing, not ok or the metric does not apply. */
void results_column(const results *r, int p, int t, const char *metric, double *x);
/* The same of the noise floor of a group. */
void results_noise_column(const results *r, int g, int t, const char *metric, double *x);
#endif
