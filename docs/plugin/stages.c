/* The other stages, as small as they can be. Together they do what kvlab's own recency, fixed, top_k and uniform do, so each can be
 * tried alone beside the built-in ones, and the tests compare the results number by number; `decide` does all of it at once. */
#include <stdlib.h>
#include <string.h>
#include "kvlab_plugin.h"

/* ---- score: newer is better; knows nothing but positions, so YAML may say `live: true` ---- */

static int recency_run(void *state, const kvlab_decision *d, char *why) {
    (void)state, (void)why;
    for (int k = 0; k < d->n_heads; k++)
        for (int i = 0; i < d->heads[k].n; i++) d->heads[k].score[i] = (float)d->heads[k].pos[i];
    return 0;
}
KVLAB_STAGE(kvlab_score) = {.abi = KVLAB_PLUGIN_ABI, .bytes = sizeof(kvlab_stage), .about = "the newest items", .run = recency_run};

/* ---- quota: the same number for every head ---- */

static int fixed_run(void *state, const kvlab_decision *d, char *why) {
    (void)state, (void)why;
    for (int k = 0; k < d->n_heads; k++) d->heads[k].quota = d->kept < d->heads[k].n ? d->kept : d->heads[k].n;
    return 0;
}
KVLAB_STAGE(kvlab_quota) = {.abi = KVLAB_PLUGIN_ABI, .bytes = sizeof(kvlab_stage), .about = "equal heads", .run = fixed_run};

/* ---- select: protected items, then forced ones from the newest, then the best; the lower position among equals ---- */

static const kvlab_head *sorted_head; /* qsort has no argument for it; calls never overlap */

static int class_of(const kvlab_head *h, int i) { return h->flags[i] & (KVLAB_SINK | KVLAB_RECENT) ? 2 : h->flags[i] & KVLAB_FORCED ? 1 : 0; }

static int better_first(const void *a, const void *b) {
    const kvlab_head *h = sorted_head;
    int x = *(const int *)a, y = *(const int *)b, cx = class_of(h, x), cy = class_of(h, y);
    if (cx != cy) return cy - cx;
    if (cx) return h->pos[x] > h->pos[y] ? -1 : 1;
    if (h->score[x] != h->score[y]) return h->score[x] > h->score[y] ? -1 : 1;
    return h->pos[x] < h->pos[y] ? -1 : 1;
}

static int best_run(void *state, const kvlab_decision *d, char *why) {
    (void)state;
    for (int k = 0; k < d->n_heads; k++) {
        kvlab_head *h = &d->heads[k];
        int *order = malloc(sizeof *order * (size_t)h->n);
        if (!order) {
            strcpy(why, "out of memory");
            return 1;
        }
        for (int i = 0; i < h->n; i++) order[i] = i;
        sorted_head = h;
        qsort(order, (size_t)h->n, sizeof *order, better_first);
        for (int i = 0; i < h->n; i++) h->target[order[i]] = i < h->quota ? 0 : KVLAB_DROP;
        free(order);
    }
    return 0;
}
KVLAB_STAGE(kvlab_select) = {.abi = KVLAB_PLUGIN_ABI, .bytes = sizeof(kvlab_stage), .about = "the best of each head", .run = best_run};

/* ---- tier: recent items in the hot tier, the rest in the last one; `count` makes it usable under budgets in bytes ---- */

static int last_tier_open(const kvlab_model *model, const kvlab_option *options, int n_options, kvlab_needs *needs, void **state, char *why) {
    static char tiers[KVLAB_MAX_TIERS]; /* a state is any pointer: here one that says how many tiers there are */
    (void)options, (void)n_options, (void)needs, (void)why;
    tiers[model->n_tiers - 1] = (char)(model->n_tiers - 1);
    *state = &tiers[model->n_tiers - 1];
    return 0;
}

static int last_tier_run(void *state, const kvlab_decision *d, char *why) {
    uint8_t last = *(uint8_t *)state;
    (void)why;
    for (int k = 0; k < d->n_heads; k++)
        for (int i = 0; i < d->heads[k].n; i++)
            if (d->heads[k].target[i] != KVLAB_DROP) d->heads[k].target[i] = d->heads[k].flags[i] & KVLAB_RECENT ? 0 : last;
    return 0;
}

static int last_tier_count(void *state, int32_t n_sink, int32_t n_recent, int32_t n_rest, int32_t *per_tier, char *why) {
    (void)why;
    per_tier[0] += n_recent;
    per_tier[*(uint8_t *)state] += n_sink + n_rest;
    return 0;
}
KVLAB_STAGE(kvlab_tier) = {.abi = KVLAB_PLUGIN_ABI, .bytes = sizeof(kvlab_stage), .about = "recent items hot, the rest in the last tier",
                           .open = last_tier_open, .run = last_tier_run, .count = last_tier_count};

/* ---- decide: sinks and the newest items stay, recent ones in the hot tier, the rest in the last one ---- */

static int newest_run(void *state, const kvlab_decision *d, char *why) {
    uint8_t last = *(uint8_t *)state;
    int *at = malloc(sizeof *at * (size_t)d->n_tokens); /* item at a position, -1 for none */
    if (!at) {
        strcpy(why, "out of memory");
        return 1;
    }
    for (int k = 0; k < d->n_heads; k++) {
        kvlab_head *h = &d->heads[k];
        int room = d->kept;
        memset(at, -1, sizeof *at * (size_t)d->n_tokens);
        for (int i = 0; i < h->n; i++) {
            if (h->flags[i] & KVLAB_SINK) h->target[i] = last, room--;
            else at[h->pos[i]] = i;
        }
        for (int pos = d->n_tokens - 1; pos >= 0; pos--) {
            if (at[pos] < 0) continue;
            h->target[at[pos]] = room-- <= 0 ? KVLAB_DROP : h->flags[at[pos]] & KVLAB_RECENT ? 0 : last;
        }
    }
    free(at);
    return 0;
}
KVLAB_STAGE(kvlab_decide) = {.abi = KVLAB_PLUGIN_ABI, .bytes = sizeof(kvlab_stage), .about = "sinks and the newest items, in two tiers",
                             .open = last_tier_open, .run = newest_run, .count = last_tier_count};
