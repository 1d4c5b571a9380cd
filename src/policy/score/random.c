/* A number drawn per (sequence seed, layer, head, position): the control that every other score must beat. An item's number never
 * changes, so what decode drops depends on nothing else. */
#include "base/rng.h"
#include "conf/fields.h"
#include "policy/stage.h"

static err random_parse(policy *p, const node *at, const node *map, void *conf) {
    static const field none[] = {FIELD_END};
    return fields_read(map, none, conf);
}

static void random_score(const void *conf, const decision *d) {
    for (int k = 0; k < d->n_heads; k++) {
        head_items *h = &d->heads[k];
        uint64_t stream = (uint64_t)h->layer * (uint64_t)d->p->shape.n_kv + (uint64_t)h->head;
        for (int i = 0; i < h->n; i++) h->score[i] = (float)(rng_at(d->seed, stream, h->pos[i]) >> 40) * 0x1p-24f;
    }
}

const stage score_random = {
    .kind = STAGE_SCORE, .name = "random", .help = "uniform noise from the sequence's seed (control)",
    .parse = random_parse, .live = true, .score = random_score};
