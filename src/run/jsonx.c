#include "run/jsonx.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"

json_t *jsonx_number(double x) {
    if (isnan(x)) return json_null();
    if (isinf(x)) return json_string(x > 0 ? "inf" : "-inf");
    return json_real(x);
}

/* Length of the UTF-8 sequence at s, 0 if it is none (overlong, surrogate, out of range, cut short). */
static size_t utf8_length(const unsigned char *s) {
    if (s[0] < 0x80) return 1;
    size_t n = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4) return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if (s[0] == 0xE0 && s[1] < 0xA0) return 0;
    if (s[0] == 0xED && s[1] > 0x9F) return 0;
    if (s[0] == 0xF0 && s[1] < 0x90) return 0;
    if (s[0] == 0xF4 && s[1] > 0x8F) return 0;
    return n;
}

json_t *jsonx_text(const char *s) {
    if (!s) return json_null();
    json_t *j = json_string(s);
    if (j) return j;
    char *clean;
    if (mem_alloc(MEM_OTHER, 3 * strlen(s) + 1, &clean) != OK) return NULL;
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)s; *p;) {
        size_t len = utf8_length(p);
        memcpy(clean + n, len ? (const char *)p : "\xEF\xBF\xBD", len ? len : 3);
        n += len ? len : 3;
        p += len ? len : 1;
    }
    j = json_stringn(clean, n);
    mem_free(clean);
    return j;
}

err jsonx_get_text(const json_t *o, const char *key, char **out) {
    const json_t *v = json_object_get(o, key);
    *out = NULL;
    if (!v || json_is_null(v)) return OK;
    if (!json_is_string(v)) return ERR(ERR_FORMAT, "%s is not a string", key);
    *out = mem_strdup(json_string_value(v));
    return OK;
}

err jsonx_get_text_required(const json_t *o, const char *key, char **out) {
    TRY(jsonx_get_text(o, key, out));
    if (!*out) return ERR(ERR_FORMAT, "%s is missing", key);
    return OK;
}

err jsonx_get_id(const json_t *o, const char *key, char out[17]) {
    const char *s = json_string_value(json_object_get(o, key));
    if (!s || strlen(s) != 16) return ERR(ERR_FORMAT, "%s is not an id of 16 hex digits", key);
    for (int i = 0; i < 16; i++)
        if (!isxdigit((unsigned char)s[i])) return ERR(ERR_FORMAT, "%s is not an id of 16 hex digits", key);
    memcpy(out, s, 17);
    return OK;
}

err jsonx_get_int(const json_t *o, const char *key, int min, int max, int *out) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v)) return ERR(ERR_FORMAT, "%s is not an integer", key);
    json_int_t x = json_integer_value(v);
    if (x < min || x > max) return ERR(ERR_FORMAT, "%s is %" JSON_INTEGER_FORMAT ", outside %d..%d", key, x, min, max);
    *out = (int)x;
    return OK;
}

err jsonx_get_bool(const json_t *o, const char *key, bool *out) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_boolean(v)) return ERR(ERR_FORMAT, "%s is not true or false", key);
    *out = json_is_true(v);
    return OK;
}

err jsonx_get_size(const json_t *o, const char *key, size_t *out) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0) return ERR(ERR_FORMAT, "%s is not a count", key);
    *out = (size_t)json_integer_value(v);
    return OK;
}

err jsonx_as_double(const json_t *v, const char *what, double *out) {
    if (json_is_null(v)) {
        *out = NAN;
    } else if (json_is_number(v)) {
        *out = json_number_value(v);
    } else if (json_is_string(v) && strcmp(json_string_value(v), "inf") == 0) {
        *out = INFINITY;
    } else if (json_is_string(v) && strcmp(json_string_value(v), "-inf") == 0) {
        *out = -INFINITY;
    } else {
        return ERR(ERR_FORMAT, "%s is not a number", what);
    }
    return OK;
}

err jsonx_get_double(const json_t *o, const char *key, double *out) {
    const json_t *v = json_object_get(o, key);
    if (!v) return ERR(ERR_FORMAT, "%s is missing", key);
    return jsonx_as_double(v, key, out);
}

err jsonx_get_array(const json_t *o, const char *key, json_t **out) {
    *out = json_object_get(o, key);
    if (!json_is_array(*out)) return ERR(ERR_FORMAT, "%s is not a list", key);
    return OK;
}
