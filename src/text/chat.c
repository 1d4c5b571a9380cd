/* Chat templates: the file's Jinja text is compared with the forms of ChatML that kvlab can render, never interpreted.
 */
#include <string.h>

#include "base/mem.h"
#include "text/tokenizer.h"

/* "~" stands for a line feed, which files spell either raw or as \n. */
static const char opening[] = "{% for message in messages %}";
static const char default_opening[] = "{% if loop.first and messages[0]['role'] != 'system' %}{{ '";
static const char default_closing[] = "' }}{% endif %}";
static const char body[] =
    "{{'<|im_start|>' + message['role'] + '~' + message['content'] + '<|im_end|>' + '~'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant~' }}{% endif %}";

/* Moves *t past `form`; false, and *t unchanged, if it does not begin so. */
static bool skip(gguf_str *t, const char *form) {
    gguf_str s = *t;
    for (; *form; form++) {
        size_t n = 1;
        if (*form == '~' && s.n >= 2 && s.p[0] == '\\' && s.p[1] == 'n')
            n = 2;
        else if (s.n < 1 || s.p[0] != (*form == '~' ? '\n' : *form))
            return false;
        s.p += n;
        s.n -= n;
    }
    *t = s;
    return true;
}

/* The quoted text that a template prints before conversations without a system message. */
static err read_default(gguf_str *t, char **out) {
    char *text;
    size_t k = 0;
    TRY(mem_alloc(MEM_OTHER, t->n + 1, &text));
    while (t->n > 0 && *t->p != '\'') {
        size_t n = t->n >= 2 && *t->p == '\\' ? 2 : 1;
        text[k++] = n == 1 ? *t->p : t->p[1] == 'n' ? '\n' : t->p[1];
        t->p += n;
        t->n -= n;
    }
    *out = text;
    return OK;
}

/* *default_text stays NULL if the template has none. */
static err recognise(const gguf *g, char **default_text) {
    gguf_str whole, t;
    if (!gguf_has(g, "tokenizer.chat_template"))
        return ERR(ERR_UNSUPPORTED, "%s has no chat template (tokenizer.chat_template); choose one: chatml",
                   gguf_path(g));
    TRY(gguf_get_str(g, "tokenizer.chat_template", &whole));
    t = whole;
    bool known = skip(&t, opening);
    if (known && skip(&t, default_opening)) {
        TRY(read_default(&t, default_text));
        known = skip(&t, default_closing);
    }
    if (known && skip(&t, body) && t.n == 0) return OK;
    mem_free(*default_text);
    *default_text = NULL;
    char first[61];
    size_t n = whole.n < 60 ? whole.n : 60;
    for (size_t i = 0; i < n; i++) first[i] = whole.p[i] >= 32 && whole.p[i] < 127 ? whole.p[i] : ' ';
    first[n] = 0;
    return ERR(ERR_UNSUPPORTED, "%s: the chat template beginning with `%s` is not supported; supported is chatml",
               gguf_path(g), first);
}

static size_t put(char *out, size_t at, const char *s) {
    size_t n = strlen(s);
    if (out) memcpy(out + at, s, n);
    return at + n;
}

/* Writes to out, or only measures if it is NULL. */
static size_t render_chatml(char *out, const char *default_text, const chat_message *m, int n,
                            bool add_generation_prompt) {
    size_t at = 0;
    if (n > 0 && default_text && strcmp(m[0].role, "system") != 0) at = put(out, at, default_text);
    for (int i = 0; i < n; i++) {
        at = put(out, at, "<|im_start|>");
        at = put(out, at, m[i].role);
        at = put(out, at, "\n");
        at = put(out, at, m[i].content);
        at = put(out, at, "<|im_end|>\n");
    }
    if (add_generation_prompt) at = put(out, at, "<|im_start|>assistant\n");
    return at;
}

err chat_render(const gguf *g, const char *override_template, const chat_message *m, int n, bool add_generation_prompt,
                char **out) {
    char *default_text = NULL, *text;
    if (!override_template)
        TRY(recognise(g, &default_text));
    else if (strcmp(override_template, "chatml") != 0)
        return ERR(ERR_USAGE, "chat template \"%s\" is unknown; supported is chatml", override_template);
    size_t bytes = render_chatml(NULL, default_text, m, n, add_generation_prompt);
    err e = mem_alloc(MEM_OTHER, bytes + 1, &text);
    if (e == OK) {
        render_chatml(text, default_text, m, n, add_generation_prompt);
        text[bytes] = 0;
        *out = text;
    }
    mem_free(default_text);
    return e;
}
