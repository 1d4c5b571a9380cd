/* LeanKV's and KV-Compress's properties on a small model, over the prompt and steps: what must change nothing changes no bit, no token is
 * lost where nothing may go, attention given in a step adds up to one, and pages hold what they must and no more. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/engines.h"
#include "tests/support/seed.h"

enum { PROMPT = 230, STEPS = 60, MAX_N = PROMPT + STEPS, MAX_LISTS = 64 };

typedef struct run {
    engine *e;
    policy *p;
    node *tree;
    cache_space *space;
    seq *s;
    float *logits;
    int n_vocab;
} run;

static run run_open(tiny_model m, const char *file, const char *preset, const char *overrides) {
    run r = {.e = tiny_engine(tiny_model_file(file, m), MATH_FAST, 1, "cpu", "auto")};
    r.p = preset_policy(r.e, preset, overrides, &r.tree);
    assert_ok(cache_space_create(r.e, r.p, PROMPT, 0, &r.space));
    assert_ok(seq_create(r.e, r.space, r.p, 1, &r.s));
    r.n_vocab = engine_model(r.e)->p.n_vocab;
    r.logits = malloc(sizeof(float) * (size_t)r.n_vocab);
    return r;
}

static run open_tiny(const char *preset, const char *overrides) { return run_open(tiny_model_default(), "tiny.gguf", preset, overrides); }

static void run_close(run *r) {
    free(r->logits);
    seq_destroy(r->s);
    cache_space_destroy(r->space);
    policy_destroy(r->p);
    node_free(r->tree);
    engine_close(r->e);
}

static int items_of(const run *r, int tier) {
    cache_shape s = cache_get_shape(seq_cache(r->s));
    int n = 0;
    for (int l = 0; l < s.n_layers; l++)
        for (int h = 0; h < s.n_kv; h++) n += cache_n_items(seq_cache(r->s), l, h, tier);
    return n;
}

static int n_lists(const run *r) { return cache_get_shape(seq_cache(r->s)).n_layers * cache_get_shape(seq_cache(r->s)).n_kv; }

/* Both give the same bits for a prompt and the steps behind it. */
static void assert_same_logits(run *a, run *b, int n_prompt) {
    int32_t ids[MAX_N];
    random_ids(ids, MAX_N, a->n_vocab, seed_get());
    size_t n = sizeof(float) * (size_t)a->n_vocab;
    assert_ok(seq_prefill(a->s, ids, n_prompt, a->logits));
    assert_ok(seq_prefill(b->s, ids, n_prompt, b->logits));
    assert_memory_equal(a->logits, b->logits, n);
    for (int t = 0; t < STEPS; t++) {
        assert_ok(engine_step(a->e, &a->s, ids + n_prompt + t, 1, a->logits));
        assert_ok(engine_step(b->e, &b->s, ids + n_prompt + t, 1, b->logits));
        if (memcmp(a->logits, b->logits, n) != 0) fail_msg("logits differ at step %d", t);
    }
}

static void thresholds_of_zero_keep_everything_high(void **state) {
    static const char *const modes[] = {"code", "paper"};
    for (int i = 0; i < 2; i++) {
        char over[120];
        snprintf(over, sizeof over, "{decide: {leankv: {mode: %s, alpha_h: 0, alpha_l: 0}}}", modes[i]);
        run lean = open_tiny("leankv", over), dense = open_tiny("k8v4", NULL);
        assert_same_logits(&lean, &dense, PROMPT);
        assert_int_equal(items_of(&lean, 0), (PROMPT + STEPS) * n_lists(&lean));
        assert_int_equal(items_of(&lean, 1), 0);
        run_close(&lean);
        run_close(&dense);
    }
}

static void a_window_as_long_as_the_sequence_changes_nothing(void **state) {
    static const char *const presets[] = {"leankv", "leankv_paper", "leankv_v1"};
    for (int i = 0; i < 3; i++) {
        run lean = open_tiny(presets[i], "{protect: {recent: 290}}"), dense = open_tiny("k8v4", NULL);
        assert_same_logits(&lean, &dense, PROMPT);
        assert_int_equal(items_of(&lean, 1), 0);
        run_close(&lean);
        run_close(&dense);
    }
}

