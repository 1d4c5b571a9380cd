/* What every fuzzer does around its loop: time and seed from the command line, and whatever ends the program - a failed check, a signal, a
 * sanitizer - prints what repeats it.
 *
 *   int main(int argc, char **argv) {
 *       fuzz_begin("fuzz_yaml", argc, argv, show_input);     fuzz_yaml [seconds] [seed] [first iteration]
 *       while (fuzz_next()) {
 *           rng r = rng_make(fuzz_seed, fuzz_iteration);      an iteration can be repeated alone
 *           ... fuzz_check(condition, "what does not hold"); */
#ifndef KVLAB_TESTS_SUPPORT_FUZZ_H
#define KVLAB_TESTS_SUPPORT_FUZZ_H
#include <stdbool.h>
#include <stdint.h>

extern uint64_t fuzz_seed, fuzz_iteration;

/* 5 seconds, a seed from the clock and iteration 0 unless given. `more` (may be NULL) adds the input at hand to what is printed. */
void fuzz_begin(const char *name, int argc, char **argv, void (*more)(void));
bool fuzz_next(void); /* the next iteration; false when the time is over. The first one always comes */
uint64_t fuzz_count(void); /* iterations done */
/* Ends the program with err_text() and what repeats the iteration. */
void fuzz_check(bool ok, const char *what);
#endif
