/* tiny_model OUT.gguf [seed] [n_layers] [name=value ...]: writes a small random llama model for scripts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/tiny_gguf.h"

static const struct {
    const char *name;
    wtype type;
} types[] = {{"f32", WTYPE_F32}, {"f16", WTYPE_F16}, {"bf16", WTYPE_BF16}, {"q4_1", WTYPE_Q4_1}, {"q8_0", WTYPE_Q8_0}};

static int usage(const char *why, const char *what) {
    fprintf(stderr,
            "%s%s\nusage: tiny_model OUT.gguf [seed] [n_layers] [name=value ...]\n"
            "names: seed n_layers n_embd n_head n_kv head_dim n_ff n_vocab context untied (0 or 1), embd attn ffn head "
            "(f32 f16 bf16 q4_1 q8_0)\n",
            why, what);
    return 2;
}

static bool set_number(const char *text, int least, int *out) {
    char *end;
    long v = strtol(text, &end, 10);
    if (end == text || *end || v < least || v > 1 << 24) return false;
    *out = (int)v;
    return true;
}

static bool set_type(const char *text, wtype *out) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, text) == 0) {
            *out = types[i].type;
            return true;
        }
    return false;
}

static bool set_field(tiny_model *m, const char *name, size_t n_name, const char *value) {
    const struct {
        const char *name;
        int *field, least;
    } numbers[] = {{"n_layers", &m->n_layers, 1},
                   {"n_embd", &m->n_embd, 32},
                   {"n_head", &m->n_head, 1},
                   {"n_kv", &m->n_kv, 1},
                   {"head_dim", &m->head_dim, 2},
                   {"n_ff", &m->n_ff, 32},
                   {"n_vocab", &m->n_vocab, TINY_FIRST_MERGE},
                   {"context", &m->context, 1}};
    const struct {
        const char *name;
        wtype *field;
    } classes[] = {{"embd", &m->embd}, {"attn", &m->attn}, {"ffn", &m->ffn}, {"head", &m->head}};
    int v;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strlen(numbers[i].name) == n_name && strncmp(numbers[i].name, name, n_name) == 0)
            return set_number(value, numbers[i].least, numbers[i].field);
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strlen(classes[i].name) == n_name && strncmp(classes[i].name, name, n_name) == 0)
            return set_type(value, classes[i].field);
    if (n_name == 4 && strncmp(name, "seed", 4) == 0 && set_number(value, 0, &v)) {
        m->seed = (uint64_t)v;
        return true;
    }
    if (n_name == 6 && strncmp(name, "untied", 6) == 0 && set_number(value, 0, &v)) {
        m->untied = v != 0;
        return true;
    }
    return false;
}

int main(int argc, char **argv) {
    static const char *const positional[] = {"seed", "n_layers"};
    if (argc < 2) return usage("the output file is missing", "");
    tiny_model m = tiny_model_default();
    for (int i = 2; i < argc; i++) {
        const char *eq = strchr(argv[i], '=');
        bool fine = eq ? set_field(&m, argv[i], (size_t)(eq - argv[i]), eq + 1)
                       : i - 2 < 2 && set_field(&m, positional[i - 2], strlen(positional[i - 2]), argv[i]);
        if (!fine) return usage("not understood: ", argv[i]);
    }
    if (m.n_embd % 32 || m.n_head * m.head_dim % 32 || m.n_ff % 32 || m.n_head % m.n_kv || m.head_dim % 2)
        return usage("n_embd, n_head * head_dim and n_ff must be multiples of 32, n_head of n_kv, head_dim of 2", "");
    if (tiny_model_write(argv[1], &m) != OK) {
        fprintf(stderr, "%s\n", err_text());
        return 1;
    }
    return 0;
}
