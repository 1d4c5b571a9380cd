/* Threshold policies (LeanKV's prompt phase) against their definitions: significance of each item, the tier it reaches, and under a
 * byte budget the smallest factor of the thresholds that fits, found among all factors at which anything changes. */
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

enum { MAX_N = 120, MAX_KV = 3, MAX_GROUP = 4, MAX_LAYERS = 3, MAX_HEADS = MAX_KV * MAX_LAYERS };
static const char *const tier_text[] = {"f16", "k8v4", "k4v2"};
static const char *const bases[] = {"prompt", "position", "kept"};

typedef struct setup {
    policy_shape shape;
    int n, n_layers, n_kv, group;
    int rows, mean, sum_of_max, own, normalise;
    int drops, sel_top_p, sel_base, ramp; /* ramp 0 none, 1 linear, 2 log */
    double alpha, ramp_to, p;
    int n_tiers, top_p, base, worse, recent_tier;
    double value[3];
    int sink, recent;
    double bytes; /* 0: no budget */
} setup;

static double any(rng *r, const double *x, int n) { return x[rng_below(r, (uint32_t)n)]; }

static void make_setup(rng *r, setup *s) {
    memset(s, 0, sizeof *s);
    s->n_kv = 1 + (int)rng_below(r, MAX_KV), s->group = 1 + (int)rng_below(r, MAX_GROUP), s->n_layers = 1 + (int)rng_below(r, MAX_LAYERS);
    s->n = 1 + (int)rng_below(r, rng_below(r, 4) ? MAX_N : 8);
    s->shape = (policy_shape){.n_layers = s->n_layers, .n_heads = s->n_kv * s->group, .n_kv = s->n_kv, .head_dim = 64, .context = MAX_N};
    s->rows = rng_below(r, 3) ? 1 + (int)rng_below(r, 64) : 0;
    s->own = s->rows || rng_below(r, 2);
    s->mean = rng_below(r, 4) == 0;
    s->sum_of_max = !s->mean && rng_below(r, 3) == 0;
    s->normalise = rng_below(r, 4) == 0;
    s->drops = rng_below(r, 4) > 0;
    s->sel_top_p = rng_below(r, 4) == 0;
    s->sel_base = (int)rng_below(r, 3);
    s->alpha = any(r, (const double[]){0, 0.02, 0.5, 1, 3}, 5);
    s->ramp = rng_below(r, 3) ? 0 : 1 + (int)rng_below(r, 2);
    s->ramp_to = any(r, (const double[]){0, 0.5, 2}, 3);
    s->p = (int)rng_below(r, 21) / 20.0;
    s->n_tiers = s->drops ? 1 + (int)rng_below(r, 3) : 2 + (int)rng_below(r, 2);
    s->top_p = rng_below(r, 4) == 0;
    s->base = (int)rng_below(r, 3);
    s->worse = (int)rng_below(r, 2);
    for (int t = s->n_tiers - 2; t >= 0; t--)
        s->value[t] = s->top_p ? (t + 1) * 0.3 : s->value[t + 1] + any(r, (const double[]){0.25, 1, 2}, 3);
    s->recent = rng_below(r, 2) ? (int)rng_below(r, 30) : 0;
    s->sink = rng_below(r, 3) ? 0 : (int)rng_below(r, 5);
    s->recent_tier = s->n_tiers > 1 && s->recent ? (int)rng_below(r, 2) : 0;
    bool scales = s->drops ? !s->sel_top_p || (s->n_tiers > 1 && !s->top_p) : !s->top_p;
    if (scales && rng_below(r, 3) == 0) s->bytes = (1 + (int)rng_below(r, 70)) / 100.0;
    if (s->n_tiers == 1 && s->recent == 0 && s->sink == 0) s->sink = 0;
}

static void to_yaml(const setup *s, char *out, size_t cap) {
    char sel[200] = "all", tier[300] = "uniform", ramp[80] = "", budget[60] = "";
    if (s->ramp) snprintf(ramp, sizeof ramp, ", ramp: %s, ramp_to: %g", s->ramp == 1 ? "linear" : "log", s->ramp_to);
    if (s->drops && s->sel_top_p) snprintf(sel, sizeof sel, "{threshold: {rule: top_p, p: %.17g}}", s->p);
    else if (s->drops) snprintf(sel, sizeof sel, "{threshold: {alpha: %g, base: %s%s}}", s->alpha, bases[s->sel_base], ramp);
    if (s->n_tiers > 1) {
        int used = snprintf(tier, sizeof tier, "{threshold: {rule: %s, base: %s, equal: %s, recent: %s, levels: {", s->top_p ? "top_p" : "alpha",
                            bases[s->base], s->worse ? "worse" : "better", tier_text[s->recent_tier]);
        for (int t = 0; t < s->n_tiers; t++)
            used += snprintf(tier + used, sizeof tier - (size_t)used, "%s%s: %.17g", t ? ", " : "", tier_text[t], s->value[t]);
        snprintf(tier + used, sizeof tier - (size_t)used, "}}}");
    }
    if (s->bytes > 0) snprintf(budget, sizeof budget, "budget: {bytes: %g}, ", s->bytes);
    snprintf(out, cap,
             "{%sscore: {significance: {rows: %d, group: %s, order: %s, own: %s, normalise: %s}},\n select: %s, protect: {sink: %d, recent: %d}, "
             "tiers: [f16%s%s],\n tier: %s}",
             budget, s->rows, s->mean ? "mean" : "max", s->sum_of_max ? "sum_of_max" : "max_of_sum", s->own ? "true" : "false",
             s->normalise ? "true" : "false", sel, s->sink, s->recent, s->n_tiers > 1 ? ", k8v4" : "", s->n_tiers > 2 ? ", k4v2" : "", tier);
}

