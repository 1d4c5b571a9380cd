/* How many items a head may keep, from a budget in tokens, in a ratio of the tokens, in true bytes, by a compression
 * rate with a floor, or in pages. */
#ifndef KVLAB_POLICY_BUDGET_H
#define KVLAB_POLICY_BUDGET_H
#include <stdbool.h>
#include <stddef.h>
#include "conf/node.h"

struct policy;

typedef enum budget_unit { BUDGET_NONE, BUDGET_RATIO, BUDGET_TOKENS, BUDGET_BYTES, BUDGET_RATE, BUDGET_PAGES } budget_unit;
typedef struct budget {
    budget_unit unit;
    double amount;
    int floor, step;   /* of a rate */
    bool proportional; /* follows the growing sequence in decode instead of staying at its value at prompt end */
    bool decode_given; /* `decode:` was written out */
} budget;

/* A bare number <= 1, or {ratio: x} | {tokens: n} | {bytes: x} | {rate: x, floor: 128, step: 16} | {pages: n}, each with an optional `decode: fixed | proportional`. */
MUST err budget_parse(const node *n, budget *out);
void budget_describe(const budget *b, char *out, size_t n);

/* Tokens kept of n at a ratio: max(1, int(n * (1 - removed))) with removed = 1 - ratio, all in f64 as kvpress computes it
 * (it counts what is removed): 0.25 of 3840 keeps 960, 0.1 of 100 keeps 9. */
int budget_ratio_tokens(double ratio, int n);
/* Tokens kept of n at a compression rate, as KV-Compress's scripts set them: max(floor, floor((n / rate - 1) / step) * step). */
int budget_rate_tokens(double rate, int floor_tokens, int step, int n);

/* Items per KV head of a layer with that window (0: global) of a sequence of n_tokens tokens whose prompt had n_prompt. A sliding layer is
 * budgeted by what it would hold uncompressed, min(length, window). Never below the protected items (then
 * *clamped is set) and never above n_tokens. A byte budget is met by bisection on this count: payload, metadata and columns
 * of the kept items, as their tiers would store them, and the head's page tables, over n * head_dim * 4 (an f16 `full`); one in pages by
 * bisection on the pages that its tiers fill. Without a prompt
 * (n_prompt 0) the sequence's present length takes its place. */
int budget_kept(const struct policy *p, int window, int n_prompt, int n_tokens, bool *clamped);
/* Bytes and physical pages are solved against page layouts. */
bool budget_needs_layouts(const struct policy *p);
/* Live bytes of one head with so many items per tier: items and page tables. */
double budget_items_bytes(const struct policy *p, const int *per_tier /* [KV_MAX_TIERS] */);
/* What a byte budget allows a sequence of n_tokens prompt tokens; a layer of it. */
double budget_sequence_bytes(const struct policy *p, int n_tokens);
double budget_layer_bytes(const struct policy *p, int layer, int n_tokens);
/* Its share of what a cache holds beside its heads. */
double budget_head_share(const struct policy *p);
/* The bytes that budget_kept counts for `kept` items of one head. */
double budget_head_bytes(const struct policy *p, int window, int n_tokens, int kept);
#endif
