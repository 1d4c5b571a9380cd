/* A sweep file resolved into points that can run: presets merged, unread keys refused, impossible points named. */
#ifndef KVLAB_RUN_EXPERIMENT_H
#define KVLAB_RUN_EXPERIMENT_H
#include "conf/node.h"
#include "conf/sweep.h"
#include "engine/engine.h"
#include "run/options.h"
#include "run/results.h"

typedef struct experiment_group { /* one engine and one seed */
    char id[17];                  /* hash of all of it but the threads */
    char *model;                  /* as the user named it: preset or path */
    char *model_path;
    char model_sha256[65];
    model_params params;
    char *backend, *isa; /* as asked for */
    math_mode math;
    int threads, context;
    uint64_t seed;
} experiment_group;

typedef struct experiment_task {
    char *name; /* unique: see results.h */
    node *conf; /* {task: lm, ...}, presets merged */
    char *canonical;
    char *texts; /* hashes of the texts it names itself, "" without any */
} experiment_task;

typedef struct experiment_point {
    char id[17];
    char *label;
    node *conf;      /* this point's resolved root */
    node *policy;    /* resolved map, preset merged */
    char *canonical; /* what the id is the hash of */
    char *describe;  /* policy_describe */
    char *plugins;   /* {"score":"sha256 of the shared object"}, "" in place of a hash where it cannot be read; NULL without plug-ins */
    char *plugin_paths; /* for messages; NULL without plug-ins */
    char tiers[KV_MAX_TIERS][16];
    int n_tiers;
    bool full;
    int group;
    int *tasks, n_tasks; /* indices into experiment.tasks */
    const sweep_point *source;
} experiment_point;

typedef struct experiment {
    char *file, *name, *question, *dir;
    char id[17]; /* of the sweep: all points and the text */
    node *root;  /* the file after --set */
    sweep sweep;
    experiment_group *groups;
    int n_groups;
    experiment_task *tasks;
    int n_tasks;
    experiment_point *points;
    int n_points;
    char *text_path, *data_dir;
    text_source *text; /* NULL when no task wants natural text and none is installed */
    char *text_error;  /* why it is NULL */
    int noise_records; /* of each untimed task: `full` in the other math mode */
    char *yaml;        /* the file as written; from the tree when options changed it */
} experiment;

/* Parses, applies options (--set, --seed, --isa, --threads, --backend, --text, --data, -o), expands, resolves and
 * checks every point. */
MUST err experiment_load(const char *path, const options *o, experiment **out);
void experiment_free(experiment *x);
void experiment_group_free(experiment_group *g);
MUST err experiment_policy(const experiment *x, int point, policy **out); /* a fresh one; cannot fail but for memory */
/* Opens its plug-ins, which must be the files that the point's id was made from. */
MUST err experiment_load_plugins(const experiment *x, int point, policy *p);
/* --only: does one of the globs match the point's label or id? No glob at all matches every point. */
bool experiment_point_matches(const experiment *x, int point, text_list globs);
/* Resolved points as YAML text (mem_free): what resolved.yaml holds. */
MUST err experiment_resolved_yaml(const experiment *x, char **out);
#endif
