/* Byte-level BPE: against a naive implementation on a small vocabulary, against recorded ids on the real one. */
#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "tests/support/real_model.h"
#include "tests/support/seed.h"
#include "tests/support/tiny_gguf.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

static uint8_t *tiny_bytes;
static gguf *tiny;
static tokenizer *tok;

static int open_tiny(void **state) {
    size_t n;
    tiny_model m = tiny_model_default();
    tiny_bytes = tiny_model_bytes(&m, &n);
    if (gguf_open_memory(tiny_bytes, n, "tiny.gguf", &tiny) || tokenizer_create(tiny, &tok)) return -1;
    return 0;
}

static int close_tiny(void **state) {
    tokenizer_destroy(tok);
    gguf_close(tiny);
    free(tiny_bytes);
    return 0;
}

static void assert_text_has(const char *fragment) {
    if (!strstr(err_text(), fragment)) fail_msg("\"%s\" does not say \"%s\"", err_text(), fragment);
}

static token_list encode(const tokenizer *t, const char *text, size_t n, bool special) {
    token_list l = {0};
    if (tokenizer_encode(t, text, n, special, false, &l)) fail_msg("%s", err_text());
    return l;
}

static void assert_ids(const char *text, bool special, const int32_t *want, int n) {
    token_list l = encode(tok, text, strlen(text), special);
    assert_int_equal(l.n, n);
    if (n) assert_memory_equal(l.ids, want, (size_t)n * sizeof *want);
    token_list_free(&l);
}

/* --- the naive tokenizer: for ASCII, words by hand, every merge tried in turn on strings --- */

/* Length of the first word of s[0..n). */
static size_t naive_word(const char *s, size_t n) {
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    if (isdigit((unsigned char)s[0])) return 1;
    size_t piece = 0; /* up to the next digit */
    while (piece < n && !isdigit((unsigned char)s[piece])) piece++;
    for (int i = 0; i < 7; i++)
        if (strlen(endings[i]) <= piece && memcmp(s, endings[i], strlen(endings[i])) == 0) return strlen(endings[i]);
    size_t i = s[0] == ' ';
    if (i < piece && isalpha((unsigned char)s[i])) {
        while (i < piece && isalpha((unsigned char)s[i])) i++;
        return i;
    }
    if (i < piece && !isspace((unsigned char)s[i])) {
        while (i < piece && !isspace((unsigned char)s[i]) && !isalpha((unsigned char)s[i])) i++;
        return i;
    }
    for (i = 0; i < piece && isspace((unsigned char)s[i]);) i++;
    return i < piece && i > 1 ? i - 1 : i;
}

