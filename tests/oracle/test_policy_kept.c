/* Kept sets, quotas and tiers of prefill decisions against the definitions, carried out naively: whole arrays, sorting, linear search. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "tests/support/policies.h"
#include "tests/support/seed.h"

enum { MAX_N = 200, MAX_KV = 4, MAX_GROUP = 8 };

typedef struct setup {
    policy_shape shape;
    int n, layer;
    uint64_t seed;
    /* score */
    enum { WINDOW, RECENCY, RANDOM } score;
    int rows, pool, width, forward, group, before, reduce, sets, force;
    /* quota */
    enum { FIXED, BLEND, FLOOR } quota;
    double alpha;
    int exact, normalize, skip;
    int ties_high, sink, recent;
    /* budget */
    enum { RATIO, TOKENS, BYTES } unit;
    double amount;
    /* tier */
    enum { UNIFORM, BY_FLAG, BY_RANK } tier;
    int n_tiers, t_survivor, t_recent, t_sink;
    double share[3];
    double item_bytes[3];
    int page_items[3];
} setup;

static const char *const tier_text[] = {"f16", "k8v4", "k4v2"};

static void make_setup(rng *r, setup *s) {
    memset(s, 0, sizeof *s);
    int n_kv = 1 + (int)rng_below(r, MAX_KV), group = 1 + (int)rng_below(r, MAX_GROUP);
    s->shape = (policy_shape){.n_layers = 3, .n_heads = n_kv * group, .n_kv = n_kv, .head_dim = 64, .context = MAX_N};
    s->n = 1 + (int)rng_below(r, rng_below(r, 4) ? MAX_N : 12);
    s->layer = (int)rng_below(r, 3);
    s->seed = rng_u64(r);
    s->score = rng_below(r, 4) ? WINDOW : rng_below(r, 2) ? RECENCY : RANDOM;
    s->rows = 1 + (int)rng_below(r, rng_below(r, 2) ? 64 : 8);
    s->pool = (int)rng_below(r, 3);
    s->width = 1 + 2 * (int)rng_below(r, 6);
    s->forward = rng_below(r, 4) == 0;
    s->group = (int)rng_below(r, 3);
    s->before = (int)rng_below(r, 2);
    s->reduce = (int)rng_below(r, 2);
    s->sets = rng_below(r, 6) == 0;
    s->force = rng_below(r, 3) > 0;
    s->quota = rng_below(r, 2) ? FIXED : rng_below(r, 2) ? BLEND : FLOOR;
    s->alpha = rng_below(r, 11) / 10.0;
    s->exact = (int)rng_below(r, 2);
    s->normalize = rng_below(r, 4) == 0;
    s->skip = rng_below(r, 4) == 0;
    s->ties_high = rng_below(r, 3) == 0;
    s->sink = rng_below(r, 2) ? (int)rng_below(r, 6) : 0;
    s->recent = rng_below(r, 2) ? (int)rng_below(r, 20) : 0;
    s->unit = (int)rng_below(r, 3);
    s->amount = s->unit == TOKENS ? 1 + (int)rng_below(r, 150) : (1 + (int)rng_below(r, 100)) / 100.0;
    s->n_tiers = 1 + (int)rng_below(r, 3);
    s->tier = s->n_tiers == 1 ? UNIFORM : (int)rng_below(r, 3);
    if (s->tier == UNIFORM && s->n_tiers == 3) s->n_tiers = 2;
    s->t_survivor = s->n_tiers - 1;
    if (s->tier == BY_FLAG) {
        s->sink = s->sink ? s->sink : 3;
        s->t_sink = s->n_tiers == 3 ? 1 : (int)rng_below(r, 2);
    }
    if (s->tier == BY_RANK) {
        double a = (1 + (int)rng_below(r, 8)) / 10.0;
        s->share[0] = a;
        s->share[s->n_tiers - 1] += 1 - a;
        if (s->n_tiers == 3) s->share[1] = s->share[2] / 2, s->share[2] = 1 - a - s->share[1];
    }
}

