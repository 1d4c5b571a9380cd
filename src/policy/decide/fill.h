/* Reverse water-filling (after RDKV, arXiv 2605.08317; our definition): every item of a sequence takes the upgrades drop -> cheap tier -> dear
 * tier that save most distortion per byte, until the bytes are spent. Slopes are the item's weight times those of its head. */
#ifndef KVLAB_POLICY_DECIDE_FILL_H
#define KVLAB_POLICY_DECIDE_FILL_H
#include <stdbool.h>
#include <stdint.h>

enum { FILL_MAX_TIERS = 4 };

/* Upgrades on the lower convex hull of (0, e_drop), (bytes[t], e[t]): falling slopes, all above 0. */
typedef struct fill_hull {
    int n, bytes[FILL_MAX_TIERS], tier[FILL_MAX_TIERS]; /* bytes: more than the one before */
    double slope[FILL_MAX_TIERS];                       /* error saved per byte and unit of weight */
} fill_hull;
void fill_make_hull(double e_drop, const double *e, const int *bytes, int n_tiers /* bytes rising */, fill_hull *out);

typedef struct fill_head {
    fill_hull hull;
    int n;                /* items; all heads end at the same position */
    const float *weight;  /* [n] */
    const float *drop;    /* [n] error of each item that goes, in place of one for all: items then have hulls of their own, of weight * e; or NULL */
    double e[FILL_MAX_TIERS];    /* with drop: what fill_make_hull would take */
    int bytes[FILL_MAX_TIERS], n_tiers;
    bool squared;         /* the square of the weight counts */
    uint8_t *taken;       /* out [n]: upgrades; FILL_FIXED on entry: not for sale */
} fill_head;
enum { FILL_FIXED = 0xff };

/* The tier that an item's upgrades lead to, -1 for none. */
int fill_tier(const fill_head *h, int i);
/* Takes every upgrade with a slope above the smallest lambda that fits, found by bisection; then in falling order (ties: lower position,
 * then lower head) each one that still fits and whose predecessor is taken. Returns the bytes spent. */
int64_t fill_spend(const fill_head *heads, int n_heads, int64_t bytes);
#endif
