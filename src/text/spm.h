/* SentencePiece-style BPE with scores, as llama.cpp does it: characters merge into tokens, the pair whose token has the highest score
 * first and the leftmost among equals; a character without a token becomes its bytes. */
#ifndef KVLAB_TEXT_SPM_H
#define KVLAB_TEXT_SPM_H
#include "base/err.h"
#include "gguf/gguf.h"
#include "text/tokenizer.h"

typedef struct spm spm;

/* Texts and scores are copied. `path` is for messages. A vocabulary without a token <0xXX> for every byte is refused. */
MUST err spm_create(const char *path, const gguf_str *texts, const float *scores, int n_vocab, spm **out);
void spm_destroy(spm *s);
/* Appends the tokens of text[n]; `space_prefix` puts a space before it. Spaces become U+2581. */
MUST err spm_encode(const spm *s, const char *text, size_t n, bool space_prefix, token_list *out);
/* What a token's text stands for, U+2581 as a space; returns its length, at most n. */
size_t spm_text_bytes(const char *text, size_t n, char *out);
#endif
