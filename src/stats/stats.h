/* Paired statistics over records: means with bootstrap intervals, differences between two policies on the same records, noise floor.
 * Percentile bootstrap (Efron & Tibshirani 1993, ch. 13), n_resamples resamples drawn from a seed; the same resampled record indices
 * serve every point of a sweep, so that differences are paired. */
#ifndef KVLAB_STATS_STATS_H
#define KVLAB_STATS_STATS_H
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include "base/err.h"

typedef struct interval { double mean, lo, hi; int n; } interval; /* n records used; NaN fields when n = 0; lo = hi = mean when n = 1 */
typedef struct stats_conf { int n_resamples; double level; uint64_t seed; } stats_conf; /* {10000, 0.95, 1} */

/* Records with NaN are left out. */
interval stats_mean(const double *x, int n, stats_conf c);
/* Mean of a[i] - b[i] over records where both are present. */
interval stats_paired(const double *a, const double *b, int n, stats_conf c);
typedef enum verdict { VERDICT_SAME /* "~": the interval holds 0 or lies inside the noise floor */, VERDICT_HIGHER, VERDICT_LOWER, VERDICT_UNKNOWN /* n < 2 */ } verdict;
verdict stats_verdict(interval difference, double noise_floor);
/* Holm's correction of m two-sided bootstrap p-values in place. */
double stats_paired_p(const double *a, const double *b, int n, stats_conf c);
void stats_holm(double *p, int m);
double stats_quantile(const double *x, int n, double q); /* linear interpolation, x unsorted; NaN when n = 0 */

/* Fidelity of one predicted distribution q against p: logits of n_vocab entries each (f64 sums over the whole vocabulary). */
typedef struct fidelity { double kl; /* nats, KL(p||q) */ bool top1; double top5; /* overlap 0..1 */ double nll_p, nll_q; /* of `next` */ } fidelity;
void fidelity_of(const float *logits_p, const float *logits_q, int n_vocab, int32_t next /* -1: no nll */, fidelity *out);
double nll_of(const float *logits, int n_vocab, int32_t next);
int32_t argmax_of(const float *logits, int n_vocab); /* lowest id among equals */
#endif
