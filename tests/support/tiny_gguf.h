/* GGUF files for tests: a writer that can also write nonsense, and small random models (llama if not said otherwise) that are complete:
 * metadata as in SmolLM2's file, a byte-level vocabulary with learned merges, chat template, weights whose logits are
 * not degenerate. */
#ifndef KVLAB_TESTS_TINY_GGUF_H
#define KVLAB_TESTS_TINY_GGUF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "gguf/wtype.h"

/* --- writer: keys and tensors in order of the calls; finish assembles the file --- */

typedef struct byte_buf {
    uint8_t *p;
    size_t n, cap;
} byte_buf;
void byte_buf_add(byte_buf *b, const void *p, size_t n);

typedef struct gguf_writer { /* zero-initialise; the first five fields may be set to wrong values on purpose */
    uint32_t version;        /* 0: 3 */
    uint32_t alignment;      /* 0: 32, and no general.alignment key */
    int64_t claim_kvs;       /* added to the number of keys that the header states */
    int64_t claim_tensors;
    bool raw_offsets; /* offsets as passed to gguf_write_tensor_raw, not the true ones */
    uint64_t n_kvs, n_tensors;
    byte_buf kvs, infos, data;
} gguf_writer;

void gguf_write_raw(gguf_writer *w, const char *key, uint32_t type, const void *value,
                    size_t n); /* value bytes as they are */
void gguf_write_u32(gguf_writer *w, const char *key, uint32_t v);
void gguf_write_f32(gguf_writer *w, const char *key, float v);
void gguf_write_bool(gguf_writer *w, const char *key, bool v);
void gguf_write_str(gguf_writer *w, const char *key, const char *v);
void gguf_write_strs(gguf_writer *w, const char *key, const char *const *v, size_t n);
void gguf_write_i32s(gguf_writer *w, const char *key, const int32_t *v, size_t n);
void gguf_write_f32s(gguf_writer *w, const char *key, const float *v, size_t n);
/* Rounds values[dim[0] * dim[1] * ...] to one of kvlab's weight types. */
void gguf_write_tensor(gguf_writer *w, const char *name, int n_dims, const uint64_t *dim, wtype type,
                       const float *values);
void gguf_write_tensor_raw(gguf_writer *w, const char *name, uint32_t n_dims, const uint64_t *dim, uint32_t type,
                           uint64_t offset, const void *data, size_t bytes);
/* The file in memory (free); the writer is empty afterwards. */
uint8_t *gguf_writer_finish(gguf_writer *w, size_t *n);

/* Bytes of n values (a multiple of the type's block) as the type stores them; returns their number. */
size_t tiny_quantize(wtype type, const float *src, size_t n, uint8_t *dst);

/* --- models --- */

typedef struct tiny_model {
    int n_layers, n_embd, n_head, n_kv, head_dim, n_ff, n_vocab, context;
    wtype embd, attn, ffn, head; /* norms are F32; head counts only if untied */
    bool untied;                 /* own output.weight instead of the embedding */
    float rope_base, rms_eps;
    uint64_t seed;
    const char *arch;            /* NULL: llama; qwen2, qwen3, gemma3 with what they have beside */
    int window;                  /* > 0: attention.sliding_window */
    const char *chat_template;   /* NULL: SmolLM2's */
} tiny_model;

/* 2 layers, 4 query and 2 KV heads of 32, embedding 128, ffn 256, 512 tokens, context 2048; embedding Q8_0, matrices
 * Q4_1, tied. */
tiny_model tiny_model_default(void);
/* Metadata and weights into a writer, for tests that add to them. */
void tiny_model_add_metadata(gguf_writer *w, const tiny_model *m);
void tiny_model_add_tensors(gguf_writer *w, const tiny_model *m);
uint8_t *tiny_model_bytes(const tiny_model *m, size_t *n); /* free */
MUST err tiny_model_write(const char *path, const tiny_model *m);

/* --- vocabulary: <|endoftext|> <|im_start|> <|im_end|>, the 256 bytes, merges; unused tokens fill up to n_vocab (at
 * least 259) --- */

enum { TINY_ENDOFTEXT, TINY_IM_START, TINY_IM_END, TINY_FIRST_BYTE, TINY_FIRST_MERGE = TINY_FIRST_BYTE + 256 };
void tiny_vocab_add(gguf_writer *w, int n_vocab, const char *chat_template);
extern const char tiny_chat_template[]; /* SmolLM2's */
#endif
