/* KV-Compress while decoding, over long random runs: when decisions are due, and which pages of which (head, tier) each of them takes,
 * against the definition on lists. Decisions under pressure come at random moments. */
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

enum { N_LAYERS = 3, N_KV = 2, N_COLS = N_LAYERS * N_KV, CONTEXT = 256, MAX_TIERS = 2 };
static const policy_shape shape = {.n_layers = N_LAYERS, .n_heads = 2 * N_KV, .n_kv = N_KV, .head_dim = 64, .context = CONTEXT};

typedef struct setup {
    int full, chunk, physical, price, over, count, least, ties_high, sink, recent, slack, every, pressure, prefill, n_tiers, control; /* layer that keeps everything, or -1 */
    enum { RATIO, TOKENS, RATE } unit;
    double amount;
    int floor_tokens, proportional;
    int tier_chunk[MAX_TIERS];
    bool ranked; /* LeanKV's tiers by shares of the prompt, instead of f16 before k8v4 */
} setup;

typedef struct item { int pos, tier; float live; } item;
typedef struct model { item items[N_COLS][CONTEXT]; int n[N_COLS], n_tokens, n_prompt, n_last, left, first_hot; } model;

static void make_setup(rng *r, setup *s) {
    memset(s, 0, sizeof *s);
    s->full = (int)rng_below(r, 2);
    s->chunk = 1 + (int)rng_below(r, rng_below(r, 2) ? 8 : 40);
    s->physical = rng_below(r, 10) == 0;
    s->price = (int)rng_below(r, 3);
    s->over = (int)rng_below(r, 3);
    s->least = rng_below(r, 4) ? 0 : 1 + (int)rng_below(r, 2);
    s->ties_high = (int)rng_below(r, 2);
    s->sink = rng_below(r, 3) ? 0 : (int)rng_below(r, 5);
    s->recent = rng_below(r, 4) ? (int)rng_below(r, 20) : 0;
    s->n_tiers = 1 + (int)rng_below(r, 2);
    s->count = s->n_tiers == 2 ? 1 : (int)rng_below(r, 3);
    s->control = s->over && rng_below(r, 4) == 0 ? (int)rng_below(r, N_LAYERS) : -1;
    s->pressure = (int)rng_below(r, 2);
    if (!s->pressure || rng_below(r, 2)) *(rng_below(r, 3) ? &s->slack : &s->every) = 1 + (int)rng_below(r, 20);
    s->prefill = rng_below(r, 4) > 0;
    s->ranked = s->n_tiers == 2 && s->prefill && rng_below(r, 2);
    s->unit = (int)rng_below(r, 3);
    s->proportional = s->unit != TOKENS && rng_below(r, 2);
    s->floor_tokens = (int)rng_below(r, 40);
    s->amount = s->unit == RATIO ? (5 + (int)rng_below(r, 90)) / 100.0 : s->unit == TOKENS ? 1 + (int)rng_below(r, 80) : 1 + (int)rng_below(r, 20) / 2.0;
}

static void to_yaml(const setup *s, char *out, size_t cap) {
    static const char *const prices[] = {"max", "sum", "mean"}, *const over[] = {"sequence", "layer", "head"};
    static const char *const counts[] = {"pages", "items", "excess"}, *const units[] = {"ratio", "tokens", "rate"};
    char rule[60] = "", when[80], control[40] = "";
    if (s->control >= 0) snprintf(control, sizeof control, ", control_layers: [%d]", s->control);
    if (s->unit == RATE) snprintf(rule, sizeof rule, ", floor: %d, step: 4", s->floor_tokens);
    snprintf(when, sizeof when, "prefill: %s%s", s->prefill ? "true" : "false", s->pressure ? ", pressure: true" : "");
    if (s->slack || s->every) snprintf(when + strlen(when), sizeof when - strlen(when), ", %s: %d", s->slack ? "slack" : "every", s->slack + s->every);
    snprintf(out, cap,
             "{budget: {%s: %.17g%s%s}, score: %s,\n quota: {pages: {chunk: %d, price: %s, over: %s, count: %s, least: %d%s}}, select: {top_k: {ties: %s}}, "
             "protect: {sink: %d, recent: %d}, trigger: {%s}%s}",
             units[s->unit], s->amount, rule, s->proportional ? ", decode: proportional" : "",
             s->full ? "{column: {power: 2, group: sum, lag: 0, live: true}}" : "{window: {rows: 8, power: 2, group: sum, force_window: false, live: add}}",
             s->physical ? 0 : s->chunk, prices[s->price], over[s->over], counts[s->count], s->least, control, s->ties_high ? "high" : "low", s->sink, s->recent,
             when,
             s->ranked           ? ",\n tiers: [k8v4, k4v2], tier: {by_rank: {shares: {k8v4: 0.33, k4v2: 0.67}, recent: k8v4, sink: k8v4, after_recent: k4v2}}"
             : s->n_tiers == 2 ? ",\n tiers: [f16, k8v4], tier: {uniform: {format: k8v4}}"
                               : "");
}

