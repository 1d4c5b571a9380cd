/* Binary signatures of units of positions and the one-pass order of KVCrush (arXiv 2503.00022, reference kvcrush.md): each unit has a bit
 * vector, one anchor stands for all, units are ordered by their Hamming distance to it, and some along that order are picked. O(units). */
#ifndef KVLAB_POLICY_SIGNATURE_H
#define KVLAB_POLICY_SIGNATURE_H
#include <stdbool.h>
#include <stdint.h>

enum { SIGNATURE_MAX_BITS = 8192 };

typedef struct signatures {
    int n_units, n_bits;
    uint64_t *bits; /* [n_units][signature_words(n_bits)], bit i of a unit in word i / 64; bits beyond n_bits are 0 */
} signatures;
static inline int signature_words(int n_bits) { return (n_bits + 63) / 64; }
static inline uint64_t *signature_of(const signatures *s, int unit) { return s->bits + (int64_t)unit * signature_words(s->n_bits); }
static inline void signature_set(const signatures *s, int unit, int bit) { signature_of(s, unit)[bit / 64] |= (uint64_t)1 << (bit % 64); }

typedef enum anchor_kind {
    ANCHOR_MEAN,         /* 1 where more than half of the units have 1 */
    ANCHOR_INVERSE_MEAN, /* 1 where less than half have */
    ANCHOR_RANDOM,
    ANCHOR_ZEROS,        /* the distance is the popcount */
    ANCHOR_ONES,
    ANCHOR_ALTERNATING,  /* bit i = i mod 2 */
} anchor_kind;

/* distance[n_units] to one anchor of n_bits bits; `seed` and `stream` make random ones. */
void signature_distances(const signatures *s, anchor_kind kind, uint64_t seed, uint64_t stream, int *distance);
/* The same with an anchor of one bit per unit, which is compared with all of the unit's bits (OpenVINO contrib): alternating is unit mod
 * 2, mean and inverse mean are the unit's own majority and minority. */
void signature_distances_per_unit(const signatures *s, anchor_kind kind, uint64_t seed, uint64_t stream, int *distance);
/* order[n]: units by rising or falling distance, equal ones by rising number. */
void signature_order(const int *distance, int n, bool falling, int *order);

typedef enum pick_kind {
    PICK_LINSPACE,   /* int(i * (m - 1) / (r - 1)): both ends */
    PICK_FLOOR_STEP, /* i * int(m / r): the far end is never reached */
    PICK_BUCKET,     /* the best of each of r runs of nearly equal length */
} pick_kind;
/* Place i of r picks, r <= m, among m ordered candidates. For PICK_BUCKET the first place of run i (run r: m). */
int signature_pick(pick_kind kind, int i, int r, int m);
#endif
