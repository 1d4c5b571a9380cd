/* Attention while a prompt is repeated (KVzip), against softmax in f64. A snapshot of the prompt and its repetition as one text has the keys
 * and the last 64 queries of the repetition: those rows see the same in both. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/engine_impl.h"
#include "tests/support/engines.h"
#include "tests/support/policies.h"
#include "tests/support/seed.h"

enum { N_CONTEXT = 12, MAX_ROWS = 128 };

static void encode(engine *e, const char *text, bool special, token_list *ids) { assert_ok(tokenizer_encode(e->tok, text, strlen(text), special, false, ids)); }

/* The statistic of the policy's repetition, [n_layers][n_heads][n]. */
static const float *probe_of(engine *e, const policy *p, snapshot *snap) {
    const policy_needs *need = policy_get_needs(p);
    for (int i = 0; i < need->n_signals; i++) {
        unsigned char key[SNAPSHOT_KEY_BYTES];
        if (need->signals[i].kind != SIGNAL_PROBE_MASS) continue;
        statistic_key(&need->signals[i], key);
        return snapshot_find_stat(snap, key)->data;
    }
    return NULL;
}

static double log_norm_of_input(const engine *e, int32_t id) { /* of layer 0: the normed embedding */
    int n = e->m->p.n_embd;
    float *x = malloc(sizeof *x * (size_t)n);
    double square = 0, sum = 0;
    model_embed_row(e->m, id, x);
    for (int c = 0; c < n; c++) square += (double)x[c] * (double)x[c];
    double scale = 1 / sqrt(square / n + (double)e->m->p.norm_eps);
    for (int c = 0; c < n; c++) {
        double y = (double)x[c] * scale * (double)e->m->layers[0].attn_norm[c];
        sum += y * y;
    }
    free(x);
    return log(sqrt(sum));
}

/* prompt = prefix + context; rows = instruction + suffix + context. A row of a sliding layer has its whole window in the denominator. */
static void check_with(engine *e, const char *yaml, bool plus, const char *before, const char *after, int n_context) {
    token_list all = {0};
    int32_t context[N_CONTEXT];
    const model_params *mp = &e->m->p;
    int d = mp->head_dim, group = mp->n_heads / mp->n_kv;
    encode(e, before, true, &all);
    int prefix = all.n, n = prefix + n_context;
    random_ids(context, n_context, mp->n_vocab, seed_get());
    for (int i = 0; i < n_context; i++) assert_ok(token_list_push(&all, context[i]));
    encode(e, "\n\nRepeat the previous context exactly.", false, &all);
    encode(e, after, true, &all);
    for (int i = 0; i < n_context; i++) assert_ok(token_list_push(&all, context[i]));
    int n_rows = all.n - n;
    assert_true(n_rows <= SNAPSHOT_TAIL_ROWS);

    policy *p = policy_from_text(engine_policy_shape(e), yaml);
    cache_space *space;
    seq *s;
    snapshot *snap, *whole;
    assert_ok(engine_snapshot(e, all.ids, n, &snap));
    assert_ok(cache_space_create(e, p, n, 0, &space));
    assert_ok(seq_fork(e, space, snap, p, 1, NULL, &s));
    const float *have = probe_of(e, p, snap);
    assert_ok(engine_snapshot(e, all.ids, all.n, &whole));
    int sinks = prefix < 4 ? prefix : 4, n_tail = whole->n_tail;
    for (int layer = 0; layer < (plus ? 1 : mp->n_layers); layer++)
        for (int h = 0; h < mp->n_heads; h++) {
            const float *k = (const float *)whole->k + ((size_t)layer * (size_t)mp->n_kv + (size_t)(h / group)) * (size_t)(all.n * d);
            double want[128] = {0};
            int window = e->m->layers[layer].window;
            for (int i = 0; i < n_rows; i++) {
                const float *q = whole->q_tail + (((size_t)layer * (size_t)n_tail + (size_t)(n_tail - n_rows + i)) * (size_t)mp->n_heads + (size_t)h) * (size_t)d;
                double e_of[256], sum = 0, norm = plus ? exp(log_norm_of_input(e, all.ids[n + i])) : 1;
                for (int j = 0; j <= n + i; j++) {
                    double dot = 0;
                    for (int c = 0; c < d; c++) dot += (double)q[c] * (double)k[j * d + c];
                    bool counts = window ? j > n + i - window : j < sinks || j >= prefix;
                    e_of[j] = counts ? exp(dot * (double)mp->attn_scale) : 0;
                    sum += e_of[j];
                }
                for (int j = prefix; j < n; j++) want[j] = fmax(want[j], e_of[j] / sum / norm);
            }
            for (int j = 0; j < n; j++) {
                double got = (double)have[((size_t)layer * (size_t)mp->n_heads + (size_t)h) * (size_t)n + (size_t)j];
                if (!(fabs(got - want[j]) <= 1e-4 * want[j])) fail_msg("layer %d head %d position %d: %g, f64 %g\n%s", layer, h, j, got, want[j], yaml);
            }
        }
    seq_destroy(s);
    cache_space_destroy(space);
    snapshot_destroy(snap);
    snapshot_destroy(whole);
    policy_destroy(p);
    token_list_free(&all);
}

