#include "run/experiment.h"

#include <fnmatch.h>
#include <string.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/mem.h"
#include "run/resolve.h"

static const size_t max_sweep_bytes = 16 << 20;

void experiment_free(experiment *x) {
    if (!x) return;
    for (int i = 0; i < x->n_points; i++) {
        experiment_point *p = &x->points[i];
        mem_free(p->label);
        mem_free(p->canonical);
        mem_free(p->describe);
        mem_free(p->tasks);
        mem_free(p->plugins);
        mem_free(p->plugin_paths);
        node_free(p->policy);
    }
    for (int i = 0; i < x->n_tasks; i++) {
        mem_free(x->tasks[i].name);
        mem_free(x->tasks[i].canonical);
        mem_free(x->tasks[i].texts);
        node_free(x->tasks[i].conf);
    }
    for (int i = 0; i < x->n_groups; i++) experiment_group_free(&x->groups[i]);
    mem_free(x->points);
    mem_free(x->tasks);
    mem_free(x->groups);
    mem_free(x->file);
    mem_free(x->name);
    mem_free(x->question);
    mem_free(x->dir);
    mem_free(x->text_path);
    mem_free(x->data_dir);
    mem_free(x->text_error);
    mem_free(x->yaml);
    text_source_close(x->text);
    sweep_free(&x->sweep);
    node_free(x->root);
    mem_free(x);
}

/* ---- options over the file ---- */

static err set_path(node *root, const char *dotted, const char *value, const char *origin, bool *changed) {
    if (!value) return OK;
    *changed = true;
    return resolve_set_text(root, dotted, value, origin);
}

static err set_number(node *root, const char *dotted, long long value, bool given, const char *origin, bool *changed) {
    if (!given) return OK;
    char text[32];
    snprintf(text, sizeof text, "%lld", value);
    *changed = true;
    return node_set_text(root, dotted, text, origin);
}

static err apply_options(node *root, const options *o, bool *changed) {
    for (int i = 0; i < o->sets.n; i++) {
        TRY(sweep_apply_set(root, o->sets.at[i]));
        *changed = true;
    }
    TRY(set_path(root, "engine.isa", o->isa, "--isa", changed));
    TRY(set_path(root, "engine.backend", o->backend, "--backend", changed));
    TRY(set_path(root, "data.text", o->text, "--text", changed));
    TRY(set_path(root, "data.dir", o->data, "--data", changed));
    TRY(set_number(root, "engine.threads", o->threads, o->threads > 0, "--threads", changed));
    return set_number(root, "seed", o->seed, o->seed >= 0, "--seed", changed);
}

/* ---- names and files ---- */

static char *base_name(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    return mem_sprintf("%.*s", dot && dot != name ? (int)(dot - name) : (int)strlen(name), name);
}

static err read_name(experiment *x) {
    const node *name = node_get(x->root, "name"), *question = node_get(x->root, "question");
    if (name && node_type(name) != NODE_SCALAR) return NODE_ERR(name, "name is not a text");
    if (question && node_type(question) != NODE_SCALAR) return NODE_ERR(question, "question is not a text");
    x->name = name ? mem_strdup(node_text(name)) : base_name(x->file);
    x->question = mem_strdup(question ? node_text(question) : "");
    if (!*x->name || strchr(x->name, '/') || *x->name == '.')
        return name ? NODE_ERR(name, "name \"%s\" cannot name a results directory", x->name)
                    : ERR(ERR_USAGE, "%s: the sweep needs a `name`", x->file);
    return OK;
}

static err data_path(const node *data, const char *key, char **out) {
    const node *v = node_get(data, key);
    if (!v || node_type(v) == NODE_NULL) return OK;
    if (node_type(v) != NODE_SCALAR) return NODE_ERR(v, "data.%s is not a path", key);
    *out = mem_strdup(node_text(v));
    return OK;
}

static err open_text(experiment *x) {
    const node *data = node_get(x->root, "data");
    if (data && node_type(data) != NODE_MAP) return NODE_ERR(data, "data is not a map {text: FILE, dir: DIR}");
    TRY(data_path(data, "text", &x->text_path));
    TRY(data_path(data, "dir", &x->data_dir));
    if (data) TRY(node_check_read(data));
    err e = text_source_open(x->text_path, x->data_dir, &x->text);
    if (e == OK) return OK;
    x->text = NULL;
    if (e != ERR_ENV || x->text_path) return e;
    x->text_error = mem_strdup(err_text()); /* an error only for tasks that want text */
    return OK;
}

static err read_noise(experiment *x) {
    const node *nf = node_get(x->root, "noise_floor");
    int64_t n = 2;
    if (nf) {
        if (node_type(nf) != NODE_MAP) return NODE_ERR(nf, "noise_floor is not a map {records: N}");
        const node *records = node_get(nf, "records");
        if (records) TRY(node_as_int(records, &n));
        if (n < 0 || n > 1000000)
            return NODE_ERR(records, "noise_floor.records is %lld; it must lie in 0..1000000", (long long)n);
        TRY(node_check_read(nf));
    }
    x->noise_records = (int)n;
    return OK;
}

static err read_yaml(experiment *x, bool changed) {
    size_t n;
    if (!changed) return io_read_file(x->file, max_sweep_bytes, &x->yaml, &n);
    char *yaml = node_yaml(x->root);
    x->yaml = mem_sprintf("# %s as changed on the command line\n%s", x->file, yaml);
    mem_free(yaml);
    return OK;
}

static void sweep_identity(experiment *x) {
    uint64_t h = 0;
    for (int i = 0; i < x->n_points; i++) h = hash_bytes(x->points[i].id, 16, h);
    hash_hex64(h, x->id);
}

static err load(experiment *x, const options *o) {
    bool changed = false;
    TRY(node_parse_file(x->file, &x->root));
    if (node_type(x->root) != NODE_MAP)
        return ERR(ERR_USAGE, "%s: a sweep file is a map with `model`, `tasks` and `sweep`", x->file);
    TRY(apply_options(x->root, o, &changed));
    TRY(read_yaml(x, changed));
    TRY(read_name(x));
    TRY(read_noise(x));
    TRY(open_text(x));
    x->dir = o->out ? mem_strdup(o->out) : mem_sprintf("results/%s", x->name);
    TRY(sweep_expand(x->root, &x->sweep));
    TRY(resolve_points(x));
    sweep_identity(x);
    return OK;
}

err experiment_load(const char *path, const options *o, experiment **out) {
    experiment *x;
    *out = NULL;
    TRY(mem_alloc(MEM_OTHER, sizeof *x, &x));
    x->file = mem_strdup(path);
    err e = load(x, o);
    if (e != OK) {
        experiment_free(x);
        return e;
    }
    *out = x;
    return OK;
}

bool experiment_point_matches(const experiment *x, int point, text_list globs) {
    for (int i = 0; i < globs.n; i++)
        if (fnmatch(globs.at[i], x->points[point].label, 0) == 0 || fnmatch(globs.at[i], x->points[point].id, 0) == 0) return true;
    return globs.n == 0;
}
