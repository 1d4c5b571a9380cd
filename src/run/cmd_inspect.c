/* kvlab inspect: hyper-parameters of a model, without packing its weights. */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/model.h"
#include "run/jsonx.h"
#include "run/options.h"
#include "run/preset.h"

static err print_json(const model_ref *ref, const char *sha, const model_params *p, size_t bytes) {
    json_t *root =
        json_pack("{s:o,s:o,s:s,s:I,s:s,s:o,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:f,s:f}", "model", jsonx_text(ref->name),
                  "path", jsonx_text(ref->path), "sha256", sha, "file_bytes", (json_int_t)bytes, "architecture",
                  p->arch, "name", jsonx_text(p->name), "layers", p->n_layers, "embedding", p->n_embd, "heads",
                  p->n_heads, "kv_heads", p->n_kv, "head_dim", p->head_dim, "ffn", p->n_ff, "vocabulary", p->n_vocab,
                  "context", p->context, "rope_base", (double)p->rope_base, "norm_eps", (double)p->norm_eps);
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    if (!text) return ERR(ERR_NOMEM, "out of memory: the model cannot be described");
    puts(text);
    free(text);
    return OK;
}

static void print_text(const model_ref *ref, const char *sha, const model_params *p, size_t bytes) {
    size_t per_token = (size_t)p->n_layers * (size_t)p->n_kv * (size_t)p->head_dim * 4;
    printf("%s (%s)\n%s\nsha256 %s\n%.1f MB, architecture %s\n", ref->name, p->name, ref->path, sha,
           (double)bytes * 1e-6, p->arch);
    printf("%d layers, embedding %d, ffn %d, vocabulary %d\n", p->n_layers, p->n_embd, p->n_ff, p->n_vocab);
    printf("%d query heads, %d KV heads of %d; f16 cache: %zu bytes a token, %.1f MB at the full context of %d\n",
           p->n_heads, p->n_kv, p->head_dim, per_token, (double)per_token * p->context * 1e-6, p->context);
    printf("rope base %g, norm eps %g\n", (double)p->rope_base, (double)p->norm_eps);
}

err cmd_inspect(const options *o) {
    model_ref ref;
    gguf *file = NULL;
    model_params p;
    char sha[65];
    TRY(model_ref_find(o->args[0], &ref));
    err e = model_ref_check(&ref, sha);
    if (e == OK) e = gguf_open(ref.path, &file);
    if (e == OK) e = model_read_params(file, &p);
    if (e == OK && o->json)
        e = print_json(&ref, sha, &p, gguf_file_bytes(file));
    else if (e == OK)
        print_text(&ref, sha, &p, gguf_file_bytes(file));
    if (file) gguf_close(file);
    model_ref_free(&ref);
    return e;
}
