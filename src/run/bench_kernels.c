/* Kernels by themselves, in the shapes of the model: attention over pages and of a prompt, passes over all weights, the page pool. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "run/bench.h"

enum { PAGE_BYTES = 7168, PROMPT_MASS_ROWS = 32, SCORED_ROWS = 128, PREFILL_ROWS = 512 };
static const size_t long_set = (size_t)64 << 20; /* few layers of a long cache are enough beyond this */

static err random_floats(size_t n, uint64_t seed, float **out) {
    rng r = rng_make(seed, 0);
    TRY(mem_alloc(MEM_OTHER, n * sizeof(float), out));
    for (size_t i = 0; i < n; i++) (*out)[i] = (float)rng_uniform(&r) * 2 - 1;
    return OK;
}

/* ---- decode attention: one row of every layer over pages of one format ---- */
typedef struct pages_case {
    const backend *be;
    page_layout l;
    int n_items, n_layers;
    pool *pool;
    page_ref *pages;      /* [n_layers * n_kv][n_pages] */
    attn_job *jobs;       /* [n_layers][n_kv] */
    attn_batch *layers;
    float *q, *out, *kv;
    uint32_t *pos;
    void *scratch;
    size_t scratch_cap;
} pages_case;
static void pages_body(const par *p, void *arg) {
    pages_case *c = arg;
    for (int i = 0; i < c->n_layers; i++) {
        c->be->attn_decode(p, &c->layers[i]);
        par_barrier(p); /* as in a step: the next layer's scratch is the same */
    }
}
static void pages_close(pages_case *c) {
    if (c->pool) pool_destroy(c->pool);
    mem_free(c->pages), mem_free(c->jobs), mem_free(c->layers), mem_free(c->q), mem_free(c->out), mem_free(c->kv), mem_free(c->pos);
    mem_free(c->scratch);
}
/* Pages as of a policy that keeps everything, handed out head by head, as to a prompt, or in turns over the heads, as to steps. */
static err pages_open(const model_params *mp, kv_format f, int n_items, bool in_turns, pages_case *c) {
    TRY(page_layout_search_full(f, mp->head_dim, 0, false, n_items, &c->l));
    size_t item = (size_t)mp->n_kv * (c->l.payload_bytes + c->l.meta_bytes) * (size_t)n_items, d = (size_t)mp->head_dim;
    c->n_layers = mp->n_layers;
    if (n_items > 8192 && item * (size_t)mp->n_layers > long_set) c->n_layers = (int)((long_set + item - 1) / item);
    int n_jobs = c->n_layers * mp->n_kv, n_pages = (n_items + (int)c->l.cap - 1) / (int)c->l.cap, group = mp->n_heads / mp->n_kv;
    c->n_items = n_items;
    TRY(pool_create(c->l.page_bytes, 0, &c->pool));
    TRY(mem_alloc(MEM_OTHER, sizeof *c->pages * (size_t)n_jobs * (size_t)n_pages, &c->pages));
    TRY(mem_alloc(MEM_OTHER, sizeof *c->jobs * (size_t)n_jobs, &c->jobs));
    TRY(mem_alloc(MEM_OTHER, sizeof *c->layers * (size_t)c->n_layers, &c->layers));
    TRY(mem_alloc(MEM_OTHER, sizeof *c->out * (size_t)mp->n_heads * d, &c->out));
    TRY(mem_alloc(MEM_OTHER, sizeof *c->pos * c->l.cap, &c->pos));
    TRY(random_floats((size_t)mp->n_heads * d, 1, &c->q));
    TRY(random_floats((size_t)c->l.cap * d, 2, &c->kv));
    uint8_t *base = pool_base(c->pool);
    for (int outer = 0; outer < (in_turns ? n_pages : n_jobs); outer++)
        for (int inner = 0; inner < (in_turns ? n_jobs : n_pages); inner++) {
            int k = in_turns ? outer : inner, i = in_turns ? inner : outer;
            page_ref *page = &c->pages[(size_t)i * (size_t)n_pages + (size_t)k];
            TRY(pool_alloc(c->pool, page));
            if (k + i == 0) c->be->page_put(&c->l, pool_page(base, *page), 0, (int)c->l.cap, c->kv, d, c->kv, d, c->pos);
            else memcpy(pool_page(base, *page), pool_page(base, c->pages[0]), c->l.page_bytes);
        }
    for (int i = 0; i < n_jobs; i++) {
        size_t head = (size_t)(i % mp->n_kv) * (size_t)group * d;
        c->jobs[i] = (attn_job){.q = {c->q + head}, .ldq = (size_t)mp->n_heads * d, .out = c->out + head, .ldo = (size_t)mp->n_heads * d,
                                .n_rows = 1, .group = group, .head_dim = mp->head_dim, .scale = mp->attn_scale, .n_segs = 1,
                                .seg = {{.layout = &c->l, .pages = c->pages + (size_t)i * (size_t)n_pages, .n_items = n_items, .query = ATTN_PLAIN}}};
    }
    for (int i = 0; i < c->n_layers; i++)
        c->layers[i] = (attn_batch){.jobs = c->jobs + (size_t)i * (size_t)mp->n_kv, .n_jobs = mp->n_kv, .pool_base = base};
    return OK;
}
static err pages_time(const bench *b, pages_case *c, const char *format, const char *order, int threads, double read_gbs) {
    const model_params *mp = &engine_model(b->s.e)->p;
    for (int i = 0; i < c->n_layers; i++)
        TRY(mem_reserve(MEM_SCRATCH, c->be->attn_scratch_bytes(&c->layers[i], threads), &c->scratch, &c->scratch_cap));
    for (int i = 0; i < c->n_layers; i++) c->layers[i].scratch = c->scratch;
    char what[64];
    double items = (double)c->n_layers * mp->n_kv * c->n_items;
    size_t bytes = c->l.payload_bytes + c->l.meta_bytes;
    snprintf(what, sizeof what, "%s (%zu B/item), %d items%s", format, bytes, c->n_items, order);
    bench_row r = {.section = "attention", .isa = c->be->isa, .what = what, .threads = threads, .t = bench_time(b, threads, pages_body, c),
                   .per = items, .scale = 1e9, .unit = "ns per (item, KV head)", .rate_unit = "GB/s", .of = read_gbs};
    r.rate = (double)bytes * items / r.t.min * 1e-9;
    bench_add(b, &r);
    return OK;
}

