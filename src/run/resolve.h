/* Resolution of the points of a sweep: presets merged, every key read, engines and policies tried out, identities. */
#ifndef KVLAB_RUN_RESOLVE_H
#define KVLAB_RUN_RESOLVE_H
#include "run/experiment.h"

/* Fills groups, tasks and points from x->sweep; the error of a point names its label and place. */
MUST err resolve_points(experiment *x);
/* Keys model, engine and seed of a resolved root; models that groups of x have are not read again. */
MUST err resolve_engine(const experiment *x, const node *conf, experiment_group *g);
MUST err resolve_math(const node *value, math_mode *out); /* "fast", "exact" */
MUST err resolve_set_text(node *root, const char *dotted, const char *value,
                          const char *origin); /* never read as anything but text */
policy_shape resolve_shape(const experiment_group *g); /* its texts are the group's */
#endif
