/* Search for numbers of a policy, named by dotted path, that meet a goal on records of the task lm: the product of the values given for
 * each, then bisection between the best point and its neighbours, one number after the other. Deterministic. */
#ifndef KVLAB_RUN_CALIBRATE_H
#define KVLAB_RUN_CALIBRATE_H
#include "run/session.h"

enum { CALIBRATE_MAX_KNOBS = 4, CALIBRATE_MAX_VALUES = 64, CALIBRATE_MAX_POINTS = 1024, CALIBRATE_MAX_RECORDS = 16 };

typedef enum goal_kind { GOAL_KL, GOAL_DNLL, GOAL_BYTES } goal_kind;
extern const char *const goal_names[]; /* NULL-terminated */
typedef struct goal { goal_kind kind; double limit; } goal; /* kl, dnll: fewest bytes within it; bytes: smallest KL within it */

typedef struct knob {
    char *path; /* under `policy` */
    double value[CALIBRATE_MAX_VALUES];
    int n;
} knob;

typedef struct calibrate_point {
    double value[CALIBRATE_MAX_KNOBS];
    bool refused;              /* the policy cannot be: `why` */
    char why[200];
    interval kl, dnll;         /* over records */
    double top1, bytes, bytes_end, data_bits; /* of an f16 full cache: live at the prompt's end and at the end; payload alone, as LeanKV counts */
} calibrate_point;

typedef struct calibrate_conf {
    goal goal;
    knob knobs[CALIBRATE_MAX_KNOBS];
    int n_knobs, rounds; /* bisections per number and side */
    int records, context, tokens, skip, stride;
    const char *text, *data;
    bool show_progress;
    void (*found)(void *arg, const struct calibrate_conf *c, const calibrate_point *p); /* each point as it is known */
    void *arg;
} calibrate_conf;

typedef struct calibrate_result {
    calibrate_point *points; /* in the order of evaluation */
    int n, best;             /* best: -1 when no point meets the goal */
    char *text_name, *text_sha256;
} calibrate_result;

/* "kl=0.02", "dnll=0.05", "bytes=0.25". */
MUST err goal_parse(const char *text, goal *out);
/* "decide.leankv.alpha_l=0,0.02,0.1"; a leading "policy." is allowed. */
MUST err knob_parse(const char *text, knob *out);
/* What a policy of this shape is usually calibrated by; *n = 0 when nothing is known about it. */
MUST err knobs_of_policy(const node *policy, knob *out /* [CALIBRATE_MAX_KNOBS] */, int *n);
void knobs_free(knob *k, int n);

MUST err calibrate_run(const session *s, const calibrate_conf *c, calibrate_result *out);
void calibrate_free(calibrate_result *r);
bool calibrate_meets(const goal *g, const calibrate_point *p);
/* The session's policy with the numbers of a point; its own tree. */
MUST err calibrate_policy(const session *s, const calibrate_conf *c, const calibrate_point *p, node **out);

/* --heads: the head profile of a model. */
MUST err calibrate_heads(const options *o);
#endif
