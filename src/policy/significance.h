/* Significance of an item: mean attention from the queries of the prompt that see it (score/significance.c). */
#ifndef KVLAB_POLICY_SIGNIFICANCE_H
#define KVLAB_POLICY_SIGNIFICANCE_H
#include "policy/stage.h"

typedef enum significance_order { ORDER_MAX_OF_SUM, ORDER_SUM_OF_MAX } significance_order;
extern const char *const significance_order_names[], *const significance_group_names[]; /* NULL-terminated; groups as group_kind */

typedef struct significance {
    int rows;         /* last queries; 0 = all */
    int group, order; /* group_kind mean or max, significance_order */
    bool own, normalise;
    int signal;       /* set by significance_request */
} significance;

/* Checks the combination, asks for its signal; `who` is for messages. */
MUST err significance_request(policy *p, const node *at, const char *who, significance *s);
/* Queries of a prompt of n_prompt tokens that count for position pos. */
int significance_observers(const significance *s, int n_prompt, int pos);
/* Fills the head's scores at prompt end; items that no query counts for are ITEM_FORCED. sum_out [n] (may be NULL): before division. */
void significance_score(const significance *s, const decision *d, head_items *h, float *sum_out);
void significance_describe(const significance *s, char *out, size_t n);
#endif
