#include "policy/decide/fill.h"
#include <stddef.h>

void fill_make_hull(double e_drop, const double *e, const int *bytes, int n_tiers, fill_hull *out) {
    double error[FILL_MAX_TIERS + 1] = {e_drop};
    int at[FILL_MAX_TIERS + 1] = {0}, tier[FILL_MAX_TIERS + 1] = {-1}, n = 1; /* vertices */
    for (int t = 0; t < n_tiers; t++) {
        while (n > 1 && (error[n - 2] - error[n - 1]) * (bytes[t] - at[n - 1]) <= (error[n - 1] - e[t]) * (at[n - 1] - at[n - 2])) n--;
        error[n] = e[t], at[n] = bytes[t], tier[n] = t;
        n++;
    }
    out->n = 0;
    for (int i = 1; i < n; i++) {
        double slope = (error[i - 1] - error[i]) / (at[i] - at[i - 1]);
        if (!(slope > 0)) break;
        out->slope[out->n] = slope;
        out->bytes[out->n] = at[i] - at[i - 1];
        out->tier[out->n++] = tier[i];
    }
}

static double weight_of(const fill_head *h, int i) {
    double w = (double)h->weight[i];
    return h->squared ? w * w : w;
}

/* Upgrades of an item: slopes of the hull times *weight. */
static const fill_hull *hull_of(const fill_head *h, int i, fill_hull *own, double *weight) {
    *weight = weight_of(h, i);
    if (!h->drop) return &h->hull;
    double e[FILL_MAX_TIERS];
    for (int t = 0; t < h->n_tiers; t++) e[t] = *weight * h->e[t];
    fill_make_hull((double)h->drop[i], e, h->bytes, h->n_tiers, own);
    *weight = 1;
    return own;
}

int fill_tier(const fill_head *h, int i) {
    fill_hull own;
    double w;
    return h->taken[i] == 0 ? -1 : hull_of(h, i, &own, &w)->tier[h->taken[i] - 1];
}

static int64_t take_above(const fill_head *heads, int n_heads, double lambda) {
    int64_t bytes = 0;
    for (int k = 0; k < n_heads; k++) {
        const fill_head *h = &heads[k];
        for (int i = 0; i < h->n; i++) {
            if (h->taken[i] == FILL_FIXED) continue;
            fill_hull own;
            double w;
            const fill_hull *hull = hull_of(h, i, &own, &w);
            int t = 0;
            for (; t < hull->n && w * hull->slope[t] > lambda; t++) bytes += hull->bytes[t];
            h->taken[i] = (uint8_t)t;
        }
    }
    return bytes;
}

/* What is left goes to the steepest upgrades that fit, one by one: an upgrade that did not fit never will. */
static int64_t spend_rest(const fill_head *heads, int n_heads, int64_t left) {
    int64_t spent = 0;
    int most = 0;
    for (int k = 0; k < n_heads; k++) most = heads[k].n > most ? heads[k].n : most;
    for (;;) {
        const fill_head *best = NULL;
        int at = 0, bytes = 0;
        double steepest = 0;
        for (int back = most; back > 0; back--) /* from the lowest position on */
            for (int k = 0; k < n_heads; k++) {
                const fill_head *h = &heads[k];
                int i = h->n - back;
                if (i < 0) continue;
                fill_hull own;
                double w;
                int t = h->taken[i];
                if (t == FILL_FIXED) continue;
                const fill_hull *hull = hull_of(h, i, &own, &w);
                if (t == hull->n || hull->bytes[t] > left - spent) continue;
                double slope = w * hull->slope[t];
                if (slope > steepest) best = h, at = i, steepest = slope, bytes = hull->bytes[t];
            }
        if (!best) return spent;
        spent += bytes;
        best->taken[at]++;
    }
}

static double steepest_of(const fill_head *heads, int n_heads) {
    double steepest = 0;
    for (int k = 0; k < n_heads; k++)
        for (int i = 0; i < heads[k].n; i++) {
            fill_hull own;
            double w;
            if (heads[k].taken[i] == FILL_FIXED) continue;
            const fill_hull *hull = hull_of(&heads[k], i, &own, &w);
            if (hull->n && w * hull->slope[0] > steepest) steepest = w * hull->slope[0];
        }
    return steepest;
}

int64_t fill_spend(const fill_head *heads, int n_heads, int64_t bytes) {
    int64_t all = take_above(heads, n_heads, 0);
    if (all <= bytes) return all;
    double lo = 0, hi = steepest_of(heads, n_heads);
    for (int i = 0; i < 64; i++) {
        double mid = lo + (hi - lo) / 2;
        if (take_above(heads, n_heads, mid) > bytes) lo = mid;
        else hi = mid;
    }
    int64_t spent = take_above(heads, n_heads, hi);
    return spent + spend_rest(heads, n_heads, bytes - spent);
}
