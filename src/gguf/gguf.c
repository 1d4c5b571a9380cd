/* GGUF reader: one pass over header, metadata and tensor table; whatever getters return was checked and indexed here.
 */
#include "gguf/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "gguf/index.h"
#include "gguf/reader.h"

enum { MIN_KEY_BYTES = 13, MIN_TENSOR_BYTES = 33, MAX_NAME_BYTES = 65535, MAX_DIMS = 4 };

typedef struct kv {
    gguf_str key;
    size_t at;     /* byte offset of the value */
    uint32_t type; /* enum gguf_type; GGUF_ARRAY: see elem, n, items */
    uint32_t elem;
    size_t n;
    const uint8_t *raw; /* scalar, or first element of an array of fixed-size elements */
    gguf_str str;
    void *items; /* gguf_str, int32_t or float array of n; NULL for other element types */
} kv;

struct gguf {
    char *path;
    const uint8_t *data;
    size_t bytes;
    bool mapped;
    kv *kvs;
    int n_kvs;
    gguf_tensor *tensors;
    int n_tensors;
    name_index kv_index, tensor_index;
};

/* Names of the file printed in messages: quoted, shortened, without control characters. */
#define NAME_BUF 80
static const char *printable(gguf_str s, char buf[NAME_BUF]) {
    size_t n = s.n < NAME_BUF - 6 ? s.n : NAME_BUF - 6, k = 0;
    buf[k++] = '"';
    for (size_t i = 0; i < n; i++) buf[k++] = s.p[i] >= 32 && s.p[i] < 127 ? s.p[i] : '?';
    if (n < s.n) k += (size_t)sprintf(buf + k, "...");
    buf[k++] = '"';
    buf[k] = 0;
    return buf;
}

/* --- metadata --- */

static err parse_items(reader *r, kv *v) {
    size_t elem_bytes = v->elem == GGUF_STRING ? 8 : gguf_scalar_bytes(v->elem);
    if (v->elem == GGUF_ARRAY) return reader_fail(r, ERR_UNSUPPORTED, r->at, "arrays of arrays are not supported");
    if (elem_bytes == 0) return reader_fail(r, ERR_FORMAT, r->at, "unknown element type %u", v->elem);
    uint64_t n = 0;
    size_t at = r->at;
    TRY(reader_u64(r, &n));
    if (n > (r->n - r->at) / elem_bytes)
        return reader_fail(r, ERR_FORMAT, at, "%" PRIu64 " array elements run past the end of the file (%zu bytes)", n,
                           r->n);
    v->n = (size_t)n;
    v->raw = r->p + r->at;
    if (v->elem == GGUF_STRING) {
        TRY(mem_alloc(MEM_OTHER, v->n * sizeof(gguf_str), &v->items));
        gguf_str *s = v->items;
        for (size_t i = 0; i < v->n; i++) TRY(reader_str(r, &s[i]));
        return OK;
    }
    if (v->elem == GGUF_I32 || v->elem == GGUF_U32 || v->elem == GGUF_F32) { /* the file does not align them */
        TRY(mem_alloc(MEM_OTHER, v->n * 4, &v->items));
        memcpy(v->items, v->raw, v->n * 4);
    }
    if (v->elem == GGUF_BOOL)
        for (size_t i = 0; i < v->n; i++)
            if (v->raw[i] > 1) return reader_fail(r, ERR_FORMAT, r->at + i, "boolean %u is neither 0 nor 1", v->raw[i]);
    r->at += v->n * elem_bytes;
    return OK;
}

static err parse_kv(gguf *g, reader *r, int i) {
    kv *v = &g->kvs[i];
    char name[NAME_BUF];
    size_t at = r->at;
    reader_context(r, "metadata key %d", i);
    TRY(reader_str(r, &v->key));
    if (v->key.n == 0 || v->key.n > MAX_NAME_BYTES)
        return reader_fail(r, ERR_FORMAT, at, "its name has %zu bytes, allowed are 1 to %d", v->key.n, MAX_NAME_BYTES);
    reader_context(r, "metadata key %s", printable(v->key, name));
    g->n_kvs = i + 1;
    if (name_index_add(&g->kv_index, v->key, i) != i) return reader_fail(r, ERR_FORMAT, at, "it appears twice");
    at = r->at;
    TRY(reader_u32(r, &v->type));
    v->at = r->at;
    if (v->type == GGUF_ARRAY) {
        TRY(reader_u32(r, &v->elem));
        return parse_items(r, v);
    }
    if (v->type == GGUF_STRING) return reader_str(r, &v->str);
    size_t bytes = gguf_scalar_bytes(v->type);
    if (bytes == 0) return reader_fail(r, ERR_FORMAT, at, "unknown value type %u", v->type);
    TRY(reader_bytes(r, bytes, &v->raw));
    if (v->type == GGUF_BOOL && *v->raw > 1)
        return reader_fail(r, ERR_FORMAT, v->at, "boolean %u is neither 0 nor 1", *v->raw);
    return OK;
}

