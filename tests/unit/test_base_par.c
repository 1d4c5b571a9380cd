/* Thread teams: every thread runs, barriers order, more threads than CPUs do not stall. */
#define _GNU_SOURCE /* cpu_set_t */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/par.h"

enum { MAX_THREADS = 16 };

static void mark(const par *p, void *arg) {
    atomic_int *seen = arg;
    atomic_fetch_add(&seen[p->ith], 1);
    if (p->ith == 0) atomic_store(&seen[MAX_THREADS], p->nth);
}

static void a_team_has_exactly_the_threads_asked_for(void **state) {
    for (int n = 1; n <= MAX_THREADS; n++) {
        atomic_int seen[MAX_THREADS + 1] = {0};
        par_run(n, mark, seen);
        assert_int_equal(seen[MAX_THREADS], n);
        for (int i = 0; i < MAX_THREADS; i++) assert_int_equal(seen[i], i < n);
    }
}

static void a_team_of_none_is_a_team_of_one(void **state) {
    atomic_int seen[MAX_THREADS + 1] = {0};
    par_run(0, mark, seen);
    assert_int_equal(seen[MAX_THREADS], 1);
}

typedef struct ring { uint64_t cell[2][MAX_THREADS]; int n_rounds; } ring;

/* Each round reads what both neighbours wrote in the round before: wrong if any barrier leaks. */
static void relax_ring(const par *p, void *arg) {
    ring *r = arg;
    for (int t = 0; t < r->n_rounds; t++) {
        uint64_t *now = r->cell[t & 1], *next = r->cell[~t & 1];
        next[p->ith] = now[(p->ith + 1) % p->nth] * 3 + now[(p->ith + p->nth - 1) % p->nth] + (uint64_t)t;
        par_barrier(p);
    }
}

static void check_ring(int n_threads, int n_rounds) {
    ring got = {.n_rounds = n_rounds}, want = {.n_rounds = n_rounds};
    for (int i = 0; i < n_threads; i++) got.cell[0][i] = want.cell[0][i] = (uint64_t)i * 77 + 1;
    par_run(n_threads, relax_ring, &got);
    for (int t = 0; t < n_rounds; t++)
        for (int i = 0; i < n_threads; i++)
            want.cell[~t & 1][i] = want.cell[t & 1][(i + 1) % n_threads] * 3 +
                                   want.cell[t & 1][(i + n_threads - 1) % n_threads] + (uint64_t)t;
    assert_memory_equal(&got, &want, sizeof got);
}

static void barriers_order_rounds_with_a_cpu_each(void **state) {
    check_ring(2, 20000);
}

static void barriers_order_rounds_with_more_threads_than_cpus(void **state) {
    check_ring(par_n_cpus() + 3 < MAX_THREADS ? par_n_cpus() + 3 : MAX_THREADS, 500);
}

static void wait_for_a_late_thread(const par *p, void *arg) {
    if (p->ith == 0) usleep(60000);
    par_barrier(p);
    par_barrier(p);
}

static double process_cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void a_long_wait_sleeps(void **state) {
    double wall = clock_now(), cpu = process_cpu_s();
    par_run(2, wait_for_a_late_thread, NULL);
    assert_true(clock_now() - wall >= 0.06);
    assert_true(process_cpu_s() - cpu < 0.03); /* spinning through it would take 0.06 */
}

/* Both threads on CPU 0 of those allowed: every wait is in vain until the other runs. */
typedef struct one_cpu { cpu_set_t cpu; int n_rounds; } one_cpu;
static void wait_on_one_cpu(const par *p, void *arg) {
    const one_cpu *a = arg;
    cpu_set_t before;
    if (sched_getaffinity(0, sizeof before, &before) || sched_setaffinity(0, sizeof a->cpu, &a->cpu)) return;
    for (int i = 0; i < a->n_rounds; i++) par_barrier(p);
    sched_setaffinity(0, sizeof before, &before);
}

static void threads_on_one_cpu_stop_spinning(void **state) {
    one_cpu a = {.n_rounds = 4000};
    cpu_set_t all;
    if (par_n_cpus() < 2 || sched_getaffinity(0, sizeof all, &all)) skip();
    int cpu = 0;
    while (!CPU_ISSET(cpu, &all)) cpu++;
    CPU_ZERO(&a.cpu);
    CPU_SET(cpu, &a.cpu);
    double cpu_s = process_cpu_s();
    par_run(2, wait_on_one_cpu, &a);
    cpu_s = process_cpu_s() - cpu_s;
    double spin_s = process_cpu_s();
    for (volatile int i = 0; i < 4000 * 100; i++) __builtin_ia32_pause();
    spin_s = (process_cpu_s() - spin_s) / 100; /* of one wait that spins to its end */
    assert_true(cpu_s < 0.5 * a.n_rounds * spin_s);
    check_ring(2, 20000);
}

static void shares_cover_the_range_and_differ_by_one(void **state) {
    for (int nth = 1; nth < 9; nth++)
        for (ptrdiff_t n = 0; n < 40; n++) {
            ptrdiff_t next = 0, least = 1000, most = 0;
            for (int i = 0; i < nth; i++) {
                par p = {i, nth, NULL};
                ptrdiff_t lo, hi;
                par_range(&p, n, &lo, &hi);
                assert_int_equal(lo, next);
                next = hi;
                if (hi - lo < least) least = hi - lo;
                if (hi - lo > most) most = hi - lo;
            }
            assert_int_equal(next, n);
            assert_true(most - least <= 1);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_team_has_exactly_the_threads_asked_for),
        cmocka_unit_test(a_team_of_none_is_a_team_of_one),
        cmocka_unit_test(barriers_order_rounds_with_a_cpu_each),
        cmocka_unit_test(barriers_order_rounds_with_more_threads_than_cpus),
        cmocka_unit_test(a_long_wait_sleeps),
        cmocka_unit_test(threads_on_one_cpu_stop_spinning),
        cmocka_unit_test(shares_cover_the_range_and_differ_by_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
