/* Running records on a small random model: `full` equals its reference bit for bit, figures equal a plain recomputation
 * row by row, the written answer does not depend on how it was reached, noise, bytes, failures. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "task/task_impl.h"
#include "tests/support/engines.h"
#include "tests/support/seed.h"
#include "tests/support/temp.h"

static engine *fast, *exact;
static text_source *text;

static const char *const untimed[] = {
    "{task: lm, context: 200, tokens: 70, records: 3}", /* more rows than one chunk */
    "{task: repeat_back, span: 24, filler: 100, records: 2, first_copy: true}",
    "{task: passkey, length: 800, depth: 0.5}",
    "{task: passkey, protocol: p2, length: 800, depth: 0.5, chat: true}",
};
enum { N_UNTIMED = 4 };

/* A task, one of its records, and a policy with its space. */
typedef struct bench {
    task *t;
    task_item *it;
    policy *p;
    cache_space *space;
    node *tree;
} bench;

static void use_policy(bench *b, engine *e, const char *yaml) {
    assert_ok(node_parse_text(yaml, strlen(yaml), "policy", &b->tree));
    assert_ok(policy_create(b->tree, engine_policy_shape(e), &b->p));
    assert_ok(cache_space_create(e, b->p, task_prompt_tokens(b->t), 0, &b->space));
}

static bench open_bench(engine *e, const char *task_yaml, int item, const char *policy_yaml) {
    bench b = {0};
    node *conf;
    assert_ok(node_parse_text(task_yaml, strlen(task_yaml), "task", &conf));
    assert_ok(task_create(conf, e, text, seed_get(), &b.t));
    node_free(conf);
    assert_ok(task_item_open(b.t, item, &b.it));
    use_policy(&b, e, policy_yaml);
    return b;
}

static void drop_policy(bench *b) {
    cache_space_destroy(b->space);
    policy_destroy(b->p);
    node_free(b->tree);
}

static void close_bench(bench *b) {
    drop_policy(b);
    task_item_close(b->it);
    task_destroy(b->t);
}

static int metric(const task *t, const char *name) {
    const task_metric *m;
    int n = task_list_metrics(t, &m);
    for (int i = 0; i < n; i++)
        if (!strcmp(m[i].name, name)) return i;
    fail_msg("no metric %s", name);
    return -1;
}

static double value(const bench *b, const task_result *r, const char *name) {
    return r->value[metric(b->t, name)];
}

static void close_to(double x, double expected, double tolerance) {
    if (!(fabs(x - expected) <= tolerance)) fail_msg("%.17g is not within %g of %.17g", x, tolerance, expected);
}

static void full_equals_its_reference_exactly(void **state) {
    for (int math = 0; math < 2; math++)
        for (int k = 0; k < N_UNTIMED; k++) {
            engine *e = math ? exact : fast;
            bench b = open_bench(e, untimed[k], 0, math ? "tiers: [f32]" : "tiers: [f16]");
            task_result r;
            assert_ok(task_item_prepare(b.it, e));
            assert_ok(task_item_run(b.it, e, b.space, b.p, 1, &r));
            assert_true(value(&b, &r, "kl") == 0);
            assert_true(value(&b, &r, "top1") == 1);
            assert_true(value(&b, &r, "dnll") == 0);
            assert_int_equal(r.series.n, b.it->target.n);
            for (int i = 0; i < r.series.n; i++)
                assert_true(r.series.kl[i] == 0 && r.series.top1[i] == 1 && r.series.nll[i] > 0);
            if (b.it->n_generate) {
                assert_non_null(r.output);
                assert_true(value(&b, &r, "agreement") == 1);
            } else {
                assert_null(r.output);
            }
            task_result_free(&r);
            close_bench(&b);
        }
}

static long double nll_long(const float *x, int n, int32_t id) {
    long double m = x[0], s = 0;
    for (int i = 1; i < n; i++) m = x[i] > m ? x[i] : m;
    for (int i = 0; i < n; i++) s += expl(x[i] - m);
    return m + logl(s) - x[id];
}

/* NLL of target i by the real flow, one token at a time, under the bench's policy. */
static double plain_nll(const bench *b, engine *e) {
    int n_vocab = engine_model(e)->p.n_vocab, row = 0;
    const task_item *it = b->it;
    float *x = NULL;
    seq *s = NULL;
    long double sum = 0;
    assert_ok(mem_alloc(MEM_OTHER, (size_t)n_vocab * sizeof *x, &x));
    assert_ok(seq_create(e, b->space, b->p, 1, &s));
    assert_ok(seq_prefill(s, it->prompt.ids, it->prompt.n, x));
    if (it->scores_prefill) sum += nll_long(x, n_vocab, it->target.ids[row++]);
    for (int i = 0; i < it->feed.n; i++) {
        assert_ok(seq_extend(s, &it->feed.ids[i], 1, x));
        if (i >= it->n_lead) sum += nll_long(x, n_vocab, it->target.ids[row++]);
    }
    assert_int_equal(row, it->target.n);
    seq_destroy(s);
    mem_free(x);
    return (double)(sum / row);
}

