#include "gguf/reader.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

static const struct {
    const char *name;
    size_t bytes;
} types[] = {
    [GGUF_U8] = {"u8", 1},         [GGUF_I8] = {"i8", 1},       [GGUF_U16] = {"u16", 2}, [GGUF_I16] = {"i16", 2},
    [GGUF_U32] = {"u32", 4},       [GGUF_I32] = {"i32", 4},     [GGUF_F32] = {"f32", 4}, [GGUF_BOOL] = {"bool", 1},
    [GGUF_STRING] = {"string", 0}, [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"u64", 8}, [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};

const char *gguf_type_name(uint32_t type) {
    return type <= GGUF_F64 ? types[type].name : "of unknown type";
}
size_t gguf_scalar_bytes(uint32_t type) {
    return type <= GGUF_F64 ? types[type].bytes : 0;
}

void reader_context(reader *r, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->context, sizeof r->context, fmt, ap);
    va_end(ap);
}

err reader_fail(const reader *r, err code, size_t at, const char *fmt, ...) {
    char reason[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(reason, sizeof reason, fmt, ap);
    va_end(ap);
    return ERR(code, "%s: %s at byte %zu: %s", r->path, r->context, at, reason);
}

err reader_bytes(reader *r, size_t n, const uint8_t **out) {
    if (n > r->n - r->at)
        return reader_fail(r, ERR_FORMAT, r->at,
                           "%zu bytes are needed, but the file ends at byte %zu; it is truncated or corrupted", n,
                           r->n);
    *out = r->p + r->at;
    r->at += n;
    return OK;
}

err reader_u32(reader *r, uint32_t *out) {
    const uint8_t *b = NULL;
    TRY(reader_bytes(r, 4, &b));
    *out = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    return OK;
}

err reader_u64(reader *r, uint64_t *out) {
    uint32_t lo = 0, hi = 0;
    const uint8_t *whole;
    size_t at = r->at;
    TRY(reader_bytes(r, 8, &whole));
    r->at = at;
    TRY(reader_u32(r, &lo));
    TRY(reader_u32(r, &hi));
    *out = (uint64_t)hi << 32 | lo;
    return OK;
}

err reader_str(reader *r, gguf_str *out) {
    uint64_t n = 0;
    size_t at = r->at;
    TRY(reader_u64(r, &n));
    if (n > r->n - r->at)
        return reader_fail(r, ERR_FORMAT, at, "a string of %" PRIu64 " bytes runs past the end of the file (%zu bytes)",
                           n, r->n);
    out->p = (const char *)r->p + r->at;
    out->n = (size_t)n;
    r->at += out->n;
    return OK;
}
