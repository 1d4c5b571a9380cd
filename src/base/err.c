#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { ERR_TEXT_BYTES = 2048 };

static _Thread_local char text[ERR_TEXT_BYTES];
static _Thread_local char place[128];

/* Text may quote file contents: one line, no terminal control sequences. */
static void make_one_line(char *s) {
    size_t n = strlen(s);
    while (n > 0 && s[n - 1] == '\n') s[--n] = 0;
    for (; *s; s++)
        if ((unsigned char)*s < 32 || *s == 127) *s = ' ';
}

err err_set_at(const char *file, int line, err code, const char *fmt, ...) {
    char next[ERR_TEXT_BYTES]; /* the arguments may point into `text` */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(next, sizeof next, fmt, ap);
    va_end(ap);
    make_one_line(next);
    memcpy(text, next, strlen(next) + 1);
    snprintf(place, sizeof place, "%s:%d", file, line);
    return code;
}

err err_wrap(err code, const char *fmt, ...) {
    if (code == OK) return OK;
    char next[ERR_TEXT_BYTES];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(next, sizeof next, fmt, ap);
    va_end(ap);
    size_t used = n < 0 ? 0 : (size_t)n < sizeof next ? (size_t)n : sizeof next - 1;
    snprintf(next + used, sizeof next - used, ": %s", text);
    make_one_line(next);
    memcpy(text, next, strlen(next) + 1);
    return code;
}

const char *err_text(void) {
    return text;
}

const char *err_place(void) {
    return place;
}

int err_exit_status(err code) {
    switch (code) {
    case OK: return 0;
    case ERR_USAGE: return 2;
    case ERR_ENV: return 3;
    case ERR_VERIFY: return 4;
    case ERR_INTERRUPTED: return 130;
    case ERR_IO:
    case ERR_FORMAT:
    case ERR_UNSUPPORTED:
    case ERR_NOMEM:
    case ERR_FAILED: return 1;
    }
    return 1;
}
