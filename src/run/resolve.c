#include "run/resolve.h"

#include <limits.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/preset.h"

policy_shape resolve_shape(const experiment_group *g) {
    model_params p = g->params;
    model_params_bound(&p, g->context);
    policy_shape s = policy_shape_of_model(&p, g->context ? g->context : p.context);
    s.model_sha256 = g->model_sha256;
    s.profile_dir = preset_profile_dir();
    return s;
}

err resolve_math(const node *value, math_mode *out) {
    static const char *const names[] = {"fast", "exact"};
    const char *text = node_type(value) == NODE_SCALAR ? node_text(value) : "";
    for (int i = 0; i < 2; i++) {
        if (strcmp(text, names[i]) != 0) continue;
        *out = i == 0 ? MATH_FAST : MATH_EXACT;
        return OK;
    }
    return NODE_ERR(value, "math is \"%s\"; it is fast or exact", text);
}

/* Any text as a YAML scalar: in single quotes, which double inside. */
err resolve_set_text(node *root, const char *dotted, const char *value, const char *origin) {
    size_t n = 0;
    char *quoted;
    TRY(mem_alloc(MEM_OTHER, 2 * strlen(value) + 3, &quoted));
    quoted[n++] = '\'';
    for (const char *s = value; *s; s++) {
        if (*s == '\'') quoted[n++] = '\'';
        quoted[n++] = *s;
    }
    quoted[n++] = '\'';
    err e = node_set_text(root, dotted, quoted, origin);
    mem_free(quoted);
    return e;
}

/* ---- engine ---- */

static err int_or_auto(const node *map, const char *key, int max, int *out) {
    const node *v = node_get(map, key);
    *out = 0;
    if (!v || (node_type(v) == NODE_SCALAR && strcmp(node_text(v), "auto") == 0)) return OK;
    int64_t x;
    TRY(node_as_int(v, &x));
    if (x < 1 || x > max) return NODE_ERR(v, "engine.%s is %lld; it is auto or 1..%d", key, (long long)x, max);
    *out = (int)x;
    return OK;
}

static err name_or_auto(const node *map, const char *key, char **out) {
    const node *v = node_get(map, key);
    if (v && node_type(v) != NODE_SCALAR) return NODE_ERR(v, "engine.%s is not a name", key);
    *out = mem_strdup(v ? node_text(v) : "auto");
    return OK;
}

/* Models are hashed and read once, however many points use them. */
static err read_model(const experiment *x, const node *given, experiment_group *g) {
    model_ref ref;
    TRY(model_ref_resolve(given, &ref));
    g->model = ref.name;
    g->model_path = ref.path;
    ref.name = ref.path = NULL;
    for (int i = 0; i < x->n_groups; i++) {
        if (strcmp(x->groups[i].model_path, g->model_path) != 0) continue;
        memcpy(g->model_sha256, x->groups[i].model_sha256, sizeof g->model_sha256);
        g->params = x->groups[i].params;
        model_ref_free(&ref);
        return OK;
    }
    gguf *file = NULL;
    model_ref check = {g->model, g->model_path, ref.sha256};
    err e = model_ref_check(&check, g->model_sha256);
    if (e == OK) e = gguf_open(g->model_path, &file);
    if (e == OK) e = model_read_params(file, &g->params);
    gguf_close(file);
    model_ref_free(&ref);
    return e;
}

static void group_identity(experiment_group *g) {
    char *text = mem_sprintf("%s %s %s %d %d %llu", g->model_sha256, g->backend, g->isa, (int)g->math, g->context,
                             (unsigned long long)g->seed);
    hash_hex64(hash_bytes(text, strlen(text), 0), g->id);
    mem_free(text);
}

