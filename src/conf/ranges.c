#include "conf/ranges.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/tree.h"

enum { MAX_VALUES = 10000, MAX_DECIMALS = 6 };

/* A decimal as an integer over a power of ten, so that 0.1..0.5..0.1 has exactly the members one would write. */
typedef struct decimal {
    int64_t digits;
    int n_decimals;
} decimal;

static bool read_decimal(const char **s, decimal *d) {
    const char *c = *s;
    *d = (decimal){0};
    bool minus = *c == '-';
    if (minus) c++;
    int n = 0;
    for (; isdigit((unsigned char)*c); c++, n++) d->digits = n < 9 ? d->digits * 10 + (*c - '0') : INT64_MAX;
    if (n == 0 || n > 9) return false;
    if (*c == '.' && isdigit((unsigned char)c[1]))
        for (c++; isdigit((unsigned char)*c); c++) {
            if (++d->n_decimals > MAX_DECIMALS) return false;
            d->digits = d->digits * 10 + (*c - '0');
        }
    if (minus) d->digits = -d->digits;
    *s = c;
    return true;
}

static int64_t scaled(decimal d, int n_decimals) {
    for (; d.n_decimals < n_decimals; d.n_decimals++) d.digits *= 10;
    return d.digits;
}

static int larger(int a, int b) {
    return a > b ? a : b;
}

static err append_numbers(node *value, decimal from, decimal to, decimal step, node *out) {
    int n_decimals = larger(from.n_decimals, larger(to.n_decimals, step.n_decimals));
    int64_t a = scaled(from, n_decimals), b = scaled(to, n_decimals), s = scaled(step, n_decimals);
    if (s == 0 || (b - a < 0) != (s < 0 && b != a))
        return NODE_ERR(value, "range %s never reaches its end", value->text);
    int64_t n = (b - a) / s + 1;
    if (n > MAX_VALUES) return NODE_ERR(value, "range %s has more than %d values", value->text, MAX_VALUES);
    int shown = larger(from.n_decimals, step.n_decimals);
    double unit = pow(10, n_decimals);
    for (int64_t i = 0; i < n; i++) {
        char text[48];
        int used = snprintf(text, sizeof text, "%.*f", shown, (double)(a + i * s) / unit);
        node *v = tree_node(value->tree, NODE_SCALAR, value->file, value->line, value->col);
        v->text = tree_text(value->tree, text, (size_t)used);
        tree_append(out, v);
    }
    return OK;
}

err range_expand(node *value, node *out) {
    const char *s = value->text;
    decimal from, to, step = {1, 0};
    if (value->kind == NODE_SCALAR && !value->quoted && read_decimal(&s, &from) && strncmp(s, "..", 2) == 0) {
        s += 2;
        bool has_to = read_decimal(&s, &to), has_step = has_to && strncmp(s, "..", 2) == 0;
        if (has_step) {
            s += 2;
            has_step = read_decimal(&s, &step);
            if (!has_step) has_to = false;
        }
        if (has_to && !*s) {
            if (!has_step && (from.n_decimals || to.n_decimals))
                return NODE_ERR(value, "range %s needs a step, like %s..0.1", value->text, value->text);
            return append_numbers(value, from, to, step, out);
        }
        return NODE_ERR(value, "\"%s\" is not a range like 1..8 or 1..8..2", value->text);
    }
    tree_append(out, value);
    return OK;
}