static void to_yaml(const setup *s, char *out, size_t cap) {
    static const char *const pools[] = {"none", "avg", "max"}, *const groups[] = {"mean", "max", "sum"};
    char score[300], quota[150] = "fixed", tier[200] = "uniform", budget[60];
    snprintf(score, sizeof score, "%s", s->score == RECENCY ? "recency" : "random");
    if (s->score == WINDOW)
        snprintf(score, sizeof score,
                 "{window: {rows: %d, pool: %s, width: %d, direction: %s, group: %s, group_order: %s, reduce: %s, sets: %s, force_window: %s}}",
                 s->rows, pools[s->pool], s->width, s->forward ? "forward" : "centred", groups[s->group], s->before ? "before" : "after",
                 s->reduce ? "mean" : "sum", s->sets ? "layer" : "head", s->force ? "true" : "false");
    if (s->quota == BLEND)
        snprintf(quota, sizeof quota, "{adaptive: {mode: blend, alpha: %g, rounding: %s, normalize: %s, skip: %d}}", s->alpha,
                 s->exact ? "exact" : "source", s->normalize ? "true" : "false", s->skip);
    if (s->quota == FLOOR)
        snprintf(quota, sizeof quota, "{adaptive: {mode: floor, alpha: %g, normalize: %s, skip: %d}}", s->alpha,
                 s->normalize ? "true" : "false", s->skip);
    if (s->n_tiers > 1) snprintf(tier, sizeof tier, "{uniform: {format: %s}}", tier_text[s->t_survivor]);
    if (s->tier == BY_FLAG)
        snprintf(tier, sizeof tier, "{by_flag: {important: %s, sink: %s}}", tier_text[s->t_survivor], tier_text[s->t_sink]);
    if (s->tier == BY_RANK) {
        int used = snprintf(tier, sizeof tier, "{by_rank: {sink: f16, shares: {");
        for (int t = 0; t < s->n_tiers; t++)
            used += snprintf(tier + used, sizeof tier - (size_t)used, "%s%s: %.17g", t ? ", " : "", tier_text[t], s->share[t]);
        snprintf(tier + used, sizeof tier - (size_t)used, "}}}");
    }
    snprintf(budget, sizeof budget, "{%s: %.17g}", s->unit == RATIO ? "ratio" : s->unit == TOKENS ? "tokens" : "bytes", s->amount);
    snprintf(out, cap,
             "{budget: %s, score: %s, quota: %s, select: {top_k: {ties: %s}}, protect: {sink: %d, recent: %d},\n tiers: [f16%s%s], tier: %s}",
             budget, score, quota, s->ties_high ? "high" : "low", s->sink, s->recent, s->n_tiers > 1 ? ", k8v4" : "",
             s->n_tiers > 2 ? ", k4v2" : "", tier);
}

/* ---- the definitions ---- */

static bool is_protected(const setup *s, int j) { return j < s->sink || j >= s->n - s->recent; }
static bool is_forced(const setup *s, int j) { return s->score == WINDOW && s->force && j >= s->n - s->rows && !is_protected(s, j); }

/* One pooled value by its definition; positions from `limit` on do not exist. */
static float pooled(const setup *s, const float *x, int limit, int j) {
    if (s->pool == 0) return x[j];
    float sum = 0, max = -FLT_MAX;
    for (int i = 0; i < limit; i++) {
        bool in = s->forward ? i >= j && i < j + s->width : abs(i - j) <= s->width / 2;
        if (!in) continue;
        sum += x[i];
        if (x[i] > max) max = x[i];
    }
    return s->pool == 1 ? sum / (float)s->width : max;
}

static float grouped(const setup *s, float (*member)[MAX_N], int g, int j) {
    float sum = 0, max = -FLT_MAX;
    for (int m = 0; m < g; m++) {
        sum += member[m][j];
        if (member[m][j] > max) max = member[m][j];
    }
    return s->group == 1 ? max : s->group == 2 ? sum : sum / (float)g;
}