static err read_engine(const node *engine_conf_map, experiment_group *g) {
    if (engine_conf_map && node_type(engine_conf_map) != NODE_MAP)
        return NODE_ERR(engine_conf_map, "engine is not a map {backend, isa, math, threads, context}");
    TRY(name_or_auto(engine_conf_map, "backend", &g->backend));
    TRY(name_or_auto(engine_conf_map, "isa", &g->isa));
    TRY(int_or_auto(engine_conf_map, "threads", 4096, &g->threads));
    TRY(int_or_auto(engine_conf_map, "context", 1 << 24, &g->context));
    const node *math = node_get(engine_conf_map, "math");
    if (math) TRY(resolve_math(math, &g->math));
    if (engine_conf_map) TRY(node_check_read(engine_conf_map));
    if (g->context > g->params.context)
        return NODE_ERR(node_get(engine_conf_map, "context"),
                        "engine.context is %d, but model %s has a context of %d tokens", g->context, g->model,
                        g->params.context);
    const backend *be;
    err e = backend_find(g->backend, g->isa, g->math, &be);
    if (e == ERR_UNSUPPORTED) e = ERR_ENV; /* something this build or machine lacks */
    return e == OK || !engine_conf_map ? e : err_wrap(e, "%s: engine", node_place(engine_conf_map));
}

void experiment_group_free(experiment_group *g) {
    mem_free(g->model);
    mem_free(g->model_path);
    mem_free(g->backend);
    mem_free(g->isa);
    *g = (experiment_group){0};
}

err resolve_engine(const experiment *x, const node *conf, experiment_group *g) {
    const node *seed = node_get(conf, "seed");
    int64_t s = 1;
    err e = OK;
    *g = (experiment_group){0};
    if (seed) e = node_as_int(seed, &s);
    if (e == OK && s < 0) e = NODE_ERR(seed, "seed is %lld; it must not be negative", (long long)s);
    g->seed = (uint64_t)s;
    if (e == OK) e = read_model(x, node_get(conf, "model"), g);
    if (e == OK) e = read_engine(node_get(conf, "engine"), g);
    if (e == OK)
        group_identity(g);
    else
        experiment_group_free(g);
    return e;
}

static err resolve_group(experiment *x, const node *conf, experiment_point *p) {
    experiment_group g;
    TRY(resolve_engine(x, conf, &g));
    for (int i = 0; i < x->n_groups; i++) {
        if (strcmp(x->groups[i].id, g.id) != 0) continue;
        p->group = i;
        experiment_group_free(&g);
        return OK;
    }
    p->group = x->n_groups;
    x->groups[x->n_groups++] = g;
    return OK;
}

/* ---- tasks ---- */

static err add_task(experiment *x, const node *entry, int *index) {
    node *conf;
    TRY(preset_resolve_task(entry, &conf));
    char *canonical = node_canonical(conf);
    for (int i = 0; i < x->n_tasks; i++) {
        if (strcmp(x->tasks[i].canonical, canonical) != 0) continue;
        *index = i;
        mem_free(canonical);
        node_free(conf);
        return OK;
    }
    const node *preset = node_type(entry) == NODE_SCALAR ? entry : node_get(entry, "preset");
    const char *base = preset ? node_text(preset) : node_text(node_path(conf, "task"));
    *index = x->n_tasks;
    x->tasks[x->n_tasks] = (experiment_task){mem_strdup(base), conf, canonical, NULL};
    return task_text_hashes(conf, x->data_dir, &x->tasks[x->n_tasks++].texts);
}

