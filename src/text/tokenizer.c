#define _GNU_SOURCE /* memmem */
#include "text/tokenizer.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "gguf/index.h"
#include "text/bpe.h"
#include "text/pretokenize.h"
#include "text/spm.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4, TYPE_BYTE = 6 }; /* tokenizer.ggml.token_type */

typedef struct special {
    int32_t id;
    gguf_str text;
} special;

struct tokenizer {
    char *path;
    int n_vocab;
    int32_t bos, eos, eot;
    bool add_bos, add_space_prefix, whole_words;
    bpe *bpe;          /* byte-level: with */
    pretokenizer *pre; /* words, and */
    name_index words;  /* pieces, where a word that is a token stays whole (llama-bpe) */
    spm *spm;          /* or SentencePiece-style */
    uint8_t *type;     /* [n_vocab] */
    size_t *piece_at;  /* [n_vocab + 1] into pieces */
    char *pieces;      /* what tokens decode to */
    special *specials; /* longest first */
    int n_specials;
};

/* --- token lists --- */

void token_list_free(token_list *l) {
    mem_free(l->ids);
    *l = (token_list){0};
}

err token_list_push(token_list *l, int32_t id) {
    if (l->n == l->cap) {
        if (l->cap > INT_MAX / 2) return ERR(ERR_UNSUPPORTED, "a list of %d tokens cannot grow further", l->n);
        int cap = l->cap < 128 ? 256 : l->cap * 2;
        int32_t *ids;
        TRY(mem_alloc(MEM_OTHER, (size_t)cap * sizeof *ids, &ids));
        if (l->n) memcpy(ids, l->ids, (size_t)l->n * sizeof *ids);
        mem_free(l->ids);
        l->ids = ids;
        l->cap = cap;
    }
    l->ids[l->n++] = id;
    return OK;
}

/* --- creation --- */

static err read_types(tokenizer *t, const gguf *g) {
    const int32_t *types;
    size_t n;
    TRY(mem_alloc(MEM_OTHER, (size_t)t->n_vocab, &t->type));
    memset(t->type, TYPE_NORMAL, (size_t)t->n_vocab);
    if (!gguf_has(g, "tokenizer.ggml.token_type")) return OK;
    TRY(gguf_get_i32s(g, "tokenizer.ggml.token_type", &types, &n));
    if (n != (size_t)t->n_vocab)
        return ERR(ERR_FORMAT, "%s: tokenizer.ggml.token_type has %zu entries for %d tokens", t->path, n, t->n_vocab);
    for (size_t i = 0; i < n; i++) {
        if (types[i] < 0 || types[i] > 6)
            return ERR(ERR_FORMAT, "%s: tokenizer.ggml.token_type[%zu] is %d, allowed are 0 to 6", t->path, i,
                       types[i]);
        t->type[i] = (uint8_t)types[i];
    }
    return OK;
}

static bool is_special(const tokenizer *t, int32_t id) {
    return t->type[id] == TYPE_CONTROL || t->type[id] == TYPE_UNKNOWN || t->type[id] == TYPE_USER_DEFINED;
}

