/* Live scores, quotas and tiers over long runs against dense arrays [layer][head][position]: what the columns start from, when decisions are
 * due, who stays and where. Several sequences of unequal lengths run in turn under one policy; each must go its own way. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "policy/profile.h"
#include "policy/stage.h"
#include "tests/support/policies.h"
#include "tests/support/profiles.h"
#include "tests/support/seed.h"

enum { MAX_N = 150, MAX_LAYERS = 3, MAX_KV = 3, MAX_GROUP = 8, MAX_HEADS = MAX_LAYERS * MAX_KV, MAX_SEQS = 3 };

typedef struct setup {
    policy_shape shape;
    int group, n_kv, n_layers, n_heads;
    enum { ADD, MAX_OF, LAST, ADD_MEAN, COLUMN_SUM, COLUMN_MEAN, COLUMN_MAX, RECENCY, N_SCORES } score;
    int group_kind; /* mean, max, sum */
    bool per_layer; /* one set per layer */
    enum { FIXED, BLEND, BLEND_EXACT, FLOOR, GLOBAL_SEQUENCE, GLOBAL_LAYER, PROFILE, N_QUOTAS } quota;
    double alpha, amount;
    bool normalize, coarse, proportional, prefill, ties_high;
    int skip;
    enum { TOKENS, RATIO, BYTES } unit;
    int sink, recent, slack, every, n_tiers;
} setup;

typedef struct dense { /* one sequence */
    bool here[MAX_HEADS][MAX_N];
    float column[MAX_HEADS][MAX_N];
    uint8_t tier[MAX_HEADS][MAX_N];
    int n, n_prompt, n_last;
    bool decided;
    policy_state *state;
} dense;

static bool has_column(const setup *s) { return s->score != RECENCY; }
static bool of_window(const setup *s) { return s->score <= ADD_MEAN; }
static bool is_mean(const setup *s) { return s->score == ADD_MEAN || s->score == COLUMN_MEAN; }
static bool over_sequence(const setup *s) { return s->quota == GLOBAL_SEQUENCE || s->quota == PROFILE; }

static void make_setup(rng *r, setup *s) {
    memset(s, 0, sizeof *s);
    s->n_kv = 1 + (int)rng_below(r, MAX_KV);
    s->group = 1 + (int)rng_below(r, MAX_GROUP);
    s->n_layers = 1 + (int)rng_below(r, MAX_LAYERS);
    s->n_heads = s->n_kv * s->n_layers;
    s->shape = (policy_shape){.n_layers = s->n_layers, .n_heads = s->n_kv * s->group, .n_kv = s->n_kv, .head_dim = 64, .context = MAX_N};
    s->score = (int)rng_below(r, N_SCORES);
    s->group_kind = (int)rng_below(r, 3);
    s->per_layer = of_window(s) && rng_below(r, 3) == 0;
    s->quota = rng_below(r, 3) ? (int)rng_below(r, N_QUOTAS) : FIXED;
    if (s->quota == PROFILE) s->shape = shape_with_profile(s->shape);
    s->alpha = rng_below(r, 11) / 10.0;
    s->coarse = rng_below(r, 2);
    s->normalize = s->coarse && rng_below(r, 3) == 0; /* sums of eighths are exact in any order */
    s->skip = rng_below(r, 4) ? 0 : 1;
    s->unit = (int)rng_below(r, 3);
    s->amount = s->unit == TOKENS ? 1 + (int)rng_below(r, 50) : (5 + (int)rng_below(r, 95)) / 100.0;
    s->proportional = s->unit != TOKENS && rng_below(r, 2);
    s->prefill = rng_below(r, 5) > 0;
    s->ties_high = rng_below(r, 4) == 0;
    s->sink = rng_below(r, 3) ? 0 : (int)rng_below(r, 5);
    s->recent = rng_below(r, 2) ? 0 : (int)rng_below(r, 12);
    if (rng_below(r, 3)) s->slack = 1 + (int)rng_below(r, rng_below(r, 2) ? 2 : 12);
    else s->every = 1 + (int)rng_below(r, 9);
    s->n_tiers = 1 + (int)rng_below(r, 3);
    if (s->n_tiers == 3) s->sink += s->sink == 0, s->recent += s->recent == 0;
}

