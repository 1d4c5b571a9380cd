#include "run/heads_loss.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "policy/topk.h"
#include "run/resolve.h"
#include "stats/stats.h"

/* ---- curves ---- */

/* l [d][d], lower: l l^T = Wo^T Wo, so |l^T x| = |Wo x|. A direction that Wo does not see gets nothing. */
static void factor(const loss_head *h, double *l) {
    int d = h->d;
    for (int a = 0; a < d; a++)
        for (int b = 0; b <= a; b++) {
            double sum = 0;
            for (int i = 0; i < h->n_out; i++) sum += (double)h->wo[i * d + a] * (double)h->wo[i * d + b];
            for (int t = 0; t < b; t++) sum -= l[a * d + t] * l[b * d + t];
            l[a * d + b] = a == b ? sqrt(fmax(sum, 0)) : l[b * d + b] > 0 ? sum / l[b * d + b] : 0;
        }
}

static void project(const double *l, int d, const float *x, float *out) {
    for (int t = 0; t < d; t++) {
        double sum = 0;
        for (int a = t; a < d; a++) sum += l[a * d + t] * (double)x[a];
        out[t] = (float)sum;
    }
}

/* With P the probability of what went, o' - o = sum over it of p (o - v) / (1 - P). */
static void add_row(const loss_head *h, const double *l, const float *values, int row, double *gone, double *curve) {
    const float *q = h->q + (size_t)row * h->ld;
    int seen = h->window ? h->next + row + 1 - h->window : 0;
    float o[KV_MAX_HEAD_DIM];
    double mass = 0;
    project(l, h->d, h->o + (size_t)row * h->ld, o);
    memset(gone, 0, (size_t)h->d * sizeof *gone);
    for (int j = LOSS_STEPS, at = 0; j-- > 0;) {
        int end = h->n_items - (int)((int64_t)h->n_items * j / LOSS_STEPS);
        for (; at < end; at++) {
            if (h->order[at] < seen) continue;
            const float *k = h->k + (size_t)h->order[at] * (size_t)h->d, *v = values + (size_t)at * (size_t)h->d;
            float logit = 0;
            for (int c = 0; c < h->d; c++) logit += q[c] * k[c];
            double p = exp((double)logit * h->scale - (double)h->lse[row]);
            mass += p;
            for (int c = 0; c < h->d; c++) gone[c] += p * (double)(o[c] - v[c]);
        }
        double sum = 0, left = fmax(1 - mass, 1e-6);
        for (int c = 0; c < h->d; c++) sum += gone[c] * gone[c];
        curve[j] += sum / (left * left) / h->n_rows;
    }
}

err heads_loss_curve(const loss_head *h, double *curve) {
    size_t d = (size_t)h->d, n = (size_t)h->n_items;
    double *l;
    float *values;
    TRY(mem_alloc(MEM_OTHER, (d * d + d) * sizeof *l, &l));
    err e = mem_alloc(MEM_OTHER, (n * d + 1) * sizeof *values, &values);
    if (e == OK) {
        factor(h, l);
        for (size_t i = 0; i < n; i++) project(l, h->d, h->v + (size_t)h->order[i] * d, values + i * d);
        for (int r = 0; r < h->n_rows; r++) add_row(h, l, values, r, l + d * d, curve);
        mem_free(values);
    }
    mem_free(l);
    return e;
}

void heads_loss_gains(const double *curve, double *gain) {
    int hull[LOSS_STEPS + 1], n = 0;
    for (int j = 0; j <= LOSS_STEPS; j++) {
        while (n >= 2 && (curve[hull[n - 1]] - curve[hull[n - 2]]) * (j - hull[n - 2]) >= (curve[j] - curve[hull[n - 2]]) * (hull[n - 1] - hull[n - 2])) n--;
        hull[n++] = j;
    }
    for (int i = 1; i < n; i++)
        for (int j = hull[i - 1]; j < hull[i]; j++) gain[j] = (curve[hull[i - 1]] - curve[hull[i]]) / (hull[i] - hull[i - 1]);
}

/* ---- windows ---- */

static const double share_alone = 0.3; /* of a layer's items when it alone is compressed */

struct heads_loss {
    const session *s;
    const node *conf;
    int n, n_layers, n_kv, n_windows; /* tokens; layers that policies see */
    bool all_layers;                  /* sliding ones too */
    double *curve;                    /* [n_layers * n_kv][LOSS_STEPS + 1] summed over windows */
    double *kl;                       /* [n_layers] with the layer alone compressed, summed */
    float *score;                     /* [n_layers * n_kv][n] of the present window */
    uint8_t *flags;
    int *order;                       /* [n] */
    uint64_t *keys;                   /* [2 n] */
    char *policy_line;
};