static bool same(gguf_str a, gguf_str b) {
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

/* Tokens of one word, as texts in the file's alphabet; merges in the order of the file, each applied from left to
 * right. */
static void naive_encode_word(const char *word, size_t n, token_list *out) {
    gguf_str *texts, *merges;
    size_t n_texts, n_merges;
    char pieces[512][64];
    int n_pieces = 0;
    assert_int_equal(gguf_get_strs(tiny, "tokenizer.ggml.tokens", &texts, &n_texts), OK);
    assert_int_equal(gguf_get_strs(tiny, "tokenizer.ggml.merges", &merges, &n_merges), OK);
    for (size_t i = 0; i < n; i++) {
        gguf_str t = texts[TINY_FIRST_BYTE + (unsigned char)word[i]];
        snprintf(pieces[n_pieces++], 64, "%.*s", (int)t.n, t.p);
    }
    for (size_t m = 0; m < n_merges; m++)
        for (int i = 0; i + 1 < n_pieces;) {
            char pair[132];
            int len = snprintf(pair, sizeof pair, "%s %s", pieces[i], pieces[i + 1]);
            if (!same(merges[m], (gguf_str){pair, (size_t)len})) {
                i++;
                continue;
            }
            strcat(pieces[i], pieces[i + 1]);
            memmove(pieces[i + 1], pieces[i + 2], (size_t)(--n_pieces - i - 1) * sizeof *pieces);
            /* the new piece may be the left part of the same merge only if the texts grew, which a rank cannot repeat
             */
            i++;
        }
    for (int i = 0; i < n_pieces; i++)
        for (size_t k = 0; k < n_texts; k++)
            if (same(texts[k], (gguf_str){pieces[i], strlen(pieces[i])}))
                assert_int_equal(token_list_push(out, (int32_t)k), OK);
}

static void ascii_text_is_cut_and_merged_as_a_naive_tokenizer_does(void **state) {
    static const char *const parts[] = {"the",      "question", " was", " ",   "  ",   "\n",  "1",
                                        "23",       "'s",       "'ll",  "'",   ".",    ",.",  "a",
                                        "mountain", "\t",       " (",   "x_y", "rest", "ing", "ring"};
    rng r = rng_make(seed_get(), 1);
    for (int round = 0; round < 300; round++) {
        char text[512];
        size_t n = 0;
        bool solid = round % 5 == 0; /* one long word */
        for (int k = (int)rng_below(&r, 40); k >= 0; k--) {
            char letter[2] = {(char)('a' + rng_below(&r, 26)), 0};
            const char *part = solid ? letter : parts[rng_below(&r, sizeof parts / sizeof *parts)];
            if (solid && rng_below(&r, 3))
                part = (const char *[]){"the", "er", "there", "mount", "ing"}[rng_below(&r, 5)];
            memcpy(text + n, part, strlen(part));
            n += strlen(part);
        }
        token_list got = encode(tok, text, n, false), want = {0};
        for (size_t at = 0; at < n;) {
            size_t len = naive_word(text + at, n - at);
            naive_encode_word(text + at, len, &want);
            at += len;
        }
        if (got.n != want.n || memcmp(got.ids, want.ids, (size_t)got.n * sizeof *got.ids)) {
            fail_msg("different tokens for \"%.*s\"", (int)n, text);
        }
        token_list_free(&got);
        token_list_free(&want);
    }
}

static void long_words_merge_as_their_parts_do(void **state) {
    enum { N = 40000 };
    char *text = malloc(N);
    for (int i = 0; i < N; i++) text[i] = "there"[i % 5];
    token_list all = encode(tok, text, N, false), part = encode(tok, text, 30, false);
    assert_true(part.n >= 6 && part.n % 6 == 0);
    for (int i = 4; i < all.n - 4; i++) assert_int_equal(all.ids[i], all.ids[i - part.n / 6]);
    char *back;
    size_t n;
    assert_int_equal(tokenizer_decode(tok, all.ids, all.n, false, &back, &n), OK);
    assert_int_equal(n, N);
    assert_memory_equal(back, text, N);
    mem_free(back);
    token_list_free(&all);
    token_list_free(&part);
    free(text);
}

/* --- words --- */

static err collect(void *ctx, const char *word, size_t n) {
    char *joined = ctx;
    snprintf(joined + strlen(joined), 256 - strlen(joined), "%s%.*s", *joined ? "|" : "", (int)n, word);
    return OK;
}

static void assert_words(const pretokenizer *p, const char *text, const char *want) {
    char joined[256] = "";
    assert_int_equal(pretokenizer_split(p, text, strlen(text), collect, joined), OK);
    assert_string_equal(joined, want);
}

static void words_end_where_the_pattern_says(void **state) {
    static const char *const spaces[] = {"\t",           "\n",           "\v",           "\f",           "\r",
                                         "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81",
                                         "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
                                         "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
                                         "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
    static const char *const others[] = {"\xe1\xa0\x8e", "\xe2\x80\x8b", "\x1c", "\x1f", "\xef\xbb\xbf", "-"};
    static const char *const numbers[] = {"7", "\xc2\xb2", "\xd9\xa3", "\xe2\x85\xa7", "\xf0\x91\xbd\x90"};
    pretokenizer *p;
    char text[64], want[64];
    assert_int_equal(pretokenizer_create((gguf_str){"smollm", 6}, "words.gguf", &p), OK);
    assert_words(p, "Hello there, it's John's. We'll see 'em", "Hello| there|,| it|'s| John|'s|.| We|'ll| see| '|em");
    assert_words(p, "DON'T 'stop", "DON|'|T| '|stop");
    assert_words(p, "a  b   c \n d\n\ne  ", "a| | b|  | c| \n| d|\n|\n|e|  ");
    assert_words(p, "x  12 3\n\n4", "x|  |1|2| |3|\n\n|4");
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces;
         i++) { /* the last of several goes to the next word or alone */
        const char *c = spaces[i];
        snprintf(text, sizeof text, "a%s%sb%s!", c, c, c);
        snprintf(want, sizeof want, "a|%s|%s|b|%s|!", c, c, c);
        assert_words(p, text, want);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        snprintf(text, sizeof text, "a%s%sb %s", others[i], others[i], others[i]);
        snprintf(want, sizeof want, "a|%s%s|b| %s", others[i], others[i], others[i]);
        assert_words(p, text, want);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        snprintf(text, sizeof text, "a%s%s  %s", numbers[i], numbers[i], numbers[i]);
        snprintf(want, sizeof want, "a|%s|%s|  |%s", numbers[i], numbers[i], numbers[i]);
        assert_words(p, text, want);
    }
    pretokenizer_destroy(p);
}

/* --- bytes --- */

static void any_bytes_come_back(void **state) {
    static const char *const bits[] = {"a",        " the", "\xc3\xa9", "\xe4\xb8\xad", "\xf0\x9f\x98\x80", "\xc3",
                                       "\xe4\xb8", "\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "1",
                                       "\xd9\xa3", "\n",   " ",        "\xc2\xa0"};
    rng r = rng_make(seed_get(), 2);
    for (int round = 0; round < 500; round++) {
        char text[400], *back;
        size_t n = 0, n_back;
        int k = (int)rng_below(&r, 80);
        for (int i = 0; i < k; i++) {
            if (round % 2) {
                text[n++] = (char)rng_below(&r, 256);
            } else {
                const char *b = bits[rng_below(&r, sizeof bits / sizeof *bits)];
                memcpy(text + n, b, strlen(b));
                n += strlen(b);
            }
        }
        token_list l = encode(tok, text, n, round % 3 == 0);
        assert_int_equal(tokenizer_decode(tok, l.ids, l.n, true, &back, &n_back), OK);
        assert_int_equal(n_back, n);
        assert_memory_equal(back, text, n);
        assert_int_equal(back[n], 0);
        mem_free(back);
        token_list_free(&l);
    }
}

static void broken_utf8_keeps_to_its_own_words(void **state) {
    const int32_t b = TINY_FIRST_BYTE;
    assert_ids("z\xffz", false, (int32_t[]){b + 'z', b + 0xff, b + 'z'}, 3);
    assert_ids("\xe4\xb8", false, (int32_t[]){b + 0xe4, b + 0xb8}, 2);
}

static void every_number_character_is_a_word(void **state) {
    const int32_t b = TINY_FIRST_BYTE;
    assert_ids("12 3", false, (int32_t[]){b + '1', b + '2', b + ' ', b + '3'}, 4);
    assert_ids("z\xc2\xb2z", false, (int32_t[]){b + 'z', b + 0xc2, b + 0xb2, b + 'z'}, 4); /* superscript two */
}

static void empty_text_has_no_tokens(void **state) {
    assert_ids("", false, NULL, 0);
    assert_ids("", true, NULL, 0);
}

/* --- special tokens --- */

static void special_tokens_are_parsed_on_request_only(void **state) {
    const int32_t b = TINY_FIRST_BYTE;
    assert_ids("z<|im_end|>\n<|im_start|>", true, (int32_t[]){b + 'z', TINY_IM_END, b + '\n', TINY_IM_START}, 4);
    assert_ids("<|im_end|><|im_end|>", true, (int32_t[]){TINY_IM_END, TINY_IM_END}, 2);
    token_list l = encode(tok, "<|im_end|>", 10, false);
    for (int i = 0; i < l.n; i++) assert_true(l.ids[i] >= TINY_FIRST_BYTE);
    token_list_free(&l);
    assert_int_equal(tokenizer_find(tok, "<|im_start|>"), TINY_IM_START);
    assert_int_equal(tokenizer_find(tok, "<|im_start|"), -1);
    assert_int_equal(tokenizer_find(tok, "a"), -1);
}

static void decoding_leaves_control_tokens_out_unless_asked(void **state) {
    const int32_t ids[] = {TINY_IM_START, TINY_FIRST_BYTE + 'z', TINY_IM_END};
    char *text;
    size_t n;
    assert_int_equal(tokenizer_decode(tok, ids, 3, false, &text, &n), OK);
    assert_string_equal(text, "z");
    mem_free(text);
    assert_int_equal(tokenizer_decode(tok, ids, 3, true, &text, &n), OK);
    assert_string_equal(text, "<|im_start|>z<|im_end|>");
    mem_free(text);
    const int32_t wrong[] = {-1, 512};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tokenizer_decode(tok, &wrong[i], 1, false, &text, &n), ERR_USAGE);
        assert_text_has("is not in the vocabulary of 512 tokens");
    }
}