static const kv *kv_find(const gguf *g, const char *key) {
    int i = name_index_find(&g->kv_index, (gguf_str){key, strlen(key)});
    return i < 0 ? NULL : &g->kvs[i];
}

/* --- tensors --- */

static err parse_tensor(gguf *g, reader *r, int i, uint64_t *offset) {
    gguf_tensor *t = &g->tensors[i];
    char name[NAME_BUF];
    size_t at = r->at;
    reader_context(r, "tensor %d", i);
    TRY(reader_str(r, &t->name));
    if (t->name.n == 0 || t->name.n > MAX_NAME_BYTES)
        return reader_fail(r, ERR_FORMAT, at, "its name has %zu bytes, allowed are 1 to %d", t->name.n, MAX_NAME_BYTES);
    reader_context(r, "tensor %s", printable(t->name, name));
    g->n_tensors = i + 1;
    if (name_index_add(&g->tensor_index, t->name, i) != i) return reader_fail(r, ERR_FORMAT, at, "it appears twice");

    uint32_t n_dims = 0;
    at = r->at;
    TRY(reader_u32(r, &n_dims));
    if (n_dims < 1 || n_dims > MAX_DIMS)
        return reader_fail(r, ERR_FORMAT, at, "%u dimensions, allowed are 1 to %d", n_dims, MAX_DIMS);
    t->n_dims = (int)n_dims;
    uint64_t n_values = 1;
    for (int d = 0; d < MAX_DIMS; d++) {
        t->dim[d] = 1;
        if (d >= t->n_dims) continue;
        at = r->at;
        TRY(reader_u64(r, &t->dim[d]));
        if (t->dim[d] == 0) return reader_fail(r, ERR_FORMAT, at, "dimension %d is 0", d);
        if (t->dim[d] > INT64_MAX || __builtin_mul_overflow(n_values, t->dim[d], &n_values) || n_values > INT64_MAX)
            return reader_fail(r, ERR_FORMAT, at, "dimension %d (%" PRIu64 ") makes the number of values overflow", d,
                               t->dim[d]);
    }
    at = r->at;
    TRY(reader_u32(r, &t->type));
    int block, block_bytes;
    if (!wtype_file_block(t->type, &block, &block_bytes))
        return reader_fail(r, ERR_UNSUPPORTED, at, "unknown weight type %u; supported are %s", t->type,
                           wtype_supported());
    if (t->dim[0] % (uint64_t)block)
        return reader_fail(r, ERR_FORMAT, at, "%" PRIu64 " columns are no multiple of the %d values in a block of %s",
                           t->dim[0], block, wtype_file_name(t->type));
    uint64_t bytes;
    if (__builtin_mul_overflow(n_values / (uint64_t)block, (uint64_t)block_bytes, &bytes) || bytes > r->n)
        return reader_fail(r, ERR_FORMAT, at, "%" PRIu64 " values of %s are more than the file holds (%zu bytes)",
                           n_values, wtype_file_name(t->type), r->n);
    t->bytes = (size_t)bytes;
    return reader_u64(r, offset);
}

static err parse_alignment(const gguf *g, reader *r, uint32_t *out) {
    const kv *v = kv_find(g, "general.alignment");
    *out = 32;
    if (!v) return OK;
    reader_context(r, "metadata key \"general.alignment\"");
    if (v->type != GGUF_U32)
        return reader_fail(r, ERR_FORMAT, v->at, "its type is %s, not u32", gguf_type_name(v->type));
    memcpy(out, v->raw, 4);
    if (*out < 8 || (*out & (*out - 1)))
        return reader_fail(r, ERR_FORMAT, v->at, "alignment %u is not a power of two of at least 8", *out);
    return OK;
}

/* Tensors in order of their data: neighbours must not overlap. */
static int by_data(const void *a, const void *b) {
    const gguf_tensor *x = *(const gguf_tensor *const *)a, *y = *(const gguf_tensor *const *)b;
    return (x->data > y->data) - (x->data < y->data);
}

