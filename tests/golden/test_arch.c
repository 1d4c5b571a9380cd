/* Architectures against transformers: a tiny random model of each (tests/golden/arch), or of every FILE.gguf on the command line.
 * make_arch.py made models and log-probabilities. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/engines.h"
#include "tests/support/real_model.h"

enum { MAX_TOKENS = 1024, MAX_TOP = 32, MAX_POSITIONS = 128 };

typedef struct golden {
    int n, top, n_positions;
    int32_t ids[MAX_TOKENS];
    int pos[MAX_POSITIONS];
    int32_t id[MAX_POSITIONS][MAX_TOP];
    float lp[MAX_POSITIONS][MAX_TOP];
} golden;

static golden read_golden(const char *path) {
    static golden g;
    int version;
    FILE *f = fopen(path, "r");
    if (!f) fail_msg("%s is missing", path);
    assert_int_equal(fscanf(f, "kvlab-golden-arch %d %d %d %d", &version, &g.n, &g.top, &g.n_positions), 4);
    assert_true(version == 1 && g.n <= MAX_TOKENS && g.top <= MAX_TOP && g.n_positions <= MAX_POSITIONS);
    for (int i = 0; i < g.n; i++) assert_int_equal(fscanf(f, "%d", &g.ids[i]), 1);
    for (int i = 0; i < g.n_positions; i++) {
        assert_int_equal(fscanf(f, "%d", &g.pos[i]), 1);
        for (int k = 0; k < g.top; k++) assert_int_equal(fscanf(f, " %d:%f", &g.id[i][k], &g.lp[i][k]), 2);
    }
    fclose(f);
    return g;
}

static double gap_at(const golden *g, int i, const float *logits, int v) { return logprob_gap(logits, v, g->id[i], g->lp[i], g->top); }

typedef struct world {
    engine *e;
    policy *p;
    node *tree;
    cache_space *space;
    int v;
} world;

static world world_open(const char *path, math_mode math, const char *backend, const char *preset, const char *overrides) {
    world w;
    w.e = tiny_engine(path, math, 0, backend, "auto");
    w.p = preset_policy(w.e, preset, overrides, &w.tree);
    assert_ok(cache_space_create(w.e, w.p, MAX_TOKENS, 0, &w.space));
    w.v = engine_model(w.e)->p.n_vocab;
    return w;
}
static void world_close(world *w) {
    cache_space_destroy(w->space);
    policy_destroy(w->p);
    node_free(w->tree);
    engine_close(w->e);
}

/* Every golden position by prefill; or token by token after a prompt of one. */
static double worst_of_prefill(world *w, const golden *g, int every) {
    float *logits = calloc((size_t)w->v, sizeof *logits);
    double worst = 0;
    for (int i = 0; i < g->n_positions; i += every) {
        seq *s;
        assert_ok(seq_create(w->e, w->space, w->p, 1, &s));
        assert_ok(seq_prefill(s, g->ids, g->pos[i] + 1, logits));
        worst = fmax(worst, gap_at(g, i, logits, w->v));
        seq_destroy(s);
    }
    free(logits);
    return worst;
}
static double worst_of_steps(world *w, const golden *g, int n_prompt) {
    float *logits = calloc((size_t)w->v, sizeof *logits);
    double worst = 0;
    int at = 0;
    seq *s;
    assert_ok(seq_create(w->e, w->space, w->p, 1, &s));
    assert_ok(seq_prefill(s, g->ids, n_prompt, logits));
    for (int t = n_prompt - 1; t < g->n; t++) {
        if (t >= n_prompt) assert_ok(seq_extend(s, g->ids + t, 1, logits));
        while (at < g->n_positions && g->pos[at] < t) at++;
        if (at < g->n_positions && g->pos[at] == t) worst = fmax(worst, gap_at(g, at, logits, w->v));
    }
    seq_destroy(s);
    free(logits);
    return worst;
}

static void check_model(const char *model, const char *name, int every) {
    static const char *const backends[] = {"cpu", "reference"};
    char path[512];
    snprintf(path, sizeof path, "%.*s.txt", (int)strlen(model) - 5, model);
    golden g = read_golden(path);
    for (int b = 0; b < 2; b++) {
        world w = world_open(model, MATH_EXACT, backends[b], "full_f32", NULL);
        double prefill = worst_of_prefill(&w, &g, every), steps = worst_of_steps(&w, &g, 1), later = worst_of_steps(&w, &g, 30);
        printf("# %s, %s: worst log-probability difference %.1e by prefill, %.1e by steps\n", name, backends[b], prefill, fmax(steps, later));
        if (!(prefill < 1e-4)) fail_msg("%s: prefill differs by %g", name, prefill);
        if (!(steps < 1e-4 && later < 1e-4)) fail_msg("%s: steps differ by %g and %g", name, steps, later);
        world_close(&w);
    }
}

static void check_tiny(const char *name) {
    char model[128];
    snprintf(model, sizeof model, "tests/golden/arch/%s.gguf", name);
    check_model(model, name, 1);
}

