/* Snapshot: everything needed to finish a prefill under any policy later: token ids, K/V of all layers as rounded once (f16 in fast,
 * f32 in exact), the last query rows, log-sum-exps. Read-only once sealed and shared; counted under MEM_SNAPSHOT. */
#ifndef KVLAB_CACHE_SNAPSHOT_H
#define KVLAB_CACHE_SNAPSHOT_H
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/par.h"

enum { SNAPSHOT_TAIL_ROWS = 64 };
typedef struct snapshot_shape { int n_layers, n_heads, n_kv, head_dim, n_vocab; bool f16; } snapshot_shape;

/* A statistic of the whole prompt that a policy declared (all-row column sums, query moments): a key that only the engine reads, and
 * `n_floats` per layer. */
enum { SNAPSHOT_KEY_BYTES = 64, SNAPSHOT_MAX_STATS = 16 };
typedef struct snapshot_stat {
    unsigned char key[SNAPSHOT_KEY_BYTES];
    size_t n_floats;
    float *data;           /* [n_layers][n_floats] */
} snapshot_stat;

typedef struct snapshot {
    snapshot_shape shape;
    int n_tokens, n_tail;  /* n_tail = min(n_tokens, SNAPSHOT_TAIL_ROWS) */
    int32_t *ids;          /* [n_tokens] */
    void *k, *v;           /* [n_layers][n_kv][n_tokens][head_dim] f16 or f32 */
    float *q_tail;         /* [n_layers][n_tail][n_heads][head_dim] post-RoPE */
    float *o_tail;         /* [n_layers][n_tail][n_heads][head_dim] attention outputs of the same rows */
    float *lse_tail;       /* [n_layers][n_heads][n_tail] */
    float *logits;         /* [n_vocab] of the last token */
    snapshot_stat stats[SNAPSHOT_MAX_STATS];
    int n_stats;
} snapshot;

MUST err snapshot_create(snapshot_shape shape, int n_tokens, const int32_t *ids, snapshot **out);
void snapshot_destroy(snapshot *s);
/* SPMD copies of one layer: k, v [n_kv][n_tokens][head_dim] f32; exact in both directions because values are already rounded. */
void snapshot_put_layer(snapshot *s, const par *p, int layer, const float *k, const float *v);
void snapshot_get_layer(const snapshot *s, const par *p, int layer, float *k, float *v);
/* The statistic with this key, or NULL. */
const snapshot_stat *snapshot_find_stat(const snapshot *s, const unsigned char *key);
MUST err snapshot_add_stat(snapshot *s, const unsigned char *key, size_t n_floats, snapshot_stat **out);
size_t snapshot_bytes(const snapshot *s);
#endif
