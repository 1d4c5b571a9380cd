#include "text/sampler.h"

#include <math.h>
#include <stdbool.h>

#include "base/mem.h"

enum { SAMPLER_STREAM = 0x73616d70 }; /* of the counter-based generator */

typedef struct choice {
    float logit;
    int32_t id;
} choice;

struct sampler {
    sampler_conf conf;
    int n_vocab;
    rng random;
    choice *heap;   /* [n_vocab], best on top */
    choice *kept;   /* [n_vocab], best first */
    double *weight; /* [n_vocab], of kept */
};

err sampler_create(sampler_conf c, int n_vocab, sampler **out) {
    if (n_vocab < 1) return ERR(ERR_USAGE, "a sampler needs at least one token, not %d", n_vocab);
    if (!(c.temperature >= 0) || isinf(c.temperature))
        return ERR(ERR_USAGE, "temperature %g is not a finite number of at least 0", (double)c.temperature);
    if (c.top_k < 0) return ERR(ERR_USAGE, "top_k %d is negative; 0 keeps all tokens", c.top_k);
    if (!(c.top_p >= 0 && c.top_p <= 1))
        return ERR(ERR_USAGE, "top_p %g is not between 0 (off) and 1", (double)c.top_p);
    sampler *s;
    TRY(mem_alloc(MEM_OTHER, sizeof *s, &s));
    *s = (sampler){.conf = c, .n_vocab = n_vocab, .random = rng_make(c.seed, SAMPLER_STREAM)};
    err e = OK;
    if (c.temperature > 0) {
        GOTO(failed, e, mem_alloc(MEM_OTHER, (size_t)n_vocab * sizeof *s->heap, &s->heap));
        GOTO(failed, e, mem_alloc(MEM_OTHER, (size_t)n_vocab * sizeof *s->kept, &s->kept));
        GOTO(failed, e, mem_alloc(MEM_OTHER, (size_t)n_vocab * sizeof *s->weight, &s->weight));
    }
    *out = s;
    return OK;
failed:
    sampler_destroy(s);
    return e;
}

void sampler_destroy(sampler *s) {
    if (!s) return;
    mem_free(s->heap);
    mem_free(s->kept);
    mem_free(s->weight);
    mem_free(s);
}

/* NaN never wins; if nothing is a number, token 0. */
static int32_t greedy(const float *logits, int n) {
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++)
        if (!isnan(logits[i]) && (best < 0 || logits[i] > logits[best])) best = i;
    return best < 0 ? 0 : best;
}

static bool better(choice a, choice b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

static void sift_down(choice *h, int n, int i) {
    choice c = h[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(h[child + 1], h[child])) child++;
        if (!better(h[child], c)) break;
        h[i] = h[child];
    }
    h[i] = c;
}

static double weight_of(const sampler *s, float logit, float best) {
    return exp(((double)logit - (double)best) / (double)s->conf.temperature);
}

/* Takes tokens from the heap, best first, until top_k are kept. Returns the number kept; *total is the sum of their
 * weights. */
static int keep_top_k(sampler *s, int n, double *total) {
    int k = s->conf.top_k, kept = 0;
    float best = s->heap[0].logit;
    *total = 0;
    for (; kept < k && n > 0; kept++) {
        s->kept[kept] = s->heap[0];
        s->weight[kept] = weight_of(s, s->heap[0].logit, best);
        *total += s->weight[kept];
        s->heap[0] = s->heap[--n];
        sift_down(s->heap, n, 0);
    }
    return kept;
}

/* Fewest best tokens that hold top_p of `total`; with n_kept > 0 they are already in order, otherwise they come from
 * the heap. */
static int keep_top_p(sampler *s, int n_kept, int n_heap, double *total) {
    double enough = (double)s->conf.top_p * *total, sum = 0;
    float best = n_kept > 0 ? s->kept[0].logit : s->heap[0].logit;
    bool sorted = n_kept > 0;
    int i = 0;
    for (; (i == 0 || sum < enough) && (sorted ? i < n_kept : n_heap > 0); i++) {
        if (!sorted) {
            s->kept[i] = s->heap[0];
            s->weight[i] = weight_of(s, s->heap[0].logit, best);
            s->heap[0] = s->heap[--n_heap];
            sift_down(s->heap, n_heap, 0);
        }
        sum += s->weight[i];
    }
    *total = sum;
    return i;
}

int32_t sampler_next(sampler *s, const float *logits) {
    int32_t best = greedy(logits, s->n_vocab);
    float top = logits[best];
    if (s->conf.temperature == 0 || !isfinite(top)) return best;
    int n = 0;
    for (int32_t i = 0; i < s->n_vocab; i++)
        if (!isnan(logits[i])) s->heap[n++] = (choice){logits[i], i};
    bool by_k = s->conf.top_k > 0 && s->conf.top_k<n, by_p = s->conf.top_p> 0 && s->conf.top_p < 1;
    double total = 0;
    int n_kept = 0;
    if (by_k || by_p)
        for (int i = n / 2 - 1; i >= 0; i--) sift_down(s->heap, n, i);
    if (by_k) {
        n_kept = keep_top_k(s, n, &total);
    } else {
        /* in order of ids where order is free: the same draw for any heap */
        for (int32_t i = 0; i < s->n_vocab; i++)
            if (!isnan(logits[i])) total += weight_of(s, logits[i], top);
    }
    if (by_p) n_kept = keep_top_p(s, n_kept, n, &total);
    if (n_kept == 0) {
        for (; n_kept < n; n_kept++) {
            s->kept[n_kept] = s->heap[n_kept];
            s->weight[n_kept] = weight_of(s, s->heap[n_kept].logit, top);
        }
    }
    double u = rng_uniform(&s->random) * total;
    for (int i = 0; i < n_kept; i++)
        if ((u -= s->weight[i]) < 0) return s->kept[i].id;
    return s->kept[0].id; /* rounding left a remainder */
}
