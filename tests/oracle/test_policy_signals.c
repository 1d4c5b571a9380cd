/* Scores from signals, pyramid and global quotas, two-stage selection: kept sets of whole sequences against the definitions, carried out
 * naively with sorting and linear search. */
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

enum { MAX_N = 120, MAX_KV = 3, MAX_GROUP = 8, MAX_LAYERS = 5, MAX_HEADS = MAX_KV * MAX_LAYERS };

typedef struct setup {
    policy_shape shape;
    int n, group, n_kv, n_layers;
    enum { KEY_NORM, KEY_DIFF, COLUMN, CHANGE, EXPECTED, PROBE, N_SCORES } score;
    int reduce, lag, group_kind, rows, pool, width, sinks, value_norm, plus;
    double epsilon;
    enum { FIXED, PYRAMID_EXACT, PYRAMID_FACTORY, PYRAMID_KVPRESS, GLOBAL_SEQUENCE, GLOBAL_LAYER, FLOOR, N_QUOTAS } quota;
    int evicted, beta;
    double alpha;
    int critical, forced_compete, l2, query_head;
    double first, critical_epsilon;
    int sink, recent, is_ratio;
    double amount;
} setup;

static void make_setup(rng *r, setup *s) {
    memset(s, 0, sizeof *s);
    s->n_kv = 1 + (int)rng_below(r, MAX_KV);
    s->group = 1 + (int)rng_below(r, MAX_GROUP);
    s->n_layers = 1 + (int)rng_below(r, MAX_LAYERS);
    s->shape = (policy_shape){.n_layers = s->n_layers, .n_heads = s->n_kv * s->group, .n_kv = s->n_kv, .head_dim = 64, .context = MAX_N};
    s->n = 1 + (int)rng_below(r, rng_below(r, 4) ? MAX_N : 12);
    s->score = (int)rng_below(r, N_SCORES);
    s->reduce = (int)rng_below(r, 3);
    s->lag = rng_below(r, 3) ? 0 : (int)rng_below(r, 10);
    s->group_kind = (int)rng_below(r, 3);
    s->rows = 1 + (int)rng_below(r, 20);
    s->pool = (int)rng_below(r, 3);
    s->width = 1 + 2 * (int)rng_below(r, 4);
    s->sinks = (int)rng_below(r, 6);
    s->value_norm = (int)rng_below(r, 2);
    s->epsilon = rng_below(r, 2) ? 0 : 0.125;
    s->quota = (int)rng_below(r, N_QUOTAS);
    s->beta = 1 + (int)rng_below(r, 30);
    s->alpha = rng_below(r, 11) / 10.0;
    s->critical = rng_below(r, 3) == 0;
    s->forced_compete = (int)rng_below(r, 2);
    s->l2 = (int)rng_below(r, 2);
    s->first = rng_below(r, 5) / 4.0;
    s->critical_epsilon = rng_below(r, 2) ? 1e-4 : 0.25;
    s->sink = rng_below(r, 3) == 0 ? (int)rng_below(r, 5) : 0;
    s->recent = rng_below(r, 3) == 0 ? (int)rng_below(r, 9) : 0;
    s->is_ratio = rng_below(r, 3) > 0;
    s->plus = (int)rng_below(r, 2);
    s->query_head = rng_below(r, 2) && (s->score == COLUMN || s->score == EXPECTED || s->score == PROBE);
    s->amount = s->is_ratio ? (1 + (int)rng_below(r, 100)) / 100.0 : 1 + (int)rng_below(r, MAX_N);
    s->evicted = s->is_ratio && rng_below(r, 2);
}

