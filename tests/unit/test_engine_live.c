/* Live scores on a small model: what columns hold after decoding equals what a prefill of the whole text measures, decisions follow
 * the columns, and a score stays with its item through tiers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/engine.h"
#include "tests/support/engines.h"
#include "tests/support/seed.h"

enum { N_PROMPT = 83, N_MORE = 45, N = N_PROMPT + N_MORE, MAX_HEADS = 8 };

typedef struct run {
    engine *e;
    policy *p;
    cache_space *space;
    seq *s;
} run;

static const char *model_file(int n_head, int n_kv) {
    static char name[32];
    tiny_model m = tiny_model_default();
    m.n_head = n_head;
    m.n_kv = n_kv;
    m.head_dim = 32;
    snprintf(name, sizeof name, "live_%d_%d.gguf", n_head, n_kv);
    return tiny_model_file(name, m);
}

static run run_open(const char *file, const char *yaml) {
    run r = {.e = tiny_engine(file, MATH_EXACT, 2, "cpu", "auto")};
    node *root;
    assert_ok(node_parse_text(yaml, strlen(yaml), "test", &root));
    assert_ok(policy_create(root, engine_policy_shape(r.e), &r.p));
    node_free(root);
    assert_ok(cache_space_create(r.e, r.p, N, 0, &r.space));
    assert_ok(seq_create(r.e, r.space, r.p, 1, &r.s));
    return r;
}

static void run_close(run *r) {
    seq_destroy(r->s);
    cache_space_destroy(r->space);
    policy_destroy(r->p);
    engine_close(r->e);
}

typedef struct column { /* by position; -1: not there */
    float score[N];
    int n;
} column;

static column column_of(const run *r, int layer, int head) {
    uint32_t pos[N];
    uint8_t tier[N];
    float score[N];
    item_columns ic = {0, pos, tier, score};
    column c;
    for (int i = 0; i < N; i++) c.score[i] = -1;
    assert_true(cache_n_items_head(seq_cache(r->s), layer, head) <= N);
    cache_columns(seq_cache(r->s), layer, head, &ic);
    for (int i = 0; i < ic.n; i++) {
        assert_true(pos[i] < N && c.score[pos[i]] == -1);
        c.score[pos[i]] = score[i];
    }
    c.n = ic.n;
    return c;
}

static void assert_same_columns(const run *a, const run *b, double relative, double absolute, const char *yaml) {
    const model_params *mp = &engine_model(a->e)->p;
    for (int l = 0; l < mp->n_layers; l++)
        for (int h = 0; h < mp->n_kv; h++) {
            column x = column_of(a, l, h), y = column_of(b, l, h);
            for (int i = 0; i < N; i++)
                if (!(fabs((double)x.score[i] - (double)y.score[i]) <= relative * fabs((double)y.score[i]) + absolute))
                    fail_msg("layer %d, head %d, position %d: %.8g after decoding, %.8g from the whole prompt\n%s", l, h, i, (double)x.score[i],
                             (double)y.score[i], yaml);
        }
}

static void columns_after_decoding_equal_those_of_the_whole_prompt(void **state) {
    /* Sums commute with mean and sum over the group, maxima with max. */
    const char *scores[] = {
        "{column: {reduce: sum, group: mean, live: true}}",
        "{column: {reduce: mean, group: sum, live: true}}",
        "{column: {reduce: sum, power: 2, group: sum, live: true}}",
        "{column: {reduce: max, group: max, live: true}}",
        "{window: {rows: 1, sets: layer, force_window: false, live: last}}",
        "{window: {rows: 1, power: 2, group: max, force_window: false, live: last}}",
    };
    const int heads[][2] = {{4, 2}, {6, 1}, {3, 3}, {8, 1}};
    int32_t ids[N];
    for (size_t k = 0; k < sizeof scores / sizeof *scores; k++) {
        const int *hh = heads[(k + seed_get()) % 4];
        char yaml[300];
        snprintf(yaml, sizeof yaml, "{budget: {ratio: 1.0, decode: proportional}, tiers: [f32], trigger: {every: 7}, score: %s}", scores[k]);
        run live = run_open(model_file(hh[0], hh[1]), yaml), whole = run_open(model_file(hh[0], hh[1]), yaml);
        random_ids(ids, N, engine_model(live.e)->p.n_vocab, seed_get() + k);
        assert_ok(seq_prefill(live.s, ids, N_PROMPT, NULL));
        assert_ok(seq_extend(live.s, ids + N_PROMPT, N_MORE, NULL));
        assert_ok(seq_prefill(whole.s, ids, N, NULL));
        assert_same_columns(&live, &whole, 2e-4, 1e-7, yaml);
        run_close(&live);
        run_close(&whole);
    }
}

