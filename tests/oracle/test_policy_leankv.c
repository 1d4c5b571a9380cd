/* LeanKV (decide leankv) over long runs against its rules on dense arrays: tiers after the prompt, the victims of every step, per-head
 * counts. Two sequences of unequal lengths run in turn under one policy; each must go its own way. */
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

enum { MAX_N = 160, MAX_LAYERS = 2, MAX_KV = 2, MAX_GROUP = 3, MAX_HEADS = MAX_LAYERS * MAX_KV, N_SEQS = 2 };
enum { CODE, PAPER, V1 };

typedef struct setup {
    policy_shape shape;
    int n_layers, n_kv, group, n_heads;
    int mode, rows, mean, sum_of_max, own, normalise, base, base_kept, worse, stored, rank, ramp, victims, eager;
    double alpha_h, alpha_l, p_h, p_l, min_distance;
    int n_tiers, high, low, window, sink, every;
} setup;

typedef struct dense {
    bool here[MAX_HEADS][MAX_N];
    float sum[MAX_HEADS][MAX_N]; /* attention received so far */
    int tier[MAX_HEADS][MAX_N];
    bool judged[MAX_HEADS][MAX_N];
    int n, n_prompt, n_last;
    bool decided;
    policy_state *state;
} dense;

static void make_setup(rng *r, setup *s) {
    static const int rows[] = {64, 8, 0}, windows[] = {0, 4, 16, 64};
    memset(s, 0, sizeof *s);
    s->n_layers = 1 + (int)rng_below(r, MAX_LAYERS), s->n_kv = 1 + (int)rng_below(r, MAX_KV), s->group = 1 + (int)rng_below(r, MAX_GROUP);
    s->n_heads = s->n_layers * s->n_kv;
    s->shape = (policy_shape){.n_layers = s->n_layers, .n_heads = s->n_kv * s->group, .n_kv = s->n_kv, .head_dim = 64, .context = MAX_N};
    s->mode = (int)rng_below(r, 3);
    bool plain = rng_below(r, 2); /* every option as the mode says */
    s->rows = s->mode == CODE ? 64 : 0, s->own = s->mode != PAPER, s->sum_of_max = s->normalise = s->mode == V1, s->base = s->mode == PAPER;
    s->worse = s->mode == PAPER, s->stored = s->mode == CODE;
    if (!plain) {
        s->rows = rows[rng_below(r, 3)];
        s->own = s->rows || rng_below(r, 2);
        s->mean = rng_below(r, 3) == 0;
        s->sum_of_max = !s->mean && rng_below(r, 2);
        s->normalise = rng_below(r, 3) == 0;
        s->stored = rng_below(r, 2);
        s->rank = rng_below(r, 3) == 0;
        s->base = s->mode == V1 ? 0 : (int)rng_below(r, 3);
        s->worse = s->mode != V1 && rng_below(r, 2);
        s->base_kept = s->mode != V1 && rng_below(r, 2);
        s->ramp = s->mode == V1 ? 0 : (int)rng_below(r, 3);
        s->victims = (int)rng_below(r, 4);
        s->eager = s->mode != V1 && rng_below(r, 3) == 0;
    } else {
        s->victims = 1;
    }
    s->alpha_l = (const double[]){0, 0.05, 0.3, 0.7}[rng_below(r, 4)];
    s->alpha_h = s->alpha_l + (const double[]){0, 0.3, 1, 2}[rng_below(r, 4)];
    s->min_distance = s->ramp ? (s->alpha_h - s->alpha_l) / 2 : 0;
    s->p_h = 0.2 * (int)rng_below(r, 5), s->p_l = s->p_h + 0.2;
    s->n_tiers = 1 + (int)rng_below(r, 3);
    s->low = s->n_tiers - 1;
    s->high = s->n_tiers > 1 ? s->n_tiers - 2 : 0;
    s->window = windows[rng_below(r, 4)];
    s->sink = rng_below(r, 3) ? 0 : (int)rng_below(r, 4);
    s->every = rng_below(r, 3) ? 1 : 1 + (int)rng_below(r, 5);
}

