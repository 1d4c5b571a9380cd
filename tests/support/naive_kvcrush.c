#include "tests/support/naive_kvcrush.h"

#include <stdio.h>
#include <string.h>

static const char *const signature_text[] = {"query_head", "head", "head_sum"}, *const bits_text[] = {"top_fraction", "retained", "base"},
                  *const scope_text[] = {"all", "unimportant"},
                  *const anchor_text[] = {"mean", "inverse_mean", "random", "zeros", "ones", "alternating"}, *const anchor_scope_text[] = {"item", "unit"},
                  *const order_text[] = {"rising", "falling"}, *const pick_text[] = {"linspace", "floor_step", "bucket"},
                  *const eligible_text[] = {"head", "union", "head0", "base"}, *const control_text[] = {"none", "random", "position"};

void crush_random(rng *r, bool live, crush_setup *s) {
    s->sink = rng_below(r, 2) ? (int)rng_below(r, 6) : 0;
    s->recent = rng_below(r, 2) ? (int)rng_below(r, 20) : 0;
    s->unit = rng_below(r, 2) ? 1 : 1 + (int)rng_below(r, CRUSH_UNIT);
    s->per_query = rng_below(r, 4) == 0;
    s->signature = live ? 1 + (int)rng_below(r, 2) : (int)rng_below(r, 3);
    s->bits = (int)rng_below(r, 3);
    s->scope = (int)rng_below(r, 2);
    s->anchor = (int)rng_below(r, 6);
    s->anchor_scope = rng_below(r, 4) == 0;
    s->order = (int)rng_below(r, 2);
    s->pick = (int)rng_below(r, 3);
    s->eligible = (int)rng_below(r, 4);
    s->on_top = rng_below(r, 4) == 0;
    s->control = rng_below(r, 5) ? 0 : 1 + (int)rng_below(r, 2);
    s->coverage = !s->on_top && rng_below(r, 5) == 0 ? (1 + (int)rng_below(r, 8)) / 8.0 : 0;
    s->rep = s->coverage > 0 ? 0.25 : rng_below(r, 6) ? rng_below(r, 101) / 100.0 : 0;
    s->fraction = rng_below(r, 11) / 10.0;
    s->seed = rng_u64(r);
}

void crush_yaml(const crush_setup *s, char *out, size_t cap) {
    char share[64];
    snprintf(share, sizeof share, s->coverage > 0 ? "coverage: %.17g" : "representatives: %.17g", s->coverage > 0 ? s->coverage : s->rep);
    snprintf(out, cap,
             "{kvcrush: {%s, unit: %d, unit_score: %s, signature: %s, bits: %s, fraction: %.17g, scope: %s, anchor: %s, anchor_scope: %s,\n order: %s, "
             "pick: %s, eligible: %s, accounting: %s, control: %s}}",
             share, s->unit, s->per_query ? "per_query" : "sum", signature_text[s->signature], bits_text[s->bits], s->fraction, scope_text[s->scope],
             anchor_text[s->anchor], anchor_scope_text[s->anchor_scope], order_text[s->order], pick_text[s->pick], eligible_text[s->eligible],
             s->on_top ? "on_top" : "inside", control_text[s->control]);
}

/* The best `k` of places with in[i], by score, ties to the lower place. */
static void best(const float *x, const bool *in, int n, int k, bool *out) {
    for (int i = 0; i < n; i++) out[i] = false;
    while (k-- > 0) {
        int top = -1;
        for (int i = 0; i < n; i++)
            if (in[i] && !out[i] && (top < 0 || x[i] > x[top])) top = i;
        if (top < 0) return;
        out[top] = true;
    }
}

static bool is_protected(const crush_setup *s, const crush_case *c, int pos) { return pos < s->sink || pos >= c->n - s->recent; }

typedef struct naive { /* units: runs of `unit` positions behind the sinks, those of which somebody holds something */
    const crush_setup *s;
    const crush_case *c;
    int n_units, start[CRUSH_N], end[CRUSH_N]; /* positions */
    bool holds[CRUSH_KV][CRUSH_N], important[CRUSH_KV][CRUSH_N], base[CRUSH_KV][CRUSH_N];
    float score[CRUSH_KV][CRUSH_N];
    int room[CRUSH_KV], n_imp[CRUSH_KV], n_rep[CRUSH_KV];
} naive;

static bool is_free(const naive *x, int k, int pos) { return x->c->here[k][pos] && !is_protected(x->s, x->c, pos); }

static void cut_units(naive *x) {
    const crush_setup *s = x->s;
    for (int start = s->sink; start < x->c->n; start += s->unit) {
        bool any = false;
        int end = start + s->unit < x->c->n ? start + s->unit : x->c->n;
        for (int pos = start; pos < end; pos++)
            for (int k = 0; k < s->n_kv; k++) any |= is_free(x, k, pos);
        if (!any) continue;
        x->start[x->n_units] = start;
        x->end[x->n_units++] = end;
    }
}

