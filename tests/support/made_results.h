/* Made-up results of a sweep, as input for tests of what reads results: nothing in them was measured. Random numbers
 * with the shape of a real sweep: `full`, quantised and evicting points, a task with series, one with scores, a timed
 * one, failed and missing units, NaN. */
#ifndef KVLAB_TESTS_MADE_RESULTS_H
#define KVLAB_TESTS_MADE_RESULTS_H
#include "run/results.h"

/* `crowded`: of more than twenty policies. */
MUST err made_results(uint64_t seed, bool crowded, const char *dir, results **out);
/* The same as a results directory: journal, resolved.yaml, sweep.yaml, environment.json. */
MUST err made_results_write(const results *r, const char *dir);
#endif
