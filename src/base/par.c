#define _GNU_SOURCE /* CPU_ALLOC */
#include "base/par.h"

#include <linux/futex.h>
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Spinning pays only while every thread has a CPU of its own; else the one waited for cannot run. */
enum { SPINS_OWN_CPU = 4000, SPINS_SHARED_CPU = 20 };

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
    for (int i = 0; i < t->n_spins; i++) {
        if (atomic_load_explicit(&t->phase, memory_order_acquire) != phase) return;
        cpu_relax();
    }
    atomic_fetch_add(&t->n_sleeping, 1);
    while (atomic_load(&t->phase) == phase)
        syscall(SYS_futex, (void *)&t->phase, FUTEX_WAIT_PRIVATE, phase, NULL, NULL, 0);
    atomic_fetch_sub(&t->n_sleeping, 1);
}
