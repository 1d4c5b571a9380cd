#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pretokenize.h"

#include <pcre2.h>
#include <string.h>

#include "base/mem.h"

/* Unicode White_Space; PCRE2's own \s also has U+180E, which has not been white space since Unicode 6.3. */
#define SPACE "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* Also the numbers of Unicode 15, for a PCRE2 whose tables are older. */
#define NUMBER "\\p{N}\\x{11f50}-\\x{11f59}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}"

enum { MAX_PASSES = 4 };

/* A pass cuts every piece of the pass before: what its pattern matches become pieces, and so does what lies between. The end of a
 * piece is the end of the text to the pass. */
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?[" NUMBER "]+| ?[^" SPACE "\\p{L}" NUMBER "]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"
#define LLAMA3(numbers)                                                                                                \
    "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\\r\\n\\p{L}" NUMBER "]?\\p{L}+|[" NUMBER "]" numbers          \
    "| ?[^" SPACE "\\p{L}" NUMBER "]+[\\r\\n]*|[" SPACE "]*[\\r\\n]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

static const struct {
    const char *name, *pattern[MAX_PASSES];
} known[] = {
    /* Two passes in one: first every number character becomes a word, then GPT-2's pattern cuts the pieces between
     * them. A piece ends at a number, so white space before one is kept whole and does not join it. */
    {"smollm", {"[" NUMBER "]|'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?[^" SPACE "\\p{L}" NUMBER "]+|"
                "[" SPACE "]+(?![^" SPACE NUMBER "])|[" SPACE "]+"}},
    {"gpt-2", {GPT2}},
    {"llama-bpe", {LLAMA3("{1,3}")}},
    {"qwen2", {LLAMA3("")}},
    {"default", {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "[" NUMBER "]+", "[0-9][0-9][0-9]"}},
};

struct pretokenizer {
    pcre2_code *code[MAX_PASSES];
    int n_passes;
};

static err compile(const char *pattern, pcre2_code **out) {
    int number;
    size_t at;
    *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &number,
                         &at, NULL);
    if (!*out) {
        PCRE2_UCHAR text[128];
        pcre2_get_error_message(number, text, sizeof text);
        return ERR(ERR_ENV, "PCRE2 cannot compile the pre-tokenizer's pattern: %s at character %zu", (const char *)text,
                   at);
    }
    /* Without JIT support matching is slower and otherwise the same. */
    (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
    return OK;
}

const char *pretokenizer_supported(void) {
    return "smollm, gpt-2, llama-bpe, qwen2, default";
}

err pretokenizer_create(gguf_str name, const char *path, pretokenizer **out) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strlen(known[i].name) != name.n || memcmp(known[i].name, name.p, name.n)) continue;
        pretokenizer *p;
        TRY(mem_alloc(MEM_OTHER, sizeof *p, &p));
        for (; p->n_passes < MAX_PASSES && known[i].pattern[p->n_passes]; p->n_passes++) {
            err e = compile(known[i].pattern[p->n_passes], &p->code[p->n_passes]);
            if (e) {
                pretokenizer_destroy(p);
                return e;
            }
        }
        *out = p;
        return OK;
    }
    return ERR(ERR_UNSUPPORTED, "%s: pre-tokenizer \"%.*s\" (tokenizer.ggml.pre) is not supported; supported are %s",
               path, (int)(name.n < 64 ? name.n : 64), name.p, pretokenizer_supported());
}

void pretokenizer_destroy(pretokenizer *p) {
    if (!p) return;
    for (int i = 0; i < MAX_PASSES; i++) pcre2_code_free(p->code[i]);
    mem_free(p);
}

/* Length of the well-formed UTF-8 character at s[0..n), 0 if there is none (RFC 3629). */
static size_t utf8_length(const unsigned char *s, size_t n) {
    unsigned char lo = 0x80, hi = 0xbf;
    size_t len;
    if (s[0] < 0x80) return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
    len = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (len > n) return 0;
    if (s[0] == 0xe0) lo = 0xa0; /* no overlong forms, surrogates or values past U+10FFFF */
    if (s[0] == 0xed) hi = 0x9f;
    if (s[0] == 0xf0) lo = 0x90;
    if (s[0] == 0xf4) hi = 0x8f;
    if (s[1] < lo || s[1] > hi) return 0;
    for (size_t i = 2; i < len; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    return len;
}

typedef struct split {
    const pretokenizer *p;
    pcre2_match_data *md[MAX_PASSES];
    word_fn fn;
    void *ctx;
} split;

static err split_pass(const split *s, int pass, const char *text, size_t n) {
    if (pass >= MAX_PASSES || pass == s->p->n_passes) return s->fn(s->ctx, text, n);
    const size_t *range = pcre2_get_ovector_pointer(s->md[pass]);
    for (size_t at = 0; at < n;) {
        int rc = pcre2_match(s->p->code[pass], (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, s->md[pass], NULL);
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
            return ERR(ERR_ENV, "PCRE2 failed to pre-tokenize a text of %zu bytes at byte %zu (code %d)", n, at, rc);
        size_t from = rc < 0 ? n : range[0], to = rc < 0 ? n : range[1];
        if (from > at) TRY(split_pass(s, pass + 1, text + at, from - at));
        if (to > from) TRY(split_pass(s, pass + 1, text + from, to - from));
        at = to;
    }
    return OK;
}

err pretokenizer_split(const pretokenizer *p, const char *text, size_t n, word_fn fn, void *ctx) {
    split c = {.p = p, .fn = fn, .ctx = ctx};
    err e = OK;
    for (int i = 0; i < p->n_passes; i++)
        if (!(c.md[i] = pcre2_match_data_create_from_pattern(p->code[i], NULL))) GOTO(done, e, ERR(ERR_NOMEM, "no memory for PCRE2's match data"));
    for (size_t at = 0; at < n && e == OK;) {
        const unsigned char *s = (const unsigned char *)text;
        size_t end = at, len;
        while (end < n && (len = utf8_length(s + end, n - end)) > 0) end += len;
        if (end > at) GOTO(done, e, split_pass(&c, 0, text + at, end - at));
        at = end;
        while (end < n && utf8_length(s + end, n - end) == 0) end++;
        if (end > at) e = fn(ctx, text + at, end - at);
        at = end;
    }
done:
    for (int i = 0; i < p->n_passes; i++) pcre2_match_data_free(c.md[i]);
    return e;
}
