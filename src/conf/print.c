/* Trees as text: canonical JSON (ids), block YAML (resolved.yaml), flow YAML (labels). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "conf/tree.h"

typedef struct out {
    char *text;
    size_t n, cap;
} out;

static void put_bytes(out *o, const char *s, size_t n) {
    if (o->n + n + 1 > o->cap) {
        size_t cap = (o->n + n + 1) * 2;
        char *larger = mem_alloc_small(cap);
        if (o->n) memcpy(larger, o->text, o->n);
        mem_free(o->text);
        o->text = larger;
        o->cap = cap;
    }
    memcpy(o->text + o->n, s, n);
    o->n += n;
    o->text[o->n] = 0;
}

static void put(out *o, const char *s) {
    put_bytes(o, s, strlen(s));
}

static void put_spaces(out *o, int n) {
    while (n-- > 0) put(o, " ");
}

/* Decodes one code point of text that libyaml has validated. */
static uint32_t code_point(const char *s, int *n_bytes) {
    unsigned char c = (unsigned char)*s;
    int n = c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    uint32_t u = n == 1 ? c : c & (0x7Fu >> n);
    for (int i = 1; i < n; i++) u = u << 6 | ((unsigned char)s[i] & 0x3F);
    *n_bytes = n;
    return u;
}

/* Line breaks of YAML, controls, byte order marks and non-characters do not survive as they are. */
static bool needs_escape(uint32_t u) {
    return u < 32 || (u >= 0x7F && u <= 0xA0) || u == 0x2028 || u == 0x2029 || u == 0xFEFF || u == 0xFFFE || u == 0xFFFF;
}

/* Double-quoted text, valid both as JSON and as YAML. */
static void put_quoted(out *o, const char *s) {
    put(o, "\"");
    for (int n; *s; s += n) {
        uint32_t u = code_point(s, &n);
        char escape[8];
        if (u == '"' || u == '\\') {
            snprintf(escape, sizeof escape, "\\%c", (char)u);
            put(o, escape);
        } else if (needs_escape(u)) {
            snprintf(escape, sizeof escape, "\\u%04" PRIx32, u);
            put(o, escape);
        } else {
            put_bytes(o, s, (size_t)n);
        }
    }
    put(o, "\"");
}

/* The shortest decimal that reads back as the same double; whole numbers without a point, so that 1.0 and 1 are one. */
static void put_number(out *o, double d) {
    char s[40];
    if (d == 0) d = 0; /* -0 */
    if (fabs(d) < 0x1p53 && d == floor(d)) {
        snprintf(s, sizeof s, "%.0f", d);
    } else {
        for (int digits = 15; digits <= 17; digits++) {
            snprintf(s, sizeof s, "%.*g", digits, d);
            if (strtod(s, NULL) == d) break;
        }
    }
    put(o, s);
}

static void put_canonical_scalar(out *o, const node *n) {
    bool b;
    int64_t i;
    double d;
    char s[24];
    switch (n->quoted ? SCALAR_TEXT : scalar_read(n->text, &b, &i, &d)) {
    case SCALAR_NULL: put(o, "null"); break;
    case SCALAR_BOOL: put(o, b ? "true" : "false"); break;
    case SCALAR_INT:
        snprintf(s, sizeof s, "%" PRId64, i);
        put(o, s);
        break;
    case SCALAR_DOUBLE: put_number(o, d); break;
    case SCALAR_TEXT: put_quoted(o, n->text); break;
    }
}

static int by_key(const void *a, const void *b) {
    return strcmp((*(node *const *)a)->key, (*(node *const *)b)->key);
}

