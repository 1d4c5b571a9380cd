#include "format/compact.h"
#include <assert.h>

static uint32_t pages_for(const page_layout *l, int n_items) { return (uint32_t)((n_items + l->cap - 1) / l->cap); }
static void *page_of(const page_codec *c, const page_list *l, const uint32_t *refs, uint32_t page) {
    return c->base + (size_t)refs[l->first + page] * 64;
}

/* ---- plan and scan ---- */

static void plan_segment(const compact *c, compact_seg *s) {
    int n[KV_MAX_TIERS];
    for (int t = 0; t < c->n_tiers; t++) n[t] = (int)s->lists[t].n_items;
    plan_moves(n, c->n_tiers, s->target, &s->plan);
    s->n_need = s->n_spare = 0;
    for (int t = 0; t < c->n_tiers; t++) {
        uint32_t pages = pages_for(&c->layout[t], s->plan.n_after[t]), have = s->lists[t].n_pages;
        if (pages > have) s->n_need += pages - have;
        else s->n_spare += have - pages;
    }
}

static void add(compact_sums *a, const compact_sums *b) {
    a->need += b->need;
    a->spare += b->spare;
    a->work += b->work;
}
static compact_sums sums_of(const compact_seg *s) { return (compact_sums){s->n_need, s->n_spare, (uint64_t)s->plan.n_moves + 1}; }

void compact_plan(const par *p, compact *c) {
    ptrdiff_t lo, hi;
    par_range(p, c->n_segs, &lo, &hi);
    compact_share *own = c->share[p->ith];
    own[0] = own[1] = (compact_share){0};
    for (ptrdiff_t i = lo; i < hi; i++) {
        plan_segment(c, &c->seg[i]);
        compact_share *x = &own[c->seg[i].n_need > 0];
        compact_sums s = sums_of(&c->seg[i]);
        add(&x->sums, &s);
        x->n_segs++;
    }
    par_barrier(p);
    if (p->ith == 0) { /* shares become what lies before them */
        compact_share sum = {0};
        for (int needy = 0; needy < 2; needy++)
            for (int t = 0; t < p->nth; t++) {
                compact_share x = c->share[t][needy];
                c->share[t][needy] = sum;
                sum.n_segs += x.n_segs;
                add(&sum.sums, &x.sums);
            }
        c->before[c->n_segs] = sum.sums;
        c->n_done = 0;
    }
    par_barrier(p);
    for (ptrdiff_t i = lo; i < hi; i++) {
        compact_share *x = &own[c->seg[i].n_need > 0];
        compact_sums s = sums_of(&c->seg[i]);
        c->order[x->n_segs] = (uint32_t)i;
        c->before[x->n_segs++] = x->sums;
        add(&x->sums, &s);
    }
    par_barrier(p);
}

/* ---- moves ---- */

static void gather(const page_codec *c, const page_layout *layout, const page_list *lists, const uint32_t *refs, plan_move m, item_group *g) {
    const page_layout *from = &layout[m.from_tier], *to = &layout[m.to_tier];
    const uint8_t *src = page_of(c, &lists[m.from_tier], refs, m.from_slot / from->cap);
    int slot = (int)(m.from_slot % from->cap), d = from->head_dim;
    page_get(from, src, slot, g->k + g->n * d, g->v + g->n * d);
    g->pos[g->n] = page_pos(from, src, slot);
    g->score[g->n++] = page_score(from, src, slot);
    if (g->n < KV_TOKEN_GROUP) return;
    uint32_t first = m.to_slot + 1 - KV_TOKEN_GROUP;
    uint8_t *page = page_of(c, &lists[m.to_tier], refs, first / to->cap);
    assert(first % KV_TOKEN_GROUP == 0);
    c->put(to, page, (int)(first % to->cap), g->n, g->k, (size_t)d, g->v, (size_t)d, g->pos);
    for (int i = 0; i < g->n; i++) page_set_score(to, page, (int)(first % to->cap) + i, g->score[i]);
    g->n = 0;
}

void compact_move(const page_codec *codec, const page_layout *layout, int n_tiers, const page_list *lists, const uint32_t *refs, const plan *plan) {
    item_group group[KV_MAX_TIERS];
    for (int t = 0; t < n_tiers; t++) group[t].n = 0;
    for (int i = 0; i < plan->n_moves; i++) {
        plan_move m = plan->moves[i];
        const page_layout *from = &layout[m.from_tier], *to = &layout[m.to_tier];
        if (to->fmt.k_channels && m.from_tier != m.to_tier) {
            gather(codec, layout, lists, refs, m, &group[m.to_tier]);
            continue;
        }
        codec->move(from, page_of(codec, &lists[m.from_tier], refs, m.from_slot / from->cap), (int)(m.from_slot % from->cap), to,
                    page_of(codec, &lists[m.to_tier], refs, m.to_slot / to->cap), (int)(m.to_slot % to->cap));
    }
}

/* ---- waves ---- */

static void take(const compact *c, compact_seg *s, uint64_t at) {
    for (int t = 0; t < c->n_tiers && s->n_need; t++) {
        page_list *l = &s->lists[t];
        uint32_t pages = pages_for(&c->layout[t], s->plan.n_after[t]);
        assert(pages <= l->cap || pages <= l->n_pages);
        for (; l->n_pages < pages; l->n_pages++) s->refs[l->first + l->n_pages] = *page_ring_at(c->ring, at++);
    }
}

static void recycle(const compact *c, compact_seg *s, uint64_t at) {
    for (int t = 0; t < c->n_tiers; t++) {
        page_list *l = &s->lists[t];
        uint32_t pages = pages_for(&c->layout[t], s->plan.n_after[t]);
        for (uint32_t j = pages; j < l->n_pages; j++) *page_ring_at(c->ring, at++) = s->refs[l->first + j];
        l->n_pages = pages;
        l->n_items = (uint32_t)s->plan.n_after[t];
    }
}

/* First place of the order, from lo on, with at least that much work before it. */
static int at_work(const compact *c, int lo, int hi, uint64_t work) {
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (c->before[mid].work < work) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

void compact_carry_out(const par *p, compact *c) {
    for (;;) {
        int first = c->n_done, end = first;
        uint64_t head = c->ring->head, tail = c->ring->tail;
        compact_sums at = c->before[first];
        for (int hi = c->n_segs; end < hi;) { /* the last place whose need is served */
            int mid = end + (hi - end + 1) / 2;
            if (c->before[mid].need - at.need <= tail - head) end = mid;
            else hi = mid - 1;
        }
        if (end == first) break;
        uint64_t work = c->before[end].work - at.work, nth = (uint64_t)p->nth, ith = (uint64_t)p->ith;
        int lo = at_work(c, first, end, at.work + work * ith / nth), hi = at_work(c, first, end, at.work + work * (ith + 1) / nth);
        for (int i = lo; i < hi; i++) {
            compact_seg *s = &c->seg[c->order[i]];
            take(c, s, head + c->before[i].need - at.need);
            compact_move(&c->codec, c->layout, c->n_tiers, s->lists, s->refs, &s->plan);
            recycle(c, s, tail + c->before[i].spare - at.spare);
        }
        par_barrier(p);
        if (p->ith == 0) {
            c->ring->head = head + c->before[end].need - at.need;
            c->ring->tail = tail + c->before[end].spare - at.spare;
            c->n_done = end;
        }
        par_barrier(p);
    }
    par_barrier(p);
}
