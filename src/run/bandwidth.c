/* How fast this machine reads memory: the ceiling that decode speeds are compared with. */
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/par.h"
#include "run/provenance.h"

enum { PROBE_BYTES = 256 << 20, PROBE_ROUNDS = 4, MAX_THREADS = 256 };

typedef struct share {
    const uint64_t *p;
    size_t n;
    uint64_t sum;
} share;

/* Four chains of additions hide their latency: the loads are what is waited for. */
static void *read_share(void *arg) {
    share *s = arg;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i + 4 <= s->n; i += 4) {
        a += s->p[i];
        b += s->p[i + 1];
        c += s->p[i + 2];
        d += s->p[i + 3];
    }
    s->sum = a + b + c + d;
    return NULL;
}

static double read_once(const uint64_t *p, size_t n, int n_threads, uint64_t *sum) {
    pthread_t id[MAX_THREADS];
    share s[MAX_THREADS];
    bool started[MAX_THREADS] = {false};
    double began = clock_now();
    for (int t = 0; t < n_threads; t++) {
        size_t lo = n * (size_t)t / (size_t)n_threads, hi = n * (size_t)(t + 1) / (size_t)n_threads;
        s[t] = (share){p + lo, hi - lo, 0};
        if (t > 0) started[t] = pthread_create(&id[t], NULL, read_share, &s[t]) == 0;
    }
    read_share(&s[0]);
    for (int t = 1; t < n_threads; t++) {
        if (started[t])
            pthread_join(id[t], NULL);
        else
            read_share(&s[t]);
    }
    double seconds = clock_now() - began;
    for (int t = 0; t < n_threads; t++) *sum += s[t].sum;
    return seconds;
}

err bandwidth_probe(bandwidth *out) {
    uint64_t *p;
    size_t n = PROBE_BYTES / sizeof *p;
    TRY(mem_alloc(MEM_SCRATCH, PROBE_BYTES, &p));
    memset(p, 1, PROBE_BYTES);
    int cpus = par_n_cpus(), n_threads[2] = {1, cpus < MAX_THREADS ? cpus : MAX_THREADS};
    double best[2] = {0, 0};
    uint64_t sum = 0;
    for (int k = 0; k < 2; k++)
        for (int round = 0; round < PROBE_ROUNDS; round++) {
            double s = read_once(p, n, n_threads[k], &sum);
            double gbs = s > 0 ? PROBE_BYTES / s * 1e-9 : 0;
            if (gbs > best[k]) best[k] = gbs;
        }
    mem_free(p);
    *out = (bandwidth){best[0], best[1], n_threads[1]};
    return sum ? OK
               : ERR(ERR_VERIFY,
                     "the bandwidth probe read zeros where it had written ones"); /* and keeps the loads alive */
}
