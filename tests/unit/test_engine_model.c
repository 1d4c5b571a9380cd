/* What an engine refuses, what it counts, and that its two back ends and math modes agree within their bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <string.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/mem.h"
#include "tests/support/engines.h"
#include "tests/support/seed.h"
#include "tests/support/temp.h"

enum { PROMPT = 200, MORE = 16 };

static double worst_logprob_gap(const float *a, const float *b, int n_vocab) {
    double za = 0, zb = 0, worst = 0;
    for (int i = 0; i < n_vocab; i++) za += exp(a[i]), zb += exp(b[i]);
    for (int i = 0; i < n_vocab; i++) worst = fmax(worst, fabs((a[i] - log(za)) - (b[i] - log(zb))));
    return worst;
}

static void run(engine *e, const char *preset, const int32_t *ids, int n_prompt, int n_more, float *out) {
    node *tree;
    policy *p = preset_policy(e, preset, NULL, &tree);
    cache_space *space;
    seq *s;
    assert_ok(cache_space_create(e, p, PROMPT, 0, &space));
    assert_ok(seq_create(e, space, p, 1, &s));
    assert_ok(seq_prefill(s, ids, n_prompt, out));
    if (n_more) assert_ok(seq_extend(s, ids + n_prompt, n_more, out + engine_model(e)->p.n_vocab));
    seq_destroy(s);
    cache_space_destroy(space);
    policy_destroy(p);
    node_free(tree);
}

/* Decoding over pages says the same as prefill over tiles. */
static void extend_agrees_with_prefill(void **state) {
    engine *e = tiny_engine(tiny_model_file("tiny.gguf", tiny_model_default()), MATH_EXACT, 2, "cpu", "auto");
    int v = engine_model(e)->p.n_vocab;
    int32_t ids[PROMPT + MORE];
    random_ids(ids, PROMPT + MORE, v, seed_get());
    float *split = calloc((size_t)v * (MORE + 1), sizeof(float)), *whole = calloc((size_t)v, sizeof(float));
    run(e, "full_f32", ids, PROMPT, MORE, split);
    for (int t = 0; t < MORE; t += 5) {
        run(e, "full_f32", ids, PROMPT + t + 1, 0, whole);
        double gap = worst_logprob_gap(whole, split + (size_t)v * (size_t)(t + 1), v);
        if (!(gap < 1e-4)) fail_msg("token %d: log-probabilities differ by %g", t, gap);
    }
    free(split);
    free(whole);
    engine_close(e);
}

static double mean_kl(const float *a, const float *b, int n_vocab, int n) {
    double sum = 0;
    for (int t = 0; t < n; t++, a += n_vocab, b += n_vocab) {
        double za = 0, zb = 0, kl = 0;
        for (int i = 0; i < n_vocab; i++) za += exp(a[i]), zb += exp(b[i]);
        for (int i = 0; i < n_vocab; i++) kl += exp(a[i]) / za * ((a[i] - log(za)) - (b[i] - log(zb)));
        sum += kl;
    }
    return sum / n;
}

/* In f32 throughout, only summation orders differ: a bound on every log-probability. With quantised activations and a quantised cache such a
 * difference can move a code by one, which single log-probabilities of a random model feel: a bound on the mean KL, wider where
 * the prompt's attention itself is rounded to bf16. The reference keeps weights in f64, the others round those of 8-bit values to 16 bits and of 4-bit values
 * to 8: 1.8e-3 to 2.1e-3 on every path alike, so 3e-3 judges that formula; how well paths follow it is judged by test_attn_decode. */
