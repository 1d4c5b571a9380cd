/* Field tables: bind a YAML map to a struct, with defaults, ranges, units and a line of help per field (`kvlab schema` prints them).
 *
 *   static const field fields[] = {
 *       FIELD_INT(lm_conf, context, 2048, 1, 8192, "tokens of compressed context"),
 *       FIELD_ENUM(lm_conf, protocol, "p1", protocol_names, "when compression happens"),
 *       FIELD_END };
 */
#ifndef KVLAB_CONF_FIELDS_H
#define KVLAB_CONF_FIELDS_H
#include "conf/node.h"

typedef enum field_kind { FK_END, FK_BOOL, FK_INT, FK_DOUBLE, FK_STRING, FK_ENUM } field_kind;
typedef struct field {
    field_kind kind;
    const char *name;
    size_t offset;
    double def, min, max;            /* bool, int, double */
    const char *def_text;            /* string, enum */
    const char *const *names;        /* enum: NULL-terminated; the struct's field is an int index */
    const char *help;
} field;
#define FIELD_BOOL(T, f, d, h)           {FK_BOOL, #f, offsetof(T, f), d, 0, 1, NULL, NULL, h}            /* bool */
#define FIELD_INT(T, f, d, lo, hi, h)    {FK_INT, #f, offsetof(T, f), d, lo, hi, NULL, NULL, h}           /* int */
#define FIELD_DOUBLE(T, f, d, lo, hi, h) {FK_DOUBLE, #f, offsetof(T, f), d, lo, hi, NULL, NULL, h}        /* double */
#define FIELD_STRING(T, f, d, h)         {FK_STRING, #f, offsetof(T, f), 0, 0, 0, d, NULL, h}             /* const char *, lives with the tree */
#define FIELD_ENUM(T, f, d, n, h)        {FK_ENUM, #f, offsetof(T, f), 0, 0, 0, d, n, h}                  /* int */
#define FIELD_END                        {FK_END, NULL, 0, 0, 0, 0, NULL, NULL, NULL}

/* Reads `map` (NULL = all defaults; so is a key without a value) into *out; unknown keys, wrong types and values out of range are
 * errors with place. Keys outside the table are known if the caller read them (node_get) before. */
MUST err fields_read(const node *map, const field *fields, void *out);
#endif
