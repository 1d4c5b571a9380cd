/* Small helpers over jansson: typed members with errors that name them; numbers that may be NaN or infinite. */
#ifndef KVLAB_RUN_JSONX_H
#define KVLAB_RUN_JSONX_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

enum { JSONX_DUMP = JSON_COMPACT | JSON_REAL_PRECISION(17) };

/* NaN -> null, infinities -> "inf", "-inf". */
json_t *jsonx_number(double x);
/* Any bytes: invalid UTF-8 is replaced by U+FFFD, so a record never fails for what a model generated. NULL -> null. */
json_t *jsonx_text(const char *s);

MUST err jsonx_get_text(const json_t *o, const char *key, char **out); /* string, mem_free; null or absent -> NULL */
MUST err jsonx_get_text_required(const json_t *o, const char *key, char **out);
MUST err jsonx_get_id(const json_t *o, const char *key, char out[17]); /* exactly 16 hex digits */
MUST err jsonx_get_int(const json_t *o, const char *key, int min, int max, int *out);
MUST err jsonx_get_bool(const json_t *o, const char *key, bool *out);
MUST err jsonx_get_size(const json_t *o, const char *key, size_t *out);
MUST err jsonx_get_double(const json_t *o, const char *key, double *out);
MUST err jsonx_as_double(const json_t *v, const char *what, double *out);
MUST err jsonx_get_array(const json_t *o, const char *key, json_t **out); /* borrowed */
#endif
