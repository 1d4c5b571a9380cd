/* Mutates a small model file and writes random vocabularies. Whatever opens must be readable to the last byte, and a
 * tokenizer made from it must encode any text into ids that it decodes again; whatever does not must say why.
 *
 *   fuzz_gguf [seconds] [seed] */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "tests/support/fuzz.h"
#include "tests/support/tiny_gguf.h"
#include "text/tokenizer.h"

static const char *const keys[] = {
    "general.architecture",
    "general.alignment",
    "general.name",
    "llama.block_count",
    "llama.context_length",
    "llama.rope.freq_base",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.vocab_size",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.model",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.chat_template",
    "absent",
};
static const char *const pieces[] = {"a",    "b", "ab", "c", "abc", " ",  "Ġ",    "Ġa", "Ċ", "<|im_end|>",
                                     "<|im", "é", "Ã",  "©", "1",   "'s", "\xff", "中", ""};

enum { N_PIECES = sizeof pieces / sizeof *pieces };

static uint64_t n_opened, n_tokenizers;

/* A failure must have a text. */
static bool fine(err e) {
    fuzz_check(e == OK || *err_text(), "an error has no text");
    return e == OK;
}

/* --- what is done with a file that opens --- */

static uint64_t sum; /* of all bytes that the reader hands out: sanitizers see every one of them read */

static void touch(const void *p, size_t n) {
    for (size_t i = 0; i < n; i++) sum += ((const uint8_t *)p)[i];
}

static void read_keys(const gguf *g) {
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        uint32_t u;
        float f;
        bool b;
        gguf_str s, *strs;
        const int32_t *is;
        const float *fs;
        size_t n;
        if (fine(gguf_get_u32(g, keys[k], &u))) sum += u;
        if (fine(gguf_get_f32(g, keys[k], &f))) touch(&f, sizeof f);
        if (fine(gguf_get_bool(g, keys[k], &b))) sum += b;
        if (fine(gguf_get_str(g, keys[k], &s))) touch(s.p, s.n);
        if (fine(gguf_get_i32s(g, keys[k], &is, &n))) touch(is, n * sizeof *is);
        if (fine(gguf_get_f32s(g, keys[k], &fs, &n))) touch(fs, n * sizeof *fs);
        if (fine(gguf_get_strs(g, keys[k], &strs, &n)))
            for (size_t i = 0; i < n; i++) touch(strs[i].p, strs[i].n);
    }
}

static void read_tensors(const gguf *g) {
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i), *same;
        touch(t->name.p, t->name.n);
        touch(t->data, t->bytes);
        const wtype_info *w = wtype_find(t->type);
        if (!w) continue;
        char *name = strndup(t->name.p, t->name.n);
        if (strlen(name) == t->name.n) {
            fuzz_check(gguf_tensor_find(g, name) == t, "a tensor is not found by its name");
            fuzz_check(gguf_tensor_demand(g, name, t->n_dims, t->dim, &same) == OK, "a tensor does not have its own shape");
        }
        free(name);
        fuzz_check(t->bytes % (size_t)w->block_bytes == 0, "a tensor ends inside a block");
        size_t n = t->bytes / (size_t)w->block_bytes * (size_t)w->block;
        float *x = malloc(n * sizeof *x);
        if (!x) abort();
        w->decode(t->data, x, n);
        free(x);
    }
}

static void use_tokenizer(const gguf *g, rng *r) {
    tokenizer *t;
    if (!fine(tokenizer_create(g, &t))) return;
    n_tokenizers++;
    char *text = malloc(600), *back;
    if (!text) abort();
    size_t n = 0, n_back, want = rng_below(r, 500);
    while (n < want) {
        const char *p = pieces[rng_below(r, N_PIECES)];
        if (rng_below(r, 4))
            memcpy(text + n, p, strlen(p)), n += strlen(p);
        else
            text[n++] = (char)rng_below(r, 256);
    }
    text = realloc(text, n + 1); /* of nearly exact size */
    token_list l = {0};
    if (fine(tokenizer_encode(t, text, n, rng_below(r, 2), rng_below(r, 2), &l))) {
        for (int i = 0; i < l.n; i++) {
            fuzz_check(l.ids[i] >= 0 && l.ids[i] < tokenizer_n_vocab(t), "an id is outside the vocabulary");
            (void)tokenizer_is_stop(t, l.ids[i]);
        }
        fuzz_check(tokenizer_decode(t, l.ids, l.n, true, &back, &n_back) == OK, "ids of the encoder are not decoded");
        touch(back, n_back);
        mem_free(back);
    }
    token_list_free(&l);
    free(text);
    tokenizer_destroy(t);
}

static void use(const uint8_t *bytes, size_t n, rng *r) {
    uint8_t *exact = malloc(n ? n : 1); /* so that a read past the end is seen */
    if (!exact) abort();
    memcpy(exact, bytes, n);
    size_t before = mem_live_bytes(MEM_OTHER);
    gguf *g;
    if (fine(gguf_open_memory(exact, n, "fuzzed.gguf", &g))) {
        const chat_message m = {"user", "hi"};
        char *chat;
        n_opened++;
        read_keys(g);
        read_tensors(g);
        use_tokenizer(g, r);
        if (fine(chat_render(g, NULL, &m, 1, true, &chat))) mem_free(chat);
        gguf_close(g);
    }
    fuzz_check(mem_live_bytes(MEM_OTHER) == before, "memory was not given back");
    free(exact);
}

/* --- inputs --- */

