/* One model and one policy from the command line, for score and generate. */
#ifndef KVLAB_RUN_SESSION_H
#define KVLAB_RUN_SESSION_H
#include "run/experiment.h"

typedef struct session {
    experiment_group g;
    engine *e;
    node *root;   /* {model, engine, policy, seed} after --set */
    node *policy; /* resolved map */
} session;

MUST err session_open(const options *o, session *out);
void session_close(session *s);
/* A fresh policy with a pool for n_tokens; conf NULL = the session's. */
MUST err session_policy(const session *s, const node *conf, int n_tokens, policy **p, cache_space **space);
/* The uncompressed cache that others are compared with: f16 in fast, f32 in exact (mem: node_free). */
MUST err session_full_conf(const session *s, node **out);
#endif
