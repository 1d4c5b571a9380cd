/* KVCrush by its rules, carried out naively on one layer's dense arrays [head][position]: arrays of bits, sorting by insertion, linear
 * search. For the oracles of prompts and of decode. */
#ifndef KVLAB_TESTS_SUPPORT_NAIVE_KVCRUSH_H
#define KVLAB_TESTS_SUPPORT_NAIVE_KVCRUSH_H
#include <stdbool.h>
#include <stddef.h>
#include "base/rng.h"

enum { CRUSH_KV = 4, CRUSH_GROUP = 4, CRUSH_HEADS = CRUSH_KV * CRUSH_GROUP, CRUSH_N = 130, CRUSH_UNIT = 17 };

typedef struct crush_setup {
    int n_kv, group, sink, recent, unit, per_query, signature, bits, scope, anchor, anchor_scope, order, pick, eligible, on_top, control;
    double rep, coverage, fraction;
    uint64_t seed;
} crush_setup;

typedef struct crush_case { /* one decision */
    int layer, n, n_prompt, score_rows; /* n: tokens; rows of the prompt that scores sum */
    bool in_decode;
    bool here[CRUSH_KV][CRUSH_N];
    float score[CRUSH_KV][CRUSH_N], query[CRUSH_HEADS][CRUSH_N]; /* query: of single query heads, at the end of the prompt */
    int quota[CRUSH_KV];
} crush_case;

/* All options but n_kv and group at random; `live`: such as decode takes. */
void crush_random(rng *r, bool live, crush_setup *out);
/* "{kvcrush: {...}}" */
void crush_yaml(const crush_setup *s, char *out, size_t cap);
/* keep[head][position]; rep (may be NULL): kept as representatives. */
void crush_naive(const crush_setup *s, const crush_case *c, bool (*keep)[CRUSH_N], bool (*rep)[CRUSH_N]);
#endif