static void to_yaml(const setup *s, char *out, size_t cap) {
    static const char *const modes[] = {"code", "paper", "v1_top_p"}, *const bases[] = {"prompt", "position", "kept"}, *const ramps[] = {"none", "linear", "log"};
    char alphas[400];
    if (s->mode == V1) snprintf(alphas, sizeof alphas, "p_h: %.17g, p_l: %.17g", s->p_h, s->p_l);
    else
        snprintf(alphas, sizeof alphas, "alpha_h: %.17g, alpha_l: %.17g, base: %s, base_decode: %s, equal: %s, ramp: %s, eager: %s%s%.0d", s->alpha_h, s->alpha_l,
                 bases[s->base], s->base_kept ? "kept" : "tokens", s->worse ? "worse" : "better", ramps[s->ramp], s->eager ? "true" : "false", "", 0);
    char distance[60] = "";
    if (s->ramp) snprintf(distance, sizeof distance, ", min_distance: %.17g", s->min_distance);
    snprintf(out, cap,
             "{decide: {leankv: {mode: %s, %s%s,\n  rows: %d, group: %s, order: %s, own: %s, normalise: %s, age: %s, index: %s, victims: %d}},\n protect: {sink: %d, "
             "recent: %d}, tiers: %s, trigger: {every: %d}}",
             modes[s->mode], alphas, distance, s->rows, s->mean ? "mean" : "max", s->sum_of_max ? "sum_of_max" : "max_of_sum", s->own ? "true" : "false",
             s->normalise ? "true" : "false", s->stored ? "stored" : "own", s->rank ? "rank" : "own", s->victims, s->sink, s->window,
             s->n_tiers == 1 ? "[k8v4]" : s->n_tiers == 2 ? "[k8v4, k4v2]" : "[f16, k8v4, k4v2]", s->every);
}

/* ---- the rules ---- */

static int observers(const setup *s, int n_prompt, int j) { /* queries of the prompt that count for token j */
    int n = n_prompt - j - (s->own ? 0 : 1);
    return s->rows && s->rows < n ? s->rows : n;
}

static double alpha_l(const setup *s, int layer) {
    if (!s->ramp || s->n_layers == 1) return s->alpha_l;
    double x = (double)layer / (s->n_layers - 1);
    return s->alpha_l + (s->alpha_h - s->min_distance - s->alpha_l) * (s->ramp == 1 ? x : log2(1 + x));
}

static bool in_share(const float *x, const bool *in, const bool *first, int n, double p, int j) {
    double total = 0, have = 0;
    bool taken[MAX_N] = {false};
    for (int i = 0; i < n; i++) total += in[i] ? (double)x[i] : 0;
    for (int i = 0; i < n; i++) have += in[i] && first[i] ? (double)x[i] : 0;
    while (!first[j] && have < p * total) {
        int best = -1;
        for (int i = 0; i < n; i++)
            if (in[i] && !first[i] && !taken[i] && (best < 0 || x[i] > x[best])) best = i;
        if (best < 0) break;
        taken[best] = true;
        have += (double)x[best];
    }
    return first[j] || taken[j];
}