static void a_prompt_shorter_than_the_window_is_kept_whole(void **state) {
    run lean = open_tiny("leankv", "{decide: {leankv: {alpha_h: 3, alpha_l: 0.9}}}");
    int32_t ids[64];
    random_ids(ids, 64, lean.n_vocab, seed_get());
    assert_ok(seq_prefill(lean.s, ids, 63, lean.logits));
    assert_int_equal(items_of(&lean, 0), 63 * n_lists(&lean));
    run_close(&lean);
}

/* alpha_l 0: whatever moves between tiers, nothing goes. */
static void without_alpha_l_every_token_stays(void **state) {
    static const char *const overrides[] = {"{decide: {leankv: {alpha_h: 1, alpha_l: 0}}}", "{decide: {leankv: {alpha_h: 1, alpha_l: 0, victims: 0, eager: true}}}",
                                            "{decide: {leankv: {mode: paper, alpha_h: 1, alpha_l: 0}}}"};
    for (int i = 0; i < 3; i++) {
        run lean = open_tiny("leankv", overrides[i]);
        int32_t ids[MAX_N];
        random_ids(ids, MAX_N, lean.n_vocab, seed_get() + 3);
        assert_ok(seq_prefill(lean.s, ids, PROMPT, lean.logits));
        int low = items_of(&lean, 1);
        for (int t = 0; t < STEPS; t++) {
            assert_ok(engine_step(lean.e, &lean.s, ids + PROMPT + t, 1, lean.logits));
            assert_int_equal(items_of(&lean, 0) + items_of(&lean, 1), (PROMPT + t + 1) * n_lists(&lean));
        }
        assert_true(items_of(&lean, 1) > low);
        run_close(&lean);
    }
}

static void everything_outside_the_window_may_be_low(void **state) {
    run lean = open_tiny("leankv", "{decide: {leankv: {alpha_h: 1000000, alpha_l: 0}}}");
    int32_t ids[MAX_N];
    random_ids(ids, MAX_N, lean.n_vocab, seed_get() + 4);
    assert_ok(seq_prefill(lean.s, ids, PROMPT, lean.logits));
    assert_int_equal(items_of(&lean, 0), 64 * n_lists(&lean));
    for (int t = 0; t < STEPS; t++) {
        assert_ok(engine_step(lean.e, &lean.s, ids + PROMPT + t, 1, lean.logits));
        assert_int_equal(items_of(&lean, 0), 64 * n_lists(&lean)); /* one enters the window, one moves down */
    }
    run_close(&lean);
}

/* A model with one query head per KV head: what a step adds to the columns of a head are its probabilities. */
static void what_a_step_adds_to_scores_is_a_probability(void **state) {
    tiny_model m = tiny_model_default();
    m.n_kv = m.n_head;
    static const char *const presets[] = {"leankv", "leankv_f16", "h2o"};
    static const char *const overrides[] = {"{decide: {leankv: {alpha_h: 2, alpha_l: 0.3}}}", "{decide: {leankv: {alpha_h: 2, alpha_l: 0.3}}}", "{budget: 0.5}"};
    for (int i = 0; i < 3; i++) {
        run r = run_open(m, "tiny_mha.gguf", presets[i], overrides[i]);
        cache_shape shape = cache_get_shape(seq_cache(r.s));
        int32_t ids[MAX_N];
        random_ids(ids, MAX_N, r.n_vocab, seed_get() + 5);
        assert_ok(seq_prefill(r.s, ids, PROMPT, r.logits));
        static float before[MAX_LISTS][MAX_N];
        for (int t = 0; t < STEPS; t++) {
            for (int k = 0; k < shape.n_layers * shape.n_kv; k++) {
                uint32_t pos[MAX_N];
                float score[MAX_N];
                item_columns ic = {0, pos, NULL, score};
                cache_columns(seq_cache(r.s), k / shape.n_kv, k % shape.n_kv, &ic);
                double sum = 0;
                for (int j = 0; j < ic.n; j++) {
                    double added = (double)score[j] - ((int)pos[j] == PROMPT + t - 1 ? 0 : (double)before[k][pos[j]]);
                    if (t > 0 && !(added >= 0 && added <= 1 + 1e-5)) fail_msg("%s, step %d: position %u gets %g", presets[i], t, pos[j], added);
                    sum += added;
                    before[k][pos[j]] = score[j];
                }
                if (t > 0 && fabs(sum - 1) > 1e-3) fail_msg("%s, step %d, head %d: probabilities add up to %g", presets[i], t, k, sum);
            }
            assert_ok(engine_step(r.e, &r.s, ids + PROMPT + t, 1, r.logits));
        }
        run_close(&r);
    }
}

