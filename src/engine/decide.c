/* Decisions between steps: those whose trigger is due, and those that a pool under pressure asks for. Sequences decide one after the
 * other; what they decided is carried out for all of them at once. */
#include <stdatomic.h>

#include "engine/engine_impl.h"

#include <string.h>

#include "base/clock.h"

static size_t n_columns(const seq *s) { return (size_t)seq_n_policy_layers(s) * (size_t)s->e->m->p.n_kv; }

/* Items of the layers that the policy sees. */
static size_t n_items(const seq *s) {
    const model_params *p = &s->e->m->p;
    size_t n = 0;
    for (int l = 0; l < seq_n_policy_layers(s); l++)
        for (int h = 0; h < p->n_kv; h++) n += (size_t)cache_n_items_head(s->c, seq_model_layer(s, l), h);
    return n;
}

/* Item columns of sequences that decide together, in one scratch. */
typedef struct columns {
    policy_columns *cols;
    cache_change *changes;
    uint32_t *pos;
    float *score;
    uint8_t *tier, *target, *move; /* target: of items that the policy sees; move: of all, where it does not see all */
    size_t n_cols, n_items; /* used */
} columns;

static MUST err columns_reserve(engine *e, seq **seqs, int n, columns *x) {
    size_t cols = 0, items = 0;
    for (int i = 0; i < n; i++) {
        cols += n_columns(seqs[i]);
        items += n_items(seqs[i]);
    }
    items = (items / 4096 + 1) * 4096; /* ahead, so that growing sequences seldom come here */
    TRY(scratch_need(&e->columns, MEM_POLICY, cols * (sizeof(policy_columns) + sizeof(cache_change)) + items * (2 * sizeof(uint32_t) + 3)));
    x->cols = e->columns.p;
    x->changes = (cache_change *)(x->cols + cols);
    x->pos = (uint32_t *)(x->changes + cols);
    x->score = (float *)(x->pos + items);
    x->tier = (uint8_t *)(x->score + items);
    x->target = x->tier + items;
    x->move = x->target + items;
    return OK;
}

/* Threads gather columns layer by layer and, where the policy decides by layer, decide what they just gathered, each in the place of its
 * first layer's columns: what stays in the nearest cache costs a fraction of what a step's weights push out. */
typedef struct gathering {
    seq *s;
    policy_columns *cols;        /* of the sequence */
    const cache_change *changes; /* the same heads */
    bool decides;
    atomic_bool failed;   /* errors are written again by the first thread */
} gathering;

/* Does the policy see only a part of the layer's items, those that the next token sees? */
static bool hides(const seq *s, int layer) { return policy_get_needs(s->pol)->all_layers && s->e->m->layers[layer].window; }

/* Hidden items of a sliding layer leave the columns: what stays in them keeps its order. */
static int leave_out_hidden(const item_columns *ic, const uint8_t *move) {
    int n = 0;
    for (int i = 0; i < ic->n; i++) {
        if (move[i] == KV_DROP) continue;
        ic->pos[n] = ic->pos[i];
        ic->tier[n] = ic->tier[i];
        ic->score[n++] = ic->score[i];
    }
    return n;
}

static void gather(const seq *s, const cache_change *x, policy_columns *to) {
    item_columns ic = {0, (uint32_t *)to->pos, (uint8_t *)to->tier, to->score};
    cache_columns(s->c, x->layer, x->head, &ic);
    if (hides(s, x->layer) && sliding_mark_hidden(s, x->layer, &ic, (uint8_t *)x->target)) to->n = leave_out_hidden(&ic, x->target);
}

/* What the policy said about the items of a sliding layer that it saw. Where that is nothing new, hidden ones stay too, in front of their
 * lists, until their page goes. */
static void take_targets(const seq *s, const cache_change *x, const policy_columns *c) {
    uint8_t *move = (uint8_t *)x->target;
    if (!hides(s, x->layer)) return;
    if (!memcmp(c->target, c->tier, (size_t)c->n)) {
        item_columns tiers = {0, NULL, move, NULL};
        cache_columns(s->c, x->layer, x->head, &tiers);
        return;
    }
    for (int i = 0, seen = 0; seen < c->n; i++)
        if (move[i] != KV_DROP) move[i] = c->target[seen++];
}

static void decide_layer(gathering *g, int thread, const policy_columns *first, int l) {
    int n_kv = g->s->e->m->p.n_kv;
    policy_columns own[POLICY_MAX_KV_HEADS];
    for (int h = 0, at = 0; h < n_kv; h++) {
        own[h] = g->cols[l * n_kv + h];
        own[h].pos = first->pos + at;
        own[h].tier = first->tier + at;
        own[h].score = first->score + at;
        at += own[h].n;
        gather(g->s, &g->changes[l * n_kv + h], &own[h]);
    }
    if (policy_decode_layer(g->s->pol, g->s->state, thread, cache_n_tokens(g->s->c), own)) atomic_store(&g->failed, true);
    else
        for (int h = 0; h < n_kv; h++) take_targets(g->s, &g->changes[l * n_kv + h], &own[h]);
}

static void gather_body(const par *p, void *arg) {
    gathering *g = arg;
    int n_kv = g->s->e->m->p.n_kv;
    ptrdiff_t lo, hi;
    par_range(p, seq_n_policy_layers(g->s), &lo, &hi);
    for (int l = (int)lo; l < hi; l++) {
        if (g->decides) decide_layer(g, p->ith, g->cols + lo * n_kv, l);
        for (int c = l * n_kv; c < (l + 1) * n_kv && !g->decides; c++) gather(g->s, &g->changes[c], &g->cols[c]);
    }
}

static MUST err decide_one(seq *s, columns *x) {
    int n_kv = s->e->m->p.n_kv, n_layers = seq_n_policy_layers(s), n_tokens = cache_n_tokens(s->c);
    gathering g = {.s = s, .cols = x->cols + x->n_cols, .changes = x->changes + x->n_cols, .decides = policy_decides_by_layer(s->pol)};
    size_t most = 0; /* items of a layer */
    for (int l = 0; l < n_layers; l++) {
        size_t first = x->n_items;
        for (int h = 0; h < n_kv; h++) {
            size_t at = x->n_items;
            int layer = seq_model_layer(s, l), n = cache_n_items_head(s->c, layer, h);
            x->cols[x->n_cols] = (policy_columns){l, h, n, x->pos + at, x->tier + at, x->score + at, x->target + at};
            x->changes[x->n_cols++] = (cache_change){s->c, layer, h, (hides(s, layer) ? x->move : x->target) + at};
            x->n_items += (size_t)n;
        }
        most = x->n_items - first > most ? x->n_items - first : most;
    }
    if (g.decides) TRY(policy_decode_begin(s->pol, s->state, n_tokens, most, s->e->threads));
    par_run(s->e->threads, gather_body, &g);
    if (atomic_load(&g.failed)) return ERR(ERR_NOMEM, "out of memory: policy '%s' cannot decide at token %d", policy_describe(s->pol), n_tokens);
    if (g.decides) return policy_decode_end(s->pol, s->state, n_tokens);
    TRY(policy_decode(s->pol, s->state, n_tokens, g.cols));
    for (int c = 0; c < n_layers * n_kv; c++) take_targets(s, &g.changes[c], &g.cols[c]);
    return OK;
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