static err check_overlap(const gguf *g, reader *r) {
    const gguf_tensor **order;
    TRY(mem_alloc(MEM_OTHER, (size_t)g->n_tensors * sizeof *order, &order));
    for (int i = 0; i < g->n_tensors; i++) order[i] = &g->tensors[i];
    qsort(order, (size_t)g->n_tensors, sizeof *order, by_data);
    err e = OK;
    for (int i = 1; i < g->n_tensors && e == OK; i++) {
        const uint8_t *end = (const uint8_t *)order[i - 1]->data + order[i - 1]->bytes;
        char a[NAME_BUF], b[NAME_BUF];
        if ((const uint8_t *)order[i]->data >= end) continue;
        reader_context(r, "tensor %s", printable(order[i]->name, a));
        e = reader_fail(r, ERR_FORMAT, (size_t)((const uint8_t *)order[i]->data - g->data),
                        "its data overlaps that of tensor %s", printable(order[i - 1]->name, b));
    }
    mem_free(order);
    return e;
}

static err place_tensors(gguf *g, reader *r, const uint64_t *offset, const size_t *info_at, uint32_t alignment) {
    size_t start = r->at, pad = (alignment - start % alignment) % alignment;
    if (g->n_tensors == 0) return OK;
    reader_context(r, "tensor data");
    const uint8_t *skipped;
    TRY(reader_bytes(r, pad, &skipped));
    start = r->at;
    for (int i = 0; i < g->n_tensors; i++) {
        gguf_tensor *t = &g->tensors[i];
        char name[NAME_BUF];
        reader_context(r, "tensor %s", printable(t->name, name));
        if (offset[i] % alignment)
            return reader_fail(r, ERR_FORMAT, info_at[i], "its offset %" PRIu64 " is no multiple of the alignment %u",
                               offset[i], alignment);
        if (offset[i] > r->n - start || t->bytes > r->n - start - offset[i])
            return reader_fail(
                r, ERR_FORMAT, info_at[i],
                "its data (%zu bytes at offset %" PRIu64
                " of the data section) runs past the end of the file (%zu bytes); the file is truncated or corrupted",
                t->bytes, offset[i], r->n);
        t->data = r->p + start + offset[i];
    }
    return check_overlap(g, r);
}

static err parse_tensors(gguf *g, reader *r, int n) {
    uint64_t *offset = NULL;
    size_t *info_at = NULL;
    err e;
    GOTO(done, e, mem_alloc(MEM_OTHER, (size_t)n * sizeof *offset, &offset));
    GOTO(done, e, mem_alloc(MEM_OTHER, (size_t)n * sizeof *info_at, &info_at));
    for (int i = 0; i < n; i++) {
        info_at[i] = r->at;
        GOTO(done, e, parse_tensor(g, r, i, &offset[i]));
    }
    uint32_t alignment = 32;
    GOTO(done, e, parse_alignment(g, r, &alignment));
    e = place_tensors(g, r, offset, info_at, alignment);
done:
    mem_free(offset);
    mem_free(info_at);
    return e;
}

/* --- file --- */

static err parse_count(reader *r, const char *what, size_t min_bytes, int *out) {
    uint64_t n = 0;
    size_t at = r->at;
    reader_context(r, "number of %s", what);
    TRY(reader_u64(r, &n));
    if (n > r->n / min_bytes || n > INT_MAX)
        return reader_fail(r, ERR_FORMAT, at, "%" PRIu64 " cannot fit in a file of %zu bytes", n, r->n);
    *out = (int)n;
    return OK;
}

