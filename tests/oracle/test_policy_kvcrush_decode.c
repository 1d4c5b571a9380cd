/* KVCrush in decode, over long runs against its rules on dense arrays: when decisions are due - not before something exceeds what the last
 * one left -, which items stay and which of them are representatives, per head and in sets that the heads of a layer share. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/naive_kvcrush.h"
#include "tests/support/policies.h"
#include "tests/support/seed.h"

enum { LAYERS = 2, COLS = LAYERS * CRUSH_KV, N_RUNS = 250 };

typedef struct setup {
    crush_setup crush;
    bool shared, adaptive, tiers;
    int slack, every, tokens;
} setup;

typedef struct sequence {
    bool here[COLS][CRUSH_N];
    float column[COLS][CRUSH_N];
    uint8_t tier[COLS][CRUSH_N];
    int n, n_prompt, n_last, left; /* left: items beyond the budget after the last decision, of the fullest layer's mean head */
} sequence;

static void make_setup(rng *r, setup *s) {
    memset(s, 0, sizeof *s);
    s->crush.n_kv = 1 + (int)rng_below(r, CRUSH_KV);
    s->crush.group = 1;
    crush_random(r, true, &s->crush);
    s->shared = rng_below(r, 3) == 0;
    s->adaptive = !s->shared && rng_below(r, 3) == 0;
    s->tiers = rng_below(r, 2);
    s->tokens = 1 + (int)rng_below(r, 50);
    if (rng_below(r, 3)) s->slack = 1 + (int)rng_below(r, 20);
    else s->every = 1 + (int)rng_below(r, 9);
}

static policy *make_policy(const setup *s, bool crushed) {
    char yaml[1400], crush[700], trigger[32];
    const crush_setup *c = &s->crush;
    crush_yaml(c, crush, sizeof crush);
    snprintf(trigger, sizeof trigger, s->slack ? "slack: %d" : "every: %d", s->slack ? s->slack : s->every);
    snprintf(yaml, sizeof yaml,
             "{budget: {tokens: %d}, protect: {sink: %d, recent: %d}, trigger: {%s}, quota: %s, select: %s%s,\n"
             " score: {window: {rows: 4, group: mean, sets: %s, force_window: false, live: add}}}",
             s->tokens, c->sink, c->recent, trigger, s->adaptive ? "{adaptive: {mode: floor, alpha: 0.3}}" : "fixed", crushed ? crush : "top_k",
             crushed && s->tiers ? ", tiers: [f16, k8v4], tier: {by_flag: {important: f16, representative: k8v4}}" : "", s->shared ? "layer" : "head");
    return policy_from_text((policy_shape){.n_layers = LAYERS, .n_heads = c->n_kv, .n_kv = c->n_kv, .head_dim = 64, .context = CRUSH_N}, yaml);
}

static int budget_of(const setup *s, int n) {
    int least = 0, k = s->tokens;
    for (int pos = 0; pos < n; pos++) least += pos < s->crush.sink || pos >= n - s->crush.recent;
    k = k > least ? k : least;
    return k < n ? k : n;
}

/* Targets of all items under the policy, which may be the base without representatives; columns in no order. */
static void ask(const policy *p, policy_state *st, const setup *s, const sequence *q, rng *r, uint8_t (*target)[CRUSH_N]) {
    static policy_columns cols[COLS];
    static uint32_t pos[COLS][CRUSH_N];
    static uint8_t tier[COLS][CRUSH_N], out[COLS][CRUSH_N];
    static float score[COLS][CRUSH_N];
    int n_cols = LAYERS * s->crush.n_kv;
    bool tiers = policy_get_needs(p)->n_tiers > 1;
    for (int c = 0; c < n_cols; c++) {
        int n = 0, from = (int)rng_below(r, (uint32_t)q->n);
        for (int i = 0; i < q->n; i++) {
            int at = (i + from) % q->n;
            if (!q->here[c][at]) continue;
            pos[c][n] = (uint32_t)at;
            tier[c][n] = tiers ? q->tier[c][at] : 0;
            score[c][n++] = q->column[c][at];
        }
        cols[c] = (policy_columns){c / s->crush.n_kv, c % s->crush.n_kv, n, pos[c], tier[c], score[c], out[c]};
    }
    assert_int_equal(policy_decode(p, st, q->n, cols), OK);
    for (int c = 0; c < n_cols; c++)
        for (int i = 0; i < cols[c].n; i++) target[c][pos[c][i]] = out[c][i];
}

static void make_case(const setup *s, const sequence *q, int layer, crush_case *c) {
    int n_kv = s->crush.n_kv;
    memset(c, 0, sizeof *c);
    c->layer = layer;
    c->n = q->n;
    c->n_prompt = q->n_prompt;
    c->score_rows = 4;
    c->in_decode = true;
    for (int pos = 0; pos < q->n; pos++) {
        float sum = 0;
        for (int k = 0; k < n_kv; k++) {
            c->here[k][pos] = q->here[layer * n_kv + k][pos];
            c->score[k][pos] = q->column[layer * n_kv + k][pos];
            if (c->here[k][pos]) sum += c->score[k][pos];
        }
        for (int k = 0; k < n_kv && s->shared; k++) c->score[k][pos] = sum / (float)n_kv;
    }
}

