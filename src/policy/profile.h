/* Head profiles: how much of a cache each KV head of one model needs (reference compositions.md).
 *
 * On calibration text all items of all heads are ranked together by a score that is too dear to compute at run time (KVzip's). The global
 * ranks of one head's items, best first, are a monotone curve; its mean over texts is the head's row of the table. At run time an item takes
 * its head's value at the rank that a cheap score gives it inside the head, so one threshold over these values serves all heads: the
 * profile says how much each head gets, the score says which items.
 *
 * The file is text: a header, one line of points per head, a checksum. It belongs to one model file, named by its SHA-256. */
#ifndef KVLAB_POLICY_PROFILE_H
#define KVLAB_POLICY_PROFILE_H
#include <stdint.h>
#include "base/err.h"

enum { PROFILE_POINTS = 512, PROFILE_MAX_HEADS = 1 << 16 };

typedef struct head_profile {
    int n_layers, n_kv;
    char model_sha256[65];
    char *origin;      /* one line: score, texts and lengths it was made from */
    uint16_t *table;   /* [n_layers][n_kv][PROFILE_POINTS] rising; global rank over items, 0 best, 65535 last; point j: quantile (j + 1/2) / POINTS */
    uint64_t checksum; /* of the file's lines above its own */
} head_profile;

MUST err head_profile_new(int n_layers, int n_kv, head_profile **out); /* points of 0, no model, no origin */
/* ERR_ENV if there is no such file, ERR_FORMAT with file:line for every other fault. */
MUST err head_profile_read(const char *path, head_profile **out);
/* The file NAME.profile of a folder that belongs to a model (mem_free), the first by name; NULL if none does. */
MUST err head_profile_find(const char *dir, const char *model_sha256, char **path);
MUST err head_profile_write(const char *path, head_profile *p); /* whole or not at all; sets checksum */
void head_profile_free(head_profile *p);
/* Value of one head at in-head rank `rank` (0 best) of n items, between points linearly, in [0, 1]. */
float head_profile_value(const head_profile *p, int layer, int head, int rank, int n);

/* Averages curves over texts. */
typedef struct profile_builder profile_builder;
MUST err profile_builder_create(int n_layers, int n_kv, profile_builder **out);
void profile_builder_destroy(profile_builder *b);
/* One text: keys[n_heads][n_of[head]] of its items in any order, larger is better, unique over all heads; layer-major heads. Keys are used
 * up. A head without items is left out of the mean of this text. */
MUST err profile_builder_add(profile_builder *b, uint64_t *const *keys, const int *n_of);
/* A head that no text had items of gets the last place everywhere. `origin` is copied. */
MUST err profile_builder_finish(const profile_builder *b, const char *model_sha256, const char *origin, head_profile **out);
#endif
