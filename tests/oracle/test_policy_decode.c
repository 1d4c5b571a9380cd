/* Decode over long runs against a list of what stays: when decisions are due, what they drop and where the rest goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "tests/support/policies.h"
#include "tests/support/seed.h"

enum { N_LAYERS = 2, N_KV = 2, N_COLS = N_LAYERS * N_KV, CONTEXT = 512 };
static const policy_shape shape = {.n_layers = N_LAYERS, .n_heads = 2 * N_KV, .n_kv = N_KV, .head_dim = 64, .context = CONTEXT};

typedef struct setup {
    enum { KEEP, RECENCY, RANDOM, WINDOW } score;
    enum { RATIO, TOKENS, BYTES } unit;
    double amount;
    bool proportional, prefill;
    int sink, recent, slack, every;
    enum { UNIFORM, BY_FLAG, BY_RANK } tier;
    int n_tiers, t_recent, t_sink, t_after;
    double item_bytes[3];
    int page_items[3];
} setup;

typedef struct item { uint32_t pos; uint8_t tier; bool placed; } item; /* placed: has been given its tier outside `recent` */
typedef struct model { /* one sequence */
    item items[N_COLS][CONTEXT];
    int n[N_COLS], n_tokens, n_prompt, n_last;
    uint64_t seed;
} model;

static const char *const tier_text[] = {"f16", "k8v4", "k4v2"};

static void make_setup(rng *r, setup *s) {
    memset(s, 0, sizeof *s);
    s->score = (int)rng_below(r, 4);
    s->unit = (int)rng_below(r, 3);
    s->amount = s->unit == TOKENS ? 1 + (int)rng_below(r, 60) : (5 + (int)rng_below(r, 90)) / 100.0;
    s->proportional = s->unit != TOKENS && rng_below(r, 2) && (s->score == RECENCY || s->score == RANDOM);
    s->sink = rng_below(r, 2) ? (int)rng_below(r, 6) : 0;
    s->recent = rng_below(r, 2) ? (int)rng_below(r, 30) : 0;
    s->n_tiers = 1 + (int)rng_below(r, 3);
    if (s->score == KEEP && s->n_tiers == 1) s->n_tiers = 2;
    if (s->score == WINDOW && s->n_tiers == 1) s->n_tiers = 2;
    s->tier = s->n_tiers == 1 ? UNIFORM : (int)rng_below(r, 3);
    if (s->tier == BY_RANK && s->score == KEEP) s->tier = BY_FLAG;
    if (s->tier == BY_RANK && s->unit == BYTES) s->unit = RATIO;
    s->prefill = s->tier == BY_RANK || s->score == WINDOW || rng_below(r, 5) > 0;
    if (rng_below(r, 3)) s->slack = 1 + (int)rng_below(r, 20);
    else s->every = 1 + (int)rng_below(r, 20);
    if (s->tier == UNIFORM) {
        if (s->n_tiers == 3) s->n_tiers = 2;
        s->t_after = s->t_sink = s->n_tiers - 1;
        if (s->score == KEEP) s->sink = 0;
    } else {
        s->sink = s->sink ? s->sink : 2;
        s->recent = s->recent ? s->recent : 7;
        s->t_after = s->n_tiers - 1;
        s->t_sink = s->n_tiers == 3 ? 1 : (int)rng_below(r, 2);
        s->t_recent = s->n_tiers == 3 ? (int)rng_below(r, 2) : 0;
    }
}

