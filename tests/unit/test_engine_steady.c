/* A decode step after warm-up asks the system for nothing but counted pool extents: malloc, free and mmap are watched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "tests/support/engines.h"

#ifdef __SANITIZE_ADDRESS__
int main(void) {

    printf("# SKIP steps_allocate_nothing_after_warm_up: the sanitizer owns malloc in this build\n");
    return 0;
}
#else

static volatile int watching, n_malloc, n_free;

/* The C library's own entry points; ours take their names and count. */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);
void __libc_free(void *p);
void *malloc(size_t n) {
    n_malloc += watching;
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size) {
    n_malloc += watching;
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n) {
    n_malloc += watching;
    return __libc_realloc(p, n);
}
void *aligned_alloc(size_t align, size_t n) {
    n_malloc += watching;
    return __libc_memalign(align, n);
}
int posix_memalign(void **out, size_t align, size_t n) {
    n_malloc += watching;
    *out = __libc_memalign(align, n);
    return *out ? 0 : 12;
}
void free(void *p) {
    n_free += watching && p;
    __libc_free(p);
}

enum { PROMPT = 200, WARM = 160, STEPS = 150 };

static void steps_allocate_nothing_after_warm_up(void **state) {
    static const char *const presets[] = {"full", "k8v4", "k4v2_win64", "streamingllm", "streamingllm_slot", "snapkv", "h2o", "tova", "leankv", "leankv_f16"};
    engine *e = tiny_engine(tiny_model_file("tiny.gguf", tiny_model_default()), MATH_FAST, 2, "cpu", "auto");
    int v = engine_model(e)->p.n_vocab;
    int32_t ids[PROMPT + WARM + STEPS];
    random_ids(ids, PROMPT + WARM + STEPS, v, 3);
    float *logits = malloc(sizeof(float) * (size_t)v);
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        node *tree;
        policy *p = preset_policy(e, presets[i], NULL, &tree);
        cache_space *space;
        seq *s;
        assert_ok(cache_space_create(e, p, PROMPT, 0, &space));
        assert_ok(seq_create(e, space, p, 1, &s));
        assert_ok(seq_prefill(s, ids, PROMPT, logits));
        for (int t = 0; t < WARM; t++) assert_ok(engine_step(e, &s, ids + PROMPT + t, 1, logits));
        size_t tables = seq_bytes(s).tables;
        n_malloc = n_free = 0;
        watching = 1;
        err bad = OK;
        for (int t = WARM; t < WARM + STEPS && bad == OK; t++) bad = engine_step(e, &s, ids + PROMPT + t, 1, logits);
        watching = 0;
        assert_ok(bad);
        /* a growing cache needs longer page tables now and then: counted bytes, at most one growth per table */
        bool grew = seq_bytes(s).tables > tables;
        cache_shape shape = cache_get_shape(seq_cache(s));
        int allowed = grew ? 2 * shape.n_layers * shape.n_kv * cache_n_tiers(seq_cache(s)) : 0;
        if (n_malloc > allowed || n_free > allowed)
            fail_msg("preset %s: %d allocations and %d frees in %d steps (%d table growths allowed)", presets[i], n_malloc, n_free, STEPS, allowed);
        seq_destroy(s);
        cache_space_destroy(space);
        policy_destroy(p);
        node_free(tree);
    }
    free(logits);
    engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(steps_allocate_nothing_after_warm_up)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
