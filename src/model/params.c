/* Hyper-parameters from GGUF metadata; what kvlab does not run is refused by name. */
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

static MUST err optional_f32(const gguf *g, const char *arch, const char *field, float def, float above, float below, float *out) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", arch, field);
    *out = def;
    if (!gguf_has(g, key)) return OK;
    TRY(gguf_get_f32(g, key, out));
    if (!(*out > above && *out < below))
        return ERR(ERR_FORMAT, "%s: %s is %g, expected above %g and below %g", gguf_path(g), key, (double)*out, (double)above, (double)below);
    return OK;
}

/* llama3's scaling comes as factors in the tensor rope_freqs.weight, without a type here. */
static MUST err read_rope_scaling(const gguf *g, model_params *p) {
    char key[96];
    gguf_str s = {"none", 4};
    p->rope_scale = 1;
    snprintf(key, sizeof key, "%s.rope.scaling.type", p->arch);
    if (gguf_has(g, key)) TRY(gguf_get_str(g, key, &s));
    if (s.n == 4 && memcmp(s.p, "none", 4) == 0) return OK;
    if (s.n != 6 || memcmp(s.p, "linear", 6) != 0)
        return ERR(ERR_UNSUPPORTED, "%s: RoPE scaling '%.*s' is not supported (supported: none, linear, and llama3 as rope_freqs.weight)",
                   gguf_path(g), (int)(s.n < 64 ? s.n : 64), s.p);
    float factor;
    TRY(optional_f32(g, p->arch, "rope.scaling.factor", 1, 0, 1e6f, &factor));
    p->rope_scale = 1 / factor;
    return OK;
}

/* Metadata that changes the arithmetic in ways this build does not have. */
static MUST err refuse_variants(const gguf *g, const char *arch) {
    static const char *const refused[] = {"expert_count", "attn_logit_softcapping", "final_logit_softcapping", "logit_scale",
                                          "attention.scale", "residual_scale", "embedding_scale"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char key[96];
        snprintf(key, sizeof key, "%s.%s", arch, refused[i]);
        if (!gguf_has(g, key)) continue;
        float f = 0;
        uint32_t v = 0;
        if (i == 0) TRY(gguf_get_u32(g, key, &v));
        else TRY(gguf_get_f32(g, key, &f));
        if (v != 0 || f != 0)
            return ERR(ERR_UNSUPPORTED, "%s: %s = %g is not supported (supported: absent or 0)", gguf_path(g), key, i == 0 ? (double)v : (double)f);
    }
    return OK;
}

static MUST err read_arch(const gguf *g, model_params *p) {
    static const char *const known[] = {"llama", "qwen2", "qwen3", "gemma3"};
    gguf_str arch;
    TRY(gguf_get_str(g, "general.architecture", &arch));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i]) == arch.n && memcmp(known[i], arch.p, arch.n) == 0) memcpy(p->arch, arch.p, arch.n);
    if (!*p->arch)
        return ERR(ERR_UNSUPPORTED, "%s: architecture '%.*s' is not supported (supported: llama, qwen2, qwen3, gemma3)", gguf_path(g),
                   (int)(arch.n < 64 ? arch.n : 64), arch.p);
    bool gemma3 = strcmp(p->arch, "gemma3") == 0;
    p->interleaved_rows = strcmp(p->arch, "llama") == 0;
    p->qkv_bias = strcmp(p->arch, "qwen2") == 0;
    p->qk_norm = gemma3 || strcmp(p->arch, "qwen3") == 0;
    p->post_norms = p->gelu = gemma3;
    return OK;
}

/* gemma3: five sliding layers, then a global one. In llama (Mistral 0.1) a window is one of every layer. Which layers of a qwen model
 * have it the file does not say: such a model runs up to the window, where nothing slides. */
static MUST err read_window(const gguf *g, model_params *p) {
    bool gemma3 = strcmp(p->arch, "gemma3") == 0;
    TRY(optional_u32(g, p->arch, "attention.sliding_window", 0, gemma3 ? 2 : 0, 1 << 24, &p->window));
    if (gemma3 && p->window) p->slide_period = 6;
    if (gemma3 && p->n_layers < 6) return ERR(ERR_UNSUPPORTED, "%s: gemma3 with %d layers has no global layer (supported: 6 and more)", gguf_path(g), p->n_layers);
    if (gemma3 || !p->window) return OK;
    if (p->window == 1) return ERR(ERR_UNSUPPORTED, "%s: a window of 1 token is not supported (supported: 2 and more)", gguf_path(g));
    if (strcmp(p->arch, "llama") == 0) p->all_slide = true;
    else if (p->window < p->context) p->context = p->window;
    if (!p->all_slide) p->window = 0;
    model_params_bound(p, 0);
    return OK;
}

void model_params_bound(model_params *p, int context) {
    if (!p->all_slide || (context ? context : p->context) > p->window) return;
    p->all_slide = false;
    p->window = 0;
}

MUST err model_read_params(const gguf *g, model_params *out) {
    model_params p = {0};
    TRY(read_arch(g, &p));
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
    char key_length[64];
    snprintf(key_length, sizeof key_length, "%s.attention.key_length", p.arch);
    if (!gguf_has(g, key_length) && p.n_embd % p.n_heads)
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
    char eps_key[64];
    snprintf(eps_key, sizeof eps_key, "%s.attention.layer_norm_rms_epsilon", p.arch);
    TRY(gguf_get_f32(g, eps_key, &p.norm_eps));
    if (!(p.norm_eps > 0 && p.norm_eps < 1))
        return ERR(ERR_FORMAT, "%s: %s is %g, expected above 0 and below 1", gguf_path(g), eps_key, (double)p.norm_eps);
    TRY(optional_f32(g, p.arch, "rope.freq_base", 10000, 1, 1e12f, &p.rope_base));
    TRY(read_rope_scaling(g, &p));
    TRY(read_window(g, &p));
    p.rope_base_local = 10000;
    p.embed_scale = p.gelu ? sqrtf((float)p.n_embd) : 1;
    /* gemma3 27B scales queries by the embedding's share of a head */
    float query_dim = p.gelu && p.n_layers == 62 ? (float)p.n_embd / (float)p.n_heads : (float)p.head_dim;
    p.attn_scale = 1.0f / sqrtf(query_dim);
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
