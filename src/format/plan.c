/* Final order of tier t: its stayers in slots 0..s-1 (holes below s filled, in ascending order, by the stayers beyond
 * s), then the items from tiers above in column order. Moves run from the last tier up: when tier t's items leave, the
 * tiers below are already compact, so every target slot is free, and t's own holes are filled after its leavers have
 * gone. */
#include <assert.h>
#include <string.h>
#include "format/plan.h"

int plan_next_leaver(const uint8_t *target, int at, int end, int tier) {
    uint64_t same = 0x0101010101010101u * (uint64_t)tier, eight;
    while (end - at >= 8 && (memcpy(&eight, target + at, 8), eight == same)) at += 8;
    while (at < end && target[at] == tier) at++;
    return at;
}

typedef struct census {
    int start[KV_MAX_TIERS];           /* first column of each tier */
    int n[KV_MAX_TIERS][KV_MAX_TIERS]; /* items from tier, to tier; the diagonal counts stayers */
} census;

static census count_items(const int *n, int n_tiers, const uint8_t *target) {
    census c = {0};
    for (int t = 0, at = 0; t < n_tiers; t++) {
        c.start[t] = at;
        int end = at + n[t];
        c.n[t][t] = n[t];
        for (at = plan_next_leaver(target, at, end, t); at < end; at = plan_next_leaver(target, at + 1, end, t)) {
            c.n[t][t]--;
            if (target[at] == KV_DROP) continue;
            assert(target[at] >= t && target[at] < n_tiers);
            c.n[t][target[at]]++;
        }
    }
    return c;
}

static void move_out(const census *c, int t, int n_items, const uint8_t *target, plan *out) {
    uint32_t next[KV_MAX_TIERS];
    for (int u = t + 1; u < KV_MAX_TIERS; u++) {
        next[u] = (uint32_t)c->n[u][u];
        for (int above = 0; above < t; above++) next[u] += (uint32_t)c->n[above][u];
    }
    const uint8_t *tier = target + c->start[t];
    for (int i = plan_next_leaver(tier, 0, n_items, t); i < n_items; i = plan_next_leaver(tier, i + 1, n_items, t)) {
        uint8_t u = tier[i];
        if (u == KV_DROP) continue;
        out->moves[out->n_moves++] = (plan_move){(uint8_t)t, u, (uint32_t)i, next[u]++};
    }
}

static void fill_holes(const census *c, int t, const uint8_t *target, plan *out) {
    const uint8_t *tier = target + c->start[t];
    int n_stay = c->n[t][t], tail = n_stay;
    for (int hole = plan_next_leaver(tier, 0, n_stay, t); hole < n_stay; hole = plan_next_leaver(tier, hole + 1, n_stay, t)) {
        while (tier[tail] != t) tail++; /* as many stayers lie beyond n_stay as there are holes below it */
        out->moves[out->n_moves++] = (plan_move){(uint8_t)t, (uint8_t)t, (uint32_t)tail++, (uint32_t)hole};
    }
}

void plan_moves(const int *n, int n_tiers, const uint8_t *target, plan *out) {
    assert(n_tiers >= 1 && n_tiers <= KV_MAX_TIERS);
    census c = count_items(n, n_tiers, target);
    out->n_moves = 0;
    for (int u = 0; u < KV_MAX_TIERS; u++) {
        out->n_after[u] = 0;
        for (int t = 0; t <= u; t++) out->n_after[u] += c.n[t][u];
    }
    for (int t = n_tiers - 1; t >= 0; t--) {
        move_out(&c, t, n[t], target, out);
        fill_holes(&c, t, target, out);
    }
}