static void to_yaml(const setup *s, char *out, size_t cap) {
    static const char *const groups[] = {"mean", "max", "sum"}, *const reduces[] = {"sum", "mean", "max"}, *const pools[] = {"none", "avg", "max"};
    char score[200] = "", quota[120] = "fixed", sel[120] = "top_k";
    switch ((int)s->score) {
    case KEY_NORM: snprintf(score, sizeof score, "key_norm"); break;
    case KEY_DIFF: snprintf(score, sizeof score, "key_diff"); break;
    case COLUMN: snprintf(score, sizeof score, "{column: {reduce: %s, lag: %d, group: %s}}", reduces[s->reduce], s->lag, groups[s->group_kind]); break;
    case CHANGE:
        snprintf(score, sizeof score, "{output_change: {rows: %d, pool: %s, width: %d, group: %s}}", s->rows, pools[s->pool], s->width,
                 groups[s->group_kind]);
        break;
    case EXPECTED:
        snprintf(score, sizeof score, "{expected: {sinks: %d, value_norm: %s, epsilon: %g, group: %s}}", s->sinks, s->value_norm ? "true" : "false",
                 s->epsilon, groups[s->group_kind]);
        break;
    case PROBE: snprintf(score, sizeof score, "{probe: {sinks: %d, normalise: %s}}", s->sinks, s->plus ? "output" : "none"); break;
    }
    static const char *const modes[] = {"exact", "factory", "kvpress"};
    if (s->quota >= PYRAMID_EXACT && s->quota <= PYRAMID_KVPRESS)
        snprintf(quota, sizeof quota, "{pyramid: {mode: %s, beta: %d}}", modes[s->quota - PYRAMID_EXACT], s->beta);
    if (s->quota == GLOBAL_SEQUENCE || s->quota == GLOBAL_LAYER)
        snprintf(quota, sizeof quota, "{global: {over: %s, count: %s}}", s->quota == GLOBAL_LAYER ? "layer" : "sequence", s->evicted ? "evicted" : "kept");
    if (s->quota == FLOOR) snprintf(quota, sizeof quota, "{adaptive: {mode: floor, alpha: %g}}", s->alpha);
    if (s->critical)
        snprintf(sel, sizeof sel, "{critical: {first: %g, epsilon: %g, norm: %s, forced: %s, gqa: %s}}", s->first, s->critical_epsilon, s->l2 ? "l2" : "l1",
                 s->forced_compete ? "score" : "first", s->query_head ? "query_head" : "group");
    snprintf(out, cap, "{budget: {%s: %.17g}, score: %s, quota: %s, select: %s, protect: {sink: %d, recent: %d}}", s->is_ratio ? "ratio" : "tokens",
             s->amount, score, quota, sel, s->sink, s->recent);
}

/* ---- the definitions ---- */

static float per_group(const setup *s, const float *x /* [n_heads][n] */, int kind, int h, int j) {
    float sum = 0, max = -FLT_MAX;
    for (int m = 0; m < s->group; m++) {
        float v = x[(h * s->group + m) * s->n + j];
        sum += v;
        if (v > max) max = v;
    }
    return kind == 1 ? max : kind == 2 ? sum : sum / (float)s->group;
}

static void column_score(const setup *s, const float *x, int h, float *score) {
    static float scaled[MAX_KV * MAX_GROUP * MAX_N];
    for (int i = 0; i < s->n_kv * s->group * s->n; i++) {
        int observers = s->n - i % s->n - s->lag;
        scaled[i] = s->reduce == 1 && observers > 0 ? x[i] / (float)observers : x[i];
    }
    for (int j = 0; j < s->n; j++) score[j] = per_group(s, scaled, s->group_kind, h, j);
}

static void change_score(const setup *s, const float *x, int h, float *score) {
    for (int j = 0; j < s->n; j++) {
        if (s->pool == 0) {
            score[j] = per_group(s, x, s->group_kind, h, j);
            continue;
        }
        float sum = 0, max = -FLT_MAX;
        for (int i = 0; i < s->n; i++) {
            if (abs(i - j) > s->width / 2) continue;
            float v = per_group(s, x, s->group_kind, h, i);
            sum += v;
            if (v > max) max = v;
        }
        score[j] = s->pool == 1 ? sum / (float)s->width : max;
    }
}

static const float *signal_of(const policy_needs *needs, const policy_layer *l, signal_kind kind, int power) {
    for (int i = 0; i < needs->n_signals; i++)
        if (needs->signals[i].kind == (int)kind && needs->signals[i].power == power) return l->signal[i];
    return NULL;
}

/* What query head m of KV head h alone gives position j. */
static float query_score(const setup *s, const policy_needs *needs, const policy_layer *y, int h, int m, int j) {
    int at = (h * s->group + m) * s->n + j;
    if (s->score == COLUMN) {
        int observers = s->n - j - s->lag;
        return signal_of(needs, y, SIGNAL_ALL_MASS, 1)[at] / (s->reduce == 1 && observers > 0 ? (float)observers : 1);
    }
    if (s->score == PROBE) return signal_of(needs, y, SIGNAL_PROBE_MASS, 0)[at] * (s->plus ? signal_of(needs, y, SIGNAL_VALUE_OUTPUT, 2)[at] : 1);
    float x = signal_of(needs, y, SIGNAL_EXPECTED_MASS, 0)[at] + (float)s->epsilon;
    return s->value_norm ? x * signal_of(needs, y, SIGNAL_VALUE_NORM, 0)[h * s->n + j] : x;
}