static err look_at_policy(heads_loss *x) {
    policy *p;
    cache_space *space;
    TRY(session_policy(x->s, x->conf, x->n, &p, &space));
    const policy_needs *needs = policy_get_needs(p);
    err e = needs->scope == SCOPE_SEQUENCE
                ? OK
                : ERR(ERR_USAGE, "calibrate --loss needs a policy that ranks all layers together, such as quota global; this one is: %s", policy_describe(p));
    policy_shape shape = engine_policy_shape(x->s->e);
    x->all_layers = needs->all_layers;
    x->n_layers = x->all_layers ? shape.n_all_layers : shape.n_layers;
    x->n_kv = shape.n_kv;
    x->policy_line = mem_strdup(policy_describe(p));
    cache_space_destroy(space);
    policy_destroy(p);
    return e;
}

err heads_loss_create(const session *s, const node *conf, int n_tokens, heads_loss **out) {
    heads_loss *x;
    if (s->g.math != MATH_EXACT) return ERR(ERR_USAGE, "calibrate --loss measures differences far below the noise of fast math: add --math exact");
    TRY(mem_alloc(MEM_OTHER, sizeof *x, &x));
    x->s = s, x->conf = conf, x->n = n_tokens;
    err e = look_at_policy(x);
    size_t n_layers = (size_t)x->n_layers, n_heads = n_layers * (size_t)x->n_kv, n = (size_t)n_tokens;
    if (e == OK) e = mem_alloc(MEM_OTHER, n_heads * (LOSS_STEPS + 1) * sizeof *x->curve, &x->curve);
    if (e == OK) e = mem_alloc(MEM_OTHER, n_layers * sizeof *x->kl, &x->kl);
    if (e == OK) e = mem_alloc(MEM_OTHER, n_heads * n * sizeof *x->score, &x->score);
    if (e == OK) e = mem_alloc(MEM_OTHER, n_heads * n, &x->flags);
    if (e == OK) e = mem_alloc(MEM_OTHER, n * sizeof *x->order, &x->order);
    if (e == OK) e = mem_alloc(MEM_OTHER, 2 * n * sizeof *x->keys, &x->keys);
    if (e == OK) *out = x;
    else heads_loss_destroy(x);
    return e;
}

void heads_loss_destroy(heads_loss *x) {
    if (!x) return;
    mem_free(x->policy_line);
    mem_free(x->keys);
    mem_free(x->order);
    mem_free(x->flags);
    mem_free(x->score);
    mem_free(x->kl);
    mem_free(x->curve);
    mem_free(x);
}

static int model_layer_of(const heads_loss *x, int index) { return x->all_layers ? index : model_global_layer(&engine_model(x->s->e)->p, index); }
/* The layer's window, 0 without one, and how many items policies see of it at the end of the prompt: the last ones. */
static int window_of(const heads_loss *x, int index) { return engine_model(x->s->e)->layers[model_layer_of(x, index)].window; }
static int items_of(const heads_loss *x, int index) {
    int window = window_of(x, index);
    return window && x->n > window - 1 ? window - 1 : x->n;
}

static void observe(void *observer, const head_items *heads, int n_heads) {
    heads_loss *x = observer;
    for (int k = 0; k < n_heads; k++) {
        memcpy(x->score + (size_t)k * (size_t)x->n, heads[k].score, (size_t)heads[k].n * sizeof *x->score);
        memcpy(x->flags + (size_t)k * (size_t)x->n, heads[k].flags, (size_t)heads[k].n);
    }
}

static err take_scores(heads_loss *x, const int32_t *ids) {
    policy *p;
    cache_space *space;
    seq *q = NULL;
    TRY(session_policy(x->s, x->conf, x->n, &p, &space));
    err e = seq_create(x->s->e, space, p, x->s->g.seed, &q);
    if (e == OK) {
        seq_observe_scores(q, observe, x);
        e = seq_prefill(q, ids, x->n, NULL);
    }
    if (q) seq_destroy(q);
    cache_space_destroy(space);
    policy_destroy(p);
    return e;
}

/* Positions of items that may go, the worst first. */
static int order_items(heads_loss *x, int head) {
    const float *score = x->score + (size_t)head * (size_t)x->n;
    const uint8_t *flags = x->flags + (size_t)head * (size_t)x->n;
    int m = 0, n = items_of(x, head / x->n_kv);
    for (int i = 0; i < n; i++)
        if (!(flags[i] & (ITEM_PROTECTED | ITEM_FORCED))) x->keys[m++] = topk_key(score[i], ~(uint32_t)(x->n - n + i));
    topk_sort(x->keys, x->keys + x->n, m);
    for (int i = 0; i < m; i++) x->order[i] = (int)~(uint32_t)x->keys[i];
    return m;
}

