/* A bias per range of positions (score biased) on scores of the prompt and of decode, against sorted lists; and what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "tests/support/policies.h"
#include "tests/support/seed.h"

enum { LAYERS = 2, KV = 2, HEADS = LAYERS * KV, MAX_N = 120, MAX_RANGES = 4 };
static const policy_shape shape = {.n_layers = LAYERS, .n_heads = KV, .n_kv = KV, .head_dim = 64, .context = MAX_N};

typedef struct setup {
    int n_ranges, from[MAX_RANGES], per_head, live, budget, recent;
    double weight, bias[HEADS][MAX_RANGES];
} setup;

static void make_setup(rng *r, setup *s) {
    *s = (setup){.n_ranges = 1 + (int)rng_below(r, MAX_RANGES), .per_head = (int)rng_below(r, 2), .live = (int)rng_below(r, 2),
                 .budget = 1 + (int)rng_below(r, 40), .recent = (int)rng_below(r, 6), .weight = (int)rng_below(r, 5) / 2.0 - 0.5};
    for (int i = 1; i < s->n_ranges; i++) s->from[i] = s->from[i - 1] + 1 + (int)rng_below(r, 30);
    for (int h = 0; h < HEADS; h++)
        for (int i = 0; i < s->n_ranges; i++) s->bias[h][i] = s->per_head || h == 0 ? (int)rng_below(r, 9) / 8.0 - 0.5 : s->bias[0][i];
}

static void add(char *out, size_t cap, const char *text) { snprintf(out + strlen(out), cap - strlen(out), "%s", text); }

static void add_row(char *out, size_t cap, const double *x, int n) {
    for (int i = 0; i < n; i++) {
        char one[40];
        snprintf(one, sizeof one, "%s%g", i ? ", " : "[", x[i]);
        add(out, cap, one);
    }
    add(out, cap, "]");
}

static void to_yaml(const setup *s, char *out, size_t cap) {
    double from[MAX_RANGES];
    for (int i = 0; i < s->n_ranges; i++) from[i] = s->from[i];
    snprintf(out, cap, "{budget: {tokens: %d}, protect: {recent: %d}, %sscore: {biased: {of: {window: {rows: 1, force_window: false%s}}, weight: %g, from: ", s->budget,
             s->recent, s->live ? "trigger: {slack: 1}, " : "", s->live ? ", live: add" : "", s->weight);
    add_row(out, cap, from, s->n_ranges);
    add(out, cap, ", bias: ");
    if (!s->per_head) add_row(out, cap, s->bias[0], s->n_ranges);
    for (int h = 0; h < HEADS && s->per_head; h++) {
        add(out, cap, h == 0 ? "[[" : h % KV ? ", " : ", [");
        add_row(out, cap, s->bias[h], s->n_ranges);
        if (h % KV == KV - 1) add(out, cap, "]");
    }
    add(out, cap, s->per_head ? "]}}}" : "}}}");
}

typedef struct head { bool here[MAX_N]; float sum[MAX_N]; } head;

static float score_of(const setup *s, const head *h, int which, int pos) {
    int r = 0;
    for (int i = 1; i < s->n_ranges; i++) r = s->from[i] <= pos ? i : r;
    return h->sum[pos] + (float)s->weight * (float)s->bias[which][r];
}

/* The best `budget` stay: the newest first, then by score, lower positions first. */
static void choose(const setup *s, head *h, int which, int n) {
    bool stays[MAX_N] = {0};
    int budget = s->budget > s->recent ? s->budget : s->recent;
    for (int i = 0; i < n; i++) {
        int better = 0;
        if (!h->here[i]) continue;
        for (int j = 0; j < n; j++) {
            if (!h->here[j] || j == i) continue;
            bool mine = i >= n - s->recent, its = j >= n - s->recent;
            float a = score_of(s, h, which, i), b = score_of(s, h, which, j);
            better += its != mine ? its : its ? j > i : b > a || (b == a && j < i);
        }
        stays[i] = better < (budget < n ? budget : n);
    }
    memcpy(h->here, stays, sizeof stays);
}

static void compare(const head *h, int which, int n, const uint32_t *pos, const uint8_t *target, const char *yaml) {
    for (int i = 0; i < n; i++)
        if ((target[i] != KV_DROP) != h->here[pos[i]]) fail_msg("head %d position %u %s\n%s", which, pos[i], target[i] != KV_DROP ? "stays" : "goes", yaml);
}

