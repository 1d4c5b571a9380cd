#define _GNU_SOURCE /* CPU_ALLOC */
#include "base/par.h"

#include <linux/futex.h>
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Spinning pays only while every thread has a CPU of its own; else the one waited for cannot run. That a team has CPUs enough does not say that
 * they are free: another process may push two of its threads to one. After CROWDED_AFTER barriers in a row where all who waited spun in vain, waits
 * spin as if CPUs were shared, but for one in PROBE_EVERY, which finds out whether that is over. */
enum { SPINS_OWN_CPU = 4000, SPINS_SHARED_CPU = 20, CROWDED_AFTER = 4, PROBE_EVERY = 64 };
static atomic_int n_vain;   /* waits in a row that spun SPINS_OWN_CPU in vain */
static atomic_uint n_short; /* waits that did not because of them */

struct par_team {
    _Alignas(64) atomic_int n_arrived;
    _Alignas(64) atomic_uint phase; /* counts finished barriers; also the futex word */
    atomic_int n_sleeping;
    int n_spins;
};

static inline void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

int par_n_cpus(void) {
    for (int n = 1024; n <= 1 << 20; n *= 2) { /* the kernel refuses sets smaller than its own */
        cpu_set_t *set = CPU_ALLOC((size_t)n);
        if (!set) return 1;
        size_t bytes = CPU_ALLOC_SIZE((size_t)n);
        int rc = sched_getaffinity(0, bytes, set), count = rc == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (count > 0) return count;
    }
    return 1;
}

void par_begin(char **argv) {
    char self[4096], count[16];
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return;
    self[n] = 0;
    const char *file = strrchr(self, '/');
    if (!file || strncmp(file + 1, "ld-", 3) == 0) return; /* a loader that was told to run the program */
    snprintf(count, sizeof count, "%d", SPINS_OWN_CPU);
    if (setenv("GOMP_SPINCOUNT", count, 1) == 0) execv(self, argv); /* libgomp reads it before main */
}

void par_run(int n_threads, void (*body)(const par *p, void *arg), void *arg) {
    if (n_threads <= 1) {
        body(&par_single, arg);
        return;
    }
    static atomic_int n_cpus; /* affinity of the process when it first ran a team */
    int cpus = atomic_load_explicit(&n_cpus, memory_order_relaxed);
    if (!cpus) atomic_store_explicit(&n_cpus, cpus = par_n_cpus(), memory_order_relaxed);

    par_team team = {.n_spins = n_threads <= cpus ? SPINS_OWN_CPU : SPINS_SHARED_CPU};
    omp_set_dynamic(0);
    #pragma omp parallel num_threads(n_threads)
    {
        /* OMP_THREAD_LIMIT may give fewer than asked for: the body and its barriers see the true number. */
        par p = {omp_get_thread_num(), omp_get_num_threads(), &team};
        body(p.nth == 1 ? &par_single : &p, arg);
    }
}

/* How long to spin at a barrier of nth threads. */
static int spins_now(const par_team *t, int nth) {
    if (t->n_spins != SPINS_OWN_CPU || atomic_load_explicit(&n_vain, memory_order_relaxed) < CROWDED_AFTER * (nth - 1)) return t->n_spins;
    return atomic_fetch_add_explicit(&n_short, 1, memory_order_relaxed) % PROBE_EVERY == PROBE_EVERY - 1 ? SPINS_OWN_CPU : SPINS_SHARED_CPU;
}

/* Has the phase passed while spinning? */
static bool spin(const par_team *t, unsigned phase, int n_spins) {
    for (int i = 0; i < n_spins; i++) {
        if (atomic_load_explicit(&t->phase, memory_order_acquire) != phase) return true;
        cpu_relax();
    }
    return false;
}

void par_barrier(const par *p) {
    if (p->nth == 1) return;
    par_team *t = p->team;
    unsigned phase = atomic_load_explicit(&t->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&t->n_arrived, 1, memory_order_acq_rel) == p->nth - 1) {
        atomic_store_explicit(&t->n_arrived, 0, memory_order_relaxed);
        atomic_fetch_add(&t->phase, 1);
        /* Either this sees a sleeper, or the sleeper's futex call sees the new phase: both are sequentially consistent. */
        if (atomic_load(&t->n_sleeping) > 0)
            syscall(SYS_futex, (void *)&t->phase, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
        return;
    }
    int n_spins = spins_now(t, p->nth);
    bool passed = spin(t, phase, n_spins);
    if (n_spins == SPINS_OWN_CPU && passed) atomic_store_explicit(&n_vain, 0, memory_order_relaxed);
    if (n_spins == SPINS_OWN_CPU && !passed) atomic_fetch_add_explicit(&n_vain, 1, memory_order_relaxed);
    if (passed) return;
    atomic_fetch_add(&t->n_sleeping, 1);
    while (atomic_load(&t->phase) == phase)
        syscall(SYS_futex, (void *)&t->phase, FUTEX_WAIT_PRIVATE, phase, NULL, NULL, 0);
    atomic_fetch_sub(&t->n_sleeping, 1);
}
