/* Pre-tokenizers: cut text into the words inside which byte-pair merges happen. */
#ifndef KVLAB_TEXT_PRETOKENIZE_H
#define KVLAB_TEXT_PRETOKENIZE_H
#include <stddef.h>
#include "base/err.h"
#include "gguf/gguf.h"

typedef struct pretokenizer pretokenizer;
typedef err (*word_fn)(void *ctx, const char *word, size_t n);

/* `name` as in tokenizer.ggml.pre; unknown ones are refused by name, with `path` as the file. */
MUST err pretokenizer_create(gguf_str name, const char *path, pretokenizer **out);
const char *pretokenizer_supported(void); /* names, for messages */
void pretokenizer_destroy(pretokenizer *p);
/* Calls fn for every word in order; the words cover the text. Bytes that are not UTF-8 are words of their own. */
MUST err pretokenizer_split(const pretokenizer *p, const char *text, size_t n, word_fn fn, void *ctx);
#endif
