/* Decisions of a policy carried out: plan, pages, moves, freed pages. */
#include "cache/cache_impl.h"

/* Nothing to do is the common case in decode. */
static err check_targets(const cache *c, const int *n, const uint8_t *target, bool *changes) {
    *changes = false;
    for (int t = 0, i = 0; t < c->n_tiers; t++) {
        for (int end = i + n[t]; i < end; i++) {
            if (target[i] == t) continue;
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
                           "and groups must agree",
                           t, from, to);
            }
        }
    }
    return OK;
}

static void carry_out(cache *c, page_list *lists, const plan *p) {
    for (int i = 0; i < p->n_moves; i++) {
        plan_move m = p->moves[i];
        const page_layout *from = &c->layout[m.from_tier], *to = &c->layout[m.to_tier];
        c->be->page_move(from, cache_page(c, &lists[m.from_tier], m.from_slot / from->cap),
                         (int)(m.from_slot % from->cap), to, cache_page(c, &lists[m.to_tier], m.to_slot / to->cap),
                         (int)(m.to_slot % to->cap));
    }
}

err cache_apply(cache *c, int layer, int head, const uint8_t *target) {
    page_list *lists = cache_list(c, layer, head, 0);
    int n[KV_MAX_TIERS], total = 0;
    bool changes;
    for (int t = 0; t < c->n_tiers; t++) total += n[t] = (int)lists[t].n_items;
    TRY(check_targets(c, n, target, &changes));
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
    carry_out(c, lists, &p);
    for (int t = 0; t < c->n_tiers; t++) {
        lists[t].n_items = (uint32_t)p.n_after[t];
        c->n_items[t] = c->n_items[t] - (size_t)n[t] + (size_t)p.n_after[t];
        cache_shrink(c, &lists[t], cache_pages_for(c, t, (size_t)p.n_after[t]));
    }
    c->n_appended = 0;
    CACHE_ASSERT_SOUND(c);
    return OK;
}