static void to_yaml(const setup *s, char *out, size_t cap) {
    static const char *const scores[] = {"", "recency", "random", "{window: {rows: 4}}"};
    char budget[160] = "", tier[200] = "uniform", trigger[80];
    if (s->score != KEEP)
        snprintf(budget, sizeof budget, "budget: {%s: %.17g%s}, score: %s, ", s->unit == RATIO ? "ratio" : s->unit == TOKENS ? "tokens" : "bytes",
                 s->amount, s->proportional ? ", decode: proportional" : "", scores[s->score]);
    const char *after = tier_text[s->t_after], *sink = tier_text[s->t_sink], *recent = tier_text[s->t_recent];
    if (s->tier == UNIFORM) snprintf(tier, sizeof tier, "{uniform: {format: %s}}", after);
    if (s->tier == BY_FLAG) snprintf(tier, sizeof tier, "{by_flag: {important: %s, sink: %s, recent: %s}}", after, sink, recent);
    if (s->tier == BY_RANK)
        snprintf(tier, sizeof tier, "{by_rank: {shares: {f16: 0.2, %s}, sink: %s, recent: %s, after_recent: %s}}",
                 s->n_tiers == 3 ? "k8v4: 0.3, k4v2: 0.5" : "k8v4: 0.8", sink, recent, after);
    snprintf(trigger, sizeof trigger, "{prefill: %s, %s: %d}", s->prefill ? "true" : "false", s->slack ? "slack" : "every",
             s->slack ? s->slack : s->every);
    snprintf(out, cap, "{%sprotect: {sink: %d, recent: %d}, trigger: %s,\n tiers: [f16%s%s], tier: %s}", budget, s->sink, s->recent, trigger,
             s->n_tiers > 1 ? ", k8v4" : "", s->n_tiers > 2 ? ", k4v2" : "", tier);
}

/* ---- the list model ---- */

static bool drops(const setup *s) { return s->score == RECENCY || s->score == RANDOM; }
static bool is_recent(const setup *s, int pos, int n) { return pos >= n - s->recent; }
static bool is_protected(const setup *s, int pos, int n) { return pos < s->sink || is_recent(s, pos, n); }

static double bytes_of(const setup *s, int n, int k) {
    int others = k, count[3] = {0};
    for (int pos = 0; pos < n; pos++) {
        if (!is_protected(s, pos, n)) continue;
        count[is_recent(s, pos, n) ? s->t_recent : s->t_sink]++;
        others--;
    }
    if (others > 0) count[s->t_after] += others;
    double bytes = 768.0 / N_COLS;
    for (int t = 0; t < s->n_tiers; t++) {
        int pages = (count[t] + s->page_items[t] - 1) / s->page_items[t];
        bytes += count[t] * s->item_bytes[t] + 20 + (pages ? 4 * (pages + 3 + pages / 16) : 0);
    }
    return bytes;
}

static int budget_of(const setup *s, int n_prompt, int n) {
    int n_ref = s->proportional ? n : n_prompt, least = 0, k = 0;
    for (int pos = 0; pos < n; pos++) least += is_protected(s, pos, n);
    least = least > 1 ? least : 1;
    if (s->unit == RATIO) k = (int)(n_ref * (1 - (1 - s->amount)));
    if (s->unit == TOKENS) k = (int)s->amount;
    if (s->unit == BYTES)
        for (k = n; k > least && bytes_of(s, n, k) > s->amount * n_ref * 256; k--) continue;
    k = k > least ? k : least;
    return k < n ? k : n;
}

static bool due(const setup *s, const model *m) {
    if (s->every) return m->n_tokens - m->n_last >= s->every;
    bool moves = s->t_after || s->t_recent || s->t_sink;
    int most = 0, waiting = 0;
    for (int c = 0; c < N_COLS; c++) {
        int w = 0;
        for (int i = 0; i < m->n[c]; i++) w += !m->items[c][i].placed && !is_recent(s, (int)m->items[c][i].pos, m->n_tokens);
        waiting = w > waiting ? w : waiting;
        most = m->n[c] > most ? m->n[c] : most;
    }
    return (drops(s) && most - budget_of(s, m->n_prompt, m->n_tokens) >= s->slack) || (moves && waiting >= s->slack);
}

static double score_of(const setup *s, const model *m, int col, uint32_t pos) {
    if (s->score == RECENCY) return pos;
    return (double)(rng_at(m->seed, (uint64_t)col, pos) >> 40);
}

/* How many items of the list come before item i: protected ones first, then by score, lower positions first. */
static int rank_of(const setup *s, const model *m, int c, int i) {
    const item *list = m->items[c];
    bool prot = is_protected(s, (int)list[i].pos, m->n_tokens);
    int rank = 0;
    for (int j = 0; j < m->n[c]; j++) {
        bool other = is_protected(s, (int)list[j].pos, m->n_tokens);
        double a = score_of(s, m, c, list[i].pos), b = score_of(s, m, c, list[j].pos);
        if (other != prot) rank += other;
        else if (!prot) rank += b > a || (b == a && list[j].pos < list[i].pos);
    }
    return rank;
}