/* Compares a decision with the definition and carries it out. */
static void check_decision(const setup *s, sequence *q, uint8_t (*base)[CRUSH_N], uint8_t (*got)[CRUSH_N]) {
    static crush_case c;
    static bool keep[CRUSH_KV][CRUSH_N], rep[CRUSH_KV][CRUSH_N];
    int n_kv = s->crush.n_kv, most = 0;
    for (int l = 0; l < LAYERS; l++) {
        int sum = 0;
        make_case(s, q, l, &c);
        for (int k = 0; k < n_kv; k++)
            for (int pos = 0; pos < q->n; pos++) c.quota[k] += c.here[k][pos] && base[l * n_kv + k][pos] != KV_DROP;
        crush_naive(&s->crush, &c, keep, rep);
        for (int k = 0; k < n_kv; k++)
            for (int pos = 0; pos < q->n; pos++) {
                int col = l * n_kv + k;
                if (!c.here[k][pos]) continue;
                int want = !keep[k][pos] ? KV_DROP : s->tiers && (q->tier[col][pos] || rep[k][pos]); /* precision never comes back */
                if (got[col][pos] != want) {
                    char text[700];
                    crush_yaml(&s->crush, text, sizeof text);
                    fail_msg("prompt %d, now %d, layer %d head %d: position %d goes to %d, not %d, with sink %d, recent %d, quota %d\n%s", q->n_prompt, q->n, l, k,
                             pos, got[col][pos], want, s->crush.sink, s->crush.recent, c.quota[k], text);
                }
                q->here[col][pos] = want != KV_DROP;
                q->tier[col][pos] = want != KV_DROP && want;
                sum += want != KV_DROP;
            }
        most = sum / n_kv > most ? sum / n_kv : most;
    }
    int kept = budget_of(s, q->n);
    q->left = s->crush.on_top && most > kept ? 0 : most - kept;
    q->n_last = q->n;
}

static bool is_due(const setup *s, const sequence *q) {
    if (s->every) return q->n - q->n_last >= s->every;
    int waiting = 0, first_hot = q->n_last - s->crush.recent > 0 ? q->n_last - s->crush.recent : 0;
    if (s->tiers) waiting = q->n - s->crush.recent - first_hot; /* left the window since */
    int over = budget_of(s, q->n_last) + q->left + q->n - q->n_last - budget_of(s, q->n);
    return over >= s->slack || waiting >= s->slack;
}

static void prefill(const setup *s, policy *p, policy_state *st, sequence *q, rng *r, uint8_t (*target)[CRUSH_N]) {
    static float mass[CRUSH_KV * CRUSH_N], live[CRUSH_KV * CRUSH_N];
    static uint8_t out[CRUSH_KV * CRUSH_N];
    int n_kv = s->crush.n_kv;
    for (int l = 0; l < LAYERS; l++) {
        rng own = *r;
        for (int i = 0; i < n_kv * q->n; i++) mass[i] = (float)rng_below(&own, 12) / 16;
        policy_layer layer = {.layer = l, .n = q->n, .signal = {mass}, .target = out, .live = live};
        assert_int_equal(policy_prefill(p, st, &layer, 1), OK);
        for (int i = 0; i < n_kv * q->n; i++) {
            int c = l * n_kv + i / q->n, pos = i % q->n;
            q->here[c][pos] = true;
            q->column[c][pos] = live[i];
            target[c][pos] = out[i];
        }
    }
}

static void one_run(rng *r) {
    static sequence q;
    static uint8_t base[COLS][CRUSH_N], got[COLS][CRUSH_N];
    setup s;
    policy_state *st, *plain_st;
    make_setup(r, &s);
    policy *p = make_policy(&s, true), *plain = make_policy(&s, false);
    memset(&q, 0, sizeof q);
    q.n = q.n_prompt = 1 + (int)rng_below(r, 60);
    assert_int_equal(policy_state_create(p, s.crush.seed, &st), OK);
    assert_int_equal(policy_state_create(plain, s.crush.seed, &plain_st), OK);
    rng own = rng_make(rng_u64(r), 0);
    prefill(&s, plain, plain_st, &q, &own, base);
    prefill(&s, p, st, &q, &own, got);
    check_decision(&s, &q, base, got);
    for (int i = 0; q.n < CRUSH_N; i++) {
        int rows = policy_rows_until_due(p, st, q.n);
        if ((rows == 0) != is_due(&s, &q))
            fail_msg("prompt %d, last %d, now %d: due in %d (slack %d, every %d, left %d)", q.n_prompt, q.n_last, q.n, rows, s.slack, s.every, q.left);
        if (rows == 0) {
            ask(plain, plain_st, &s, &q, r, base);
            ask(p, st, &s, &q, r, got);
            check_decision(&s, &q, base, got);
            assert_true(policy_rows_until_due(p, st, q.n) > 0); /* not again without cause */
        }
        for (int c = 0; c < LAYERS * s.crush.n_kv; c++) {
            q.here[c][q.n] = true;
            for (int pos = 0; pos <= q.n; pos++)
                if (q.here[c][pos]) q.column[c][pos] += (float)rng_below(r, 12) / 16;
        }
        q.n++;
    }
    policy_state_destroy(st);
    policy_state_destroy(plain_st);
    policy_destroy(p);
    policy_destroy(plain);
}

static void long_runs_follow_the_definition(void **state) {
    rng r = rng_make(seed_get(), 1);
    for (int i = 0; i < N_RUNS; i++) one_run(&r);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(long_runs_follow_the_definition)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
