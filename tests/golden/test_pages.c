/* What policies keep of 4,096 real tokens fills its pages: physical bytes against the kept share of an f16 cache, from the attention of the
 * real model, whose heads differ as heads do; committed extents are at most one more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "task/task_impl.h"
#include "tests/support/engines.h"
#include "tests/support/real_model.h"

enum { N = 4096, SKIP = 16000 };

#ifdef __SANITIZE_ADDRESS__
int main(void) {
    printf("# SKIP pages_stay_near_what_is_kept: a prompt of 4,096 tokens takes minutes in this build\n");
    return 0;
}
#else

static err text_of(const engine *e, token_list *out) {
    text_source *text;
    TRY(text_source_open(NULL, NULL, &text));
    err r = text_tokens(text, engine_tokenizer(e), SKIP + N, false, out);
    text_source_close(text);
    return r;
}

typedef struct held { double items, kept, used, committed; int fewest, most; } held;

static held decide(engine *e, const snapshot *snap, const char *preset, const char *overrides) {
    node *tree;
    policy *p = preset_policy(e, preset, overrides, &tree);
    cache_space *space;
    seq *s;
    assert_ok(cache_space_create(e, p, N, 0, &space));
    assert_ok(seq_fork(e, space, snap, p, 1, NULL, &s));
    cache_bytes b = seq_bytes(s);
    pool_stats st = pool_get_stats(cache_space_pool(space));
    const cache *c = seq_cache(s);
    cache_shape shape = cache_get_shape(c);
    held h = {.items = (double)b.items, .kept = (double)(b.payload + b.metadata + b.columns), .used = (double)(st.pages_used * st.page_bytes),
              .committed = (double)st.committed_bytes, .fewest = N};
    for (int k = 0; k < shape.n_layers * shape.n_kv; k++) {
        int n = cache_n_items_head(c, k / shape.n_kv, k % shape.n_kv);
        h.fewest = n < h.fewest ? n : h.fewest;
        h.most = n > h.most ? n : h.most;
    }
    seq_destroy(s);
    cache_space_destroy(space);
    policy_destroy(p);
    node_free(tree);
    return h;
}

static int verbose;

static void check(engine *e, const snapshot *snap, const char *preset, const char *overrides, double theory, double bound) {
    held h = decide(e, snap, preset, overrides);
    if (theory == 0) theory = h.kept; /* how much stays is the policy's own affair */
    if (verbose) printf("%-22s %-50s pages %.3f times, committed %.3f times; heads hold %d to %d\n", preset, overrides, h.used / theory, h.committed / theory, h.fewest, h.most);
    if (h.used > bound * theory)
        fail_msg("%s %s: pages of %.0f bytes for %.0f (%.3f times); heads hold %d to %d items", preset, overrides, h.used, theory, h.used / theory, h.fewest, h.most);
    if (h.committed > bound * theory + POOL_EXTENT_BYTES)
        fail_msg("%s %s: %.0f bytes committed for %.0f", preset, overrides, h.committed, theory);
    if (h.used < 0.85 * theory) fail_msg("%s %s: only %.0f bytes for %.0f", preset, overrides, h.used, theory);
    if (strncmp(preset, "snapkv", 6) != 0) assert_true(h.fewest < h.most);
}

static void pages_stay_near_what_is_kept(void **state) {
    const char *path = real_model_path();
    if (!path) skip();
    engine *e = tiny_engine(path, MATH_FAST, 0, "cpu", "auto");
    token_list ids = {0};
    if (text_of(e, &ids) != OK || ids.n < SKIP + N) {
        printf("# SKIP pages_stay_near_what_is_kept: %s\n", err_text());
        engine_close(e);
        skip();
    }
    static const char *const presets[] = {"kvcompress", "adakv"}; /* whole pages over all layers, items over the heads of a layer */
    snapshot *snap;
    assert_ok(engine_snapshot(e, ids.ids + SKIP, N, &snap));
    const model_params *mp = &engine_model(e)->p;
    double full = (double)N * mp->n_layers * mp->n_kv * mp->head_dim * 4;
    for (int rate = 2; rate <= 16; rate *= 2)
        for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
            char over[64];
            snprintf(over, sizeof over, "{budget: {ratio: %g}}", 1.0 / rate);
            check(e, snap, presets[i], over, full / rate, rate <= 8 ? 1.10 : 1.15);
        }
    check(e, snap, "kvcompress_code", "{budget: {ratio: 0.0625}}", full / 16, 1.15);
    check(e, snap, "kvcompress_continual", "{budget: {ratio: 0.25}}", full / 4, 1.10); /* with columns */
    check(e, snap, "leankv", "{decide: {leankv: {alpha_h: 1, alpha_l: 0.02}}}", 0, 1.10);
    check(e, snap, "leankv", "{decide: {leankv: {alpha_h: 3, alpha_l: 0.3}}}", 0, 1.15);
    check(e, snap, "kvcompress_k8v4", "{budget: 0.25}", 0, 1.15);
    snapshot_destroy(snap);
    token_list_free(&ids);
    engine_close(e);
}

int main(int argc, char **argv) { /* test_pages -v: the figures */
    verbose = argc > 1 && strcmp(argv[1], "-v") == 0;
    const struct CMUnitTest tests[] = {cmocka_unit_test(pages_stay_near_what_is_kept)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
