/* Linear layers of the default model on one ISA path: GFLOP/s of prefill, and of decode the share of plain read
 * bandwidth that the weights arrive with (working set beyond every cache). Every time is the best of several.
 *
 *   bench_linear [isa] [threads]        link with libkvlab.a */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "backend/backend.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"

enum { PREFILL_ROWS = 512, REPEATS = 7 };
static const size_t set_bytes = (size_t)256 << 20;

typedef struct call {
    const backend *b;
    packed_weight **w;
    int n_w, n;
    act a;
    float *y;
    const uint64_t *plain; /* set_bytes to read */
    volatile uint64_t sink;
} call;
static void do_linear(const par *p, void *arg) {
    call *c = arg;
    for (int i = 0; i < c->n_w; i++) c->b->linear(p, c->w[i], &c->a, c->y, (size_t)c->n, false);
}
static void do_prepare(const par *p, void *arg) {
    call *c = arg;
    act a = c->a;
    c->b->act_prepare(p, &a);
}
static void do_read(const par *p, void *arg) {
    call *c = arg;
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)(set_bytes / 64), &lo, &hi);
    uint64_t s[8] = {0};
    for (ptrdiff_t i = lo; i < hi; i++)
        for (int l = 0; l < 8; l++) s[l] ^= c->plain[i * 8 + l];
    for (int l = 0; l < 8; l++) c->sink += s[l];
}
static double best(int threads, void (*body)(const par *, void *), call *c) {
    double t = 1e30;
    for (int i = 0; i < REPEATS; i++) {
        double start = clock_now();
        par_run(threads, body, c);
        double d = clock_now() - start;
        if (d < t) t = d;
    }
    return t;
}

static err bench_shape(call *c, wtype type, int n, int k, int threads) {
    size_t bytes = wtype_row_bytes(type, (size_t)k) * (size_t)n;
    uint8_t *file;
    float *x;
    TRY(mem_alloc(MEM_OTHER, bytes, &file));
    TRY(mem_alloc(MEM_OTHER, sizeof *x * PREFILL_ROWS * (size_t)k, &x));
    TRY(mem_alloc(MEM_OTHER, sizeof *x * PREFILL_ROWS * (size_t)n, &c->y));
    TRY(mem_alloc(MEM_OTHER, c->b->act_bytes(PREFILL_ROWS, k), &c->a.q));
    rng r = rng_make(1, 0);
    for (size_t i = 0; i < bytes; i++) file[i] = (uint8_t)(rng_u64(&r) & 0x3f); /* no NaN or infinity in any type */
    for (size_t i = 0; i < (size_t)PREFILL_ROWS * (size_t)k; i++) x[i] = rng_normal(&r);

    weight_src src = {file, type, n, k, "bench"};
    int n_w = (int)(set_bytes / bytes) + 1;
    TRY(mem_alloc(MEM_OTHER, sizeof *c->w * (size_t)n_w, &c->w));
    size_t packed = 0;
    for (int i = 0; i < n_w; i++) {
        TRY(c->b->weight_pack(c->b, &src, &c->w[i]));
        packed += c->b->weight_bytes(c->w[i]);
    }
    void *q = c->a.q;
    c->n = n;
    c->a = (act){PREFILL_ROWS, k, x, q};
    c->n_w = 1;
    par_run(threads, do_prepare, c);
    double prefill = best(threads, do_linear, c);
    c->a.m = 1;
    c->n_w = n_w;
    double decode = best(threads, do_linear, c), rate = (double)packed / decode;
    double read = (double)set_bytes / best(threads, do_read, c);
    printf("%-5s %-11s %-5s %5d x %4d  prefill %6.1f GFLOP/s   decode %5.1f GB/s = %.2f of plain read (%.1f)\n",
           wtype_find((uint32_t)type)->name, c->b->isa, c->b->math == MATH_FAST ? "fast" : "exact", n, k,
           2.0 * PREFILL_ROWS * n * k / prefill / 1e9, rate / 1e9, rate / read, read / 1e9);
    for (int i = 0; i < n_w; i++) c->b->weight_free(c->w[i]);
    mem_free(c->w);
    mem_free(c->y);
    mem_free(q);
    mem_free(x);
    mem_free(file);
    c->a.q = NULL;
    return OK;
}

static err bench_all(const char *isa, int threads) {
    call c = {0};
    uint64_t *plain;
    TRY(mem_alloc(MEM_OTHER, set_bytes, &plain));
    memset(plain, 1, set_bytes); /* untouched pages would all be the kernel's one page of zeros */
    c.plain = plain;
    for (int math = 0; math < 2; math++) {
        TRY(backend_find("cpu", isa, (math_mode)math, &c.b));
        TRY(bench_shape(&c, WTYPE_Q4_1, 576, 576, threads));
        TRY(bench_shape(&c, WTYPE_Q4_1, 1536, 576, threads));
        TRY(bench_shape(&c, WTYPE_Q4_1, 576, 1536, threads));
        TRY(bench_shape(&c, WTYPE_Q8_0, 49152, 576, threads));
        TRY(bench_shape(&c, WTYPE_F16, 576, 576, threads));
    }
    mem_free(plain);
    return OK;
}

int main(int argc, char **argv) {
    err e = bench_all(argc > 1 ? argv[1] : "auto", argc > 2 ? atoi(argv[2]) : 1);
    if (e) fprintf(stderr, "bench_linear: %s\n", err_text());
    return err_exit_status(e);
}