static int queries(const crush_case *c, int pos) {
    int n = 0;
    for (int q = pos; q < c->n; q++) n += q >= c->n_prompt || q >= c->n_prompt - c->score_rows;
    return n;
}

static void find_important(naive *x, int k) {
    const crush_setup *s = x->s;
    for (int u = 0; u < x->n_units; u++)
        for (int pos = x->start[u]; pos < x->end[u]; pos++)
            if (is_free(x, k, pos)) {
                x->holds[k][u] = true;
                x->score[k][u] += s->per_query ? x->c->score[k][pos] / (float)queries(x->c, pos) : x->c->score[k][pos];
            }
    x->room[k] = x->c->quota[k];
    for (int pos = 0; pos < x->c->n; pos++) x->room[k] -= x->c->here[k][pos] && is_protected(s, x->c, pos);
    int most = x->room[k] / s->unit;
    if (s->coverage > 0) {
        double all = 0, sum = 0;
        bool taken[CRUSH_N];
        int held = 0;
        for (int u = 0; u < x->n_units; u++) {
            if (x->holds[k][u]) all += (double)x->score[k][u];
            held += x->holds[k][u];
        }
        int n = 0;
        while (n < most && n < x->n_units && sum < s->coverage * all) {
            best(x->score[k], x->holds[k], x->n_units, ++n, taken);
            sum = 0;
            for (int m = 1; m <= n && m <= held; m++) { /* added from the best on, as the sum is defined */
                bool now[CRUSH_N], before[CRUSH_N];
                best(x->score[k], x->holds[k], x->n_units, m, now);
                best(x->score[k], x->holds[k], x->n_units, m - 1, before);
                for (int u = 0; u < x->n_units; u++)
                    if (now[u] && !before[u]) sum += (double)x->score[k][u];
            }
        }
        x->n_imp[k] = n;
        x->n_rep[k] = x->room[k] > 0 ? most - n : 0;
    } else {
        x->n_rep[k] = (int)(s->rep * x->room[k] / s->unit);
        if (x->n_rep[k] < 1) x->n_rep[k] = s->rep > 0 && x->room[k] >= s->unit;
        x->n_imp[k] = (s->on_top ? x->room[k] : x->room[k] - x->n_rep[k] * s->unit) / s->unit;
    }
    best(x->score[k], x->holds[k], x->n_units, x->n_imp[k], x->important[k]);
    best(x->score[k], x->holds[k], x->n_units, most, x->base[k]);
}

/* bit[unit][offset * rows + row] */
static void sign(const naive *x, int rows, bool (*bit)[CRUSH_UNIT * CRUSH_HEADS]) {
    const crush_setup *s = x->s;
    const crush_case *c = x->c;
    for (int r = 0; r < rows; r++) {
        float v[CRUSH_N];
        bool in[CRUSH_N], one[CRUSH_N];
        int n_in = 0, ones, sum = 0, head = s->signature == 0 ? r / s->group : r, first = s->signature == 2 ? 0 : head, n_heads = s->signature == 2 ? s->n_kv : 1;
        for (int pos = 0; pos < c->n; pos++) {
            in[pos] = false;
            v[pos] = s->signature == 0 ? c->query[r][pos] : s->signature == 1 ? c->score[r][pos] : 0;
            for (int k = 0; k < s->n_kv; k++) {
                in[pos] |= is_free(x, k, pos) && (s->signature == 2 || k == head);
                if (s->signature == 2 && c->here[k][pos]) v[pos] += c->score[k][pos];
            }
        }
        for (int u = 0; u < x->n_units; u++)
            for (int pos = x->start[u]; pos < x->end[u]; pos++)
                for (int k = 0; s->scope && k < s->n_kv; k++) in[pos] &= !x->important[k][u];
        for (int pos = 0; pos < c->n; pos++) n_in += in[pos];
        for (int k = first; k < first + n_heads; k++) {
            int inside = s->coverage > 0 ? x->n_imp[k] * s->unit : x->room[k] - x->n_rep[k] * s->unit;
            sum += s->bits == 2 || s->on_top ? x->room[k] : inside;
        }
        ones = s->bits == 0 ? (int)(s->fraction * n_in) : sum / n_heads;
        best(v, in, c->n, ones, one);
        for (int u = 0; u < x->n_units; u++)
            for (int pos = x->start[u]; pos < x->end[u]; pos++) bit[u][(pos - x->start[u]) * rows + r] = one[pos];
    }
}