/* After every step the pool holds the pages that items fill, and at most one more per head for the next token. */
static void pages_hold_what_heads_have(void **state) {
    static const char *const presets[] = {"leankv", "leankv_f16", "kvcompress_k8v4", "kvcompress_continual"};
    for (int i = 0; i < 4; i++) {
        run r = open_tiny(presets[i], NULL);
        const cache *c = seq_cache(r.s);
        int32_t ids[MAX_N];
        random_ids(ids, MAX_N, r.n_vocab, seed_get() + 6);
        assert_ok(seq_prefill(r.s, ids, PROMPT, r.logits));
        for (int t = 0; t < STEPS; t++) {
            size_t filled = 0, lists = (size_t)n_lists(&r);
            for (int k = 0; k < (int)lists; k++)
                for (int tier = 0; tier < cache_n_tiers(c); tier++) {
                    int n = cache_n_items(c, k / cache_get_shape(c).n_kv, k % cache_get_shape(c).n_kv, tier), cap = cache_layout(c, tier)->cap;
                    filled += (size_t)((n + cap - 1) / cap);
                }
            pool_stats st = pool_get_stats(cache_space_pool(r.space));
            if (st.pages_used < filled || st.pages_used > filled + lists)
                fail_msg("%s, step %d: %zu pages in use, items fill %zu", presets[i], t, st.pages_used, filled);
            assert_ok(cache_check(c));
            assert_ok(engine_step(r.e, &r.s, ids + PROMPT + t, 1, r.logits));
        }
        run_close(&r);
    }
}

/* The fused decision places a prompt as score significance, select and tier threshold do, which are checked against other software. */
static void its_prompt_phase_is_that_of_the_composed_stages(void **state) {
    static const struct { const char *fused, *composed; } pairs[] = {
        {"{decide: {leankv: {alpha_h: 1, alpha_l: 0.02}}}", NULL},
        {"{decide: {leankv: {alpha_h: 3, alpha_l: 0.3}}}", "{select: {threshold: {alpha: 0.3}}, tier: {threshold: {levels: {k8v4: 3}}}}"},
    };
    for (int i = 0; i < 2; i++) {
        run a = open_tiny("leankv", pairs[i].fused), b = open_tiny("leankv_prompt", pairs[i].composed);
        cache_shape s = cache_get_shape(seq_cache(a.s));
        int32_t ids[MAX_N];
        random_ids(ids, MAX_N, a.n_vocab, seed_get() + 7);
        assert_ok(seq_prefill(a.s, ids, PROMPT, a.logits));
        assert_ok(seq_prefill(b.s, ids, PROMPT, b.logits));
        for (int k = 0; k < n_lists(&a); k++)
            for (int t = 0; t < 2; t++)
                assert_int_equal(cache_n_items(seq_cache(a.s), k / s.n_kv, k % s.n_kv, t), cache_n_items(seq_cache(b.s), k / s.n_kv, k % s.n_kv, t));
        assert_true(items_of(&a, 1) > 0);
        run_close(&a);
        run_close(&b);
    }
}

/* Another size of page: the same numbers in other pages. */
static void the_size_of_a_page_changes_no_bit(void **state) {
    run a = open_tiny("leankv", NULL), b = open_tiny("leankv", "{page_bytes: 6784}");
    assert_same_logits(&a, &b, PROMPT);
    assert_int_equal(cache_layout(seq_cache(b.s), 0)->page_bytes, 6784);
    assert_true(cache_layout(seq_cache(a.s), 0)->page_bytes != 6784);
    for (int t = 0; t < 2; t++) assert_int_equal(items_of(&a, t), items_of(&b, t));
    assert_int_equal(seq_bytes(a.s).payload, seq_bytes(b.s).payload);
    run_close(&a);
    run_close(&b);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thresholds_of_zero_keep_everything_high),
        cmocka_unit_test(a_window_as_long_as_the_sequence_changes_nothing),
        cmocka_unit_test(a_prompt_shorter_than_the_window_is_kept_whole),
        cmocka_unit_test(without_alpha_l_every_token_stays),
        cmocka_unit_test(everything_outside_the_window_may_be_low),
        cmocka_unit_test(what_a_step_adds_to_scores_is_a_probability),
        cmocka_unit_test(pages_hold_what_heads_have),
        cmocka_unit_test(its_prompt_phase_is_that_of_the_composed_stages),
        cmocka_unit_test(the_size_of_a_page_changes_no_bit),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
