#include "policy/select/kvcrush_units.h"

#include <string.h>

#include "base/rng.h"

int crush_rows(const policy *p, const kvcrush_conf *c) {
    return c->signature == ROWS_QUERY_HEAD ? p->shape.n_heads : c->signature == ROWS_HEAD ? p->shape.n_kv : 1;
}

int crush_work_words(const policy *p, const kvcrush_conf *c) { return crush_rows(p, c) + p->shape.n_kv + 4; }

int crush_room(const head_items *h) {
    int room = h->quota;
    for (int i = 0; i < h->n; i++) room -= (h->flags[i] & (ITEM_PROTECTED | ITEM_FORCED)) != 0;
    return room;
}

/* ---- units ---- */

/* at[pos] = place of a free position, -1 elsewhere; numbers the units. */
static void find_places(crush *x, int *at) {
    const decision *d = x->d;
    enum { UNSEEN, FREE, KEPT };
    memset(at, 0, (size_t)d->n_tokens * sizeof *at);
    for (int k = 0; k < d->n_heads; k++) {
        const head_items *h = &d->heads[k];
        for (int i = 0; i < h->n; i++) {
            int seen = h->flags[i] & (ITEM_PROTECTED | ITEM_FORCED) ? KEPT : FREE;
            if (at[h->pos[i]] < seen) at[h->pos[i]] = seen;
        }
    }
    int base = d->heads[0].tier_now || d->p->decode_drops ? d->p->protect.sink : -1, last = -1;
    for (int pos = 0; pos < d->n_tokens; pos++) {
        bool is_free = at[pos] == FREE;
        at[pos] = -1;
        if (!is_free) continue;
        if (base < 0) base = pos;
        int unit = (pos - base) / x->c->unit;
        if (unit != last) x->first[x->n_units++] = x->n_mid;
        last = unit;
        x->offset[x->n_mid] = (pos - base) % x->c->unit;
        at[pos] = x->n_mid++;
    }
    x->first[x->n_units] = x->n_mid;
}

static void find_items(crush *x, const int *at) {
    const decision *d = x->d;
    memset(x->item, 0xff, (size_t)d->n_heads * (size_t)x->n_mid * sizeof *x->item);
    for (int k = 0; k < d->n_heads; k++) {
        const head_items *h = &d->heads[k];
        int *item = x->item + (size_t)k * (size_t)x->n_mid;
        for (int i = 0; i < h->n; i++)
            if (at[h->pos[i]] >= 0) item[at[h->pos[i]]] = i;
    }
}

/* Queries whose attention an item's score is made of. */
static int queries_of(const decision *d, uint32_t pos) {
    int n = d->n_tokens - (int)pos, of_prompt = d->n_prompt - (int)pos;
    return of_prompt > d->p->score_rows ? n - (of_prompt - d->p->score_rows) : n;
}

static void score_units(const crush *x) {
    for (int k = 0; k < x->d->n_heads; k++) {
        const head_items *h = &x->d->heads[k];
        for (int u = 0; u < x->n_units; u++) {
            float sum = 0;
            bool holds = false;
            for (int j = x->first[u]; j < x->first[u + 1]; j++) {
                int i = crush_item(x, k, j);
                if (i < 0) continue;
                sum += x->c->unit_score == UNIT_PER_QUERY ? h->score[i] / (float)queries_of(x->d, h->pos[i]) : h->score[i];
                holds = true;
            }
            x->score[(size_t)k * (size_t)x->n_units + (size_t)u] = holds ? sum : NAN;
        }
    }
}

void crush_begin(crush *x, const kvcrush_conf *c, const decision *d) {
    x->c = c;
    x->d = d;
    x->n_mid = x->n_units = 0;
    x->rows = crush_rows(d->p, c);
    size_t n = (size_t)d->n_tokens;
    x->sig.bits = d->work;
    x->offset = (int *)(d->work + (size_t)x->rows * n);
    x->first = x->offset + n;
    x->distance = x->first + n + 1;
    x->order = x->distance + n;
    x->row = (float *)(x->order + n);
    x->item = (int *)(x->row + n);
    find_places(x, x->order);
    find_items(x, x->order);
    x->score = (float *)(x->item + (size_t)d->n_heads * (size_t)x->n_mid);
    score_units(x);
}

bool crush_important(const crush *x, int head, int unit) {
    const head_items *h = &x->d->heads[head];
    for (int j = x->first[unit]; j < x->first[unit + 1]; j++) {
        int i = crush_item(x, head, j);
        if (i >= 0) return h->target[i] != KV_DROP && !(h->flags[i] & ITEM_REPRESENTATIVE);
    }
    return false;
}

/* ---- signatures ---- */