/* ---- the definition ---- */

static bool is_protected(const setup *s, const model *m, int pos) { return pos < s->sink || pos >= m->n_tokens - s->recent; }

static int budget_of(const setup *s, const model *m) {
    int n = m->n_tokens, ref = s->proportional ? n : m->n_prompt, least = 0, k = (int)s->amount;
    for (int j = 0; j < n; j++) least += is_protected(s, m, j);
    if (s->unit == RATIO) k = (int)fmax(1, ref * (1 - (1 - s->amount)));
    if (s->unit == RATE) k = (int)fmax(s->floor_tokens, floor((ref / s->amount - 1) / 4) * 4);
    k = k > least ? k : least;
    k = k > 1 ? k : 1;
    return k < n ? k : n;
}

typedef struct part { /* one (head, tier) */
    int col, tier, n, n_list, pages; /* items held; that may go; pages given up */
    int list[CONTEXT];               /* indices in the column, the first to go first */
    double last;
} part;

static const item *sort_items;
static bool sort_high;
static int first_to_go(const void *a, const void *b) {
    const item *x = &sort_items[*(const int *)a], *y = &sort_items[*(const int *)b];
    if (x->live != y->live) return x->live < y->live ? -1 : 1;
    return sort_high ? x->pos - y->pos : y->pos - x->pos;
}

static int items_for(const setup *s, const part *p, int pages) {
    int held = p->n, b = s->tier_chunk[p->tier];
    while (pages-- > 0) held -= held % b ? held % b : b;
    return p->n - held;
}

static double ask(const setup *s, const model *m, const part *p) {
    int from = items_for(s, p, p->pages), to = items_for(s, p, p->pages + 1), b = s->tier_chunk[p->tier];
    if (p->pages + 1 > (p->n + b - 1) / b - s->least || to > p->n_list || to == from) return INFINITY;
    double sum = 0, most = -DBL_MAX;
    for (int i = from; i < to; i++) {
        sum += m->items[p->col][p->list[i]].live;
        most = fmax(most, m->items[p->col][p->list[i]].live);
    }
    double price = s->price == 0 ? most : (float)(s->price == 1 ? sum : sum / (to - from));
    return p->pages ? fmax(price, p->last) : price;
}

static void compete(const setup *s, const model *m, int a, int b, bool (*gone)[CONTEXT]) { /* columns a .. b - 1 */
    static part parts[N_COLS * MAX_TIERS];
    int n_parts = 0, held = 0, n_items = 0, n_gone = 0, pages = 0, kept = budget_of(s, m), chunk = s->tier_chunk[0];
    for (int c = a; c < b; c++)
        for (int t = 0; t < s->n_tiers; t++) {
            part *p = &parts[n_parts];
            *p = (part){.col = c, .tier = t};
            for (int i = 0; i < m->n[c]; i++) {
                if (m->items[c][i].tier != t) continue;
                p->n++;
                if (!is_protected(s, m, m->items[c][i].pos)) p->list[p->n_list++] = i;
            }
            sort_items = m->items[c];
            sort_high = s->ties_high;
            qsort(p->list, (size_t)p->n_list, sizeof *p->list, first_to_go);
            n_parts += p->n > 0;
            n_items += p->n;
            held += (p->n + chunk - 1) / chunk;
        }
    for (;;) {
        int over = n_items - (b - a) * kept, best = -1;
        bool enough = s->count == 0 ? pages >= held - (b - a) * ((kept + chunk - 1) / chunk) : s->count == 1 ? n_gone >= over : pages * chunk >= over;
        double least = INFINITY;
        for (int k = 0; k < n_parts; k++)
            if (ask(s, m, &parts[k]) < least) least = ask(s, m, &parts[best = k]);
        if (enough || best < 0) return;
        part *p = &parts[best];
        p->last = least;
        for (int i = items_for(s, p, p->pages); i < items_for(s, p, p->pages + 1); i++, n_gone++) gone[p->col][p->list[i]] = true;
        p->pages++;
        pages++;
    }
}

