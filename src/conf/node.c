#include "conf/node.h"

#include <assert.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "conf/tree.h"

void node_free(node *root) {
    if (!root) return;
    assert(root->tree->root == root);
    tree_free(root->tree);
}

node *node_clone(const node *n) {
    tree *t = tree_new();
    return tree_copy(t, n);
}

node *node_new_map(const char *file) {
    tree *t = tree_new();
    return t->root = tree_node(t, NODE_MAP, tree_text(t, file, strlen(file)), 0, 0);
}

node_kind node_type(const node *n) {
    return n ? n->kind : NODE_NULL;
}

int node_count(const node *n) {
    return n ? n->n : 0;
}

const node *node_at(const node *n, int i) {
    if (!n || i < 0 || i >= n->n) return NULL;
    n->items[i]->read = true;
    return n->items[i];
}

const char *node_key(const node *map, int i) {
    return map && map->kind == NODE_MAP && i >= 0 && i < map->n ? map->items[i]->key : NULL;
}

/* Remembers what was looked for, so that an unknown key can be answered with the nearest known one. */
static void note_asked(node *map, const char *key) {
    for (int i = 0; i < map->n_asked; i++)
        if (strcmp(map->asked[i], key) == 0) return;
    if (map->n_asked == map->cap_asked) {
        int cap = map->cap_asked ? map->cap_asked * 2 : 8;
        const char **asked = tree_alloc(map->tree, (size_t)cap * sizeof *asked);
        if (map->n_asked) memcpy(asked, map->asked, (size_t)map->n_asked * sizeof *asked);
        map->asked = asked;
        map->cap_asked = cap;
    }
    map->asked[map->n_asked++] = tree_text(map->tree, key, strlen(key));
}

const node *node_get(const node *map, const char *key) {
    if (!map || map->kind != NODE_MAP) return NULL;
    note_asked((node *)map, key); /* marks are not part of the value */
    node *n = tree_find(map, key);
    if (n) n->read = true;
    return n;
}

/* Takes "a" off "a.b.c"; false at the end or at an empty component. */
static bool next_component(const char **dotted, char out[TREE_MAX_KEY + 1]) {
    const char *s = *dotted;
    size_t n = strcspn(s, ".");
    if (n == 0 || n > TREE_MAX_KEY) return false;
    memcpy(out, s, n);
    out[n] = 0;
    *dotted = s[n] ? s + n + 1 : s + n;
    return true;
}

/* -1 when `s` is no index. */
static int list_index(const char *s) {
    if (!*s || strlen(s) > 6) return -1;
    for (const char *c = s; *c; c++)
        if (!isdigit((unsigned char)*c)) return -1;
    return atoi(s);
}

const node *node_path(const node *n, const char *dotted) {
    char part[TREE_MAX_KEY + 1];
    while (n && *dotted) {
        if (!next_component(&dotted, part)) return NULL;
        n = n->kind == NODE_LIST ? node_at(n, list_index(part)) : node_get(n, part);
    }
    return n;
}

const char *node_text(const node *scalar) {
    return scalar ? scalar->text : "";
}

/* A ring, so that one message can name several places. */
enum { PLACE_BYTES = 320 };
static char *place_buffer(void) {
    static _Thread_local char ring[4][PLACE_BYTES];
    static _Thread_local unsigned turn;
    return ring[turn++ % 4];
}

static const char *format_place(const char *file, int line, int col) {
    char *s = place_buffer();
    size_t n = strlen(file);
    const char *cut = n > 250 ? file + n - 250 : file; /* the end of a long path says more */
    if (line > 0)
        snprintf(s, PLACE_BYTES, "%s:%d:%d", cut, line, col);
    else
        snprintf(s, PLACE_BYTES, "%s", cut);
    return s;
}

const char *node_place(const node *n) {
    return n ? format_place(n->file, n->line, n->col) : "";
}

