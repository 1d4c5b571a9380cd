/* Attention of the default model (30 layers, 3 KV heads of 3 query heads, head_dim 64) on one ISA path: decode over pages beside
 * plain read bandwidth, scoring of many rows, prefill, mass. Every time is the best of several;
 * with one thread it is CPU time.
 *
 *   bench_attn [isa] [threads] [context]        link with libkvlab.a */
#define _DEFAULT_SOURCE /* madvise */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "backend/backend.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cache/pool.h"

enum { LAYERS = 30, N_KV = 3, GROUP = 3, HEADS = N_KV * GROUP, D = 64, PAGE_BYTES = 7168, REPEATS = 5, SCORED_ROWS = 128 };
static const size_t plain_bytes = (size_t)256 << 20;

typedef struct call {
    const backend *b;
    attn_batch *layers;
    int n_layers;
    attn_prefill *prefill;
    attn_mass *mass;
    const uint64_t *plain;
    size_t plain_bytes;
    volatile uint64_t sink;
} call;
static void do_decode(const par *p, void *arg) {
    call *c = arg;
    for (int i = 0; i < c->n_layers; i++) {
        c->b->attn_decode(p, &c->layers[i]);
        par_barrier(p); /* as in a step: the next layer's scratch is the same */
    }
}
static void do_prefill(const par *p, void *arg) { ((call *)arg)->b->attn_prefill(p, ((call *)arg)->prefill); }
static void do_mass(const par *p, void *arg) { ((call *)arg)->b->attn_mass(p, ((call *)arg)->mass); }
static void do_read(const par *p, void *arg) {
    call *c = arg;
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)(c->plain_bytes / 64), &lo, &hi);
    uint64_t s[8] = {0};
    for (ptrdiff_t i = lo; i < hi; i++)
        for (int l = 0; l < 8; l++) s[l] ^= c->plain[i * 8 + l];
    for (int l = 0; l < 8; l++) c->sink += s[l];
}
/* CPU time of the process for one thread, so that other processes disturb less; else wall time. */
static double now(int threads) {
    if (threads > 1) return clock_now();
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static double best(int threads, void (*body)(const par *, void *), call *c) {
    double t = 1e30;
    for (int i = 0; i < REPEATS; i++) {
        double start = now(threads);
        par_run(threads, body, c);
        double d = now(threads) - start;
        if (d < t) t = d;
    }
    return t;
}
static double read_bandwidth(call *c, int threads, size_t bytes) { /* GB/s, the set read again and again */
    c->plain_bytes = bytes;
    return (double)bytes / best(threads, do_read, c) * 1e-9;
}

static err random_floats(rng *r, size_t n, float **out) {
    TRY(mem_alloc(MEM_OTHER, n * sizeof(float), out));
    for (size_t i = 0; i < n; i++) (*out)[i] = (float)rng_uniform(r) * 2 - 1;
    return OK;
}

/* One format: a step of all layers with one row, then rows scored against one layer. */
static err bench_decode(call *c, const char *name, int threads, int context) {
    rng r = rng_make(1, 1);
    kv_format fmt;
    page_layout l;
    TRY(kv_format_parse(name, &fmt));
    TRY(page_layout_make(fmt, D, 2, true, PAGE_BYTES, &l));
    int n_pages = (context + l.cap - 1) / l.cap, n_jobs = LAYERS * N_KV;
    pool *pages_pool;
    uint32_t *pages;
    attn_job *jobs;
    float *kv, *q, *out;
    TRY(pool_create(PAGE_BYTES, 0, &pages_pool));
    TRY(mem_alloc(MEM_OTHER, (size_t)n_jobs * (size_t)n_pages * sizeof *pages, &pages));
    TRY(mem_alloc(MEM_OTHER, (size_t)n_jobs * sizeof *jobs, &jobs));
    TRY(mem_alloc(MEM_OTHER, LAYERS * sizeof(attn_batch), &c->layers));
    TRY(mem_alloc(MEM_OTHER, (size_t)SCORED_ROWS * HEADS * D * sizeof(float), &out));
    TRY(random_floats(&r, (size_t)l.cap * D, &kv));
    TRY(random_floats(&r, (size_t)SCORED_ROWS * HEADS * D, &q));
    uint32_t pos[4096] = {0};
    uint8_t *memory = pool_base(pages_pool);
    for (int k = 0; k < n_pages; k++) /* round robin over the heads, as steps allocate them */
        for (int i = 0; i < n_jobs; i++) {
            uint32_t *page = &pages[i * n_pages + k];
            TRY(pool_alloc(pages_pool, page));
            c->b->page_put(&l, pool_page(memory, *page), 0, l.cap, kv, D, kv, D, pos);
        }
    for (int i = 0; i < n_jobs; i++) {
        size_t head = (size_t)(i % N_KV) * GROUP * D;
        jobs[i] = (attn_job){.q = {q + head}, .ldq = HEADS * D, .out = out + head, .ldo = HEADS * D, .n_rows = 1, .group = GROUP,
                             .head_dim = D, .scale = 0.125f, .n_segs = 1,
                             .seg = {{.layout = &l, .pages = pages + i * n_pages, .n_items = context, .query = ATTN_PLAIN}}};
    }
    void *scratch = NULL;
    size_t cap = 0;
    double ns[2];
    for (int scoring = 0; scoring < 2; scoring++) {
        c->n_layers = scoring ? 1 : LAYERS;
        for (int i = 0; i < c->n_layers; i++) {
            c->layers[i] = (attn_batch){.jobs = jobs + i * N_KV, .n_jobs = N_KV, .pool_base = memory};
            for (int k = 0; k < N_KV && scoring; k++) {
                attn_job *j = &jobs[i * N_KV + k];
                j->n_rows = SCORED_ROWS;
                j->seg[0].n_items = context - SCORED_ROWS + 1;
                j->seg[0].grows = true;
            }
            TRY(mem_reserve(MEM_SCRATCH, c->b->attn_scratch_bytes(&c->layers[i], threads), &scratch, &cap));
        }
        for (int i = 0; i < c->n_layers; i++) c->layers[i].scratch = scratch;
        ns[scoring] = best(threads, do_decode, c) * 1e9 / ((double)c->n_layers * N_KV * context);
    }
    double gbs = (l.payload_bytes + l.meta_bytes) / ns[0], read = read_bandwidth(c, threads, plain_bytes);
    printf("decode %-7s %4u B/item  %5.2f ns per (item, KV head)  %5.1f GB/s = %3.0f %% of %4.1f;  %d rows: %5.2f ns per (item, query "
           "head, row)\n",
           name, l.payload_bytes + l.meta_bytes, ns[0], gbs, gbs / read * 100, read, SCORED_ROWS, ns[1] / GROUP / SCORED_ROWS);
    pool_destroy(pages_pool);
    mem_free(pages);
    mem_free(jobs);
    mem_free(c->layers);
    mem_free(out);
    mem_free(kv);
    mem_free(q);
    mem_free(scratch);
    return OK;
}

static err bench_prompt(call *c, int threads, int n) {
    rng r = rng_make(1, 2);
    float *q, *k, *v, *out;
    TRY(random_floats(&r, (size_t)n * HEADS * D, &q));
    TRY(random_floats(&r, (size_t)n * N_KV * D, &k));
    TRY(random_floats(&r, (size_t)n * N_KV * D, &v));
    TRY(random_floats(&r, (size_t)n * HEADS * D, &out));
    attn_prefill a = {.q = q, .k = k, .v = v, .out = out, .n_tokens = n, .n_heads = HEADS, .n_kv = N_KV, .head_dim = D,
                      .scale = 0.125f};
    attn_mass m = {.q = q, .k = k, .out = out, .n_rows = 32, .n_tokens = n, .n_heads = HEADS, .n_kv = N_KV, .head_dim = D,
                   .scale = 0.125f, .power = 1};
    TRY(mem_alloc(MEM_SCRATCH, c->b->prefill_scratch_bytes(&a, threads), &a.scratch));
    TRY(mem_alloc(MEM_SCRATCH, c->b->mass_scratch_bytes(&m, threads), &m.scratch));
    c->prefill = &a;
    c->mass = &m;
    double t_prefill = best(threads, do_prefill, c), t_mass = best(threads, do_mass, c);
    double n_pairs = 0.5 * n * (n + 1.0) * HEADS;
    printf("prefill %5d tokens: %6.1f ms, %5.1f GFLOP/s;  mass of 32 rows: %6.2f ms, %5.1f GFLOP/s\n", n, t_prefill * 1e3,
           4 * D * n_pairs / t_prefill * 1e-9, t_mass * 1e3, 2.0 * D * 32 * n * HEADS / t_mass * 1e-9);
    mem_free(q);
    mem_free(k);
    mem_free(v);
    mem_free(out);
    mem_free(a.scratch);
    mem_free(m.scratch);
    return OK;
}

static err bench(const char *isa, int threads, int context) {
    call c = {0};
    TRY(backend_find("cpu", isa, MATH_FAST, &c.b));
    void *plain = aligned_alloc(POOL_EXTENT_BYTES, plain_bytes); /* huge pages, as the pool's */
    if (!plain) return ERR(ERR_NOMEM, "no %zu bytes to read", plain_bytes);
    madvise(plain, plain_bytes, MADV_HUGEPAGE);
    memset(plain, 1, plain_bytes);
    c.plain = plain;
    printf("%s, %d thread(s), context %d; plain read: %.1f GB/s of 256 MiB, %.1f GB/s of 4 MiB\n", c.b->isa, threads, context,
           read_bandwidth(&c, threads, plain_bytes), read_bandwidth(&c, threads, (size_t)4 << 20));
    static const char *const formats[] = {"f32", "f16", "k8v8", "k8v4", "k4v4", "k4v2", "k2v2", "k8v4g32"};
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) TRY(bench_decode(&c, formats[i], threads, context));
    TRY(bench_prompt(&c, threads, 512));
    TRY(bench_prompt(&c, threads, 2048));
    free(plain);
    return OK;
}

int main(int argc, char **argv) {
    const char *isa = argc > 1 ? argv[1] : "auto";
    int threads = argc > 2 ? atoi(argv[2]) : 1, context = argc > 3 ? atoi(argv[3]) : 4096;
    if (threads < 1 || context < SCORED_ROWS) {
        fprintf(stderr, "usage: bench_attn [isa] [threads] [context >= %d]\n", SCORED_ROWS);
        return 2;
    }
    err e = bench(isa, threads, context);
    if (e != OK) fprintf(stderr, "bench_attn: %s\n", err_text());
    return err_exit_status(e);
}