static void the_file_says_which_tokens_begin_and_stop(void **state) {
    assert_int_equal(tokenizer_n_vocab(tok), 512);
    assert_int_equal(tokenizer_bos(tok), TINY_IM_START);
    assert_int_equal(tokenizer_eos(tok), TINY_IM_END);
    assert_true(tokenizer_is_stop(tok, TINY_IM_END));
    assert_true(tokenizer_is_stop(tok, TINY_ENDOFTEXT));
    assert_false(tokenizer_is_stop(tok, TINY_IM_START));
    assert_false(tokenizer_is_stop(tok, TINY_FIRST_BYTE));
    assert_false(tokenizer_is_stop(tok, -1));
}

/* --- other vocabularies --- */

typedef struct vocab { /* NULL or -1: the key is left out */
    const char *model, *pre;
    const char *tokens[8], *merges[4];
    int32_t types[8];
    int n_types, bos, add_bos;
} vocab;

static const vocab small = {"gpt2", "smollm", {"a", "b", "c", "ab", "<x>", "<x>>"}, {"a b"}, {1, 1, 1, 1, 3, 4}, 6,
                            -1,     -1};

static err create(const vocab *v, tokenizer **out) {
    gguf_writer w = {0};
    size_t n_tokens = 0, n_merges = 0, n;
    while (n_tokens < 8 && v->tokens[n_tokens]) n_tokens++;
    while (n_merges < 4 && v->merges[n_merges]) n_merges++;
    if (v->model) gguf_write_str(&w, "tokenizer.ggml.model", v->model);
    if (v->pre) gguf_write_str(&w, "tokenizer.ggml.pre", v->pre);
    gguf_write_strs(&w, "tokenizer.ggml.tokens", v->tokens, n_tokens);
    gguf_write_strs(&w, "tokenizer.ggml.merges", v->merges, n_merges);
    if (v->n_types >= 0) gguf_write_i32s(&w, "tokenizer.ggml.token_type", v->types, (size_t)v->n_types);
    if (v->bos >= 0) gguf_write_u32(&w, "tokenizer.ggml.bos_token_id", (uint32_t)v->bos);
    if (v->add_bos >= 0) gguf_write_bool(&w, "tokenizer.ggml.add_bos_token", v->add_bos);
    uint8_t *bytes = gguf_writer_finish(&w, &n);
    gguf *g;
    assert_int_equal(gguf_open_memory(bytes, n, "small.gguf", &g), OK);
    err e = tokenizer_create(g, out);
    gguf_close(g);
    free(bytes); /* a tokenizer outlives its file */
    return e;
}

