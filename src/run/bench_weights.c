/* Products with matrices of each weight type, whatever types the model has: one row, which reads so many matrices that no cache holds them, and
 * many rows, which compute with one. */
#include <stdio.h>
#include <string.h>

#include "base/half.h"
#include "base/mem.h"
#include "base/rng.h"
#include "run/bench.h"

enum { N_OUT = 8192, N_IN = 4096, MANY = 128, MAX_COPIES = 8 };
static const size_t read_bytes = (size_t)144 << 20;

/* Where the f16 scales of a block lie (the second: -1 if there is none); floats have none. */
static const struct {
    wtype type;
    int scale[2];
} types[] = {{WTYPE_Q4_0, {0, -1}}, {WTYPE_Q4_1, {0, 2}}, {WTYPE_Q5_0, {0, -1}}, {WTYPE_Q5_1, {0, 2}},    {WTYPE_Q8_0, {0, -1}}, {WTYPE_Q4_K, {0, 2}},
             {WTYPE_Q5_K, {0, 2}},  {WTYPE_Q6_K, {208, -1}}, {WTYPE_F16, {-1, -1}}, {WTYPE_BF16, {-1, -1}}, {WTYPE_F32, {-1, -1}}};

/* Random codes under scales of ordinary size; random floats. */
static void fill(int i, const wtype_info *w, uint8_t *data, size_t n_blocks) {
    f16 scale = f16_from_f32(0.01f);
    rng r = rng_make(1, (uint64_t)i);
    for (size_t at = 0; w->block > 1 && at < n_blocks * (size_t)w->block_bytes; at += sizeof(uint64_t)) /* the buffer is longer */
        memcpy(data + at, &(uint64_t){rng_u64(&r)}, sizeof(uint64_t));
    for (size_t b = 0; b < n_blocks; b++, data += w->block_bytes) {
        float x = w->block > 1 ? 0 : (float)rng_uniform(&r) - 0.5f;
        if (w->type == WTYPE_F32) memcpy(data, &x, sizeof x);
        if (w->type == WTYPE_F16) memcpy(data, &(f16){f16_from_f32(x)}, sizeof(f16));
        if (w->type == WTYPE_BF16) memcpy(data, &(uint16_t){bf16_from_f32(x)}, sizeof(uint16_t));
        for (int s = 0; s < 2; s++)
            if (types[i].scale[s] >= 0) memcpy(data + types[i].scale[s], &scale, sizeof scale);
    }
}

typedef struct product { const backend *be; packed_weight *w[MAX_COPIES]; int n; act a; float *y; } product;
static void product_body(const par *p, void *arg) {
    product *x = arg;
    x->be->act_prepare(p, &x->a);
    par_barrier(p);
    for (int i = 0; i < (x->a.m > 1 ? 1 : x->n); i++) {
        x->be->linear(p, x->w[i], &x->a, x->y, N_OUT, false);
        par_barrier(p);
    }
}

static err time_type(bench *b, int i, uint8_t *data, product *x) {
    const wtype_info *w = wtype_find(types[i].type);
    size_t bytes = 0;
    err e = OK;
    fill(i, w, data, (size_t)N_OUT * N_IN / (size_t)w->block);
    for (x->n = 0; e == OK && x->n < MAX_COPIES && bytes < read_bytes; x->n += e == OK) {
        e = x->be->weight_pack(x->be, &(weight_src){.data = data, .type = w->type, .n_rows = N_OUT, .n_cols = N_IN, .name = w->name}, &x->w[x->n]);
        if (e == OK) bytes += x->be->weight_bytes(x->w[x->n]);
    }
    for (int many = 0; e == OK && many < 2; many++) {
        char what[64];
        x->a.m = many ? MANY : 1;
        snprintf(what, sizeof what, "%s %d x %d, %d row%s", w->name, N_OUT, N_IN, x->a.m, many ? "s" : "");
        bench_row r = {.section = "linear", .isa = x->be->isa, .what = what, .threads = b->threads, .t = bench_time(b, b->threads, product_body, x),
                       .per = many ? MANY : x->n, .scale = 1e3, .unit = "ms per row", .rate_unit = many ? "Gop/s" : "GB/s"};
        r.rate = (many ? 2.0 * N_OUT * N_IN * MANY : (double)bytes) / r.t.min * 1e-9;
        bool codes = w->block > 1 && x->be->math == MATH_FAST;
        r.of = many ? b->peak_gops[codes] * b->threads : b->read_gbs;
        bench_add(b, &r);
    }
    for (int k = 0; k < x->n; k++) x->be->weight_free(x->w[k]);
    return e;
}

err bench_weights(bench *b) {
    product x = {.be = engine_backend(b->s.e), .a = {.k = N_IN}};
    uint8_t *data = NULL;
    float *in = NULL;
    rng r = rng_make(2, 0);
    err e;
    GOTO(done, e, mem_alloc(MEM_OTHER, sizeof(float) * N_OUT * N_IN, &data));
    GOTO(done, e, mem_alloc(MEM_OTHER, sizeof *in * MANY * N_IN, &in));
    GOTO(done, e, mem_alloc(MEM_OTHER, x.be->act_bytes(MANY, N_IN), &x.a.q));
    GOTO(done, e, mem_alloc(MEM_OTHER, sizeof *x.y * MANY * N_OUT, &x.y));
    for (int i = 0; i < MANY * N_IN; i++) in[i] = (float)rng_uniform(&r) - 0.5f;
    x.a.x = in;
    for (size_t i = 0; i < sizeof types / sizeof *types && e == OK; i++) e = time_type(b, (int)i, data, &x);
done:
    mem_free(data), mem_free(in), mem_free(x.a.q), mem_free(x.y);
    return e;
}
