/* Fidelity of a predicted distribution against the full cache's, over the whole vocabulary in f64.
 *
 * The vocabulary is walked in blocks of LANES entries; lane j sums entries j, j + LANES, ... and the lanes are added in
 * order, so the result depends on the two rows alone and compilers turn a block into vector code without being allowed
 * to reorder anything. */
#include <math.h>
#include <string.h>
#include "stats/stats.h"

enum { LANES = 8, TOP = 5 };

/* exp(x) for x <= 0 within about 1 ulp: x = n ln 2 + r, |r| <= ln 2 / 2, Taylor to r^13, scaled by 2^n through the
 * exponent bits. Below -708 (where 2^n would be subnormal) it is 0: such an entry adds less than 1e-307 to a sum that
 * is at least 1. */
static inline double exp_nonpositive(double x) {
    const double log2e = 1.4426950408889634, ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10;
    const double round_bias = 6755399441055744.0; /* 1.5 * 2^52: adding it rounds to an integer held in the low bits */
    double clamped = x < -708.0 ? -708.0 : x;
    double biased = clamped * log2e + round_bias;
    double n = biased - round_bias;
    double r = (clamped - n * ln2_hi) - n * ln2_lo;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    uint64_t bits, scale_bits;
    memcpy(&bits, &biased, sizeof bits);
    scale_bits = (bits + 1023) << 52;
    double scale;
    memcpy(&scale, &scale_bits, sizeof scale);
    return x < -708.0 ? 0.0 : p * scale;
}

static float max_of(const float *x, int n) {
    float lane[LANES], best;
    for (int j = 0; j < LANES; j++) lane[j] = -INFINITY;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    best = lane[0];
    for (int j = 1; j < LANES; j++) best = lane[j] > best ? lane[j] : best;
    for (; i < n; i++) best = x[i] > best ? x[i] : best;
    return best;
}

typedef struct sums {
    double zp, zq, cross;
} sums;

/* zp = sum e^(p - max p), zq likewise, cross = sum e^(p - max p) ((p - max p) - (q - max q)). */
static inline __attribute__((always_inline)) sums sums_body(const float *p, const float *q, int n, double max_p,
                                                            double max_q) {
    double zp[LANES] = {0}, zq[LANES] = {0}, cross[LANES] = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        double wp[LANES], wq[LANES], d[LANES];
        for (int j = 0; j < LANES; j++) {
            double a = p[i + j] - max_p, b = q[i + j] - max_q;
            d[j] = a - b;
            wp[j] = exp_nonpositive(a);
            wq[j] = exp_nonpositive(b);
        }
        for (int j = 0; j < LANES; j++) {
            zp[j] += wp[j];
            zq[j] += wq[j];
            cross[j] += wp[j] * d[j];
        }
    }
    for (int j = 0; i < n; i++, j++) {
        double a = p[i] - max_p, b = q[i] - max_q, w = exp_nonpositive(a);
        zp[j] += w;
        zq[j] += exp_nonpositive(b);
        cross[j] += w * (a - b);
    }
    sums s = {0, 0, 0};
    for (int j = 0; j < LANES; j++) {
        s.zp += zp[j];
        s.zq += zq[j];
        s.cross += cross[j];
    }
    return s;
}

#if defined(__x86_64__)
/* The same operations in the same order on wider registers: the bits are equal on every machine. */
__attribute__((target("avx2"))) static sums sums_avx2(const float *p, const float *q, int n, double max_p,
                                                      double max_q) {
    return sums_body(p, q, n, max_p, max_q);
}
__attribute__((target("avx512f,avx512dq"))) static sums sums_avx512(const float *p, const float *q, int n, double max_p,
                                                                    double max_q) {
    return sums_body(p, q, n, max_p, max_q);
}
#endif

static sums sums_of(const float *p, const float *q, int n, double max_p, double max_q) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return sums_avx512(p, q, n, max_p, max_q);
    if (__builtin_cpu_supports("avx2")) return sums_avx2(p, q, n, max_p, max_q);
#endif
    return sums_body(p, q, n, max_p, max_q);
}

/* Ids of the TOP largest, largest first, lower id first among equals; *n entries when the vocabulary is smaller. */
static int top_of(const float *x, int n, int32_t *id) {
    float value[TOP];
    int have = 0;
    for (int i = 0; i < n; i++) {
        if (have == TOP && !(x[i] > value[TOP - 1])) continue;
        int at = have < TOP ? have++ : TOP - 1;
        for (; at > 0 && x[i] > value[at - 1]; at--) {
            value[at] = value[at - 1];
            id[at] = id[at - 1];
        }
        value[at] = x[i];
        id[at] = i;
    }
    return have;
}

void fidelity_of(const float *p, const float *q, int n, int32_t next, fidelity *out) {
    double max_p = max_of(p, n), max_q = max_of(q, n);
    sums s = sums_of(p, q, n, max_p, max_q);
    double log_zp = log(s.zp), log_zq = log(s.zq), kl = s.cross / s.zp - log_zp + log_zq;
    out->kl = kl < 0 ? 0 : kl; /* rounding only: KL is never negative; NaN stays */
    int32_t top_p[TOP], top_q[TOP];
    int k = top_of(p, n, top_p), common = 0;
    (void)top_of(q, n, top_q);
    for (int i = 0; i < k; i++)
        for (int j = 0; j < k; j++) common += top_p[i] == top_q[j];
    out->top1 = top_p[0] == top_q[0];
    out->top5 = (double)common / k;
    out->nll_p = next < 0 ? NAN : log_zp + max_p - p[next];
    out->nll_q = next < 0 ? NAN : log_zq + max_q - q[next];
}

double nll_of(const float *x, int n, int32_t next) {
    double m = max_of(x, n);
    return log(sums_of(x, x, n, m, m).zp) + m - x[next];
}

int32_t argmax_of(const float *x, int n) {
    float best = max_of(x, n);
    for (int32_t i = 0; i < n; i++)
        if (x[i] == best) return i;
    return 0; /* all NaN */
}