/* ---- the definitions ---- */

static int n_observers(const setup *s, int j) {
    int later = s->n - 1 - j + s->own;
    return s->rows && later > s->rows ? s->rows : later;
}
static bool is_protected(const setup *s, int j) { return j < s->sink || j >= s->n - s->recent; }
static bool is_first(const setup *s, int j) { return is_protected(s, j) || n_observers(s, j) < 1; }

static void significance(const setup *s, const float *signal, int head, float *out) {
    double sum = 0;
    for (int j = 0; j < s->n; j++) {
        float x = 0;
        if (s->sum_of_max) x = signal[head * s->n + j];
        for (int m = 0; m < s->group && !s->sum_of_max; m++) {
            float y = signal[(head * s->group + m) * s->n + j];
            x = m == 0 ? y : s->mean ? x + y : y > x ? y : x;
        }
        if (s->mean) x /= (float)s->group;
        int n = n_observers(s, j);
        out[j] = n > 0 ? x / (float)n : x;
        sum += (double)out[j];
    }
    for (int j = 0; j < s->n && s->normalise && sum > 0; j++) out[j] = (float)((double)out[j] / sum);
}

/* Is item j one of the smallest set of best items with the share p of the score of those in `in`? */
static bool in_top_p(const setup *s, const float *sig, const bool *in, double p, int j) {
    double total = 0, have = 0;
    for (int i = 0; i < s->n; i++) {
        if (!in[i]) continue;
        total += (double)sig[i];
        if (is_first(s, i)) have += (double)sig[i];
    }
    if (is_first(s, j)) return true;
    bool taken[MAX_N] = {false};
    while (have < p * total) {
        int best = -1;
        for (int i = 0; i < s->n; i++)
            if (in[i] && !is_first(s, i) && !taken[i] && (best < 0 || sig[i] > sig[best])) best = i;
        if (best < 0) break;
        taken[best] = true;
        have += (double)sig[best];
    }
    return taken[j];
}

static double per(const setup *s, int base, int j, int n_there) { return base == 0 ? s->n : base == 1 ? j + 1 : n_there; }

static double alpha_of(const setup *s, int layer) {
    if (!s->ramp || s->n_layers == 1) return s->alpha;
    double x = (double)layer / (s->n_layers - 1);
    return s->alpha + (s->ramp_to - s->alpha) * (s->ramp == 1 ? x : log2(1 + x));
}

static void place_head(const setup *s, const float *sig, int layer, double scale, uint8_t *target) {
    bool in[MAX_N], kept[MAX_N];
    int n_kept = 0;
    for (int j = 0; j < s->n; j++) in[j] = true;
    for (int j = 0; j < s->n; j++) {
        kept[j] = is_first(s, j) || !s->drops;
        if (!kept[j]) kept[j] = s->sel_top_p ? in_top_p(s, sig, in, s->p, j) : (double)sig[j] >= alpha_of(s, layer) * scale / per(s, s->sel_base, j, s->n);
        n_kept += kept[j];
    }
    for (int j = 0; j < s->n; j++) {
        int t = 0;
        for (; t < s->n_tiers - 1 && kept[j]; t++) {
            double limit = s->value[t] * scale / per(s, s->base, j, n_kept);
            if (is_first(s, j) || (s->top_p ? in_top_p(s, sig, kept, s->value[t], j) : s->worse ? (double)sig[j] > limit : (double)sig[j] >= limit)) break;
        }
        if (s->n_tiers > 1 && is_protected(s, j)) t = j >= s->n - s->recent ? s->recent_tier : 0;
        target[j] = kept[j] ? (uint8_t)t : KV_DROP;
    }
}