typedef struct item { int class, pos, rank; float score; } item; /* class 2 protected, 1 forced; rank = layer * n_kv + head */

static int best_first(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->class != y->class) return y->class - x->class;
    if (x->class > 0 && x->pos != y->pos) return y->pos - x->pos;
    if (x->class == 0 && x->score != y->score) return x->score < y->score ? 1 : -1;
    if (x->pos != y->pos) return x->pos - y->pos;
    return x->rank - y->rank;
}

static bool forced_by_score(const setup *s, int j) {
    if (s->score == COLUMN) return j >= s->n - s->lag;
    if (s->score == CHANGE) return j >= s->n - s->rows;
    return (s->score == EXPECTED || s->score == PROBE) && j < s->sinks;
}

static int class_of(const setup *s, int j) {
    if (j < s->sink || j >= s->n - s->recent) return 2;
    return forced_by_score(s, j);
}

static int kept_of(const setup *s) {
    int k = s->is_ratio ? (int)fmax(1, s->n * (1 - (1 - s->amount))) : (int)s->amount, least = 0;
    for (int j = 0; j < s->n; j++) least += class_of(s, j) == 2;
    k = k > least ? k : least;
    return k < s->n ? k : s->n;
}

static int clip(double q, int n) { return q < n ? (int)q : n; }

static int schedule(const setup *s, int kept, int w, int layer) {
    int n = s->n, last = s->n_layers - 1;
    if (kept >= n) return n;
    if (s->quota == PYRAMID_FACTORY) {
        int base = kept - w;
        if (base <= 0 || n < 2 * base) return kept;
        int min = base / s->beta, max = 2 * base - min;
        if (max >= n - w) max = n - w, min = 2 * base - max;
        return clip(w + max - (last ? layer * ((max - min) / last) : 0), n);
    }
    double base = s->quota == PYRAMID_KVPRESS ? (s->is_ratio ? n * (1 - (1 - s->amount)) : kept) : kept - w;
    if (s->quota == PYRAMID_EXACT && (base <= 0 || n < 2 * base || !last)) return kept;
    double min = base / s->beta, max = 2 * base - min;
    if (max >= n - w) max = n - w, min = 2 * base - max;
    if (s->quota == PYRAMID_KVPRESS) {
        double q = nearbyint(base);
        if (n >= max && max >= min && min >= w) q = nearbyint(max - (last ? layer * ((max - min) / last) : 0));
        return clip(q < 1 ? 1 : q, n);
    }
    double step = (max - min) / last, upto = (layer + 1) * max - step * layer * (layer + 1) / 2, before = layer * max - step * layer * (layer - 1) / 2;
    return clip(w + nearbyint(upto) - nearbyint(before), n);
}

static int pyramid(const setup *s, int kept, int w, int layer) {
    int q = schedule(s, kept, w, layer), least = 0;
    for (int j = 0; j < s->n; j++) least += class_of(s, j) == 2;
    return q > least ? q : least;
}

/* Heads lo .. hi - 1 in one ranking. */
static void global(const setup *s, float (*score)[MAX_N], int kept, int lo, int hi, int *quota) {
    static item all[MAX_HEADS * MAX_N];
    int n = 0, forced = 0, total = (hi - lo) * kept;
    for (int k = lo; k < hi; k++) {
        quota[k] = 0;
        for (int j = 0; j < s->n; j++) {
            if (class_of(s, j)) quota[k]++;
            else all[n++] = (item){0, j, k, score[k][j]};
        }
        forced += quota[k];
    }
    if (s->evicted) total = (hi - lo) * s->n - (int)((hi - lo) * s->n * (1 - s->amount));
    if (total <= forced && forced > 0) {
        for (int k = lo; k < hi; k++) quota[k] = quota[k] < kept ? quota[k] : kept;
        return;
    }
    qsort(all, (size_t)n, sizeof *all, best_first);
    for (int i = 0; i < total - forced && i < n; i++) quota[all[i].rank]++;
}

