/* Haystacks: prompts that hide a sentence among lines of noise (Mohtashami & Jaggi 2023; InfiniteBench's `passkey`;
 * RULER's noise). */
#ifndef KVLAB_TASK_HAYSTACK_H
#define KVLAB_TASK_HAYSTACK_H
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "text/tokenizer.h"

typedef enum noise_kind {
    NOISE_REPEATED /* one line of five sentences, again and again */,
    NOISE_VARIED /* our own sentences, drawn at random */
} noise_kind;

typedef struct haystack_spec {
    noise_kind noise;
    int length;   /* tokens of the whole prompt, at most */
    double depth; /* 0: the needle is the first line; 1: the last */
    const char *intro, *needle, *question, *answer_prefix;
    const char *template_name; /* of chat_template_names */
    bool chat;             /* intro, lines and question are the user's turn, the answer prefix opens the assistant's */
    uint64_t seed, stream; /* of varied noise */
} haystack_spec;

/* `head` = everything up to the last line, `tail` = question and answer prefix, each tokenised by itself. */
MUST err haystack_build(const haystack_spec *h, const gguf *file, const tokenizer *tok, token_list *head,
                        token_list *tail, int *n_lines);
#endif