static void to_yaml(const setup *s, char *out, size_t cap) {
    static const char *const groups[] = {"mean", "max", "sum"}, *const units[] = {"tokens", "ratio", "bytes"};
    static const char *const live[] = {"add", "max", "last", "add"}, *const reduces[] = {"sum", "mean", "max"};
    static const char *const tiers[] = {"tiers: [f16]", "tiers: [f16, k8v4], tier: {uniform: {format: k8v4}}",
                                        "tiers: [f16, k8v4, k4v2], tier: {by_flag: {important: k4v2, sink: k8v4, recent: f16}}"};
    char score[200] = "recency", quota[160] = "fixed";
    if (of_window(s))
        snprintf(score, sizeof score, "{window: {rows: 1, reduce: %s, group: %s, sets: %s, force_window: false, live: %s}}", is_mean(s) ? "mean" : "sum",
                 groups[s->group_kind], s->per_layer ? "layer" : "head", live[s->score]);
    else if (has_column(s))
        snprintf(score, sizeof score, "{column: {reduce: %s, group: %s, live: true}}", reduces[s->score - COLUMN_SUM], groups[s->group_kind]);
    if (s->quota >= BLEND && s->quota <= FLOOR)
        snprintf(quota, sizeof quota, "{adaptive: {mode: %s, alpha: %g, normalize: %s, skip: %d%s}}", s->quota == FLOOR ? "floor" : "blend", s->alpha,
                 s->normalize ? "true" : "false", s->skip, s->quota == FLOOR ? "" : s->quota == BLEND ? ", rounding: source" : ", rounding: exact");
    if (s->quota == PROFILE) snprintf(quota, sizeof quota, "profile");
    else if (s->quota >= GLOBAL_SEQUENCE) snprintf(quota, sizeof quota, "{global: {over: %s}}", s->quota == GLOBAL_LAYER ? "layer" : "sequence");
    snprintf(out, cap, "{budget: {%s: %.17g%s}, score: %s, quota: %s, select: {top_k: {ties: %s}}, protect: {sink: %d, recent: %d}, "
             "trigger: {prefill: %s, %s: %d}, %s}", units[s->unit], s->amount, s->proportional ? ", decode: proportional" : "", score, quota,
             s->ties_high ? "high" : "low", s->sink, s->recent, s->prefill ? "true" : "false", s->slack ? "slack" : "every",
             s->slack ? s->slack : s->every, tiers[s->n_tiers - 1]);
}

/* ---- the definitions ---- */

static float value(rng *r, const setup *s) { return s->coarse ? (float)rng_below(r, 6) / 8 : (float)rng_uniform(r); }

static float group_of(const setup *s, const float *x, size_t stride) {
    float sum = x[0], max = x[0];
    for (int m = 1; m < s->group; m++) {
        sum += x[(size_t)m * stride];
        max = fmaxf(max, x[(size_t)m * stride]);
    }
    return s->group_kind == 1 ? max : s->group_kind == 2 ? sum : sum / (float)s->group;
}

static bool is_recent(const setup *s, int pos, int n) { return pos >= n - s->recent; }
static bool is_protected(const setup *s, int pos, int n) { return pos < s->sink || is_recent(s, pos, n); }

static int budget_of(const setup *s, const policy *p, const dense *x) {
    bool clamped;
    if (s->unit == BYTES) return budget_kept(p, 0, x->n_prompt, x->n, &clamped); /* judged by test_policy_decode */
    int n_ref = s->proportional ? x->n : x->n_prompt, least = 0;
    for (int i = 0; i < x->n; i++) least += is_protected(s, i, x->n);
    int k = s->unit == TOKENS ? (int)s->amount : (int)(n_ref * (1 - (1 - s->amount)));
    k = k < least ? least : k;
    k = k < 1 ? 1 : k;
    return k < x->n ? k : x->n;
}