static void check_back_ends(const char *path, math_mode math, const char *preset, double limit) {
    const char *isas[8];
    int n_isas = backend_isas(isas, 8);
    engine *ref = tiny_engine(path, math, 1, "reference", "auto");
    int v = engine_model(ref)->p.n_vocab;
    int32_t ids[PROMPT + MORE];
    random_ids(ids, PROMPT + MORE, v, seed_get() + 1);
    float *want = calloc((size_t)v * (MORE + 1), sizeof(float)), *got = calloc((size_t)v * (MORE + 1), sizeof(float));
    run(ref, preset, ids, PROMPT, MORE, want);
    engine_close(ref);
    double worst = 0;
    for (int i = 0; i < n_isas; i++) {
        engine *e = tiny_engine(path, math, 2, "cpu", isas[i]);
        run(e, preset, ids, PROMPT, MORE, got);
        engine_close(e);
        for (int t = 0; t <= MORE; t++) worst = fmax(worst, worst_logprob_gap(want + (size_t)v * (size_t)t, got + (size_t)v * (size_t)t, v));
        double kl = mean_kl(want, got, v, MORE + 1), bound = limit + (strcmp(isas[i], "avx512-bf16") ? 0 : 4e-3);
        if (math == MATH_FAST && !(kl < bound)) fail_msg("%s, %s: mean KL %g", path, isas[i], kl);
    }
    free(want);
    free(got);
    if (math == MATH_EXACT && !(worst < 1e-4)) fail_msg("%s: log-probabilities differ by %g", path, worst);
}

static void back_ends_agree(void **state) {
    tiny_model mixed = tiny_model_default();
    mixed.embd = WTYPE_F32, mixed.attn = WTYPE_F16, mixed.ffn = WTYPE_BF16, mixed.untied = true, mixed.head = WTYPE_Q8_0, mixed.n_layers = 3;
    const char *paths[2] = {tiny_model_file("tiny.gguf", tiny_model_default()), tiny_model_file("mixed.gguf", mixed)};
    for (int m = 0; m < 2; m++) {
        check_back_ends(paths[m], MATH_EXACT, "full_f32", 0);
        check_back_ends(paths[m], MATH_FAST, "k8v8", 1e-3);
        check_back_ends(paths[m], MATH_FAST, "k8v4", 3e-3);
    }
}

static void bytes_are_counted(void **state) {
    engine *e = tiny_engine(tiny_model_file("tiny.gguf", tiny_model_default()), MATH_FAST, 2, "cpu", "auto");
    const model_params *mp = &engine_model(e)->p;
    node *tree;
    policy *p = preset_policy(e, "full", NULL, &tree);
    cache_space *space;
    seq *s;
    int32_t ids[PROMPT];
    random_ids(ids, PROMPT, mp->n_vocab, seed_get());
    assert_ok(cache_space_create(e, p, PROMPT, 0, &space));
    assert_ok(seq_create(e, space, p, 1, &s));
    assert_ok(seq_prefill(s, ids, PROMPT, NULL));
    cache_bytes b = seq_bytes(s);
    assert_int_equal(b.payload, (size_t)PROMPT * (size_t)mp->n_layers * (size_t)mp->n_kv * (size_t)mp->head_dim * 4);
    assert_int_equal(b.metadata, 0);
    assert_int_equal(b.columns, 0);
    assert_int_equal(b.payload, b.full_f16);
    assert_int_equal(b.live, b.payload + b.tables);
    assert_true(b.committed % POOL_EXTENT_BYTES == 0);
    seq_destroy(s);
    assert_int_equal(pool_get_stats(cache_space_pool(space)).pages_used, 0);
    assert_int_equal(pool_get_stats(cache_space_pool(space)).committed_bytes <= POOL_EXTENT_BYTES, 1);
    cache_space_destroy(space);
    policy_destroy(p);
    node_free(tree);
    engine_close(e);
    for (int t = 0; t < MEM_N_TAGS; t++)
        if (t != MEM_OTHER) assert_int_equal(mem_live_bytes((mem_tag)t), 0);
}

static void assert_refused(const char *path, err code, const char *word) {
    engine *e;
    engine_conf c = {.model_path = path, .threads = 1};
    err r = engine_open(&c, &e);
    if (r == OK) fail_msg("%s was accepted", path);
    if (r != code || !strstr(err_text(), word)) fail_msg("%s: code %d, text '%s' lacks '%s'", path, r, err_text(), word);
}