static uint8_t expected(const setup *s, const model *m, int c, int i) {
    const item *it = &m->items[c][i];
    int pos = (int)it->pos;
    if (drops(s) && !is_protected(s, pos, m->n_tokens) && rank_of(s, m, c, i) >= budget_of(s, m->n_prompt, m->n_tokens)) return KV_DROP;
    if (s->tier == BY_RANK && it->placed) return it->tier;
    return (uint8_t)(is_recent(s, pos, m->n_tokens) ? s->t_recent : pos < s->sink ? s->t_sink : s->t_after);
}

/* ---- running a policy on it ---- */

static float *signal;

static void prefill(const setup *s, const policy *p, policy_state *st, model *m, int n, uint64_t seed) {
    memset(m, 0, sizeof *m);
    m->n_tokens = m->n_prompt = m->n_last = n;
    m->seed = seed;
    uint8_t *target = malloc((size_t)(N_KV * n));
    for (int l = 0; l < N_LAYERS; l++) {
        policy_layer layer = {.layer = l, .n = n, .signal = {signal}, .target = target};
        assert_int_equal(policy_prefill(p, st, &layer, 1), OK);
        for (int i = 0; i < N_KV * n; i++) {
            int c = l * N_KV + i / n, pos = i % n;
            if (!s->prefill) assert_int_equal(target[i], 0);
            if (target[i] != KV_DROP)
                m->items[c][m->n[c]++] = (item){(uint32_t)pos, target[i], s->prefill && !is_recent(s, pos, n)};
        }
    }
    free(target);
}

typedef struct columns {
    policy_columns col[N_COLS];
    uint32_t pos[N_COLS][CONTEXT];
    uint8_t tier[N_COLS][CONTEXT], target[N_COLS][CONTEXT];
} columns;

static void decide(const policy *p, policy_state *st, model *m, columns *x) {
    for (int c = 0; c < N_COLS; c++) {
        x->col[c] = (policy_columns){c / N_KV, c % N_KV, m->n[c], x->pos[c], x->tier[c], NULL, x->target[c]};
        for (int i = 0; i < m->n[c]; i++) x->pos[c][i] = m->items[c][i].pos, x->tier[c][i] = m->items[c][i].tier;
    }
    mem_fail_nth(1); /* a decision never grows the heap */
    err e = policy_decode(p, st, m->n_tokens, x->col);
    mem_fail_nth(0);
    if (e) fail_msg("%s", err_text());
}

static void carry_out(const setup *s, model *m, const columns *x) {
    for (int c = 0; c < N_COLS; c++) {
        int k = 0;
        for (int i = 0; i < m->n[c]; i++) {
            item it = m->items[c][i];
            if (x->target[c][i] == KV_DROP) continue;
            it.tier = x->target[c][i];
            it.placed |= !is_recent(s, (int)it.pos, m->n_tokens);
            m->items[c][k++] = it;
        }
        m->n[c] = k;
    }
    m->n_last = m->n_tokens;
}

static void shuffle(rng *r, model *m) { /* the cache's columns are in no order */
    for (int c = 0; c < N_COLS; c++)
        for (int i = m->n[c] - 1; i > 0; i--) {
            int j = (int)rng_below(r, (uint32_t)i + 1);
            item t = m->items[c][i];
            m->items[c][i] = m->items[c][j];
            m->items[c][j] = t;
        }
}

static void append(model *m) {
    for (int c = 0; c < N_COLS; c++) m->items[c][m->n[c]++] = (item){(uint32_t)m->n_tokens, 0, false};
    m->n_tokens++;
}

static void check_decision(const setup *s, const policy *p, const model *m, const columns *x, const char *yaml) {
    const kv_format *tiers = policy_get_needs(p)->tiers;
    for (int c = 0; c < N_COLS; c++)
        for (int i = 0; i < m->n[c]; i++) {
            uint8_t want = expected(s, m, c, i), got = x->target[c][i], now = m->items[c][i].tier;
            if (got != want)
                fail_msg("prompt %d, now %d, column %d, position %u of tier %d goes to %d instead of %d\n%s", m->n_prompt, m->n_tokens, c,
                         m->items[c][i].pos, now, got, want, yaml);
            if (got != KV_DROP && got != now) assert_true(kv_format_can_move(tiers[now], tiers[got]));
        }
}

