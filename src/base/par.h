/* SPMD thread teams: one OpenMP region per step, barriers inside it that spin for a bounded time and then sleep.
 *
 *   par_run(n_threads, body, arg);                     // every thread runs body(p, arg)
 *   par_range(p, n, &lo, &hi);  par_barrier(p);        // inside body
 *
 * Ops of a backend are called by all threads of the team with the same arguments and split the work themselves;
 * they return without a trailing barrier: the caller places it where the next op reads what this one wrote. */
#ifndef KVLAB_BASE_PAR_H
#define KVLAB_BASE_PAR_H
#include <stddef.h>

typedef struct par_team par_team;
typedef struct par {
    int ith, nth;   /* this thread, threads in the team */
    par_team *team; /* NULL for a team of one */
} par;

static const par par_single = {0, 1, NULL};

/* First in main: runs the program anew, once, with libgomp told to spin no longer between regions than barriers do here (GOMP_SPINCOUNT), unless
 * the environment says how long already, a loader was told to run it or /proc is missing: then it goes on as it is. Left alone, its threads spin for milliseconds, which a thread that shares their CPU waits for. */
void par_begin(char **argv);
void par_run(int n_threads, void (*body)(const par *p, void *arg), void *arg);
void par_barrier(const par *p);
/* Contiguous share [*lo, *hi) of n units for this thread; shares differ by at most one unit. */
static inline void par_range(const par *p, ptrdiff_t n, ptrdiff_t *lo, ptrdiff_t *hi) {
    *lo = n * p->ith / p->nth;
    *hi = n * (p->ith + 1) / p->nth;
}
int par_n_cpus(void); /* CPUs this process may run on (affinity), at least 1 */
#endif