static bool anchor_bit(const naive *x, bool (*bit)[CRUSH_UNIT * CRUSH_HEADS], int width, uint64_t stream, int u, int b) {
    const crush_setup *s = x->s;
    int ones = 0, of = x->n_units;
    for (int v = 0; v < x->n_units; v++) ones += bit[v][b];
    if (s->anchor_scope) {
        ones = 0;
        of = width;
        for (int i = 0; i < width; i++) ones += bit[u][i];
    }
    switch (s->anchor) {
    case 0: return 2 * ones > of;
    case 1: return 2 * ones < of;
    case 2: return s->anchor_scope ? rng_at(s->seed, stream, (uint64_t)u) >> 63 : rng_at(s->seed, stream, (uint64_t)b / 64) >> (b % 64) & 1;
    case 3: return false;
    case 4: return true;
    default: return (s->anchor_scope ? u : b) % 2;
    }
}

static void sort_units(const naive *x, int *order) {
    const crush_setup *s = x->s;
    static bool bit[CRUSH_N][CRUSH_UNIT * CRUSH_HEADS];
    int rows = s->signature == 0 ? s->n_kv * s->group : s->signature == 1 ? s->n_kv : 1, width = rows * s->unit, distance[CRUSH_N];
    uint64_t stream = (uint64_t)0x6b766372 << 32 ^ (uint64_t)x->c->layer << 40 ^ (uint64_t)x->c->n;
    memset(bit, 0, sizeof bit);
    for (int u = 0; u < x->n_units; u++) order[u] = u;
    if (s->control == 1) {
        rng r = rng_make(s->seed, stream);
        for (int u = x->n_units - 1; u > 0; u--) {
            int other = (int)rng_below(&r, (uint32_t)u + 1), held = order[u];
            order[u] = order[other];
            order[other] = held;
        }
    }
    if (s->control) return;
    sign(x, rows, bit);
    for (int u = 0; u < x->n_units; u++) {
        distance[u] = 0;
        for (int b = 0; b < width; b++) distance[u] += bit[u][b] != anchor_bit(x, bit, width, stream, u, b);
    }
    for (int a = 1; a < x->n_units; a++) /* insertion: stable */
        for (int b = a; b > 0; b--) {
            int now = distance[order[b]], before = distance[order[b - 1]], held = order[b];
            if (s->order ? now <= before : now >= before) break;
            order[b] = order[b - 1];
            order[b - 1] = held;
        }
}

void crush_naive(const crush_setup *s, const crush_case *c, bool (*keep)[CRUSH_N], bool (*rep)[CRUSH_N]) {
    static naive x;
    int order[CRUSH_N];
    memset(&x, 0, sizeof x);
    x.s = s;
    x.c = c;
    cut_units(&x);
    for (int k = 0; k < s->n_kv; k++) find_important(&x, k);
    sort_units(&x, order);
    for (int k = 0; k < s->n_kv; k++) {
        int list[CRUSH_N], m = 0, want = c->quota[k] + (s->on_top && x.room[k] > 0 ? x.n_rep[k] * s->unit : 0);
        bool rest[CRUSH_N], filled[CRUSH_N];
        for (int pos = 0; pos < c->n; pos++) {
            keep[k][pos] = c->here[k][pos] && is_protected(s, c, pos);
            if (rep) rep[k][pos] = false;
        }
        for (int u = 0; u < x.n_units && x.room[k] > 0; u++)
            for (int pos = x.start[u]; pos < x.end[u]; pos++) keep[k][pos] |= x.important[k][u] && is_free(&x, k, pos);
        for (int a = 0; a < x.n_units; a++) {
            int u = order[a];
            bool taken = !x.holds[k][u] || x.important[s->eligible == 2 ? 0 : k][u] || (s->eligible == 3 && x.base[k][u]);
            for (int g = 0; g < s->n_kv; g++) taken |= s->eligible == 1 && x.important[g][u];
            if (!taken) list[m++] = u;
        }
        int r = x.n_rep[k] < m ? x.n_rep[k] : m;
        if (x.room[k] <= 0 || (s->rep == 0 && s->coverage == 0)) r = 0;
        for (int i = 0; i < r; i++) {
            int u = list[s->pick == 0 ? (r == 1 ? 0 : i * (m - 1) / (r - 1)) : s->pick == 1 ? i * (m / r) : i * m / r];
            if (s->pick == 2)
                for (int a = i * m / r; a < (i + 1) * m / r; a++)
                    if (x.score[k][list[a]] > x.score[k][u]) u = list[a];
            for (int pos = x.start[u]; pos < x.end[u]; pos++) {
                if (!is_free(&x, k, pos)) continue;
                if (rep) rep[k][pos] |= !keep[k][pos];
                keep[k][pos] = true;
            }
        }
        for (int pos = 0; pos < c->n; pos++) {
            want -= keep[k][pos];
            rest[pos] = c->here[k][pos] && !keep[k][pos];
        }
        best(c->score[k], rest, c->n, want, filled);
        for (int pos = 0; pos < c->n; pos++) keep[k][pos] |= filled[pos];
    }
}
