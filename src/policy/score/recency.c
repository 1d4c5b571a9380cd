/* The newer the better: with top_k and sinks this is StreamingLLM (arXiv 2309.17453). */
#include "conf/fields.h"
#include "policy/stage.h"

static err recency_parse(policy *p, const node *at, const node *map, void *conf) {
    static const field none[] = {FIELD_END};
    return fields_read(map, none, conf);
}

static void recency_score(const void *conf, const decision *d) {
    for (int k = 0; k < d->n_heads; k++)
        for (int i = 0; i < d->heads[k].n; i++) d->heads[k].score[i] = (float)d->heads[k].pos[i];
}

const stage score_recency = {
    .kind = STAGE_SCORE, .name = "recency", .help = "position: the newest stay (StreamingLLM)",
    .parse = recency_parse, .live = true, .no_holes = true, .score = recency_score};