static int longest_first(const void *a, const void *b) {
    const special *x = a, *y = b;
    if (x->text.n != y->text.n) return x->text.n < y->text.n ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* The pieces are copied, so the tokenizer does not need the file any more. */
static err read_pieces(tokenizer *t, const gguf_str *texts) {
    size_t bytes = 0, at = 0;
    int n_specials = 0, byte_of[BPE_N_CODES];
    bpe_alphabet(byte_of);
    for (int i = 0; i < t->n_vocab; i++) bytes += texts[i].n, n_specials += is_special(t, i);
    TRY(mem_alloc(MEM_OTHER, bytes, &t->pieces));
    TRY(mem_alloc(MEM_OTHER, ((size_t)t->n_vocab + 1) * sizeof *t->piece_at, &t->piece_at));
    TRY(mem_alloc(MEM_OTHER, (size_t)n_specials * sizeof *t->specials, &t->specials));
    for (int32_t i = 0; i < t->n_vocab; i++) {
        t->piece_at[i] = at;
        unsigned byte;
        char name[8] = {0};
        if (t->spm && t->type[i] == TYPE_BYTE && texts[i].n == 6) {
            memcpy(name, texts[i].p, 6);
            if (sscanf(name, "<0x%2X>", &byte) == 1) {
                t->pieces[at++] = (char)byte;
                continue;
            }
        }
        if (t->spm && (t->type[i] == TYPE_NORMAL || t->type[i] == TYPE_USER_DEFINED)) {
            size_t n = spm_text_bytes(texts[i].p, texts[i].n, t->pieces + at);
            if (t->type[i] == TYPE_USER_DEFINED && n > 0 && n == texts[i].n) t->specials[t->n_specials++] = (special){i, {t->pieces + at, n}};
            at += n;
            continue;
        }
        if (!t->spm && t->type[i] == TYPE_NORMAL) {
            at += bpe_text_bytes(byte_of, texts[i].p, texts[i].n, t->pieces + at);
            continue;
        }
        memcpy(t->pieces + at, texts[i].p, texts[i].n);
        if (is_special(t, i) && texts[i].n > 0)
            t->specials[t->n_specials++] = (special){i, {t->pieces + at, texts[i].n}};
        at += texts[i].n;
    }
    t->piece_at[t->n_vocab] = at;
    qsort(t->specials, (size_t)t->n_specials, sizeof *t->specials, longest_first);
    return OK;
}

static err read_id(const tokenizer *t, const gguf *g, const char *key, int32_t *out) {
    uint32_t id;
    *out = -1;
    if (!gguf_has(g, key)) return OK;
    TRY(gguf_get_u32(g, key, &id));
    if (id >= (uint32_t)t->n_vocab)
        return ERR(ERR_FORMAT, "%s: %s is %u, but there are %d tokens", t->path, key, id, t->n_vocab);
    *out = (int32_t)id;
    return OK;
}

static err read_byte_level(tokenizer *t, const gguf *g, const gguf_str *texts, name_index *vocab) {
    gguf_str pre, *merges;
    size_t n_merges;
    if (!gguf_has(g, "tokenizer.ggml.pre"))
        return ERR(ERR_UNSUPPORTED, "%s: tokenizer.ggml.pre is missing, so the pre-tokenizer is unknown; supported are %s", t->path,
                   pretokenizer_supported());
    TRY(gguf_get_str(g, "tokenizer.ggml.pre", &pre));
    TRY(pretokenizer_create(pre, t->path, &t->pre));
    t->whole_words = pre.n == 9 && memcmp(pre.p, "llama-bpe", 9) == 0;
    t->add_bos = t->whole_words;
    TRY(name_index_create(t->n_vocab, vocab));
    for (int i = 0; i < t->n_vocab; i++) {
        int first = name_index_add(vocab, texts[i], i);
        if (first != i) return ERR(ERR_FORMAT, "%s: tokens %d and %d have the same text", t->path, first, i);
    }
    TRY(gguf_get_strs(g, "tokenizer.ggml.merges", &merges, &n_merges));
    TRY(bpe_create(t->path, vocab, merges, n_merges, &t->bpe));
    TRY(read_types(t, g));
    return read_pieces(t, texts);
}

/* Texts that two tokens share go to the first; words are looked up by what they stand for. */
static err index_words(tokenizer *t) {
    TRY(name_index_create(t->n_vocab, &t->words));
    for (int i = 0; i < t->n_vocab; i++)
        if (t->type[i] == TYPE_NORMAL) name_index_add(&t->words, (gguf_str){t->pieces + t->piece_at[i], t->piece_at[i + 1] - t->piece_at[i]}, i);
    return OK;
}

static err read_scored(tokenizer *t, const gguf *g, const gguf_str *texts) {
    const float *scores;
    size_t n;
    TRY(gguf_get_f32s(g, "tokenizer.ggml.scores", &scores, &n));
    if (n != (size_t)t->n_vocab) return ERR(ERR_FORMAT, "%s: tokenizer.ggml.scores has %zu entries for %d tokens", t->path, n, t->n_vocab);
    for (size_t i = 0; i < n; i++)
        if (scores[i] != scores[i]) return ERR(ERR_FORMAT, "%s: tokenizer.ggml.scores[%zu] is not a number", t->path, i);
    TRY(spm_create(t->path, texts, scores, t->n_vocab, &t->spm));
    t->add_bos = t->add_space_prefix = true;
    if (gguf_has(g, "tokenizer.ggml.add_space_prefix")) TRY(gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix));
    TRY(read_types(t, g));
    return read_pieces(t, texts);
}

