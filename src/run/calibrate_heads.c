/* kvlab calibrate --heads: the head profile of a model (policy/profile.h). Windows of calibration text are prefilled under a policy whose
 * score ranks all items of all heads; the curves of the heads, averaged over windows, become the profile. With --loss heads are compared by
 * what their outputs lose for the tokens that follow (heads_loss.h), the policy's score only ranks inside heads. */
#include <string.h>

#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "policy/profile.h"
#include "policy/topk.h"
#include "run/calibrate.h"
#include "run/heads_loss.h"
#include "run/resolve.h"

static const size_t max_text_bytes = (size_t)1 << 30;
/* What the repetition of the prompt reads is what will be needed; nothing else about the policy matters here. */
static char default_policy[] = "kvzip_kvpress";
/* The ranks inside heads that kvlab_best has at run time; --set comes after, as ever. */
static char default_loss_policy[] = "kvlab_best";
static const char *const default_loss_sets[] = {"policy.quota=global", "policy.budget=0.5", "policy.tiers=[f16]", "policy.tier.uniform.format=f16"};

typedef struct collector {
    profile_builder *b; /* made when the first prompt shows how many heads the policy sees */
    heads_loss *loss; /* or NULL */
    uint64_t **keys; /* [n_heads] */
    int *n_of;
    char *policy_line;
    err e;
} collector;

static err collector_open(collector *c, const head_items *heads, int n_heads) {
    int n_layers = heads[n_heads - 1].layer + 1;
    TRY(profile_builder_create(n_layers, n_heads / n_layers, &c->b));
    TRY(mem_alloc(MEM_OTHER, (size_t)n_heads * sizeof *c->keys, &c->keys));
    return mem_alloc(MEM_OTHER, (size_t)n_heads * sizeof *c->n_of, &c->n_of);
}

static void collect(void *observer, const head_items *heads, int n_heads) {
    collector *c = observer;
    if (!c->b) c->e = collector_open(c, heads, n_heads);
    for (int k = 0; k < n_heads && c->e == OK; k++) {
        const head_items *h = &heads[k];
        c->n_of[k] = 0;
        c->e = mem_alloc(MEM_OTHER, (size_t)h->n * sizeof **c->keys, &c->keys[k]);
        for (int i = 0; i < h->n && c->e == OK; i++) {
            if (h->flags[i] & (ITEM_PROTECTED | ITEM_FORCED)) continue; /* stay in any case */
            c->keys[k][c->n_of[k]++] = topk_key(h->score[i], ~(h->pos[i] * (uint32_t)n_heads + (uint32_t)k));
        }
    }
    if (c->e == OK) c->e = profile_builder_add(c->b, c->keys, c->n_of);
    for (int k = 0; k < n_heads && c->keys; k++) {
        mem_free(c->keys[k]);
        c->keys[k] = NULL;
    }
}

static err add_window(const session *s, const int32_t *ids, int n, collector *c) {
    policy *p;
    cache_space *space;
    seq *q = NULL;
    TRY(session_policy(s, NULL, n, &p, &space));
    err e = policy_get_needs(p)->scope == SCOPE_SEQUENCE
                ? seq_create(s->e, space, p, s->g.seed, &q)
                : ERR(ERR_USAGE, "calibrate --heads needs a policy that ranks all layers together, such as quota global; this one is: %s", policy_describe(p));
    if (e == OK) {
        seq_observe_scores(q, collect, c);
        e = seq_prefill(q, ids, n, NULL);
    }
    if (e == OK) e = c->e;
    if (!c->policy_line) c->policy_line = mem_strdup(policy_describe(p));
    if (q) seq_destroy(q);
    cache_space_destroy(space);
    policy_destroy(p);
    return e;
}

static err add_loss(heads_loss *x, const int32_t *ids, const options *o) {
    char *temp = mem_sprintf("%s%s.layer", strchr(o->write, '/') ? "" : "./", o->write); /* a bare name is a file of configs/profiles */
    err e = heads_loss_add(x, ids, temp);
    mem_free(temp);
    return e;
}