static void user_defined_tokens_are_always_parsed_and_longer_ones_first(void **state) {
    tokenizer *t;
    assert_int_equal(create(&small, &t), OK);
    token_list l = encode(t, "ab<x><x>>", 9, true);
    assert_int_equal(l.n, 3);
    assert_memory_equal(l.ids, ((int32_t[]){3, 4, 5}), 12);
    token_list_free(&l);
    l = encode(t, "a<x>>", 5, false);
    assert_int_equal(l.n, 2);
    assert_int_equal(l.ids[1], 5);
    token_list_free(&l);
    tokenizer_destroy(t);
}

static void the_first_token_is_added_only_if_file_and_caller_say_so(void **state) {
    for (int file = 0; file < 2; file++)
        for (int caller = 0; caller < 2; caller++) {
            vocab v = small;
            tokenizer *t;
            token_list l = {0};
            v.bos = 4;
            v.add_bos = file;
            assert_int_equal(create(&v, &t), OK);
            assert_int_equal(tokenizer_encode(t, "c", 1, false, caller, &l), OK);
            assert_int_equal(l.n, 1 + (file && caller));
            assert_int_equal(l.ids[0], file && caller ? 4 : 2);
            token_list_free(&l);
            tokenizer_destroy(t);
        }
}

static void bytes_without_a_token_are_left_out(void **state) {
    tokenizer *t;
    log_set(LOG_ERROR, false);
    assert_int_equal(create(&small, &t), OK);
    token_list l = encode(t,
                          "a\x04"
                          "b?ab",
                          6, false);
    assert_int_equal(l.n, 3);
    assert_memory_equal(l.ids, ((int32_t[]){0, 1, 3}), 12);
    token_list_free(&l);
    tokenizer_destroy(t);
    log_set(LOG_INFO, false);
}

