/* Another score of the prompt plus a constant per layer, KV head and range of positions (the bias of KV-Compress's code, weight 0 in its
 * published runs):
 *
 *   biased: {of: {window: {rows: 8}}, from: [0, 64, 1024], bias: [0.2, 0, -0.1], weight: 1}
 *
 * A position belongs to the last range that begins at or before it. `bias` holds a value per range, for all heads, or such a list per layer
 * and KV head. What a live column gathers stays as it is; the bias is added when a decision is taken. */
#include <stdio.h>
#include "base/mem.h"
#include "conf/fields.h"
#include "policy/stage.h"

enum { MAX_RANGES = 64 };
typedef struct biased_conf {
    double weight;
    int n;                /* ranges */
    bool per_head;
    const uint32_t *from; /* [n] */
    const float *bias;    /* [n], or [n_layers][n_kv][n] */
} biased_conf;
STAGE_CONF_FITS(biased_conf);

static const field biased_fields[] = {FIELD_DOUBLE(biased_conf, weight, 1, -1e6, 1e6, "of the bias"), FIELD_END};

static err read_ranges(const node *at, const node *from, biased_conf *c, uint32_t *out) {
    c->n = node_type(from) == NODE_LIST ? node_count(from) : 0;
    if (c->n < 1 || c->n > MAX_RANGES)
        return NODE_ERR(from ? from : at, "score biased: `from` lists the first positions of 1 to %d ranges, as [0, 64, 1024]", MAX_RANGES);
    for (int i = 0; i < c->n; i++) {
        int64_t x;
        TRY(node_as_int(node_at(from, i), &x));
        if (i == 0 ? x != 0 : x <= out[i - 1] || x > INT32_MAX)
            return NODE_ERR(from, "score biased: ranges begin at 0 and rise; entry %d is %lld", i, (long long)x);
        out[i] = (uint32_t)x;
    }
    return OK;
}

static err read_row(const node *list, int n, const char *what, float *out) {
    if (node_type(list) != NODE_LIST || node_count(list) != n) return NODE_ERR(list, "score biased: %s has %d values, one per range of `from`", what, n);
    for (int i = 0; i < n; i++) {
        double x;
        TRY(node_as_double(node_at(list, i), &x));
        out[i] = (float)x;
    }
    return OK;
}

static bool is_nested(const node *bias) { return node_type(bias) == NODE_LIST && node_count(bias) > 0 && node_type(node_at(bias, 0)) == NODE_LIST; }

static err read_bias(const policy *p, const node *at, const node *bias, const biased_conf *c, float *out) {
    int n_layers = p->shape.n_layers, n_kv = p->shape.n_kv;
    if (node_type(bias) == NODE_NULL) return NODE_ERR(at, "score biased needs `bias`: a value per range, or a list of them per layer and KV head");
    if (!c->per_head) return read_row(bias, c->n, "`bias`", out);
    if (node_count(bias) != n_layers) return NODE_ERR(bias, "score biased: `bias` has %d layers, the model %d", node_count(bias), n_layers);
    for (int l = 0; l < n_layers; l++) {
        const node *layer = node_at(bias, l);
        if (node_type(layer) != NODE_LIST || node_count(layer) != n_kv)
            return NODE_ERR(layer, "score biased: layer %d of `bias` is a list of %d KV heads", l, n_kv);
        for (int h = 0; h < n_kv; h++, out += c->n) TRY(read_row(node_at(layer, h), c->n, "each head of `bias`", out));
    }
    return OK;
}

static err read_table(policy *p, const node *at, const node *map, biased_conf *c) {
    const node *from = node_get(map, "from"), *bias = node_get(map, "bias");
    uint32_t first[MAX_RANGES];
    TRY(read_ranges(at, from, c, first));
    c->per_head = is_nested(bias);
    size_t rows = c->per_head ? (size_t)p->shape.n_layers * (size_t)p->shape.n_kv : 1, n = (size_t)c->n;
    TRY(mem_alloc(MEM_POLICY, n * sizeof *first + rows * n * sizeof(float), &p->bias));
    uint32_t *begin = p->bias;
    for (size_t i = 0; i < n; i++) begin[i] = first[i];
    c->from = begin;
    c->bias = (float *)(begin + n);
    return read_bias(p, at, bias, c, (float *)(begin + n));
}

static err read_score(policy *p, const node *at, const node *of) {
    const char *name = node_type(of) == NODE_SCALAR ? node_text(of) : node_type(of) == NODE_MAP && node_count(of) == 1 ? node_key(of, 0) : "";
    const node *params = node_type(of) == NODE_MAP ? node_get(of, name) : NULL;
    if (!*name) return NODE_ERR(of ? of : at, "score biased needs the score that it adds to: of: {window: {rows: 8}}");
    const stage *st = stage_find(STAGE_SCORE, name);
    if (!st || st->joins || st->live)
        return NODE_ERR(of, "score biased adds to a score of the prompt such as window and column, not \"%s\"", name);
    if (node_type(params) == NODE_NULL) params = NULL;
    else if (node_type(params) != NODE_MAP) return NODE_ERR(params, "score %s takes a map of parameters", name);
    TRY(mem_alloc(MEM_POLICY, sizeof *p->joined, &p->joined));
    p->joined->st = st;
    return st->parse(p, of, params, p->joined->conf);
}

static err biased_parse(policy *p, const node *at, const node *map, void *conf) {
    biased_conf *c = conf;
    TRY(read_score(p, at, node_get(map, "of")));
    TRY(read_table(p, at, map, c));
    p->score_rows = 0; /* the bias is no attention */
    return fields_read(map, biased_fields, c);
}

static void biased_describe(const policy *p, const void *conf, char *out, size_t n) {
    const biased_conf *c = conf;
    char params[120] = "";
    const stage_use *u = p->joined;
    if (u->st->describe) u->st->describe(p, u->conf, params, sizeof params);
    snprintf(out, n, "%s [%s] + %g bias%s of %d ranges", u->st->name, params, c->weight, c->per_head ? " per head" : "", c->n);
}

static void biased_score(const void *conf, const decision *d) {
    const biased_conf *c = conf;
    d->p->joined->st->score(d->p->joined->conf, d);
    for (int k = 0; k < d->n_heads; k++) {
        const head_items *h = &d->heads[k];
        const float *bias = c->bias + (c->per_head ? ((size_t)h->layer * (size_t)d->p->shape.n_kv + (size_t)h->head) * (size_t)c->n : 0);
        for (int i = 0; i < h->n; i++) {
            int r = c->n - 1;
            while (c->from[r] > h->pos[i]) r--;
            h->score[i] += (float)c->weight * bias[r];
        }
    }
}

const stage score_biased = {
    .kind = STAGE_SCORE, .name = "biased", .help = "another score plus a constant per head and range of positions (KV-Compress's code)",
    .joins = true, .parse = biased_parse, .describe = biased_describe, .score = biased_score};
