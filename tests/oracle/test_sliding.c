/* Policies on sliding layers (layers: all) against dense arrays: what stays after a prompt, by naive windowed attention; every decoded token, by
 * naive attention over what the cache holds inside of the window; and the same bits by prefill and fork, extend and steps, batch and alone. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "policy/stage.h"
#include "tests/support/engines.h"
#include "tests/support/naive_decode.h"
#include "tests/support/profiles.h"
#include "tests/support/random_policy.h"
#include "tests/support/seed.h"

static int n_threads = 1;
enum { MAX_N = 96, MAX_D = 16, VOCAB = 260 };
static const char *const models[] = {"tests/golden/arch/gemma3.gguf", "tests/golden/arch/mistral.gguf"}; /* windows of 12 */

typedef struct world {
    engine *e;
    policy *p;
    node *tree;
    cache_space *space;
    int32_t ids[MAX_N];
} world;

static engine *open_model(const char *path, math_mode math, int context) {
    engine *e;
    engine_conf c = {.model_path = path, .backend = "cpu", .isa = "auto", .math = math, .threads = n_threads, .context = context};
    assert_ok(engine_open(&c, &e));
    return e;
}

/* False: the policy is refused. */
static bool world_open(world *w, const char *model, math_mode math, const char *yaml) {
    *w = (world){.e = open_model(model, math, 0)};
    assert_ok(node_parse_text(yaml, strlen(yaml), "test", &w->tree));
    err e = policy_create(w->tree, shape_with_profile(engine_policy_shape(w->e)), &w->p);
    if (e != OK) {
        assert_int_equal(e, ERR_USAGE);
        node_free(w->tree);
        engine_close(w->e);
        return false;
    }
    assert_ok(cache_space_create(w->e, w->p, MAX_N, 0, &w->space));
    random_ids(w->ids, MAX_N, VOCAB, seed_get());
    return true;
}

static void world_close(world *w) {
    cache_space_destroy(w->space);
    policy_destroy(w->p);
    node_free(w->tree);
    engine_close(w->e);
}

static seq *prefilled(world *w, int n) {
    seq *s;
    assert_ok(seq_create(w->e, w->space, w->p, 3, &s));
    assert_ok(seq_prefill(s, w->ids, n, NULL));
    return s;
}

static int window_of(const engine *e, int layer) { return e->m->layers[layer].window; }

/* ---- decode: naive attention over the cache ---- */

/* What every head holds: no position twice, nothing but what the window holds and whole pages in front that wait to be freed. */
static void check_held(const seq *s) {
    const model_params *mp = &s->e->m->p;
    int n_tokens = cache_n_tokens(s->c);
    for (int l = 0; l < mp->n_layers; l++)
        for (int h = 0; h < mp->n_kv; h++) {
            static naive_item x[NAIVE_MAX_ITEMS];
            int n = naive_items(s, l, h, x), window = window_of(s->e, l), hidden = 0, most = 0;
            for (int i = 0; i < n; i++) {
                for (int j = 0; j < i; j++) assert_true(x[j].pos != x[i].pos);
                hidden += window && (int)x[i].pos < n_tokens - window; /* of the last step's query */
            }
            for (int t = 0; t < cache_n_tiers(s->c); t++) most += cache_layout(s->c, t)->cap - 1;
            assert_true(hidden <= most);
        }
}