static void read_item_bytes(setup *s, const policy *p) {
    const policy_needs *needs = policy_get_needs(p);
    for (int t = 0; t < needs->n_tiers; t++) {
        page_layout l;
        assert_int_equal(page_layout_make(needs->tiers[t], 64, needs->pos_column ? 4 : 0, needs->score_column, 8192, &l), OK);
        s->item_bytes[t] = l.payload_bytes + l.meta_bytes + l.column_bytes;
        s->page_items[t] = l.cap;
    }
}

static void one_run(rng *r, int n_steps) {
    setup s;
    static model m;
    static columns x;
    char yaml[1200];
    make_setup(r, &s);
    to_yaml(&s, yaml, sizeof yaml);
    policy *p = policy_from_text(shape, yaml);
    policy_state *st;
    uint64_t seed = rng_u64(r);
    assert_int_equal(policy_state_create(p, seed, &st), OK);
    read_item_bytes(&s, p);
    prefill(&s, p, st, &m, 1 + (int)rng_below(r, 100), seed);
    int predicted = policy_rows_until_due(p, st, m.n_tokens), n_decisions = s.prefill;
    for (int step = 0; step < n_steps; step++) {
        int rows = policy_rows_until_due(p, st, m.n_tokens);
        if (rows != predicted) fail_msg("rows until due: %d at %d tokens, %d were expected\n%s", rows, m.n_tokens, predicted, yaml);
        if ((rows == 0) != due(&s, &m)) fail_msg("prompt %d, last %d, now %d: due in %d\n%s", m.n_prompt, m.n_last, m.n_tokens, rows, yaml);
        if (rows == 0) {
            shuffle(r, &m);
            decide(p, st, &m, &x);
            check_decision(&s, p, &m, &x, yaml);
            carry_out(&s, &m, &x);
            n_decisions++;
            predicted = policy_rows_until_due(p, st, m.n_tokens);
            assert_true(predicted > 0);
        }
        append(&m);
        if (predicted != INT32_MAX) predicted--;
    }
    assert_int_equal(policy_state_report(st).n_decisions, n_decisions);
    policy_state_destroy(st);
    policy_destroy(p);
}

static void long_runs_equal_the_list_model(void **state) {
    rng r = rng_make(seed_get(), 1);
    for (int round = 0; round < 400; round++) one_run(&r, 40 + (int)rng_below(&r, 200));
}

/* ---- sequences do not touch each other ---- */

typedef struct trace { uint8_t target[20000]; int n; } trace;

static void step(const setup *s, const policy *p, policy_state *st, model *m, trace *t) {
    static columns x;
    if (policy_rows_until_due(p, st, m->n_tokens) == 0) {
        decide(p, st, m, &x);
        for (int c = 0; c < N_COLS; c++)
            for (int i = 0; i < m->n[c] && t->n < (int)sizeof t->target; i++) t->target[t->n++] = x.target[c][i];
        carry_out(s, m, &x);
    }
    append(m);
}

static const char *const shared[] = {
    "streamingllm", "streamingllm_k8v4", "k8v4_win64", "snapkv_k8v4", "adakv_k8v4_k4v2",
    "{budget: 0.9, score: {window: {rows: 4}}, protect: {recent: 64}, trigger: {slack: 5}, tiers: [f16, k8v4], "
    "tier: {by_rank: {shares: {f16: 0.5, k8v4: 0.5}, after_recent: k8v4}}}",
};
static policy *shared_policy(size_t k) {
    return *shared[k] == '{' ? policy_from_text(shape, shared[k]) : policy_from_preset(shape, shared[k], NULL);
}
static const setup shared_setup = {.prefill = true, .recent = 64};

