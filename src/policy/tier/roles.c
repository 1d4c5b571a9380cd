#include "policy/tier/roles.h"

static err tier_or(const policy *p, const node *map, const char *stage_name, const char *key, int fallback, int *tier) {
    const node *v = node_get(map, key);
    *tier = fallback;
    return v ? policy_find_tier(p, v, stage_name, node_text(v), tier) : OK;
}

err role_tiers_read(const policy *p, const node *map, const char *stage_name, int best, role_tiers *out) {
    TRY(tier_or(p, map, stage_name, "recent", 0, &out->recent));
    TRY(tier_or(p, map, stage_name, "sink", best, &out->sink));
    return tier_or(p, map, stage_name, "after_recent", best, &out->after);
}

void role_tiers_decode(const role_tiers *r, const decision *d, head_items *h) {
    for (int i = 0; i < h->n; i++) {
        if (h->target[i] == KV_DROP) continue;
        bool placed = (int64_t)h->pos[i] < d->first_new;
        h->target[i] = (uint8_t)(placed ? h->tier_now[i] : h->flags[i] & ITEM_PROTECTED ? role_tiers_protected(r, h->flags[i]) : r->after);
    }
}

int role_tiers_moves(const role_tiers *r, uint8_t (*pairs)[2]) {
    const int chain[][2] = {{0, r->after}, {0, r->recent}, {0, r->sink}, {r->recent, r->after}, {r->recent, r->sink}};
    int n = sizeof chain / sizeof *chain;
    for (int i = 0; i < n; i++) pairs[i][0] = (uint8_t)chain[i][0], pairs[i][1] = (uint8_t)chain[i][1];
    return n;
}
