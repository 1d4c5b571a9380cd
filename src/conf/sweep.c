#include "conf/sweep.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "conf/ranges.h"
#include "conf/tree.h"

enum { MAX_POINTS = 10000, MAX_AXES = 64 };

/* One key of a sub-grid with its alternatives. */
typedef struct axis {
    const char *path;
    const node *key;      /* the entry, for messages */
    const node **values;  /* in the sweep's tree */
    int n;
} axis;

typedef struct grid {
    const node *map;
    axis axes[MAX_AXES];
    int n_axes;
} grid;

static bool is_prefix(const char *path, const char *of) {
    size_t n = strlen(path);
    return strncmp(path, of, n) == 0 && of[n] == '.';
}

static void grid_free(grid *g) {
    for (int i = 0; i < g->n_axes; i++) mem_free(g->axes[i].values);
    g->n_axes = 0;
}

/* An alternative `{name: text, set: {path: value, ...}}` sets several values at once and goes by its name. */
static const node *named_set(const node *value) {
    const node *name = tree_find(value, "name"), *set = tree_find(value, "set");
    return value->kind == NODE_MAP && value->n == 2 && name && set ? set : NULL;
}

static err check_named(const node *value) {
    const node *set = named_set(value), *name = set ? tree_find(value, "name") : NULL;
    if (!set) return OK;
    if (name->kind != NODE_SCALAR || !*name->text) return NODE_ERR(name, "the name of an alternative is a word");
    if (set->kind != NODE_MAP || set->n == 0) return NODE_ERR(set, "alternative %s: set is a map from paths to values, like {policy.score: random}", name->text);
    return OK;
}

static err read_axis(node *entry, axis *a) {
    *a = (axis){.path = entry->key, .key = entry};
    node *list = entry;
    if (entry->kind != NODE_LIST) {
        list = tree_node(entry->tree, NODE_LIST, entry->file, entry->line, entry->col);
        tree_append(list, entry);
    }
    if (list->n == 0) return NODE_ERR(entry, "axis %s has no values", entry->key);
    node *values = tree_node(entry->tree, NODE_LIST, entry->file, entry->line, entry->col);
    for (int i = 0; i < list->n; i++) TRY(range_expand(list->items[i], values));
    for (int i = 0; i < values->n; i++) TRY(check_named(values->items[i]));
    a->n = values->n;
    a->values = mem_alloc_small((size_t)a->n * sizeof *a->values);
    for (int i = 0; i < a->n; i++) a->values[i] = values->items[i];
    return OK;
}

static err read_grid(const node *map, grid *g) {
    *g = (grid){.map = map};
    if (map->kind != NODE_MAP) return NODE_ERR(map, "a sub-grid is a map from paths to values, like {policy.budget: [0.5, 0.25]}");
    if (map->n > MAX_AXES) return NODE_ERR(map, "%d axes in one sub-grid; at most %d are supported", map->n, MAX_AXES);
    for (int i = 0; i < map->n; i++) {
        node *entry = map->items[i];
        entry->read = true;
        for (int k = 0; k < i; k++)
            if (is_prefix(entry->key, map->items[k]->key))
                return NODE_ERR(entry, "axis %s would overwrite axis %s; write it before that one", entry->key, map->items[k]->key);
        TRY(read_axis(entry, &g->axes[g->n_axes++]));
    }
    return OK;
}

/* The sub-grids of `sweep:` as maps. */
static err find_grids(const node *root, const node ***maps, int *n) {
    *maps = NULL;
    *n = 0;
    const node *sw = node_get(root, "sweep");
    if (node_type(sw) == NODE_NULL) return OK;
    if (node_type(sw) != NODE_MAP) return NODE_ERR(sw, "sweep must be {grid: {...}} or {list: [{...}, ...]}");
    const node *one = node_get(sw, "grid"), *list = node_get(sw, "list");
    TRY(node_check_read(sw));
    if (!one == !list) return NODE_ERR(sw, "sweep takes either grid or list");
    if (list && (list->kind != NODE_LIST || list->n == 0)) return NODE_ERR(list, "sweep.list must be a list of sub-grids");
    *n = one ? 1 : list->n;
    *maps = mem_alloc_small((size_t)*n * sizeof **maps);
    for (int i = 0; i < *n; i++) (*maps)[i] = one ? one : list->items[i];
    return OK;
}