static err resolve_tasks(experiment *x, const node *conf, experiment_point *p) {
    const node *list = node_get(conf, "tasks");
    if (!list) return ERR(ERR_USAGE, "%s: no tasks: the sweep needs `tasks: [lm, ...]`", x->file);
    bool one = node_type(list) != NODE_LIST;
    int n = one ? 1 : node_count(list);
    if (n == 0 || node_type(list) == NODE_NULL) return NODE_ERR(list, "tasks is empty");
    TRY(mem_alloc(MEM_OTHER, (size_t)n * sizeof *p->tasks, &p->tasks));
    experiment_task *grown;
    TRY(mem_alloc(MEM_OTHER, (size_t)(x->n_tasks + n) * sizeof *grown, &grown));
    if (x->n_tasks) memcpy(grown, x->tasks, (size_t)x->n_tasks * sizeof *grown);
    mem_free(x->tasks);
    x->tasks = grown;
    for (int i = 0; i < n; i++) {
        const node *entry = one ? list : node_at(list, i);
        int index;
        TRY(add_task(x, entry, &index));
        for (int k = 0; k < p->n_tasks; k++)
            if (p->tasks[k] == index) return NODE_ERR(entry, "task %s is listed twice", x->tasks[index].name);
        p->tasks[p->n_tasks++] = index;
    }
    return OK;
}

/* Does the value of this key differ between task `a` and any other task of the same base name? */
static bool key_tells_apart(const experiment *x, int a, const char *base, char *const *bases, const char *key) {
    char *mine = node_canonical(node_path(x->tasks[a].conf, key));
    bool differs = false;
    for (int b = 0; b < x->n_tasks && !differs; b++) {
        if (b == a || strcmp(bases[b], base) != 0) continue;
        char *theirs = node_canonical(node_path(x->tasks[b].conf, key));
        differs = strcmp(mine, theirs) != 0;
        mem_free(theirs);
    }
    mem_free(mine);
    return differs;
}

/* Tasks of equal base names get the keys that tell them apart: "lm tokens=64". */
static err name_tasks(experiment *x) {
    char **bases;
    TRY(mem_alloc(MEM_OTHER, (size_t)x->n_tasks * sizeof *bases, &bases));
    for (int i = 0; i < x->n_tasks; i++) bases[i] = mem_strdup(x->tasks[i].name);
    for (int i = 0; i < x->n_tasks; i++) {
        const node *conf = x->tasks[i].conf;
        for (int k = 0; k < node_count(conf); k++) {
            if (!key_tells_apart(x, i, bases[i], bases, node_key(conf, k))) continue;
            char *value = node_canonical(node_at(conf, k));
            char *longer = mem_sprintf("%s %s=%s", x->tasks[i].name, node_key(conf, k), value);
            mem_free(value);
            mem_free(x->tasks[i].name);
            x->tasks[i].name = longer;
        }
    }
    for (int i = 0; i < x->n_tasks; i++)
        for (int k = 0; k < i; k++)
            if (strcmp(x->tasks[i].name, x->tasks[k].name) == 0) { /* one of them only lacks a key the other has */
                char *longer = mem_sprintf("%s #%d", x->tasks[i].name, i + 1);
                mem_free(x->tasks[i].name);
                x->tasks[i].name = longer;
                break;
            }
    for (int i = 0; i < x->n_tasks; i++) {
        mem_free(bases[i]);
        node *unread = node_clone(x->tasks[i].conf); /* looking at every key has marked them all; tasks refuse those that they do not read */
        node_free(x->tasks[i].conf);
        x->tasks[i].conf = unread;
    }
    mem_free(bases);
    return OK;
}

/* ---- policy ---- */

err experiment_policy(const experiment *x, int point, policy **out) {
    const experiment_point *p = &x->points[point];
    const experiment_group *g = &x->groups[p->group];
    return policy_create(p->policy, resolve_shape(g), out);
}

/* What the point's id says of plug-ins, and what messages do. */
static void name_plugins(const policy *p, char **hashes, char **paths) {
    policy_plugin list[POLICY_MAX_PLUGINS];
    int n = policy_list_plugins(p, list, POLICY_MAX_PLUGINS);
    *hashes = *paths = NULL;
    for (int i = 0; i < n; i++) {
        char *h = mem_sprintf("%s%c\"%s\":\"%s\"", i ? *hashes : "", i ? ',' : '{', list[i].stage, list[i].sha256);
        char *t = mem_sprintf("%s%s%s", i ? *paths : "", i ? ", " : "", list[i].path);
        mem_free(*hashes);
        mem_free(*paths);
        *hashes = h;
        *paths = t;
    }
    if (!n) return;
    char *closed = mem_sprintf("%s}", *hashes);
    mem_free(*hashes);
    *hashes = closed;
}