static void window_scores(const setup *s, const float *signal, float score[MAX_KV][MAX_N]) {
    int g = s->shape.n_heads / s->shape.n_kv, n = s->n, rows = s->rows < n ? s->rows : n, limit = s->force ? n - rows : n;
    static float raw[MAX_GROUP][MAX_N], mid[MAX_GROUP][MAX_N], one[MAX_N];
    for (int h = 0; h < s->shape.n_kv; h++) {
        for (int m = 0; m < g; m++)
            for (int j = 0; j < n; j++) {
                raw[m][j] = signal[(h * g + m) * n + j];
                if (s->reduce) raw[m][j] /= (float)rows;
            }
        if (s->before) {
            for (int j = 0; j < limit; j++) one[j] = grouped(s, raw, g, j);
            for (int j = 0; j < limit; j++) score[h][j] = pooled(s, one, limit, j);
        } else {
            for (int m = 0; m < g; m++)
                for (int j = 0; j < limit; j++) mid[m][j] = pooled(s, raw[m], limit, j);
            for (int j = 0; j < limit; j++) score[h][j] = grouped(s, mid, g, j);
        }
    }
    if (s->sets)
        for (int j = 0; j < limit; j++) {
            float sum = 0;
            for (int h = 0; h < s->shape.n_kv; h++) sum += score[h][j];
            for (int h = 0; h < s->shape.n_kv; h++) score[h][j] = sum / (float)s->shape.n_kv;
        }
}

typedef struct ranked { int class, pos, head; float score; } ranked;
static int ties_high;

static int best_first(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->class != y->class) return y->class - x->class;
    if (x->class > 0 && x->pos != y->pos) return y->pos - x->pos; /* protected, forced: newest first */
    if (x->class == 0 && x->score != y->score) return x->score < y->score ? 1 : -1;
    if (x->pos != y->pos) return ties_high ? y->pos - x->pos : x->pos - y->pos;
    return x->head - y->head;
}

static int rank_head(const setup *s, const float *score, int head, ranked *out) {
    ties_high = s->ties_high;
    for (int j = 0; j < s->n; j++) out[j] = (ranked){is_protected(s, j) ? 2 : is_forced(s, j), j, head, score[j]};
    qsort(out, (size_t)s->n, sizeof *out, best_first);
    return s->n;
}

static int tier_of(const setup *s, int j, int rank, int n_ranked) {
    if (j >= s->n - s->recent) return 0;
    if (s->tier == UNIFORM) return s->t_survivor;
    if (j < s->sink) return s->tier == BY_FLAG ? s->t_sink : 0;
    if (s->tier == BY_FLAG) return s->t_survivor;
    double c = 0;
    for (int t = 0; t < s->n_tiers - 1; t++) {
        c += s->share[t];
        if (rank < (int)(n_ranked * c)) return t;
    }
    return s->n_tiers - 1;
}

static double bytes_of(const setup *s, int k) { /* any k items: all protected ones and k - that many others */
    int n_protected = 0, n_others, count[3] = {0};
    for (int j = 0; j < s->n; j++) n_protected += is_protected(s, j);
    n_others = k - n_protected > 0 ? k - n_protected : 0;
    for (int j = 0; j < s->n; j++)
        if (is_protected(s, j)) count[tier_of(s, j, 0, 0)]++;
    setup plain = *s;
    plain.sink = plain.recent = 0, plain.n = MAX_N; /* so that position 1 has no role */
    for (int rank = 0; rank < n_others; rank++) count[tier_of(&plain, 1, rank, n_others)]++;
    double bytes = 768.0 / (s->shape.n_layers * s->shape.n_kv);
    for (int t = 0; t < s->n_tiers; t++) {
        int pages = 0;
        while (pages * s->page_items[t] < count[t]) pages++;
        bytes += count[t] * s->item_bytes[t] + 20 + (pages ? 4 * (pages + 3 + pages / 16) : 0);
    }
    if (s->quota == BLEND || s->quota == FLOOR) { /* unequal heads: one item more in the dearer tier, one page and spare per tier */
        int others[3] = {0};
        double least = 1e9, most = 0;
        for (int rank = 0; rank < n_others; rank++) others[tier_of(&plain, 1, rank, n_others)]++;
        for (int t = 0; t < s->n_tiers; t++)
            if (others[t]) least = fmin(least, s->item_bytes[t]), most = fmax(most, s->item_bytes[t]);
        bytes += fmax(0, most - least) + 8 * s->n_tiers;
    }
    return bytes;
}