static void tokens_equal_dense_attention_over_what_is_kept(void **state) {
    rng r = rng_make(seed_get(), 1);
    int n_run = 0;
    for (int round = 0; round < 400 && n_run < 70; round++) {
        char yaml[RANDOM_POLICY_BYTES + 16] = "{layers: all, ";
        random_policy(&r, yaml + strlen(yaml) - 1);
        yaml[strlen("{layers: all, ") - 1] = ' '; /* in place of the brace that random_policy begins with */
        world w;
        int n = 1 + (int)rng_below(&r, 50);
        if (!world_open(&w, models[round & 1], MATH_EXACT, yaml)) continue;
        if (!policy_get_needs(w.p)->all_layers) {
            world_close(&w);
            continue;
        }
        n_run++;
        seq *s = prefilled(&w, n);
        static float have[VOCAB], want[VOCAB];
        for (int t = n; t < n + 24; t++) {
            assert_ok(seq_extend(s, w.ids + t, 1, have));
            check_held(s);
            naive_step(s, w.ids[t], t, want);
            for (int i = 0; i < VOCAB; i++)
                if (!(fabs((double)have[i] - (double)want[i]) < 1e-3)) fail_msg("token %d of %s: logit %d is %g, dense %g\n%s", t, models[round & 1], i, (double)have[i], (double)want[i], yaml);
        }
        seq_destroy(s);
        world_close(&w);
    }
    assert_true(n_run >= 40);
}

/* ---- a prompt: naive windowed attention ---- */

typedef struct dense { /* one layer of a prompt that lies in a snapshot's tail as a whole */
    int n, n_heads, n_kv, d, window;
    float *k, *v, *q, *o; /* [n_kv][n][d] twice, [n][n_heads][d] twice */
    double *p;            /* [n_heads][n][n] */
} dense;

typedef struct load_args { const snapshot *s; int layer; dense *x; } load_args;
static void load_body(const par *p, void *arg) {
    const load_args *a = arg;
    snapshot_get_layer(a->s, p, a->layer, a->x->k, a->x->v);
}

static dense dense_layer(const engine *e, const snapshot *s, int layer) {
    const model_params *mp = &e->m->p;
    dense x = {.n = s->n_tokens, .n_heads = mp->n_heads, .n_kv = mp->n_kv, .d = mp->head_dim, .window = window_of(e, layer)};
    size_t n = (size_t)x.n, row = (size_t)(x.n_heads * x.d);
    x.k = malloc(sizeof(float) * n * (size_t)(x.n_kv * x.d));
    x.v = malloc(sizeof(float) * n * (size_t)(x.n_kv * x.d));
    x.p = calloc(n * n * (size_t)x.n_heads, sizeof(double));
    assert_int_equal(s->n_tail, x.n);
    x.q = s->q_tail + (size_t)layer * n * row;
    x.o = s->o_tail + (size_t)layer * n * row;
    load_args a = {s, layer, &x};
    par_run(1, load_body, &a);
    for (int h = 0; h < x.n_heads; h++)
        for (int i = 0; i < x.n; i++) {
            double *p = x.p + ((size_t)h * n + (size_t)i) * n, sum = 0;
            int from = x.window && i >= x.window ? i - x.window + 1 : 0;
            for (int t = from; t <= i; t++) {
                double dot = 0;
                for (int c = 0; c < x.d; c++) dot += (double)x.q[(i * x.n_heads + h) * x.d + c] * (double)x.k[(h / (x.n_heads / x.n_kv) * x.n + t) * x.d + c];
                sum += p[t] = exp(dot * (double)mp->attn_scale);
            }
            for (int t = from; t <= i; t++) p[t] /= sum;
        }
    return x;
}
static void dense_free(dense *x) {
    free(x->k);
    free(x->v);
    free(x->p);
}

typedef double (*naive_score)(const dense *x, int kv, int t);
static double p_at(const dense *x, int h, int row, int t) { return x->p[((size_t)h * (size_t)x->n + (size_t)row) * (size_t)x->n + (size_t)t]; }

