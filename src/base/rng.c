#include "base/rng.h"

#include <math.h>

/* One Philox 4x32-10 block with counter (index, stream) and key seed; its first two words. */
uint64_t rng_at(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (uint64_t)c1 << 32 | c0;
}

uint64_t rng_u64(rng *r) {
    return rng_at(r->seed, r->stream, r->index++);
}

/* Lemire's multiply-shift with rejection of the short interval. */
uint32_t rng_below(rng *r, uint32_t n) {
    uint64_t m = (rng_u64(r) >> 32) * n;
    if ((uint32_t)m < n) {
        uint32_t reject_below = -n % n;
        while ((uint32_t)m < reject_below) m = (rng_u64(r) >> 32) * n;
    }
    return (uint32_t)(m >> 32);
}

double rng_uniform(rng *r) {
    return (double)(rng_u64(r) >> 11) * 0x1p-53;
}

/* Box-Muller from one draw: 40 bits of radius, 24 of angle. */
float rng_normal(rng *r) {
    uint64_t u = rng_u64(r);
    double radius = sqrt(-2.0 * log(((double)(u >> 24) + 1) * 0x1p-40));
    return (float)(radius * cos((double)(u & 0xffffff) * (2 * M_PI * 0x1p-24)));
}