static void figures_equal_a_run_token_by_token(void **state) {
    static const char *const policies[] = {"tiers: [k4v2]",
                                           "{budget: 0.4, tiers: [f16], score: recency, quota: fixed, select: top_k}"};
    for (int k = 0; k < N_UNTIMED; k++) {
        bench b = open_bench(fast, untimed[k], 0, "tiers: [f16]");
        bool passkey = !strcmp(task_name(b.t), "passkey");
        assert_ok(task_item_prepare(b.it, fast));
        double nll_full = plain_nll(&b, fast);
        for (int p = 0; p < 2; p++) {
            task_result r;
            drop_policy(&b);
            use_policy(&b, fast, policies[p]);
            assert_ok(task_item_run(b.it, fast, b.space, b.p, 1, &r));
            double nll = plain_nll(&b, fast);
            close_to(value(&b, &r, passkey ? "gold_nll" : "nll"), nll, 1e-9);
            close_to(value(&b, &r, "dnll"), nll - nll_full, 1e-9);
            assert_true(value(&b, &r, "kl") > 0);
            double sum = 0, kl = 0;
            for (int i = 0; i < r.series.n; i++) sum += r.series.nll[i];
            for (int i = b.it->scores_prefill; i < r.series.n; i++) kl += r.series.kl[i];
            close_to(sum / r.series.n, nll, 1e-5);
            close_to(kl / (r.series.n - b.it->scores_prefill), value(&b, &r, "kl"), 1e-5);
            if (b.it->scores_prefill) assert_true(r.series.kl[0] == 0); /* nothing compressed was read yet */
            if (!strcmp(task_name(b.t), "lm")) close_to(value(&b, &r, "perplexity"), exp(nll), 1e-6 * exp(nll));
            task_result_free(&r);
        }
        close_bench(&b);
    }
}

static void first_copy_is_the_span_alone(void **state) {
    bench b = open_bench(fast, untimed[1], 1, "tiers: [f16]");
    task_result r;
    assert_ok(task_item_prepare(b.it, fast));
    assert_ok(task_item_run(b.it, fast, b.space, b.p, 1, &r));
    int n_vocab = engine_model(fast)->p.n_vocab;
    float *x = NULL;
    seq *s = NULL;
    long double sum = 0;
    assert_ok(mem_alloc(MEM_OTHER, (size_t)n_vocab * sizeof *x, &x));
    assert_ok(seq_create(fast, b.space, b.p, 1, &s));
    assert_ok(seq_prefill(s, b.it->prompt.ids, 1, x));
    for (int i = 1; i < 24; i++) {
        sum += nll_long(x, n_vocab, b.it->prompt.ids[i]);
        assert_ok(seq_extend(s, &b.it->prompt.ids[i], 1, x));
    }
    close_to(value(&b, &r, "nll_first_copy"), (double)(sum / 23), 1e-9);
    seq_destroy(s);
    mem_free(x);
    task_result_free(&r);
    close_bench(&b);
}

/* When the gold answer is what the model writes anyway, the taught sequence goes on; otherwise a fresh one writes. Both
 * must give the same. */
static void the_written_answer_does_not_depend_on_the_way(void **state) {
    for (int k = 2; k < N_UNTIMED; k++) {
        bench b = open_bench(fast, untimed[k], 0, "tiers: [f16]");
        task_item *it = b.it;
        task_result afresh, continued;
        token_list written = {0};
        assert_ok(task_item_prepare(it, fast));
        assert_ok(task_item_run(it, fast, b.space, b.p, 1, &afresh));
        assert_true(value(&b, &afresh, "exact_match") == 0); /* a random model knows nothing */
        assert_ok(token_list_add(&written, it->ref_output.ids, it->ref_output.n));
        if (written.n > 3) { /* fewer only when the model happens to stop */
            it->feed.n = it->n_lead + !it->scores_prefill;
            it->target.n = 0;
            assert_ok(token_list_add(&it->feed, written.ids, 2));
            assert_ok(token_list_add(&it->target, written.ids, 3));
            snapshot_destroy(it->snap);
            mem_free(it->ref);
            it->snap = NULL;
            it->ref = NULL;
            it->ref_output.n = 0;
            assert_ok(task_item_prepare(it, fast));
            assert_ok(task_item_run(it, fast, b.space, b.p, 1, &continued));
            assert_true(value(&b, &continued, "gold_accuracy") == 1);
            assert_string_equal(continued.output, afresh.output);
            assert_int_equal(it->ref_output.n, written.n);
            assert_memory_equal(it->ref_output.ids, written.ids, (size_t)written.n * sizeof(int32_t));
            assert_int_equal(continued.n_decoded, afresh.n_decoded);
            assert_int_equal(continued.at_end.live, afresh.at_end.live);
            task_result_free(&continued);
        }
        task_result_free(&afresh);
        token_list_free(&written);
        close_bench(&b);
    }
}

