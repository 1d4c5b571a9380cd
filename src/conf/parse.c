/* libyaml events -> tree. Limits on size, depth, entries and alias expansion make hostile files an error, never a long wait. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "base/io.h"
#include "base/mem.h"
#include "conf/tree.h"

enum { MAX_ANCHORS = 1000 };

typedef struct anchor {
    const char *name;
    const node *value;
} anchor;

typedef struct parser {
    yaml_parser_t yaml;
    yaml_event_t event;
    bool has_event;
    const char *text;
    size_t n;
    const char *file; /* in the tree */
    tree *tree;
    anchor *anchors;
    int n_anchors;
} parser;

static int line_of(yaml_mark_t m) {
    return (int)m.line + 1;
}

static int col_of(yaml_mark_t m) {
    return (int)m.column + 1;
}

#define EVENT_ERR(p, ...) event_err(p, __LINE__, __VA_ARGS__)
static err event_err(parser *p, int c_line, const char *fmt, ...) PRINTF_LIKE(3, 4);
static err event_err(parser *p, int c_line, const char *fmt, ...) {
    char message[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    yaml_mark_t m = p->event.start_mark;
    return err_set_at(__FILE__, c_line, ERR_USAGE, "%s:%d:%d: %s", p->file, line_of(m), col_of(m), message);
}

static err syntax_err(parser *p) {
    yaml_parser_t *y = &p->yaml;
    const char *problem = y->problem ? y->problem : "not YAML";
    if (y->error == YAML_MEMORY_ERROR) return ERR(ERR_NOMEM, "%s: out of memory", p->file);
    if (y->error == YAML_READER_ERROR)
        return ERR(ERR_USAGE, "%s: not text: %s at byte %zu", p->file, problem, y->problem_offset);
    yaml_mark_t m = y->problem_mark;
    bool tab = m.index < p->n && p->text[m.index] == '\t';
    return ERR(ERR_USAGE, "%s:%d:%d: %s%s%s%s", p->file, line_of(m), col_of(m), problem, y->context ? ", " : "",
               y->context ? y->context : "", tab ? " (a tab: YAML is indented with spaces)" : "");
}

static err next_event(parser *p) {
    if (p->has_event) yaml_event_delete(&p->event);
    p->has_event = false;
    if (!yaml_parser_parse(&p->yaml, &p->event)) return syntax_err(p);
    p->has_event = true;
    return OK;
}

static err check_tag(parser *p, const yaml_char_t *tag, bool *is_text) {
    *is_text = false;
    if (!tag) return OK;
    *is_text = strcmp((const char *)tag, YAML_STR_TAG) == 0 || strcmp((const char *)tag, "!") == 0;
    if (!*is_text) return EVENT_ERR(p, "tag %s is not supported; only !!str is", (const char *)tag);
    return OK;
}

static node *new_node(parser *p, node_kind kind) {
    yaml_mark_t m = p->event.start_mark;
    node *n = tree_node(p->tree, kind, p->file, line_of(m), col_of(m));
    if (!p->tree->root) p->tree->root = n;
    return n;
}

static err read_scalar(parser *p, node **out) {
    const char *value = (const char *)p->event.data.scalar.value;
    size_t n = p->event.data.scalar.length;
    bool is_text;
    TRY(check_tag(p, p->event.data.scalar.tag, &is_text));
    if (memchr(value, 0, n)) return EVENT_ERR(p, "text with a NUL character");
    is_text |= p->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    node *s = new_node(p, NODE_SCALAR);
    s->quoted = is_text;
    if (n > 0) s->text = tree_text(p->tree, value, n);
    bool b;
    int64_t i;
    double d;
    if (!is_text && scalar_read(s->text, &b, &i, &d) == SCALAR_NULL) {
        s->kind = NODE_NULL;
        s->text = "";
    }
    *out = s;
    return OK;
}

static err read_alias(parser *p, int depth, node **out) {
    const char *name = (const char *)p->event.data.alias.anchor;
    const node *value = NULL;
    for (int i = p->n_anchors - 1; i >= 0 && !value; i--) /* the newest anchor of a name counts */
        if (strcmp(p->anchors[i].name, name) == 0) value = p->anchors[i].value;
    if (!value) return EVENT_ERR(p, "alias *%s stands for no anchor that is complete above", name);
    if (depth + tree_depth(value) > TREE_MAX_DEPTH)
        return EVENT_ERR(p, "alias *%s nests deeper than %d levels", name, TREE_MAX_DEPTH);
    if (p->tree->n_nodes + tree_count(value) > TREE_MAX_NODES)
        return EVENT_ERR(p, "alias *%s expands the file to more than %d values", name, TREE_MAX_NODES);
    *out = tree_copy(p->tree, value);
    return OK;
}

static err read_value(parser *p, int depth, node **out); /* the present event begins it */

static err read_list(parser *p, int depth, node **out) {
    bool is_text;
    TRY(check_tag(p, p->event.data.sequence_start.tag, &is_text));
    node *list = *out = new_node(p, NODE_LIST);
    for (;;) {
        TRY(next_event(p));
        if (p->event.type == YAML_SEQUENCE_END_EVENT) return OK;
        node *value;
        TRY(read_value(p, depth + 1, &value));
        tree_append(list, value);
    }
}

static err read_key(parser *p, const node *map, char **key) {
    if (p->event.type != YAML_SCALAR_EVENT) return EVENT_ERR(p, "a key must be plain text");
    const char *text = (const char *)p->event.data.scalar.value;
    size_t n = p->event.data.scalar.length;
    if (n == 0) return EVENT_ERR(p, "empty key");
    if (n > TREE_MAX_KEY) return EVENT_ERR(p, "key of %zu bytes; at most %d are supported", n, TREE_MAX_KEY);
    if (memchr(text, 0, n)) return EVENT_ERR(p, "key with a NUL character");
    if (strcmp(text, "<<") == 0 && p->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
        return EVENT_ERR(p, "merge keys (<<) are not supported; name a preset instead");
    const node *same = tree_find(map, text);
    if (same) return EVENT_ERR(p, "key \"%s\" appears twice, first in line %d", text, same->key_line);
    if (map->n == TREE_MAX_ENTRIES) return EVENT_ERR(p, "more than %d keys in one map", TREE_MAX_ENTRIES);
    *key = tree_text(p->tree, text, n);
    return OK;
}

static err read_map(parser *p, int depth, node **out) {
    bool is_text;
    TRY(check_tag(p, p->event.data.mapping_start.tag, &is_text));
    node *map = *out = new_node(p, NODE_MAP);
    for (;;) {
        TRY(next_event(p));
        if (p->event.type == YAML_MAPPING_END_EVENT) return OK;
        char *key = NULL;
        TRY(read_key(p, map, &key));
        yaml_mark_t m = p->event.start_mark;
        TRY(next_event(p));
        node *value;
        TRY(read_value(p, depth + 1, &value));
        value->key = key;
        value->key_line = line_of(m);
        value->key_col = col_of(m);
        tree_append(map, value);
    }
}

static err read_value(parser *p, int depth, node **out) {
    if (depth > TREE_MAX_DEPTH) return EVENT_ERR(p, "nested deeper than %d levels", TREE_MAX_DEPTH);
    if (p->tree->n_nodes >= TREE_MAX_NODES) return EVENT_ERR(p, "more than %d values", TREE_MAX_NODES);
    const yaml_char_t *anchor_name = NULL;
    switch (p->event.type) {
    case YAML_ALIAS_EVENT: return read_alias(p, depth, out);
    case YAML_SCALAR_EVENT: anchor_name = p->event.data.scalar.anchor; break;
    case YAML_SEQUENCE_START_EVENT: anchor_name = p->event.data.sequence_start.anchor; break;
    case YAML_MAPPING_START_EVENT: anchor_name = p->event.data.mapping_start.anchor; break;
    default: return EVENT_ERR(p, "expected a value");
    }
    const char *name = NULL;
    if (anchor_name) name = tree_text(p->tree, (const char *)anchor_name, strlen((const char *)anchor_name));
    switch (p->event.type) {
    case YAML_SCALAR_EVENT: TRY(read_scalar(p, out)); break;
    case YAML_SEQUENCE_START_EVENT: TRY(read_list(p, depth, out)); break;
    default: TRY(read_map(p, depth, out)); break;
    }
    if (name && p->n_anchors == MAX_ANCHORS) return EVENT_ERR(p, "more than %d anchors", MAX_ANCHORS);
    if (name) p->anchors[p->n_anchors++] = (anchor){name, *out}; /* now complete: it cannot contain itself */
    return OK;
}

static err read_document(parser *p) {
    TRY(next_event(p));
    assert(p->event.type == YAML_STREAM_START_EVENT);
    TRY(next_event(p));
    if (p->event.type == YAML_STREAM_END_EVENT) {
        p->tree->root = tree_node(p->tree, NODE_NULL, p->file, 1, 1);
        return OK;
    }
    TRY(next_event(p));
    node *root;
    TRY(read_value(p, 1, &root));
    p->tree->root = root;
    TRY(next_event(p)); /* end of the document */
    TRY(next_event(p));
    if (p->event.type != YAML_STREAM_END_EVENT) return EVENT_ERR(p, "a second document begins; one file holds one");
    return OK;
}

err node_parse_text(const char *text, size_t n, const char *name, node **out) {
    *out = NULL;
    if (n > TREE_MAX_TEXT) return ERR(ERR_USAGE, "%s has %zu bytes; at most %d are supported", name, n, TREE_MAX_TEXT);
    parser p = {.text = text, .n = n};
    if (!yaml_parser_initialize(&p.yaml)) return ERR(ERR_NOMEM, "%s: out of memory", name);
    yaml_parser_set_input_string(&p.yaml, (const unsigned char *)text, n);
    p.tree = tree_new();
    p.file = tree_text(p.tree, name, strlen(name));
    p.anchors = mem_alloc_small(MAX_ANCHORS * sizeof *p.anchors);
    err e = read_document(&p);
    if (p.has_event) yaml_event_delete(&p.event);
    yaml_parser_delete(&p.yaml);
    mem_free(p.anchors);
    if (e != OK) {
        tree_free(p.tree);
        return e;
    }
    *out = p.tree->root;
    return OK;
}

err node_parse_file(const char *path, node **out) {
    *out = NULL;
    char *text;
    size_t n;
    err e = io_read_file(path, TREE_MAX_TEXT, &text, &n);
    if (e == ERR_NOMEM) return e;
    if (e != OK) return ERR(ERR_USAGE, "%s", err_text()); /* a wrong name on the command line */
    e = node_parse_text(text, n, path, out);
    mem_free(text);
    return e;
}
