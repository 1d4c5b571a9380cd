/* Next-token choice: greedy (temperature 0; ties to the lower id) or temperature, top-k, top-p, in that order, from a seed.
 * top_k 0 and top_p 0 or 1 are off. NaN is never chosen; token 0 if there is nothing else. */
#ifndef KVLAB_TEXT_SAMPLER_H
#define KVLAB_TEXT_SAMPLER_H
#include <stdint.h>
#include "base/rng.h"
#include "base/err.h"
typedef struct sampler_conf { float temperature; int top_k; float top_p; uint64_t seed; } sampler_conf; /* {0} = greedy */
typedef struct sampler sampler;
MUST err sampler_create(sampler_conf c, int n_vocab, sampler **out);
void sampler_destroy(sampler *s);
int32_t sampler_next(sampler *s, const float *logits /* [n_vocab] */);
#endif