static err read_all(tokenizer *t, const gguf *g) {
    gguf_str model, *texts;
    size_t n;
    TRY(gguf_get_str(g, "tokenizer.ggml.model", &model));
    bool byte_level = model.n == 4 && memcmp(model.p, "gpt2", 4) == 0, scored = model.n == 5 && memcmp(model.p, "llama", 5) == 0;
    if (!byte_level && !scored)
        return ERR(ERR_UNSUPPORTED, "%s: tokenizer \"%.*s\" (tokenizer.ggml.model) is not supported; supported are gpt2 and llama",
                   t->path, (int)(model.n < 64 ? model.n : 64), model.p);
    TRY(gguf_get_strs(g, "tokenizer.ggml.tokens", &texts, &n));
    if (n == 0 || n > INT_MAX / 4) return ERR(ERR_FORMAT, "%s: tokenizer.ggml.tokens has %zu entries", t->path, n);
    t->n_vocab = (int)n;
    name_index vocab = {0};
    err e = byte_level ? read_byte_level(t, g, texts, &vocab) : read_scored(t, g, texts);
    name_index_free(&vocab);
    TRY(e);
    if (t->whole_words) TRY(index_words(t));
    TRY(read_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos));
    TRY(read_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos));
    TRY(read_id(t, g, "tokenizer.ggml.eot_token_id", &t->eot));
    if (gguf_has(g, "tokenizer.ggml.add_bos_token")) TRY(gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos));
    else if (t->bos < 0) t->add_bos = false;
    if (t->add_bos && t->bos < 0)
        return ERR(ERR_FORMAT, "%s: tokenizer.ggml.add_bos_token is true, but tokenizer.ggml.bos_token_id is missing",
                   t->path);
    return OK;
}

err tokenizer_create(const gguf *g, tokenizer **out) {
    tokenizer *t;
    TRY(mem_alloc(MEM_OTHER, sizeof *t, &t));
    t->path = mem_strdup(gguf_path(g));
    err e = read_all(t, g);
    if (e) {
        tokenizer_destroy(t);
        return e;
    }
    *out = t;
    return OK;
}

void tokenizer_destroy(tokenizer *t) {
    if (!t) return;
    bpe_destroy(t->bpe);
    pretokenizer_destroy(t->pre);
    name_index_free(&t->words);
    spm_destroy(t->spm);
    mem_free(t->type);
    mem_free(t->piece_at);
    mem_free(t->pieces);
    mem_free(t->specials);
    mem_free(t->path);
    mem_free(t);
}

/* --- encoding --- */

typedef struct encoding {
    const tokenizer *t;
    token_list *out;
} encoding;

static err encode_word(void *ctx, const char *word, size_t n) {
    const encoding *c = ctx;
    if (c->t->whole_words) {
        int id = name_index_find(&c->t->words, (gguf_str){word, n});
        if (id >= 0) return token_list_push(c->out, id);
    }
    return bpe_encode_word(c->t->bpe, word, n, c->out);
}

/* Marks where special tokens stand: longer ones first, each from left to right; a mark is id + 1 at the token's first
 * byte and -1 at its other bytes. */
static void mark_specials(const tokenizer *t, const char *text, size_t n, bool control, int32_t *mark) {
    for (int k = 0; k < t->n_specials; k++) {
        const special *s = &t->specials[k];
        if (!control && t->type[s->id] != TYPE_USER_DEFINED) continue;
        for (size_t at = 0; at + s->text.n <= n;) {
            const char *hit = memmem(text + at, n - at, s->text.p, s->text.n);
            if (!hit) break;
            at = (size_t)(hit - text);
            bool taken = mark[at] != 0 || mark[at + s->text.n - 1] != 0; /* marked tokens are at least as long */
            if (taken) {
                at++;
                continue;
            }
            for (size_t i = 0; i < s->text.n; i++) mark[at + i] = -1;
            mark[at] = s->id + 1;
            at += s->text.n;
        }
    }
}

