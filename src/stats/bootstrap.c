/* Percentile bootstrap over records (Efron & Tibshirani 1993, chapter 13).
 *
 * Resample r draws record indices from (seed, r) alone, so any two columns of the same length are resampled together: a
 * policy, its reference and their difference share their records, and the interval of a difference is paired. */
#include <math.h>
#include <stdlib.h>
#include "base/mem.h"
#include "base/rng.h"
#include "stats/stats.h"

/* Two 32-bit draws per random word, mapped to 0..n-1 by multiplication; the bias, n / 2^32, is far below the resampling
 * noise. */
static double resample_mean(const double *x, int n, uint64_t seed, int r) {
    double sum = 0;
    for (int i = 0; i < n; i += 2) {
        uint64_t word = rng_at(seed, (uint64_t)r, (uint64_t)i / 2);
        sum += x[((word & 0xffffffffu) * (uint64_t)n) >> 32];
        if (i + 1 < n) sum += x[((word >> 32) * (uint64_t)n) >> 32];
    }
    return sum / n;
}

/* Means of all resamples in a new block; NULL when memory is short. */
static double *resample_means(const double *x, int n, stats_conf c) {
    double *means = NULL;
    if (mem_alloc(MEM_OTHER, (size_t)c.n_resamples * sizeof *means, &means)) return NULL;
    for (int r = 0; r < c.n_resamples; r++) means[r] = resample_mean(x, n, c.seed, r);
    return means;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double sorted_quantile(const double *x, int n, double q) {
    double at = q * (n - 1);
    int i = (int)at;
    if (i >= n - 1) return x[n - 1];
    return x[i] + (at - i) * (x[i + 1] - x[i]);
}

static interval bootstrap(const double *x, int n, stats_conf c) {
    interval v = {NAN, NAN, NAN, n};
    if (n == 0) return v;
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    v.mean = v.lo = v.hi = sum / n;
    if (n == 1) return v;
    v.lo = v.hi = NAN;
    double *means = c.n_resamples > 0 ? resample_means(x, n, c) : NULL;
    if (!means) return v;
    qsort(means, (size_t)c.n_resamples, sizeof *means, compare_doubles);
    v.lo = sorted_quantile(means, c.n_resamples, (1 - c.level) / 2);
    v.hi = sorted_quantile(means, c.n_resamples, (1 + c.level) / 2);
    mem_free(means);
    return v;
}

/* Present values of a (minus b when given) in a new block of *n entries; NULL when memory is short. */
static double *present(const double *a, const double *b, int n_all, int *n) {
    double *x = NULL;
    *n = 0;
    if (mem_alloc(MEM_OTHER, (size_t)(n_all > 0 ? n_all : 0) * sizeof *x, &x)) return NULL;
    for (int i = 0; i < n_all; i++) {
        double d = b ? a[i] - b[i] : a[i];
        if (!isnan(d)) x[(*n)++] = d;
    }
    return x;
}

interval stats_mean(const double *x, int n, stats_conf c) {
    return stats_paired(x, NULL, n, c);
}

interval stats_paired(const double *a, const double *b, int n, stats_conf c) {
    int m;
    double *x = present(a, b, n, &m);
    interval v = x ? bootstrap(x, m, c) : (interval){NAN, NAN, NAN, 0};
    mem_free(x);
    return v;
}

/* Twice the smaller tail of the bootstrap distribution around 0; (k + 1) / (B + 1) keeps it above 0 (Davison & Hinkley
 * 1997, 4.2). */
double stats_paired_p(const double *a, const double *b, int n, stats_conf c) {
    int m;
    double p = NAN, *x = present(a, b, n, &m), *means = NULL;
    if (x && m >= 2 && c.n_resamples > 0) means = resample_means(x, m, c);
    if (means) {
        int below = 0, above = 0;
        for (int r = 0; r < c.n_resamples; r++) {
            below += means[r] <= 0;
            above += means[r] >= 0;
        }
        p = 2.0 * ((below < above ? below : above) + 1) / (c.n_resamples + 1);
        if (p > 1) p = 1;
    }
    mem_free(means);
    mem_free(x);
    return p;
}

double stats_quantile(const double *x, int n, double q) {
    int m;
    double *s = present(x, NULL, n, &m), v = NAN;
    if (s && m > 0 && q >= 0 && q <= 1) {
        qsort(s, (size_t)m, sizeof *s, compare_doubles);
        v = sorted_quantile(s, m, q);
    }
    mem_free(s);
    return v;
}
