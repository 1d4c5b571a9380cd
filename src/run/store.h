/* sweep.h5, in two halves: store_walk says what is in the file, array by array, from results alone; a sink receives it.
 * One sink writes HDF5 (store.c), another compares with a file (store_verify.c), so that what is written and what is
 * checked cannot drift apart.
 *
 *   /                     attributes: schema, kvlab, sweep, environment (flattened and as text), YAML texts
 *   /points               one column per property                                      [point]
 *   /metrics/TASK         one array per metric                                         [point, item]
 *   /summary/TASK         mean, interval, paired difference to full, noise             [point, stat]
 *   /memory/TASK          bytes per token and their parts, means over records          [point]
 *   /items/TASK           status, text, bytes, output ... of every record              [point, item]
 *   /series/TASK          kl, nll, top1 per scored token, NaN padded                   [point, item, step]
 *   /heads/TASK           kept                                                         [point, item, layer, head, tier]
 *   /noise/TASK           metrics of full in the other math mode                       [group, item]
 *
 * Every group holds its own dimension scales under the names of its dimensions, so xarray.open_dataset(path,
 * group="/metrics/lm", engine="h5netcdf") gives labelled arrays. What varies from run to run carries the attribute
 * timing = 1. */
#ifndef KVLAB_RUN_STORE_H
#define KVLAB_RUN_STORE_H
#include <stddef.h>
#include "run/summary.h"

enum { STORE_SCHEMA = 1, STORE_MAX_RANK = 5 };
typedef enum store_type { STORE_F64, STORE_F32, STORE_I32, STORE_U32, STORE_U8, STORE_TEXT } store_type;
extern const size_t store_type_bytes[];

typedef struct store_array {
    const char *group; /* "/metrics/lm" */
    const char *name;  /* "kl" */
    store_type type;
    int rank;
    const char *dim[STORE_MAX_RANK]; /* scales of the same group, walked before */
    size_t shape[STORE_MAX_RANK];
    const void *data;        /* row-major; STORE_TEXT: char *[], none NULL */
    bool scale;              /* a dimension scale: rank 1, its own dimension */
    const char *unit, *help; /* NULL or "": none */
    const char *direction;   /* NULL: no metric */
    bool timing;
} store_array;

typedef struct store_sink {
    void *arg;
    err (*group)(void *arg, const char *path); /* parents first */
    err (*array)(void *arg, const store_array *a);
    err (*text)(void *arg, const char *group, const char *name, const char *value); /* attributes of a group */
    err (*number)(void *arg, const char *group, const char *name, double value, bool integer);
} store_sink;

MUST err store_walk(const results *r, store_sink *sink);
/* A task's name as a group's: '/' becomes '|'. mem_free. */
char *store_task_group(const char *kind, const char *task);
size_t store_n_elements(const store_array *a);
/* Turns HDF5's own messages off in this thread; the returned one puts them back. */
typedef struct store_quiet {
    void *func, *data;
} store_quiet;
store_quiet store_silence(void);
void store_restore(store_quiet q);
/* The deepest thing HDF5 complained about, as one line. mem_free. */
char *store_hdf5_complaint(void);
#endif