typedef struct item { int class, pos, head; float score; bool high; } item; /* class 2 protected, 1 safe */

static int best_first(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->class != y->class) return y->class - x->class;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    if (x->pos != y->pos) return x->high ? y->pos - x->pos : x->pos - y->pos;
    return x->head - y->head;
}

/* Items of heads lo .. hi - 1, best first; scores times weight[head]. */
static int rank(const setup *s, const dense *x, float (*score)[MAX_N], const float *weight, int lo, int hi, item *out) {
    int n = 0;
    for (int c = lo; c < hi; c++)
        for (int i = 0; i < x->n; i++)
            if (x->here[c][i]) out[n++] = (item){is_protected(s, i, x->n) ? 2 : 0, i, c, score[c][i] * (weight ? weight[c] : 1), s->ties_high};
    qsort(out, (size_t)n, sizeof *out, best_first);
    return n;
}

static int count_here(const dense *x, int c) {
    int n = 0;
    for (int i = 0; i < x->n; i++) n += x->here[c][i];
    return n;
}

/* Heads lo .. hi - 1 share what fixed quotas would give them. */
static void shared_quotas(const setup *s, const dense *x, float (*score)[MAX_N], int kept, int lo, int hi, int *quota) {
    static item all[MAX_HEADS * MAX_N], own[MAX_N];
    int heads = hi - lo, n_protected = 0, base;
    float weight[MAX_HEADS];
    for (int i = 0; i < x->n; i++) n_protected += is_protected(s, i, x->n);
    base = kept - n_protected;
    bool adaptive = s->quota >= BLEND && s->quota <= FLOOR, skipped = adaptive && lo / s->n_kv < s->skip;
    int n_all = 0;
    for (int c = lo; c < hi; c++) {
        int n = rank(s, x, score, NULL, c, c + 1, own);
        double best = 0, sum = 0;
        for (int i = n_protected; i < n; i++) {
            sum += (double)own[i].score;
            if (i < n_protected + base) best += (double)own[i].score;
        }
        weight[c] = s->normalize && adaptive && base > 0 && base < n - n_protected && sum > 0 ? (float)(best / sum) : 1;
        n_all += n;
        quota[c] = n < kept ? n : kept;
    }
    if (base <= 0 || skipped) return;
    bool all_stay = n_all <= heads * kept;
    for (int c = lo; c < hi && all_stay; c++) quota[c] = count_here(x, c);
    if (all_stay) return;
    int n = 0, safe = s->quota == FLOOR && s->alpha > 0 ? (int)fmax(1, floor(kept * s->alpha)) : 0;
    for (int c = lo; c < hi; c++) {
        int m = rank(s, x, score, adaptive ? weight : NULL, c, c + 1, own);
        for (int i = 0; i < m; i++) {
            if (i < safe && own[i].class == 0) own[i].class = 1;
            all[n++] = own[i];
        }
        quota[c] = 0;
    }
    for (int i = 0; i < n; i++) all[i].class = all[i].class > 0; /* protected and safe ones together */
    qsort(all, (size_t)n, sizeof *all, best_first);
    for (int i = 0; i < heads * kept; i++) quota[all[i].head]++;
    if (s->quota != BLEND && s->quota != BLEND_EXACT) return;
    double part[MAX_HEADS];
    int left = heads * base;
    for (int c = lo; c < hi; c++) {
        int free_quota = quota[c] - n_protected, room = count_here(x, c) - n_protected;
        if (s->quota == BLEND) {
            int q = (int)nearbyint(free_quota * (1 - s->alpha) + floor(s->alpha * base));
            quota[c] = n_protected + (q < room ? q : room);
            continue;
        }
        part[c] = free_quota * (1 - s->alpha) + s->alpha * base;
        int q = (int)part[c];
        part[c] -= q;
        quota[c] = n_protected + (q < room ? q : room);
        left -= q < room ? q : room;
    }
    while (s->quota == BLEND_EXACT && left-- > 0) {
        int best = -1;
        for (int c = lo; c < hi; c++)
            if (quota[c] < count_here(x, c) && (best < 0 || part[c] > part[best])) best = c;
        if (best < 0) break;
        quota[best]++;
        part[best]--;
    }
}