/* Many rows at once, as when a text is scored or a prompt extended: arithmetic bounds it. */
static err rows_time(const bench *b, pages_case *c, const char *format) {
    const model_params *mp = &engine_model(b->s.e)->p;
    int n_rows = c->n_items < SCORED_ROWS ? c->n_items : SCORED_ROWS, n_layers = c->n_layers;
    size_t row = (size_t)mp->n_heads * (size_t)mp->head_dim;
    float *q = NULL, *out = NULL;
    err e;
    GOTO(done, e, random_floats((size_t)n_rows * row, 5, &q));
    GOTO(done, e, mem_alloc(MEM_OTHER, sizeof *out * (size_t)n_rows * row, &out));
    for (int k = 0; k < mp->n_kv; k++) {
        attn_job *j = &c->jobs[k];
        size_t head = (size_t)k * (size_t)j->group * (size_t)mp->head_dim;
        j->q[ATTN_PLAIN] = q + head;
        j->out = out + head;
        j->n_rows = n_rows;
        j->seg[0].n_items = c->n_items - n_rows + 1;
        j->seg[0].grows = true;
    }
    c->n_layers = 1;
    GOTO(done, e, mem_reserve(MEM_SCRATCH, c->be->attn_scratch_bytes(&c->layers[0], b->threads), &c->scratch, &c->scratch_cap));
    c->layers[0].scratch = c->scratch;
    char what[64];
    snprintf(what, sizeof what, "%s, %d items, %d rows", format, c->n_items, n_rows);
    double pairs = 0.5 * n_rows * (2.0 * c->n_items - n_rows + 1) * mp->n_heads;
    bench_row r = {.section = "attention", .isa = c->be->isa, .what = what, .threads = b->threads, .t = bench_time(b, b->threads, pages_body, c),
                   .per = pairs, .scale = 1e9, .unit = "ns per (item, head, row)", .rate_unit = "GFLOP/s", .of = b->peak_gops[0] * b->threads};
    r.rate = 4.0 * mp->head_dim * pairs / r.t.min * 1e-9;
    bench_add(b, &r);
done:
    c->n_layers = n_layers;
    mem_free(q), mem_free(out);
    return e;
}

