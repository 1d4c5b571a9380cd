/* Byte-level byte-pair encoding: bytes of a word become tokens, then neighbours merge, the merge learned first going
 * first and the leftmost first among equals. */
#ifndef KVLAB_TEXT_BPE_H
#define KVLAB_TEXT_BPE_H
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "gguf/gguf.h"
#include "gguf/index.h"
#include "text/tokenizer.h"

typedef struct bpe bpe;

/* `merges` as in the file ("left right", both in the byte alphabet); every part and every result must be in `vocab`. */
MUST err bpe_create(const char *path, const name_index *vocab, const gguf_str *merges, size_t n_merges, bpe **out);
void bpe_destroy(bpe *b);
int32_t bpe_byte_token(const bpe *b, unsigned char byte); /* -1 if the vocabulary lacks it */
/* Appends the tokens of a word; bytes without a token are left out. */
MUST err bpe_encode_word(const bpe *b, const char *word, size_t n, token_list *out);

/* GPT-2's printable alphabet: byte <-> Unicode character. */
int bpe_byte_char(unsigned char byte, char utf8[3]); /* bytes written, 1 or 2 */
enum { BPE_N_CODES = 256 + 68 };
void bpe_alphabet(int byte_of[BPE_N_CODES]); /* character -> byte, -1 if it stands for none */
/* Bytes that a token's text stands for; texts with other characters stand for themselves. Returns their number, at most
 * n. */
size_t bpe_text_bytes(const int byte_of[BPE_N_CODES], const char *text, size_t n, char *out);
#endif
