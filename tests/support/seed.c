#include "tests/support/seed.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t seed = 1;

void seed_begin(int argc, char **argv) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (argc > 1 && strcmp(argv[1], "random") == 0) seed = ((uint64_t)t.tv_sec * 1000000007u + (uint64_t)t.tv_nsec) % 1000000000;
    else if (argc > 1) seed = strtoull(argv[1], NULL, 0);
}

uint64_t seed_get(void) {
    return seed;
}

int seed_end(int n_failed) {
    if (n_failed) fprintf(stderr, "seed %" PRIu64 " (give it as the first argument to repeat this run)\n", seed);
    return n_failed;
}