static void prompt_head(const setup *s, dense *q, int k, const float *signal) {
    int n = q->n_prompt, layer = k / s->n_kv, head = k % s->n_kv, n_kept = 0;
    float sig[MAX_N], raw[MAX_N];
    bool first[MAX_N], all[MAX_N], kept[MAX_N];
    double sum = 0;
    for (int j = 0; j < n; j++) {
        float x = s->sum_of_max ? signal[head * n + j] : 0;
        for (int m = 0; m < s->group && !s->sum_of_max; m++) {
            float y = signal[(head * s->group + m) * n + j];
            x = m == 0 ? y : s->mean ? x + y : y > x ? y : x;
        }
        if (s->mean) x /= (float)s->group;
        raw[j] = x;
        int seen = observers(s, n, j);
        sig[j] = seen > 0 ? x / (float)seen : x;
        sum += (double)sig[j];
        first[j] = j < s->sink || j >= n - s->window || seen < 1;
        all[j] = true;
    }
    for (int j = 0; j < n && s->normalise && sum > 0; j++) sig[j] = (float)((double)sig[j] / sum);
    double a_l = alpha_l(s, layer);
    for (int j = 0; j < n; j++) {
        double per = s->base == 0 ? n : s->base == 1 ? j + 1 : n;
        kept[j] = first[j] || (s->mode == V1 ? in_share(sig, all, first, n, s->p_l, j) : (double)sig[j] >= a_l / per);
        n_kept += kept[j];
    }
    for (int j = 0; j < n; j++) {
        double limit = s->alpha_h / (s->base == 0 ? n : s->base == 1 ? j + 1 : n_kept);
        bool high = first[j] || (s->mode == V1 ? in_share(sig, kept, first, n, s->p_h, j) : s->worse ? (double)sig[j] > limit : (double)sig[j] >= limit);
        q->here[k][j] = kept[j];
        q->tier[k][j] = j >= n - s->window ? 0 : high ? s->high : s->low;
        q->judged[k][j] = j < n - s->window;
        int at = j; /* whose sum it keeps */
        if (s->rank) {
            at = 0; /* its place in rising order of mean, the window as 1 */
            float own = j >= n - s->window ? 1 : sig[j];
            for (int i = 0; i < n; i++) {
                float other = i >= n - s->window ? 1 : sig[i];
                at += other < own || (other == own && i < j);
            }
        }
        q->sum[k][j] = raw[at];
    }
}

static int stored(const setup *s, const dense *q, int j) { return j < q->n_prompt ? q->n_prompt - observers(s, q->n_prompt, j) : j; }
static bool out_of_window(const setup *s, const dense *q, int j) { return q->n - (s->stored ? stored(s, q, j) : j) >= s->window && j >= s->sink; }

static float mean_of(const setup *s, const dense *q, int k, int j) {
    int seen = q->n - stored(s, q, j);
    return seen > 0 ? (float)((double)q->sum[k][j] / seen) : INFINITY;
}

/* Least significant item of a tier outside of the window, or -1. */
static int argmin(const setup *s, const dense *q, int k, int tier) {
    int best = -1;
    for (int j = 0; j < q->n; j++)
        if (q->here[k][j] && q->tier[k][j] == tier && out_of_window(s, q, j) && (best < 0 || mean_of(s, q, k, j) <= mean_of(s, q, k, best))) best = j;
    return best;
}

static void drop(dense *q, int k, int j) { q->here[k][j] = false; }