static double place_all(const setup *s, float (*sig)[MAX_N], double scale, const page_layout *layouts, uint8_t *target) {
    double bytes = 768;
    for (int k = 0; k < s->n_layers * s->n_kv; k++) {
        int count[3] = {0};
        place_head(s, sig[k], k / s->n_kv, scale, target + k * s->n);
        for (int j = 0; j < s->n; j++)
            if (target[k * s->n + j] != KV_DROP) count[target[k * s->n + j]]++;
        for (int t = 0; t < s->n_tiers; t++) {
            const page_layout *l = &layouts[t];
            int pages = (count[t] + l->cap - 1) / l->cap;
            bytes += count[t] * (double)(l->payload_bytes + l->meta_bytes + l->column_bytes) + 20 + (pages ? 4 * (pages + 3 + pages / 16) : 0);
        }
    }
    return bytes;
}

static int rising(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b; }

/* Thresholds at which an item's fate may change; with base kept the count of survivors has every value up to n. */
static int critical_scales(const setup *s, float (*sig)[MAX_N], double *out) {
    int n = 0;
    for (int k = 0; k < s->n_layers * s->n_kv; k++)
        for (int j = 0; j < s->n; j++) {
            double a = alpha_of(s, k / s->n_kv);
            if (s->drops && !s->sel_top_p && a > 0) out[n++] = (double)sig[k][j] * per(s, s->sel_base, j, s->n) / a;
            for (int t = 0; t < s->n_tiers - 1 && !s->top_p; t++) out[n++] = (double)sig[k][j] * per(s, s->base, j, s->n) / s->value[t];
        }
    qsort(out, (size_t)n, sizeof *out, rising);
    return n;
}

static void naive(const setup *s, const policy_needs *needs, const policy_layer *layers, const page_layout *layouts, uint8_t *target, bool *clamped) {
    static float sig[MAX_HEADS][MAX_N];
    static double scales[4 * MAX_HEADS * MAX_N];
    assert_int_equal(needs->n_signals, 1);
    for (int k = 0; k < s->n_layers * s->n_kv; k++) significance(s, layers[k / s->n_kv].signal[0], k % s->n_kv, sig[k]);
    *clamped = false;
    if (s->bytes <= 0) {
        place_all(s, sig, 1, layouts, target);
        return;
    }
    double limit = s->bytes * s->n * 64 * 4 * s->n_layers * s->n_kv;
    if (place_all(s, sig, 0, layouts, target) <= limit) return;
    int n = critical_scales(s, sig, scales);
    for (int i = 0; i < n; i++)
        if (place_all(s, sig, scales[i] * (1 + 1e-8) + 1e-300, layouts, target) <= limit) return;
    *clamped = true;
}

/* ---- the comparison ---- */

static void layouts_of(const policy_needs *needs, page_layout *out) { /* as tests/support/policies.c binds them */
    for (int t = 0; t < needs->n_tiers; t++)
        assert_int_equal(page_layout_make(needs->tiers[t], 64, needs->pos_column ? 4 : 0, needs->score_column, 8192, &out[t]), OK);
}

static void random_decisions_equal_their_definition(void **state) {
    rng r = rng_make(seed_get(), 1);
    size_t plane = MAX_KV * MAX_GROUP * MAX_N;
    float *signals = malloc(sizeof(float) * MAX_LAYERS * plane);
    uint8_t *got = malloc(MAX_HEADS * MAX_N), *want = malloc(MAX_HEADS * MAX_N);
    int n_budgeted = 0;
    for (int round = 0; round < 1500; round++) {
        setup s;
        char yaml[900];
        make_setup(&r, &s);
        if (s.bytes > 0 && s.drops && s.base == 2 && !s.top_p && s.n_tiers > 1) s.base = 0; /* survivors move its thresholds: below */
        if (s.bytes > 0 && s.n > 40) s.n = 40;
        to_yaml(&s, yaml, sizeof yaml);
        policy *p = policy_from_text(s.shape, yaml);
        const policy_needs *needs = policy_get_needs(p);
        page_layout layouts[KV_MAX_TIERS];
        layouts_of(needs, layouts);
        policy_layer layers[MAX_LAYERS];
        bool coarse = s.bytes <= 0 && rng_below(&r, 2); /* few distinct values: ties, scores that equal thresholds */
        for (int l = 0; l < s.n_layers; l++) {
            float *x = signals + (size_t)l * plane;
            for (int j = 0; j < s.shape.n_heads * s.n; j++)
                x[j] = coarse ? (float)rng_below(&r, 6) / 4 : (float)(pow(rng_uniform(&r), 4) * 3) / (float)(s.normalise ? 1 : s.n);
            layers[l] = (policy_layer){.layer = l, .n = s.n, .target = got + l * s.n_kv * s.n, .signal = {x}};
        }
        policy_state *st;
        assert_int_equal(policy_state_create(p, 1, &st), OK);
        if (needs->scope == SCOPE_SEQUENCE) assert_int_equal(policy_prefill(p, st, layers, s.n_layers), OK);
        else
            for (int l = 0; l < s.n_layers; l++) assert_int_equal(policy_prefill(p, st, &layers[l], 1), OK);
        bool clamped, said = policy_state_report(st).budget_clamped;
        naive(&s, needs, layers, layouts, want, &clamped);
        n_budgeted += s.bytes > 0 && !clamped;
        if (said != clamped) fail_msg("round %d: clamped %d instead of %d\n%s", round, said, clamped, yaml);
        for (int i = 0; i < s.n_layers * s.n_kv * s.n; i++)
            if (got[i] != want[i])
                fail_msg("round %d, n %d, %d layers, %d heads in groups of %d: layer %d head %d position %d goes to %d instead of %d\n%s", round, s.n,
                         s.n_layers, s.n_kv, s.group, i / s.n / s.n_kv, i / s.n % s.n_kv, i % s.n, got[i], want[i], yaml);
        policy_state_destroy(st);
        policy_destroy(p);
    }
    assert_true(n_budgeted > 100);
    free(signals);
    free(got);
    free(want);
}