static void bytes_and_kept_items_are_those_of_the_cache(void **state) {
    bench b =
        open_bench(fast, untimed[0], 2, "{budget: 0.5, tiers: [f16], score: recency, quota: fixed, select: top_k}");
    task_result r;
    assert_ok(task_item_prepare(b.it, fast));
    assert_ok(task_item_run(b.it, fast, b.space, b.p, 1, &r));
    const model_params *m = &engine_model(fast)->p;
    assert_int_equal(r.n_layers, m->n_layers);
    assert_int_equal(r.n_kv, m->n_kv);
    assert_int_equal(r.n_tiers, 1);
    assert_int_equal(r.n_prompt, 200);
    assert_int_equal(r.n_decoded, 70);
    size_t sum = 0;
    for (int i = 0; i < r.n_layers * r.n_kv; i++) {
        assert_int_equal(r.kept[i], 100);
        sum += r.kept[i];
    }
    assert_int_equal(r.at_prompt.items, sum);
    assert_int_equal(r.at_prompt.items_full, 200 * r.n_layers * r.n_kv);
    assert_int_equal(r.at_prompt.payload, sum * (size_t)m->head_dim * 4);
    assert_int_equal(r.at_end.items_full, 270 * r.n_layers * r.n_kv);
    assert_true(r.at_end.items >= r.at_prompt.items);
    assert_false(r.budget_clamped);
    task_result_free(&r);
    drop_policy(&b);
    use_policy(&b, fast,
               "{budget: {tokens: 8}, protect: {sink: 4, recent: 16}, tiers: [f16], score: recency, quota: fixed, "
               "select: top_k}");
    assert_ok(task_item_run(b.it, fast, b.space, b.p, 1, &r));
    assert_true(r.budget_clamped);
    task_result_free(&r);
    close_bench(&b);
}

static void runs_repeat_and_do_not_disturb_each_other(void **state) {
    bench b = open_bench(fast, untimed[3], 0, "tiers: [k4v2]");
    task_result first, second;
    assert_ok(task_item_prepare(b.it, fast));
    assert_ok(task_item_prepare(b.it, fast)); /* again: nothing to do */
    assert_ok(task_item_run(b.it, fast, b.space, b.p, 1, &first));
    drop_policy(&b);
    use_policy(&b, fast, "tiers: [f16]");
    assert_ok(task_item_run(b.it, fast, b.space, b.p, 1, &second));
    assert_true(value(&b, &second, "kl") == 0);
    task_result_free(&second);
    drop_policy(&b);
    use_policy(&b, fast, "tiers: [k4v2]");
    assert_ok(task_item_run(b.it, fast, b.space, b.p, 1, &second));
    assert_memory_equal(first.value, second.value, sizeof first.value);
    assert_memory_equal(first.series.kl, second.series.kl, (size_t)first.series.n * sizeof(float));
    assert_string_equal(first.output, second.output);
    task_result_free(&first);
    task_result_free(&second);
    close_bench(&b);
}

static void noise_is_that_of_the_other_arithmetic(void **state) {
    for (int k = 0; k < N_UNTIMED; k++) {
        bench b = open_bench(fast, untimed[k], 0, "tiers: [f16]");
        task_result r;
        assert_ok(task_item_prepare(b.it, fast));
        assert_ok(task_item_run_noise(b.it, fast, &r)); /* the same arithmetic: none */
        assert_true(value(&b, &r, "kl") == 0);
        task_result_free(&r);
        assert_ok(task_item_run_noise(b.it, exact, &r));
        double kl = value(&b, &r, "kl");
        assert_true(kl > 0 && kl < 0.5);
        assert_true(isnan(r.value[metric(b.t, k < 2 ? "nll" : "gold_nll")]));
        assert_null(r.output);
        task_result_free(&r);
        close_bench(&b);
    }
}