static void put_canonical(out *o, const node *n) {
    switch (node_type(n)) {
    case NODE_NULL: put(o, "null"); break;
    case NODE_SCALAR: put_canonical_scalar(o, n); break;
    case NODE_LIST:
        put(o, "[");
        for (int i = 0; i < n->n; i++) {
            if (i) put(o, ",");
            put_canonical(o, n->items[i]);
        }
        put(o, "]");
        break;
    case NODE_MAP: {
        node **sorted = mem_alloc_small((size_t)(n->n + 1) * sizeof *sorted);
        if (n->n) memcpy(sorted, n->items, (size_t)n->n * sizeof *sorted);
        qsort(sorted, (size_t)n->n, sizeof *sorted, by_key);
        put(o, "{");
        for (int i = 0; i < n->n; i++) {
            if (i) put(o, ",");
            put_quoted(o, sorted[i]->key);
            put(o, ":");
            put_canonical(o, sorted[i]);
        }
        put(o, "}");
        mem_free(sorted);
        break;
    }
    }
}

char *node_canonical(const node *n) {
    out o = {0};
    put_canonical(&o, n);
    return o.text;
}

/* Whether plain text reads back as itself, in block and flow context, as a key too. Careful rather than complete. */
static bool plain_is_safe(const char *s) {
    static const char indicators[] = "-?:,[]{}#&*!|>'\"%@`=<~";
    size_t n = strlen(s);
    bool b;
    int64_t i;
    double d;
    scalar_kind kind = scalar_read(s, &b, &i, &d);
    if (kind == SCALAR_INT || kind == SCALAR_DOUBLE) return true;
    if (n == 0 || n > 200 || kind == SCALAR_NULL || strchr(indicators, *s) || *s == ' ' || s[n - 1] == ' ') return false;
    if (strcmp(s, "...") == 0) return false;
    int step;
    for (const char *c = s; *c; c += step) {
        uint32_t u = code_point(c, &step);
        if (needs_escape(u) || strchr(",[]{}?", (int)u) || (u == ':' && (c[1] == ' ' || !c[1])) || (u == '#' && c[-1] == ' '))
            return false;
    }
    return true;
}

static void put_scalar(out *o, const node *n) {
    bool b;
    int64_t i;
    double d;
    if (n->kind == NODE_NULL)
        put(o, "null");
    else if (plain_is_safe(n->text) && !(n->quoted && scalar_read(n->text, &b, &i, &d) != SCALAR_TEXT))
        put(o, n->text);
    else
        put_quoted(o, n->text);
}

static void put_key(out *o, const char *key) {
    if (plain_is_safe(key))
        put(o, key);
    else
        put_quoted(o, key);
}

static void put_flow(out *o, const node *n) {
    switch (node_type(n)) {
    case NODE_NULL: put(o, "null"); break;
    case NODE_SCALAR: put_scalar(o, n); break;
    case NODE_LIST:
    case NODE_MAP:
        put(o, n->kind == NODE_LIST ? "[" : "{");
        for (int i = 0; i < n->n; i++) {
            if (i) put(o, ", ");
            if (n->kind == NODE_MAP) {
                put_key(o, n->items[i]->key);
                put(o, ": ");
            }
            put_flow(o, n->items[i]);
        }
        put(o, n->kind == NODE_LIST ? "]" : "}");
        break;
    }
}

char *node_flow(const node *n) {
    out o = {0};
    put_flow(&o, n);
    return o.text;
}

/* `begun`: the first line already stands behind a "- ". */
static void put_block(out *o, const node *n, int indent, bool begun) {
    for (int i = 0; i < n->n; i++) {
        const node *v = n->items[i];
        bool nested = v->n > 0;
        if (i > 0 || !begun) put_spaces(o, indent);
        if (n->kind == NODE_MAP) {
            put_key(o, v->key);
            put(o, nested ? ":\n" : ": ");
        } else {
            put(o, "- ");
        }
        if (nested) {
            put_block(o, v, indent + 2, n->kind == NODE_LIST);
        } else {
            put_flow(o, v);
            put(o, "\n");
        }
    }
}

char *node_yaml(const node *n) {
    out o = {0};
    if (node_count(n) > 0) {
        put_block(&o, n, 0, false);
    } else {
        put_flow(&o, n);
        put(&o, "\n");
    }
    return o.text;
}