static double last_8_rows(const dense *x, int kv, int t) {
    int group = x->n_heads / x->n_kv;
    double s = 0;
    for (int h = kv * group; h < (kv + 1) * group; h++)
        for (int row = x->n > 8 ? x->n - 8 : 0; row < x->n; row++) s += p_at(x, h, row, t);
    return s / group;
}
static double largest_of_last_8_squares(const dense *x, int kv, int t) {
    int group = x->n_heads / x->n_kv;
    double best = 0;
    for (int h = kv * group; h < (kv + 1) * group; h++) {
        double largest = 0;
        for (int row = x->n > 8 ? x->n - 8 : 0; row < x->n; row++) largest = fmax(largest, p_at(x, h, row, t) * p_at(x, h, row, t));
        best = fmax(best, largest);
    }
    return best;
}
static double mean_of_all_rows(const dense *x, int kv, int t) {
    int group = x->n_heads / x->n_kv;
    double s = 0;
    for (int h = kv * group; h < (kv + 1) * group; h++)
        for (int row = t; row < x->n; row++) s += p_at(x, h, row, t);
    return s / group / (x->n - t);
}
static double group_maxima_of_all_rows(const dense *x, int kv, int t) {
    int group = x->n_heads / x->n_kv;
    double s = 0;
    for (int row = t; row < x->n; row++) {
        double largest = 0;
        for (int h = kv * group; h < (kv + 1) * group; h++) largest = fmax(largest, p_at(x, h, row, t));
        s += largest;
    }
    return s / (x->n - t);
}
static double small_keys(const dense *x, int kv, int t) {
    double s = 0;
    for (int c = 0; c < x->d; c++) s += (double)x->k[(kv * x->n + t) * x->d + c] * (double)x->k[(kv * x->n + t) * x->d + c];
    return -sqrt(s);
}
/* Cosine to the mean unit key of what the window holds. */
static double unlike_keys(const dense *x, int kv, int t) {
    int first = x->window && x->n > x->window - 1 ? x->n - (x->window - 1) : 0;
    double mean[MAX_D] = {0}, dot = 0, norm = 0, own = -small_keys(x, kv, t);
    for (int i = first; i < x->n; i++)
        for (int c = 0; c < x->d; c++) mean[c] += (double)x->k[(kv * x->n + i) * x->d + c] / -small_keys(x, kv, i);
    for (int c = 0; c < x->d; c++) {
        dot += mean[c] * (double)x->k[(kv * x->n + t) * x->d + c];
        norm += mean[c] * mean[c];
    }
    return -dot / (own * sqrt(norm));
}
static double lost_output(const dense *x, int kv, int t) {
    int group = x->n_heads / x->n_kv;
    double s = 0;
    if (t >= x->n - 3) return 1e30; /* forced */
    for (int h = kv * group; h < (kv + 1) * group; h++)
        for (int row = x->n > 3 ? x->n - 3 : 0; row < x->n; row++) {
            double p = p_at(x, h, row, t), dist = 0;
            for (int c = 0; c < x->d; c++) {
                double diff = (double)x->v[(kv * x->n + t) * x->d + c] - (double)x->o[(row * x->n_heads + h) * x->d + c];
                dist += diff * diff;
            }
            s += p / (1 - p + 1e-6) * (p / (1 - p + 1e-6)) * dist;
        }
    return s;
}

/* The kept items of a head are `kept` of those that the window holds, and the best ones up to what f32 cannot tell apart. */
static void check_kept(const seq *s, const dense *x, int layer, int kv, int kept, naive_score score, const char *yaml) {
    static naive_item have[NAIVE_MAX_ITEMS];
    bool stays[MAX_N] = {false};
    int n = naive_items(s, layer, kv, have), first = x->window && x->n > x->window - 1 ? x->n - (x->window - 1) : 0;
    if (kept > x->n - first) kept = x->n - first;
    if (n != kept) fail_msg("layer %d, head %d keeps %d items of %d, not %d\n%s", layer, kv, n, x->n, kept, yaml);
    for (int i = 0; i < n; i++) stays[have[i].pos] = true;
    double worst = INFINITY, best = -INFINITY;
    for (int t = 0; t < first; t++) assert_false(stays[t]);
    for (int t = first; t < x->n; t++) {
        double v = score(x, kv, t);
        if (stays[t]) worst = fmin(worst, v);
        else best = fmax(best, v);
    }
    if (best > worst + 1e-5 * fmax(1e-3, fabs(worst))) fail_msg("layer %d, head %d of %d tokens: kept down to %g, dropped up to %g\n%s", layer, kv, x->n, worst, best, yaml);
}