/* Reads as many bytes as the case holds, up to all of them, in the pages' own memory. */
static double pages_read(const bench *b, const pages_case *c, int threads) {
    pool_stats s = pool_get_stats(c->pool);
    return bench_read_gbs(b, threads, (const uint64_t *)pool_base(c->pool), s.committed_bytes / 64 * 64);
}

/* ---- attention of a prompt ---- */
typedef struct prompt_case {
    const backend *be;
    attn_prefill a;
    attn_mass m;
} prompt_case;
static void prompt_body(const par *p, void *arg) { ((prompt_case *)arg)->be->attn_prefill(p, &((prompt_case *)arg)->a); }
static void mass_body(const par *p, void *arg) { ((prompt_case *)arg)->be->attn_mass(p, &((prompt_case *)arg)->m); }

static err prompt_time(const bench *b, const backend *be, int n) {
    const model_params *mp = &engine_model(b->s.e)->p;
    size_t d = (size_t)mp->head_dim, n_q = (size_t)n * (size_t)mp->n_heads * d, n_kv = (size_t)n * (size_t)mp->n_kv * d;
    int rows = n < PROMPT_MASS_ROWS ? n : PROMPT_MASS_ROWS;
    float *q = NULL, *k = NULL, *v = NULL, *out = NULL;
    prompt_case c = {.be = be};
    err e;
    GOTO(done, e, random_floats(n_q, 1, &q));
    GOTO(done, e, random_floats(n_kv, 2, &k));
    GOTO(done, e, random_floats(n_kv, 3, &v));
    GOTO(done, e, mem_alloc(MEM_OTHER, sizeof *out * n_q, &out));
    c.a = (attn_prefill){.q = q, .k = k, .v = v, .out = out, .n_tokens = n, .n_heads = mp->n_heads, .n_kv = mp->n_kv,
                         .head_dim = mp->head_dim, .scale = mp->attn_scale};
    c.m = (attn_mass){.q = q, .k = k, .out = out, .n_rows = rows, .n_tokens = n, .n_heads = mp->n_heads, .n_kv = mp->n_kv,
                      .head_dim = mp->head_dim, .scale = mp->attn_scale, .power = 1};
    GOTO(done, e, mem_alloc(MEM_SCRATCH, be->prefill_scratch_bytes(&c.a, b->threads), &c.a.scratch));
    GOTO(done, e, mem_alloc(MEM_SCRATCH, be->mass_scratch_bytes(&c.m, b->threads), &c.m.scratch));
    char what[64];
    snprintf(what, sizeof what, "prompt, %d tokens", n);
    bench_row r = {.section = "attention", .isa = be->isa, .what = what, .threads = b->threads, .t = bench_time(b, b->threads, prompt_body, &c),
                   .per = n, .scale = 1e6, .unit = "us per (token, layer)", .rate_unit = "GFLOP/s", .of = b->peak_gops[0] * b->threads};
    r.rate = 4.0 * mp->head_dim * 0.5 * n * (n + 1.0) * mp->n_heads / r.t.min * 1e-9;
    bench_add(b, &r);
    snprintf(what, sizeof what, "mass of %d rows, %d tokens", rows, n);
    r.t = bench_time(b, b->threads, mass_body, &c);
    r.rate = 2.0 * mp->head_dim * rows * (double)n * mp->n_heads / r.t.min * 1e-9;
    bench_add(b, &r);
done:
    mem_free(q), mem_free(k), mem_free(v), mem_free(out), mem_free(c.a.scratch), mem_free(c.m.scratch);
    return e;
}

