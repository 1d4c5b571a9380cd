#include "conf/tree.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

struct tree_chunk {
    tree_chunk *next;
    _Alignas(16) char bytes[];
};

#ifdef KVLAB_CHECKS
enum { CHUNK_BYTES = 0 }; /* one block per allocation, so that the sanitizer sees overruns */
#else
enum { CHUNK_BYTES = 16 << 10 };
#endif

tree *tree_new(void) {
    return mem_alloc_small(sizeof(tree));
}

void tree_free(tree *t) {
    for (tree_chunk *c = t->chunks, *next; c; c = next) {
        next = c->next;
        mem_free(c);
    }
    mem_free(t);
}

void *tree_alloc(tree *t, size_t bytes) {
    if (t->used_bytes + bytes > t->cap_bytes) {
        size_t cap = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        tree_chunk *c = mem_alloc_small(sizeof *c + cap);
        c->next = t->chunks;
        t->chunks = c;
        t->used_bytes = 0;
        t->cap_bytes = cap;
    }
    void *p = t->chunks->bytes + t->used_bytes;
    t->used_bytes += (bytes + 15) & ~(size_t)15;
    return p;
}

char *tree_text(tree *t, const char *s, size_t n) {
    char *copy = tree_alloc(t, n + 1);
    memcpy(copy, s, n);
    return copy;
}

node *tree_node(tree *t, node_kind kind, const char *file, int line, int col) {
    node *n = tree_alloc(t, sizeof *n);
    *n = (node){.tree = t, .kind = kind, .file = file, .line = line, .col = col, .text = ""};
    t->n_nodes++;
    return n;
}

void tree_append(node *parent, node *child) {
    assert(parent->tree == child->tree);
    if (parent->n == parent->cap) {
        int cap = parent->cap ? parent->cap * 2 : 4;
        node **items = tree_alloc(parent->tree, (size_t)cap * sizeof *items);
        if (parent->n) memcpy(items, parent->items, (size_t)parent->n * sizeof *items);
        parent->items = items;
        parent->cap = cap;
    }
    parent->items[parent->n++] = child;
}

node *tree_copy(tree *t, const node *n) {
    node *copy = tree_node(t, n->kind, NULL, n->line, n->col);
    if (n->tree == t)
        copy->file = n->file;
    else if (n->file) /* most nodes of a tree share one name: keep sharing it */
        copy->file = t->root && t->root->file && strcmp(t->root->file, n->file) == 0
                         ? t->root->file
                         : tree_text(t, n->file, strlen(n->file));
    if (!t->root) t->root = copy;
    copy->quoted = n->quoted;
    if (n->key) {
        copy->key = n->tree == t ? n->key : tree_text(t, n->key, strlen(n->key));
        copy->key_line = n->key_line;
        copy->key_col = n->key_col;
    }
    copy->text = n->tree == t || !*n->text ? n->text : tree_text(t, n->text, strlen(n->text));
    if (!*copy->text) copy->text = "";
    for (int i = 0; i < n->n; i++) tree_append(copy, tree_copy(t, n->items[i]));
    return copy;
}

node *tree_find(const node *map, const char *key) {
    if (!map || map->kind != NODE_MAP) return NULL;
    for (int i = 0; i < map->n; i++)
        if (strcmp(map->items[i]->key, key) == 0) return map->items[i];
    return NULL;
}

void tree_put(node *map, const char *key, node *value, const node *key_place) {
    assert(map->kind == NODE_MAP && map->tree == value->tree);
    value->key = tree_text(map->tree, key, strlen(key));
    value->key_line = key_place->line;
    value->key_col = key_place->col;
    for (int i = 0; i < map->n; i++)
        if (strcmp(map->items[i]->key, key) == 0) {
            map->items[i] = value;
            return;
        }
    tree_append(map, value);
}

void tree_remove(node *map, const char *key) {
    int kept = 0;
    for (int i = 0; i < map->n; i++)
        if (strcmp(map->items[i]->key, key) != 0) map->items[kept++] = map->items[i];
    map->n = kept;
}

int tree_count(const node *n) {
    int count = 1;
    for (int i = 0; i < n->n; i++) count += tree_count(n->items[i]);
    return count;
}

int tree_depth(const node *n) {
    int deepest = 0;
    for (int i = 0; i < n->n; i++) {
        int d = tree_depth(n->items[i]);
        if (d > deepest) deepest = d;
    }
    return deepest + 1;
}