err experiment_load_plugins(const experiment *x, int point, policy *p) {
    const experiment_point *at = &x->points[point];
    if (!at->plugins) return OK;
    char *hashes, *paths;
    name_plugins(p, &hashes, &paths);
    bool same = strcmp(hashes, at->plugins) == 0;
    mem_free(hashes);
    mem_free(paths);
    if (!same) return ERR(ERR_FAILED, "plug-in %s has changed since the sweep began", at->plugin_paths);
    return policy_load(p);
}

/* A sweep goes on without it: the other points do not need it. */
static void warn_missing(const policy *p, const experiment_point *at) {
    policy_plugin list[POLICY_MAX_PLUGINS];
    int n = policy_list_plugins(p, list, POLICY_MAX_PLUGINS);
    for (int i = 0; i < n; i++)
        if (!*list[i].sha256) log_warn("%s: the %s plug-in %s cannot be read: its units will fail", at->label, list[i].stage, list[i].path);
}

static err resolve_policy(const experiment *x, const node *conf, experiment_point *p) {
    const experiment_group *g = &x->groups[p->group];
    policy *made;
    TRY(preset_resolve_policy(node_get(conf, "policy"), &p->policy));
    TRY(policy_create(p->policy, resolve_shape(g), &made));
    const policy_needs *needs = policy_get_needs(made);
    p->describe = mem_strdup(policy_describe(made));
    name_plugins(made, &p->plugins, &p->plugin_paths);
    warn_missing(made, p);
    p->n_tiers = needs->n_tiers;
    for (int t = 0; t < needs->n_tiers; t++) kv_format_name(needs->tiers[t], p->tiers[t]);
    p->full = policy_is_full(made) && kv_format_is_float(needs->tiers[0]);
    policy_destroy(made);
    return OK;
}

/* ---- points ---- */

static err check_keys(const node *conf) {
    static const char *const elsewhere[] = {"name", "question", "noise_floor", "data", "sweep"};
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++) (void)node_get(conf, elsewhere[i]);
    return node_check_read(conf);
}

/* The policy's own line is part of it: canonical JSON sorts keys, and the order of a tier's shares means something. */
static void point_identity(const experiment *x, experiment_point *p) {
    const experiment_group *g = &x->groups[p->group];
    char *pol = node_canonical(p->policy), *tasks = mem_strdup(""), *texts = mem_strdup("");
    for (int i = 0; i < p->n_tasks; i++) {
        const experiment_task *t = &x->tasks[p->tasks[i]];
        char *longer = mem_sprintf("%s%s%s", tasks, i ? "," : "", t->canonical), *more = mem_sprintf("%s%s%s", texts, *texts && *t->texts ? "," : "", t->texts);
        mem_free(tasks);
        mem_free(texts);
        tasks = longer;
        texts = more;
    }
    p->canonical = mem_sprintf(
        "{\"engine\":{\"backend\":\"%s\",\"context\":%d,\"isa\":\"%s\",\"math\":\"%s\"},\"model\":\"%s\",\"policy\":%s,"
        "\"policy_line\":\"%s\"%s%s,\"seed\":%llu,\"tasks\":[%s],\"text\":\"%s\"%s%s%s}",
        g->backend, g->context ? g->context : g->params.context, g->isa, g->math == MATH_FAST ? "fast" : "exact",
        g->model_sha256, pol, p->describe, p->plugins ? ",\"plugins\":" : "", p->plugins ? p->plugins : "", (unsigned long long)g->seed, tasks,
        x->text ? text_source_sha256(x->text) : "", *texts ? ",\"texts\":[" : "", texts, *texts ? "]" : "");
    hash_hex64(hash_bytes(p->canonical, strlen(p->canonical), 0), p->id);
    mem_free(pol);
    mem_free(tasks);
    mem_free(texts);
}

