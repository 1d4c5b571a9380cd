/* Every architecture with head dimensions 64 to 256 and groups of 1 to 9, under policies: logits of decoded tokens against naive attention over
 * what the cache holds. Models are random and small; test_arch compares architectures with another program. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/engines.h"
#include "tests/support/naive_decode.h"
#include "tests/support/seed.h"

enum { PROMPT = 90, MORE = 6, VOCAB = 300 };

static const struct shape { int d, heads, kv; } shapes[] = {{64, 9, 3}, {80, 4, 4}, {96, 8, 1}, {128, 7, 1}, {256, 4, 2}, {64, 9, 1}, {128, 12, 2}, {80, 4, 1}, {96, 6, 3}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static const struct arch { const char *arch; int layers, window; bool untied; } archs[] = {
    {"llama", 2, 0, false}, {"llama", 2, 24, true}, {"qwen2", 2, 0, false}, {"qwen3", 2, 0, true}, {"gemma3", 7, 24, false}};
enum { N_ARCHS = sizeof archs / sizeof *archs };

static const char *const policies[] = {
    "{layers: all, budget: 0.4, tiers: [k8v4], score: {window: {rows: 8}}}",
    "{layers: all, budget: 0.5, tiers: [f16, k8v4r, k4v2r], score: {column: {}}, quota: {adaptive: {}}, protect: {recent: 8}, "
    "tier: {by_rank: {shares: {k8v4r: 0.5, k4v2r: 0.5}, after_recent: k8v4r}}, trigger: {slack: 2}}",
    "{layers: all, budget: 0.6, tiers: [k4v4g32], score: key_norm}",
    "{layers: all, budget: 0.5, tiers: [k8v8s], score: {column: {live: true}}, protect: {recent: 4}, trigger: {slack: 1}}",
    "{tiers: [f16, k4cv4g32], tier: {uniform: {format: k4cv4g32}}, protect: {recent: 32}, trigger: {slack: 2}}",
    "{layers: all, tiers: [k8v4, k4v2], decide: {leankv: {}}, protect: {recent: 8}, trigger: {every: 1}}",
    "{layers: all, budget: 0.5, tiers: [q8_0], score: {expected: {}}, quota: global}",
    "{layers: all, budget: 0.5, tiers: [k3v3], score: {output_change: {rows: 8}}, select: {critical: {}}}",
    "{layers: all, budget: 0.5, tiers: [k8v1], score: probe, quota: {pages: {chunk: 4}}}",
};
enum { N_POLICIES = sizeof policies / sizeof *policies };

/* Formats whose groups do not divide the head dimension are refused. */
static bool check(engine *e, const char *yaml, const char *what) {
    node *tree;
    policy *p;
    cache_space *space;
    seq *s;
    int32_t ids[PROMPT + MORE];
    static float have[VOCAB], want[VOCAB];
    assert_ok(node_parse_text(yaml, strlen(yaml), "test", &tree));
    err made = policy_create(tree, engine_policy_shape(e), &p);
    node_free(tree);
    if (made != OK) return false;
    random_ids(ids, PROMPT + MORE, VOCAB, seed_get());
    assert_ok(cache_space_create(e, p, PROMPT + MORE, 0, &space));
    assert_ok(seq_create(e, space, p, 3, &s));
    assert_ok(seq_prefill(s, ids, PROMPT, NULL));
    for (int t = PROMPT; t < PROMPT + MORE; t++) {
        assert_ok(seq_extend(s, ids + t, 1, have));
        naive_step(s, ids[t], t, want);
        for (int i = 0; i < VOCAB; i++)
            if (!(fabs((double)have[i] - (double)want[i]) < 1e-3)) fail_msg("%s, token %d: logit %d is %g, by definition %g\n%s", what, t, i, (double)have[i], (double)want[i], yaml);
    }
    seq_destroy(s);
    cache_space_destroy(space);
    policy_destroy(p);
    return true;
}

static void tokens_equal_dense_attention_at_every_head_dimension(void **state) {
    int n_run = 0, run_of[N_POLICIES] = {0};
    for (int a = 0; a < N_ARCHS; a++)
        for (int i = 0; i < N_SHAPES; i++) {
            const struct shape *x = &shapes[i];
            char name[60];
            tiny_model m = tiny_model_default();
            m.arch = archs[a].arch, m.window = archs[a].window, m.untied = archs[a].untied, m.n_layers = archs[a].layers;
            m.head_dim = x->d, m.n_head = x->heads, m.n_kv = x->kv, m.n_embd = 32, m.n_ff = 32, m.n_vocab = VOCAB, m.context = 256;
            m.embd = m.attn = m.ffn = m.head = WTYPE_Q8_0;
            snprintf(name, sizeof name, "dims_%s%d_%d_%d_%d.gguf", m.arch, m.window, x->d, x->heads, x->kv);
            engine *e = tiny_engine(tiny_model_file(name, m), MATH_EXACT, 1, "cpu", "auto");
            assert_int_equal(e->m->p.head_dim, x->d);
            for (int k = 0; k < N_POLICIES; k++) { /* each twice per architecture and shape in turn */
                if ((k + i) % 3 == a % 3 && check(e, policies[k], name)) n_run++, run_of[k]++;
            }
            engine_close(e);
        }
    for (int k = 0; k < N_POLICIES; k++)
        if (!run_of[k]) fail_msg("never run: %s", policies[k]);
    assert_true(n_run > 80);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(tokens_equal_dense_attention_at_every_head_dimension)};
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