static void check(engine *e, const char *yaml, bool plus, const char *before, const char *after) { check_with(e, yaml, plus, before, after, N_CONTEXT); }

static engine *open_engine(void) { return tiny_engine(tiny_model_file("tiny.gguf", tiny_model_default()), MATH_EXACT, 2, "cpu", "auto"); }

static void repetition_agrees_with_f64(void **state) {
    engine *e = open_engine();
    check(e, "{budget: 0.5, score: probe, quota: global, tiers: [f32]}", false, "", "\n");
    engine_close(e);
}

static void normalised_rows_agree_with_f64(void **state) {
    engine *e = open_engine();
    check(e, "{budget: 0.5, score: {probe: {normalise: output}}, quota: global, tiers: [f32]}", true, "", "\n");
    engine_close(e);
}

/* The tiny model has SmolLM2's template. */
static void the_opening_of_a_chat_is_not_repeated(void **state) {
    engine *e = open_engine();
    char *text;
    assert_ok(chat_render(e->m->file, NULL, &(chat_message){"user", "@@"}, 1, true, &text));
    char *at = strstr(text, "@@");
    assert_non_null(at);
    *at = 0;
    check(e, "{budget: 0.5, score: {probe: {chat: always}}, quota: global, tiers: [f32]}", false, text, at + 2);
    check(e, "{budget: 0.5, score: probe, quota: global, tiers: [f32]}", false, text, at + 2); /* auto sees it */
    mem_free(text);
    engine_close(e);
}

/* gemma3 with its own template; rows of the repetition leave the window of sliding layers behind. */
static void gemma3_is_measured_in_all_layers(void **state) {
    for (int window = 10; window <= 60; window += 50) {
        tiny_model m = tiny_model_default();
        char *text, name[24];
        m.arch = "gemma3", m.n_layers = 7, m.window = window;
        m.chat_template = "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ role }}<end_of_turn>{% endfor %}"; /* known by its marks */
        snprintf(name, sizeof name, "gemma3_%d.gguf", window);
        engine *e = tiny_engine(tiny_model_file(name, m), MATH_EXACT, 2, "cpu", "auto");
        assert_ok(chat_render(e->m->file, NULL, &(chat_message){"user", "@@"}, 1, true, &text));
        char *at = strstr(text, "@@");
        assert_non_null(at);
        *at = 0;
        assert_non_null(strstr(text, "<start_of_turn>user"));
        check_with(e, "{layers: all, budget: 0.5, score: {probe: {chat: always}}, quota: global, tiers: [f32]}", false, text, at + 2, 5);
        check_with(e, "{layers: all, budget: 0.5, score: probe, quota: global, tiers: [f32]}", false, "", "\n", 9);
        check_with(e, "{layers: all, budget: 0.5, score: {probe: {normalise: output}}, quota: global, tiers: [f32]}", true, "", "\n", 9);
        mem_free(text);
        engine_close(e);
    }
}

static void a_prompt_without_the_template_is_refused(void **state) {
    engine *e = open_engine();
    policy *p = policy_from_text(engine_policy_shape(e), "{budget: 0.5, score: {probe: {chat: always}}, quota: global, tiers: [f32]}");
    int32_t ids[N_CONTEXT];
    cache_space *space;
    seq *s;
    snapshot *snap;
    for (int i = 0; i < N_CONTEXT; i++) ids[i] = 40 + i;
    assert_ok(engine_snapshot(e, ids, N_CONTEXT, &snap));
    assert_ok(cache_space_create(e, p, N_CONTEXT, 0, &space));
    assert_int_equal(seq_fork(e, space, snap, p, 1, NULL, &s), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "does not begin with the model's chat template"));
    cache_space_destroy(space);
    snapshot_destroy(snap);
    policy_destroy(p);
    engine_close(e);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repetition_agrees_with_f64),
        cmocka_unit_test(normalised_rows_agree_with_f64),
        cmocka_unit_test(the_opening_of_a_chat_is_not_repeated),
        cmocka_unit_test(gemma3_is_measured_in_all_layers),
        cmocka_unit_test(a_prompt_without_the_template_is_refused),
    };
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests_name("engine_probe", tests, NULL, NULL));
}