/* Some vocabularies have no token for a few control bytes and for bytes that never occur in UTF-8. */
static void warn_of_lost_bytes(const tokenizer *t, const char *text, size_t n) {
    static atomic_flag warned = ATOMIC_FLAG_INIT;
    for (size_t i = 0; i < n; i++) {
        if (bpe_byte_token(t->bpe, (unsigned char)text[i]) >= 0) continue;
        if (!atomic_flag_test_and_set(&warned))
            log_warn("%s has no token for byte 0x%02x: such bytes are left out", t->path, (unsigned char)text[i]);
        return;
    }
}

/* after_special: at the start of the text or behind a special token. */
static err encode_plain(const tokenizer *t, const char *text, size_t n, bool after_special, token_list *out) {
    if (t->spm) return spm_encode(t->spm, text, n, t->add_space_prefix && after_special, out);
    encoding c = {t, out};
    warn_of_lost_bytes(t, text, n);
    return pretokenizer_split(t->pre, text, n, encode_word, &c);
}

static err encode_with_specials(const tokenizer *t, const char *text, size_t n, bool control, token_list *out) {
    int32_t *mark;
    err e = OK;
    TRY(mem_alloc(MEM_OTHER, n * sizeof *mark, &mark));
    mark_specials(t, text, n, control, mark);
    for (size_t at = 0; at < n && e == OK;) {
        size_t end = at;
        if (mark[at] > 0) {
            e = token_list_push(out, mark[at] - 1);
            do end++;
            while (end < n && mark[end] < 0);
        } else {
            while (end < n && mark[end] == 0) end++;
            e = encode_plain(t, text + at, end - at, at == 0 || mark[at - 1] != 0, out);
        }
        at = end;
    }
    mem_free(mark);
    return e;
}

static bool has_user_defined(const tokenizer *t) {
    for (int k = 0; k < t->n_specials; k++)
        if (t->type[t->specials[k].id] == TYPE_USER_DEFINED) return true;
    return false;
}

err tokenizer_encode(const tokenizer *t, const char *text, size_t n, bool parse_special, bool add_bos,
                     token_list *out) {
    if (n > INT_MAX) return ERR(ERR_UNSUPPORTED, "a text of %zu bytes is too long to tokenize at once", n);
    if (add_bos && t->add_bos) TRY(token_list_push(out, t->bos));
    if (n == 0) return OK;
    return parse_special || has_user_defined(t) ? encode_with_specials(t, text, n, parse_special, out)
                                                : encode_plain(t, text, n, true, out);
}

/* --- decoding and queries --- */

err tokenizer_decode(const tokenizer *t, const int32_t *ids, int n, bool keep_special, char **out, size_t *n_bytes) {
    size_t bytes = 0, at = 0;
    for (int i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->n_vocab)
            return ERR(ERR_USAGE, "token id %d is not in the vocabulary of %d tokens", ids[i], t->n_vocab);
        bytes += t->piece_at[ids[i] + 1] - t->piece_at[ids[i]];
    }
    char *text;
    TRY(mem_alloc(MEM_OTHER, bytes + 1, &text));
    for (int i = 0; i < n; i++) {
        uint8_t type = t->type[ids[i]];
        if (!keep_special && type != TYPE_NORMAL && type != TYPE_USER_DEFINED && type != TYPE_BYTE) continue;
        size_t len = t->piece_at[ids[i] + 1] - t->piece_at[ids[i]];
        memcpy(text + at, t->pieces + t->piece_at[ids[i]], len);
        at += len;
    }
    text[at] = 0;
    *out = text;
    *n_bytes = at;
    return OK;
}

int tokenizer_n_vocab(const tokenizer *t) {
    return t->n_vocab;
}
int32_t tokenizer_eos(const tokenizer *t) {
    return t->eos;
}
int32_t tokenizer_bos(const tokenizer *t) {
    return t->bos;
}

int32_t tokenizer_find(const tokenizer *t, const char *piece) {
    size_t n = strlen(piece);
    for (int k = 0; k < t->n_specials; k++)
        if (t->specials[k].text.n == n && memcmp(t->specials[k].text.p, piece, n) == 0) return t->specials[k].id;
    return -1;
}

bool tokenizer_is_stop(const tokenizer *t, int32_t id) {
    static const char *const ends[] = {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>"};
    if (id < 0) return false;
    if (id == t->eos || id == t->eot) return true;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (tokenizer_find(t, ends[i]) == id) return true;
    return false;
}
