#include "run/session.h"

#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "run/preset.h"
#include "run/resolve.h"

/* P is a preset name or a file whose map, or whose `policy` map, is meant. */
static err set_policy(node *root, const char *name) {
    size_t n = strlen(name);
    bool path = strchr(name, '/') || (n > 5 && strcmp(name + n - 5, ".yaml") == 0);
    if (!path) return resolve_set_text(root, "policy.preset", name, "--policy");
    node *file;
    TRY(node_parse_file(name, &file));
    const node *inner = node_get(file, "policy");
    err e = node_type(inner ? inner : file) == NODE_MAP ? node_set_node(root, "policy", inner ? inner : file)
                                                        : ERR(ERR_USAGE, "%s is not a map of a policy", name);
    node_free(file);
    return e;
}

static err build_root(const options *o, node *root) {
    char number[32];
    TRY(resolve_set_text(root, "model", o->model ? o->model : "smollm2-135m", "--model"));
    TRY(set_policy(root, o->policy ? o->policy : "full"));
    if (o->math) TRY(resolve_set_text(root, "engine.math", o->math, "--math"));
    if (o->isa) TRY(resolve_set_text(root, "engine.isa", o->isa, "--isa"));
    if (o->backend) TRY(resolve_set_text(root, "engine.backend", o->backend, "--backend"));
    snprintf(number, sizeof number, "%d", o->threads);
    if (o->threads > 0) TRY(node_set_text(root, "engine.threads", number, "--threads"));
    snprintf(number, sizeof number, "%lld", (long long)o->seed);
    if (o->seed >= 0) TRY(node_set_text(root, "seed", number, "--seed"));
    for (int i = 0; i < o->sets.n; i++) {
        TRY(sweep_apply_set(root, o->sets.at[i]));
        if (node_get(root, "sweep"))
            return ERR(ERR_USAGE, "--set %s gives several values; kvlab %s takes one", o->sets.at[i], o->verb->name);
    }
    return OK;
}

static err open_engine(session *s) {
    const experiment none = {0};
    TRY(resolve_engine(&none, s->root, &s->g));
    TRY(preset_resolve_policy(node_get(s->root, "policy"), &s->policy));
    TRY(node_check_read(s->root));
    policy *try_it; /* a policy that cannot be is refused before weights are packed */
    TRY(policy_create(s->policy, resolve_shape(&s->g), &try_it));
    err e = policy_load(try_it);
    policy_destroy(try_it);
    TRY(e);
    engine_conf c = {s->g.model_path, s->g.backend, s->g.isa, s->g.math, s->g.threads, s->g.context};
    return engine_open(&c, &s->e);
}

err session_open(const options *o, session *out) {
    *out = (session){.root = node_new_map("command line")};
    err e = build_root(o, out->root);
    if (e == OK) e = open_engine(out);
    if (e != OK) session_close(out);
    return e;
}

void session_close(session *s) {
    if (s->e) engine_close(s->e);
    experiment_group_free(&s->g);
    node_free(s->policy);
    node_free(s->root);
    *s = (session){0};
}

err session_policy(const session *s, const node *conf, int n_tokens, policy **p, cache_space **space) {
    *space = NULL;
    TRY(policy_create(conf ? conf : s->policy, resolve_shape(&s->g), p));
    err e = policy_load(*p);
    if (e == OK) e = cache_space_create(s->e, *p, n_tokens, 0, space);
    if (e == OK) return OK;
    policy_destroy(*p);
    *p = NULL;
    return e;
}

err session_full_conf(const session *s, node **out) {
    const char *text = s->g.math == MATH_EXACT ? "tiers: [f32]" : "tiers: [f16]";
    return node_parse_text(text, strlen(text), "full", out);
}