static void prompts_keep_what_naive_windowed_attention_ranks_first(void **state) {
    static const struct { const char *yaml; naive_score score; } cases[] = {
        {"score: {window: {rows: 8, force_window: false}}", last_8_rows},
        {"score: {window: {rows: 8, force_window: false, reduce: max, power: 2, group: max}}", largest_of_last_8_squares},
        {"score: {column: {reduce: mean}}", mean_of_all_rows},
        {"score: {significance: {rows: 0, order: sum_of_max}}", group_maxima_of_all_rows},
        {"score: key_norm", small_keys},
        {"score: key_diff", unlike_keys},
        {"score: {output_change: {rows: 3}}", lost_output},
    };
    rng r = rng_make(seed_get(), 2);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int round = 0; round < 6; round++) {
            char yaml[300];
            int n = (int[]){1, 11, 12, 13, 40, 64}[round], tokens = 3 + (int)rng_below(&r, 8), ratio = round & 1 ? 10 + (int)rng_below(&r, 80) : 0;
            char budget[40];
            snprintf(budget, sizeof budget, ratio ? "0.%d" : "{tokens: %d}", ratio ? ratio : tokens);
            snprintf(yaml, sizeof yaml, "{layers: all, tiers: [f32], budget: %s, %s}", budget, cases[i].yaml);
            world w;
            assert_true(world_open(&w, models[(i + (size_t)round) & 1], MATH_EXACT, yaml));
            snapshot *snap;
            seq *s = prefilled(&w, n);
            assert_ok(engine_snapshot(w.e, w.ids, n, &snap));
            for (int l = 0; l < w.e->m->p.n_layers; l++) {
                dense x = dense_layer(w.e, snap, l);
                int holds = x.window && n > x.window - 1 ? x.window - 1 : n, kept = ratio ? budget_ratio_tokens(ratio / 100.0, holds) : tokens;
                for (int h = 0; h < x.n_kv; h++) check_kept(s, &x, l, h, kept, cases[i].score, yaml);
                dense_free(&x);
            }
            snapshot_destroy(snap);
            seq_destroy(s);
            world_close(&w);
        }
}

/* ---- equal bits ---- */

static const char *const composed[] = {
    "{layers: all, budget: 0.5, score: {window: {rows: 8}}}",
    "{layers: all, budget: 0.4, score: {column: {live: true}}, protect: {recent: 3}, trigger: {slack: 1}}",
    "{layers: all, budget: 0.5, tiers: [f16, k8v4], score: {window: {rows: 8}}, quota: {adaptive: {}}, protect: {recent: 4}, tier: {uniform: {format: k8v4}}, trigger: {slack: 3}}",
    "{layers: all, budget: 0.5, score: probe, quota: global}",
    "{layers: all, budget: 0.3, score: {expected: {future: 20}}, quota: {pyramid: {}}}",
    "{layers: all, budget: {tokens: 7}, score: recency, protect: {sink: 2}, trigger: {slack: 2}}",
    "{layers: all, budget: 0.5, score: {window: {rows: 8}}, quota: {pages: {chunk: 2}}}",
    "{layers: all, tiers: [k8v4, k4v2], decide: {leankv: {}}, protect: {recent: 4}, trigger: {every: 1}}",
    "{layers: all, tiers: [f16, k8v4r], protect: {recent: 5}, tier: {uniform: {format: k8v4r}}, trigger: {slack: 2}}",
    "{layers: all, budget: 0.5, score: {column: {live: true}}, select: {kvcrush: {signature: head, unit: 2}}, trigger: {slack: 2}}",
    "{layers: all, budget: 0.6, score: {window: {rows: 8}}, quota: {adaptive: {}}, select: {kvcrush: {}}, tiers: [f16, k8v4, k4v2], protect: {recent: 3}, "
    "tier: {by_flag: {important: k8v4, representative: k4v2}}}",
    "{layers: all, budget: {bytes: 0.9}, tiers: [k8v4, k4v2], decide: water_filling}",
};
enum { N_COMPOSED = sizeof composed / sizeof *composed };

