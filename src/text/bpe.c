#include "text/bpe.h"

#include <string.h>

#include "base/mem.h"
#include "text/merge_heap.h"

enum { SHORT_WORD = 32, MERGED_AWAY = -2 };

typedef struct merge {
    uint64_t pair; /* left id, right id; EMPTY */
    uint32_t rank;
    int32_t id; /* the token it makes */
} merge;

#define EMPTY UINT64_MAX

struct bpe {
    int32_t byte_token[256];
    merge *merges;
    size_t mask;
};

/* --- the byte alphabet: printable Latin-1 stands for itself, the other 68 bytes for U+0100 onwards --- */

static int is_printable(int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

static int byte_code(int byte) {
    int code = 256;
    if (is_printable(byte)) return byte;
    for (int b = 0; b < byte; b++) code += !is_printable(b);
    return code;
}

int bpe_byte_char(unsigned char byte, char utf8[3]) {
    int code = byte_code(byte), n = 0;
    if (code < 128) {
        utf8[n++] = (char)code;
    } else {
        utf8[n++] = (char)(0xc0 | code >> 6);
        utf8[n++] = (char)(0x80 | (code & 63));
    }
    utf8[n] = 0;
    return n;
}

void bpe_alphabet(int byte_of[BPE_N_CODES]) {
    for (int c = 0; c < BPE_N_CODES; c++) byte_of[c] = -1;
    for (int b = 0; b < 256; b++) byte_of[byte_code(b)] = b;
}

size_t bpe_text_bytes(const int byte_of[BPE_N_CODES], const char *text, size_t n, char *out) {
    const unsigned char *s = (const unsigned char *)text;
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        int code = -1;
        if (s[i] < 0x80)
            code = s[i++];
        else if ((s[i] & 0xe0) == 0xc0 && i + 1 < n && (s[i + 1] & 0xc0) == 0x80)
            code = (s[i] & 31) << 6 | (s[i + 1] & 63), i += 2;
        int byte = code < 0 || code >= BPE_N_CODES ? -1 : byte_of[code];
        if (byte < 0) {
            memcpy(out, text, n);
            return n;
        }
        out[k++] = (char)byte;
    }
    return k;
}

/* --- merge table --- */

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static merge *slot_of(const bpe *b, uint64_t pair) {
    size_t i = (size_t)((pair ^ pair >> 29) * 0x9e3779b97f4a7c15u >> 20) & b->mask;
    while (b->merges[i].pair != EMPTY && b->merges[i].pair != pair) i = (i + 1) & b->mask;
    return &b->merges[i];
}

static const merge *find_merge(const bpe *b, int32_t left, int32_t right) {
    if (left < 0 || right < 0) return NULL;
    const merge *m = slot_of(b, pair_of(left, right));
    return m->pair == EMPTY ? NULL : m;
}

static err add_merge(bpe *b, const char *path, const name_index *vocab, gguf_str text, uint32_t rank, char *joined) {
    const char *space = text.n > 2 ? memchr(text.p + 1, ' ', text.n - 2) : NULL;
    if (!space)
        return ERR(ERR_FORMAT, "%s: tokenizer.ggml.merges[%u] is not two pieces with a space between them", path, rank);
    gguf_str left = {text.p, (size_t)(space - text.p)}, right = {space + 1, text.n - left.n - 1};
    memcpy(joined, left.p, left.n);
    memcpy(joined + left.n, right.p, right.n);
    int32_t l = name_index_find(vocab, left), r = name_index_find(vocab, right);
    int32_t id = name_index_find(vocab, (gguf_str){joined, text.n - 1});
    if (l < 0 || r < 0 || id < 0)
        return ERR(ERR_FORMAT, "%s: tokenizer.ggml.merges[%u] has a %s that is not in the vocabulary", path, rank,
                   l < 0   ? "left piece"
                   : r < 0 ? "right piece"
                           : "result");
    merge *m = slot_of(b, pair_of(l, r));
    if (m->pair == EMPTY) *m = (merge){pair_of(l, r), rank, id}; /* of equal merges the first counts */
    return OK;
}

static err fill(bpe *b, const char *path, const name_index *vocab, const gguf_str *merges, size_t n_merges) {
    size_t n_slots = 8, longest = 0;
    if (n_merges > INT32_MAX) return ERR(ERR_UNSUPPORTED, "%s: tokenizer.ggml.merges has %zu entries", path, n_merges);
    for (int byte = 0; byte < 256; byte++) {
        char c[3];
        int n = bpe_byte_char((unsigned char)byte, c);
        b->byte_token[byte] = name_index_find(vocab, (gguf_str){c, (size_t)n});
    }
    while (n_slots < 2 * n_merges) n_slots *= 2;
    TRY(mem_alloc(MEM_OTHER, n_slots * sizeof *b->merges, &b->merges));
    for (size_t i = 0; i < n_slots; i++) b->merges[i].pair = EMPTY;
    b->mask = n_slots - 1;
    for (size_t i = 0; i < n_merges; i++)
        if (merges[i].n > longest) longest = merges[i].n;
    char *joined;
    err e = OK;
    TRY(mem_alloc(MEM_OTHER, longest, &joined));
    for (size_t i = 0; i < n_merges && e == OK; i++) e = add_merge(b, path, vocab, merges[i], (uint32_t)i, joined);
    mem_free(joined);
    return e;
}