static int naive_budget(const setup *s, bool *clamped) {
    int least = 0, k = 0;
    for (int j = 0; j < s->n; j++) least += is_protected(s, j);
    *clamped = false;
    if (s->unit == RATIO) k = (int)fmax(1, s->n * (1 - (1 - s->amount)));
    if (s->unit == TOKENS) k = (int)s->amount;
    if (s->unit == BYTES) {
        double limit = s->amount * s->n * 64 * 4;
        for (k = s->n; k > 0 && bytes_of(s, k) > limit; k--) continue;
        *clamped = k < (least > 1 ? least : 1);
    }
    if (k < least) *clamped = true;
    k = k > least ? k : least;
    k = k > 1 ? k : 1;
    return k < s->n ? k : s->n;
}

static void naive_quotas(const setup *s, float score[MAX_KV][MAX_N], int kept, int quota[MAX_KV]) {
    int n_kv = s->shape.n_kv, fixed = 0;
    for (int j = 0; j < s->n; j++) fixed += is_protected(s, j) || is_forced(s, j);
    int base = kept - fixed, room = s->n - fixed;
    for (int h = 0; h < n_kv; h++) quota[h] = kept;
    if (s->quota == FIXED || base <= 0 || base == room || s->layer < s->skip) return;

    static ranked all[MAX_KV * MAX_N], one[MAX_N];
    int n_all = 0, a[MAX_KV] = {0};
    int safe = s->quota == FLOOR && s->alpha > 0 ? (int)(kept * s->alpha) : 0;
    if (s->quota == FLOOR && s->alpha > 0 && safe < 1) safe = 1;
    for (int h = 0; h < n_kv; h++) {
        rank_head(s, score[h], h, one);
        double top = 0, mass = 0; /* in position order, as the definition says */
        for (int j = 0; j < s->n; j++) {
            if (is_protected(s, j) || is_forced(s, j)) continue;
            mass += score[h][j];
            for (int i = fixed; i < fixed + base; i++)
                if (one[i].pos == j) top += score[h][j];
        }
        float weight = s->normalize ? (mass > 0 ? (float)(top / mass) : 1) : 1;
        for (int i = 0; i < s->n; i++) {
            ranked x = one[i];
            x.class = i < safe || x.class > 0; /* the best `safe` of a head, forced ones among them, beat everything */
            if (x.class) x.score = FLT_MAX;
            else x.score *= weight;
            all[n_all++] = x;
        }
    }
    if (s->quota == FLOOR) {
        qsort(all, (size_t)n_all, sizeof *all, best_first);
        for (int i = 0; i < n_kv * kept; i++) a[all[i].head]++;
        for (int h = 0; h < n_kv; h++) quota[h] = a[h];
        return;
    }
    int n_free = 0;
    for (int i = 0; i < n_all; i++)
        if (!all[i].class) all[n_free++] = all[i];
    qsort(all, (size_t)n_free, sizeof *all, best_first);
    for (int i = 0; i < n_kv * base; i++) a[all[i].head]++;
    if (!s->exact) {
        for (int h = 0; h < n_kv; h++) {
            quota[h] = (int)nearbyint(a[h] * (1 - s->alpha) + floor(s->alpha * base));
            if (quota[h] > room) quota[h] = room;
            quota[h] += fixed;
        }
        return;
    }
    double part[MAX_KV];
    int left = n_kv * base;
    for (int h = 0; h < n_kv; h++) {
        part[h] = a[h] * (1 - s->alpha) + s->alpha * base;
        quota[h] = (int)part[h] + fixed;
        left -= (int)part[h];
    }
    while (left-- > 0) {
        int best = -1;
        for (int h = 0; h < n_kv; h++)
            if (part[h] >= 0 && (best < 0 || part[h] - (int)part[h] > part[best] - (int)part[best])) best = h;
        quota[best]++;
        part[best] = -1;
    }
}