err node_err_at(const char *file, int line, const node *n, const char *fmt, ...) {
    char message[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    return err_set_at(file, line, ERR_USAGE, "%s%s%s", node_place(n), n ? ": " : "", message);
}

/* How messages name a value: its text, or what kind of thing it is. */
static const char *describe(const node *n, char out[80]) {
    switch (node_type(n)) {
    case NODE_NULL: strcpy(out, "nothing"); break;
    case NODE_LIST: strcpy(out, "a list"); break;
    case NODE_MAP: strcpy(out, "a map"); break;
    case NODE_SCALAR: snprintf(out, 80, n->quoted ? "the text \"%.50s\"" : "\"%.50s\"", n->text); break;
    }
    return out;
}

static err type_err(const node *n, const char *expected) {
    char what[80];
    bool named = n && n->key;
    return NODE_ERR(n, "%s%sexpected %s, got %s", named ? n->key : "", named ? ": " : "", expected, describe(n, what));
}

static scalar_kind read_plain(const node *n, bool *b, int64_t *i, double *d) {
    return node_type(n) == NODE_SCALAR && !n->quoted ? scalar_read(n->text, b, i, d) : SCALAR_TEXT;
}

err node_as_bool(const node *n, bool *out) {
    int64_t i;
    double d;
    if (read_plain(n, out, &i, &d) == SCALAR_BOOL) return OK;
    return type_err(n, "true or false");
}

err node_as_int(const node *n, int64_t *out) {
    bool b;
    double d;
    if (read_plain(n, &b, out, &d) == SCALAR_INT) return OK;
    return type_err(n, "an integer");
}

err node_as_double(const node *n, double *out) {
    bool b;
    int64_t i;
    scalar_kind kind = read_plain(n, &b, &i, out);
    if (kind == SCALAR_INT || kind == SCALAR_DOUBLE) return OK;
    return type_err(n, "a number");
}

/* Every component must be printable ASCII: paths come from command lines and become keys of files. */
static err check_path(const char *dotted, const node *place) {
    int n_parts = 0;
    const char *s = dotted;
    char part[TREE_MAX_KEY + 1];
    for (const char *c = dotted; *c; c++)
        if (*c <= 32 || *c >= 127) return NODE_ERR(place, "path with a space or a special character");
    while (n_parts == 0 || *s) {
        if (!next_component(&s, part) || ++n_parts >= TREE_MAX_DEPTH)
            return NODE_ERR(place, "\"%.100s\" is not a path like policy.budget", dotted);
    }
    if (dotted[strlen(dotted) - 1] == '.') return NODE_ERR(place, "\"%.100s\" is not a path like policy.budget", dotted);
    return OK;
}

/* Puts `value` (of root's tree) at the path; `place` stands for the one who asked. */
static err set_at(node *root, const char *dotted, node *value, const node *place) {
    TRY(check_path(dotted, place));
    node *at = root;
    char part[TREE_MAX_KEY + 1];
    const char *s = dotted;
    for (;;) {
        int done = (int)(s - dotted); /* "policy." of "policy.budget" */
        if (!next_component(&s, part)) return NODE_ERR(place, "\"%.100s\" is not a path like policy.budget", dotted);
        if (at->kind == NODE_LIST) {
            int i = list_index(part);
            if (i < 0 || i >= at->n)
                return NODE_ERR(place, "cannot set %s: %.*s is a list of %d, and \"%s\" is no index of it", dotted,
                                done ? done - 1 : 8, done ? dotted : "the file", at->n, part);
            if (!*s) {
                value->key = NULL;
                at->items[i] = value;
                return OK;
            }
            at = at->items[i];
        } else if (at->kind == NODE_MAP) {
            if (!*s) {
                if (at->n == TREE_MAX_ENTRIES && !tree_find(at, part))
                    return NODE_ERR(place, "more than %d keys in one map", TREE_MAX_ENTRIES);
                tree_put(at, part, value, place);
                return OK;
            }
            node *next = tree_find(at, part);
            if (!next) tree_put(at, part, next = tree_node(at->tree, NODE_NULL, value->file, value->line, value->col), place);
            if (next->kind == NODE_NULL) next->kind = NODE_MAP; /* `policy:` without a value */
            at = next;
        } else {
            char what[80];
            return NODE_ERR(place, "cannot set %s: %.*s is %s, not a map", dotted, done ? done - 1 : 8,
                            done ? dotted : "the file", describe(at, what));
        }
    }
}

err node_set_node(node *root, const char *dotted, const node *value) {
    if (root->tree->n_nodes + tree_count(value) > TREE_MAX_NODES * 2)
        return NODE_ERR(value, "more than %d values", TREE_MAX_NODES * 2);
    return set_at(root, dotted, tree_copy(root->tree, value), value);
}

err node_set_text(node *root, const char *dotted, const char *yaml, const char *origin) {
    char *name = mem_sprintf("%s %.200s", origin, dotted);
    node *value = NULL;
    err e = node_parse_text(yaml, strlen(yaml), name, &value);
    if (e == OK) {
        value->line = value->col = 0; /* the name says where: it has no lines */
        e = node_set_node(root, dotted, value);
    }
    node_free(value);
    mem_free(name);
    return e;
}

err node_merge(node *base, const node *over) {
    if (base->kind != NODE_MAP || over->kind != NODE_MAP)
        return NODE_ERR(over, "only maps can be merged");
    if (base->tree->n_nodes + tree_count(over) > TREE_MAX_NODES * 2)
        return NODE_ERR(over, "more than %d values", TREE_MAX_NODES * 2);
    for (int i = 0; i < over->n; i++) {
        const node *from = over->items[i];
        node *to = tree_find(base, from->key);
        if (to && to->kind == NODE_MAP && from->kind == NODE_MAP) {
            TRY(node_merge(to, from));
        } else {
            node *copy = tree_copy(base->tree, from);
            node key_place = {.line = from->key_line, .col = from->key_col};
            tree_put(base, from->key, copy, &key_place);
        }
    }
    return OK;
}

static int smaller(int a, int b) {
    return a < b ? a : b;
}

/* Edit distance with transpositions (optimal string alignment), ignoring case; words longer than the table count as far. */
static int edit_distance(const char *a, const char *b) {
    enum { LONGEST = 48 };
    int n = (int)strlen(a), m = (int)strlen(b);
    if (n > LONGEST || m > LONGEST) return LONGEST;
    int d[LONGEST + 1][LONGEST + 1];
    for (int i = 0; i <= n; i++) d[i][0] = i;
    for (int j = 0; j <= m; j++) d[0][j] = j;
    for (int i = 1; i <= n; i++)
        for (int j = 1; j <= m; j++) {
            int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);
            d[i][j] = smaller(smaller(d[i - 1][j], d[i][j - 1]) + 1, d[i - 1][j - 1] + (x != y));
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) && y == tolower((unsigned char)a[i - 2]))
                d[i][j] = smaller(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[n][m];
}