err bpe_create(const char *path, const name_index *vocab, const gguf_str *merges, size_t n_merges, bpe **out) {
    bpe *b;
    TRY(mem_alloc(MEM_OTHER, sizeof *b, &b));
    err e = fill(b, path, vocab, merges, n_merges);
    if (e) {
        bpe_destroy(b);
        return e;
    }
    *out = b;
    return OK;
}

void bpe_destroy(bpe *b) {
    if (!b) return;
    mem_free(b->merges);
    mem_free(b);
}

int32_t bpe_byte_token(const bpe *b, unsigned char byte) {
    return b->byte_token[byte];
}

/* --- words --- */

static err push_known(token_list *out, int32_t id) {
    return id < 0 ? OK : token_list_push(out, id);
}

/* Few symbols: look for the best neighbours again after each merge. */
static err encode_short(const bpe *b, const char *word, size_t n, token_list *out) {
    int32_t id[SHORT_WORD];
    const merge *with_next[SHORT_WORD];
    for (size_t i = 0; i < n; i++) id[i] = b->byte_token[(unsigned char)word[i]];
    for (size_t i = 0; i + 1 < n; i++) with_next[i] = find_merge(b, id[i], id[i + 1]);
    for (;;) {
        size_t best = n;
        for (size_t i = 0; i + 1 < n; i++)
            if (with_next[i] && (best == n || with_next[i]->rank < with_next[best]->rank)) best = i;
        if (best == n) break;
        id[best] = with_next[best]->id;
        n--;
        for (size_t i = best + 1; i < n; i++) id[i] = id[i + 1], with_next[i] = with_next[i + 1];
        if (best > 0) with_next[best - 1] = find_merge(b, id[best - 1], id[best]);
        if (best + 1 < n) with_next[best] = find_merge(b, id[best], id[best + 1]);
    }
    for (size_t i = 0; i < n; i++) TRY(push_known(out, id[i]));
    return OK;
}

typedef struct symbol {
    int32_t id, prev, next;
} symbol;
/* A candidate is stale once either id has changed. */
static void offer(const bpe *b, merge_heap *h, const symbol *s, int32_t at) {
    if (at < 0 || s[at].next < 0) return;
    const merge *m = find_merge(b, s[at].id, s[s[at].next].id);
    if (m) merge_heap_push(h, (merge_candidate){merge_key(m->rank, at), s[at].id, s[s[at].next].id});
}

/* Runs of letters or blanks can be megabytes long. Each merge removes a symbol and offers two pairs, so 3 n candidates
 * suffice. */
static err encode_long(const bpe *b, const char *word, size_t n, token_list *out) {
    if (n > INT32_MAX / 2) return ERR(ERR_UNSUPPORTED, "a word of %zu bytes is too long to tokenize", n);
    symbol *s = NULL;
    merge_heap h = {0};
    err e;
    GOTO(done, e, mem_alloc(MEM_OTHER, n * sizeof *s, &s));
    GOTO(done, e, mem_alloc(MEM_OTHER, 3 * n * sizeof *h.items, &h.items));
    for (size_t i = 0; i < n; i++)
        s[i] = (symbol){b->byte_token[(unsigned char)word[i]], (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1};
    for (size_t i = 0; i < n; i++) offer(b, &h, s, (int32_t)i);
    while (h.n > 0) {
        merge_candidate c = merge_heap_pop(&h);
        int32_t at = merge_at(&c), next = s[at].next;
        if (s[at].id != c.a || next < 0 || s[next].id != c.b) continue;
        s[at].id = find_merge(b, c.a, c.b)->id;
        s[at].next = s[next].next;
        s[next].id = MERGED_AWAY;
        if (s[at].next >= 0) s[s[at].next].prev = at;
        offer(b, &h, s, s[at].prev);
        offer(b, &h, s, at);
    }
    for (int32_t i = 0; i >= 0 && e == OK; i = s[i].next) e = push_known(out, s[i].id);
done:
    mem_free(s);
    mem_free(h.items);
    return e;
}

err bpe_encode_word(const bpe *b, const char *word, size_t n, token_list *out) {
    return n <= SHORT_WORD ? encode_short(b, word, n, out) : encode_long(b, word, n, out);
}