static void unsupported_and_broken_vocabularies_are_refused(void **state) {
    vocab spm = small, scored = small, none = small, llama3 = small, no_pre = small, twice = small, lone = small, part = small,
          result = small, types = small, kind = small, bos = small, no_bos = small;
    spm.model = "t5";
    scored.model = "llama";
    none.model = NULL;
    llama3.pre = "llama4";
    no_pre.pre = NULL;
    twice.tokens[2] = "a";
    lone.merges[0] = "ab";
    part.merges[0] = "a q";
    result.merges[0] = "b a";
    types.n_types = 5;
    kind.types[1] = 9;
    bos.bos = 6;
    no_bos.add_bos = 1;
    const struct {
        const vocab *v;
        err code;
        const char *text;
    } cases[] = {
        {&spm, ERR_UNSUPPORTED, "tokenizer \"t5\" (tokenizer.ggml.model) is not supported; supported are gpt2 and llama"},
        {&scored, ERR_FORMAT, "tokenizer.ggml.scores"},
        {&none, ERR_FORMAT, "metadata key \"tokenizer.ggml.model\" is missing"},
        {&llama3, ERR_UNSUPPORTED,
         "pre-tokenizer \"llama4\" (tokenizer.ggml.pre) is not supported; supported are smollm, gpt-2, llama-bpe, qwen2, default"},
        {&no_pre, ERR_UNSUPPORTED, "tokenizer.ggml.pre is missing"},
        {&twice, ERR_FORMAT, "tokens 0 and 2 have the same text"},
        {&lone, ERR_FORMAT, "tokenizer.ggml.merges[0] is not two pieces"},
        {&part, ERR_FORMAT, "tokenizer.ggml.merges[0] has a right piece that is not in the vocabulary"},
        {&result, ERR_FORMAT, "tokenizer.ggml.merges[0] has a result that is not in the vocabulary"},
        {&types, ERR_FORMAT, "tokenizer.ggml.token_type has 5 entries for 6 tokens"},
        {&kind, ERR_FORMAT, "tokenizer.ggml.token_type[1] is 9"},
        {&bos, ERR_FORMAT, "tokenizer.ggml.bos_token_id is 6, but there are 6 tokens"},
        {&no_bos, ERR_FORMAT, "tokenizer.ggml.bos_token_id is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tokenizer *t;
        err e = create(cases[i].v, &t);
        if (e == OK) tokenizer_destroy(t);
        assert_int_equal(e, cases[i].code);
        assert_text_has("small.gguf: ");
        assert_text_has(cases[i].text);
    }
}

static void lack_of_memory_is_reported_and_leaks_nothing(void **state) {
    size_t before = mem_live_bytes(MEM_OTHER);
    int failures = 0;
    err e;
    do {
        tokenizer *t = NULL;
        token_list l = {0};
        mem_fail_nth(failures + 1);
        e = tokenizer_create(tiny, &t);
        if (e == OK)
            e = tokenizer_encode(t, "the <|im_end|> abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz", 67, true,
                                 false, &l);
        mem_fail_nth(0);
        assert_true(e == OK || e == ERR_NOMEM);
        token_list_free(&l);
        tokenizer_destroy(t);
        assert_int_equal(mem_live_bytes(MEM_OTHER), before);
    } while (e != OK && ++failures < 1000);
    assert_true(failures >= 10 && failures < 1000);
}

/* --- the real vocabulary --- */

static void recorded_cases_have_the_recorded_ids(void **state) {
    const char *path = real_model_path();
    if (!path) skip();
    gguf *g;
    tokenizer *t;
    if (gguf_open(path, &g) || tokenizer_create(g, &t)) fail_msg("%s", err_text());
    FILE *f = fopen("tests/golden/tokenizer_smollm.jsonl", "r");
    if (!f) fail_msg("tests/golden/tokenizer_smollm.jsonl cannot be opened");
    static char line[1 << 16];
    int n_cases = 0;
    log_set(LOG_ERROR, false);
    for (; fgets(line, sizeof line, f); n_cases++) {
        json_t *c = json_loads(line, JSON_ALLOW_NUL, NULL);
        if (json_array_size(c) != 3) fail_msg("line %d of tests/golden/tokenizer_smollm.jsonl is damaged", n_cases + 1);
        const json_t *text = json_array_get(c, 0), *ids = json_array_get(c, 2);
        token_list l = encode(t, json_string_value(text), json_string_length(text), json_is_true(json_array_get(c, 1)));
        bool right = (size_t)l.n == json_array_size(ids);
        for (int i = 0; right && i < l.n; i++) right = l.ids[i] == json_integer_value(json_array_get(ids, (size_t)i));
        if (!right) fail_msg("line %d has other ids: %s", n_cases + 1, json_string_value(text));
        token_list_free(&l);
        json_decref(c);
    }
    fclose(f);
    log_set(LOG_INFO, false);
    assert_true(n_cases >= 300);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_true(tokenizer_is_stop(t, 0) && tokenizer_is_stop(t, 2) && !tokenizer_is_stop(t, 1));
    tokenizer_destroy(t);
    gguf_close(g);
}

/* tests/golden/vocab: small vocabularies, one for each way to cut and merge, and what llama.cpp makes of texts with them. */
static int check_vocabulary(const char *name, const char *file) {
    char model[128], path[128], *line = NULL;
    size_t cap = 0;
    int n_cases = 0;
    gguf *g;
    tokenizer *t;
    snprintf(model, sizeof model, "tests/golden/vocab/%s.gguf", name);
    snprintf(path, sizeof path, "tests/golden/vocab/%s.jsonl", name);
    if (gguf_open(file ? file : model, &g) || tokenizer_create(g, &t)) fail_msg("%s: %s", name, err_text());
    FILE *f = fopen(path, "r");
    if (!f) fail_msg("%s cannot be opened", path);
    for (; getline(&line, &cap, f) > 0; n_cases++) {
        json_t *c = json_loads(line, JSON_ALLOW_NUL, NULL);
        if (json_array_size(c) != 3) fail_msg("%s: line %d is damaged", path, n_cases + 1);
        json_t *text = json_array_get(c, 0), *want = json_array_get(c, 2);
        const char *s = json_string_value(text);
        size_t n = json_string_length(text), n_back;
        token_list l = {0};
        char *back;
        assert_int_equal(tokenizer_encode(t, s, n, json_is_true(json_array_get(c, 1)), false, &l), OK);
        bool same = (size_t)l.n == json_array_size(want);
        for (int i = 0; same && i < l.n; i++) same = l.ids[i] == json_integer_value(json_array_get(want, (size_t)i));
        if (!same) {
            for (int i = 0; i < l.n; i++) printf("%d ", l.ids[i]);
            fail_msg("%s, line %d: %d tokens, other ids than %s", name, n_cases + 1, l.n, line);
        }
        assert_int_equal(tokenizer_decode(t, l.ids, l.n, true, &back, &n_back), OK);
        bool spm = strcmp(name, "spm") == 0;
        size_t extra = spm && n_back > n && back[0] == ' '; /* the space that this vocabulary puts first, and after special tokens */
        if (spm && json_is_true(json_array_get(c, 1))) n = n_back - extra, s = back + extra;
        if (n_back != n + extra || memcmp(back + extra, s, n)) fail_msg("%s, line %d does not come back", name, n_cases + 1);
        mem_free(back);
        token_list_free(&l);
        json_decref(c);
    }
    free(line);
    fclose(f);
    tokenizer_destroy(t);
    gguf_close(g);
    return n_cases;
}

static void every_pre_tokenizer_agrees_with_llama_cpp(void **state) {
    static const char *const names[] = {"gpt-2", "llama-bpe", "qwen2", "default", "smollm"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) assert_true(check_vocabulary(names[i], NULL) > 300);
}

static void scored_vocabularies_agree_with_llama_cpp(void **state) {
    assert_true(check_vocabulary("spm", NULL) > 300);
}

static void gemma3_agrees_with_llama_cpp(void **state) {
    const char *path = real_model_file("gemma-3-270m-q4_k_m.gguf");
    if (!path) skip();
    assert_true(check_vocabulary("gemma3", path) > 300);
}

/* Bytes that are no UTF-8 fall back to byte tokens and come back. */
static void scored_vocabularies_give_any_bytes_back(void **state) {
    gguf *g;
    tokenizer *t;
    assert_int_equal(gguf_open("tests/golden/vocab/spm.gguf", &g), OK);
    assert_int_equal(tokenizer_create(g, &t), OK);
    rng r = rng_make(seed_get(), 31);
    for (int round = 0; round < 200; round++) {
        char s[64], *back;
        size_t n = 1 + rng_below(&r, sizeof s), n_back;
        for (size_t i = 0; i < n; i++) s[i] = (char)rng_below(&r, 256);
        for (size_t i = 0; i + 2 < n; i++)
            if (memcmp(s + i, "\xe2\x96\x81", 3) == 0) s[i] = 'x'; /* the mark of a space */
        token_list l = {0};
        assert_int_equal(tokenizer_encode(t, s, n, false, false, &l), OK);
        assert_int_equal(tokenizer_decode(t, l.ids, l.n, true, &back, &n_back), OK);
        if (n_back != n + 1 || memcmp(back + 1, s, n)) fail_msg("round %d: %zu bytes come back as %zu", round, n, n_back);
        mem_free(back);
        token_list_free(&l);
    }
    tokenizer_destroy(t);
    gguf_close(g);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pre_tokenizer_agrees_with_llama_cpp),
        cmocka_unit_test(scored_vocabularies_agree_with_llama_cpp),
        cmocka_unit_test(gemma3_agrees_with_llama_cpp),
        cmocka_unit_test(scored_vocabularies_give_any_bytes_back),
        cmocka_unit_test(ascii_text_is_cut_and_merged_as_a_naive_tokenizer_does),
        cmocka_unit_test(long_words_merge_as_their_parts_do),
        cmocka_unit_test(words_end_where_the_pattern_says),
        cmocka_unit_test(any_bytes_come_back),
        cmocka_unit_test(broken_utf8_keeps_to_its_own_words),
        cmocka_unit_test(every_number_character_is_a_word),
        cmocka_unit_test(empty_text_has_no_tokens),
        cmocka_unit_test(special_tokens_are_parsed_on_request_only),
        cmocka_unit_test(decoding_leaves_control_tokens_out_unless_asked),
        cmocka_unit_test(the_file_says_which_tokens_begin_and_stop),
        cmocka_unit_test(user_defined_tokens_are_always_parsed_and_longer_ones_first),
        cmocka_unit_test(the_first_token_is_added_only_if_file_and_caller_say_so),
        cmocka_unit_test(bytes_without_a_token_are_left_out),
        cmocka_unit_test(unsupported_and_broken_vocabularies_are_refused),
        cmocka_unit_test(lack_of_memory_is_reported_and_leaks_nothing),
        cmocka_unit_test(recorded_cases_have_the_recorded_ids),
    };
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests(tests, open_tiny, close_tiny));
}