static err parse(gguf *g) {
    reader r = {.path = g->path, .p = g->data, .n = g->bytes};
    const uint8_t *magic = NULL;
    uint32_t version = 0;
    reader_context(&r, "header");
    TRY(reader_bytes(&r, 4, &magic));
    if (memcmp(magic, "GGUF", 4))
        return reader_fail(&r, ERR_FORMAT, 0, "it does not begin with \"GGUF\", so this is not a GGUF file");
    TRY(reader_u32(&r, &version));
    if (version == 0x02000000u || version == 0x03000000u)
        return reader_fail(&r, ERR_UNSUPPORTED, 4, "big-endian GGUF files are not supported");
    if (version != 2 && version != 3)
        return reader_fail(&r, ERR_UNSUPPORTED, 4, "GGUF version %u; supported are 2 and 3", version);
    int n_tensors = 0, n_kvs = 0;
    TRY(parse_count(&r, "tensors", MIN_TENSOR_BYTES, &n_tensors));
    TRY(parse_count(&r, "metadata keys", MIN_KEY_BYTES, &n_kvs));
    TRY(mem_alloc(MEM_OTHER, (size_t)n_kvs * sizeof *g->kvs, &g->kvs));
    TRY(mem_alloc(MEM_OTHER, (size_t)n_tensors * sizeof *g->tensors, &g->tensors));
    TRY(name_index_create(n_kvs, &g->kv_index));
    TRY(name_index_create(n_tensors, &g->tensor_index));
    for (int i = 0; i < n_kvs; i++) TRY(parse_kv(g, &r, i));
    return parse_tensors(g, &r, n_tensors);
}

static err open_with(const void *data, size_t bytes, const char *path, bool mapped, gguf **out) {
    gguf *g;
    err e = mem_alloc(MEM_OTHER, sizeof *g, &g);
    if (e) {
        if (mapped) munmap((void *)data, bytes);
        return e;
    }
    g->path = mem_strdup(path);
    g->data = data;
    g->bytes = bytes;
    g->mapped = mapped;
    if ((e = parse(g))) {
        gguf_close(g);
        return e;
    }
    *out = g;
    return OK;
}

err gguf_open_memory(const void *data, size_t bytes, const char *name, gguf **out) {
    return open_with(data, bytes, name, false, out);
}

err gguf_open(const char *path, gguf **out) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ERR(errno == ENOENT ? ERR_ENV : ERR_IO, "model file %s cannot be opened: %s", path, strerror(errno));
    struct stat st;
    err e = OK;
    if (fstat(fd, &st))
        e = ERR(ERR_IO, "model file %s cannot be examined: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        e = ERR(ERR_FORMAT, "%s is not a regular file, so it is no GGUF model", path);
    else if (st.st_size == 0)
        e = ERR(ERR_FORMAT, "%s is empty, so it is no GGUF model", path);
    void *data = MAP_FAILED;
    if (!e && (data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED)
        e = ERR(ERR_IO, "model file %s cannot be mapped: %s", path, strerror(errno));
    close(fd);
    return e ? e : open_with(data, (size_t)st.st_size, path, true, out);
}

void gguf_close(gguf *g) {
    if (!g) return;
    for (int i = 0; i < g->n_kvs; i++) mem_free(g->kvs[i].items);
    mem_free(g->kvs);
    mem_free(g->tensors);
    name_index_free(&g->kv_index);
    name_index_free(&g->tensor_index);
    if (g->mapped) munmap((void *)g->data, g->bytes);
    mem_free(g->path);
    mem_free(g);
}

const char *gguf_path(const gguf *g) {
    return g->path;
}
size_t gguf_file_bytes(const gguf *g) {
    return g->bytes;
}

/* --- getters --- */

int gguf_n_tensors(const gguf *g) {
    return g->n_tensors;
}
const gguf_tensor *gguf_tensor_at(const gguf *g, int i) {
    return &g->tensors[i];
}

const gguf_tensor *gguf_tensor_find(const gguf *g, const char *name) {
    int i = name_index_find(&g->tensor_index, (gguf_str){name, strlen(name)});
    return i < 0 ? NULL : &g->tensors[i];
}

static const char *shape_text(int n, const uint64_t *dim, char buf[96]) {
    size_t k = 0;
    for (int d = 0; d < n; d++) k += (size_t)snprintf(buf + k, 96 - k, "%s%" PRIu64, d ? " x " : "", dim[d]);
    return buf;
}

err gguf_tensor_demand(const gguf *g, const char *name, int n_dims, const uint64_t *dim, const gguf_tensor **out) {
    const gguf_tensor *t = gguf_tensor_find(g, name);
    if (!t) return ERR(ERR_FORMAT, "%s: tensor \"%s\" is missing", g->path, name);
    bool same = t->n_dims == n_dims;
    for (int d = 0; same && d < n_dims; d++) same = t->dim[d] == dim[d];
    if (!same) {
        char have[96], want[96];
        return ERR(ERR_FORMAT, "%s: tensor \"%s\" is %s, but the model's metadata demand %s", g->path, name,
                   shape_text(t->n_dims, t->dim, have), shape_text(n_dims, dim, want));
    }
    if (!wtype_find(t->type))
        return ERR(ERR_UNSUPPORTED, "%s: tensor \"%s\" has weight type %s; supported are %s", g->path, name,
                   wtype_file_name(t->type), wtype_supported());
    *out = t;
    return OK;
}

bool gguf_has(const gguf *g, const char *key) {
    return kv_find(g, key) != NULL;
}

static err demand(const gguf *g, const char *key, const kv **out) {
    *out = kv_find(g, key);
    return *out ? OK : ERR(ERR_FORMAT, "%s: metadata key \"%s\" is missing", g->path, key);
}

static err wrong_type(const gguf *g, const char *key, const kv *v, const char *want) {
    bool array = v->type == GGUF_ARRAY;
    return ERR(ERR_FORMAT, "%s: metadata key \"%s\" at byte %zu is %s%s, not %s", g->path, key, v->at,
               array ? "an array of " : "", gguf_type_name(array ? v->elem : v->type), want);
}

err gguf_get_u32(const gguf *g, const char *key, uint32_t *out) {
    const kv *v;
    TRY(demand(g, key, &v));
    uint64_t u = 0;
    int64_t s = 0;
    size_t bytes = gguf_scalar_bytes(v->type);
    switch (v->type) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
        memcpy(&u, v->raw, bytes);
        break;
    case GGUF_I8:
        s = (int8_t)*v->raw;
        break;
    case GGUF_I16: {
        int16_t x;
        memcpy(&x, v->raw, 2);
        s = x;
        break;
    }
    case GGUF_I32: {
        int32_t x;
        memcpy(&x, v->raw, 4);
        s = x;
        break;
    }
    case GGUF_I64:
        memcpy(&s, v->raw, 8);
        break;
    default:
        return wrong_type(g, key, v, "an integer");
    }
    if (s < 0)
        return ERR(ERR_FORMAT, "%s: metadata key \"%s\" at byte %zu is negative (%" PRId64 ")", g->path, key, v->at, s);
    u |= (uint64_t)s;
    if (u > UINT32_MAX)
        return ERR(ERR_FORMAT, "%s: metadata key \"%s\" at byte %zu is %" PRIu64 ", which does not fit in 32 bits",
                   g->path, key, v->at, u);
    *out = (uint32_t)u;
    return OK;
}

