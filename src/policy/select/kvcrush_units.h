/* Inside of select kvcrush: one layer cut into units of positions, their scores, signatures and order. */
#ifndef KVLAB_POLICY_SELECT_KVCRUSH_UNITS_H
#define KVLAB_POLICY_SELECT_KVCRUSH_UNITS_H
#include <math.h>
#include "policy/signature.h"
#include "policy/topk.h"

typedef struct kvcrush_conf {
    double representatives, fraction, coverage;
    int unit, unit_score, signature, bits, scope, anchor, anchor_scope, order, pick, eligible, accounting, control;
} kvcrush_conf;
STAGE_CONF_FITS(kvcrush_conf);

enum { ROWS_QUERY_HEAD, ROWS_HEAD, ROWS_HEAD_SUM };
enum { BITS_TOP_FRACTION, BITS_RETAINED, BITS_BASE };
enum { UNIT_SUM, UNIT_PER_QUERY };
enum { CONTROL_NONE, CONTROL_RANDOM, CONTROL_POSITION };

/* One layer on its way through the stage. The free positions are those that some head holds and none protects or forces, by rising
 * position; place j is the j-th of them. A unit is `unit` positions that stay together while the sequence goes on: counted from the first
 * free one of the prompt, or from behind the sinks where decisions go on in decode, where some of them may be gone from some heads or all. Arrays lie in
 * the decision's scratch. */
typedef struct crush {
    const kvcrush_conf *c;
    const decision *d;
    int n_mid, n_units, rows;
    int *item;      /* [n_heads][n_mid] the head's item at that place, -1 where it has none */
    int *offset;    /* [n_mid] of the position in its unit */
    int *first;     /* [n_units + 1] places of a unit */
    int *distance, *order; /* [n_units] */
    float *row;     /* [largest n] scores of one row */
    float *score;   /* [n_heads][n_units]; NaN where the head holds nothing of a unit */
    signatures sig;
    int important[POLICY_MAX_KV_HEADS], representative[POLICY_MAX_KV_HEADS]; /* units of a head */
} crush;

int crush_rows(const policy *p, const kvcrush_conf *c);
/* Words of scratch per token. */
int crush_work_words(const policy *p, const kvcrush_conf *c);
/* Items that the head's quota leaves beside those that stay anyway. */
int crush_room(const head_items *h);
void crush_begin(crush *x, const kvcrush_conf *c, const decision *d);
static inline int crush_item(const crush *x, int head, int place) { return x->item[(size_t)head * (size_t)x->n_mid + (size_t)place]; }
static inline float crush_score(const crush *x, int head, int unit) { return x->score[(size_t)head * (size_t)x->n_units + (size_t)unit]; }
static inline bool crush_holds(const crush *x, int head, int unit) { return !isnan(crush_score(x, head, unit)); }
/* Kept for its score; representatives of this decision do not count, so heads may be served in any order. */
bool crush_important(const crush *x, int head, int unit);
/* Fills order[n_units] by the signatures' distances, or as the control says; the important units of all heads stand already. */
void crush_order(crush *x);
#endif
