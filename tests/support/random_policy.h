/* Random compositions of policies: any score with any quota, select, tier, trigger, protection and budget. Every value by itself is valid;
 * together they may contradict each other. */
#ifndef KVLAB_TESTS_SUPPORT_RANDOM_POLICY_H
#define KVLAB_TESTS_SUPPORT_RANDOM_POLICY_H
#include "base/rng.h"

enum { RANDOM_POLICY_BYTES = 1600 };
void random_policy(rng *r, char yaml[RANDOM_POLICY_BYTES]);
/* How many of the things that yaml names, or leaves to their defaults, does `message` name? */
int random_policy_sides(const char *message);
#endif