static err attention_format(const bench *b, const backend *be, const char *format, int n_items) {
    kv_format f;
    pages_case c = {.be = be}, turns = {.be = be};
    const model_params *mp = &engine_model(b->s.e)->p;
    TRY(kv_format_parse(format, &f));
    err e = pages_open(mp, f, n_items, true, &turns);
    if (e == OK) e = pages_time(b, &turns, format, ", pages in turns", 1, pages_read(b, &turns, 1));
    pages_close(&turns);
    if (e == OK) e = pages_open(mp, f, n_items, false, &c);
    for (int i = 0; e == OK && i < (b->threads > 1 ? 2 : 1); i++) {
        int threads = i ? b->threads : 1;
        e = pages_time(b, &c, format, "", threads, pages_read(b, &c, threads));
    }
    if (e == OK) e = rows_time(b, &c, format); /* last: it changes the jobs */
    pages_close(&c);
    return e;
}

err bench_attention(bench *b) {
    const char *isas[8];
    int n = backend_isas(isas, 8);
    if (b->o->isa || b->o->backend) n = 1, isas[0] = engine_backend(b->s.e)->isa;
    for (int i = 0; i < n; i++) {
        const backend *be = engine_backend(b->s.e);
        if (n > 1) TRY(backend_find("cpu", isas[i], b->s.g.math, &be));
        for (int k = 0; k < b->n_depths; k++) {
            for (int f = 0; f < b->n_formats; f++) TRY(attention_format(b, be, b->format[f], b->depth[k]));
            if (b->depth[k] <= engine_context(b->s.e)) TRY(prompt_time(b, be, b->depth[k]));
        }
    }
    return OK;
}

/* ---- weights: every matrix of the model once, in the order of a step ---- */
typedef struct weights_case {
    const model *m;
    act a;     /* k is set per matrix: rows of the widest lie behind one another */
    float *y;
    bool head; /* else only the layers, as for a prompt */
} weights_case;
static void one_matrix(const par *p, weights_case *c, const packed_weight *w, int k, int n) {
    act a = {c->a.m, k, c->a.x, c->a.q};
    c->m->be->act_prepare(p, &a);
    par_barrier(p);
    c->m->be->linear(p, w, &a, c->y, (size_t)n, false);
    par_barrier(p);
}
static void weights_body(const par *p, void *arg) {
    weights_case *c = arg;
    const model_params *mp = &c->m->p;
    int q_dim = mp->n_heads * mp->head_dim, kv_dim = mp->n_kv * mp->head_dim;
    for (int i = 0; i < mp->n_layers; i++) {
        const model_layer *l = &c->m->layers[i];
        one_matrix(p, c, l->q, mp->n_embd, q_dim);
        one_matrix(p, c, l->k, mp->n_embd, kv_dim);
        one_matrix(p, c, l->v, mp->n_embd, kv_dim);
        one_matrix(p, c, l->o, q_dim, mp->n_embd);
        one_matrix(p, c, l->gate, mp->n_embd, mp->n_ff);
        one_matrix(p, c, l->up, mp->n_embd, mp->n_ff);
        one_matrix(p, c, l->down, mp->n_ff, mp->n_embd);
    }
    if (c->head) one_matrix(p, c, c->m->head, mp->n_embd, mp->n_vocab);
}