static void floor_quotas(const setup *s, float (*score)[MAX_N], int kept, int lo, int *quota, int *safe_out) {
    static item all[MAX_KV * MAX_N];
    int forced = 0;
    for (int j = 0; j < s->n; j++) forced += class_of(s, j) > 0;
    for (int k = lo; k < lo + s->n_kv; k++) quota[k] = kept, safe_out[k] = 0;
    if (kept - forced <= 0 || kept == s->n) return;
    int safe = s->alpha > 0 ? (int)(kept * s->alpha) : 0;
    if (s->alpha > 0 && safe < 1) safe = 1;
    int n = 0;
    for (int k = lo; k < lo + s->n_kv; k++) {
        static item one[MAX_N];
        for (int j = 0; j < s->n; j++) one[j] = (item){class_of(s, j), j, k, score[k][j]};
        qsort(one, (size_t)s->n, sizeof *one, best_first);
        for (int i = 0; i < s->n; i++) {
            one[i].class = i < safe || one[i].class ? 1 : 0;
            all[n++] = one[i];
        }
        quota[k] = 0;
        safe_out[k] = safe;
    }
    qsort(all, (size_t)n, sizeof *all, best_first);
    for (int i = 0; i < s->n_kv * kept; i++) quota[all[i].rank]++;
}

/* Sums in the order of the group, as the definition's mean. */
static float critical_value(const setup *s, const policy_needs *needs, const policy_layer *y, int h, int j, float score, bool forced) {
    const float *norms = signal_of(needs, y, SIGNAL_VALUE_OUTPUT, s->l2 + 1);
    float sum = 0;
    if (!s->query_head) return (score + (float)s->critical_epsilon) * per_group(s, norms, 0, h, j);
    for (int m = 0; m < s->group; m++)
        sum += ((forced ? score : query_score(s, needs, y, h, m, j)) + (float)s->critical_epsilon) * norms[(h * s->group + m) * s->n + j];
    return sum / (float)s->group;
}

static void select_head(const setup *s, const policy_needs *needs, const policy_layer *y, const float *score, int h, int quota, int safe, float pad,
                        uint8_t *target) {
    static item one[MAX_N];
    memset(target, KV_DROP, (size_t)s->n);
    for (int j = 0; j < s->n; j++) one[j] = (item){class_of(s, j), j, 0, score[j]};
    qsort(one, (size_t)s->n, sizeof *one, best_first);
    if (s->critical && quota < s->n && quota > 0) {
        int m1 = s->quota == FIXED && s->is_ratio ? (int)((1 - (1 - s->amount)) * s->n * s->first) : (int)(quota * s->first);
        if (safe > m1) m1 = safe;
        if (m1 < 1) m1 = 1;
        if (m1 > quota) m1 = quota;
        if (s->first <= 0) m1 = 0;
        for (int i = 0; i < s->n; i++) { /* classes: forced as before, then stage one, then the rest */
            item *x = &one[i];
            bool forced = x->class == 1;
            float base = forced ? pad : x->score;
            if (x->class == 2) x->class = 9;
            else if (forced && !s->forced_compete) x->class = 8;
            else if (i < m1) x->class = 7;
            else {
                x->class = 0;
                x->score = critical_value(s, needs, y, h, x->pos, base, forced);
            }
            if (x->class == 7) { /* its order inside does not matter below */
                x->class = 0;
                x->score = FLT_MAX;
            }
        }
        qsort(one, (size_t)s->n, sizeof *one, best_first);
    }
    for (int i = 0; i < quota; i++) target[one[i].pos] = 0;
}