static void layer_means(const setup *s, const dense *x, float (*score)[MAX_N]) {
    for (int l = 0; l < s->n_layers; l++)
        for (int i = 0; i < x->n; i++) {
            float sum = 0;
            for (int c = l * s->n_kv; c < (l + 1) * s->n_kv; c++) sum += x->here[c][i] ? score[c][i] : 0;
            for (int c = l * s->n_kv; c < (l + 1) * s->n_kv; c++) score[c][i] = sum / (float)s->n_kv;
        }
}

static void scores_of(const setup *s, const dense *x, float (*score)[MAX_N]) {
    for (int c = 0; c < s->n_heads; c++)
        for (int i = 0; i < x->n; i++) {
            if (s->score == RECENCY) score[c][i] = (float)i;
            else if (is_mean(s)) score[c][i] = x->column[c][i] / (float)(x->n - i);
            else score[c][i] = x->column[c][i];
        }
    if (s->per_layer) layer_means(s, x, score);
}

/* Scores become the head's values at the items' ranks; items that went are behind those that are left. */
static void profile_scores(const setup *s, const policy *p, const dense *x, float (*score)[MAX_N]) {
    static item own[MAX_N];
    int n_protected = 0;
    for (int i = 0; i < x->n; i++) n_protected += is_protected(s, i, x->n);
    for (int c = 0; c < s->n_heads; c++) {
        int n = rank(s, x, score, NULL, c, c + 1, own);
        float above = 1;
        for (int i = n_protected; i < n; i++) {
            float v = -head_profile_value(p->profile, c / s->n_kv, c % s->n_kv, i - n_protected, x->n - n_protected);
            score[c][own[i].pos] = above = fminf(v, nextafterf(above, -2));
        }
    }
}

/* Targets of all items that are there. */
static void decide(const setup *s, const policy *p, const dense *x, float (*score)[MAX_N], uint8_t (*target)[MAX_N]) {
    static item own[MAX_N];
    int quota[MAX_HEADS], kept = budget_of(s, p, x), last = s->n_tiers - 1;
    for (int c = 0; c < s->n_heads; c++) quota[c] = count_here(x, c) < kept ? count_here(x, c) : kept;
    if (s->quota == PROFILE) profile_scores(s, p, x, score);
    if (over_sequence(s)) shared_quotas(s, x, score, kept, 0, s->n_heads, quota);
    else if (s->quota != FIXED)
        for (int l = 0; l < s->n_layers; l++) shared_quotas(s, x, score, kept, l * s->n_kv, (l + 1) * s->n_kv, quota);
    for (int c = 0; c < s->n_heads; c++) {
        int n = rank(s, x, score, NULL, c, c + 1, own);
        for (int i = 0; i < n; i++)
            target[c][own[i].pos] = i >= quota[c]                              ? KV_DROP
                                    : is_recent(s, own[i].pos, x->n)           ? 0
                                    : s->n_tiers == 3 && own[i].pos < s->sink ? 1
                                                                              : (uint8_t)last;
    }
}

static bool is_due(const setup *s, const policy *p, const dense *x) {
    if (s->every) return x->n - x->n_last >= s->every;
    int most = 0, waiting = 0, per = over_sequence(s) ? s->n_heads : s->n_kv;
    for (int c = 0; c < s->n_heads; c += per) {
        int sum = 0;
        for (int k = c; k < c + per; k++) sum += count_here(x, k);
        most = sum / per > most ? sum / per : most;
    }
    for (int c = 0; c < s->n_heads; c++) {
        int w = 0;
        for (int i = 0; i < x->n && s->n_tiers > 1; i++)
            w += i >= (x->decided ? x->n_last - s->recent : 0) && !is_recent(s, i, x->n);
        waiting = w > waiting ? w : waiting;
    }
    return most - budget_of(s, p, x) >= s->slack || waiting >= s->slack;
}