static void note_decision(const setup *s, model *m, bool decided) {
    m->n_last = m->n_tokens;
    m->left = 0;
    int size = s->over == 0 ? N_COLS : N_KV;
    for (int a = 0; a < N_COLS; a += size) {
        int sum = 0;
        for (int c = a; c < a + size; c++) sum += m->n[c];
        m->left = sum / size > m->left ? sum / size : m->left;
    }
    if (decided && m->left > budget_of(s, m)) m->left = budget_of(s, m);
    m->first_hot = !decided ? 0 : m->n_tokens > s->recent ? m->n_tokens - s->recent : 0;
}

static bool due(const setup *s, const model *m) {
    if (s->every) return m->n_tokens - m->n_last >= s->every;
    if (!s->slack) return false;
    bool moves = s->n_tiers == 2 && m->n_tokens - s->recent - m->first_hot >= s->slack;
    return moves || m->left + m->n_tokens - m->n_last - budget_of(s, m) >= s->slack;
}

/* ---- runs ---- */

static float signal[N_LAYERS * 2 * N_KV * CONTEXT], live[N_LAYERS * N_KV * CONTEXT];
static uint8_t target[N_COLS][CONTEXT];

static void prefill(const setup *s, const policy *p, policy_state *st, model *m, int n) {
    static uint8_t to[N_COLS * CONTEXT];
    policy_layer layers[N_LAYERS];
    memset(m, 0, sizeof *m);
    m->n_tokens = m->n_prompt = n;
    for (int l = 0; l < N_LAYERS; l++)
        layers[l] = (policy_layer){.layer = l, .n = n, .signal = {signal + l * 2 * N_KV * n}, .target = to + l * N_KV * n, .live = live + l * N_KV * n};
    if (policy_get_needs(p)->scope == SCOPE_SEQUENCE) assert_int_equal(policy_prefill(p, st, layers, N_LAYERS), OK);
    else
        for (int l = 0; l < N_LAYERS; l++) assert_int_equal(policy_prefill(p, st, &layers[l], 1), OK);
    for (int c = 0; c < N_COLS; c++)
        for (int i = 0; i < n; i++)
            if (to[c * n + i] != KV_DROP) m->items[c][m->n[c]++] = (item){i, to[c * n + i], live[c * n + i]};
    note_decision(s, m, s->prefill);
}

static int by_tier(const void *a, const void *b) { return ((const item *)a)->tier - ((const item *)b)->tier; }