const char *node_suggest(const char *word, const char *const *names, int n) {
    const char *best = NULL;
    int len = (int)strlen(word), least = len < 3 ? 2 : 3; /* exclusive: two edits make anything of two letters */
    for (int i = 0; i < n; i++) {
        int d = edit_distance(word, names[i]);
        if (d < least && d < len) {
            best = names[i];
            least = d;
        }
    }
    for (int i = 0; i < n && !best && len >= 2; i++)
        if (strncmp(names[i], word, (size_t)len) == 0) best = names[i];
    return best;
}

static void append(char *out, size_t cap, const char *s) {
    size_t n = strlen(out);
    snprintf(out + n, cap - n, "%s", s);
}

static err unknown_key(const node *map, const node *value) {
    char hint[700] = "";
    const char *near = node_suggest(value->key, map->asked, map->n_asked);
    if (near) {
        snprintf(hint, sizeof hint, "; did you mean \"%s\"?", near);
    } else if (map->n_asked > 0) {
        append(hint, sizeof hint, "; known here: ");
        for (int i = 0; i < map->n_asked; i++) {
            append(hint, sizeof hint, i ? ", " : "");
            append(hint, sizeof hint, map->asked[i]);
        }
    } else {
        append(hint, sizeof hint, "; nothing reads this map");
    }
    return ERR(ERR_USAGE, "%s: unknown key \"%s\"%s", format_place(value->file, value->key_line, value->key_col), value->key,
               hint);
}

err node_check_read(const node *map) {
    if (node_type(map) != NODE_MAP) return OK;
    for (int i = 0; i < map->n; i++)
        if (!map->items[i]->read) return unknown_key(map, map->items[i]);
    return OK;
}

err node_check_all_read(const node *root) {
    if (!root) return OK;
    TRY(node_check_read(root));
    for (int i = 0; i < root->n; i++) TRY(node_check_all_read(root->items[i]));
    return OK;
}