/* alpha_h = alpha_l = 0 keeps everything high; a window as long as the prompt changes nothing, whatever the thresholds. */
static void nothing_is_touched(const char *yaml) {
    enum { N = 50, L = 2, KV = 2, H = 4 };
    policy_shape shape = {.n_layers = L, .n_heads = H, .n_kv = KV, .head_dim = 64, .context = 256};
    policy *p = policy_from_text(shape, yaml);
    rng r = rng_make(seed_get(), 2);
    float x[H * N];
    uint8_t target[KV * N];
    policy_state *st;
    assert_int_equal(policy_state_create(p, 1, &st), OK);
    for (int l = 0; l < L; l++) {
        for (int j = 0; j < H * N; j++) x[j] = rng_below(&r, 3) ? (float)rng_uniform(&r) : 0;
        policy_layer layer = {.layer = l, .n = N, .signal = {x}, .target = target};
        assert_int_equal(policy_prefill(p, st, &layer, 1), OK);
        for (int j = 0; j < KV * N; j++) assert_int_equal(target[j], 0);
    }
    policy_state_destroy(st);
    policy_destroy(p);
}

static void alpha_0_and_a_window_as_long_as_the_prompt_change_nothing(void **state) {
    nothing_is_touched("{score: significance, select: {threshold: {alpha: 0}}, tiers: [k8v4, k4v2], tier: {threshold: {levels: {k8v4: 0, k4v2: 0}}}}");
    nothing_is_touched("{score: significance, select: {threshold: {alpha: 5}}, protect: {recent: 50}, tiers: [k8v4, k4v2], tier: {threshold: {levels: "
                       "{k8v4: 9, k4v2: 0}}}}");
}

static void what_does_not_fit_together_is_refused(void **state) {
    assert_policy_refused("{budget: 0.5, score: significance, select: threshold}", 1, "select threshold|bytes");
    assert_policy_refused("{budget: {bytes: 0.5}, score: significance, select: {threshold: {rule: top_p}}}", 1, "select threshold|rule alpha");
    assert_policy_refused("{budget: {bytes: 0.5}, score: significance, select: top_k, tiers: [k8v4, k4v2],\n tier: {threshold: {levels: {k8v4: 1, k4v2: 0}}}}",
                          1, "tier threshold|select: threshold");
    assert_policy_refused("{score: {significance: {own: false}}, select: threshold}", 1, "own: false|rows: 0");
    assert_policy_refused("{score: {significance: {order: sum_of_max, group: mean}}, select: threshold}", 1, "sum_of_max|group: max");
    assert_policy_refused("{score: significance, select: {threshold: {p: 0.5}}}", 1, "rule: top_p");
    assert_policy_refused("{score: significance, select: {threshold: {ramp: linear}}}", 1, "ramp_to");
    assert_policy_refused("{score: significance, tiers: [k8v4, k4v2],\n tier: {threshold: {levels: {k8v4: 1, k4v2: 0.5}}}}", 2, "last|k4v2|0.5");
    assert_policy_refused("{score: significance, tiers: [f16, k8v4, k4v2],\n tier: {threshold: {levels: {f16: 1, k8v4: 2, k4v2: 0}}}}", 2, "best first");
    assert_policy_refused("{tiers: [k8v4, k4v2],\n tier: {threshold: {levels: {k8v4: 1, k4v2: 0}}}}", 2, "no score stage");
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_decisions_equal_their_definition),
                                       cmocka_unit_test(alpha_0_and_a_window_as_long_as_the_prompt_change_nothing),
                                       cmocka_unit_test(what_does_not_fit_together_is_refused)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