err bench_linear(bench *b) {
    static const int rows[] = {1, 2, 4, 8, PREFILL_ROWS};
    const model *m = engine_model(b->s.e);
    const model_params *mp = &m->p;
    int q_dim = mp->n_heads * mp->head_dim, widest = mp->n_ff > q_dim ? mp->n_ff : q_dim, most = rows[3];
    if (mp->n_embd > widest) widest = mp->n_embd;
    size_t out = (size_t)PREFILL_ROWS * (size_t)widest, head_out = (size_t)most * (size_t)mp->n_vocab, bytes = model_decode_bytes(m);
    double per_row = (2.0 * mp->n_embd * (2 * q_dim + 2 * mp->n_kv * mp->head_dim) + 6.0 * mp->n_embd * mp->n_ff) * mp->n_layers;
    weights_case c = {.m = m};
    float *x = NULL;
    err e;
    GOTO(done, e, random_floats((size_t)PREFILL_ROWS * (size_t)widest, 4, &x));
    GOTO(done, e, mem_alloc(MEM_OTHER, m->be->act_bytes(PREFILL_ROWS, widest), &c.a.q));
    GOTO(done, e, mem_alloc(MEM_OTHER, sizeof *c.y * (out > head_out ? out : head_out), &c.y));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char what[64];
        bool few = rows[i] <= most;
        c.a = (act){rows[i], 0, x, c.a.q};
        c.head = few;
        snprintf(what, sizeof what, "%s, %d row%s", few ? "layers and head" : "layers", rows[i], rows[i] > 1 ? "s" : "");
        bench_row r = {.section = "linear", .isa = m->be->isa, .what = what, .threads = b->threads,
                       .t = bench_time(b, b->threads, weights_body, &c), .per = rows[i], .scale = 1e3, .unit = "ms per row"};
        r.rate = (few ? (double)bytes : per_row * rows[i]) / r.t.min * 1e-9;
        r.rate_unit = few ? "GB/s" : "Gop/s";
        r.of = few ? b->read_gbs : b->peak_gops[m->be->math == MATH_FAST] * b->threads;
        bench_add(b, &r);
    }
    e = bench_weights(b);
done:
    mem_free(x), mem_free(c.a.q), mem_free(c.y);
    return e;
}

/* ---- the pool ---- */
enum { N_PAGES = 20000 };
typedef struct pool_case {
    pool *p;
    page_ref page[N_PAGES];
    size_t n_moved;
} pool_case;
static void moved(void *arg, page_ref from, page_ref to) { ((pool_case *)arg)->n_moved++; }

static err pool_round(pool_case *c, double *alloc, double *trim) {
    double start = bench_now(1);
    TRY(pool_alloc_n(c->p, N_PAGES, c->page));
    for (int i = 0; i < N_PAGES; i++)
        if (i % 4) pool_free(c->p, c->page[i]); /* a quarter stays, spread over all extents */
    *alloc = bench_now(1) - start;
    start = bench_now(1);
    c->n_moved = 0;
    pool_trim(c->p, moved, c);
    *trim = bench_now(1) - start;
    return OK;
}

err bench_pool(bench *b) {
    double alloc[BENCH_MAX_REPEATS], trim[BENCH_MAX_REPEATS];
    pool_case *c;
    TRY(mem_alloc(MEM_OTHER, sizeof *c, &c));
    err e = OK;
    for (int i = 0; e == OK && i < b->o->repeats; i++) {
        e = pool_create(PAGE_BYTES, 0, &c->p);
        if (e == OK) e = pool_round(c, &alloc[i], &trim[i]);
        if (c->p) pool_destroy(c->p);
        c->p = NULL;
    }
    if (e == OK) {
        bench_row r = {.section = "pool", .isa = "-", .what = "pages taken, 3 of 4 given back", .threads = 1,
                       .t = bench_of_samples(alloc, b->o->repeats), .per = 1.75 * N_PAGES, .scale = 1e9, .unit = "ns per page",
                       .rate_unit = "10^6 pages/s"};
        r.rate = r.per / r.t.min * 1e-6;
        bench_add(b, &r);
        char what[64];
        snprintf(what, sizeof what, "compaction, %zu pages moved", c->n_moved);
        r.what = what;
        r.t = bench_of_samples(trim, b->o->repeats);
        r.per = 1, r.scale = 1e3, r.unit = "ms in all";
        r.rate = (double)c->n_moved * PAGE_BYTES / r.t.min * 1e-9;
        r.rate_unit = "GB/s moved";
        bench_add(b, &r);
    }
    mem_free(c);
    return e;
}