static void llama_with_linear_scaling(void **state) { check_tiny("llama_linear"); }
static void llama_3_with_its_frequencies(void **state) { check_tiny("llama_3"); }
static void qwen2_with_biases(void **state) { check_tiny("qwen2"); }
static void qwen3_with_norms_of_q_and_k(void **state) { check_tiny("qwen3"); }
static void gemma3_with_sliding_layers(void **state) { check_tiny("gemma3"); }
static void mistral_beyond_its_window(void **state) { check_tiny("mistral"); }

/* 200 tokens onto 30 with windows of 12: pages are freed on the way, in steps at other moments than in an extend. */
static void extending_sliding_layers_equals_steps(void **state) {
    static const char *const models[] = {"gemma3", "mistral"};
    enum { PROMPT = 30, N = 200 };
    for (int i = 0; i < 2; i++)
        for (int hot = 0; hot < 2; hot++) {
            char path[64];
            int32_t ids[PROMPT + N];
            snprintf(path, sizeof path, "tests/golden/arch/%s.gguf", models[i]);
            world w = world_open(path, MATH_FAST, "cpu", "full", hot ? "{tiers: [k8v4]}" : NULL);
            random_ids(ids, PROMPT + N, w.v, 5);
            float *logits[3];
            int n_stepped = 0;
            for (int k = 0; k < 3; k++) { /* steps; one extend; extends of 1, 2, 3 ... */
                seq *s;
                logits[k] = calloc((size_t)w.v * N, sizeof(float));
                assert_ok(seq_create(w.e, w.space, w.p, 1, &s));
                assert_ok(seq_prefill(s, ids, PROMPT, NULL));
                for (int at = 0, m = 1; at < N; at += m, m += k == 2) {
                    if (k == 1) m = N;
                    if (m > N - at) m = N - at;
                    assert_ok(seq_extend(s, ids + PROMPT + at, m, logits[k] + (size_t)at * (size_t)w.v));
                }
                int n = cache_n_items_head(seq_cache(s), 0, 0), cap = cache_layout(seq_cache(s), 0)->cap;
                assert_true(n >= 12 && n < 12 + cap);
                if (k == 0) n_stepped = n;
                assert_int_equal(n, n_stepped);
                seq_destroy(s);
            }
            assert_memory_equal(logits[0], logits[1], sizeof(float) * (size_t)w.v * N);
            assert_memory_equal(logits[0], logits[2], sizeof(float) * (size_t)w.v * N);
            for (int k = 0; k < 3; k++) free(logits[k]);
            world_close(&w);
        }
}

/* Mistral within its window is a model without one; beyond it only policies without a decision run. */
static void mistral_takes_policies_up_to_its_window(void **state) {
    const char *path = "tests/golden/arch/mistral.gguf";
    node *tree;
    policy *p;
    for (int context = 12; context <= 13; context++) {
        engine *e;
        engine_conf c = {.model_path = path, .backend = "cpu", .isa = "auto", .math = MATH_FAST, .context = context};
        assert_ok(engine_open(&c, &e));
        assert_int_equal(engine_policy_shape(e).n_layers, context == 12 ? 2 : 0);
        if (context == 12) {
            p = preset_policy(e, "snapkv", NULL, &tree);
            policy_destroy(p);
            node_free(tree);
        } else {
            const char *text = "{budget: 0.5, score: {window: {rows: 8}}}";
            assert_ok(node_parse_text(text, strlen(text), "test", &tree));
            assert_int_equal(policy_create(tree, engine_policy_shape(e), &p), ERR_USAGE);
            assert_non_null(strstr(err_text(), "every layer of this model"));
            node_free(tree);
        }
        engine_close(e);
    }
}

/* KVzip asks the global layer about the prompt while it is repeated through sliding ones; the reference backend judges. */
static void kvzip_measures_the_global_layers(void **state) {
    golden g = read_golden("tests/golden/arch/gemma3.txt");
    float *logits[2];
    for (int b = 0; b < 2; b++) {
        world w = world_open("tests/golden/arch/gemma3.gguf", MATH_EXACT, b ? "reference" : "cpu", "kvzip_kvpress", "{budget: 0.5, tiers: [f32]}");
        seq *s;
        logits[b] = calloc((size_t)w.v * 20, sizeof(float));
        assert_ok(seq_create(w.e, w.space, w.p, 1, &s));
        assert_ok(seq_prefill(s, g.ids, 44, NULL));
        assert_int_equal(cache_n_items_head(seq_cache(s), 5, 0) + cache_n_items_head(seq_cache(s), 5, 1), 44);
        for (int l = 0; l < 7; l++)
            if (l != 5) assert_int_equal(cache_n_items_head(seq_cache(s), l, 0), 11);
        assert_ok(seq_extend(s, g.ids + 44, 20, logits[b]));
        for (int i = 0; i < 20 * w.v && b; i++)
            if (!(fabsf(logits[0][i] - logits[1][i]) < 1e-3f)) fail_msg("logit %d: %g and %g", i, (double)logits[0][i], (double)logits[1][i]);
        seq_destroy(s);
        world_close(&w);
    }
    free(logits[0]);
    free(logits[1]);
}

