/* Sweep expansion: `sweep: {grid: {...}}` or `sweep: {list: [{...}, {...}]}`; each map's keys are dotted paths, each value a list of
 * alternatives (a scalar or map counts as a list of one, `1..4` and `0.1..0.5..0.1` as the numbers in between); a sub-grid is the
 * product of its axes, in order, the last axis fastest. An alternative `{name: text, set: {path: value, ...}}` sets all its paths, whatever its axis
 * is called, and stands in labels by its name; of two axes that set the same path the later one wins. */
#ifndef KVLAB_CONF_SWEEP_H
#define KVLAB_CONF_SWEEP_H
#include "conf/node.h"

typedef struct sweep_axis_value { char *path, *text; bool named; } sweep_axis_value; /* "policy.budget" = "{bytes: 0.25}" */
typedef struct sweep_point {
    node *conf;                /* resolved root: the file's map without `sweep`, with this point's values set */
    sweep_axis_value *axes;    /* what distinguishes it, in axis order */
    int n_axes;
    char *label;               /* short: "snapkv budget=0.25" */
    const node *origin;        /* for messages */
} sweep_point;
typedef struct sweep { sweep_point *points; int n; } sweep;

/* `root` is the parsed file after --set. Identical points are an error that names both. No `sweep` key: one point. */
MUST err sweep_expand(const node *root, sweep *out);
void sweep_free(sweep *s);
/* --set a.b=v1,v2 or a.b=1..8..2: adds an axis to every sub-grid when there are several values, sets it otherwise. Commas inside
 * brackets, braces and quotes do not separate: a.b=[x,y] is one value, a list. Wins over an axis of the same path. */
MUST err sweep_apply_set(node *root, const char *assignment);
#endif
