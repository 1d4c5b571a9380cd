/* Hyper-parameters of architecture llama from GGUF metadata; what kvlab does not run is refused by name. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static MUST err demand_u32(const gguf *g, const char *arch, const char *field, uint32_t lo, uint32_t hi, int *out) {
    char key[96];
    uint32_t v;
    snprintf(key, sizeof key, "%s.%s", arch, field);
    TRY(gguf_get_u32(g, key, &v));
    if (v < lo || v > hi) return ERR(ERR_FORMAT, "%s: %s is %u, expected %u to %u", gguf_path(g), key, v, lo, hi);
    *out = (int)v;
    return OK;
}

static MUST err optional_u32(const gguf *g, const char *arch, const char *field, uint32_t def, uint32_t lo, uint32_t hi,
                             int *out) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", arch, field);
    if (!gguf_has(g, key)) {
        *out = (int)def;
        return OK;
    }
    return demand_u32(g, arch, field, lo, hi, out);
}

/* Metadata that changes the arithmetic in ways this build does not have. */
static MUST err refuse_variants(const gguf *g, const char *arch) {
    char key[96];
    snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
    if (gguf_has(g, key)) {
        gguf_str s;
        TRY(gguf_get_str(g, key, &s));
        if (!(s.n == 4 && memcmp(s.p, "none", 4) == 0))
            return ERR(ERR_UNSUPPORTED, "%s: RoPE scaling '%.*s' is not supported (supported: none)", gguf_path(g),
                       (int)s.n, s.p);
    }
    static const char *const refused[] = {"expert_count", "attention.sliding_window"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, refused[i]);
        if (!gguf_has(g, key)) continue;
        uint32_t v;
        TRY(gguf_get_u32(g, key, &v));
        if (v)
            return ERR(ERR_UNSUPPORTED, "%s: %s = %u is not supported (supported: absent or 0)", gguf_path(g), key, v);
    }
    return OK;
}

MUST err model_read_params(const gguf *g, model_params *out) {
    model_params p = {0};
    gguf_str arch;
    TRY(gguf_get_str(g, "general.architecture", &arch));
    if (!(arch.n == 5 && memcmp(arch.p, "llama", 5) == 0))
        return ERR(ERR_UNSUPPORTED, "%s: architecture '%.*s' is not supported (supported: llama)", gguf_path(g),
                   (int)(arch.n < 64 ? arch.n : 64), arch.p);
    memcpy(p.arch, "llama", 6);
    if (gguf_has(g, "general.name")) {
        gguf_str s;
        TRY(gguf_get_str(g, "general.name", &s));
        size_t n = s.n < sizeof p.name - 1 ? s.n : sizeof p.name - 1;
        memcpy(p.name, s.p, n);
    }
    TRY(refuse_variants(g, p.arch));
    TRY(demand_u32(g, p.arch, "block_count", 1, 1024, &p.n_layers));
    TRY(demand_u32(g, p.arch, "embedding_length", 1, 1 << 17, &p.n_embd));
    TRY(demand_u32(g, p.arch, "feed_forward_length", 1, 1 << 20, &p.n_ff));
    TRY(demand_u32(g, p.arch, "attention.head_count", 1, 1024, &p.n_heads));
    TRY(optional_u32(g, p.arch, "attention.head_count_kv", (uint32_t)p.n_heads, 1, 1024, &p.n_kv));
    TRY(demand_u32(g, p.arch, "context_length", 1, 1 << 24, &p.context));
    if (p.n_heads % p.n_kv)
        return ERR(ERR_FORMAT, "%s: %d query heads are no multiple of %d KV heads", gguf_path(g), p.n_heads, p.n_kv);
    if (!gguf_has(g, "llama.attention.key_length") && p.n_embd % p.n_heads)
        return ERR(ERR_FORMAT, "%s: embedding length %d is no multiple of %d query heads", gguf_path(g), p.n_embd,
                   p.n_heads);
    TRY(optional_u32(g, p.arch, "attention.key_length", (uint32_t)(p.n_embd / p.n_heads), 1, KV_MAX_HEAD_DIM,
                     &p.head_dim));
    int value_length;
    TRY(optional_u32(g, p.arch, "attention.value_length", (uint32_t)p.head_dim, 1, KV_MAX_HEAD_DIM, &value_length));
    if (value_length != p.head_dim)
        return ERR(ERR_UNSUPPORTED, "%s: value length %d differs from key length %d (supported: equal)", gguf_path(g),
                   value_length, p.head_dim);
    if (p.head_dim < 8 || p.head_dim > KV_MAX_HEAD_DIM || p.head_dim % 8)
        return ERR(ERR_UNSUPPORTED, "%s: head dimension %d is not supported (supported: multiples of 8 up to %d)",
                   gguf_path(g), p.head_dim, KV_MAX_HEAD_DIM);
    TRY(optional_u32(g, p.arch, "rope.dimension_count", (uint32_t)p.head_dim, 2, (uint32_t)p.head_dim, &p.rope_dims));
    if (p.rope_dims % 2)
        return ERR(ERR_FORMAT, "%s: rope.dimension_count is %d, expected an even number", gguf_path(g), p.rope_dims);
    TRY(gguf_get_f32(g, "llama.attention.layer_norm_rms_epsilon", &p.norm_eps));
    if (!(p.norm_eps > 0 && p.norm_eps < 1))
        return ERR(ERR_FORMAT, "%s: llama.attention.layer_norm_rms_epsilon is %g, expected above 0 and below 1",
                   gguf_path(g), (double)p.norm_eps);
    p.rope_base = 10000;
    if (gguf_has(g, "llama.rope.freq_base")) TRY(gguf_get_f32(g, "llama.rope.freq_base", &p.rope_base));
    if (!(p.rope_base > 1 && p.rope_base < 1e12f))
        return ERR(ERR_FORMAT, "%s: llama.rope.freq_base is %g, expected above 1", gguf_path(g), (double)p.rope_base);
    p.attn_scale = 1.0f / sqrtf((float)p.head_dim);
    const gguf_tensor *embed = gguf_tensor_find(g, "token_embd.weight");
    if (!embed || embed->n_dims != 2)
        return ERR(ERR_FORMAT, "%s: tensor token_embd.weight is missing or not a matrix", gguf_path(g));
    if (embed->dim[1] < 2 || embed->dim[1] > 1 << 21)
        return ERR(ERR_FORMAT, "%s: token_embd.weight has %llu rows, expected 2 to %d", gguf_path(g),
                   (unsigned long long)embed->dim[1], 1 << 21);
    p.n_vocab = (int)embed->dim[1];
    *out = p;
    return OK;
}
