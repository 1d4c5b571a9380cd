/* What a KV head's output loses as its items go: head profiles by the tokens that really follow a calibration text.
 *
 * Of a window of n tokens and the 64 that follow it, the following ones are the queries. Per KV head, items ranked by the policy's score go from
 * the worst up; the curve is the squared change of the head's part of the attention block's output, |Wo (o' - o)|^2, o' being attention over what
 * is left, mean over the queries and summed over the query heads. Layers are made comparable by measuring: with three tenths of the items
 * of one layer alone, the KL of the model's predictions over the sum of its curves there is the layer's weight. Along the lower convex hull of a weighted curve
 * the fall per item is what the item is worth; all heads are ranked together by it. Under `layers: all` the items of a sliding layer are those of
 * its window, of which each further query sees one less. */
#ifndef KVLAB_RUN_HEADS_LOSS_H
#define KVLAB_RUN_HEADS_LOSS_H
#include "policy/profile.h"
#include "run/session.h"

enum { LOSS_STEPS = 128, LOSS_ROWS = SNAPSHOT_TAIL_ROWS };

typedef struct loss_head {
    int n_items, n_rows, d;    /* items that may go; queries; channels */
    const int *order;          /* [n_items] item numbers, the first goes first */
    const float *k, *v;        /* [item][d] */
    const float *q, *o;        /* row r at r * ld: queries and their full outputs */
    size_t ld;
    const float *lse;          /* [n_rows] of the full attention */
    int window, next;          /* a sliding layer: row r is the query of token next + r, which sees so many tokens up to its own; 0: all */
    const float *wo;           /* [n_out][d] */
    int n_out;
    double scale;
} loss_head;
/* Adds to curve[j], j = 0 .. LOSS_STEPS, the mean over the queries when only the best j / LOSS_STEPS of the items are left; curve[LOSS_STEPS] gets 0. */
MUST err heads_loss_curve(const loss_head *h, double *curve);
/* Fall of the lower convex hull of curve[0 .. LOSS_STEPS] from j to j + 1; does not grow with j. */
void heads_loss_gains(const double *curve, double *gain /* [LOSS_STEPS] */);

typedef struct heads_loss heads_loss;
/* `conf`: the policy whose score ranks inside heads (scope: sequence). */
MUST err heads_loss_create(const session *s, const node *conf, int n_tokens, heads_loss **out);
void heads_loss_destroy(heads_loss *x);
/* One window: n_tokens of context and LOSS_ROWS more. `temp` is a path for a file that comes and goes. */
MUST err heads_loss_add(heads_loss *x, const int32_t *ids, const char *temp);
/* A builder that holds the ranks, and the policy in words (mem_free). */
MUST err heads_loss_finish(const heads_loss *x, profile_builder **b, char **policy_line);
#endif
