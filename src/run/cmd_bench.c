/* kvlab bench: sections one after the other, each beside probes of the machine taken in the same minute. */
#define _DEFAULT_SOURCE /* madvise, getloadavg */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "run/bench.h"
#include "run/jsonx.h"
#include "run/provenance.h"

static const size_t large_set = (size_t)256 << 20, cached_set = (size_t)4 << 20;

/* ---- time ---- */
static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
bench_times bench_of_samples(double *seconds, int n) {
    qsort(seconds, (size_t)n, sizeof *seconds, by_size);
    return (bench_times){seconds[0], n % 2 ? seconds[n / 2] : (seconds[n / 2 - 1] + seconds[n / 2]) / 2};
}
double bench_now(int threads) {
    if (threads > 1) return clock_now();
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
bench_times bench_time(const bench *b, int threads, void (*body)(const par *p, void *arg), void *arg) {
    double s[BENCH_MAX_REPEATS];
    par_run(threads, body, arg); /* page tables, caches and the clock of the CPU warm */
    for (int i = 0; i < b->o->repeats; i++) {
        double start = bench_now(threads);
        par_run(threads, body, arg);
        s[i] = bench_now(threads) - start;
    }
    return bench_of_samples(s, b->o->repeats);
}

typedef struct reading {
    const uint64_t *data;
    size_t n;
    volatile uint64_t sink;
} reading;
static void read_body(const par *p, void *arg) {
    reading *r = arg;
    ptrdiff_t lo, hi;
    par_range(p, (ptrdiff_t)(r->n / 8), &lo, &hi);
    uint64_t s[8] = {0};
    for (ptrdiff_t i = lo; i < hi; i++)
        for (int l = 0; l < 8; l++) s[l] ^= r->data[i * 8 + l];
    for (int l = 0; l < 8; l++) r->sink += s[l];
}
double bench_read_gbs(const bench *b, int threads, const uint64_t *data, size_t bytes) {
    reading r = {data, bytes / sizeof *data, 0};
    return (double)bytes / bench_time(b, threads, read_body, &r).min * 1e-9;
}

/* ---- rows ---- */
void bench_add(const bench *b, const bench_row *r) {
    double min = r->t.min / r->per * r->scale, median = r->t.median / r->per * r->scale;
    if (!b->rows) {
        printf("%-9s %-11s %d  %-34s", r->section, r->isa, r->threads, r->what);
        if (r->unit) printf(" %10.3f %10.3f %-26s", min, median, r->unit);
        else printf(" %48s", "");
        printf(" %9.1f %s", r->rate, r->rate_unit);
        if (r->of > 0) printf(" = %.0f %% of %.1f", 100 * r->rate / r->of, r->of);
        putchar('\n');
        fflush(stdout);
        return;
    }
    json_t *row = json_pack("{s:s,s:s,s:i,s:s,s:f,s:s}", "section", r->section, "isa", r->isa, "threads", r->threads, "what", r->what,
                            "rate", r->rate, "rate_unit", r->rate_unit);
    if (r->unit) {
        json_object_set_new(row, "min", jsonx_number(min));
        json_object_set_new(row, "median", jsonx_number(median));
        json_object_set_new(row, "unit", json_string(r->unit));
    }
    if (r->of > 0) json_object_set_new(row, "of", jsonx_number(r->of));
    json_array_append_new(b->rows, row);
}

static void add_ceiling(const bench *b, const char *what, int threads, double rate, const char *unit) {
    bench_add(b, &(bench_row){.section = "machine", .isa = "-", .what = what, .threads = threads, .per = 1, .rate = rate, .rate_unit = unit});
}

/* ---- the machine ---- */
static err machine(bench *b) {
    uint64_t *data = aligned_alloc((size_t)2 << 20, large_set); /* 2 MiB pages, as the pool's */
    if (!data) return ERR(ERR_NOMEM, "no %zu bytes for the read probe", large_set);
    (void)madvise(data, large_set, MADV_HUGEPAGE); /* a hint */
    memset(data, 1, large_set);
    b->read_gbs = bench_read_gbs(b, b->threads, data, large_set);
    add_ceiling(b, "read, 256 MiB", b->threads, b->read_gbs, "GB/s");
    add_ceiling(b, "read, 4 MiB", b->threads, bench_read_gbs(b, b->threads, data, cached_set), "GB/s");
    free(data);
    backend_peak p[8];
    for (int i = 0, n = backend_peaks(p, 8); i < n; i++) {
        add_ceiling(b, p[i].name, 1, p[i].gops, "Gop/s");
        if (strncmp(p[i].name, "f32", 3) == 0) b->peak_gops[0] = p[i].gops; /* the widest comes last */
        if (strncmp(p[i].name, "int8", 4) == 0) b->peak_gops[1] = p[i].gops;
    }
    return OK;
}

static void print_head(const bench *b) {
    double load[3] = {0};
    if (getloadavg(load, 3) < 1) load[0] = -1;
    char *cpu = machine_cpu_model();
    printf("kvlab %s, commit %s%s; %s, %d CPUs; model %s, %s math; load average %.2f\n", build_version(), build_commit(),
           build_dirty() ? " with changes" : "", cpu, par_n_cpus(), b->s.g.model, b->s.g.math == MATH_FAST ? "fast" : "exact", load[0]);
    printf("%-9s %-11s %s  %-34s %10s %10s %-26s %9s\n", "section", "isa", "t", "what", "min", "median", "", "rate");
    mem_free(cpu);
}

static err print_json(const bench *b, double load_before) {
    double load[3] = {0};
    if (getloadavg(load, 3) < 1) load[0] = -1;
    json_t *m = NULL;
    TRY(provenance_machine(false, &m));
    json_t *root = json_pack("{s:s,s:s,s:b,s:o,s:o,s:s,s:i,s:f,s:f,s:O}", "version", build_version(), "commit", build_commit(), "dirty",
                             build_dirty(), "machine", m, "model", jsonx_text(b->s.g.model), "math",
                             b->s.g.math == MATH_FAST ? "fast" : "exact", "repeats", b->o->repeats, "load_before", load_before,
                             "load_after", load[0], "rows", b->rows);
    char *text = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(root);
    if (!text) return ERR(ERR_NOMEM, "out of memory: the measurements cannot be encoded");
    puts(text);
    free(text);
    return OK;
}

/* ---- what was asked for ---- */
static const struct section {
    const char *name;
    err (*run)(bench *b);
} sections[] = {{"machine", machine},    {"attention", bench_attention}, {"linear", bench_linear}, {"prefill", bench_prefill},
                {"decode", bench_decode}, {"batch", bench_batch},         {"pool", bench_pool}, {"compact", bench_compact},
                {"memory", bench_memory}, {"policies", bench_policies}};
enum { N_SECTIONS = sizeof sections / sizeof *sections };

static err section_find(const char *name) {
    for (int i = 0; i < N_SECTIONS; i++)
        if (strcmp(sections[i].name, name) == 0) return OK;
    return ERR(ERR_USAGE, "there is no section \"%s\"; sections are machine, attention, linear, prefill, decode, batch, pool, compact, memory, policies", name);
}
static bool asked(const options *o, const char *name) {
    if (strcmp(name, "machine") == 0) return true; /* ceilings belong to every measurement */
    if (o->n_args == 0) return strcmp(name, "policies") != 0; /* which takes minutes */
    for (int i = 0; i < o->n_args; i++)
        if (strcmp(o->args[i], name) == 0) return true;
    return false;
}

/* Kernels need no model of that context; whatever runs the engine does. */
static int longest_depth(const bench *b) {
    enum { LONGEST = 1 << 20 };
    for (int i = 0; i < b->o->n_args; i++)
        if (strcmp(b->o->args[i], "attention") && strcmp(b->o->args[i], "machine")) return engine_context(b->s.e);
    return b->o->n_args ? LONGEST : engine_context(b->s.e);
}
static err parse_depths(bench *b, const char *text) {
    int most = longest_depth(b);
    for (const char *at = text; b->n_depths < BENCH_MAX_LIST; at++) {
        char *end;
        long n = strtol(at, &end, 10);
        if (end == at || n < 1 || n > most)
            return ERR(ERR_USAGE, "--depths takes numbers of tokens from 1 to %d, not \"%s\" (the context of the model is %d; attention alone takes more)", most,
                       text, engine_context(b->s.e));
        b->depth[b->n_depths++] = (int)n;
        if (!*end) return OK;
        if (*end != ',') return ERR(ERR_USAGE, "--depths takes numbers with commas between them, not \"%s\"", text);
        at = end;
    }
    return ERR(ERR_USAGE, "--depths takes at most %d numbers", BENCH_MAX_LIST);
}
/* What of 512, 1024 and 4096 fits a short context's half, or that half. */
static void default_depths(bench *b) {
    static const int lengths[] = {512, 1024, 4096};
    int most = engine_context(b->s.e) / 2;
    for (int i = 0; i < 3; i++)
        if (lengths[i] <= most) b->depth[b->n_depths++] = lengths[i];
    if (!b->n_depths) b->depth[b->n_depths++] = most > 0 ? most : 1;
}
static err parse_formats(bench *b, const char *text) {
    int head_dim = engine_model(b->s.e)->p.head_dim;
    while (*text) {
        size_t n = strcspn(text, ",");
        kv_format f;
        if (b->n_formats == BENCH_MAX_LIST) return ERR(ERR_USAGE, "--formats takes at most %d names", BENCH_MAX_LIST);
        char *name = mem_sprintf("%.*s", (int)n, text);
        b->format[b->n_formats++] = name;
        if (kv_format_parse(name, &f) != OK || kv_format_check(f, head_dim) != OK) {
            char *why = mem_strdup(err_text()); /* a mistake of the command line, whatever it is to the format */
            err e = ERR(ERR_USAGE, "--formats: %s", why);
            mem_free(why);
            return e;
        }
        if (f.k_channels) return ERR(ERR_USAGE, "--formats: %s needs a tail in another format; bench times formats alone", name);
        text += n + (text[n] == ',');
    }
    return b->n_formats ? OK : ERR(ERR_USAGE, "--formats is empty");
}

static err run(bench *b) {
    const options *o = b->o;
    if (o->depths) TRY(parse_depths(b, o->depths));
    else default_depths(b);
    TRY(parse_formats(b, o->formats ? o->formats : "f16,k8v8,k8v4,k4v4,k4v2"));
    double load[1] = {-1};
    (void)!getloadavg(load, 1);
    if (!b->rows) print_head(b);
    for (int i = 0; i < N_SECTIONS; i++)
        if (asked(o, sections[i].name)) TRY(sections[i].run(b));
    return b->rows ? print_json(b, load[0]) : OK;
}

err cmd_bench(const options *o) {
    bench b = {.o = o};
    for (int i = 0; i < o->n_args; i++) TRY(section_find(o->args[i]));
    TRY(session_open(o, &b.s));
    b.threads = engine_threads(b.s.e);
    if (o->json) b.rows = json_array();
    err e = run(&b);
    for (int i = 0; i < b.n_formats; i++) mem_free(b.format[i]);
    json_decref(b.rows);
    session_close(&b.s);
    return e;
}
