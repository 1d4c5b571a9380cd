/* A small byte-level BPE vocabulary: merges are learned from the sentences below, the most frequent pair first, ties to
 * the pair whose parts are older, so that it is the same everywhere. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/tiny_gguf.h"

const char tiny_chat_template[] =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% "
    "endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

static const char *const sentences[] = {
    "the grass is green and the sky is blue and the sun is yellow",
    "here we go there and back again and then we come home to rest",
    "the pass key is the number that you must remember and repeat at the end of the text",
    "what is the pass key and what was the number that the first man told the second one",
    "there is important information hidden inside a lot of irrelevant text find it and memorize it",
    "a library keeps books on shelves and lends them to readers who return them after some weeks",
    "the river runs through the old town under seven stone bridges and past the market place",
    "in the morning the baker opens the door and the smell of fresh bread fills the street",
    "she wrote a letter to her brother about the journey over the mountains and the long winter",
    "the captain of the ship looked at the stars and changed the course toward the northern harbor",
    "every student should answer the question and give the reason for the answer in one sentence",
    "water boils at a lower temperature on high mountains because the pressure of the air is lower there",
    "the children played in the garden until the evening when their mother called them for dinner",
    "a small engine needs little memory and a large model needs more memory than one computer holds",
    "the function returns the value of the variable when the condition is true and nothing otherwise",
    "people in the village remember the year when the great storm took the roof of the church",
    "he could not find the keys that he had left on the table beside the window the day before",
    "the train from the capital arrives at noon and leaves for the coast twenty minutes later",
    "some birds fly thousands of miles each autumn and return to the same nest in the following spring",
    "the question was whether the shorter text would keep the meaning of the longer one",
    "they were building a house of wood and brick with a wide door and four large windows",
    "the doctor asked the patient about the pain and wrote down every word of the answer",
    "music was playing in the next room while the teacher was reading the story to the class",
    "an early map of the world shows islands that nobody has ever found again",
    "please repeat the following words in the same order without adding anything else",
    "the weather report says that rain is coming from the west and that the wind will be strong",
    "two plus three is five and seven minus four is three while nine is three times three",
    "the farmer sold apples pears and plums at the market and bought seeds for the next season",
    "a user asked the assistant for help and the assistant gave a short and helpful answer",
    "the museum shows tools weapons and clothes which were used by people a thousand years ago",
};

typedef struct symbol {
    char text[64];
} symbol; /* mapped form, UTF-8 */
typedef struct word {
    int n, sym[32];
} word;

/* GPT-2's printable form of a byte. */
static void byte_symbol(int byte, symbol *out) {
    int shifted = 0;
    for (int b = 0; b < byte; b++) shifted += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
    int code = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174 ? byte : 256 + shifted;
    if (code < 128)
        snprintf(out->text, sizeof out->text, "%c", code);
    else
        snprintf(out->text, sizeof out->text, "%c%c", 0xc0 | code >> 6, 0x80 | (code & 63));
}

static int split_words(word *words) {
    int n = 0;
    for (size_t s = 0; s < sizeof sentences / sizeof *sentences; s++)
        for (const char *p = sentences[s]; *p;) {
            word *w = &words[n++];
            w->n = 0;
            do w->sym[w->n++] = TINY_FIRST_BYTE + (unsigned char)*p++;
            while (*p && *p != ' ');
        }
    return n;
}

/* Replaces the pair by `merged` wherever it occurs. */
static void apply_merge(word *words, int n_words, int left, int right, int merged) {
    for (int i = 0; i < n_words; i++) {
        word *w = &words[i];
        int k = 0;
        for (int j = 0; j < w->n; j++) {
            bool hit = j + 1 < w->n && w->sym[j] == left && w->sym[j + 1] == right;
            w->sym[k++] = hit ? merged : w->sym[j];
            j += hit;
        }
        w->n = k;
    }
}

static bool best_pair(const word *words, int n_words, int n_symbols, int *left, int *right) {
    int *count = calloc((size_t)n_symbols * (size_t)n_symbols, sizeof *count), best = 1;
    if (!count) abort();
    for (int i = 0; i < n_words; i++)
        for (int j = 0; j + 1 < words[i].n; j++) count[words[i].sym[j] * n_symbols + words[i].sym[j + 1]]++;
    for (int k = 0; k < n_symbols * n_symbols; k++)
        if (count[k] > best) best = count[k], *left = k / n_symbols, *right = k % n_symbols;
    free(count);
    return best > 1;
}

void tiny_vocab_add(gguf_writer *w, int n_vocab, const char *chat_template) {
    if (n_vocab < TINY_FIRST_MERGE) abort();
    symbol *symbols = calloc((size_t)n_vocab, sizeof *symbols), *merges = calloc((size_t)n_vocab, sizeof *merges);
    const char **texts = calloc((size_t)n_vocab, sizeof *texts);
    int32_t *types = calloc((size_t)n_vocab, sizeof *types);
    word *words = calloc(1024, sizeof *words);
    if (!symbols || !merges || !texts || !types || !words) abort();
    static const char *const special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    for (int i = 0; i < TINY_FIRST_BYTE; i++) snprintf(symbols[i].text, sizeof symbols[i].text, "%s", special[i]);
    for (int b = 0; b < 256; b++) byte_symbol(b, &symbols[TINY_FIRST_BYTE + b]);

    int n_words = split_words(words), n = TINY_FIRST_MERGE, left = 0, right = 0;
    for (; n < n_vocab && n < 1024 && best_pair(words, n_words, n, &left, &right); n++) {
        symbol l = symbols[left], r = symbols[right];
        snprintf(symbols[n].text, sizeof symbols[n].text, "%.31s%.31s", l.text, r.text);
        snprintf(merges[n].text, sizeof merges[n].text, "%.31s %.31s", l.text, r.text);
        apply_merge(words, n_words, left, right, n);
    }
    int n_merges = n - TINY_FIRST_MERGE;
    for (int i = n; i < n_vocab; i++) snprintf(symbols[i].text, sizeof symbols[i].text, "<unused%d>", i - n);
    for (int i = 0; i < n_vocab; i++) {
        texts[i] = symbols[i].text;
        types[i] = i < TINY_FIRST_BYTE ? 3 : i < n ? 1 : 5; /* control, normal, unused */
    }
    gguf_write_bool(w, "tokenizer.ggml.add_space_prefix", false);
    gguf_write_bool(w, "tokenizer.ggml.add_bos_token", false);
    gguf_write_str(w, "tokenizer.ggml.model", "gpt2");
    gguf_write_str(w, "tokenizer.ggml.pre", "smollm");
    gguf_write_strs(w, "tokenizer.ggml.tokens", texts, (size_t)n_vocab);
    gguf_write_i32s(w, "tokenizer.ggml.token_type", types, (size_t)n_vocab);
    for (int i = 0; i < n_merges; i++) texts[i] = merges[TINY_FIRST_MERGE + i].text;
    gguf_write_strs(w, "tokenizer.ggml.merges", texts, (size_t)n_merges);
    gguf_write_u32(w, "tokenizer.ggml.bos_token_id", TINY_IM_START);
    gguf_write_u32(w, "tokenizer.ggml.eos_token_id", TINY_IM_END);
    gguf_write_u32(w, "tokenizer.ggml.unknown_token_id", TINY_ENDOFTEXT);
    gguf_write_u32(w, "tokenizer.ggml.padding_token_id", TINY_IM_END);
    gguf_write_str(w, "tokenizer.chat_template", chat_template);
    free(symbols);
    free(merges);
    free(texts);
    free(types);
    free(words);
}