static void decode_head(const setup *s, dense *q, int k) {
    int held = 0, limit = s->victims ? s->victims : 1 << 20;
    for (int j = 0; j < q->n; j++) held += q->here[k][j];
    double per = s->base_kept ? held : q->n, p = alpha_l(s, k / s->n_kv) / per, a = s->alpha_h / per;
    bool low_there = s->n_tiers > 1, was_low[MAX_N];
    for (int j = 0; j < q->n; j++) {
        was_low[j] = q->here[k][j] && low_there && q->tier[k][j] == s->low;
        if (q->here[k][j] && q->tier[k][j] == 0 && s->high && out_of_window(s, q, j)) q->tier[k][j] = s->high;
    }
#define IS_HIGH(m) (s->worse ? (double)(m) > a : (double)(m) >= a)
    if (s->mode == PAPER)
        for (int c = 0; c < q->n; c++) { /* tokens that leave the window, oldest first */
            if (!q->here[k][c] || q->judged[k][c] || q->n - c < s->window || c < s->sink) continue;
            float m = mean_of(s, q, k, c);
            q->judged[k][c] = true;
            if (IS_HIGH(m) || ((double)m >= p && !low_there)) {
                q->tier[k][c] = s->high;
                for (int i = 0; i < limit; i++) {
                    int v = argmin(s, q, k, s->high);
                    if (v < 0 || IS_HIGH(mean_of(s, q, k, v))) break;
                    if ((double)mean_of(s, q, k, v) < p) drop(q, k, v);
                    else if (low_there) q->tier[k][v] = s->low;
                    else break;
                }
            } else if ((double)m >= p) {
                q->tier[k][c] = s->low;
                for (int i = 0; i < limit; i++) {
                    int v = argmin(s, q, k, s->low);
                    if (v < 0 || (double)mean_of(s, q, k, v) >= p) break;
                    drop(q, k, v);
                }
            } else {
                drop(q, k, c);
            }
        }
    else
        for (int i = 0; i < limit; i++) {
            int h = argmin(s, q, k, s->high), l = low_there ? argmin(s, q, k, s->low) : -1;
            double m_h = h < 0 ? INFINITY : (double)mean_of(s, q, k, h), m_l = l < 0 ? INFINITY : (double)mean_of(s, q, k, l);
            if (s->mode == CODE) {
                if (h >= 0 && m_h < p && m_h < m_l) drop(q, k, h);
                else if (h >= 0 && low_there && !IS_HIGH(m_h)) {
                    q->tier[k][h] = s->low;
                    if (m_l < p) drop(q, k, l);
                } else break;
            } else {
                double total = 0;
                for (int j = 0; j < q->n; j++)
                    if (q->here[k][j] && isfinite(mean_of(s, q, k, j))) total += (double)mean_of(s, q, k, j);
                if (!s->normalise) total = 1;
                int v = h < 0 || m_l < m_h ? l : h;
                if (v >= 0 && fmin(m_h, m_l) < (1 - s->p_l) * total) drop(q, k, v);
                else if (h >= 0 && low_there && m_h < (1 - s->p_h) * total) q->tier[k][h] = s->low;
                else break;
            }
        }
    for (int j = 0; j < q->n && s->eager; j++)
        if (q->here[k][j] && was_low[j] && out_of_window(s, q, j) && (double)mean_of(s, q, k, j) < p) drop(q, k, j);
}

/* ---- the comparison ---- */

static void compare(const setup *s, const dense *q, int k, int n_cols, const int *pos, const uint8_t *target, const char *when, const char *yaml) {
    for (int i = 0; i < n_cols; i++) {
        int j = pos[i], want = q->here[k][j] ? q->tier[k][j] : KV_DROP;
        if (target[i] != want)
            fail_msg("%s, %d tokens of which %d in the prompt: head %d position %d goes to %d instead of %d\n%s", when, q->n, q->n_prompt, k, j, target[i], want, yaml);
    }
}

static float attention(rng *r, bool coarse) { return coarse ? (float)rng_below(r, 5) / 64 : (float)(pow(rng_uniform(r), 6) / 8); }

static void start(const setup *s, rng *r, dense *q, const policy *p, bool coarse, const char *yaml) {
    static float signal[MAX_LAYERS][MAX_KV * MAX_GROUP * MAX_N], live[MAX_KV * MAX_N];
    static uint8_t target[MAX_KV * MAX_N];
    memset(q, 0, sizeof *q);
    q->n = q->n_prompt = 1 + (int)rng_below(r, 90);
    q->n_last = q->n;
    assert_int_equal(policy_state_create(p, 1, &q->state), OK);
    int pos[MAX_N];
    for (int j = 0; j < q->n; j++) pos[j] = j;
    for (int l = 0; l < s->n_layers; l++) {
        for (int j = 0; j < s->n_kv * s->group * q->n; j++) signal[l][j] = attention(r, coarse) * (float)(1 + (int)rng_below(r, 20));
        policy_layer layer = {.layer = l, .n = q->n, .signal = {signal[l]}, .target = target, .live = live};
        assert_int_equal(policy_prefill(p, q->state, &layer, 1), OK);
        for (int h = 0; h < s->n_kv; h++) {
            prompt_head(s, q, l * s->n_kv + h, signal[l]);
            compare(s, q, l * s->n_kv + h, q->n, pos, target + h * q->n, "prompt", yaml);
            for (int j = 0; j < q->n; j++)
                if (live[h * q->n + j] != q->sum[l * s->n_kv + h][j])
                    fail_msg("head %d position %d starts from %g instead of %g\n%s", h, j, (double)live[h * q->n + j],
                             (double)q->sum[l * s->n_kv + h][j], yaml);
        }
    }
}

