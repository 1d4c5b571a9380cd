/* Checked cursor over the bytes of a GGUF file: little-endian fields, and messages that name file, field and byte
 * offset. */
#ifndef KVLAB_GGUF_READER_H
#define KVLAB_GGUF_READER_H
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "gguf/gguf.h"

/* Types of metadata values, as in the file. */
enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
};
const char *gguf_type_name(uint32_t type);
size_t gguf_scalar_bytes(uint32_t type); /* 0 for strings, arrays and unknown types */

typedef struct reader {
    const char *path;
    const uint8_t *p;
    size_t n, at;
    char context[128]; /* the field being read */
} reader;

void reader_context(reader *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* "path: context at byte N: reason" */
MUST err reader_fail(const reader *r, err code, size_t at, const char *fmt, ...) PRINTF_LIKE(4, 5);
MUST err reader_bytes(reader *r, size_t n, const uint8_t **out);
MUST err reader_u32(reader *r, uint32_t *out);
MUST err reader_u64(reader *r, uint64_t *out);
MUST err reader_str(reader *r, gguf_str *out);
#endif
