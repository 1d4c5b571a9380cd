/* Tokens of natural text, and windows of it. */
#include <ctype.h>
#include <string.h>
#include "task/task_impl.h"

/* Byte-level BPE splits the text into pieces first and never looks past a piece, and every piece ends where a mark is
 * followed by white space. So a text cut there gives a prefix of the tokens of the whole. (ASCII only: other white
 * space has several bytes.) */
static bool is_mark(char c) {
    return (unsigned char)c > ' ' && (unsigned char)c < 0x7f;
}
static size_t cut_at_space(const char *text, size_t n, size_t at) {
    while (at < n && !(isspace((unsigned char)text[at]) && is_mark(text[at - 1]))) at++;
    return at;
}

err text_tokens(const text_source *t, const tokenizer *tok, int n, token_list *out) {
    size_t n_bytes, guess = (size_t)n * 6 + 256;
    const char *text = text_source_text(t, &n_bytes);
    for (;; guess *= 2) {
        size_t cut = guess < n_bytes ? cut_at_space(text, n_bytes, guess) : n_bytes;
        out->n = 0;
        TRY(tokenizer_encode(tok, text, cut, false, false, out));
        if (out->n >= n || cut == n_bytes) break;
    }
    if (out->n > n) out->n = n;
    return OK;
}

static err choose_text(task *t, const node *conf, const char *name) {
    if (name && *name) {
        TRY(text_source_open(name, t->text ? text_source_data_dir(t->text) : NULL, &t->own_text));
        t->text = t->own_text;
    }
    if (!t->text)
        return NODE_ERR(
            conf, "%s needs natural text: name a file with --text or install the Debian package debian-reference-en",
            t->kind->name);
    return OK;
}

err text_windows_open(task *t, const node *conf, const char *name, int window, int skip, int stride, int records,
                      int limit, text_windows *out) {
    TRY(choose_text(t, conf, name));
    int wanted = records > 0 ? task_limited(records, limit) : limit;
    *out = (text_windows){.skip = skip, .window = window, .stride = stride > 0 ? stride : window};
    int64_t needed = wanted > 0 ? skip + (int64_t)(wanted - 1) * out->stride + window : INT32_MAX / 16;
    if (needed > INT32_MAX / 16) needed = INT32_MAX / 16;
    TRY(text_tokens(t->text, engine_tokenizer(t->e), (int)needed, &out->tokens));
    int fit = out->tokens.n < skip + window ? 0 : (out->tokens.n - skip - window) / out->stride + 1;
    if (fit < (wanted > 0 ? wanted : 1))
        return NODE_ERR(
            conf, "%s: %s holds %d tokens, enough for %d records of %d tokens every %d after the first %d, not for %d",
            t->kind->name, text_source_name(t->text), out->tokens.n, fit, window, out->stride, skip,
            wanted > 0 ? wanted : 1);
    out->n = wanted > 0 ? wanted : fit;
    return OK;
}