/* Before a token is appended: the decision if one is due. */
static int step(const setup *s, rng *r, dense *q, const policy *p, bool coarse, const char *yaml) {
    static uint32_t pos[MAX_HEADS][MAX_N];
    static uint8_t tier[MAX_HEADS][MAX_N], target[MAX_HEADS][MAX_N];
    static float score[MAX_HEADS][MAX_N];
    int order[MAX_N], changed = 0;
    policy_columns cols[MAX_HEADS];
    bool due = policy_rows_until_due(p, q->state, q->n) == 0, want_due = !q->decided || q->n - q->n_last >= s->every;
    if (due != want_due) fail_msg("%d tokens, last decision at %d: due %d instead of %d\n%s", q->n, q->n_last, due, want_due, yaml);
    if (due) {
        for (int k = 0; k < s->n_heads; k++) {
            int n = 0;
            for (int j = 0; j < q->n; j++)
                if (q->here[k][j]) order[n++] = j;
            for (int i = n - 1; i > 0; i--) { /* items lie in any order */
                int o = (int)rng_below(r, (uint32_t)i + 1), t = order[i];
                order[i] = order[o], order[o] = t;
            }
            for (int i = 0; i < n; i++) pos[k][i] = (uint32_t)order[i], tier[k][i] = (uint8_t)q->tier[k][order[i]], score[k][i] = q->sum[k][order[i]];
            cols[k] = (policy_columns){k / s->n_kv, k % s->n_kv, n, pos[k], tier[k], score[k], target[k]};
        }
        assert_int_equal(policy_decode(p, q->state, q->n, cols), OK);
        for (int k = 0; k < s->n_heads; k++) {
            decode_head(s, q, k);
            int at[MAX_N];
            for (int i = 0; i < cols[k].n; i++) at[i] = (int)pos[k][i], changed += target[k][i] != tier[k][i];
            compare(s, q, k, cols[k].n, at, target[k], "decode", yaml);
        }
        q->decided = true;
        q->n_last = q->n;
    }
    for (int k = 0; k < s->n_heads; k++) {
        q->here[k][q->n] = true, q->tier[k][q->n] = 0, q->sum[k][q->n] = 0, q->judged[k][q->n] = false;
        for (int j = 0; j <= q->n; j++) /* attention of the new token */
            if (q->here[k][j]) q->sum[k][j] += attention(r, coarse) / (1 + (float)(q->n - j) / 16);
    }
    q->n++;
    return changed;
}

static void random_runs_equal_their_rules(void **state) {
    rng r = rng_make(seed_get(), 1);
    static dense seqs[N_SEQS];
    long changed[3] = {0};
    for (int round = 0; round < 400; round++) {
        setup s;
        char yaml[1200];
        make_setup(&r, &s);
        to_yaml(&s, yaml, sizeof yaml);
        bool coarse = rng_below(&r, 3) == 0;
        policy *p = policy_from_text(s.shape, yaml);
        for (int i = 0; i < N_SEQS; i++) start(&s, &r, &seqs[i], p, coarse, yaml);
        for (int t = 0; t < 70; t++)
            for (int i = 0; i < N_SEQS; i++) changed[s.mode] += step(&s, &r, &seqs[i], p, coarse, yaml);
        for (int i = 0; i < N_SEQS; i++) policy_state_destroy(seqs[i].state);
        policy_destroy(p);
    }
    for (int mode = 0; mode < 3; mode++) assert_true(changed[mode] > 300);
}

