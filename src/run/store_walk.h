/* The walk over a results' arrays, shared by its files: points, metrics and summaries (store_walk.c), records one by one (store_records.c). */
#ifndef KVLAB_RUN_STORE_WALK_H
#define KVLAB_RUN_STORE_WALK_H
#include "run/store.h"

/* The walk's own state: texts that live until it ends, one buffer for numbers. */
typedef struct walk {
    const results *r;
    const summary *s;
    store_sink *sink;
    char **point, **item; /* labels of points; ids of the present task's items */
    void *buf;
    size_t buf_bytes;
} walk;

MUST err walk_buffer(walk *w, size_t n, size_t each, void *out); /* the buffer, grown to n elements; the next call may move it */
MUST err walk_put(walk *w, store_array a);
MUST err walk_put_scale(walk *w, const char *group, const char *name, store_type type, size_t n, const void *data);
MUST err walk_put_counts(walk *w, const char *group, const char *name, int n); /* a scale of 0 .. n - 1 */
MUST err walk_begin_group(walk *w, const char *path, bool points, int n_items /* < 0: without them */);

/* Of task t: /items, /series and /heads. */
MUST err walk_items(walk *w, int t);
MUST err walk_series(walk *w, int t);
MUST err walk_heads(walk *w, int t);
#endif