/* Prefill and fork; steps, one extend, batches of unequal sequences: the same logits bit for bit. */
static void flows_give_the_same_bits(void **state) {
    enum { PROMPT = 30, N = 40 };
    for (int i = 0; i < 2 * N_COMPOSED; i++) {
        world w;
        n_threads = i < 4 ? 2 : 1;
        assert_true(world_open(&w, models[i & 1], MATH_FAST, composed[i / 2]));
        static float logits[4][N][VOCAB], other[2][VOCAB];
        snapshot *snap;
        seq *s[4], *neighbour;
        assert_ok(engine_snapshot(w.e, w.ids, PROMPT, &snap));
        for (int k = 0; k < 4; k++) {
            if (k == 3) assert_ok(seq_fork(w.e, w.space, snap, w.p, 3, NULL, &s[k]));
            else s[k] = prefilled(&w, PROMPT);
        }
        neighbour = prefilled(&w, 17);
        assert_ok(seq_extend(s[0], w.ids + PROMPT, N, logits[0][0]));
        for (int t = 0; t < N; t++) {
            assert_ok(seq_extend(s[1], w.ids + PROMPT + t, 1, logits[1][t]));
            seq *both[] = {neighbour, s[2]};
            int32_t next[] = {w.ids[t], w.ids[PROMPT + t]};
            assert_ok(engine_step(w.e, both, next, 2, other[0]));
            memcpy(logits[2][t], other[1], sizeof other[1]);
        }
        assert_ok(seq_extend(s[3], w.ids + PROMPT, 5, logits[3][0]));
        assert_ok(seq_extend(s[3], w.ids + PROMPT + 5, N - 5, logits[3][5]));
        for (int k = 1; k < 4; k++)
            for (int t = 0; t < N; t++)
                if (memcmp(logits[0][t], logits[k][t], sizeof logits[0][t])) fail_msg("flow %d differs at token %d\n%s", k, t, composed[i / 2]);
        for (int k = 0; k < 4; k++) {
            check_held(s[k]);
            seq_destroy(s[k]);
        }
        seq_destroy(neighbour);
        snapshot_destroy(snap);
        world_close(&w);
    }
    n_threads = 1;
}

/* Nothing dropped but what leaves the window: the bits of `full`. */
static void keeping_everything_gives_the_bits_of_full(void **state) {
    static const char *const cases[] = {
        "{layers: all}", "{layers: all, budget: 1.0, score: {window: {rows: 8}}}", "{layers: all, budget: 1.0, score: {expected: {}}, quota: {adaptive: {}}}",
        "{layers: all, budget: 1.0, score: probe, quota: global}", "{layers: all, score: {significance: {}}, select: {threshold: {alpha: 0}}}",
        "{layers: all, budget: {ratio: 1.0, decode: proportional}, score: {column: {live: true}}, trigger: {every: 3}}",
        "{layers: all, budget: {tokens: 90}, score: recency, trigger: {slack: 1}}",
    };
    enum { PROMPT = 20, N = 60 };
    for (int m = 0; m < 2; m++) {
        static float want[N][VOCAB], have[N][VOCAB];
        for (size_t i = 0; i <= sizeof cases / sizeof *cases; i++) {
            world w;
            assert_true(world_open(&w, models[m], MATH_FAST, i ? cases[i - 1] : "{}"));
            seq *s = prefilled(&w, PROMPT);
            assert_ok(seq_extend(s, w.ids + PROMPT, N, (i ? have : want)[0]));
            if (i && memcmp(want, have, sizeof want)) fail_msg("%s: other logits than full under %s", models[m], cases[i - 1]);
            if (i == 1) assert_false(policy_get_needs(w.p)->all_layers);
            cache_bytes b = seq_bytes(s);
            assert_true(b.live >= b.payload && (i == 0 || b.columns > 0 || i == 1));
            seq_destroy(s);
            world_close(&w);
        }
    }
}