err gguf_get_f32(const gguf *g, const char *key, float *out) {
    const kv *v;
    TRY(demand(g, key, &v));
    if (v->type == GGUF_F32) {
        memcpy(out, v->raw, 4);
    } else if (v->type == GGUF_F64) {
        double d;
        memcpy(&d, v->raw, 8);
        *out = (float)d;
    } else {
        return wrong_type(g, key, v, "a floating-point number");
    }
    return OK;
}

err gguf_get_bool(const gguf *g, const char *key, bool *out) {
    const kv *v;
    TRY(demand(g, key, &v));
    if (v->type != GGUF_BOOL) return wrong_type(g, key, v, "a boolean");
    *out = *v->raw != 0;
    return OK;
}

err gguf_get_str(const gguf *g, const char *key, gguf_str *out) {
    const kv *v;
    TRY(demand(g, key, &v));
    if (v->type != GGUF_STRING) return wrong_type(g, key, v, "a string");
    *out = v->str;
    return OK;
}

static err array_of(const gguf *g, const char *key, uint32_t a, uint32_t b, const char *want, const kv **out) {
    TRY(demand(g, key, out));
    const kv *v = *out;
    return v->type == GGUF_ARRAY && (v->elem == a || v->elem == b) ? OK : wrong_type(g, key, v, want);
}

err gguf_get_strs(const gguf *g, const char *key, gguf_str **out, size_t *n) {
    const kv *v;
    TRY(array_of(g, key, GGUF_STRING, GGUF_STRING, "an array of strings", &v));
    *out = v->items;
    *n = v->n;
    return OK;
}

err gguf_get_i32s(const gguf *g, const char *key, const int32_t **out, size_t *n) {
    const kv *v;
    TRY(array_of(g, key, GGUF_I32, GGUF_U32, "an array of 32-bit integers", &v));
    *out = v->items;
    *n = v->n;
    return OK;
}

err gguf_get_f32s(const gguf *g, const char *key, const float **out, size_t *n) {
    const kv *v;
    TRY(array_of(g, key, GGUF_F32, GGUF_F32, "an array of f32", &v));
    *out = v->items;
    *n = v->n;
    return OK;
}
