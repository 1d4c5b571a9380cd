#include "tests/support/tiny_gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/io.h"
#include "base/rng.h"

enum { KV_U32 = 4, KV_I32 = 5, KV_F32 = 6, KV_BOOL = 7, KV_STRING = 8, KV_ARRAY = 9 };

/* --- writer --- */

void byte_buf_add(byte_buf *b, const void *p, size_t n) {
    if (n == 0) return;
    if (b->n + n > b->cap) {
        b->cap = (b->n + n) * 2;
        b->p = realloc(b->p, b->cap);
        if (!b->p) abort();
    }
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void add_u32(byte_buf *b, uint32_t v) {
    byte_buf_add(b, &v, 4);
}
static void add_u64(byte_buf *b, uint64_t v) {
    byte_buf_add(b, &v, 8);
}
static void add_str(byte_buf *b, const char *s) {
    add_u64(b, strlen(s));
    byte_buf_add(b, s, strlen(s));
}
static void add_zeros(byte_buf *b, size_t n) {
    static const uint8_t zeros[64];
    for (; n > 64; n -= 64) byte_buf_add(b, zeros, 64);
    byte_buf_add(b, zeros, n);
}

void gguf_write_raw(gguf_writer *w, const char *key, uint32_t type, const void *value, size_t n) {
    add_str(&w->kvs, key);
    add_u32(&w->kvs, type);
    byte_buf_add(&w->kvs, value, n);
    w->n_kvs++;
}

void gguf_write_u32(gguf_writer *w, const char *key, uint32_t v) {
    gguf_write_raw(w, key, KV_U32, &v, 4);
}
void gguf_write_f32(gguf_writer *w, const char *key, float v) {
    gguf_write_raw(w, key, KV_F32, &v, 4);
}
void gguf_write_bool(gguf_writer *w, const char *key, bool v) {
    gguf_write_raw(w, key, KV_BOOL, &(uint8_t){v}, 1);
}

void gguf_write_str(gguf_writer *w, const char *key, const char *v) {
    byte_buf b = {0};
    add_str(&b, v);
    gguf_write_raw(w, key, KV_STRING, b.p, b.n);
    free(b.p);
}

static byte_buf array_head(uint32_t elem, size_t n) {
    byte_buf b = {0};
    add_u32(&b, elem);
    add_u64(&b, n);
    return b;
}

void gguf_write_strs(gguf_writer *w, const char *key, const char *const *v, size_t n) {
    byte_buf b = array_head(KV_STRING, n);
    for (size_t i = 0; i < n; i++) add_str(&b, v[i]);
    gguf_write_raw(w, key, KV_ARRAY, b.p, b.n);
    free(b.p);
}

static void write_words(gguf_writer *w, const char *key, uint32_t elem, const void *v, size_t n) {
    byte_buf b = array_head(elem, n);
    byte_buf_add(&b, v, 4 * n);
    gguf_write_raw(w, key, KV_ARRAY, b.p, b.n);
    free(b.p);
}

void gguf_write_i32s(gguf_writer *w, const char *key, const int32_t *v, size_t n) {
    write_words(w, key, KV_I32, v, n);
}
void gguf_write_f32s(gguf_writer *w, const char *key, const float *v, size_t n) {
    write_words(w, key, KV_F32, v, n);
}

static size_t padding(const gguf_writer *w, size_t n) {
    size_t a = w->alignment ? w->alignment : 32;
    return (a - n % a) % a;
}

void gguf_write_tensor_raw(gguf_writer *w, const char *name, uint32_t n_dims, const uint64_t *dim, uint32_t type,
                           uint64_t offset, const void *data, size_t bytes) {
    add_zeros(&w->data, padding(w, w->data.n));
    add_str(&w->infos, name);
    add_u32(&w->infos, n_dims);
    byte_buf_add(&w->infos, dim, 8 * (size_t)n_dims);
    add_u32(&w->infos, type);
    add_u64(&w->infos, w->raw_offsets ? offset : w->data.n);
    byte_buf_add(&w->data, data, bytes);
    w->n_tensors++;
}

void gguf_write_tensor(gguf_writer *w, const char *name, int n_dims, const uint64_t *dim, wtype type,
                       const float *values) {
    size_t n = 1;
    for (int d = 0; d < n_dims; d++) n *= dim[d];
    uint8_t *bytes = malloc(4 * n + 4);
    if (!bytes) abort();
    gguf_write_tensor_raw(w, name, (uint32_t)n_dims, dim, type, 0, bytes, tiny_quantize(type, values, n, bytes));
    free(bytes);
}

uint8_t *gguf_writer_finish(gguf_writer *w, size_t *n) {
    byte_buf f = {0};
    if (w->alignment) gguf_write_u32(w, "general.alignment", w->alignment);
    byte_buf_add(&f, "GGUF", 4);
    add_u32(&f, w->version ? w->version : 3);
    add_u64(&f, w->n_tensors + (uint64_t)w->claim_tensors);
    add_u64(&f, w->n_kvs + (uint64_t)w->claim_kvs);
    byte_buf_add(&f, w->kvs.p, w->kvs.n);
    byte_buf_add(&f, w->infos.p, w->infos.n);
    add_zeros(&f, padding(w, f.n));
    byte_buf_add(&f, w->data.p, w->data.n);
    free(w->kvs.p);
    free(w->infos.p);
    free(w->data.p);
    memset(w, 0, sizeof *w);
    *n = f.n;
    return f.p;
}

/* --- weights --- */

static void put_u16(uint8_t *p, uint16_t v) {
    memcpy(p, &v, 2);
}

static void quantize_q4_1(const float *x, uint8_t *dst) { /* 32 values -> 20 bytes */
    float lo = x[0], hi = x[0];
    for (int i = 1; i < 32; i++) lo = fminf(lo, x[i]), hi = fmaxf(hi, x[i]);
    f16 step = f16_from_f32((hi - lo) / 15), min = f16_from_f32(lo);
    float s = f16_to_f32(step), m = f16_to_f32(min);
    put_u16(dst, step);
    put_u16(dst + 2, min);
    for (int i = 0; i < 16; i++) {
        int q[2];
        for (int k = 0; k < 2; k++) {
            float v = s > 0 ? roundf((x[i + 16 * k] - m) / s) : 0;
            q[k] = v < 0 ? 0 : v > 15 ? 15 : (int)v;
        }
        dst[4 + i] = (uint8_t)(q[0] | q[1] << 4);
    }
}

static void quantize_q8_0(const float *x, uint8_t *dst) { /* 32 values -> 34 bytes */
    float peak = 0;
    for (int i = 0; i < 32; i++) peak = fmaxf(peak, fabsf(x[i]));
    f16 step = f16_from_f32(peak / 127);
    float s = f16_to_f32(step);
    put_u16(dst, step);
    for (int i = 0; i < 32; i++) {
        float v = s > 0 ? roundf(x[i] / s) : 0;
        dst[2 + i] = (uint8_t)(int8_t)(v < -127 ? -127 : v > 127 ? 127 : (int)v);
    }
}

size_t tiny_quantize(wtype type, const float *src, size_t n, uint8_t *dst) {
    switch (type) {
    case WTYPE_F32:
        memcpy(dst, src, 4 * n);
        return 4 * n;
    case WTYPE_F16:
        for (size_t i = 0; i < n; i++) put_u16(dst + 2 * i, f16_from_f32(src[i]));
        return 2 * n;
    case WTYPE_BF16:
        for (size_t i = 0; i < n; i++) put_u16(dst + 2 * i, bf16_from_f32(src[i]));
        return 2 * n;
    case WTYPE_Q4_1:
        for (size_t i = 0; i < n; i += 32) quantize_q4_1(src + i, dst + i / 32 * 20);
        return n / 32 * 20;
    case WTYPE_Q8_0:
        for (size_t i = 0; i < n; i += 32) quantize_q8_0(src + i, dst + i / 32 * 34);
        return n / 32 * 34;
    default: /* read by kvlab, not written by the tests' models */
        abort();
    }
}

/* Normal values around `mean`; each tensor has its own stream, so a tensor does not depend on the others' shapes. */
static void add_random(gguf_writer *w, const tiny_model *m, const char *name, wtype type, int n_cols, int n_rows,
                       float mean, float deviation) {
    int n_dims = n_rows > 0 ? 2 : 1;
    uint64_t dim[2] = {(uint64_t)n_cols, (uint64_t)n_rows};
    size_t n = (size_t)n_cols * (size_t)(n_rows > 0 ? n_rows : 1);
    float *x = malloc(n * sizeof *x);
    if (!x) abort();
    rng r = rng_make(m->seed, w->n_tensors);
    for (size_t i = 0; i < n; i++) x[i] = mean + deviation * rng_normal(&r);
    gguf_write_tensor(w, name, n_dims, dim, type, x);
    free(x);
}

static void add_matrix(gguf_writer *w, const tiny_model *m, int layer, const char *part, wtype type, int n_in,
                       int n_out, float gain) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.weight", layer, part);
    add_random(w, m, name, type, n_in, n_out, 0, gain / sqrtf((float)n_in));
}