/* Up to the window nothing slides: every preset does what it does to a model without one. Budgets in bytes pay for the positions. */
static void presets_within_the_window_are_those_of_global_layers(void **state) {
    const char *names[128];
    int n = preset_names(names, 128), n_run = 0;
    engine *sliding = open_model(models[1], MATH_FAST, 64), *global = open_model(models[1], MATH_FAST, 12);
    int32_t ids[12];
    random_ids(ids, 12, VOCAB, 9);
    assert_true(sliding->m->p.all_slide && !global->m->p.window);
    for (int i = 0; i < n; i++) {
        char path[200], text[] = "policy: {layers: all}";
        node *root, *over;
        float logits[2][4 * VOCAB];
        policy *p[2] = {NULL, NULL};
        snprintf(path, sizeof path, "configs/policies/%s.yaml", names[i]);
        assert_ok(node_parse_file(path, &root));
        assert_ok(node_parse_text(text, strlen(text), "test", &over));
        assert_ok(node_merge(root, over));
        node_free(over);
        bool made = true;
        for (int k = 0; k < 2 && made; k++) made = policy_create(node_get(root, "policy"), shape_with_profile(engine_policy_shape(k ? global : sliding)), &p[k]) == OK;
        if (made && p[0]->budget.unit != BUDGET_BYTES) {
            n_run++;
            for (int k = 0; k < 2; k++) {
                cache_space *space;
                seq *s;
                assert_ok(cache_space_create(k ? global : sliding, p[k], 64, 0, &space));
                assert_ok(seq_create(k ? global : sliding, space, p[k], 5, &s));
                assert_ok(seq_prefill(s, ids, 8, NULL));
                assert_ok(seq_extend(s, ids + 8, 4, logits[k]));
                seq_destroy(s);
                cache_space_destroy(space);
            }
            if (memcmp(logits[0], logits[1], sizeof logits[0])) fail_msg("%s: a window that hides nothing changes logits", names[i]);
        }
        for (int k = 0; k < 2; k++)
            if (p[k]) policy_destroy(p[k]);
        node_free(root);
        free((char *)names[i]);
    }
    assert_true(n_run > 60);
    engine_close(sliding);
    engine_close(global);
}

static void what_does_not_fit_is_refused(void **state) {
    static const struct { const char *yaml, *words; } cases[] = {
        {"{layers: all, budget: {tokens: 8}, score: recency, protect: {sink: 2}, positions: slot, trigger: {slack: 1}}", "positions: slot"},
        {"{layers: all, tiers: [f16, k4cv4g32], tier: {uniform: {format: k4cv4g32}}, protect: {recent: 32}, trigger: {slack: 32}}", "groups of 32"},
        {"{layers: all, budget: {bytes: 0.5}, score: key_norm, quota: {fixed: {skip: 1}}}", "skip: 1"},
        {"{layers: some, budget: 0.5, score: key_norm}", "global and all"},
        {"{budget: 0.5, score: key_norm}", "layers: all"},
    };
    engine *e = open_model(models[1], MATH_FAST, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        node *tree;
        policy *p;
        policy_shape shape = engine_policy_shape(e);
        shape.head_dim = 64; /* for the groups */
        assert_ok(node_parse_text(cases[i].yaml, strlen(cases[i].yaml), "test", &tree));
        assert_int_equal(policy_create(tree, shape, &p), ERR_USAGE);
        if (!strstr(err_text(), cases[i].words)) fail_msg("\"%s\" does not say \"%s\"", err_text(), cases[i].words);
        node_free(tree);
    }
    engine_close(e);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_keep_what_naive_windowed_attention_ranks_first),
        cmocka_unit_test(tokens_equal_dense_attention_over_what_is_kept),
        cmocka_unit_test(flows_give_the_same_bits),
        cmocka_unit_test(keeping_everything_gives_the_bits_of_full),
        cmocka_unit_test(presets_within_the_window_are_those_of_global_layers),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