static void a_score_stays_with_its_item_through_tiers(void **state) {
    const char *full = "{budget: {ratio: 1.0, decode: proportional}, tiers: [f32], trigger: {every: 7}, score: {column: {live: true}}}";
    const char *tiers = "{budget: {ratio: 1.0, decode: proportional}, tiers: [f16, k8v8], tier: {uniform: {format: k8v8}}, trigger: {every: 7}, "
                        "protect: {recent: 9}, score: {column: {live: true}}}";
    int32_t ids[N];
    run a = run_open(model_file(4, 2), tiers), b = run_open(model_file(4, 2), full);
    random_ids(ids, N, engine_model(a.e)->p.n_vocab, seed_get());
    run *both[] = {&a, &b};
    for (int i = 0; i < 2; i++) {
        assert_ok(seq_prefill(both[i]->s, ids, N_PROMPT, NULL));
        assert_ok(seq_extend(both[i]->s, ids + N_PROMPT, N_MORE, NULL));
    }
    assert_true(cache_n_items(seq_cache(a.s), 0, 0, 1) > N - 9 - 7);
    assert_same_columns(&a, &b, 0.05, 0.005, tiers); /* 8 bits change attention a little; scores of neighbours differ much more */
    run_close(&a);
    run_close(&b);
}

/* Who stays of a head at n tokens: the recent ones, then the best scores, lower positions first. */
static void expect_kept(const column *before, int n, int recent, int budget, bool *kept) {
    for (int i = 0; i < n; i++) {
        int rank = 0;
        kept[i] = false;
        if (before->score[i] == -1) continue;
        if (i >= n - recent) {
            kept[i] = true;
            continue;
        }
        for (int j = 0; j < n; j++) {
            if (before->score[j] == -1) continue;
            rank += j >= n - recent || before->score[j] > before->score[i] || (before->score[j] == before->score[i] && j < i);
        }
        kept[i] = rank < budget;
    }
}

static void decisions_follow_the_columns(void **state) {
    const struct { const char *score; int recent; bool layer; } cases[] = {
        {"{column: {live: true}}", 9, false},
        {"{window: {rows: 8, pool: max, power: 2, group: sum, force_window: false, live: add}}", 8, false},
        {"{window: {rows: 1, sets: layer, force_window: false, live: last}}", 0, true},
    };
    enum { BUDGET = 31, SLACK = 3 };
    int32_t ids[N];
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char yaml[300];
        snprintf(yaml, sizeof yaml, "{budget: {tokens: %d}, trigger: {slack: %d}, protect: {recent: %d}, tiers: [f16], score: %s}", BUDGET, SLACK,
                 cases[k].recent, cases[k].score);
        run r = run_open(model_file(6, 3), yaml);
        const model_params *mp = &engine_model(r.e)->p;
        random_ids(ids, N, mp->n_vocab, seed_get() + 10 + k);
        assert_ok(seq_prefill(r.s, ids, N_PROMPT, NULL));
        for (int n = N_PROMPT; n < N; n++) { /* n tokens are held; the step of token n decides first, if it is due */
            column before[4][MAX_HEADS];
            for (int l = 0; l < mp->n_layers; l++)
                for (int h = 0; h < mp->n_kv; h++) before[l][h] = column_of(&r, l, h);
            bool due = before[0][0].n >= BUDGET + SLACK;
            assert_ok(seq_extend(r.s, ids + n, 1, NULL));
            for (int l = 0; l < mp->n_layers; l++)
                for (int h = 0; h < mp->n_kv; h++) {
                    column mean = before[l][h], now = column_of(&r, l, h);
                    for (int i = 0; i < n && cases[k].layer; i++) {
                        if (mean.score[i] == -1) continue;
                        float sum = 0;
                        for (int g = 0; g < mp->n_kv; g++) sum += before[l][g].score[i];
                        mean.score[i] = sum / (float)mp->n_kv;
                    }
                    bool kept[N] = {0};
                    expect_kept(&mean, n, cases[k].recent, BUDGET, kept);
                    for (int i = 0; i < n; i++)
                        if ((now.score[i] != -1) != (due ? kept[i] : before[l][h].score[i] != -1))
                            fail_msg("%d tokens, layer %d, head %d: position %d is %s\n%s", n, l, h, i, now.score[i] != -1 ? "kept" : "gone", yaml);
                    assert_true(now.score[n] >= 0);
                }
        }
        assert_true(seq_policy_report(r.s).n_decisions > N_MORE / SLACK / 2);
        run_close(&r);
    }
}

static void tokens_are_not_taken_back_from_live_scores(void **state) {
    run r = run_open(model_file(4, 2), "{budget: {tokens: 40}, trigger: {slack: 50}, score: {column: {live: true}}}");
    int32_t ids[N];
    random_ids(ids, N, engine_model(r.e)->p.n_vocab, seed_get());
    assert_ok(seq_prefill(r.s, ids, N_PROMPT, NULL));
    assert_ok(seq_extend(r.s, ids + N_PROMPT, 3, NULL));
    assert_int_equal(seq_truncate(r.s, N_PROMPT), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "live"));
    assert_ok(seq_truncate(r.s, N_PROMPT + 3));
    run_close(&r);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_after_decoding_equal_those_of_the_whole_prompt),
        cmocka_unit_test(a_score_stays_with_its_item_through_tiers),
        cmocka_unit_test(decisions_follow_the_columns),
        cmocka_unit_test(tokens_are_not_taken_back_from_live_scores),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
