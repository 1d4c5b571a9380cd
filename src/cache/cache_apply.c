/* Decisions of a policy carried out: plan, pages, moves, freed pages. */
#include <assert.h>
#include "cache/cache_impl.h"

/* Nothing to do is the common case in decode. */
static err check_targets(const cache *c, const int *n, const uint8_t *target, bool *changes) {
    *changes = false;
    for (int t = 0, i = 0; t < c->n_tiers; t++) {
        int end = i + n[t];
        for (i = plan_next_leaver(target, i, end, t); i < end; i = plan_next_leaver(target, i + 1, end, t)) {
            *changes = true;
            if (target[i] == KV_DROP) continue;
            if (target[i] >= c->n_tiers || target[i] < t)
                return ERR(ERR_USAGE, "cache: an item of tier %d cannot go to tier %u of %d", t, target[i], c->n_tiers);
            if (!c->can_move[t][target[i]]) {
                char from[16], to[16];
                kv_format_name(c->layout[t].fmt, from);
                kv_format_name(c->layout[target[i]].fmt, to);
                return ERR(ERR_UNSUPPORTED,
                           "cache: items of tier %d (%s) cannot be stored as %s: neither K nor V may gain bits, "
                           "and groups, quantiser and rotation must agree",
                           t, from, to);
            }
        }
    }
    return OK;
}

/* Groups of a tier with K per channel leave whole or stay whole, and come whole from tier 0. */
static err check_groups(const cache *c, const int *n, const uint8_t *target) {
    int come[KV_MAX_TIERS] = {0};
    for (int i = 0; i < n[0]; i++)
        if (target[i] != KV_DROP) come[target[i]]++;
    for (int t = 1, at = n[0]; t < c->n_tiers; at += n[t++]) {
        if (!c->layout[t].fmt.k_channels) continue;
        bool whole = come[t] % KV_TOKEN_GROUP == 0;
        for (int i = 0; i < n[t] && whole; i++) whole = target[at + i] == target[at + i / KV_TOKEN_GROUP * KV_TOKEN_GROUP];
        if (!whole) return ERR(ERR_USAGE, "cache: tier %d takes and loses whole groups of %d items only", t, KV_TOKEN_GROUP);
    }
    return OK;
}

err cache_check_targets(const cache *c, int layer, int head, const uint8_t *target, bool *changes) {
    const page_list *lists = cache_list(c, layer, head, 0);
    int n[KV_MAX_TIERS];
    for (int t = 0; t < c->n_tiers; t++) n[t] = (int)lists[t].n_items;
    TRY(check_targets(c, n, target, changes));
    return *changes ? check_groups(c, n, target) : OK;
}

err cache_apply(cache *c, int layer, int head, const uint8_t *target) {
    page_list *lists = cache_list(c, layer, head, 0);
    int n[KV_MAX_TIERS], total = 0;
    bool changes;
    for (int t = 0; t < c->n_tiers; t++) total += n[t] = (int)lists[t].n_items;
    TRY(cache_check_targets(c, layer, head, target, &changes));
    if (!changes) {
        c->n_appended = 0;
        return OK;
    }
    TRY(cache_reserve_moves(c, (size_t)total));
    plan p = {.moves = c->moves};
    plan_moves(n, c->n_tiers, target, &p);

    size_t lo = (size_t)(lists - c->lists);
    for (int t = 0; t < c->n_tiers; t++) lists[t].want = cache_pages_for(c, t, (size_t)p.n_after[t]);
    TRY(cache_grow(c, lo, lo + (size_t)c->n_tiers));
    cache_note_peaks(c); /* before: items only become smaller */
    page_codec codec = cache_codec(c);
    compact_move(&codec, c->layout, c->n_tiers, lists, c->refs, &p);
    for (int t = 0; t < c->n_tiers; t++) {
        lists[t].n_items = (uint32_t)p.n_after[t];
        c->n_items[t] = c->n_items[t] - (size_t)n[t] + (size_t)p.n_after[t];
        cache_shrink(c, &lists[t], cache_pages_for(c, t, (size_t)p.n_after[t]));
    }
    c->n_appended = 0;
    CACHE_ASSERT_SOUND(c);
    return OK;
}
