/* Tokenizers read from a GGUF's metadata: byte-level BPE (`tokenizer.ggml.model` = gpt2, words cut as `pre` says) and
 * SentencePiece-style BPE with scores and byte fallback (llama); others are refused by name. The latter takes U+2581 for a space, and
 * where the file asks for a space before each text, decoding gives that space back. Otherwise decode(encode(s)) == s for any bytes, UTF-8 or not, that have tokens. SmolLM2's vocabulary has none for 21 bytes (0x04 0x06
 * 0x13 0x14 0x16 0x1d 0xc0 0xc1 0xf1 0xf2 0xf5-0xff); such bytes are left out, as llama.cpp does, with one warning. */
#ifndef KVLAB_TEXT_TOKENIZER_H
#define KVLAB_TEXT_TOKENIZER_H
#include "gguf/gguf.h"

typedef struct tokenizer tokenizer;
typedef struct token_list { int32_t *ids; int n, cap; } token_list; /* zero-initialise; token_list_free */

MUST err tokenizer_create(const gguf *g, tokenizer **out);
void tokenizer_destroy(tokenizer *t);
/* Appends ids of text[n]. parse_special: text such as <|im_start|> becomes its control token. Adds BOS only if the file says so
 * and add_bos is true. */
MUST err tokenizer_encode(const tokenizer *t, const char *text, size_t n, bool parse_special, bool add_bos, token_list *out);
/* Appends the bytes of ids to *out (mem_free; NUL-terminated); control tokens are left out unless keep_special. */
MUST err tokenizer_decode(const tokenizer *t, const int32_t *ids, int n, bool keep_special, char **out, size_t *n_bytes);
int tokenizer_n_vocab(const tokenizer *t);
int32_t tokenizer_eos(const tokenizer *t);               /* -1 if none */
int32_t tokenizer_bos(const tokenizer *t);
bool tokenizer_is_stop(const tokenizer *t, int32_t id);  /* EOS, end of turn */
int32_t tokenizer_find(const tokenizer *t, const char *piece); /* id of an exact special token text, -1 if absent */
void token_list_free(token_list *l);
MUST err token_list_push(token_list *l, int32_t id);

/* Chat templates by recognition of tokenizer.chat_template (chatml, llama2, llama3, llama3.1, mistral's, gemma); others are refused. */
typedef struct chat_message { const char *role, *content; } chat_message;
extern const char *const chat_template_names[]; /* NULL-terminated; the first, "own", stands for recognition */
/* Fills *out (mem_free) with the text of the conversation; add_generation_prompt opens the assistant's turn. As the model's own
 * template: SmolLM2 puts its default system message first when none is given. */
MUST err chat_render(const gguf *g, const char *override_template /* NULL = own */, const chat_message *m, int n,
                     bool add_generation_prompt, char **out);
#endif
