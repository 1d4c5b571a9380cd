/* Per head from a head profile (policy/profile.h, reference compositions.md): an item's score becomes its head's value at the item's rank
 * inside the head, and one threshold over these values serves all heads. Order inside a head stays that of the score; scores of different
 * heads become comparable, for a tier stage that ranks over all of them too. In decode a live score ranks what is left. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/mem.h"
#include "policy/profile.h"
#include "policy/quota/ranking.h"

typedef struct profile_conf { const head_profile *profile; char name[64]; /* of the file, for people */ } profile_conf;
STAGE_CONF_FITS(profile_conf);

/* Without `file` the one of configs/profiles that belongs to the model; a bare name is a file there. */
static err profile_path(const policy *p, const node *at, const node *file, char **path) {
    const policy_shape *s = &p->shape;
    if (node_type(file) != NODE_NULL) {
        const char *name = node_type(file) == NODE_SCALAR ? node_text(file) : "";
        if (!*name) return NODE_ERR(file, "quota profile: `file` is a name in configs/profiles or a path");
        *path = strchr(name, '/') || !s->profile_dir ? mem_strdup(name) : mem_sprintf("%s/%s.profile", s->profile_dir, name);
        return OK;
    }
    if (!s->profile_dir || !s->model_sha256) return NODE_ERR(at, "quota profile needs `file`: the model is not known here");
    TRY(head_profile_find(s->profile_dir, s->model_sha256, path));
    if (*path) return OK;
    return NODE_ERR(at, "quota profile: no head profile in %s is of this model (sha256 %.12s...); `kvlab calibrate --heads` makes one", s->profile_dir,
                    s->model_sha256);
}

static err check_model(const policy *p, const node *at, const head_profile *h) {
    const policy_shape *s = &p->shape;
    if (s->window && h->n_layers == s->n_all_layers && h->n_layers != s->n_layers && h->n_kv == s->n_kv)
        return NODE_ERR(at, "head profile is of all %d layers, those with a sliding window too, and policies see %d; `layers: all` shows them all", h->n_layers, s->n_layers);
    if (h->n_layers != p->shape.n_layers || h->n_kv != p->shape.n_kv)
        return NODE_ERR(at, "head profile is of a model with %d layers of %d KV heads, this one has %d of %d", h->n_layers, h->n_kv, p->shape.n_layers,
                        p->shape.n_kv);
    if (p->shape.model_sha256 && strcmp(h->model_sha256, p->shape.model_sha256) != 0)
        return NODE_ERR(at, "head profile was made for the model file with sha256 %.12s..., this one has %.12s...; `kvlab calibrate --heads` makes another",
                        h->model_sha256, p->shape.model_sha256);
    return OK;
}

static err profile_parse(policy *p, const node *at, const node *map, void *conf) {
    profile_conf *c = conf;
    const node *file = node_get(map, "file");
    char *path;
    TRY(node_check_read(map));
    TRY(profile_path(p, at, file, &path));
    const char *name = strrchr(path, '/');
    snprintf(c->name, sizeof c->name, "%s", name ? name + 1 : path);
    err e = head_profile_read(path, &p->profile);
    mem_free(path);
    if (e) return err_wrap(e, "quota profile");
    c->profile = p->profile;
    p->needs.scope = SCOPE_SEQUENCE;
    return check_model(p, file ? file : at, p->profile);
}

static void profile_describe(const policy *p, const void *conf, char *out, size_t n) {
    const profile_conf *c = conf;
    snprintf(out, n, "%s %016llx", c->name, (unsigned long long)c->profile->checksum);
}

/* Items that would compete if none had gone: those that went in earlier decisions rank behind all that are left. */
static int all_items(const decision *d, const head_items *h, int n) {
    int n_sink, n_recent, window = policy_layer_window(d->p, h->layer);
    protect_count(&d->p->protect, window, d->n_tokens, &n_sink, &n_recent);
    int all = d->from ? n : window_holds(window, d->n_tokens) - n_sink - n_recent;
    return all > n ? all : n;
}

static int rank_of(const uint64_t *sorted, int n, uint64_t key) {
    int lo = 0, hi = n;
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if (sorted[mid] <= key) lo = mid;
        else hi = mid;
    }
    return n - 1 - lo;
}

static void rank_head(const profile_conf *c, const decision *d, head_items *h) {
    int n = 0;
    float above = 1, *value = d->tmp;
    for (int i = 0; i < h->n; i++)
        if (ranking_competes(h, i)) d->keys[n++] = topk_item_key(d->p, h, i);
    topk_sort(d->keys, (uint64_t *)(void *)d->tmp, n);
    int all = all_items(d, h, n);
    for (int r = 0; r < n; r++) /* a flat stretch of the curve still falls by the smallest step */
        value[r] = above = fminf(-head_profile_value(c->profile, h->layer, h->head, r, all), nextafterf(above, -2));
    for (int i = 0; i < h->n; i++)
        if (ranking_competes(h, i)) h->score[i] = value[rank_of(d->keys, n, topk_item_key(d->p, h, i))];
}

static void profile_allot(const void *conf, const decision *d) {
    int64_t items = 0, total = 0;
    for (int k = 0; k < d->n_heads; k++) {
        rank_head(conf, d, &d->heads[k]);
        total += d->heads[k].kept;
        items += d->heads[k].n;
    }
    ranking_allot(d, total < items ? total : items);
}

const stage quota_profile = {
    .kind = STAGE_QUOTA, .name = "profile", .help = "per head, from a table calibrated once per model",
    .parse = profile_parse, .describe = profile_describe, .live = true, .budgeted = true, .ranks = true, .allot = profile_allot};
