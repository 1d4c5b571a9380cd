/* Inside of the tree, for src/conf only: nodes, their arena, and how they are built. */
#ifndef KVLAB_CONF_TREE_H
#define KVLAB_CONF_TREE_H
#include "conf/node.h"

enum {
    TREE_MAX_TEXT = 4 << 20,  /* bytes of a file */
    TREE_MAX_NODES = 100000,  /* after alias expansion */
    TREE_MAX_DEPTH = 64,
    TREE_MAX_ENTRIES = 10000, /* of one map: duplicates are searched linearly */
    TREE_MAX_KEY = 256,       /* bytes; libyaml gives up at 1024 */
};

typedef struct tree_chunk tree_chunk;
typedef struct tree {
    tree_chunk *chunks;
    size_t used_bytes, cap_bytes; /* of the newest chunk */
    node *root;
    int n_nodes;
} tree;

struct node {
    tree *tree;
    node_kind kind;
    bool quoted;                  /* scalar: text whatever it looks like */
    bool read;
    const char *file;
    int line, col;                /* of the value, from 1; line 0: not from a text */
    const char *key;              /* in the parent map */
    int key_line, key_col;
    const char *text;             /* scalar */
    node **items;                 /* list, map */
    int n, cap;
    const char **asked;           /* map: keys that node_get was asked for */
    int n_asked, cap_asked;
};

tree *tree_new(void);
void tree_free(tree *t);
void *tree_alloc(tree *t, size_t bytes); /* zeroed */
char *tree_text(tree *t, const char *s, size_t n);
node *tree_node(tree *t, node_kind kind, const char *file, int line, int col);
void tree_append(node *parent, node *child);
node *tree_copy(tree *t, const node *n); /* deep, with key and places, nothing read */
node *tree_find(const node *map, const char *key); /* leaves no mark */
void tree_put(node *map, const char *key, node *value, const node *key_place); /* replaces or appends; value is of this tree */
void tree_remove(node *map, const char *key);
int tree_count(const node *n);
int tree_depth(const node *n);

/* How a plain scalar reads. */
typedef enum scalar_kind { SCALAR_TEXT, SCALAR_NULL, SCALAR_BOOL, SCALAR_INT, SCALAR_DOUBLE } scalar_kind;
scalar_kind scalar_read(const char *text, bool *b, int64_t *i, double *d);
#endif
