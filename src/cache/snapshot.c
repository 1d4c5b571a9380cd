#include "cache/snapshot.h"
#include <string.h>
#include "base/mem.h"
#include "format/rows.h"

static size_t n_values_layer(const snapshot *s) {
    return (size_t)s->shape.n_kv * (size_t)s->n_tokens * (size_t)s->shape.head_dim;
}
static size_t kv_bytes(const snapshot *s) {
    return (size_t)s->shape.n_layers * n_values_layer(s) * (s->shape.f16 ? sizeof(f16) : sizeof(float));
}
static size_t q_tail_bytes(const snapshot *s) {
    return (size_t)s->shape.n_layers * (size_t)s->n_tail * (size_t)s->shape.n_heads * (size_t)s->shape.head_dim *
           sizeof(float);
}
static size_t lse_tail_bytes(const snapshot *s) {
    return (size_t)s->shape.n_layers * (size_t)s->shape.n_heads * (size_t)s->n_tail * sizeof(float);
}

err snapshot_create(snapshot_shape shape, int n_tokens, const int32_t *ids, snapshot **out) {
    *out = NULL;
    if (n_tokens < 1 || shape.n_layers < 1 || shape.n_heads < 1 || shape.n_kv < 1 || shape.head_dim < 1 ||
        shape.n_vocab < 1)
        return ERR(ERR_USAGE, "snapshot: %d tokens of %d layers, %d query heads, %d KV heads of %d, vocabulary %d",
                   n_tokens, shape.n_layers, shape.n_heads, shape.n_kv, shape.head_dim, shape.n_vocab);
    snapshot *s;
    TRY(mem_alloc(MEM_SNAPSHOT, sizeof *s, &s));
    s->shape = shape;
    s->n_tokens = n_tokens;
    s->n_tail = n_tokens < SNAPSHOT_TAIL_ROWS ? n_tokens : SNAPSHOT_TAIL_ROWS;
    err e;
    GOTO(fail, e, mem_alloc(MEM_SNAPSHOT, (size_t)n_tokens * sizeof *s->ids, &s->ids));
    GOTO(fail, e, mem_alloc(MEM_SNAPSHOT, kv_bytes(s), &s->k));
    GOTO(fail, e, mem_alloc(MEM_SNAPSHOT, kv_bytes(s), &s->v));
    GOTO(fail, e, mem_alloc(MEM_SNAPSHOT, q_tail_bytes(s), &s->q_tail));
    GOTO(fail, e, mem_alloc(MEM_SNAPSHOT, q_tail_bytes(s), &s->o_tail));
    GOTO(fail, e, mem_alloc(MEM_SNAPSHOT, lse_tail_bytes(s), &s->lse_tail));
    GOTO(fail, e, mem_alloc(MEM_SNAPSHOT, (size_t)shape.n_vocab * sizeof *s->logits, &s->logits));
    memcpy(s->ids, ids, (size_t)n_tokens * sizeof *ids);
    *out = s;
    return OK;
fail:
    snapshot_destroy(s);
    return e;
}

void snapshot_destroy(snapshot *s) {
    if (!s) return;
    mem_free(s->ids);
    mem_free(s->k);
    mem_free(s->v);
    mem_free(s->q_tail);
    mem_free(s->o_tail);
    for (int i = 0; i < s->n_stats; i++) mem_free(s->stats[i].data);
    mem_free(s->lse_tail);
    mem_free(s->logits);
    mem_free(s);
}

static void put_values(bool half, void *dst, size_t at, const float *x, size_t n) {
    if (half)
        f16_row_from_f32(x, (f16 *)dst + at, n);
    else
        memcpy((float *)dst + at, x, n * sizeof *x);
}

static void get_values(bool half, const void *src, size_t at, float *x, size_t n) {
    if (half)
        f16_row_to_f32((const f16 *)src + at, x, n);
    else
        memcpy(x, (const float *)src + at, n * sizeof *x);
}

void snapshot_put_layer(snapshot *s, const par *p, int layer, const float *k, const float *v) {
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)n_values_layer(s), &lo, &hi);
    size_t at = (size_t)layer * n_values_layer(s) + (size_t)lo, n = (size_t)(hi - lo);
    put_values(s->shape.f16, s->k, at, k + lo, n);
    put_values(s->shape.f16, s->v, at, v + lo, n);
}

void snapshot_get_layer(const snapshot *s, const par *p, int layer, float *k, float *v) {
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)n_values_layer(s), &lo, &hi);
    size_t at = (size_t)layer * n_values_layer(s) + (size_t)lo, n = (size_t)(hi - lo);
    get_values(s->shape.f16, s->k, at, k + lo, n);
    get_values(s->shape.f16, s->v, at, v + lo, n);
}

const snapshot_stat *snapshot_find_stat(const snapshot *s, const unsigned char *key) {
    for (int i = 0; i < s->n_stats; i++)
        if (!memcmp(s->stats[i].key, key, SNAPSHOT_KEY_BYTES)) return &s->stats[i];
    return NULL;
}

err snapshot_add_stat(snapshot *s, const unsigned char *key, size_t n_floats, snapshot_stat **out) {
    if (s->n_stats == SNAPSHOT_MAX_STATS)
        return ERR(ERR_UNSUPPORTED, "snapshot: policies ask for more than %d statistics of the whole prompt", SNAPSHOT_MAX_STATS);
    snapshot_stat *st = &s->stats[s->n_stats];
    TRY(mem_alloc(MEM_SNAPSHOT, (size_t)s->shape.n_layers * n_floats * sizeof(float), &st->data));
    memcpy(st->key, key, SNAPSHOT_KEY_BYTES);
    st->n_floats = n_floats;
    s->n_stats++;
    *out = st;
    return OK;
}

size_t snapshot_bytes(const snapshot *s) {
    size_t stats = 0;
    for (int i = 0; i < s->n_stats; i++) stats += (size_t)s->shape.n_layers * s->stats[i].n_floats * sizeof(float);
    return sizeof *s + (size_t)s->n_tokens * sizeof *s->ids + 2 * kv_bytes(s) + 2 * q_tail_bytes(s) + lse_tail_bytes(s) +
           (size_t)s->shape.n_vocab * sizeof *s->logits + stats;
}