static void naive(const setup *s, const policy_needs *needs, const policy_layer *layers, uint8_t *target) {
    static float score[MAX_HEADS][MAX_N];
    int quota[MAX_HEADS] = {0}, safe[MAX_HEADS] = {0}, kept = kept_of(s), w = 0;
    for (int j = 0; j < s->n; j++) w += class_of(s, j) > 0;
    for (int l = 0; l < s->n_layers; l++)
        for (int h = 0; h < s->n_kv; h++) {
            float *x = score[l * s->n_kv + h];
            const policy_layer *y = &layers[l];
            if (s->score == COLUMN) column_score(s, signal_of(needs, y, SIGNAL_ALL_MASS, 1), h, x);
            if (s->score == CHANGE) change_score(s, signal_of(needs, y, SIGNAL_WINDOW_CHANGE, 0), h, x);
            for (int j = 0; j < s->n; j++) {
                if (s->score == KEY_NORM) x[j] = -signal_of(needs, y, SIGNAL_KEY_NORM, 0)[h * s->n + j];
                if (s->score == KEY_DIFF) x[j] = -signal_of(needs, y, SIGNAL_KEY_COSINE, 0)[h * s->n + j];
                if (s->score == PROBE) {
                    x[j] = query_score(s, needs, y, h, 0, j);
                    for (int m = 1; m < s->group; m++) x[j] = fmaxf(x[j], query_score(s, needs, y, h, m, j));
                }
                if (s->score == EXPECTED) {
                    x[j] = per_group(s, signal_of(needs, y, SIGNAL_EXPECTED_MASS, 0), s->group_kind, h, j) + (float)s->epsilon;
                    if (s->value_norm) x[j] *= signal_of(needs, y, SIGNAL_VALUE_NORM, 0)[h * s->n + j];
                }
            }
        }
    for (int l = 0; l < s->n_layers; l++) {
        int lo = l * s->n_kv;
        if (s->quota == GLOBAL_LAYER) global(s, score, kept, lo, lo + s->n_kv, quota);
        else if (s->quota == FLOOR) floor_quotas(s, score, kept, lo, quota, safe);
        else
            for (int h = 0; h < s->n_kv; h++) quota[lo + h] = s->quota == FIXED ? kept : pyramid(s, kept, w, l);
    }
    if (s->quota == GLOBAL_SEQUENCE) global(s, score, kept, 0, s->n_layers * s->n_kv, quota);
    for (int l = 0; l < s->n_layers; l++) {
        float pad = -FLT_MAX;
        for (int h = 0; h < s->n_kv; h++)
            for (int j = 0; j < s->n; j++)
                if (!forced_by_score(s, j) && score[l * s->n_kv + h][j] > pad) pad = score[l * s->n_kv + h][j];
        pad = pad > -FLT_MAX ? pad + 1 : 1;
        for (int h = 0; h < s->n_kv; h++) {
            int k = l * s->n_kv + h;
            select_head(s, needs, &layers[l], score[k], h, quota[k], safe[k], pad, target + k * s->n);
        }
    }
}

/* ---- the comparison ---- */

/* Sequence scope takes all layers at once, the others one after the other. */
static void decide(const policy *p, const setup *s, policy_layer *layers) {
    policy_state *st;
    assert_int_equal(policy_state_create(p, 1, &st), OK);
    if (policy_get_needs(p)->scope == SCOPE_SEQUENCE) assert_int_equal(policy_prefill(p, st, layers, s->n_layers), OK);
    else
        for (int l = 0; l < s->n_layers; l++) assert_int_equal(policy_prefill(p, st, &layers[l], 1), OK);
    policy_state_destroy(st);
}

static void random_decisions_equal_their_definition(void **state) {
    rng r = rng_make(seed_get(), 1);
    size_t plane = MAX_KV * MAX_GROUP * MAX_N;
    float *signals = malloc(sizeof(float) * MAX_LAYERS * POLICY_MAX_SIGNALS * plane);
    uint8_t *got = malloc(MAX_HEADS * MAX_N), *want = malloc(MAX_HEADS * MAX_N);
    for (int round = 0; round < 6000; round++) {
        setup s;
        char yaml[800];
        make_setup(&r, &s);
        to_yaml(&s, yaml, sizeof yaml);
        policy *p = policy_from_text(s.shape, yaml);
        const policy_needs *needs = policy_get_needs(p);
        policy_layer layers[MAX_LAYERS];
        bool coarse = rng_below(&r, 2); /* few distinct values: many ties */
        for (int l = 0; l < s.n_layers; l++) {
            layers[l] = (policy_layer){.layer = l, .n = s.n, .target = got + l * s.n_kv * s.n};
            for (int i = 0; i < needs->n_signals; i++) {
                float *x = signals + (size_t)(l * POLICY_MAX_SIGNALS + i) * plane;
                for (int j = 0; j < s.shape.n_heads * s.n; j++) x[j] = coarse ? (float)rng_below(&r, 6) / 8 : (float)rng_uniform(&r);
                layers[l].signal[i] = x;
            }
        }
        decide(p, &s, layers);
        naive(&s, needs, layers, want);
        for (int i = 0; i < s.n_layers * s.n_kv * s.n; i++)
            if (got[i] != want[i])
                fail_msg("round %d, n %d, %d layers, %d heads in groups of %d: layer %d head %d position %d goes to %d instead of %d\n%s", round, s.n,
                         s.n_layers, s.n_kv, s.group, i / s.n / s.n_kv, i / s.n % s.n_kv, i % s.n, got[i], want[i], yaml);
        policy_destroy(p);
    }
    free(signals);
    free(got);
    free(want);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_decisions_equal_their_definition)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
