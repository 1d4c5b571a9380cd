/* --set a.b=v1,v2: one value is set, several become an axis of every sub-grid. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "conf/ranges.h"
#include "conf/sweep.h"
#include "conf/tree.h"

/* Length of the text up to the next comma that separates. */
static size_t value_length(const char *s) {
    int depth = 0;
    char quote = 0;
    size_t i = 0;
    for (; s[i]; i++) {
        char c = s[i];
        if (quote) {
            if (c == '\\' && quote == '"' && s[i + 1])
                i++;
            else if (c == quote)
                quote = 0;
        } else if (c == '"' || c == '\'') {
            quote = c;
        } else if (c == '[' || c == '{') {
            depth++;
        } else if (c == ']' || c == '}') {
            depth--;
        } else if (c == ',' && depth <= 0) {
            break;
        }
    }
    return i;
}

/* Parses one value and appends a copy of it, or the numbers of a range, to `list`. */
static err read_value(const char *text, size_t n, const char *origin, node *list) {
    size_t blank = 0;
    while (blank < n && text[blank] == ' ') blank++;
    if (blank == n) return ERR(ERR_USAGE, "%s: a value is missing; write null or '' if that is meant", origin);
    node *value;
    TRY(node_parse_text(text, n, origin, &value));
    value->line = value->col = 0;
    node *copy = tree_copy(list->tree, value);
    node_free(value);
    return range_expand(copy, list);
}

static err read_values(const char *text, const char *origin, node *list) {
    for (;;) {
        size_t n = value_length(text);
        TRY(read_value(text, n, origin, list));
        if (!text[n]) return OK;
        text += n + 1;
    }
}

static bool is_prefix(const char *path, const char *of) {
    size_t n = strlen(path);
    return strncmp(path, of, n) == 0 && of[n] == '.';
}

/* Does a named alternative of this axis set the path, or something above it? */
static bool alternative_sets(const node *axis, const char *path) {
    for (int i = 0; axis->kind == NODE_LIST && i < axis->n; i++) {
        const node *set = axis->items[i]->kind == NODE_MAP ? tree_find(axis->items[i], "set") : NULL;
        for (int k = 0; set && set->kind == NODE_MAP && k < set->n; k++)
            if (strcmp(set->items[k]->key, path) == 0 || is_prefix(set->items[k]->key, path)) return true;
    }
    return false;
}

/* Within one sub-grid: replaces the axis of this path. A single value needs an axis only where another would overwrite it. */
static err set_in_grid(node *grid, const char *path, const node *values) {
    if (grid->kind != NODE_MAP) return NODE_ERR(grid, "a sub-grid is a map from paths to values, like {policy.budget: [0.5, 0.25]}");
    bool needed = values->n > 1 || tree_find(grid, path);
    for (int i = 0; i < grid->n; i++) needed |= is_prefix(grid->items[i]->key, path) || alternative_sets(grid->items[i], path);
    if (!needed) return OK;
    if (grid->n == TREE_MAX_ENTRIES) return NODE_ERR(grid, "more than %d keys in one map", TREE_MAX_ENTRIES);
    tree_put(grid, path, tree_copy(grid->tree, values), values);
    return OK;
}

static err set_in_sweep(node *root, const char *path, const node *values) {
    node *sw = tree_find(root, "sweep"), *grid = tree_find(sw, "grid"), *list = tree_find(sw, "list");
    if (node_type(sw) == NODE_NULL) {
        if (values->n == 1) return OK;
        TRY(node_set_text(root, "sweep", "{grid: {}}", "--set"));
        grid = tree_find(tree_find(root, "sweep"), "grid");
    }
    if (grid) return set_in_grid(grid, path, values);
    if (node_type(list) != NODE_LIST) return NODE_ERR(sw, "sweep takes either grid or list");
    for (int i = 0; i < list->n; i++) TRY(set_in_grid(list->items[i], path, values));
    return OK;
}

static err apply(node *root, const char *path, const char *text, const char *origin) {
    node *list = tree_node(root->tree, NODE_LIST, tree_text(root->tree, origin, strlen(origin)), 0, 0);
    TRY(read_values(text, origin, list));
    assert(list->n > 0);
    TRY(set_in_sweep(root, path, list));
    return list->n == 1 ? node_set_node(root, path, list->items[0]) : OK;
}

err sweep_apply_set(node *root, const char *assignment) {
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment)
        return ERR(ERR_USAGE, "--set \"%.200s\": expected PATH=VALUE, like policy.budget=0.25", assignment);
    if (root->kind != NODE_MAP) return NODE_ERR(root, "an experiment is a map with model, tasks and policy");
    char *path = mem_sprintf("%.*s", (int)(equals - assignment), assignment);
    char *origin = mem_sprintf("--set %.200s", path);
    err e = apply(root, path, equals + 1, origin);
    mem_free(origin);
    mem_free(path);
    return e;
}
