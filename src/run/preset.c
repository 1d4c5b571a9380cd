#include "run/preset.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "base/mem.h"

static bool is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* ---- the folder ---- */

static bool has_configs(const char *dir, char **out) {
    char *configs = io_join(dir, "configs"), *policies = io_join(configs, "policies");
    bool ok = is_dir(policies);
    mem_free(policies);
    *out = ok ? configs : NULL;
    if (!ok) mem_free(configs);
    return ok;
}

err preset_dir(char **out) {
    enum { LEVELS = 6 }; /* build/san/kvlab finds the repository's */
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    *out = NULL;
    if (n > 0) {
        exe[n] = 0;
        for (int i = 0; i < LEVELS; i++) {
            char *slash = strrchr(exe, '/');
            if (!slash || slash == exe) break;
            *slash = 0;
            if (has_configs(exe, out)) return OK;
        }
    }
    if (has_configs(".", out)) return OK;
    return ERR(ERR_ENV, "no configs folder beside the kvlab executable or in the current directory");
}

const char *preset_profile_dir(void) {
    static char dir[PATH_MAX]; /* equal bytes from every caller */
    char *configs;
    if (preset_dir(&configs) != OK) return NULL;
    snprintf(dir, sizeof dir, "%s/profiles", configs);
    mem_free(configs);
    return dir;
}

/* ---- files ---- */