/* The `take`-th part from the end: "rows" of "policy.score.rows" for 1, "score.rows" for 2. */
static const char *path_tail(const char *path, int take) {
    const char *s = path + strlen(path);
    while (s > path && take > 0)
        if (*--s == '.' && --take == 0) return s + 1;
    return s;
}

/* As few trailing components as tell this axis from the others of the point. */
static const char *short_name(const sweep_point *p, int axis_i) {
    const char *path = p->axes[axis_i].path;
    for (int take = 1;; take++) {
        const char *tail = path_tail(path, take);
        bool unique = true;
        for (int k = 0; k < p->n_axes; k++) unique &= k == axis_i || strcmp(path_tail(p->axes[k].path, take), tail) != 0;
        if (unique || tail == path) return tail;
    }
}

/* "{bytes: 0.25}" -> "bytes:0.25": a label is one word per axis where it can be. */
static char *label_value(const char *text) {
    size_t n = strlen(text);
    bool map = n >= 2 && text[0] == '{';
    char *s = mem_alloc_small(n + 1), *out = s;
    for (size_t i = map; i < n - map; i++)
        if (!(text[i] == ' ' && i > 0 && strchr(":,", text[i - 1]))) *out++ = text[i];
    return s;
}

static char *make_label(const sweep_point *p, bool whole_paths) {
    char *label = mem_strdup("");
    for (int i = 0; i < p->n_axes; i++) {
        const char *name = whole_paths ? p->axes[i].path : short_name(p, i);
        bool bare = !whole_paths && (p->axes[i].named || strcmp(path_tail(p->axes[i].path, 1), "preset") == 0); /* a name says enough */
        char *value = label_value(p->axes[i].text);
        char *longer = mem_sprintf("%s%s%s%s%s", label, i ? " " : "", bare ? "" : name, bare ? "" : "=", value);
        mem_free(value);
        mem_free(label);
        label = longer;
    }
    return label;
}

/* A file without axes is one point, called after its policy, else after itself. */
static char *single_label(const node *conf) {
    const node *policy = tree_find(conf, "policy"), *preset = tree_find(policy, "preset"), *name = tree_find(conf, "name");
    if (node_type(preset) == NODE_SCALAR) return mem_strdup(preset->text);
    if (node_type(name) == NODE_SCALAR) return mem_strdup(name->text);
    return mem_strdup("base");
}

static err make_point(const node *base, const grid *g, int which, sweep_point *p) {
    *p = (sweep_point){.conf = node_clone(base), .origin = g->map, .n_axes = g->n_axes};
    p->axes = mem_alloc_small((size_t)(g->n_axes + 1) * sizeof *p->axes);
    int index[MAX_AXES];
    for (int i = g->n_axes - 1; i >= 0; i--) { /* the last axis is the fastest */
        index[i] = which % g->axes[i].n;
        which /= g->axes[i].n;
    }
    for (int i = 0; i < g->n_axes; i++) {
        const axis *a = &g->axes[i];
        const node *value = a->values[index[i]];
        const node *set = named_set(value);
        p->axes[i] = (sweep_axis_value){mem_strdup(a->path), set ? mem_strdup(tree_find(value, "name")->text) : node_flow(value), set != NULL};
        if (!set) TRY(node_set_node(p->conf, a->path, value));
        for (int k = 0; set && k < set->n; k++) TRY(node_set_node(p->conf, set->items[k]->key, set->items[k]));
    }
    p->label = g->n_axes ? make_label(p, false) : single_label(p->conf);
    return OK;
}