static void sequences_decided_in_turn_equal_each_alone(void **state) {
    static model m[2];
    static trace alone[2], turn[2];
    for (size_t k = 0; k < sizeof shared / sizeof *shared; k++) {
        policy *p = shared_policy(k);
        setup s = shared_setup;
        policy_state *st[2];
        const int n_prompt[2] = {90, 133};
        for (int q = 0; q < 2; q++) {
            alone[q].n = turn[q].n = 0;
            assert_int_equal(policy_state_create(p, (uint64_t)q, &st[q]), OK);
            prefill(&s, p, st[q], &m[q], n_prompt[q], (uint64_t)q);
            for (int i = 0; i < 60; i++) step(&s, p, st[q], &m[q], &alone[q]);
            policy_state_destroy(st[q]);
        }
        for (int q = 0; q < 2; q++) assert_int_equal(policy_state_create(p, (uint64_t)q, &st[q]), OK);
        for (int q = 0; q < 2; q++) prefill(&s, p, st[q], &m[q], n_prompt[q], (uint64_t)q);
        for (int i = 0; i < 60; i++)
            for (int q = 0; q < 2; q++) step(&s, p, st[q], &m[q], &turn[q]);
        for (int q = 0; q < 2; q++) {
            assert_true(alone[q].n > 0);
            assert_int_equal(alone[q].n, turn[q].n);
            assert_memory_equal(alone[q].target, turn[q].target, (size_t)turn[q].n);
            policy_state_destroy(st[q]);
        }
        policy_destroy(p);
    }
}

static void a_cloned_state_goes_on_as_the_original_would(void **state) {
    static model m[2];
    static trace t[2];
    for (size_t k = 0; k < sizeof shared / sizeof *shared; k++) {
        policy *p = shared_policy(k);
        setup s = shared_setup;
        policy_state *a, *b;
        assert_int_equal(policy_state_create(p, 5, &a), OK);
        prefill(&s, p, a, &m[0], 111, 5);
        t[0].n = t[1].n = 0;
        for (int i = 0; i < 23; i++) step(&s, p, a, &m[0], &t[0]);
        assert_int_equal(policy_state_clone(a, &b), OK);
        m[1] = m[0];
        t[0].n = 0;
        for (int i = 0; i < 60; i++) step(&s, p, a, &m[0], &t[0]);
        for (int i = 0; i < 60; i++) step(&s, p, b, &m[1], &t[1]);
        assert_true(t[0].n > 0 && t[0].n == t[1].n);
        assert_memory_equal(t[0].target, t[1].target, (size_t)t[0].n);
        assert_int_equal(policy_state_report(a).n_decisions, policy_state_report(b).n_decisions);
        policy_state_destroy(a);
        policy_state_destroy(b);
        policy_destroy(p);
    }
}

static void policies_of_the_prompt_are_never_due(void **state) {
    static model m;
    const char *names[] = {"full", "k8v4", "snapkv", "adakv_kvpress", "random", "streamingllm_kvpress"};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        policy *p = policy_from_preset(shape, names[k], NULL);
        policy_state *st;
        setup s = {.prefill = true};
        assert_int_equal(policy_state_create(p, 1, &st), OK);
        assert_int_equal(policy_rows_until_due(p, st, 0), INT32_MAX);
        prefill(&s, p, st, &m, 150, 1);
        assert_int_equal(policy_rows_until_due(p, st, 500), INT32_MAX);
        policy_state_destroy(st);
        policy_destroy(p);
    }
}

static void a_sequence_without_prompt_is_decided_too(void **state) {
    const struct { const char *yaml; int rows; } cases[] = {
        {"{budget: {tokens: 20}, score: recency, trigger: {slack: 5}}", 25},
        {"{tiers: [f16, k8v4], tier: {uniform: {format: k8v4}}, protect: {recent: 30}, trigger: {slack: 2}}", 32},
        {"{budget: 0.5, score: recency, trigger: {slack: 3}}", 5}, /* int(5 / 2) is 3 below 5 */
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        policy *p = policy_from_text(shape, cases[k].yaml);
        policy_state *st;
        assert_int_equal(policy_state_create(p, 1, &st), OK);
        assert_int_equal(policy_rows_until_due(p, st, 0), cases[k].rows);
        policy_state_destroy(st);
        policy_destroy(p);
    }
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    rng r = rng_make(seed_get(), 9);
    signal = malloc(sizeof *signal * 2 * N_KV * CONTEXT);
    for (int i = 0; i < 2 * N_KV * CONTEXT; i++) signal[i] = (float)rng_uniform(&r);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_runs_equal_the_list_model),
        cmocka_unit_test(sequences_decided_in_turn_equal_each_alone),
        cmocka_unit_test(a_cloned_state_goes_on_as_the_original_would),
        cmocka_unit_test(policies_of_the_prompt_are_never_due),
        cmocka_unit_test(a_sequence_without_prompt_is_decided_too),
    };
    int n = cmocka_run_group_tests(tests, NULL, NULL);
    free(signal);
    return seed_end(n);
}
