#include "conf/fields.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static int find_name(const char *const *names, const char *name) {
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

static void store_number(const field *f, double v, void *out) {
    char *at = (char *)out + f->offset;
    bool b = v != 0;
    int i = (int)v;
    switch (f->kind) {
    case FK_BOOL: memcpy(at, &b, sizeof b); break;
    case FK_INT: memcpy(at, &i, sizeof i); break;
    default: memcpy(at, &v, sizeof v); break;
    }
}

static void store_default(const field *f, void *out) {
    char *at = (char *)out + f->offset;
    if (f->kind == FK_STRING) {
        memcpy(at, &f->def_text, sizeof f->def_text);
    } else if (f->kind == FK_ENUM) {
        int i = find_name(f->names, f->def_text);
        assert(i >= 0);
        memcpy(at, &i, sizeof i);
    } else {
        store_number(f, f->def, out);
    }
}

static err read_number(const node *v, const field *f, void *out) {
    double d;
    if (f->kind == FK_INT) {
        int64_t i;
        TRY(node_as_int(v, &i));
        d = (double)i;
    } else {
        TRY(node_as_double(v, &d));
    }
    if (!(d >= f->min && d <= f->max)) {
        if (isinf(f->max)) return NODE_ERR(v, "%s must be at least %.15g, got %.15g", f->name, f->min, d);
        return NODE_ERR(v, "%s must be between %.15g and %.15g, got %.15g", f->name, f->min, f->max, d);
    }
    store_number(f, d, out);
    return OK;
}

static err read_enum(const node *v, const field *f, void *out) {
    int i = node_type(v) == NODE_SCALAR ? find_name(f->names, node_text(v)) : -1;
    if (i >= 0) {
        memcpy((char *)out + f->offset, &i, sizeof i);
        return OK;
    }
    int n = 0;
    char known[400] = "";
    for (; f->names[n]; n++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", n ? ", " : "", f->names[n]);
    }
    if (node_type(v) != NODE_SCALAR) return NODE_ERR(v, "%s must be one of: %s", f->name, known);
    const char *near = node_suggest(node_text(v), f->names, n);
    if (near) return NODE_ERR(v, "%s: unknown value \"%s\"; did you mean \"%s\"?", f->name, node_text(v), near);
    return NODE_ERR(v, "%s: unknown value \"%s\"; known: %s", f->name, node_text(v), known);
}

static err read_field(const node *v, const field *f, void *out) {
    bool b;
    const char *text;
    switch (f->kind) {
    case FK_BOOL:
        TRY(node_as_bool(v, &b));
        store_number(f, b, out);
        return OK;
    case FK_INT:
    case FK_DOUBLE: return read_number(v, f, out);
    case FK_STRING:
        if (node_type(v) != NODE_SCALAR)
            return NODE_ERR(v, "%s: expected text, got a %s", f->name, node_type(v) == NODE_LIST ? "list" : "map");
        text = node_text(v);
        memcpy((char *)out + f->offset, &text, sizeof text);
        return OK;
    case FK_ENUM: return read_enum(v, f, out);
    case FK_END: break;
    }
    return OK;
}

err fields_read(const node *map, const field *fields, void *out) {
    if (node_type(map) != NODE_MAP && node_type(map) != NODE_NULL)
        return NODE_ERR(map, "expected a map of options, got %s", node_type(map) == NODE_LIST ? "a list" : "a value");
    for (const field *f = fields; f->kind != FK_END; f++) {
        store_default(f, out);
        const node *v = node_get(map, f->name);
        if (node_type(v) != NODE_NULL) TRY(read_field(v, f, out));
    }
    return node_check_read(map);
}
