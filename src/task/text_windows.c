/* Tokens of natural text, and windows of one text or of several. */
#include <ctype.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include "base/io.h"
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

err text_tokens(const text_source *t, const tokenizer *tok, int n, bool special, token_list *out) {
    size_t n_bytes, guess = (size_t)n * 6 + 256;
    const char *text = text_source_text(t, &n_bytes);
    for (;; guess *= 2) {
        size_t cut = guess < n_bytes ? cut_at_space(text, n_bytes, guess) : n_bytes;
        out->n = 0;
        TRY(tokenizer_encode(tok, text, cut, special, false, out));
        if (out->n >= n || cut == n_bytes) break;
    }
    if (out->n > n) out->n = n;
    return OK;
}

/* How many windows of the text there are: those wanted, or an error; with 0 wanted as many as fit, at least one. */
static err fit_windows(const task *t, const node *conf, const text_windows_conf *c, const text_source *text, int n_tokens, int wanted, int *n) {
    int stride = c->stride > 0 ? c->stride : c->window;
    int fit = n_tokens < c->skip + c->window ? 0 : (n_tokens - c->skip - c->window) / stride + 1, needed = wanted > 0 ? wanted : 1;
    if (fit < needed)
        return NODE_ERR(
            conf, "%s: %s holds %d tokens, enough for %d records of %d tokens every %d after the first %d, not for %d",
            t->kind->name, text_source_name(text), n_tokens, fit, c->window, stride, c->skip, needed);
    *n = wanted > 0 ? wanted : fit;
    return OK;
}

static err add_text(const task *t, const node *conf, const text_windows_conf *c, const text_source *text, text_windows *w) {
    int stride = c->stride > 0 ? c->stride : c->window, wanted = c->records > 0 ? task_limited(c->records, c->limit) : c->limit, n = 0;
    int64_t needed = wanted > 0 ? c->skip + (int64_t)(wanted - 1) * stride + c->window : INT32_MAX / 16;
    token_list ids = {0};
    err e = text_tokens(text, engine_tokenizer(t->e), (int)(needed < INT32_MAX / 16 ? needed : INT32_MAX / 16), c->special_tokens, &ids);
    if (e == OK) e = fit_windows(t, conf, c, text, ids.n, wanted, &n);
    text_window *more = NULL;
    if (e == OK) e = mem_alloc(MEM_OTHER, (size_t)(w->n + n) * sizeof *more, &more);
    if (e == OK) {
        if (w->n) memcpy(more, w->at, (size_t)w->n * sizeof *more);
        for (int i = 0; i < n; i++) more[w->n + i] = (text_window){.text = w->n_texts, .record = i, .start = c->skip + i * stride, .offset = w->tokens.n};
        mem_free(w->at);
        w->at = more;
        w->n += n;
        w->names[w->n_texts++] = mem_strdup(text_source_name(text));
        e = token_list_add(&w->tokens, ids.ids, ids.n);
    }
    token_list_free(&ids);
    return e;
}

/* ---- names ---- */

typedef err (*text_visit)(void *with, const text_source *text);
static const char bad_name[] = "text: expected a file, a pattern such as code/*.py, or a list of these";

static err visit_path(const char *path, const char *data_dir, text_visit visit, void *with) {
    text_source *text;
    TRY(text_source_open(path, data_dir, &text));
    err e = visit(with, text);
    text_source_close(text);
    return e;
}

/* A name, or a pattern of the shell under the data folder or as it stands: every file it matches, by name. */
static err visit_name(const node *name, const char *data_dir, text_visit visit, void *with) {
    const char *pattern = node_text(name);
    if (node_type(name) != NODE_SCALAR || !*pattern) return NODE_ERR(name, "%s", bad_name);
    if (!strpbrk(pattern, "*?[")) return visit_path(pattern, data_dir, visit, with);
    char *joined = data_dir && pattern[0] != '/' ? io_join(data_dir, pattern) : mem_strdup(pattern);
    glob_t found;
    int code = glob(joined, 0, NULL, &found);
    err e = code == 0 ? OK : NODE_ERR(name, "text: no file matches %s", joined);
    for (size_t i = 0; code == 0 && i < found.gl_pathc && e == OK; i++) e = visit_path(found.gl_pathv[i], NULL, visit, with);
    if (code == 0) globfree(&found);
    mem_free(joined);
    return e;
}