static void add_norm(gguf_writer *w, const tiny_model *m, int layer, const char *part) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.weight", layer, part);
    add_random(w, m, name, WTYPE_F32, m->n_embd, 0, 1, 0.1f);
}

/* Gains: scores vary by about 2 (attention is neither flat nor one-hot), what layers add outweighs the embedding (so a
 * tied head does not merely repeat the last token), logits vary by about 2.5. */
void tiny_model_add_tensors(gguf_writer *w, const tiny_model *m) {
    int n_q = m->n_head * m->head_dim, n_k = m->n_kv * m->head_dim;
    float logit = 2.5f / sqrtf((float)m->n_embd);
    add_random(w, m, "token_embd.weight", m->embd, m->n_embd, m->n_vocab, 0, logit);
    for (int l = 0; l < m->n_layers; l++) {
        add_norm(w, m, l, "attn_norm");
        add_matrix(w, m, l, "ffn_down", m->ffn, m->n_ff, m->n_embd, 1.5f);
        add_matrix(w, m, l, "ffn_gate", m->ffn, m->n_embd, m->n_ff, 1);
        add_matrix(w, m, l, "ffn_up", m->ffn, m->n_embd, m->n_ff, 1);
        add_norm(w, m, l, "ffn_norm");
        add_matrix(w, m, l, "attn_k", m->attn, m->n_embd, n_k, 1.4f);
        add_matrix(w, m, l, "attn_output", m->attn, n_q, m->n_embd, 1.5f);
        add_matrix(w, m, l, "attn_q", m->attn, m->n_embd, n_q, 1.4f);
        add_matrix(w, m, l, "attn_v", m->attn, m->n_embd, n_k, 1);
    }
    add_random(w, m, "output_norm.weight", WTYPE_F32, m->n_embd, 0, 1, 0.1f);
    if (m->untied) add_random(w, m, "output.weight", m->head, m->n_embd, m->n_vocab, 0, logit);
    for (int l = 0; l < m->n_layers && m->arch; l++) {
        bool gemma3 = !strcmp(m->arch, "gemma3");
        const struct {
            const char *part;
            int n;
            bool there;
            float mean, deviation;
        } vectors[] = {{"attn_q.bias", n_q, !strcmp(m->arch, "qwen2"), 0, 0.5f}, {"attn_k.bias", n_k, !strcmp(m->arch, "qwen2"), 0, 0.5f},
                       {"attn_v.bias", n_k, !strcmp(m->arch, "qwen2"), 0, 0.5f}, {"attn_q_norm.weight", m->head_dim, gemma3 || !strcmp(m->arch, "qwen3"), 1, 0.1f},
                       {"attn_k_norm.weight", m->head_dim, gemma3 || !strcmp(m->arch, "qwen3"), 1, 0.1f},
                       {"post_attention_norm.weight", m->n_embd, gemma3, 1, 0.1f}, {"post_ffw_norm.weight", m->n_embd, gemma3, 1, 0.1f}};
        for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%d.%s", l, vectors[i].part);
            if (vectors[i].there) add_random(w, m, name, WTYPE_F32, vectors[i].n, 0, vectors[i].mean, vectors[i].deviation);
        }
    }
}

