#include "tests/support/fuzz.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#include "base/clock.h"
#include "base/err.h"

uint64_t fuzz_seed = 1, fuzz_iteration;
static const char *program = "";
static void (*show_more)(void);
static double end;
static uint64_t n_begun;

static void report(void) {
    fprintf(stderr, "%s: seed %" PRIu64 ", iteration %" PRIu64 "\n", program, fuzz_seed, fuzz_iteration);
    if (show_more) show_more();
}

static void on_crash(int sig) {
    report();
    signal(sig, SIG_DFL);
    raise(sig);
}

void fuzz_begin(const char *name, int argc, char **argv, void (*more)(void)) {
    static const int crashes[] = {SIGSEGV, SIGABRT, SIGFPE, SIGBUS, SIGILL, SIGTERM}; /* SIGTERM: `timeout`, when an iteration hangs */
    program = name;
    show_more = more;
    end = clock_now() + (argc > 1 ? strtod(argv[1], NULL) : 5);
    fuzz_seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)(clock_wall() * 1e6);
    fuzz_iteration = argc > 3 ? strtoull(argv[3], NULL, 0) : 0;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_set_death_callback(report);
#endif
    for (size_t i = 0; i < sizeof crashes / sizeof *crashes; i++) signal(crashes[i], on_crash);
}

bool fuzz_next(void) {
    if (n_begun && clock_now() >= end) return false;
    fuzz_iteration += n_begun > 0;
    n_begun++;
    return true;
}

uint64_t fuzz_count(void) { return n_begun; }

void fuzz_check(bool ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "%s: %s (%s)\n", program, what, err_text());
    report();
    exit(1);
}