/* All texts that the key `text` names; *named says whether there are any. */
static err visit_texts(const node *conf, const char *data_dir, text_visit visit, void *with, bool *named) {
    const node *names = node_get(conf, "text");
    bool many = node_type(names) == NODE_LIST;
    *named = many ? node_count(names) > 0 : node_type(names) == NODE_SCALAR && *node_text(names);
    if (node_type(names) == NODE_MAP || (many && !*named)) return NODE_ERR(names, "%s", bad_name);
    if (*named && !many) return visit_name(names, data_dir, visit, with);
    for (int i = 0; many && i < node_count(names); i++) TRY(visit_name(node_at(names, i), data_dir, visit, with));
    return OK;
}

static err add_hash(void *with, const text_source *text) {
    char **list = with, *longer = mem_sprintf("%s%s\"%s\"", *list, **list ? "," : "", text_source_sha256(text));
    mem_free(*list);
    *list = longer;
    return OK;
}

err task_text_hashes(const node *conf, const char *data_dir, char **out) {
    node *unread = node_clone(conf); /* looking at a key must not count as reading it */
    bool named;
    *out = mem_strdup("");
    err e = visit_texts(unread, data_dir, add_hash, out, &named);
    node_free(unread);
    return e;
}

/* ---- windows ---- */

typedef struct adding { const task *t; const node *conf; const text_windows_conf *c; text_windows *w; } adding;

static err add_visited(void *with, const text_source *text) {
    adding *a = with;
    if (a->w->n_texts == TASK_MAX_TEXTS) return NODE_ERR(a->conf, "%s: more than %d texts; at most that are supported", a->t->kind->name, TASK_MAX_TEXTS);
    return add_text(a->t, a->conf, a->c, text, a->w);
}

/* The first windows of all texts, then the second ones: a limited run sees many texts. */
static void order_by_record(const text_windows *w, text_window *out) {
    int n = 0;
    for (int r = 0; n < w->n; r++)
        for (int i = 0; i < w->n; i++)
            if (w->at[i].record == r) out[n++] = w->at[i];
}

static err order_windows(text_windows *w, int limit) {
    text_window *ordered;
    TRY(mem_alloc(MEM_OTHER, (size_t)w->n * sizeof *ordered, &ordered));
    order_by_record(w, ordered);
    mem_free(w->at);
    w->at = ordered;
    w->n = task_limited(w->n, limit);
    return OK;
}

err text_windows_open(task *t, const node *conf, const text_windows_conf *c, text_windows *w) {
    adding a = {t, conf, c, w};
    bool named;
    *w = (text_windows){0};
    TRY(visit_texts(conf, t->text ? text_source_data_dir(t->text) : NULL, add_visited, &a, &named));
    if (!named && !t->text)
        return NODE_ERR(
            conf, "%s needs natural text: name a file with --text or install the Debian package debian-reference-en",
            t->kind->name);
    if (!named) TRY(add_visited(&a, t->text));
    return order_windows(w, c->limit);
}

void text_windows_close(text_windows *w) {
    for (int i = 0; i < w->n_texts; i++) mem_free(w->names[i]);
    mem_free(w->at);
    token_list_free(&w->tokens);
}

const int32_t *text_windows_ids(const text_windows *w, int i) {
    return w->tokens.ids + w->at[i].offset + w->at[i].start;
}

void text_windows_describe(const text_windows *w, int i, const char *task, char *out, size_t n) {
    const text_window *at = &w->at[i];
    if (w->n_texts == 1) snprintf(out, n, "%s/%04d tokens=%d", task, i, at->start);
    else snprintf(out, n, "%s/%04d tokens=%d text=%s", task, i, at->start, w->names[at->text]);
}