static int is_yaml(const struct dirent *d) {
    size_t n = strlen(d->d_name);
    return n > 5 && d->d_name[0] != '.' && strcmp(d->d_name + n - 5, ".yaml") == 0;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

err preset_list(const char *kind, char ***names, int *n) {
    char *configs;
    *names = NULL;
    *n = 0;
    TRY(preset_dir(&configs));
    char *dir = io_join(configs, kind);
    struct dirent **found = NULL;
    int count = scandir(dir, &found, is_yaml, NULL);
    err e = count < 0 ? ERR(ERR_ENV, "cannot read %s: %s", dir, strerror(errno))
                      : mem_alloc(MEM_OTHER, (size_t)count * sizeof **names, names);
    for (int i = 0; i < count; i++) {
        if (e == OK) (*names)[(*n)++] = mem_sprintf("%.*s", (int)strlen(found[i]->d_name) - 5, found[i]->d_name);
        free(found[i]);
    }
    free(found);
    mem_free(dir);
    mem_free(configs);
    if (e == OK && *n > 1) qsort(*names, (size_t)*n, sizeof **names, by_name);
    return e;
}

void preset_list_free(char **names, int n) {
    for (int i = 0; i < n; i++) mem_free(names[i]);
    mem_free(names);
}

static err preset_path(const char *kind, const char *name, char **out) {
    char *configs;
    *out = NULL;
    TRY(preset_dir(&configs));
    *out = mem_sprintf("%s/%s/%s.yaml", configs, kind, name);
    mem_free(configs);
    return OK;
}

static bool valid_name(const char *name) {
    return *name && *name != '.' && !strchr(name, '/') && strlen(name) < NAME_MAX - 16;
}

bool preset_exists(const char *kind, const char *name) {
    char *path;
    if (!valid_name(name) || preset_path(kind, name, &path) != OK) return false;
    bool yes = io_exists(path);
    mem_free(path);
    return yes;
}

static err unknown_preset(const char *kind, const char *name, const node *where) {
    char **names;
    int n;
    TRY(preset_list(kind, &names, &n));
    const char *near = node_suggest(name, (const char *const *)names, n);
    char *hint = near ? mem_sprintf("; did you mean %s?", near) : mem_strdup(";");
    err e = where ? NODE_ERR(where, "unknown preset %s%s `kvlab ls %s` lists them", name, hint, kind)
                  : ERR(ERR_USAGE, "unknown preset %s%s `kvlab ls %s` lists them", name, hint, kind);
    mem_free(hint);
    preset_list_free(names, n);
    return e;
}

err preset_load(const char *kind, const char *name, const node *where, node **out) {
    *out = NULL;
    if (!preset_exists(kind, name)) return unknown_preset(kind, name, where);
    char *path;
    TRY(preset_path(kind, name, &path));
    err e = node_parse_file(path, out);
    if (e == OK && node_type(*out) != NODE_MAP) {
        e = NODE_ERR(*out, "preset %s is not a map", name);
        node_free(*out);
        *out = NULL;
    }
    mem_free(path);
    return e;
}

static char *first_comment(const char *path) {
    char *text;
    size_t n;
    if (io_read_file(path, 1 << 20, &text, &n) != OK) return mem_strdup("");
    char *about = text[0] == '#' ? mem_sprintf("%.*s", (int)strcspn(text + 1, "\n"), text + 1 + strspn(text + 1, " "))
                                 : mem_strdup("");
    char *nl = strchr(about, '\n');
    if (nl) *nl = 0;
    mem_free(text);
    return about;
}

static char *preset_text(const char *kind, const char *name, const char *key) {
    node *root;
    char *text = NULL;
    if (preset_load(kind, name, NULL, &root) != OK) return NULL;
    const node *a = node_get(root, key);
    if (node_type(a) == NODE_SCALAR) text = mem_strdup(node_text(a));
    node_free(root);
    return text;
}

char *preset_origin(const char *kind, const char *name) {
    char *origin = preset_text(kind, name, "origin");
    return origin ? origin : mem_strdup("");
}

char *preset_about(const char *kind, const char *name) {
    char *path, *about = preset_text(kind, name, "summary");
    if (!about && preset_path(kind, name, &path) == OK) {
        about = first_comment(path);
        mem_free(path);
    }
    return about ? about : mem_strdup("");
}

/* ---- merging ---- */

static bool is_choice(const char *key) {
    static const char *const choices[] = {"score", "quota", "select", "tier", "decide", "budget"};
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        if (strcmp(choices[i], key) == 0) return true;
    return false;
}

static bool share_a_key(const node *a, const node *b) {
    for (int i = 0; i < node_count(a); i++)
        for (int k = 0; k < node_count(b); k++)
            if (strcmp(node_key(a, i), node_key(b, k)) == 0) return true;
    return false;
}

err preset_merge(node *base, const node *over) {
    for (int i = 0; i < node_count(over); i++) {
        const char *key = node_key(over, i);
        const node *theirs = node_at(over, i), *ours = node_get(base, key);
        if (strcmp(key, "preset") == 0) continue;
        bool maps = node_type(theirs) == NODE_MAP && node_type(ours) == NODE_MAP;
        if (!maps || (is_choice(key) && !share_a_key(theirs, ours))) {
            TRY(node_set_node(base, key, theirs));
            continue;
        }
        node *merged = node_clone(ours); /* a tree is one domain: merge apart, then put back */
        err e = node_merge(merged, theirs);
        if (e == OK) e = node_set_node(base, key, merged);
        node_free(merged);
        TRY(e);
    }
    return OK;
}

static bool is_description(const char *key) {
    return strcmp(key, "summary") == 0 || strcmp(key, "origin") == 0;
}

/* The map of a preset: what lies under `key`, or the whole file without its descriptions. */
static err preset_map(const char *kind, const char *key, const char *name, const node *where, node **out) {
    node *root;
    TRY(preset_load(kind, name, where, &root));
    (void)node_get(root, "summary");
    (void)node_get(root, "origin");
    const node *inner = node_get(root, key);
    err e = OK;
    if (node_type(inner) == NODE_MAP) {
        *out = node_clone(inner);
        e = node_check_read(root);
    } else {
        *out = node_new_map(name);
        for (int i = 0; i < node_count(root) && e == OK; i++)
            if (!is_description(node_key(root, i))) e = node_set_node(*out, node_key(root, i), node_at(root, i));
    }
    node_free(root);
    if (e != OK) {
        node_free(*out);
        *out = NULL;
    }
    return e;
}

static err preset_resolve(const char *kind, const char *key, const node *given, node **out) {
    *out = NULL;
    if (node_type(given) == NODE_SCALAR) return preset_map(kind, key, node_text(given), given, out);
    if (node_type(given) == NODE_LIST) return NODE_ERR(given, "%s is a list; a preset name or a map is meant", key);
    const node *preset = node_get(given, "preset");
    if (preset && node_type(preset) != NODE_SCALAR) return NODE_ERR(preset, "preset is not a name");
    if (preset)
        TRY(preset_map(kind, key, node_text(preset), preset, out));
    else
        *out = node_new_map("(defaults)");
    node *merged = *out;
    err e = preset_merge(merged, given);
    *out = e == OK ? node_clone(merged) : NULL; /* a copy has no key marked as read: unread ones must be found later */
    node_free(merged);
    return e;
}

err preset_resolve_policy(const node *policy, node **out) {
    return preset_resolve("policies", "policy", policy, out);
}

err preset_resolve_task(const node *entry, node **out) {
    TRY(preset_resolve("tasks", "task", entry, out));
    if (node_type(node_get(*out, "task")) == NODE_SCALAR) return OK;
    err e = NODE_ERR(entry, "a task needs a preset name or `task: NAME`");
    node_free(*out);
    *out = NULL;
    return e;
}
