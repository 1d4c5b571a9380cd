/* Chat templates: the file's Jinja text is recognised, never interpreted. ChatML is compared form by form; the others are told by
 * marks that only they have. */
#define _GNU_SOURCE /* memmem */
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

typedef enum chat_form { CHATML, LLAMA2, LLAMA3, LLAMA31, MISTRAL, MISTRAL_V1, MISTRAL_V3, MISTRAL_TEKKEN, MISTRAL_V7, GEMMA, N_FORMS } chat_form;
const char *const chat_template_names[] = {"own", "chatml", "llama2", "llama3", "llama3.1", "mistral", "mistral-v1", "mistral-v3",
                                           "mistral-tekken", "mistral-v7", "gemma", NULL}; /* form i after "own" */
_Static_assert(sizeof chat_template_names / sizeof *chat_template_names == N_FORMS + 2, "a name for each form");
static const char supported[] = "chatml, llama2, llama3, llama3.1, mistral, mistral-v1, mistral-v3, mistral-tekken, mistral-v7, gemma";

static const char qwen_default[] = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n";

static bool has(gguf_str t, const char *mark) {
    return memmem(t.p, t.n, mark, strlen(mark)) != NULL;
}

/* Mistral's templates differ in blanks. Those of version 7 with [SYSTEM_PROMPT] and no blank behind (tekken) bring long system prompts of
 * their own, dates included: refused. */
static bool recognise_inst(gguf_str t, chat_form *form) {
    if (has(t, "[SYSTEM_PROMPT]")) {
        *form = MISTRAL_V7;
        return has(t, "'[SYSTEM_PROMPT] ' + ") && has(t, "'[INST] ' + ");
    }
    if (has(t, "<<SYS>>")) {
        *form = LLAMA2;
        return (has(t, "bos_token + '[INST] ' + content.strip()") || has(t, "bos_token + '[INST] ' + content | trim")) && !has(t, "elif true == true");
    }
    if (has(t, "' [INST] ' + ")) *form = MISTRAL_V1;
    else if (has(t, "[AVAILABLE_TOOLS]")) *form = has(t, "\"[INST]\" + ") ? MISTRAL_TEKKEN : MISTRAL_V3;
    else *form = MISTRAL;
    return true;
}

/* By marks. Qwen's templates are ChatML with parts for tools, which stay out when there are none; those that open the answer with a
 * thought are not among them. */
