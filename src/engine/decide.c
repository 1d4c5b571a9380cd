/* Decisions between steps: those whose trigger is due, and those that a pool under pressure asks for. Sequences decide one after the
 * other; what they decided is carried out for all of them at once. */
#include "engine/engine_impl.h"

#include "base/clock.h"

static size_t n_columns(const seq *s) { return (size_t)model_n_global(&s->e->m->p) * (size_t)s->e->m->p.n_kv; }

/* Items of the layers that the policy sees. */
static size_t n_items(const seq *s) {
    const model_params *p = &s->e->m->p;
    size_t n = 0;
    for (int l = 0; l < model_n_global(p); l++)
        for (int h = 0; h < p->n_kv; h++) n += (size_t)cache_n_items_head(s->c, model_global_layer(p, l), h);
    return n;
}

/* Item columns of sequences that decide together, in one scratch. */
typedef struct columns {
    policy_columns *cols;
    cache_change *changes;
    uint32_t *pos;
    float *score;
    uint8_t *tier, *target;
    size_t n_cols, n_items; /* used */
} columns;

static MUST err columns_reserve(engine *e, seq **seqs, int n, columns *x) {
    size_t cols = 0, items = 0;
    for (int i = 0; i < n; i++) {
        cols += n_columns(seqs[i]);
        items += n_items(seqs[i]);
    }
    items = (items / 4096 + 1) * 4096; /* ahead, so that growing sequences seldom come here */
    TRY(scratch_need(&e->columns, MEM_POLICY, cols * (sizeof(policy_columns) + sizeof(cache_change)) + items * (2 * sizeof(uint32_t) + 2)));
    x->cols = e->columns.p;
    x->changes = (cache_change *)(x->cols + cols);
    x->pos = (uint32_t *)(x->changes + cols);
    x->score = (float *)(x->pos + items);
    x->tier = (uint8_t *)(x->score + items);
    x->target = x->tier + items;
    return OK;
}

static MUST err decide_one(seq *s, columns *x) {
    const model_params *p = &s->e->m->p;
    policy_columns *cols = x->cols + x->n_cols;
    for (int l = 0; l < model_n_global(p); l++)
        for (int h = 0; h < p->n_kv; h++) {
            size_t at = x->n_items;
            item_columns ic = {0, x->pos + at, x->tier + at, x->score + at};
            cache_columns(s->c, model_global_layer(p, l), h, &ic);
            x->cols[x->n_cols] = (policy_columns){l, h, ic.n, ic.pos, ic.tier, ic.score, x->target + at};
            x->changes[x->n_cols++] = (cache_change){s->c, model_global_layer(p, l), h, x->target + at};
            x->n_items += (size_t)ic.n;
        }
    return policy_decode(s->pol, s->state, cache_n_tokens(s->c), cols);
}

/* All sequences of one space. */
static MUST err decide(engine *e, seq **seqs, int n) {
    double start = clock_now();
    columns x = {0};
    TRY(columns_reserve(e, seqs, n, &x));
    for (int i = 0; i < n; i++) {
        double begin = clock_now();
        TRY(decide_one(seqs[i], &x));
        seqs[i]->policy_seconds += clock_now() - begin;
        start += clock_now() - begin;
    }
    TRY(cache_compact(e->compactor, x.changes, (int)x.n_cols, e->threads));
    space_trim(seqs[0]->space);
    double shared = (clock_now() - start) / n;
    for (int i = 0; i < n; i++) seqs[i]->policy_seconds += shared;
    return OK;
}

/* ---- pressure ---- */

static bool pool_is_short(seq **seqs, int n, int n_rows) {
    size_t want = 0, have = pool_free_pages(seqs[0]->space->pages);
    for (int i = 0; i < n && have < SIZE_MAX; i++) want += cache_pages_wanted(seqs[i]->c, n_rows);
    return want > have;
}

/* Sequences whose policies allow it are decided, one at a time in the order that theirs say, until n_rows more fit into each. Whether that
 * was enough shows when the rows are reserved. */
static MUST err relieve(engine *e, seq **seqs, int n, int n_rows) {
    for (int i = 0; i < n; i++) seqs[i]->relieved = !policy_on_pressure(seqs[i]->pol);
    while (pool_is_short(seqs, n, n_rows)) {
        int best = -1;
        int64_t first = 0;
        for (int i = 0; i < n; i++) {
            if (seqs[i]->relieved) continue;
            int64_t rank = policy_pressure_rank(seqs[i]->pol, seqs[i]->state, cache_n_tokens(seqs[i]->c), n_items(seqs[i]));
            if (best < 0 || rank < first) best = i, first = rank;
        }
        if (best < 0) return OK;
        seqs[best]->relieved = true;
        TRY(decide(e, &seqs[best], 1));
    }
    return OK;
}

MUST err seqs_decide(engine *e, seq **seqs, int n, int n_rows) {
    TRY(scratch_need(&e->due, MEM_SCRATCH, sizeof(seq *) * (size_t)n));
    seq **due = e->due.p;
    int n_due = 0;
    for (int i = 0; i < n; i++) {
        if (seqs[i]->space != seqs[0]->space) return ERR(ERR_USAGE, "sequences of one step must share a pool");
        if (policy_rows_until_due(seqs[i]->pol, seqs[i]->state, cache_n_tokens(seqs[i]->c)) <= 0) due[n_due++] = seqs[i];
    }
    if (n_due) TRY(decide(e, due, n_due));
    for (int i = 0; i < n_due; i++)
        if (policy_rows_until_due(due[i]->pol, due[i]->state, cache_n_tokens(due[i]->c)) <= 0)
            return ERR(ERR_FAILED, "policy '%s' is due again right after its decision at token %d", policy_describe(due[i]->pol), cache_n_tokens(due[i]->c));
    return relieve(e, seqs, n, n_rows);
}
