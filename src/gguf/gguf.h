/* GGUF reader (v2, v3, little endian) over a read-only mapping: every count, offset, length, type and alignment is checked before
 * use; strings and tensors point into the mapping. Errors name file, field and byte offset. */
#ifndef KVLAB_GGUF_GGUF_H
#define KVLAB_GGUF_GGUF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "gguf/wtype.h"

typedef struct gguf gguf;
typedef struct gguf_str { const char *p; size_t n; } gguf_str; /* not NUL-terminated, inside the mapping */

typedef struct gguf_tensor {
    gguf_str name;
    int n_dims;
    uint64_t dim[4];    /* dim[0] is the contiguous one (columns) */
    uint32_t type;      /* raw file value; wtype_find tells whether kvlab decodes it */
    const void *data;   /* inside the mapping, checked to be whole */
    size_t bytes;
} gguf_tensor;

MUST err gguf_open(const char *path, gguf **out);
/* The same parser over caller's memory (tests, fuzzers); `data` must outlive the gguf. */
MUST err gguf_open_memory(const void *data, size_t bytes, const char *name, gguf **out);
void gguf_close(gguf *g);
const char *gguf_path(const gguf *g);
size_t gguf_file_bytes(const gguf *g);

int gguf_n_tensors(const gguf *g);
const gguf_tensor *gguf_tensor_at(const gguf *g, int i); /* entries of one array: i == pointer - gguf_tensor_at(g, 0) */
const gguf_tensor *gguf_tensor_find(const gguf *g, const char *name); /* NULL if absent */
/* Demands name, shape (n_dims values, dim[0] first) and a type that kvlab decodes. */
MUST err gguf_tensor_demand(const gguf *g, const char *name, int n_dims, const uint64_t *dim, const gguf_tensor **out);

bool gguf_has(const gguf *g, const char *key);
MUST err gguf_get_u32(const gguf *g, const char *key, uint32_t *out);  /* any integer type in range */
MUST err gguf_get_f32(const gguf *g, const char *key, float *out);     /* f32 or f64 */
MUST err gguf_get_bool(const gguf *g, const char *key, bool *out);
MUST err gguf_get_str(const gguf *g, const char *key, gguf_str *out);
MUST err gguf_get_strs(const gguf *g, const char *key, gguf_str **out, size_t *n);  /* array; valid until gguf_close */
MUST err gguf_get_i32s(const gguf *g, const char *key, const int32_t **out, size_t *n); /* array of i32 or u32, aligned copy */
MUST err gguf_get_f32s(const gguf *g, const char *key, const float **out, size_t *n);
#endif