/* k, v [n_kv][tokens][d]; wo [n_embd][n_heads * d]; part: scratch of one query head's columns of it. */
static err add_layer(heads_loss *x, const snapshot *snap, int index, int layer, const float *k, const float *v, const float *wo, float *part) {
    const model_params *mp = &engine_model(x->s->e)->p;
    size_t d = (size_t)mp->head_dim, row = (size_t)mp->n_heads * d;
    int group = mp->n_heads / mp->n_kv;
    for (int h = 0; h < mp->n_heads; h++) {
        int kv = h / group, head = index * mp->n_kv + kv;
        for (int i = 0; i < mp->n_embd; i++) memcpy(part + (size_t)i * d, wo + (size_t)i * row + (size_t)h * d, d * sizeof *part);
        size_t at = (size_t)layer * (size_t)snap->n_tail * row + (size_t)h * d, own = (size_t)kv * (size_t)snap->n_tokens * d;
        loss_head one = {.n_items = order_items(x, head), .n_rows = snap->n_tail, .d = mp->head_dim, .order = x->order, .k = k + own, .v = v + own,
                         .q = snap->q_tail + at, .o = snap->o_tail + at, .ld = row, .lse = snap->lse_tail + ((size_t)layer * (size_t)mp->n_heads + (size_t)h) * (size_t)snap->n_tail,
                         .window = window_of(x, index), .next = x->n, .wo = part, .n_out = mp->n_embd, .scale = (double)mp->attn_scale};
        TRY(heads_loss_curve(&one, x->curve + (size_t)head * (LOSS_STEPS + 1)));
    }
    return OK;
}

static err add_curves(heads_loss *x, const int32_t *ids) {
    const model *m = engine_model(x->s->e);
    const model_params *mp = &m->p;
    size_t n_values = (size_t)mp->n_kv * (size_t)(x->n + LOSS_ROWS) * (size_t)mp->head_dim, n_out = (size_t)mp->n_embd;
    size_t row = (size_t)mp->n_heads * (size_t)mp->head_dim;
    snapshot *snap;
    float *k;
    TRY(engine_snapshot(x->s->e, ids, x->n + LOSS_ROWS, &snap));
    err e = mem_alloc(MEM_OTHER, (2 * n_values + n_out * (row + (size_t)mp->head_dim)) * sizeof *k, &k);
    for (int i = 0; i < x->n_layers && e == OK; i++) {
        int layer = model_layer_of(x, i);
        float *v = k + n_values, *wo = v + n_values;
        snapshot_get_layer(snap, &par_single, layer, k, v);
        for (int r = 0; r < mp->n_embd; r++) model_output_row(m, layer, r, wo + (size_t)r * row);
        e = add_layer(x, snap, i, layer, k, v, wo, wo + n_out * row);
    }
    mem_free(k);
    snapshot_destroy(snap);
    return e;
}

/* ---- one layer alone ---- */

/* A profile under which only the layer's items ever go. */
static err write_alone(const heads_loss *x, int index, const char *path) {
    head_profile *p;
    TRY(head_profile_new(x->n_layers, x->n_kv, &p));
    memcpy(p->model_sha256, x->s->g.model_sha256, 64);
    p->origin = mem_sprintf("layer %d alone", index);
    for (int h = index * x->n_kv; h < (index + 1) * x->n_kv; h++)
        for (int j = 0; j < PROFILE_POINTS; j++) p->table[h * PROFILE_POINTS + j] = (uint16_t)(1000 + 100 * j);
    err e = head_profile_write(path, p);
    head_profile_free(p);
    return e;
}

static err follow(const session *s, const snapshot *snap, const node *conf, const int32_t *next, float *logits) {
    policy *p;
    cache_space *space;
    seq *q = NULL;
    TRY(session_policy(s, conf, snap->n_tokens + LOSS_ROWS, &p, &space));
    err e = seq_fork(s->e, space, snap, p, s->g.seed, NULL, &q);
    if (e == OK) e = seq_extend(q, next, LOSS_ROWS, logits);
    if (q) seq_destroy(q);
    cache_space_destroy(space);
    policy_destroy(p);
    return e;
}

static err parse_alone(const heads_loss *x, int index, const char *path, node **out) {
    double all = 0;
    for (int i = 0; i < x->n_layers; i++) all += items_of(x, i);
    char *score = node_flow(node_get(x->conf, "score")), *protect = node_get(x->conf, "protect") ? node_flow(node_get(x->conf, "protect")) : mem_strdup("{}");
    char *text = mem_sprintf("{budget: %.9f, tiers: [f32], layers: %s, protect: %s, score: %s, quota: {profile: {}}, select: top_k}",
                             1 - (1 - share_alone) * items_of(x, index) / all, x->all_layers ? "all" : "global", protect, score);
    err e = node_parse_text(text, strlen(text), "calibrate --loss", out);
    if (e == OK && (e = resolve_set_text(*out, "quota.profile.file", path, "calibrate --loss")) != OK) node_free(*out);
    mem_free(text);
    mem_free(protect);
    mem_free(score);
    return e;
}

