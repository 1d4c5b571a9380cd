#include "policy/signature.h"
#include <assert.h>
#include <string.h>
#include "base/rng.h"

static void count_ones(const signatures *s, int *ones) {
    memset(ones, 0, (size_t)s->n_bits * sizeof *ones);
    for (int u = 0; u < s->n_units; u++) {
        const uint64_t *w = signature_of(s, u);
        for (int i = 0; i < s->n_bits; i++) ones[i] += (int)(w[i / 64] >> (i % 64) & 1);
    }
}

static void make_anchor(const signatures *s, anchor_kind kind, uint64_t seed, uint64_t stream, uint64_t *anchor) {
    int ones[SIGNATURE_MAX_BITS], words = signature_words(s->n_bits);
    memset(anchor, kind == ANCHOR_ONES ? 0xff : kind == ANCHOR_ALTERNATING ? 0xaa : 0, (size_t)words * sizeof *anchor);
    if (kind == ANCHOR_RANDOM)
        for (int w = 0; w < words; w++) anchor[w] = rng_at(seed, stream, (uint64_t)w);
    if (kind == ANCHOR_MEAN || kind == ANCHOR_INVERSE_MEAN) {
        count_ones(s, ones);
        for (int i = 0; i < s->n_bits; i++) {
            bool one = kind == ANCHOR_MEAN ? 2 * ones[i] > s->n_units : 2 * ones[i] < s->n_units;
            anchor[i / 64] |= (uint64_t)one << (i % 64);
        }
    }
    if (s->n_bits % 64) anchor[words - 1] &= ((uint64_t)1 << (s->n_bits % 64)) - 1;
}

void signature_distances(const signatures *s, anchor_kind kind, uint64_t seed, uint64_t stream, int *distance) {
    uint64_t anchor[SIGNATURE_MAX_BITS / 64];
    int words = signature_words(s->n_bits);
    assert(s->n_bits <= SIGNATURE_MAX_BITS);
    make_anchor(s, kind, seed, stream, anchor);
    for (int u = 0; u < s->n_units; u++) {
        const uint64_t *w = signature_of(s, u);
        distance[u] = 0;
        for (int i = 0; i < words; i++) distance[u] += __builtin_popcountll(w[i] ^ anchor[i]);
    }
}

void signature_distances_per_unit(const signatures *s, anchor_kind kind, uint64_t seed, uint64_t stream, int *distance) {
    for (int u = 0; u < s->n_units; u++) {
        const uint64_t *w = signature_of(s, u);
        int ones = 0, words = signature_words(s->n_bits);
        for (int i = 0; i < words; i++) ones += __builtin_popcountll(w[i]);
        bool one = kind == ANCHOR_ONES || (kind == ANCHOR_ALTERNATING && u % 2) || (kind == ANCHOR_MEAN && 2 * ones > s->n_bits) ||
                   (kind == ANCHOR_INVERSE_MEAN && 2 * ones < s->n_bits) || (kind == ANCHOR_RANDOM && rng_at(seed, stream, (uint64_t)u) >> 63);
        distance[u] = one ? s->n_bits - ones : ones;
    }
}

void signature_order(const int *distance, int n, bool falling, int *order) {
    int start[SIGNATURE_MAX_BITS + 2] = {0};
    for (int u = 0; u < n; u++) start[(falling ? SIGNATURE_MAX_BITS - distance[u] : distance[u]) + 1]++;
    for (int k = 0; k <= SIGNATURE_MAX_BITS; k++) start[k + 1] += start[k];
    for (int u = 0; u < n; u++) order[start[falling ? SIGNATURE_MAX_BITS - distance[u] : distance[u]]++] = u;
}

int signature_pick(pick_kind kind, int i, int r, int m) {
    switch (kind) {
    case PICK_LINSPACE: return r == 1 ? 0 : (int)((int64_t)i * (m - 1) / (r - 1));
    case PICK_FLOOR_STEP: return i * (m / r);
    case PICK_BUCKET: return (int)((int64_t)i * m / r);
    }
    return 0;
}