/* row[place]: scores of row r, NaN where its head has no item. */
static void row_scores(const crush *x, int r) {
    const decision *d = x->d;
    if (x->c->signature == ROWS_HEAD_SUM) {
        memset(x->row, 0, (size_t)x->n_mid * sizeof *x->row);
        for (int k = 0; k < d->n_heads; k++)
            for (int j = 0; j < x->n_mid; j++)
                if (crush_item(x, k, j) >= 0) x->row[j] += d->heads[k].score[crush_item(x, k, j)];
        return;
    }
    int group = d->p->shape.n_heads / d->p->shape.n_kv, k = x->c->signature == ROWS_HEAD ? r : r / group;
    const float *score = d->heads[k].score;
    if (x->c->signature == ROWS_QUERY_HEAD) {
        const stage_use *use = &d->p->use[STAGE_SCORE];
        use->st->score_query(use->conf, d, &d->heads[k], r % group, x->row);
        score = x->row; /* of the prompt: the item of a place lies at it or behind it */
    }
    for (int j = 0; j < x->n_mid; j++) {
        int i = crush_item(x, k, j);
        x->row[j] = i < 0 ? NAN : score[i];
    }
}

/* Ones of a row: its best `fraction`, or as many as its KV head keeps in its important units, or would with all of its room (the heads' mean
 * where they are summed). */
static int row_ones(const crush *x, int r, int n_scope) {
    const decision *d = x->d;
    if (x->c->bits == BITS_TOP_FRACTION) return (int)(x->c->fraction * n_scope);
    int first = 0, n = d->n_heads, sum = 0;
    if (x->c->signature != ROWS_HEAD_SUM) first = x->c->signature == ROWS_HEAD ? r : r / (d->p->shape.n_heads / d->p->shape.n_kv), n = 1;
    for (int k = first; k < first + n; k++) {
        int room = crush_room(&d->heads[k]), by_coverage = x->important[k] * x->c->unit;
        int left = x->c->accounting ? room : x->c->coverage > 0 ? by_coverage : room - x->representative[k] * x->c->unit;
        sum += x->c->bits == BITS_BASE ? room : left;
    }
    return sum / n < n_scope ? sum / n : n_scope;
}

static void sign_units(crush *x) {
    x->sig.n_units = x->n_units;
    x->sig.n_bits = x->c->unit * x->rows;
    memset(x->sig.bits, 0, (size_t)x->n_units * (size_t)signature_words(x->sig.n_bits) * sizeof *x->sig.bits);
    int *in_scope = x->order; /* by unit; filled last */
    for (int u = 0; u < x->n_units; u++) {
        in_scope[u] = 1;
        for (int k = 0; x->c->scope && k < x->d->n_heads; k++) in_scope[u] &= !crush_important(x, k, u);
    }
    for (int r = 0; r < x->rows; r++) {
        int n = 0;
        row_scores(x, r);
        for (int u = 0; u < x->n_units; u++)
            for (int j = x->first[u]; in_scope[u] && j < x->first[u + 1]; j++)
                if (!isnan(x->row[j])) x->d->keys[n++] = topk_key(x->row[j], ~(uint32_t)j);
        int ones = row_ones(x, r, n);
        if (ones < 1) continue;
        uint64_t threshold = topk_threshold(x->d->keys, n, ones);
        for (int u = 0; u < x->n_units; u++)
            for (int j = x->first[u]; in_scope[u] && j < x->first[u + 1]; j++)
                if (!isnan(x->row[j]) && topk_key(x->row[j], ~(uint32_t)j) >= threshold) signature_set(&x->sig, u, x->offset[j] * x->rows + r);
    }
}

/* A stream of random numbers of its own for each sequence, layer and time of decision. */
static uint64_t stream_of(const decision *d) { return (uint64_t)0x6b766372 << 32 ^ (uint64_t)d->heads[0].layer << 40 ^ (uint64_t)d->n_tokens; }

void crush_order(crush *x) {
    const decision *d = x->d;
    if (x->c->control == CONTROL_NONE) {
        sign_units(x);
        (x->c->anchor_scope ? signature_distances_per_unit : signature_distances)(&x->sig, (anchor_kind)x->c->anchor, d->seed, stream_of(d), x->distance);
        signature_order(x->distance, x->n_units, x->c->order, x->order);
        return;
    }
    for (int u = 0; u < x->n_units; u++) x->order[u] = u;
    if (x->c->control == CONTROL_POSITION) return;
    rng r = rng_make(d->seed, stream_of(d));
    for (int u = x->n_units - 1; u > 0; u--) {
        int other = (int)rng_below(&r, (uint32_t)u + 1), held = x->order[u];
        x->order[u] = x->order[other];
        x->order[other] = held;
    }
}
