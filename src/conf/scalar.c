/* What a plain scalar means: null, true/false, integer, decimal number, or text. YAML 1.2's core schema without octal, hexadecimal,
 * infinities and NaN, and with 1_000. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conf/tree.h"

enum { MAX_NUMBER = 64 };

/* Copies digits, dropping single underscores between two of them; returns how many digits. */
static int take_digits(const char **s, char **out, const char *out_end) {
    int n = 0;
    for (;; (*s)++) {
        if (isdigit((unsigned char)**s)) {
            if (*out == out_end) return -1;
            *(*out)++ = **s;
            n++;
        } else if (**s == '_' && n > 0 && isdigit((unsigned char)(*s)[-1]) && isdigit((unsigned char)(*s)[1])) {
            continue;
        } else {
            return n;
        }
    }
}

static scalar_kind read_number(const char *s, int64_t *i, double *d) {
    char clean[MAX_NUMBER], *out = clean;
    const char *out_end = clean + MAX_NUMBER - 8;
    bool whole = true;
    if (*s == '+' || *s == '-') *out++ = *s++;
    int before = take_digits(&s, &out, out_end), after = 0;
    if (*s == '.') {
        whole = false;
        *out++ = *s++;
        after = take_digits(&s, &out, out_end);
    }
    if (before < 0 || after < 0 || before + after == 0) return SCALAR_TEXT;
    if (*s == 'e' || *s == 'E') {
        whole = false;
        *out++ = *s++;
        if (*s == '+' || *s == '-') *out++ = *s++;
        if (take_digits(&s, &out, out_end + 4) <= 0) return SCALAR_TEXT;
    }
    if (*s) return SCALAR_TEXT;
    *out = 0;
    *d = strtod(clean, NULL);
    if (!isfinite(*d)) return SCALAR_TEXT;
    if (!whole) return SCALAR_DOUBLE;
    errno = 0;
    *i = strtoll(clean, NULL, 10);
    return errno == ERANGE ? SCALAR_DOUBLE : SCALAR_INT;
}

static bool one_of(const char *s, const char *const *names) {
    for (; *names; names++)
        if (strcmp(s, *names) == 0) return true;
    return false;
}

scalar_kind scalar_read(const char *text, bool *b, int64_t *i, double *d) {
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const yes[] = {"true", "True", "TRUE", NULL}, *const no[] = {"false", "False", "FALSE", NULL};
    if (one_of(text, nulls)) return SCALAR_NULL;
    *b = one_of(text, yes);
    if (*b || one_of(text, no)) return SCALAR_BOOL;
    return read_number(text, i, d);
}