/* What a sliding layer holds: the window, and less than a page that is not free yet; global layers hold what the policy keeps. */
static void sliding_layers_hold_their_window_in_every_policy(void **state) {
    static const struct {
        const char *preset, *overrides;
        int global;
    } cases[] = {{"full", NULL, 64}, {"k8v4", NULL, 64}, {"streamingllm", "{budget: {tokens: 20}, trigger: {slack: 1}}", 20}, {"snapkv", "{budget: {tokens: 24}, protect: {sink: 0, recent: 8}, score: {window: {rows: 8}}}", -1}};
    golden g = read_golden("tests/golden/arch/gemma3.txt");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        world w = world_open("tests/golden/arch/gemma3.gguf", MATH_FAST, "cpu", cases[i].preset, cases[i].overrides);
        snapshot *snap;
        seq *s, *fork;
        assert_ok(seq_create(w.e, w.space, w.p, 1, &s));
        assert_ok(seq_prefill(s, g.ids, 40, NULL));
        assert_ok(engine_snapshot(w.e, g.ids, 40, &snap));
        assert_ok(seq_fork(w.e, w.space, snap, w.p, 1, NULL, &fork));
        seq *both[] = {s, fork};
        float *logits[2];
        for (int k = 0; k < 2; k++) {
            logits[k] = calloc((size_t)w.v * 24, sizeof(float));
            const cache *c = seq_cache(both[k]);
            for (int l = 0; l < 7; l++)
                if (l != 5) assert_int_equal(cache_n_items_head(c, l, 0), 11);
            assert_ok(seq_extend(both[k], g.ids + 40, 24, logits[k]));
            for (int l = 0; l < 7; l++)
                if (l != 5) {
                    int n = cache_n_items_head(c, l, 0), cap = cache_layout(c, 0)->cap;
                    assert_true(n >= 11 && n <= 11 + cap && n <= 35);
                }
            if (cases[i].global == 64) assert_int_equal(cache_n_items_head(c, 5, 0), 64);
            if (cases[i].global == 20) assert_true(cache_n_items_head(c, 5, 0) <= 21);
        }
        assert_memory_equal(logits[0], logits[1], sizeof(float) * (size_t)w.v * 24);
        cache_bytes b = seq_bytes(s);
        assert_int_equal(b.items_full, 2 * (64 + 6 * 12));
        free(logits[0]);
        free(logits[1]);
        seq_destroy(fork);
        seq_destroy(s);
        snapshot_destroy(snap);
        world_close(&w);
    }
}

/* Exact math with an f32 cache; the file's weights are Q5_0, Q8_0, Q4_K and Q6_K. 704 tokens pass the window of 512. */
static void gemma3_270m_matches_transformers(void **state) {
#ifdef __SANITIZE_ADDRESS__ /* the same code runs under them with tiny models */
    printf("# SKIP the sanitizers slow the real model down thirtyfold\n");
    skip();
#endif
    const char *path = real_model_file("gemma-3-270m-q4_k_m.gguf");
    if (!path) skip();
    golden g = read_golden("tests/golden/gemma3_270m.txt");
    world w = world_open(path, MATH_EXACT, "cpu", "full_f32", NULL);
    float *logits = calloc((size_t)w.v, sizeof *logits);
    double worst = 0;
    for (int i = g.n_positions - 1; i >= 0; i -= 6) {
        seq *s;
        assert_ok(seq_create(w.e, w.space, w.p, 1, &s));
        assert_ok(seq_prefill(s, g.ids, g.pos[i] + 1, logits));
        worst = fmax(worst, gap_at(&g, i, logits, w.v));
        seq_destroy(s);
    }
    free(logits);
    double steps = worst_of_steps(&w, &g, g.n - 33);
    printf("# gemma3-270m: worst log-probability difference %.1e by prefill, %.1e by steps\n", worst, steps);
    if (!(worst < 5e-3 && steps < 5e-3)) fail_msg("log-probabilities differ by %g and %g", worst, steps);
    world_close(&w);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) check_model(argv[i], argv[i], 9);
    if (argc > 1) return 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_with_linear_scaling),
        cmocka_unit_test(llama_3_with_its_frequencies),
        cmocka_unit_test(qwen2_with_biases),
        cmocka_unit_test(qwen3_with_norms_of_q_and_k),
        cmocka_unit_test(gemma3_with_sliding_layers),
        cmocka_unit_test(mistral_beyond_its_window),
        cmocka_unit_test(extending_sliding_layers_equals_steps),
        cmocka_unit_test(mistral_takes_policies_up_to_its_window),
        cmocka_unit_test(kvzip_measures_the_global_layers),
        cmocka_unit_test(sliding_layers_hold_their_window_in_every_policy),
        cmocka_unit_test(gemma3_270m_matches_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