static err measure_alone(heads_loss *x, const snapshot *snap, const int32_t *next, const char *temp, const float *full, float *rows) {
    int n_vocab = engine_model(x->s->e)->p.n_vocab;
    for (int i = 0; i < x->n_layers; i++) {
        node *conf;
        TRY(write_alone(x, i, temp));
        err e = parse_alone(x, i, temp, &conf);
        if (e == OK) {
            e = follow(x->s, snap, conf, next, rows);
            node_free(conf);
        }
        unlink(temp);
        TRY(e);
        for (int r = 0; r < LOSS_ROWS; r++) {
            fidelity f;
            fidelity_of(full + (size_t)r * (size_t)n_vocab, rows + (size_t)r * (size_t)n_vocab, n_vocab, -1, &f);
            x->kl[i] += f.kl / LOSS_ROWS;
        }
    }
    return OK;
}

static err add_weights(heads_loss *x, const int32_t *ids, const char *temp) {
    size_t n_logits = (size_t)LOSS_ROWS * (size_t)engine_model(x->s->e)->p.n_vocab;
    snapshot *snap;
    node *conf = NULL;
    float *full = NULL;
    TRY(engine_snapshot(x->s->e, ids, x->n, &snap));
    err e = session_full_conf(x->s, &conf);
    if (e == OK) e = mem_alloc(MEM_LOGITS, 2 * n_logits * sizeof *full, &full);
    if (e == OK) e = follow(x->s, snap, conf, ids + x->n, full);
    if (e == OK) e = measure_alone(x, snap, ids + x->n, temp, full, full + n_logits);
    mem_free(full);
    node_free(conf);
    snapshot_destroy(snap);
    return e;
}

err heads_loss_add(heads_loss *x, const int32_t *ids, const char *temp) {
    TRY(take_scores(x, ids));
    TRY(add_curves(x, ids));
    x->n_windows++;
    return add_weights(x, ids, temp);
}

/* The layer's KL over the sum of its heads' curves at the same share of items. */
static double layer_weight(const heads_loss *x, int layer) {
    double at = share_alone * LOSS_STEPS, sum = 0;
    int j = (int)at;
    for (int k = layer * x->n_kv; k < (layer + 1) * x->n_kv; k++) {
        const double *c = x->curve + (size_t)k * (LOSS_STEPS + 1);
        sum += c[j] + (at - j) * (c[j + 1] - c[j]);
    }
    return sum > 0 ? x->kl[layer] / sum : 0;
}

/* A head has as many keys as it has items, a full context's being LOSS_STEPS. */
static void add_keys(const heads_loss *x, int head, uint64_t *keys, int n) {
    double gain[LOSS_STEPS], weight = layer_weight(x, head / x->n_kv) * LOSS_STEPS / n;
    heads_loss_gains(x->curve + (size_t)head * (LOSS_STEPS + 1), gain);
    for (int j = 0; j < n; j++)
        keys[j] = topk_key((float)fmax(weight * gain[(2 * j + 1) * LOSS_STEPS / (2 * n)], 0), ~(uint32_t)(j * x->n_layers * x->n_kv + head));
}

err heads_loss_finish(const heads_loss *x, profile_builder **b, char **policy_line) {
    TRY(profile_builder_create(x->n_layers, x->n_kv, b)); /* the caller's from here on */
    *policy_line = mem_strdup(x->policy_line);
    int n_heads = x->n_layers * x->n_kv, *n_of;
    uint64_t **keys, *all;
    TRY(mem_alloc(MEM_OTHER, (size_t)n_heads * (sizeof *n_of + sizeof *keys), &keys));
    n_of = (int *)(void *)(keys + n_heads);
    err e = mem_alloc(MEM_OTHER, (size_t)n_heads * LOSS_STEPS * sizeof *all, &all);
    for (int h = 0; h < n_heads && e == OK; h++) {
        keys[h] = all + (size_t)h * LOSS_STEPS;
        n_of[h] = (items_of(x, h / x->n_kv) * LOSS_STEPS + x->n - 1) / x->n;
        add_keys(x, h, keys[h], n_of[h]);
    }
    if (e == OK) e = profile_builder_add(*b, keys, n_of);
    mem_free(all);
    mem_free(keys);
    return e;
}