/* ---- running the policy ---- */

static void fail_at(const char *what, const dense *x, int c, int i, double got, double want, const char *yaml) {
    fail_msg("%s: prompt %d, last %d, now %d: head %d, position %d: %g instead of %g\n%s", what, x->n_prompt, x->n_last, x->n, c, i, got, want, yaml);
}

static void prefill(rng *r, const setup *s, const policy *p, dense *x, int n, const char *yaml) {
    static float signal[MAX_LAYERS][MAX_KV * MAX_GROUP * MAX_N], live[MAX_HEADS][MAX_N], score[MAX_HEADS][MAX_N];
    static uint8_t got[MAX_LAYERS][MAX_KV * MAX_N], want[MAX_HEADS][MAX_N];
    policy_layer layers[MAX_LAYERS];
    static float scaled[MAX_KV * MAX_GROUP * MAX_N];
    static float own_live[MAX_LAYERS][MAX_KV * MAX_N];
    policy_state *state = x->state;
    memset(x, 0, sizeof *x);
    x->state = state;
    x->n = x->n_prompt = x->n_last = n;
    x->decided = s->prefill;
    for (int l = 0; l < s->n_layers; l++) {
        for (int i = 0; i < s->shape.n_heads * n; i++) signal[l][i] = value(r, s);
        layers[l] = (policy_layer){.layer = l, .n = n, .signal = {signal[l]}, .target = got[l], .live = has_column(s) ? own_live[l] : NULL};
        for (int i = 0; i < s->shape.n_heads * n; i++) scaled[i] = s->score == COLUMN_MEAN ? signal[l][i] / (float)(n - i % n) : signal[l][i];
        for (int h = 0; h < s->n_kv; h++)
            for (int i = 0; i < n; i++) {
                int c = l * s->n_kv + h;
                size_t at = (size_t)(h * s->group * n + i);
                x->here[c][i] = true;
                live[c][i] = group_of(s, signal[l] + at, (size_t)n);
                if (s->score == ADD_MEAN) live[c][i] *= (float)(n - i); /* as if each token from the item on had given it that */
                score[c][i] = s->score == RECENCY ? (float)i : group_of(s, scaled + at, (size_t)n);
            }
    }
    for (int c = 0; c < s->n_heads; c++) memcpy(x->column[c], live[c], sizeof live[c]);
    if (s->per_layer && s->score == ADD_MEAN) layer_means(s, x, score); /* not from columns: x * n / n may round */
    else if (s->per_layer) scores_of(s, x, score);
    if (policy_get_needs(p)->scope == SCOPE_SEQUENCE) assert_int_equal(policy_prefill(p, state, layers, s->n_layers), OK);
    else
        for (int l = 0; l < s->n_layers; l++) assert_int_equal(policy_prefill(p, state, &layers[l], 1), OK);
    memset(want, 0, sizeof want);
    if (s->prefill) decide(s, p, x, score, want);
    for (int c = 0; c < s->n_heads; c++)
        for (int i = 0; i < n; i++) {
            int l = c / s->n_kv, at = c % s->n_kv * n + i;
            if (got[l][at] != want[c][i]) fail_at("target of the prompt", x, c, i, got[l][at], want[c][i], yaml);
            if (has_column(s) && own_live[l][at] != live[c][i]) fail_at("start of a column", x, c, i, (double)own_live[l][at], (double)live[c][i], yaml);
            x->here[c][i] = want[c][i] != KV_DROP;
            x->tier[c][i] = want[c][i];
        }
}

