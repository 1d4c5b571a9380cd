#include "tests/support/naive_decode.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "format/rotate.h"

int naive_items(const seq *s, int layer, int head, naive_item *out) {
    const cache *c = s->c;
    uint32_t pos[NAIVE_MAX_ITEMS];
    uint8_t tier[NAIVE_MAX_ITEMS];
    item_columns ic = {0, pos, tier, NULL};
    attn_segment seg[ATTN_MAX_SEGMENTS];
    if (cache_n_items_head(c, layer, head) > NAIVE_MAX_ITEMS) abort();
    cache_columns(c, layer, head, &ic);
    int n_segs = cache_segments(c, layer, head, 0, 0, seg), n = 0;
    for (int g = 0; g < n_segs; g++)
        for (int i = 0; i < seg[g].n_items; i++, n++) { /* tiers 1 .. first, then the hot one */
            const page_layout *l = seg[g].layout;
            const uint8_t *page = pool_base(cache_space_pool(s->space)) + (size_t)seg[g].pages[i / l->cap] * 64;
            page_get(l, page, i % l->cap, out[n].k, out[n].v);
            if (l->fmt.rotate & ROTATE_K) hadamard_rotate(out[n].k, l->head_dim);
            if (l->fmt.rotate & ROTATE_V) hadamard_rotate(out[n].v, l->head_dim);
            int t = (int)(l - cache_layout(c, 0)), at = i;
            for (int below = 0; below < t; below++) at += cache_n_items(c, layer, head, below);
            out[n].pos = l->pos_bytes ? pos[at] : (uint32_t)(cache_n_tokens(c) - ic.n + i);
        }
    if (n != ic.n) abort();
    return n;
}

typedef struct naive { seq *s; int32_t id; int pos; float *logits; } naive;

static void attend(const naive *a, const rows_pass *r, int layer) {
    const model_params *mp = &a->s->e->m->p;
    int d = mp->head_dim, group = mp->n_heads / mp->n_kv, window = a->s->e->m->layers[layer].window;
    static naive_item x[NAIVE_MAX_ITEMS];
    for (int h = 0; h < mp->n_heads; h++) {
        int n = naive_items(a->s, layer, h / group, x);
        double s[NAIVE_MAX_ITEMS], max = -INFINITY, sum = 0, o[KV_MAX_HEAD_DIM] = {0};
        for (int i = 0; i < n; i++) {
            s[i] = 0;
            for (int c = 0; c < d; c++) s[i] += (double)r->q[h * d + c] * (double)x[i].k[c];
            s[i] = window && (int)x[i].pos <= a->pos - window ? -INFINITY : s[i] * (double)mp->attn_scale;
            max = fmax(max, s[i]);
        }
        for (int i = 0; i < n; i++) sum += s[i] = exp(s[i] - max);
        for (int i = 0; i < n; i++)
            for (int c = 0; c < d; c++) o[c] += s[i] / sum * (double)x[i].v[c];
        for (int c = 0; c < d; c++) r->attn[h * d + c] = (float)o[c];
    }
}

static void step_body(const par *p, void *arg) {
    const naive *a = arg;
    engine *e = a->s->e;
    rows_pass r = rows_make(e, 1);
    *(uint32_t *)e->ids_pos.p = (uint32_t)a->pos;
    rows_embed(p, &r, &a->id);
    for (int l = 0; l < e->m->p.n_layers; l++) {
        const model_layer *y = &e->m->layers[l];
        rows_qkv(p, &r, y);
        rows_rope_and_round(p, &r, y);
        attend(a, &r, l);
        rows_output_and_ffn(p, &r, y);
    }
    rows_logits(p, &r, a->logits);
}

void naive_step(seq *s, int32_t id, int pos, float *logits) {
    naive a = {s, id, pos, logits};
    par_run(1, step_body, &a);
}
