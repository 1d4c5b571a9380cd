/* Models by preset or path, and where their files are looked for. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/mem.h"
#include "run/preset.h"

void model_ref_free(model_ref *m) {
    mem_free(m->name);
    mem_free(m->path);
    mem_free(m->sha256);
    *m = (model_ref){0};
}

static bool is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

static char *cache_dir(void) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (xdg && *xdg == '/') return io_join(xdg, "kvlab/models");
    return io_join(home && *home ? home : ".", ".cache/kvlab/models");
}

static err text_key(const node *map, const char *key, char **out) {
    const node *v = node_get(map, key);
    *out = NULL;
    if (!v) return OK;
    if (node_type(v) != NODE_SCALAR) return NODE_ERR(v, "%s is not a text", key);
    *out = mem_strdup(node_text(v));
    return OK;
}

static err from_preset(const char *name, const node *where, model_ref *out) {
    node *root;
    char *summary = NULL, *file = NULL, *pip = NULL, *fetch = NULL, *sha = NULL, *dir = NULL;
    err e;
    TRY(preset_load("models", name, where, &root));
    GOTO(done, e, text_key(root, "summary", &summary));
    GOTO(done, e, text_key(root, "file", &file));
    GOTO(done, e, text_key(root, "sha256", &sha));
    GOTO(done, e, text_key(root, "pip", &pip));
    GOTO(done, e, text_key(root, "fetch", &fetch));
    GOTO(done, e, node_check_read(root));
    if (!file || (sha && strlen(sha) != 64)) /* without a digest the file is taken as it is */
        GOTO(done, e, NODE_ERR(root, "model preset %s needs `file`, and a `sha256` of 64 digits if it has one", name));
    dir = cache_dir();
    out->name = mem_strdup(name);
    out->path = io_join(dir, file);
    out->sha256 = sha;
    sha = NULL;
    if (!is_file(out->path))
        e = ERR(ERR_ENV, "model %s is not installed: %s is missing; %s%s%s", name, out->path, out->sha256 ? "`" : "",
                fetch ? fetch : "make model", out->sha256 ? "` fetches it" : "");
done:
    mem_free(summary);
    mem_free(file);
    mem_free(pip);
    mem_free(fetch);
    mem_free(sha);
    mem_free(dir);
    node_free(root);
    return e;
}

static err from_path(const char *path, model_ref *out) {
    if (!is_file(path)) return ERR(ERR_ENV, "model file %s does not exist", path);
    out->name = mem_strdup(path);
    out->path = mem_strdup(path);
    return OK;
}

err model_ref_find(const char *name_or_path, model_ref *out) {
    *out = (model_ref){0};
    size_t n = strlen(name_or_path);
    bool looks_like_path = strchr(name_or_path, '/') || (n > 5 && strcmp(name_or_path + n - 5, ".gguf") == 0);
    err e = looks_like_path || (is_file(name_or_path) && !preset_exists("models", name_or_path))
                ? from_path(name_or_path, out)
                : from_preset(name_or_path, NULL, out);
    if (e != OK) model_ref_free(out);
    return e;
}

err model_ref_resolve(const node *model, model_ref *out) {
    *out = (model_ref){0};
    if (node_type(model) == NODE_SCALAR) {
        err e = model_ref_find(node_text(model), out);
        return e == OK ? OK : err_wrap(e, "%s", node_place(model));
    }
    if (node_type(model) != NODE_MAP) {
        if (!model)
            return ERR(ERR_USAGE, "no model: the sweep needs `model: {preset: smollm2-135m}` or `model: {path: FILE}`");
        return NODE_ERR(model, "model is neither a name nor a map {preset: ...} or {path: ...}");
    }
    const node *preset = node_get(model, "preset"), *path = node_get(model, "path");
    if ((preset != NULL) == (path != NULL)) return NODE_ERR(model, "model needs one of `preset` and `path`");
    const node *given = preset ? preset : path;
    if (node_type(given) != NODE_SCALAR) return NODE_ERR(given, "model.%s is not a text", preset ? "preset" : "path");
    TRY(node_check_read(model));
    err e = preset ? from_preset(node_text(preset), preset, out) : from_path(node_text(path), out);
    if (e == OK) return OK;
    model_ref_free(out);
    return path ? err_wrap(e, "%s", node_place(path)) : e;
}

err model_ref_check(const model_ref *m, char sha256[65]) {
    TRY(hash_file_sha256(m->path, sha256));
    if (!m->sha256 || strcmp(m->sha256, sha256) == 0) return OK;
    return ERR(ERR_ENV, "model %s: %s has SHA-256 %.12s..., expected %.12s...; delete it and fetch it again", m->name,
               m->path, sha256, m->sha256);
}