/* One more token: every item receives attention from each query head of its group. */
static void step(rng *r, const setup *s, dense *x) {
    int n = x->n++;
    for (int c = 0; c < s->n_heads; c++) {
        x->here[c][n] = true;
        x->tier[c][n] = 0;
        x->column[c][n] = 0;
        for (int i = 0; i <= n && has_column(s); i++) {
            if (!x->here[c][i]) continue;
            float q[MAX_GROUP] = {0};
            for (int m = 0; m < s->group; m++) q[m] = value(r, s);
            float v = group_of(s, q, 1), *column = &x->column[c][i];
            *column = s->score == LAST ? v : s->score == MAX_OF || s->score == COLUMN_MAX ? fmaxf(*column, v) : *column + v;
        }
    }
}

static void run_decision(rng *r, const setup *s, const policy *p, dense *x, const char *yaml) {
    static policy_columns col[MAX_HEADS];
    static uint32_t pos[MAX_HEADS][MAX_N];
    static uint8_t tier[MAX_HEADS][MAX_N], target[MAX_HEADS][MAX_N], want[MAX_HEADS][MAX_N];
    static float column[MAX_HEADS][MAX_N], score[MAX_HEADS][MAX_N];
    for (int c = 0; c < s->n_heads; c++) {
        int n = 0;
        for (int i = 0; i < x->n; i++)
            if (x->here[c][i]) pos[c][n++] = (uint32_t)i;
        for (int i = n - 1; i > 0; i--) { /* the cache's columns are in no order */
            int j = (int)rng_below(r, (uint32_t)i + 1);
            uint32_t t = pos[c][i];
            pos[c][i] = pos[c][j];
            pos[c][j] = t;
        }
        for (int i = 0; i < n; i++) tier[c][i] = x->tier[c][pos[c][i]], column[c][i] = x->column[c][pos[c][i]];
        col[c] = (policy_columns){c / s->n_kv, c % s->n_kv, n, pos[c], tier[c], column[c], target[c]};
    }
    if (policy_decode(p, x->state, x->n, col)) fail_msg("%s\n%s", err_text(), yaml);
    scores_of(s, x, score);
    decide(s, p, x, score, want);
    for (int c = 0; c < s->n_heads; c++)
        for (int k = 0; k < col[c].n; k++) {
            int i = (int)pos[c][k];
            if (target[c][k] != want[c][i]) fail_at("target", x, c, i, target[c][k], want[c][i], yaml);
            x->here[c][i] = want[c][i] != KV_DROP;
            x->tier[c][i] = want[c][i];
        }
    x->n_last = x->n;
    x->decided = true;
}

static void one_run(rng *r) {
    static dense x[MAX_SEQS];
    setup s;
    char yaml[1000];
    make_setup(r, &s);
    to_yaml(&s, yaml, sizeof yaml);
    policy *p = policy_from_text(s.shape, yaml);
    int n_seqs = 1 + (int)rng_below(r, MAX_SEQS), n_steps = 20 + (int)rng_below(r, 50);
    for (int q = 0; q < n_seqs; q++) {
        assert_int_equal(policy_state_create(p, 1, &x[q].state), OK);
        prefill(r, &s, p, &x[q], 1 + (int)rng_below(r, rng_below(r, 4) ? 75 : 9), yaml);
    }
    for (int i = 0; i < n_steps * n_seqs; i++) {
        dense *y = &x[i % n_seqs];
        int rows = policy_rows_until_due(p, y->state, y->n);
        if ((rows == 0) != is_due(&s, p, y))
            fail_msg("prompt %d, last %d, now %d: due in %d\n%s", y->n_prompt, y->n_last, y->n, rows, yaml);
        if (rows == 0) {
            run_decision(r, &s, p, y, yaml);
            assert_true(policy_rows_until_due(p, y->state, y->n) > 0);
        }
        step(r, &s, y);
    }
    for (int q = 0; q < n_seqs; q++) policy_state_destroy(x[q].state);
    policy_destroy(p);
}

static void long_runs_equal_dense_arrays(void **state) {
    rng r = rng_make(seed_get(), 1);
#ifdef __SANITIZE_ADDRESS__
    int n_runs = 150;
#else
    int n_runs = 2000;
#endif
    for (int round = 0; round < n_runs; round++) one_run(&r);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(long_runs_equal_dense_arrays)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