static const char *write_changed(const char *name, void (*change)(gguf_writer *, tiny_model *)) {
    tiny_model m = tiny_model_default();
    gguf_writer w = {0};
    change(NULL, &m);
    tiny_model_add_metadata(&w, &m);
    change(&w, &m);
    tiny_model_add_tensors(&w, &m);
    size_t n;
    uint8_t *bytes = gguf_writer_finish(&w, &n);
    assert_ok(io_write_file(temp_path(name), bytes, n));
    free(bytes);
    return temp_path(name);
}

static void add_scaling(gguf_writer *w, tiny_model *m) {
    if (w) gguf_write_str(w, "llama.rope.scaling.type", "yarn");
}
static void add_stranger(gguf_writer *w, tiny_model *m) {
    uint64_t dim[1] = {32};
    float z[32] = {0};
    if (w) gguf_write_tensor(w, "blk.0.attn_q.bias", 1, dim, WTYPE_F32, z);
}
static void bad_heads(gguf_writer *w, tiny_model *m) {
    if (!w) m->n_kv = 3;
}

static void unsupported_models_are_refused_by_name(void **state) {
    assert_refused("no/such/model.gguf", ERR_ENV, "no/such/model.gguf");
    assert_refused(write_changed("scaling.gguf", add_scaling), ERR_UNSUPPORTED, "yarn");
    assert_refused(write_changed("stranger.gguf", add_stranger), ERR_UNSUPPORTED, "attn_q.bias");
    assert_refused(write_changed("heads.gguf", bad_heads), ERR_FORMAT, "multiple");
    engine *e;
    engine_conf c = {.model_path = "x", .backend = "cuda"};
    assert_int_equal(engine_open(&c, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "cuda"));
}

static void token_ids_and_lengths_are_checked(void **state) {
    tiny_model small = tiny_model_default();
    small.context = 64;
    engine *e = tiny_engine(tiny_model_file("short.gguf", small), MATH_FAST, 1, "cpu", "auto");
    snapshot *snap;
    int32_t ids[65] = {0};
    assert_int_equal(engine_snapshot(e, ids, 65, &snap), ERR_USAGE);
    assert_int_equal(engine_snapshot(e, ids, 0, &snap), ERR_USAGE);
    ids[3] = engine_model(e)->p.n_vocab;
    assert_int_equal(engine_snapshot(e, ids, 8, &snap), ERR_USAGE);
    ids[3] = -1;
    assert_int_equal(engine_snapshot(e, ids, 8, &snap), ERR_USAGE);
    engine_close(e);
}

static void no_memory_is_an_error_and_leaks_nothing(void **state) {
    const char *path = tiny_model_file("tiny.gguf", tiny_model_default());
    size_t before = mem_live_bytes(MEM_OTHER);
    for (int nth = 1; nth < 400; nth++) {
        mem_fail_nth(nth);
        engine_conf c = {.model_path = path, .threads = 1};
        engine *e = NULL;
        err r = engine_open(&c, &e);
        mem_fail_nth(0);
        if (r == OK) {
            engine_close(e);
            break;
        }
        assert_int_equal(r, ERR_NOMEM);
    }
    for (int t = 0; t < MEM_N_TAGS; t++)
        if (t != MEM_OTHER) assert_int_equal(mem_live_bytes((mem_tag)t), 0);
    assert_int_equal(mem_live_bytes(MEM_OTHER), before);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(extend_agrees_with_prefill),
        cmocka_unit_test(back_ends_agree),
        cmocka_unit_test(bytes_are_counted),
        cmocka_unit_test(unsupported_models_are_refused_by_name),
        cmocka_unit_test(token_ids_and_lengths_are_checked),
        cmocka_unit_test(no_memory_is_an_error_and_leaks_nothing),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