static err resolve_point(experiment *x, int i) {
    experiment_point *p = &x->points[i];
    const sweep_point *source = &x->sweep.points[i];
    p->source = source;
    p->conf = source->conf;
    p->label = mem_strdup(source->label && *source->label ? source->label : x->name);
    TRY(resolve_group(x, p->conf, p));
    TRY(resolve_tasks(x, p->conf, p));
    TRY(resolve_policy(x, p->conf, p));
    TRY(check_keys(p->conf));
    point_identity(x, p);
    for (int k = 0; k < i; k++)
        if (strcmp(x->points[k].id, p->id) == 0)
            return NODE_ERR(source->origin, "points \"%s\" and \"%s\" are the same after their presets are merged",
                            x->points[k].label, p->label);
    return OK;
}

err resolve_points(experiment *x) {
    TRY(mem_alloc(MEM_OTHER, (size_t)x->sweep.n * sizeof *x->points, &x->points));
    TRY(mem_alloc(MEM_OTHER, (size_t)x->sweep.n * sizeof *x->groups, &x->groups));
    for (int i = 0; i < x->sweep.n; i++) {
        x->n_points = i + 1;
        err e = resolve_point(x, i);
        if (e != OK)
            return x->sweep.n > 1 ? err_wrap(e, "point %d (%s)", i + 1, x->points[i].label ? x->points[i].label : "?")
                                  : e;
    }
    return name_tasks(x);
}

/* ---- resolved.yaml ---- */

static err point_yaml(const experiment *x, const experiment_point *p, node *root, int i) {
    const experiment_group *g = &x->groups[p->group];
    char key[64], number[32];
    err e = OK;
    node *map = node_new_map("resolved");
    GOTO(done, e, resolve_set_text(map, "id", p->id, "resolved"));
    GOTO(done, e, resolve_set_text(map, "label", p->label, "resolved"));
    GOTO(done, e, resolve_set_text(map, "model", g->model, "resolved"));
    GOTO(done, e, resolve_set_text(map, "model_sha256", g->model_sha256, "resolved"));
    GOTO(done, e, resolve_set_text(map, "backend", g->backend, "resolved"));
    GOTO(done, e, resolve_set_text(map, "isa", g->isa, "resolved"));
    GOTO(done, e, resolve_set_text(map, "math", g->math == MATH_FAST ? "fast" : "exact", "resolved"));
    snprintf(number, sizeof number, "%d", g->context ? g->context : g->params.context);
    GOTO(done, e, node_set_text(map, "context", number, "resolved"));
    snprintf(number, sizeof number, "%llu", (unsigned long long)g->seed);
    GOTO(done, e, node_set_text(map, "seed", number, "resolved"));
    GOTO(done, e, node_set_node(map, "policy", p->policy));
    GOTO(done, e, node_set_text(map, "tasks", "{}", "resolved"));
    for (int k = 0; k < p->n_tasks; k++) {
        snprintf(key, sizeof key, "tasks.%d", k + 1);
        GOTO(done, e, node_set_node(map, key, x->tasks[p->tasks[k]].conf));
    }
    snprintf(key, sizeof key, "points.%d", i + 1);
    e = node_set_node(root, key, map);
done:
    node_free(map);
    return e;
}

err experiment_resolved_yaml(const experiment *x, char **out) {
    node *root = node_new_map("resolved");
    *out = NULL;
    err e = resolve_set_text(root, "sweep_id", x->id, "resolved");
    if (e == OK) e = resolve_set_text(root, "name", x->name, "resolved");
    for (int i = 0; i < x->n_points && e == OK; i++) e = point_yaml(x, &x->points[i], root, i);
    if (e == OK) *out = node_yaml(root);
    node_free(root);
    return e;
}
