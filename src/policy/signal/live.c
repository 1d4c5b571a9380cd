#include "policy/signal/live.h"
#include <string.h>

void live_exchange(const decision *d) {
    for (int k = 0; k < d->n_heads; k++) {
        const head_items *h = &d->heads[k];
        if (!h->live) continue;
        if (h->tier_now) memcpy(h->score, h->live, (size_t)h->n * sizeof *h->score);
        else memcpy(h->live, h->score, (size_t)h->n * sizeof *h->live);
    }
}

void live_layer_mean(const decision *d) {
    float *sum = d->tmp; /* [n_tokens] by position */
    memset(sum, 0, (size_t)d->n_tokens * sizeof *sum);
    for (int k = 0; k < d->n_heads; k++)
        for (int i = 0; i < d->heads[k].n; i++) sum[d->heads[k].pos[i]] += d->heads[k].score[i];
    for (int k = 0; k < d->n_heads; k++)
        for (int i = 0; i < d->heads[k].n; i++) d->heads[k].score[i] = sum[d->heads[k].pos[i]] / (float)d->n_heads;
}