static void naive_targets(const setup *s, const float *signal, uint8_t *target, bool *clamped) {
    static float score[MAX_KV][MAX_N];
    memset(score, 0, sizeof score);
    if (s->score == WINDOW) window_scores(s, signal, score);
    for (int h = 0; h < s->shape.n_kv; h++)
        for (int j = 0; j < s->n; j++) {
            if (s->score == RECENCY) score[h][j] = (float)j;
            if (s->score == RANDOM)
                score[h][j] = (float)((double)(rng_at(s->seed, (uint64_t)(s->layer * s->shape.n_kv + h), (uint64_t)j) >> 40) / 16777216.0);
        }
    int quota[MAX_KV];
    naive_quotas(s, score, naive_budget(s, clamped), quota);
    for (int h = 0; h < s->shape.n_kv; h++) {
        static ranked one[MAX_N];
        rank_head(s, score[h], h, one);
        int n_ranked = 0, rank = 0;
        for (int i = 0; i < quota[h]; i++) n_ranked += one[i].class < 2;
        for (int i = 0; i < s->n; i++) {
            int t = i < quota[h] ? tier_of(s, one[i].pos, rank, n_ranked) : KV_DROP;
            rank += one[i].class < 2;
            target[h * s->n + one[i].pos] = (uint8_t)t;
        }
    }
}

/* ---- the comparison ---- */

static void check(const setup *s, const char *yaml, const float *signal, uint8_t *want, uint8_t *got) {
    policy *p = policy_from_text(s->shape, yaml);
    policy_state *st;
    assert_int_equal(policy_state_create(p, s->seed, &st), OK);
    policy_layer l = {.layer = s->layer, .n = s->n, .target = got};
    if (policy_get_needs(p)->n_signals) l.signal[0] = signal;
    assert_int_equal(policy_prefill(p, st, &l, 1), OK);
    bool clamped;
    naive_targets(s, signal, want, &clamped);
    for (int i = 0; i < s->shape.n_kv * s->n; i++)
        if (got[i] != want[i])
            fail_msg("layer %d, n %d, %d heads in %d groups: head %d position %d goes to %d instead of %d\n%s", s->layer, s->n,
                     s->shape.n_heads, s->shape.n_kv, i / s->n, i % s->n, got[i], want[i], yaml);
    if (policy_state_report(st).budget_clamped != clamped) fail_msg("budget_clamped is %d\n%s", !clamped, yaml);
    policy_state_destroy(st);
    policy_destroy(p);
}

static void random_decisions_equal_their_definition(void **state) {
    rng r = rng_make(seed_get(), 1);
    float *signal = malloc(sizeof *signal * MAX_KV * MAX_GROUP * MAX_N);
    uint8_t *got = malloc(MAX_KV * MAX_N), *want = malloc(MAX_KV * MAX_N);
    page_layout l[3];
    const kv_format formats[] = {{.k_bits = 16, .v_bits = 16}, {.k_bits = 8, .v_bits = 4}, {.k_bits = 4, .v_bits = 2}};
    for (int t = 0; t < 3; t++) assert_int_equal(page_layout_make(formats[t], 64, 0, false, 8192, &l[t]), OK);
    for (int round = 0; round < 6000; round++) {
        setup s;
        char yaml[1500];
        make_setup(&r, &s);
        to_yaml(&s, yaml, sizeof yaml);
        for (int t = 0; t < 3; t++) {
            s.item_bytes[t] = l[t].payload_bytes + l[t].meta_bytes + l[t].column_bytes;
            s.page_items[t] = l[t].cap;
        }
        bool coarse = rng_below(&r, 2); /* few distinct values: many ties */
        for (int i = 0; i < s.shape.n_heads * s.n; i++)
            signal[i] = coarse ? (float)rng_below(&r, 6) / 8 : (float)rng_uniform(&r);
        check(&s, yaml, signal, want, got);
    }
    free(signal);
    free(got);
    free(want);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_decisions_equal_their_definition)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