/* All items alike: each decision still takes as many as it may, the newest first. */
static void equal_scores_give_exactly_what_was_asked(void **state) {
    static const struct { const char *options; int victims; bool dropped; } cases[] = {
        {"alpha_h: 1, alpha_l: 0", 1, false}, {"alpha_h: 1, alpha_l: 0, victims: 3", 3, false}, {"alpha_h: 1, alpha_l: 0.9", 1, true},
        {"alpha_h: 1, alpha_l: 0.9, victims: 5", 5, true},
    };
    enum { N = 100, WINDOW = 8 };
    const policy_shape shape = {.n_layers = 1, .n_heads = 2, .n_kv = 2, .head_dim = 64, .context = MAX_N};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        char yaml[300];
        snprintf(yaml, sizeof yaml, "{decide: {leankv: {%s, age: own}}, protect: {recent: %d}, tiers: [k8v4, k4v2], trigger: {every: 1}}", cases[c].options, WINDOW);
        policy *p = policy_from_text(shape, yaml);
        policy_state *st;
        assert_int_equal(policy_state_create(p, 1, &st), OK);
        static float signal[2 * N], live[2 * N], score[2][N];
        static uint8_t to[2 * N], tier[2][N], target[2][N];
        static uint32_t pos[N];
        for (int i = 0; i < 2 * N; i++) signal[i] = 64; /* all in the high tier at first */
        policy_layer layer = {.n = N, .signal = {signal}, .target = to, .live = live};
        assert_int_equal(policy_prefill(p, st, &layer, 1), OK);
        policy_columns cols[2];
        for (int h = 0; h < 2; h++) {
            for (int i = 0; i < N; i++) {
                assert_int_equal(to[h * N + i], 0);
                pos[i] = (uint32_t)i, tier[h][i] = 0;
                score[h][i] = (float)(N - i < 64 ? N - i : 64) / 512; /* means of 1 / 512, below every threshold */
            }
            cols[h] = (policy_columns){0, h, N, pos, tier[h], score[h], target[h]};
        }
        assert_int_equal(policy_decode(p, st, N, cols), OK);
        for (int h = 0; h < 2; h++)
            for (int i = 0; i < N; i++) {
                bool taken = i <= N - WINDOW && i > N - WINDOW - cases[c].victims;
                if (target[h][i] != (!taken ? 0 : cases[c].dropped ? KV_DROP : 1)) fail_msg("head %d position %d goes to %d\n%s", h, i, target[h][i], yaml);
            }
        policy_state_destroy(st);
        policy_destroy(p);
    }
}

static void options_that_contradict_are_refused(void **state) {
    assert_policy_refused("{decide: {leankv: {alpha_h: 0.5, alpha_l: 1}}, tiers: [k8v4, k4v2]}", 1, "alpha_l 1|alpha_h 0.5");
    assert_policy_refused("{decide: {leankv: {mode: v1_top_p, alpha_h: 1}}, tiers: [k8v4, k4v2]}", 1, "alpha_h|v1_top_p");
    assert_policy_refused("{decide: {leankv: {p_h: 0.5}}, tiers: [k8v4, k4v2]}", 1, "p_h|mode code");
    assert_policy_refused("{decide: {leankv: {index: rank}}, tiers: [k8v4, k4v2]}", 1, "index: rank|trigger every");
    assert_policy_refused("{decide: leankv, tiers: [k8v4, k4v2], trigger: {slack: 4}}", 1, "slack: 4|every");
    assert_policy_refused("{decide: {leankv: {high: k4v2, low: k8v4}}, tiers: [k8v4, k4v2]}", 1, "k4v2|before|k8v4");
    assert_policy_refused("{decide: leankv, budget: 0.5, tiers: [k8v4, k4v2]}", 1, "budget ratio 0.5|leankv");
    assert_policy_refused("{decide: leankv, select: threshold, tiers: [k8v4, k4v2]}", 1, "select|decide leankv");
    assert_policy_refused("{decide: {leankv: {min_distance: 0.5}}, tiers: [k8v4, k4v2]}", 1, "min_distance|ramp");
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_runs_equal_their_rules), cmocka_unit_test(equal_scores_give_exactly_what_was_asked),
                                       cmocka_unit_test(options_that_contradict_are_refused)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
