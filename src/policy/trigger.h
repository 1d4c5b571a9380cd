/* When a policy decides, and which items it may never drop. */
#ifndef KVLAB_POLICY_TRIGGER_H
#define KVLAB_POLICY_TRIGGER_H
#include <stdbool.h>
#include "conf/node.h"

struct policy;

typedef struct protect { int sink, recent; } protect;
typedef enum pressure_order { ORDER_UNCOMPRESSED, ORDER_COMPRESSIBLE, ORDER_STALE } pressure_order;
typedef struct trigger {
    bool prefill; /* once, after the prompt */
    int slack;    /* decode: as soon as this many tokens are beyond the budget or older than `recent` in the hot tier; 0 = never */
    bool pressure; /* decode: when the pool has too few pages for the next step */
    int order;     /* pressure_order: which sequence first */
    int every;    /* decode: every so many tokens; 0 = never */
} trigger;

MUST err trigger_parse(const node *map, trigger *out);
MUST err protect_parse(const node *map, protect *out);

/* Layers that share a budget: global ones and sliding ones, or, under sequence scope, all of them. */
enum { KEPT_GLOBAL, KEPT_SLIDING, KEPT_CLASSES };
/* What the first class holds per head when global and sliding layers hold so much: the mean where both kinds share a budget. */
int class_mean(const struct policy *p, int global, int sliding);
bool class_exists(const struct policy *p, int class);
int class_of_layer(const struct policy *p, int layer);
/* The sequence length at which the next decision is due, INT32_MAX for never. State after the last decision: it was taken at
 * n_last tokens and left kept[class] items in a head (at most); tokens from position first_hot on lie in the hot tier. */
int trigger_due(const struct policy *p, int n_prompt, int n_last, const int kept[KEPT_CLASSES], int first_hot);
#endif