/* Windows spread evenly over one text: the first at its start, the last at its end; a single one of --loss in its middle. */
static err add_text(const session *s, const options *o, const char *path, int n_windows, collector *c, progress *bar, int *done) {
    char *text;
    size_t n;
    token_list ids = {0};
    TRY(io_read_file(path, max_text_bytes, &text, &n));
    err e = tokenizer_encode(engine_tokenizer(s->e), text, n, false, false, &ids);
    mem_free(text);
    int needed = o->context + (c->loss ? LOSS_ROWS : 0);
    if (e == OK && ids.n < needed) e = ERR(ERR_USAGE, "%s has %d tokens; %d are needed with --context %d", path, ids.n, needed, o->context);
    for (int w = 0; w < n_windows && e == OK; w++) {
        int64_t spare = ids.n - needed, at = n_windows > 1 ? spare * w / (n_windows - 1) : c->loss ? spare / 2 : 0;
        if (c->loss) e = add_loss(c->loss, ids.ids + at, o);
        else e = add_window(s, ids.ids + at, o->context, c);
        progress_update(bar, ++*done, path);
    }
    token_list_free(&ids);
    return e;
}

/* Places between both tables: a quarter of the way from the other profile's to this one's. */
static err join(head_profile *p, const char *path) {
    head_profile *other;
    TRY(head_profile_read(path, &other));
    if (other->n_layers != p->n_layers || other->n_kv != p->n_kv || strcmp(other->model_sha256, p->model_sha256) != 0) {
        head_profile_free(other);
        return ERR(ERR_USAGE, "--join %s is a profile of another model", path);
    }
    for (int i = 0; i < p->n_layers * p->n_kv * PROFILE_POINTS; i++) p->table[i] = (uint16_t)((p->table[i] + 3 * other->table[i] + 2) / 4);
    char *origin = mem_sprintf("a quarter of (%s), three of (%s)", p->origin, other->origin);
    mem_free(p->origin);
    p->origin = origin;
    head_profile_free(other);
    return OK;
}

static err write_profile(const session *s, const options *o, int n_windows, const collector *c) {
    head_profile *p;
    char *origin = mem_sprintf("%d texts, %d windows each, %d tokens, %s%s", o->n_args, n_windows, o->context, o->loss ? "loss of outputs, ranked by " : "", c->policy_line);
    err e = profile_builder_finish(c->b, s->g.model_sha256, origin, &p);
    mem_free(origin);
    if (e != OK) return e;
    if (o->join) e = join(p, o->join);
    if (e == OK) e = head_profile_write(o->write, p);
    if (e == OK) log_info("%s: %d layers of %d KV heads; use it as quota: {profile: {file: %s}}", o->write, p->n_layers, p->n_kv, o->write);
    head_profile_free(p);
    return e;
}

static err open_with(const options *o, bool default_sets, session *s) {
    enum { N = sizeof default_loss_sets / sizeof *default_loss_sets };
    options with = *o;
    if (!default_sets) return session_open(o, s);
    with.sets = (text_list){0};
    TRY(mem_alloc(MEM_OTHER, (size_t)(N + o->sets.n) * sizeof *with.sets.at, &with.sets.at));
    for (int i = 0; i < N + o->sets.n; i++) with.sets.at[with.sets.n++] = i < N ? default_loss_sets[i] : o->sets.at[i - N];
    err e = session_open(&with, s);
    mem_free(with.sets.at);
    return e;
}

err calibrate_heads(const options *o) {
    session s;
    options with = *o;
    collector c = {0};
    int n_windows = o->records, done = 0;
    if (o->goal || o->vary.n) return ERR(ERR_USAGE, "--heads takes no --goal and no --vary: nothing is searched for");
    if (!o->n_args) return ERR(ERR_USAGE, "kvlab calibrate --heads needs calibration texts: kvlab calibrate --heads a.txt b.txt --write model.profile");
    if (!o->write) return ERR(ERR_USAGE, "kvlab calibrate --heads needs --write FILE for the profile");
    if (!o->policy) with.policy = o->loss ? default_loss_policy : default_policy;
    TRY(open_with(&with, o->loss && !o->policy, &s));
    err e = o->loss ? heads_loss_create(&s, s.policy, o->context, &c.loss) : OK;
    progress *bar = progress_begin("calibrate", o->n_args * n_windows, !o->no_progress && !o->quiet);
    for (int i = 0; i < o->n_args && e == OK; i++) e = add_text(&s, o, o->args[i], n_windows, &c, bar, &done);
    progress_end(bar, e == OK);
    if (e == OK && c.loss) e = heads_loss_finish(c.loss, &c.b, &c.policy_line);
    if (e == OK) e = write_profile(&s, o, n_windows, &c);
    heads_loss_destroy(c.loss);
    profile_builder_destroy(c.b);
    mem_free(c.keys);
    mem_free(c.n_of);
    mem_free(c.policy_line);
    session_close(&s);
    return e;
}