static err expand_grid(const node *base, const grid *g, sweep *out) {
    int64_t n = 1;
    for (int i = 0; i < g->n_axes && n <= MAX_POINTS; i++) n *= g->axes[i].n;
    if (out->n + n > MAX_POINTS) return NODE_ERR(g->map, "the sweep has more than %d points", MAX_POINTS);
    sweep_point *more = mem_alloc_small((size_t)(out->n + n) * sizeof *more);
    if (out->n) memcpy(more, out->points, (size_t)out->n * sizeof *more);
    mem_free(out->points);
    out->points = more;
    for (int i = 0; i < (int)n; i++) TRY(make_point(base, g, i, &out->points[out->n++]));
    return OK;
}

typedef struct keyed {
    uint64_t hash;
    int point;
} keyed;

static int by_hash(const void *a, const void *b) {
    const keyed *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->point - y->point;
}

static uint64_t hash_text(const char *s) {
    return hash_bytes(s, strlen(s), 0);
}

static err check_all_differ(const sweep *s) {
    keyed *k = mem_alloc_small((size_t)(s->n + 1) * sizeof *k);
    for (int i = 0; i < s->n; i++) {
        char *text = node_canonical(s->points[i].conf);
        k[i] = (keyed){hash_text(text), i};
        mem_free(text);
    }
    qsort(k, (size_t)s->n, sizeof *k, by_hash);
    err e = OK;
    for (int i = 1; i < s->n && e == OK; i++)
        if (k[i].hash == k[i - 1].hash) {
            const sweep_point *a = &s->points[k[i - 1].point], *b = &s->points[k[i].point];
            e = NODE_ERR(b->origin, "point \"%s\" is the same as point \"%s\" of %s", b->label, a->label, node_place(a->origin));
        }
    mem_free(k);
    return e;
}

/* Equal short labels (axes of different sub-grids) become labels with whole paths, and numbers if those are equal too. */
static void make_labels_differ(sweep *s) {
    for (int round = 0; round < 2; round++) {
        keyed *k = mem_alloc_small((size_t)(s->n + 1) * sizeof *k);
        for (int i = 0; i < s->n; i++) k[i] = (keyed){hash_text(s->points[i].label), i};
        qsort(k, (size_t)s->n, sizeof *k, by_hash);
        for (int i = 0; i < s->n; i++) {
            bool equal = (i > 0 && k[i].hash == k[i - 1].hash) || (i + 1 < s->n && k[i].hash == k[i + 1].hash);
            if (!equal) continue;
            sweep_point *p = &s->points[k[i].point];
            char *longer = round == 0 && p->n_axes ? make_label(p, true) : mem_sprintf("%s #%d", p->label, k[i].point + 1);
            mem_free(p->label);
            p->label = longer;
        }
        mem_free(k);
    }
}

err sweep_expand(const node *root, sweep *out) {
    *out = (sweep){0};
    if (node_type(root) != NODE_MAP) return NODE_ERR(root, "an experiment is a map with model, tasks and policy");
    const node **maps;
    int n_maps;
    TRY(find_grids(root, &maps, &n_maps));
    node *base = node_clone(root);
    tree_remove(base, "sweep");
    err e = OK;
    grid *g = mem_alloc_small(sizeof *g);
    if (n_maps == 0) {
        g->map = root;
        e = expand_grid(base, g, out);
    }
    for (int i = 0; i < n_maps && e == OK; i++) {
        e = read_grid(maps[i], g);
        if (e == OK) e = expand_grid(base, g, out);
        grid_free(g);
    }
    mem_free(g);
    mem_free(maps);
    node_free(base);
    if (e == OK) e = check_all_differ(out);
    if (e == OK) make_labels_differ(out);
    if (e != OK) sweep_free(out);
    return e;
}

void sweep_free(sweep *s) {
    for (int i = 0; i < s->n; i++) {
        sweep_point *p = &s->points[i];
        for (int k = 0; k < p->n_axes; k++) {
            mem_free(p->axes[k].path);
            mem_free(p->axes[k].text);
        }
        mem_free(p->axes);
        mem_free(p->label);
        node_free(p->conf);
    }
    mem_free(s->points);
    *s = (sweep){0};
}
