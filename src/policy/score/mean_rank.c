/* Mean of the ranks inside the head under several scores: `mean_rank: {expected: {...}, window: {...}}`. Ranks know no scale, so scores of
 * any kind can be joined. Rank 0 is the best; among equal scores the lower position ranks first. The score is 1 - mean rank / items. Items
 * that one of the scores forces are forced. */
#include <stdio.h>
#include <string.h>
#include "base/mem.h"
#include "policy/topk.h"

enum { MAX_PARTS = 4 };
typedef struct mean_rank_conf { int n; } mean_rank_conf; /* the parts are policy.joined */
STAGE_CONF_FITS(mean_rank_conf);

static err parse_part(policy *p, const node *map, const char *name, stage_use *u) {
    const node *at = node_get(map, name), *params = at;
    u->st = stage_find(STAGE_SCORE, name);
    if (!u->st || u->st->joins || u->st->live)
        return NODE_ERR(at ? at : map, "score mean_rank joins scores of the prompt such as window and expected, not \"%s\"", name);
    if (node_type(params) == NODE_NULL) params = NULL;
    else if (node_type(params) != NODE_MAP) return NODE_ERR(at, "score mean_rank: %s takes a map of parameters", name);
    return u->st->parse(p, at, params, u->conf);
}

static err mean_rank_parse(policy *p, const node *at, const node *map, void *conf) {
    mean_rank_conf *c = conf;
    int n = node_type(map) == NODE_MAP ? node_count(map) : 0;
    if (n < 2 || n > MAX_PARTS) return NODE_ERR(at, "score mean_rank joins two to %d scores: {expected: {}, window: {rows: 64}}", MAX_PARTS);
    TRY(mem_alloc(MEM_POLICY, (size_t)n * sizeof *p->joined, &p->joined));
    for (c->n = 0; c->n < n; c->n++) TRY(parse_part(p, map, node_key(map, c->n), &p->joined[c->n]));
    p->score_rows = 0; /* whatever the parts are */
    if (p->work_words < (p->shape.n_kv + 1) / 2) p->work_words = (p->shape.n_kv + 1) / 2;
    return node_check_read(map);
}

static void mean_rank_describe(const policy *p, const void *conf, char *out, size_t n) {
    const mean_rank_conf *c = conf;
    size_t used = 0;
    for (int i = 0; i < c->n && used < n; i++) {
        char params[160] = "";
        const stage_use *u = &p->joined[i];
        if (u->st->describe) u->st->describe(p, u->conf, params, sizeof params);
        used += (size_t)snprintf(out + used, n - used, "%s%s%s%s%s", i ? " + " : "", u->st->name, *params ? " [" : "", params, *params ? "]" : "");
    }
}

static void add_ranks(const decision *d, const head_items *h, float *sum) {
    for (int i = 0; i < h->n; i++) d->keys[i] = topk_key(h->score[i], ~(uint32_t)i);
    topk_sort(d->keys, (uint64_t *)(void *)d->tmp, h->n);
    for (int r = 0; r < h->n; r++) sum[~(uint32_t)d->keys[h->n - 1 - r]] += (float)r;
}

static void mean_rank_score(const void *conf, const decision *d) {
    const mean_rank_conf *c = conf;
    size_t n = (size_t)d->heads[0].n;
    float *sums = (float *)d->work;
    memset(sums, 0, (size_t)d->n_heads * n * sizeof *sums);
    for (int i = 0; i < c->n; i++) {
        const stage_use *u = &d->p->joined[i];
        u->st->score(u->conf, d);
        for (int k = 0; k < d->n_heads; k++) add_ranks(d, &d->heads[k], sums + (size_t)k * n);
    }
    for (int k = 0; k < d->n_heads; k++)
        for (size_t i = 0; i < n; i++) d->heads[k].score[i] = 1 - sums[(size_t)k * n + i] / ((float)c->n * (float)n);
}

const stage score_mean_rank = {
    .kind = STAGE_SCORE, .name = "mean_rank", .help = "mean of the ranks inside the head under several scores",
    .joins = true, .parse = mean_rank_parse, .describe = mean_rank_describe, .score = mean_rank_score};