/* --- model --- */

tiny_model tiny_model_default(void) {
    return (tiny_model){.n_layers = 2,
                        .n_embd = 128,
                        .n_head = 4,
                        .n_kv = 2,
                        .head_dim = 32,
                        .n_ff = 256,
                        .n_vocab = 512,
                        .context = 2048,
                        .embd = WTYPE_Q8_0,
                        .attn = WTYPE_Q4_1,
                        .ffn = WTYPE_Q4_1,
                        .head = WTYPE_Q8_0,
                        .rope_base = 100000,
                        .rms_eps = 1e-5f,
                        .seed = 1};
}

static const char *key_of(const tiny_model *m, const char *name) {
    static char key[80];
    snprintf(key, sizeof key, "%s.%s", m->arch ? m->arch : "llama", name);
    return key;
}

void tiny_model_add_metadata(gguf_writer *w, const tiny_model *m) {
    char name[40];
    snprintf(name, sizeof name, "tiny random %s", m->arch ? m->arch : "llama");
    gguf_write_str(w, "general.architecture", m->arch ? m->arch : "llama");
    gguf_write_str(w, "general.type", "model");
    gguf_write_str(w, "general.name", name);
    gguf_write_u32(w, key_of(m, "block_count"), (uint32_t)m->n_layers);
    gguf_write_u32(w, key_of(m, "context_length"), (uint32_t)m->context);
    gguf_write_u32(w, key_of(m, "embedding_length"), (uint32_t)m->n_embd);
    gguf_write_u32(w, key_of(m, "feed_forward_length"), (uint32_t)m->n_ff);
    gguf_write_u32(w, key_of(m, "attention.head_count"), (uint32_t)m->n_head);
    gguf_write_u32(w, key_of(m, "attention.head_count_kv"), (uint32_t)m->n_kv);
    gguf_write_f32(w, key_of(m, "rope.freq_base"), m->rope_base);
    gguf_write_f32(w, key_of(m, "attention.layer_norm_rms_epsilon"), m->rms_eps);
    if (m->head_dim * m->n_head != m->n_embd) {
        gguf_write_u32(w, key_of(m, "attention.key_length"), (uint32_t)m->head_dim);
        gguf_write_u32(w, key_of(m, "attention.value_length"), (uint32_t)m->head_dim);
    }
    gguf_write_u32(w, key_of(m, "vocab_size"), (uint32_t)m->n_vocab);
    gguf_write_u32(w, key_of(m, "rope.dimension_count"), (uint32_t)m->head_dim);
    if (m->window) gguf_write_u32(w, key_of(m, "attention.sliding_window"), (uint32_t)m->window);
    tiny_vocab_add(w, m->n_vocab, m->chat_template ? m->chat_template : tiny_chat_template);
    gguf_write_u32(w, "general.quantization_version", 2);
}

uint8_t *tiny_model_bytes(const tiny_model *m, size_t *n) {
    gguf_writer w = {0};
    tiny_model_add_metadata(&w, m);
    tiny_model_add_tensors(&w, m);
    return gguf_writer_finish(&w, n);
}

err tiny_model_write(const char *path, const tiny_model *m) {
    size_t n;
    uint8_t *bytes = tiny_model_bytes(m, &n);
    err e = io_write_file(path, bytes, n);
    free(bytes);
    return e;
}