static bool recognise_marks(gguf_str t, chat_form *form, char **default_text) {
    if (has(t, "<|im_start|>")) {
        bool qwen2 = has(t, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."), qwen3 = has(t, "enable_thinking is defined and enable_thinking is false") && !has(t, "{{- '<think>\\n' }}");
        if (qwen2) *default_text = mem_strdup(qwen_default);
        *form = CHATML;
        return qwen2 || qwen3;
    }
    if (has(t, "<|start_header_id|>") && has(t, "<|eot_id|>")) {
        bool dated = has(t, "\"Today Date: \" + date_string") && has(t, "date_string = \"26 Jul 2024\"");
        *form = dated ? LLAMA31 : LLAMA3;
        return dated || (has(t, "'<|start_header_id|>' + message['role'] + '<|end_header_id|>") && !has(t, "Cutting Knowledge Date") && !has(t, "functions"));
    }
    if (has(t, "<start_of_turn>") && has(t, "<end_of_turn>")) return *form = GEMMA, true;
    return has(t, "[INST]") && has(t, "eos_token") && recognise_inst(t, form);
}

/* *default_text stays NULL if the template has none. */
static err recognise(const gguf *g, chat_form *form, char **default_text) {
    gguf_str whole, t;
    if (!gguf_has(g, "tokenizer.chat_template"))
        return ERR(ERR_UNSUPPORTED, "%s has no chat template (tokenizer.chat_template); choose one: %s", gguf_path(g), supported);
    TRY(gguf_get_str(g, "tokenizer.chat_template", &whole));
    t = whole;
    *form = CHATML;
    bool known = skip(&t, opening);
    if (known && skip(&t, default_opening)) {
        TRY(read_default(&t, default_text));
        known = skip(&t, default_closing);
    }
    if (known && skip(&t, body) && t.n == 0) return OK;
    mem_free(*default_text);
    *default_text = NULL;
    if (recognise_marks(whole, form, default_text)) return OK;
    char first[61];
    size_t n = whole.n < 60 ? whole.n : 60;
    for (size_t i = 0; i < n; i++) first[i] = whole.p[i] >= 32 && whole.p[i] < 127 ? whole.p[i] : ' ';
    first[n] = 0;
    return ERR(ERR_UNSUPPORTED, "%s: the chat template beginning with `%s` is not supported; supported are %s", gguf_path(g), first,
               supported);
}

/* Text under way; out NULL: only measured. */
typedef struct writer {
    char *out;
    size_t n;
} writer;

static void put(writer *w, const char *s) {
    size_t n = strlen(s);
    if (w->out) memcpy(w->out + w->n, s, n);
    w->n += n;
}

/* Without the white space around it, as most templates print contents. */
static void put_trimmed(writer *w, const char *s) {
    static const char white[] = " \t\n\r\v\f";
    s += strspn(s, white);
    size_t n = strlen(s);
    while (n > 0 && strchr(white, s[n - 1])) n--;
    if (w->out) memcpy(w->out + w->n, s, n);
    w->n += n;
}

static bool is(const chat_message *m, const char *role) {
    return strcmp(m->role, role) == 0;
}

static void render_chatml(writer *w, const char *default_text, const chat_message *m, int n, bool open) {
    if (n > 0 && default_text && !is(m, "system")) put(w, default_text);
    for (int i = 0; i < n; i++) {
        put(w, "<|im_start|>");
        put(w, m[i].role);
        put(w, "\n");
        put(w, m[i].content);
        put(w, "<|im_end|>\n");
    }
    if (open) put(w, "<|im_start|>assistant\n");
}

/* Llama 3.1 to 3.3 put two dates before the system message; "today" is the one that their templates fall back to, so that the same call
 * gives the same text on any day. */
static void render_llama3(writer *w, bool dated, const chat_message *m, int n, bool open) {
    const chat_message *system = dated && n > 0 && is(m, "system") ? m : NULL;
    if (dated) {
        put(w, "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n");
        put_trimmed(w, system ? system->content : "");
        put(w, "<|eot_id|>");
    }
    for (int i = system != NULL; i < n; i++) {
        put(w, "<|start_header_id|>");
        put(w, m[i].role);
        put(w, "<|end_header_id|>\n\n");
        put_trimmed(w, m[i].content);
        put(w, "<|eot_id|>");
    }
    if (open) put(w, "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

/* Where [INST] templates differ. The assistant's turn needs no opening in them. */
typedef struct inst_style {
    const char *open, *close, *answer, *end; /* around what the user and the assistant say */
    const char *system, *after_system;       /* around the system message */
    bool last;                               /* it is the head of the last user message, not of the first */
    bool apart;                              /* it is a turn of its own */
    bool trim_user, trim_answer;
} inst_style;
static const inst_style inst_styles[N_FORMS] = {
    [LLAMA2] = {"<s>[INST] ", " [/INST]", " ", " </s>", "<<SYS>>\n", "\n<</SYS>>\n\n", .trim_user = true, .trim_answer = true},
    [MISTRAL] = {"[INST] ", " [/INST]", "", "</s>", "", "\n\n"},
    [MISTRAL_V1] = {" [INST] ", " [/INST]", " ", "</s>", "", "\n\n"},
    [MISTRAL_V3] = {"[INST] ", "[/INST]", " ", "</s>", "", "\n\n", .last = true, .trim_answer = true},
    [MISTRAL_TEKKEN] = {"[INST]", "[/INST]", "", "</s>", "", "\n\n", .last = true},
    [MISTRAL_V7] = {"[INST] ", "[/INST]", " ", "</s>", "[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]", .apart = true},
};

static void put_system(writer *w, const inst_style *y, const chat_message *system) {
    put(w, y->system);
    put(w, system->content);
    put(w, y->after_system);
}

static void render_inst(writer *w, const inst_style *y, const chat_message *m, int n) {
    const chat_message *system = n > 0 && is(m, "system") ? m : NULL;
    bool begins = y == &inst_styles[LLAMA2]; /* with BOS, which the tokenizer adds */
    if (system && y->apart) put_system(w, y, system);
    for (int i = system != NULL; i < n; i++) {
        bool user = is(&m[i], "user"), first = i == (system != NULL);
        put(w, user ? y->open + (begins && first ? strlen("<s>") : 0) : y->answer);
        if (user && system && !y->apart && (y->last ? i == n - 1 : first)) put_system(w, y, system);
        ((user ? y->trim_user : y->trim_answer) ? put_trimmed : put)(w, m[i].content);
        put(w, user ? y->close : y->end);
    }
}

static void render_gemma(writer *w, const chat_message *m, int n, bool open) {
    const chat_message *system = n > 0 && is(m, "system") ? m : NULL;
    for (int i = system != NULL; i < n; i++) {
        put(w, "<start_of_turn>");
        put(w, is(&m[i], "assistant") ? "model" : m[i].role);
        put(w, "\n");
        if (system) {
            put(w, system->content);
            put(w, "\n\n");
            system = NULL;
        }
        put_trimmed(w, m[i].content);
        put(w, "<end_of_turn>\n");
    }
    if (open) put(w, "<start_of_turn>model\n");
}

static void render(writer *w, chat_form form, const char *default_text, const chat_message *m, int n, bool open) {
    switch (form) {
    case CHATML: render_chatml(w, default_text, m, n, open); break;
    case LLAMA3: render_llama3(w, false, m, n, open); break;
    case LLAMA31: render_llama3(w, true, m, n, open); break;
    case GEMMA: render_gemma(w, m, n, open); break;
    default: render_inst(w, &inst_styles[form], m, n); break;
    }
}

err chat_render(const gguf *g, const char *override_template, const chat_message *m, int n, bool add_generation_prompt,
                char **out) {
    char *default_text = NULL;
    chat_form form = CHATML;
    if (!override_template || strcmp(override_template, chat_template_names[0]) == 0) {
        TRY(recognise(g, &form, &default_text));
    } else {
        while (form < N_FORMS && strcmp(override_template, chat_template_names[form + 1]) != 0) form++;
        if (form == N_FORMS) return ERR(ERR_USAGE, "chat template \"%s\" is unknown; supported are %s", override_template, supported);
    }
    writer w = {0};
    char *text;
    render(&w, form, default_text, m, n, add_generation_prompt);
    err e = mem_alloc(MEM_OTHER, w.n + 1, &text);
    if (e == OK) {
        w = (writer){text, 0};
        render(&w, form, default_text, m, n, add_generation_prompt);
        text[w.n] = 0;
        *out = text;
    }
    mem_free(default_text);
    return e;
}