static void random_biases_move_the_choice_as_defined(void **state) {
    rng r = rng_make(seed_get(), 1);
    for (int round = 0; round < 300; round++) {
        setup s;
        char yaml[1200];
        make_setup(&r, &s);
        to_yaml(&s, yaml, sizeof yaml);
        static head h[HEADS];
        static float signal[KV * MAX_N], live[KV * MAX_N], score[HEADS][MAX_N];
        static uint8_t target[HEADS][MAX_N], tier[MAX_N];
        static uint32_t pos[HEADS][MAX_N];
        int n = 10 + (int)rng_below(&r, 60), n_prompt = n;
        memset(h, 0, sizeof h);
        policy *p = policy_from_text(shape, yaml);
        policy_state *st;
        assert_int_equal(policy_state_create(p, 1, &st), OK);
        for (int l = 0; l < LAYERS; l++) {
            static uint8_t to[KV * MAX_N];
            for (int i = 0; i < KV * n; i++) signal[i] = (float)rng_below(&r, 8) / 8;
            policy_layer layer = {.layer = l, .n = n, .signal = {signal}, .target = to, .live = s.live ? live : NULL};
            assert_int_equal(policy_prefill(p, st, &layer, 1), OK);
            for (int k = 0; k < KV; k++) {
                head *own = &h[l * KV + k];
                for (int i = 0; i < n; i++) pos[0][i] = (uint32_t)i, own->here[i] = true, own->sum[i] = signal[k * n + i];
                for (int i = 0; i < n && s.live; i++) assert_true(live[k * n + i] == own->sum[i]); /* without the bias */
                choose(&s, own, l * KV + k, n);
                compare(own, l * KV + k, n, pos[0], to + k * n, yaml);
            }
        }
        for (int t = 0; t < 30 && s.live; t++) {
            policy_columns cols[HEADS];
            for (int k = 0; k < HEADS; k++) {
                h[k].here[n] = true, h[k].sum[n] = 0;
                int at = 0;
                for (int i = 0; i <= n; i++) {
                    if (!h[k].here[i]) continue;
                    h[k].sum[i] += (float)rng_below(&r, 4) / 8;
                    pos[k][at] = (uint32_t)i, score[k][at++] = h[k].sum[i];
                }
                cols[k] = (policy_columns){k / KV, k % KV, at, pos[k], tier, score[k], target[k]};
            }
            n++;
            int due = s.budget > s.recent ? s.budget : s.recent;
            assert_int_equal(policy_rows_until_due(p, st, n) == 0, (n_prompt < due ? n : due + 1) > due);
            if (policy_rows_until_due(p, st, n)) continue;
            assert_int_equal(policy_decode(p, st, n, cols), OK);
            for (int k = 0; k < HEADS; k++) {
                choose(&s, &h[k], k, n);
                compare(&h[k], k, cols[k].n, pos[k], target[k], yaml);
            }
        }
        policy_state_destroy(st);
        policy_destroy(p);
    }
}

static void what_does_not_fit_is_refused(void **state) {
    assert_policy_refused("{budget: 0.5, score: {biased: {from: [0], bias: [0]}}}", 1, "biased|of:");
    assert_policy_refused("{budget: 0.5, score: {biased: {of: random, from: [0], bias: [0]}}}", 1, "biased|random");
    assert_policy_refused("{budget: 0.5, score: {biased: {of: {mean_rank: {window: {}, expected: {}}}, from: [0], bias: [0]}}}", 1, "biased|mean_rank");
    assert_policy_refused("{budget: 0.5, score: {mean_rank: {window: {}, biased: {of: key_norm, from: [0], bias: [0]}}}}", 1, "mean_rank|biased");
    assert_policy_refused("{budget: 0.5, score: {biased: {of: key_norm, from: [1, 2], bias: [0, 1]}}}", 1, "ranges|begin at 0|entry 0 is 1");
    assert_policy_refused("{budget: 0.5, score: {biased: {of: key_norm, from: [0, 9, 9], bias: [0, 1, 2]}}}", 1, "rise|entry 2 is 9");
    assert_policy_refused("{budget: 0.5, score: {biased: {of: key_norm, from: [0, 9], bias: [0]}}}", 1, "`bias`|2 values");
    assert_policy_refused("{budget: 0.5, score: {biased: {of: key_norm, from: [0], bias: [[[0], [0]]]}}}", 1, "1 layers|model 2");
    assert_policy_refused("{budget: 0.5, score: {biased: {of: key_norm, from: [0], bias: [[[0]], [[0]]]}}}", 1, "layer 0|2 KV heads");
    assert_policy_refused("{budget: 0.5, score: {biased: {of: key_norm, from: [0]}}}", 1, "needs `bias`");
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_biases_move_the_choice_as_defined), cmocka_unit_test(what_does_not_fit_is_refused)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
