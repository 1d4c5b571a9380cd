#include "task/haystack.h"
#include <string.h>
#include "base/mem.h"
#include "base/rng.h"

static const char repeated_line[] =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

/* None of them holds a digit or speaks of keys. */
static const char *const sentences[] = {
    "The river runs past the mill.",         "A cart rolls slowly down the hill.",
    "The baker opens his shop at dawn.",     "Two boats wait at the old pier.",
    "Snow covers the roofs of the town.",    "The children play in the yard.",
    "A dog sleeps under the table.",         "The lamp in the hall is still lit.",
    "Rain falls on the empty street.",       "The train leaves from the far side.",
    "She waters the plants by the door.",    "He reads the paper after lunch.",
    "The wind moves the tall grass.",        "Birds gather on the telegraph wire.",
    "The market closes before dark.",        "A letter lies on the desk.",
    "The clock in the tower is slow.",       "They walk along the canal.",
    "The soup is warm and a little salty.",  "An old song plays on the radio.",
    "The carpenter mends a broken chair.",   "Clouds drift over the valley.",
    "The cat watches from the window.",      "The bridge was painted last spring.",
    "Leaves collect beside the wall.",       "The ferry crosses twice a day.",
    "A neighbour borrows the ladder.",       "The garden gate will not shut.",
    "Fresh bread cools on the shelf.",       "The path turns left at the oak.",
    "Someone is sweeping the stairs.",       "The harbour is quiet this morning.",
    "The tailor measures the cloth.",        "A kettle sings in the kitchen.",
    "The fields beyond are full of barley.", "The postman whistles as he walks.",
};
enum { N_SENTENCES = sizeof sentences / sizeof *sentences, SENTENCES_PER_LINE = 5, LINE_MAX_BYTES = 256 };

static void write_line(const haystack_spec *h, int i, char out[LINE_MAX_BYTES]) {
    if (h->noise == NOISE_REPEATED) {
        memcpy(out, repeated_line, sizeof repeated_line);
        return;
    }
    size_t at = 0;
    for (int j = 0; j < SENTENCES_PER_LINE; j++) {
        uint64_t word = rng_at(h->seed, h->stream, (uint64_t)i * SENTENCES_PER_LINE + (uint64_t)j);
        const char *s = sentences[(word >> 32) * N_SENTENCES >> 32];
        size_t n = strlen(s);
        if (j) out[at++] = ' ';
        memcpy(out + at, s, n);
        at += n;
    }
    out[at] = 0;
}

/* Intro and lines, the needle among them; mem_free. */
static char *write_context(const haystack_spec *h, int n_lines) {
    size_t n_intro = strlen(h->intro), n_needle = strlen(h->needle), at = n_intro;
    char *text = NULL;
    if (mem_alloc(MEM_OTHER, n_intro + n_needle + (size_t)(n_lines + 1) * LINE_MAX_BYTES, &text)) return NULL;
    memcpy(text, h->intro, n_intro);
    int needle_line = (int)(h->depth * n_lines + 0.5);
    for (int i = 0; i <= n_lines; i++) {
        if (i) text[at++] = '\n';
        if (i == needle_line) {
            memcpy(text + at, h->needle, n_needle);
            at += n_needle;
        } else {
            write_line(h, i < needle_line ? i : i - 1, text + at);
            at += strlen(text + at);
        }
    }
    text[at] = 0;
    return text;
}

static err encode_with_lines(const haystack_spec *h, const gguf *file, const tokenizer *tok, int n_lines,
                             token_list *head, token_list *tail) {
    char *context = write_context(h, n_lines), *rendered = NULL, *rest = NULL;
    err e = context ? OK : ERR(ERR_NOMEM, "no memory for a prompt of %d lines", n_lines);
    head->n = tail->n = 0;
    if (e) return e;
    if (h->chat) {
        char *content = mem_sprintf("%s%s", context, h->question);
        e = chat_render(file, h->template_name, &(chat_message){"user", content}, 1, true, &rendered);
        mem_free(content);
        char *at = e ? NULL : strstr(rendered, context);
        if (!e && !at) e = ERR(ERR_UNSUPPORTED, "the chat template changes the user's text");
        if (!e) { /* the template's opening belongs to the head, what follows the context to the tail */
            size_t n_head = (size_t)(at - rendered) + strlen(context);
            rest = mem_sprintf("%s%s", rendered + n_head, h->answer_prefix);
            e = tokenizer_encode(tok, rendered, n_head, true, true, head);
        }
    } else {
        rest = mem_sprintf("%s%s", h->question, h->answer_prefix);
        e = tokenizer_encode(tok, context, strlen(context), false, true, head);
    }
    if (!e) e = tokenizer_encode(tok, rest, strlen(rest), h->chat, false, tail);
    mem_free(context);
    mem_free(rendered);
    mem_free(rest);
    return e;
}

err haystack_build(const haystack_spec *h, const gguf *file, const tokenizer *tok, token_list *head, token_list *tail,
                   int *n_lines) {
    TRY(encode_with_lines(h, file, tok, 0, head, tail));
    int fixed = head->n + tail->n;
    if (fixed > h->length)
        return ERR(ERR_USAGE, "a prompt of %d tokens has no room for question and needle, which take %d", h->length,
                   fixed);
    TRY(encode_with_lines(h, file, tok, 8, head, tail));
    /* The largest number of lines that fits: lines cost nearly the same, so the first guess is off by a few at most. */
    int n = (int)((double)(h->length - fixed) * 8 / (head->n + tail->n - fixed));
    TRY(encode_with_lines(h, file, tok, n, head, tail));
    while (head->n + tail->n <= h->length) TRY(encode_with_lines(h, file, tok, ++n, head, tail));
    while (head->n + tail->n > h->length) TRY(encode_with_lines(h, file, tok, --n, head, tail));
    *n_lines = n;
    return OK;
}