static void decide(rng *r, const setup *s, const policy *p, policy_state *st, model *m, const char *yaml) {
    static uint32_t pos[N_COLS][CONTEXT];
    static uint8_t tier[N_COLS][CONTEXT];
    static float score[N_COLS][CONTEXT];
    static bool gone[N_COLS][CONTEXT];
    policy_columns cols[N_COLS];
    for (int c = 0; c < N_COLS; c++) {
        for (int i = m->n[c] - 1; i > 0; i--) { /* items of a tier are in no order */
            int j = (int)rng_below(r, (uint32_t)i + 1);
            item t = m->items[c][i];
            m->items[c][i] = m->items[c][j];
            m->items[c][j] = t;
        }
        qsort(m->items[c], (size_t)m->n[c], sizeof **m->items, by_tier);
        for (int i = 0; i < m->n[c]; i++)
            pos[c][i] = (uint32_t)m->items[c][i].pos, tier[c][i] = (uint8_t)m->items[c][i].tier, score[c][i] = m->items[c][i].live;
        cols[c] = (policy_columns){c / N_KV, c % N_KV, m->n[c], pos[c], tier[c], score[c], target[c]};
    }
    assert_int_equal(policy_decode(p, st, m->n_tokens, cols), OK);
    memset(gone, 0, sizeof gone);
    int size = s->over == 0 ? N_COLS : s->over == 1 ? N_KV : 1;
    for (int a = 0; a < N_COLS; a += size)
        if (a / N_KV != s->control) compete(s, m, a, a + size, gone);
    for (int c = 0; c < N_COLS; c++) {
        int n = 0;
        for (int i = 0; i < m->n[c]; i++) {
            item it = m->items[c][i];
            bool stays = s->n_tiers == 1 || it.pos >= m->n_tokens - s->recent || (s->ranked && (it.pos < m->first_hot || it.pos < s->sink));
            int want = gone[c][i] ? KV_DROP : stays ? it.tier : 1;
            if (target[c][i] != want)
                fail_msg("prompt %d, now %d, column %d of %d items: position %d of tier %d goes to %d instead of %d\n%s", m->n_prompt, m->n_tokens, c,
                         m->n[c], it.pos, it.tier, target[c][i], want, yaml);
            it.tier = want;
            if (want != KV_DROP) m->items[c][n++] = it;
        }
        m->n[c] = n;
    }
    note_decision(s, m, true);
}

static void append(rng *r, model *m, bool coarse) { /* every item receives some attention */
    for (int c = 0; c < N_COLS; c++) {
        m->items[c][m->n[c]++] = (item){m->n_tokens, 0, 0};
        for (int i = 0; i < m->n[c]; i++) m->items[c][i].live += coarse ? (float)(rng_below(r, 8) == 0) / 4 : (float)rng_uniform(r);
    }
    m->n_tokens++;
}

static void one_run(rng *r, int n_steps) {
    static model m;
    setup s;
    char yaml[1000];
    make_setup(r, &s);
    const kv_format ladder[] = {{.k_bits = 16, .v_bits = 16}, {.k_bits = 8, .v_bits = 4}, {.k_bits = 4, .v_bits = 2}}, *formats = ladder + s.ranked;
    page_layout l[2];
    for (int t = 0; t < 2; t++) assert_int_equal(page_layout_make(formats[t], 64, 4, true, 8192, &l[t]), OK);
    if (s.physical) s.chunk = l[0].cap;
    size_t bytes[2];
    for (int t = 0; t < 2; t++) bytes[t] = l[t].payload_bytes + l[t].meta_bytes + l[t].column_bytes;
    s.tier_chunk[0] = s.chunk;
    s.tier_chunk[1] = s.physical ? l[1].cap : (int)((size_t)s.chunk * bytes[0] / bytes[1]);
    to_yaml(&s, yaml, sizeof yaml);
    policy *p = policy_from_text(shape, yaml);
    policy_state *st;
    assert_int_equal(policy_state_create(p, 1, &st), OK);
    bool coarse = rng_below(r, 2);
    for (size_t i = 0; i < sizeof signal / sizeof *signal; i++) signal[i] = coarse ? (float)rng_below(r, 5) / 8 : (float)rng_uniform(r);
    prefill(&s, p, st, &m, 1 + (int)rng_below(r, 100));
    for (int step = 0; step < n_steps && m.n_tokens < CONTEXT; step++) {
        int rows = policy_rows_until_due(p, st, m.n_tokens);
        if ((rows == 0) != due(&s, &m)) fail_msg("prompt %d, last %d, now %d: due in %d rows\n%s", m.n_prompt, m.n_last, m.n_tokens, rows, yaml);
        if (rows == 0 || (s.pressure && rng_below(r, 10) == 0)) {
            decide(r, &s, p, st, &m, yaml);
            if (policy_rows_until_due(p, st, m.n_tokens) == 0) fail_msg("due again at %d\n%s", m.n_tokens, yaml);
        }
        append(r, &m, coarse);
    }
    policy_state_destroy(st);
    policy_destroy(p);
}

