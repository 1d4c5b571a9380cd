#include "text/spm.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "gguf/index.h"
#include "text/merge_heap.h"

static const char space_mark[] = "\xe2\x96\x81"; /* U+2581 */
enum { MARK_BYTES = 3 };

struct spm {
    int n_vocab;
    char *texts; /* of all tokens, for the index */
    float *scores;
    name_index vocab;
    int32_t byte_token[256];
};

static err find_bytes(spm *s, const char *path) {
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", b);
        s->byte_token[b] = name_index_find(&s->vocab, (gguf_str){name, 6});
        if (s->byte_token[b] < 0)
            return ERR(ERR_UNSUPPORTED, "%s: the vocabulary has no token %s; supported are vocabularies with byte fallback", path, name);
    }
    return OK;
}

static err copy_vocabulary(spm *s, const char *path, const gguf_str *texts, const float *scores) {
    size_t bytes = 0, at = 0;
    for (int i = 0; i < s->n_vocab; i++) bytes += texts[i].n;
    TRY(mem_alloc(MEM_OTHER, bytes + 1, &s->texts));
    TRY(mem_alloc(MEM_OTHER, (size_t)s->n_vocab * sizeof *s->scores, &s->scores));
    TRY(name_index_create(s->n_vocab, &s->vocab));
    for (int i = 0; i < s->n_vocab; i++) {
        s->scores[i] = scores[i];
        memcpy(s->texts + at, texts[i].p, texts[i].n);
        int first = name_index_add(&s->vocab, (gguf_str){s->texts + at, texts[i].n}, i);
        if (first != i) return ERR(ERR_FORMAT, "%s: tokens %d and %d have the same text", path, first, i);
        at += texts[i].n;
    }
    return find_bytes(s, path);
}

err spm_create(const char *path, const gguf_str *texts, const float *scores, int n_vocab, spm **out) {
    spm *s;
    TRY(mem_alloc(MEM_OTHER, sizeof *s, &s));
    s->n_vocab = n_vocab;
    err e = copy_vocabulary(s, path, texts, scores);
    if (e) {
        spm_destroy(s);
        return e;
    }
    *out = s;
    return OK;
}

void spm_destroy(spm *s) {
    if (!s) return;
    name_index_free(&s->vocab);
    mem_free(s->texts);
    mem_free(s->scores);
    mem_free(s);
}

/* --- merging --- */

typedef struct symbol {
    const char *text;
    int32_t n, prev, next; /* n = 0: merged away */
} symbol;

/* Higher scores first: a float's bits as a number that falls where the float rises. Scores are no NaN (spm_create), 0 equals -0. */
static uint32_t rank_of(float score) {
    uint32_t bits;
    score += 0.0f;
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~(bits | 0x80000000u);
}

/* A candidate is stale once the two are not n bytes any more. */
static void offer(const spm *s, merge_heap *h, const symbol *sym, int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    int32_t n = sym[left].n + sym[right].n;
    int id = name_index_find(&s->vocab, (gguf_str){sym[left].text, (size_t)n}); /* neighbours lie side by side */
    if (id >= 0) merge_heap_push(h, (merge_candidate){merge_key(rank_of(s->scores[id]), left), right, n});
}

static err push_symbol(const spm *s, const symbol *x, token_list *out) {
    int id = name_index_find(&s->vocab, (gguf_str){x->text, (size_t)x->n});
    if (id >= 0) return token_list_push(out, id);
    for (int32_t i = 0; i < x->n; i++) TRY(token_list_push(out, s->byte_token[(unsigned char)x->text[i]]));
    return OK;
}

/* Length of the character at s[0..n): bytes that do not continue one as its lead byte announces stand for themselves. */
static size_t char_bytes(const unsigned char *s, size_t n) {
    size_t len = s[0] < 0xc0 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (len > n) return 1;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80) return 1;
    return len;
}

/* Each merge removes a symbol and offers two pairs, so 3 n candidates suffice. */
static err merge_all(const spm *s, const char *text, size_t n, symbol *sym, merge_heap *h, token_list *out) {
    int32_t n_sym = 0;
    for (size_t at = 0; at < n; n_sym++) {
        size_t len = char_bytes((const unsigned char *)text + at, n - at);
        sym[n_sym] = (symbol){text + at, (int32_t)len, n_sym - 1, at + len < n ? n_sym + 1 : -1};
        at += len;
    }
    for (int32_t i = 0; i + 1 < n_sym; i++) offer(s, h, sym, i, i + 1);
    while (h->n > 0) {
        merge_candidate c = merge_heap_pop(h);
        int32_t left = merge_at(&c);
        symbol *l = &sym[left], *r = &sym[c.a];
        if (l->n == 0 || r->n == 0 || l->n + r->n != c.b) continue;
        l->n = c.b;
        r->n = 0;
        l->next = r->next;
        if (r->next >= 0) sym[r->next].prev = left;
        offer(s, h, sym, l->prev, left);
        offer(s, h, sym, left, l->next);
    }
    for (int32_t i = n_sym ? 0 : -1; i >= 0; i = sym[i].next) TRY(push_symbol(s, &sym[i], out));
    return OK;
}

err spm_encode(const spm *s, const char *text, size_t n, bool space_prefix, token_list *out) {
    if (n > INT32_MAX / 8) return ERR(ERR_UNSUPPORTED, "a text of %zu bytes is too long to tokenize at once", n);
    if (n == 0) return OK;
    char *escaped;
    symbol *sym = NULL;
    merge_heap h = {0};
    size_t len = 0;
    err e;
    TRY(mem_alloc(MEM_OTHER, MARK_BYTES * (n + 1), &escaped));
    for (size_t i = 0; i < n + space_prefix; i++) {
        char c = i < space_prefix ? ' ' : text[i - space_prefix];
        if (c == ' ') {
            memcpy(escaped + len, space_mark, MARK_BYTES);
            len += MARK_BYTES;
        } else escaped[len++] = c;
    }
    GOTO(done, e, mem_alloc(MEM_OTHER, (n + 1) * sizeof *sym, &sym)); /* a symbol stands for one byte of the text at least */
    GOTO(done, e, mem_alloc(MEM_OTHER, 3 * (n + 1) * sizeof *h.items, &h.items));
    e = merge_all(s, escaped, len, sym, &h, out);
done:
    mem_free(escaped);
    mem_free(sym);
    mem_free(h.items);
    return e;
}

size_t spm_text_bytes(const char *text, size_t n, char *out) {
    size_t len = 0;
    for (size_t i = 0; i < n;) {
        bool mark = i + MARK_BYTES <= n && memcmp(text + i, space_mark, MARK_BYTES) == 0;
        out[len++] = mark ? ' ' : text[i];
        i += mark ? MARK_BYTES : 1;
    }
    return len;
}