static void speed_times_the_real_flow(void **state) {
    bench b =
        open_bench(fast, "{task: speed, context: [64, 300], decode: 8, warmup: 1, repeats: 3}", 1, "tiers: [k8v4]");
    task_result r;
    assert_true(task_is_timed(b.t));
    assert_ok(task_item_run(b.it, fast, b.space, b.p, 1, &r)); /* needs no reference */
    assert_int_equal(r.n_prompt, 300);
    assert_int_equal(r.n_decoded, 9);
    double ttft = value(&b, &r, "ttft"), decode = value(&b, &r, "decode_tps"), kv = value(&b, &r, "kv_read_bytes");
    assert_true(ttft > 0 && ttft < 60 && decode > 0);
    close_to(value(&b, &r, "prefill_tps") * ttft, 300, 1e-6);
    close_to(value(&b, &r, "kv_gbs"), kv * decode / 1e9, 1e-9);
    double weights = (double)model_decode_bytes(engine_model(fast));
    close_to(value(&b, &r, "read_gbs"), (kv + weights) * decode / 1e9, 1e-9);
    /* 301 items before the timed steps, 309 after: 305 on average. */
    close_to(kv, (double)(r.at_prompt.payload + r.at_prompt.metadata) / 300 * 305, 1e-6 * kv);
    assert_int_equal(r.at_end.items, 309 * r.n_layers * r.n_kv);
    task_result_free(&r);
    assert_int_equal(task_item_run_noise(b.it, exact, &r), ERR_UNSUPPORTED);
    close_bench(&b);
}

static void a_record_must_be_prepared(void **state) {
    bench b = open_bench(fast, untimed[0], 0, "tiers: [f16]");
    task_result r;
    assert_int_equal(task_item_run(b.it, fast, b.space, b.p, 1, &r), ERR_USAGE);
    assert_non_null(strstr(err_text(), "task_item_prepare"));
    assert_int_equal(task_item_run_noise(b.it, exact, &r), ERR_USAGE);
    close_bench(&b);
}

static size_t live_bytes(void) {
    size_t sum = 0;
    for (int t = 0; t < MEM_N_TAGS; t++)
        if (t != MEM_SCRATCH && t != MEM_POOL)
            sum += mem_live_bytes((mem_tag)t); /* the engine's scratch and pools stay warm */
    return sum;
}

static void missing_memory_is_reported_and_nothing_leaks(void **state) {
    bench b = open_bench(fast, untimed[3], 0, "tiers: [k4v2]");
    task_result whole, r;
    assert_ok(task_item_prepare(b.it, fast));
    assert_ok(task_item_run(b.it, fast, b.space, b.p, 1, &whole));
    size_t before = live_bytes();
    int n_failed = 0;
    for (int i = 1; i < 400; i++) {
        mem_fail_nth(i);
        err e = task_item_run(b.it, fast, b.space, b.p, 1, &r);
        mem_fail_nth(0);
        if (e == OK) {
            assert_memory_equal(r.value, whole.value, sizeof r.value);
            task_result_free(&r);
            break;
        }
        assert_int_equal(e, ERR_NOMEM);
        n_failed++;
        if (live_bytes() != before) fail_msg("allocation %d: %zu bytes before, %zu after", i, before, live_bytes());
    }
    assert_true(n_failed > 5 && n_failed < 399);
    task_result_free(&whole);
    close_bench(&b);
}

static int set_up(void **state) {
    tiny_model m = tiny_model_default();
    const char *path = tiny_model_file("tiny.gguf", m);
    fast = tiny_engine(path, MATH_FAST, 2, "cpu", "auto");
    exact = tiny_engine(path, MATH_EXACT, 2, "cpu", "auto");
    char words[20001];
    rng r = rng_make(seed_get(), 1);
    for (int i = 0; i < 20000; i++) words[i] = rng_below(&r, 6) ? (char)('a' + rng_below(&r, 26)) : ' ';
    words[20000] = 0;
    assert_ok(text_source_open(temp_file("text.txt", words), NULL, &text));
    return 0;
}

static int tear_down(void **state) {
    text_source_close(text);
    engine_close(fast);
    engine_close(exact);
    return 0;
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_equals_its_reference_exactly),
        cmocka_unit_test(figures_equal_a_run_token_by_token),
        cmocka_unit_test(first_copy_is_the_span_alone),
        cmocka_unit_test(the_written_answer_does_not_depend_on_the_way),
        cmocka_unit_test(bytes_and_kept_items_are_those_of_the_cache),
        cmocka_unit_test(runs_repeat_and_do_not_disturb_each_other),
        cmocka_unit_test(noise_is_that_of_the_other_arithmetic),
        cmocka_unit_test(speed_times_the_real_flow),
        cmocka_unit_test(a_record_must_be_prepared),
        cmocka_unit_test(missing_memory_is_reported_and_nothing_leaks),
    };
    return seed_end(cmocka_run_group_tests_name("task_run", tests, set_up, tear_down));
}
