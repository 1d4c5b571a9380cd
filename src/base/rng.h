/* Counter-based random numbers (Philox 4x32-10, Salmon et al., SC'11): a value depends on (seed, stream, index) only,
 * so results never depend on threads or on the order of calls. */
#ifndef KVLAB_BASE_RNG_H
#define KVLAB_BASE_RNG_H
#include <stdint.h>

typedef struct rng {
    uint64_t seed, stream, index; /* index = values drawn so far */
} rng;

uint64_t rng_at(uint64_t seed, uint64_t stream, uint64_t index); /* 64 random bits, pure */
static inline rng rng_make(uint64_t seed, uint64_t stream) { return (rng){seed, stream, 0}; }
uint64_t rng_u64(rng *r);
uint32_t rng_below(rng *r, uint32_t n); /* uniform in 0..n-1, n >= 1, unbiased */
double rng_uniform(rng *r);             /* [0, 1), 53 bits */
float rng_normal(rng *r);               /* mean 0, variance 1 */
#endif
