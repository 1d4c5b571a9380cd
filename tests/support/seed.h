/* Seeds of random tests: 1, or argv[1], or a fresh one if argv[1] is `random`; printed when the program failed, so that it can be run
 * again. `make test` uses the fixed one: what it says of a change does not depend on luck.
 *
 *   int main(int argc, char **argv) {
 *       seed_begin(argc, argv);
 *       return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
 *   }
 *   ... rng r = rng_make(seed_get(), 3); */
#ifndef KVLAB_TESTS_SUPPORT_SEED_H
#define KVLAB_TESTS_SUPPORT_SEED_H
#include <stdint.h>
void seed_begin(int argc, char **argv);
uint64_t seed_get(void);
int seed_end(int n_failed); /* returns n_failed */
#endif
