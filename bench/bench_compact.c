/* Compaction of many sequences of the default model's shape (30 layers, 3 KV heads, head_dim 64): head after head (cache_apply) beside all
 * heads at once (cache_compact). One case drops items, one also moves half of the rest to a lower tier. Every time is the best of several.
 *
 *   bench_compact [isa] [threads] [sequences] [items]        link with libkvlab.a */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cache/cache.h"

enum { LAYERS = 30, N_KV = 3, D = 64, HEADS = LAYERS * N_KV, REPEATS = 5, MAX_SEQS = 64 };

typedef struct bench {
    const backend *be;
    page_layout layout[2];
    int n_tiers, n_seqs, n_items;
    cache *from[MAX_SEQS];
    uint8_t *target;      /* [n_seqs][HEADS][n_items] */
    cache_change *change; /* [n_seqs * HEADS] */
    compactor *all;
} bench;

static void die(const char *what) {
    fprintf(stderr, "bench_compact: %s: %s\n", what, err_text());
    exit(1);
}

static void open_case(bench *b, const char *const *tiers, int n_tiers, pool **pages) {
    kv_format f[2];
    b->n_tiers = n_tiers;
    for (int t = 0; t < n_tiers; t++)
        if (kv_format_parse(tiers[t], &f[t])) die("format");
    if (page_layout_search(f, n_tiers, D, 2, false, b->n_items, b->layout) || pool_create(b->layout[0].page_bytes, 0, pages)) die("pool");
    rng r = rng_make(1, 1);
    float *kv = malloc(sizeof *kv * (size_t)N_KV * (size_t)b->n_items * D);
    uint8_t *stay = calloc(1, (size_t)N_KV * (size_t)b->n_items);
    for (int i = 0; i < N_KV * b->n_items * D; i++) kv[i] = (float)rng_uniform(&r);
    for (int s = 0; s < b->n_seqs; s++) {
        if (cache_create(*pages, b->be, (cache_shape){LAYERS, N_KV, D}, b->layout, n_tiers, &b->from[s])) die("cache");
        for (int l = 0; l < LAYERS; l++)
            if (cache_fill(b->from[s], &par_single, l, b->n_items, kv, kv, stay)) die("fill");
        cache_set_n_tokens(b->from[s], b->n_items);
    }
    for (int i = 0; i < b->n_seqs * HEADS * b->n_items; i++) {
        uint32_t x = rng_below(&r, 4); /* half go; of the rest, half to the last tier */
        b->target[i] = x < 2 ? KV_DROP : (uint8_t)(x == 2 ? n_tiers - 1 : 0);
    }
    free(kv);
    free(stay);
}

static void copies(const bench *b, cache **to) {
    for (int s = 0; s < b->n_seqs; s++)
        if (cache_clone(b->from[s], &to[s])) die("clone");
}

static double run(const bench *b, int threads) { /* threads 0: head after head */
    double best = 1e30;
    for (int i = 0; i < REPEATS; i++) {
        cache *c[MAX_SEQS];
        copies(b, c);
        for (int s = 0; s < b->n_seqs; s++)
            for (int h = 0; h < HEADS; h++)
                b->change[s * HEADS + h] = (cache_change){c[s], h / N_KV, h % N_KV, b->target + (size_t)(s * HEADS + h) * (size_t)b->n_items};
        double start = clock_now();
        if (threads) {
            if (cache_compact(b->all, b->change, b->n_seqs * HEADS, threads)) die("cache_compact");
        } else {
            for (int k = 0; k < b->n_seqs * HEADS; k++)
                if (cache_apply(b->change[k].c, b->change[k].layer, b->change[k].head, b->change[k].target)) die("cache_apply");
        }
        double t = clock_now() - start;
        if (t < best) best = t;
        for (int s = 0; s < b->n_seqs; s++) cache_destroy(c[s]);
    }
    return best;
}

int main(int argc, char **argv) {
    const char *isa = argc > 1 ? argv[1] : "auto";
    int threads = argc > 2 ? atoi(argv[2]) : 2;
    bench b = {.n_seqs = argc > 3 ? atoi(argv[3]) : 4, .n_items = argc > 4 ? atoi(argv[4]) : 1024};
    if (threads < 1 || b.n_seqs < 1 || b.n_seqs > MAX_SEQS || b.n_items < 1 || b.n_items > 1 << 16) {
        fprintf(stderr, "usage: bench_compact [isa] [threads] [sequences 1..%d] [items 1..65536]\n", MAX_SEQS);
        return 2;
    }
    if (backend_find("cpu", isa, MATH_FAST, &b.be) || compactor_create(&b.all)) die("backend");
    size_t n = (size_t)b.n_seqs * HEADS;
    b.target = malloc(n * (size_t)b.n_items);
    b.change = malloc(n * sizeof *b.change);
    static const struct { const char *name, *tiers[2]; int n; } cases[] = {{"half dropped, f16", {"f16"}, 1}, {"half dropped, a quarter to k4v2", {"k8v4", "k4v2"}, 2}};
    printf("%s, %d sequences of %d heads of %d items\n", b.be->name, b.n_seqs, HEADS, b.n_items);
    for (int i = 0; i < 2; i++) {
        pool *pages;
        open_case(&b, cases[i].tiers, cases[i].n, &pages);
        double serial = run(&b, 0), one = run(&b, 1), many = run(&b, threads), bytes = 2.0 * (double)n * b.n_items / 4 * b.layout[0].payload_bytes;
        printf("%-32s head after head %7.2f ms; all at once, 1 thread %7.2f ms (%.2f x), %d threads %7.2f ms (%.2f x, %.1f GB/s moved)\n", cases[i].name,
               1e3 * serial, 1e3 * one, serial / one, threads, 1e3 * many, serial / many, bytes / many / 1e9);
        for (int s = 0; s < b.n_seqs; s++) cache_destroy(b.from[s]);
        pool_destroy(pages);
    }
    compactor_destroy(b.all);
    free(b.target);
    free(b.change);
    return 0;
}
