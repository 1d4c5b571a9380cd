/* kvlab bench: what is measured, and how a measurement becomes a row. */
#ifndef KVLAB_RUN_BENCH_H
#define KVLAB_RUN_BENCH_H
#include <jansson.h>
#include "run/session.h"

enum { BENCH_MAX_LIST = 16, BENCH_MAX_REPEATS = 1000 };

typedef struct bench {
    const options *o;
    session s;
    int threads;
    int depth[BENCH_MAX_LIST], n_depths;
    char *format[BENCH_MAX_LIST];
    int n_formats;
    double read_gbs, peak_gops[2]; /* of this run's threads, large set; peaks of one thread: f32 multiply-adds, int8 dot products */
    json_t *rows;                  /* NULL: a table is printed as it comes */
} bench;

typedef struct bench_times { /* seconds, of o->repeats runs */
    double min, median;
} bench_times;

/* One row. `per` is what the time is divided by and `unit` what comes out ("ns per (item, KV head)", scale 1e9); `rate` with its unit is
 * computed from the shortest time, `of` is the ceiling it is compared with (0: none). */
typedef struct bench_row {
    const char *section, *isa;
    const char *what; /* "k8v4, 4096 items" */
    int threads;
    bench_times t;
    double per, scale;
    const char *unit;
    double rate;
    const char *rate_unit;
    double of;
} bench_row;
void bench_add(const bench *b, const bench_row *r);

/* CPU time of the process for one thread, so that other processes disturb less; wall time for more. */
double bench_now(int threads);
bench_times bench_time(const bench *b, int threads, void (*body)(const par *p, void *arg), void *arg);
bench_times bench_of_samples(double *seconds, int n); /* sorts */
double bench_read_gbs(const bench *b, int threads, const uint64_t *data, size_t bytes);

MUST err bench_attention(bench *b);
MUST err bench_linear(bench *b);  /* passes over the model's weights, then each weight type: */
MUST err bench_weights(bench *b);
MUST err bench_pool(bench *b);
MUST err bench_compact(bench *b);
MUST err bench_prefill(bench *b);
MUST err bench_decode(bench *b);
MUST err bench_batch(bench *b);
MUST err bench_memory(bench *b);
MUST err bench_policies(bench *b); /* only when asked for by name: minutes */
#endif