static void long_runs_equal_the_definition(void **state) {
    rng r = rng_make(seed_get(), 1);
    for (int round = 0; round < 500; round++) one_run(&r, 40 + (int)rng_below(&r, 110));
}

/* All live scores alike, as zeros are: exactly the pages that were asked for go, whole ones, and the heads in front give first. */
static void equal_scores_free_exactly_what_was_asked(void **state) {
    enum { N = 44, CHUNK = 8, HELD = 6, KEEP = 3 };
    static const char *const over[] = {"sequence", "layer", "head"};
    for (int o = 0; o < 3; o++)
        for (int slack = 0; slack < 2; slack++) {
            char yaml[300];
            snprintf(yaml, sizeof yaml, "{budget: {tokens: %d}, score: {window: {rows: 8, force_window: false, live: add}}, quota: {pages: {chunk: %d, over: %s, count: pages}}, "
                     "protect: {recent: 4}, trigger: {prefill: false, %s}}", KEEP * CHUNK, CHUNK, over[o], slack ? "slack: 4" : "pressure: true");
            policy *p = policy_from_text(shape, yaml);
            policy_state *st;
            static model m;
            setup s = {.over = o, .recent = 4};
            assert_int_equal(policy_state_create(p, 1, &st), OK);
            for (size_t i = 0; i < sizeof signal / sizeof *signal; i++) signal[i] = 0;
            prefill(&s, p, st, &m, N);
            static uint32_t pos[N];
            static uint8_t tier[N];
            static float score[N_COLS][N];
            policy_columns cols[N_COLS];
            for (int i = 0; i < N; i++) pos[i] = (uint32_t)i;
            for (int c = 0; c < N_COLS; c++) cols[c] = (policy_columns){c / N_KV, c % N_KV, N, pos, tier, score[c], target[c]};
            assert_int_equal(policy_decode(p, st, N, cols), OK);
            int freed = 0;
            for (int c = 0; c < N_COLS; c++) {
                int left = 0;
                for (int i = 0; i < N; i++) left += target[c][i] != KV_DROP;
                assert_true(left == N || left % CHUNK == 0);
                freed += HELD - (left + CHUNK - 1) / CHUNK;
            }
            assert_int_equal(freed, N_COLS * (HELD - KEEP));
            policy_state_destroy(st);
            policy_destroy(p);
        }
}

static void sequences_under_pressure_are_ranked(void **state) {
    static const struct { const char *order; int64_t fresh, compressed, full; } cases[] = {
        {"uncompressed", 0, 1, 1}, {"compressible", -420, -60, -420}, {"stale", 0, -10, -10},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int prefilled = 0; prefilled < 2; prefilled++) {
            char yaml[300];
            snprintf(yaml, sizeof yaml, "{budget: {tokens: 30}, score: random, quota: pages, trigger: {pressure: true, order: %s, prefill: %s}}", cases[i].order,
                     prefilled ? "true" : "false");
            policy *p = policy_from_text(shape, yaml);
            policy_state *st;
            static uint8_t to[N_COLS * 90];
            policy_layer layers[N_LAYERS];
            assert_int_equal(policy_state_create(p, 1, &st), OK);
            for (int l = 0; l < N_LAYERS; l++) layers[l] = (policy_layer){.layer = l, .n = 90, .target = to + l * N_KV * 90};
            assert_int_equal(policy_prefill(p, st, layers, N_LAYERS), OK);
            assert_true(policy_on_pressure(p));
            assert_int_equal(policy_rows_until_due(p, st, 100), INT32_MAX);
            assert_int_equal(policy_pressure_rank(p, st, 100, N_COLS * 100), prefilled ? cases[i].full : cases[i].fresh);
            if (prefilled) assert_int_equal(policy_pressure_rank(p, st, 100, N_COLS * 40), cases[i].compressed);
            policy_state_destroy(st);
            policy_destroy(p);
        }
    }
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_runs_equal_the_definition),
        cmocka_unit_test(equal_scores_free_exactly_what_was_asked),
        cmocka_unit_test(sequences_under_pressure_are_ranked),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
