/* The attention ops of every ISA path that this CPU has, reference first; run with a team. */
#ifndef KVLAB_TESTS_SUPPORT_ATTN_PATHS_H
#define KVLAB_TESTS_SUPPORT_ATTN_PATHS_H
#include <stdlib.h>
#include <string.h>
#include "base/rng.h"
#include "kernels/cpu/attn.h"
#include "kernels/cpu/isa.h"

typedef struct attn_path {
    const char *name;
    void (*prefill)(const par *p, const attn_prefill *a);
    void (*decode)(const par *p, const attn_batch *b);
    void (*mass)(const par *p, const attn_mass *a);
    void (*decode_words)(const par *p, const attn_batch *b); /* codes meet integers; NULL: there is none */
} attn_path;
#define ATTN_PATH(name, path) \
    (attn_path) { name, attn_prefill_##path, attn_decode_##path, attn_mass_##path, attn_decode_words_##path }

static inline int attn_paths(attn_path out[4]) {
    int n = 0;
    out[n++] = (attn_path){"reference", attn_prefill_reference, attn_decode_reference, attn_mass_reference, NULL};
    out[n++] = ATTN_PATH("scalar", scalar);
    if (isa_present(ISA_AVX2)) out[n++] = ATTN_PATH("avx2", avx2);
    if (isa_present(ISA_AVX512)) out[n++] = ATTN_PATH("avx512", avx512);
    return n;
}

typedef struct attn_call {
    const attn_path *path;
    void *args; /* its scratch is set by attn_call_run */
    char op;    /* 'p', 'd', 'w' (decode in words), 'm' */
} attn_call;

static inline void attn_call_body(const par *p, void *arg) {
    attn_call *c = arg;
    if (c->op == 'p') c->path->prefill(p, c->args);
    else if (c->op == 'd') c->path->decode(p, c->args);
    else if (c->op == 'w') c->path->decode_words(p, c->args);
    else c->path->mass(p, c->args);
}
/* Scratch of exactly the size asked for, filled with NaN, so that sanitizers and results show a use of what is not there. */
static inline void attn_call_run(const attn_path *path, char op, void *args, int n_threads) {
    size_t bytes = op == 'p'   ? attn_prefill_scratch_bytes(args, n_threads)
                   : op == 'm' ? attn_mass_scratch_bytes(args, n_threads)
                               : attn_decode_scratch_bytes(args, n_threads);
    void *scratch = malloc(bytes);
    if (!scratch) abort();
    memset(scratch, 0xff, bytes);
    if (op == 'p') ((attn_prefill *)args)->scratch = scratch;
    else if (op == 'm') ((attn_mass *)args)->scratch = scratch;
    else ((attn_batch *)args)->scratch = scratch;
    attn_call c = {path, args, op};
    par_run(n_threads, attn_call_body, &c);
    free(scratch);
}

static inline int attn_path_min(int a, int b) { return a < b ? a : b; }

static inline float *attn_random(rng *r, size_t n, float scale) {
    float *x = malloc((n ? n : 1) * sizeof(float));
    if (!x) abort();
    for (size_t i = 0; i < n; i++) x[i] = scale * rng_normal(r);
    return x;
}
#endif