static void mutate(uint8_t *p, size_t *n, rng *r) {
    static const uint64_t values[] = {0,          1,          2,           4,           7,
                                      8,          9,          31,          33,          255,
                                      1u << 16,   0x7fffffff, 0x80000000u, 0xffffffffu, 1ull << 32,
                                      1ull << 61, 1ull << 62, 1ull << 63,  UINT64_MAX,  UINT64_MAX - 7};
    for (int k = (int)rng_below(r, 4); k >= 0 && *n > 24; k--) {
        size_t head = *n < 40 ? *n : 40, at = rng_below(r, (uint32_t)(rng_below(r, 8) ? *n : head)),
               width = rng_below(r, 2) ? 8 : 4;
        uint64_t v = values[rng_below(r, sizeof values / sizeof *values)];
        switch (rng_below(r, 6)) {
        case 0:
            p[at] = (uint8_t)rng_below(r, 256);
            break;
        case 1:
            p[at] ^= (uint8_t)(1u << rng_below(r, 8));
            break;
        case 2:
        case 3:
            if (width <= *n - at) memcpy(p + at, &v, width);
            break;
        case 4: { /* a stretch appears elsewhere */
            size_t from = rng_below(r, (uint32_t)*n), len = rng_below(r, 40);
            if (len <= *n - at && len <= *n - from) memmove(p + at, p + from, len);
            break;
        }
        default:
            if (rng_below(r, 8) == 0) *n = at;
        }
    }
}

/* Files whose structure is right and whose vocabulary is not: reaches the tokenizer far more often than broken bytes
 * do. */
static uint8_t *random_vocabulary(rng *r, size_t *n) {
    gguf_writer w = {0};
    const char *tokens[24], *merges[12];
    char text[12][24];
    int32_t types[24];
    size_t n_tokens = rng_below(r, 4) ? N_PIECES : rng_below(r, N_PIECES), n_merges = rng_below(r, 12);
    for (size_t i = 0; i < n_tokens; i++) {
        tokens[i] = pieces[rng_below(r, 60) ? i : 0];
        types[i] = (int32_t)(rng_below(r, 4) ? 1 : rng_below(r, 7));
    }
    for (size_t i = 0; i < n_merges; i++) {
        const char *const good[] = {"a b", "ab c", "Ġ a", "Ã ©"};
        const char *left = pieces[rng_below(r, N_PIECES)], *right = pieces[rng_below(r, 5)];
        snprintf(text[i], sizeof text[i], "%s %s", left, right);
        merges[i] = rng_below(r, 20) ? good[rng_below(r, 4)] : text[i];
    }
    gguf_write_str(&w, "tokenizer.ggml.model", rng_below(r, 16) ? "gpt2" : "llama");
    gguf_write_str(&w, "tokenizer.ggml.pre", rng_below(r, 16) ? "smollm" : "default");
    gguf_write_strs(&w, "tokenizer.ggml.tokens", tokens, n_tokens);
    gguf_write_strs(&w, "tokenizer.ggml.merges", merges, n_merges);
    if (rng_below(r, 4)) gguf_write_i32s(&w, "tokenizer.ggml.token_type", types, n_tokens);
    gguf_write_u32(&w, "tokenizer.ggml.bos_token_id", rng_below(r, (uint32_t)n_tokens + 2));
    gguf_write_u32(&w, "tokenizer.ggml.eos_token_id", rng_below(r, 10));
    gguf_write_bool(&w, "tokenizer.ggml.add_bos_token", rng_below(r, 2));
    char *chat = strdup(tiny_chat_template);
    for (int k = (int)rng_below(r, 3); k > 0; k--)
        chat[rng_below(r, (uint32_t)strlen(chat))] = (char)(1 + rng_below(r, 255));
    gguf_write_str(&w, "tokenizer.chat_template", chat);
    free(chat);
    return gguf_writer_finish(&w, n);
}

int main(int argc, char **argv) {
    fuzz_begin("fuzz_gguf", argc, argv, NULL);
    log_set(LOG_ERROR, false);
    tiny_model m = tiny_model_default();
    m.n_layers = 1;
    m.n_embd = m.n_ff = m.head_dim = 32;
    m.n_head = m.n_kv = 1;
    m.n_vocab = 320;
    size_t n_model, n;
    uint8_t *model = tiny_model_bytes(&m, &n_model), *copy = malloc(n_model);
    if (!copy) abort();
    size_t n_metadata = n_model; /* weights are at the end and not worth mutating: cut them from the mutations' range */
    gguf *g;
    fuzz_check(gguf_open_memory(model, n_model, "model", &g) == OK, "the model that is to be mutated does not open");
    n_metadata = (size_t)((const uint8_t *)gguf_tensor_at(g, 0)->data - model);
    gguf_close(g);
    while (fuzz_next()) {
        rng r = rng_make(fuzz_seed, fuzz_iteration);
        if (fuzz_iteration % 3 == 2) {
            uint8_t *bytes = random_vocabulary(&r, &n);
            if (rng_below(&r, 4) == 0) mutate(bytes, &n, &r);
            use(bytes, n, &r);
            free(bytes);
        } else {
            memcpy(copy, model, n_model);
            size_t n_mutated = n_metadata;
            mutate(copy, &n_mutated, &r);
            use(copy, n_mutated < n_metadata ? n_mutated : n_model, &r);
        }
    }
    free(model);
    free(copy);
    printf("fuzz_gguf: %" PRIu64 " iterations, %" PRIu64 " files opened, %" PRIu64 " tokenizers made, seed %" PRIu64
           "\n",
           fuzz_count(), n_opened, n_tokenizers, fuzz_seed);
    return 0;
}
