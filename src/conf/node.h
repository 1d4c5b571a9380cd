/* YAML as a tree of nodes that remember line and column and whether anybody read them (libyaml; anchors and aliases are expanded
 * within a limit; duplicate keys, tabs, several documents are errors). A tree is one allocation domain: node_free(root).
 * Scalars are text until asked: plain null and ~ are null, plain numbers and true/false canonical, anything quoted is text.
 * node_get and node_at leave marks, so one tree is for one thread at a time. */
#ifndef KVLAB_CONF_NODE_H
#define KVLAB_CONF_NODE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

typedef enum node_kind { NODE_NULL, NODE_SCALAR, NODE_LIST, NODE_MAP } node_kind;
typedef struct node node;

MUST err node_parse_file(const char *path, node **out);
MUST err node_parse_text(const char *text, size_t n, const char *name, node **out);
void node_free(node *root);
node *node_clone(const node *n);         /* deep; its own root; nothing marked as read */
node *node_new_map(const char *file);    /* empty map, for building defaults */

node_kind node_type(const node *n);      /* NULL pointer counts as NODE_NULL */
int node_count(const node *n);           /* entries of a list or map */
const node *node_at(const node *n, int i);              /* i-th value; marks it as read */
const char *node_key(const node *map, int i);           /* i-th key */
const node *node_get(const node *map, const char *key); /* NULL if absent; marks the key as read */
const node *node_path(const node *n, const char *dotted); /* "tasks.0.limit"; NULL if absent; marks the way */
const char *node_text(const node *scalar);              /* "" for null */
/* "sweep.yaml:12:5" for messages. */
const char *node_place(const node *n);
/* ERR_USAGE "file:line:col: message". */
#define NODE_ERR(n, ...) node_err_at(__FILE__, __LINE__, (n), __VA_ARGS__)
MUST err node_err_at(const char *file, int line, const node *n, const char *fmt, ...) PRINTF_LIKE(4, 5);

MUST err node_as_bool(const node *n, bool *out);
MUST err node_as_int(const node *n, int64_t *out);      /* plain integers, 1_000 too */
MUST err node_as_double(const node *n, double *out);

/* Sets a value by dotted path ("policy.budget", "tasks.0.limit"), creating maps on the way. `yaml` is parsed as a YAML flow value. */
MUST err node_set_text(node *root, const char *dotted, const char *yaml, const char *origin /* "--set" */);
MUST err node_set_node(node *root, const char *dotted, const node *value); /* deep copy */
/* Deep-merges `over` onto `base` (maps merge, others replace). */
MUST err node_merge(node *base, const node *over);

/* All keys of the map must have been read (node_get, node_at): otherwise an error with place and "did you mean" one of
 * the keys that were asked for. */
MUST err node_check_read(const node *map);
MUST err node_check_all_read(const node *root); /* the same for every map of the tree */
/* Closest of `names` within edit distance 2 (or prefix), NULL if none. */
const char *node_suggest(const char *word, const char *const *names, int n);
/* Canonical one-line JSON text, keys sorted (for ids and storing); mem_free. */
char *node_canonical(const node *n);
/* Block-style YAML text; mem_free. */
char *node_yaml(const node *n);
/* One line of flow YAML, as one would write it: "{bytes: 0.25}"; mem_free. */
char *node_flow(const node *n);
#endif
