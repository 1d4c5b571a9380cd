/* kvlab inspect: hyper-parameters of a model, without packing its weights. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "format/layout.h"
#include "model/model.h"
#include "run/jsonx.h"
#include "run/options.h"
#include "run/preset.h"
#include "run/provenance.h"

/* Formats worth comparing; a policy may name any other of docs/formats.md. Rotation changes no byte. */
static const char *const format_names[] = {"f32",  "f16",  "k8v8",  "k8v4", "k4v4", "k4v4g32",  "k4v2",     "k3v3",
                                           "k2v2", "k1v1", "k8v8s", "q8_0", "q4_0", "k4cv4g32", "k4cv2g32", "k2cv2g32"};
enum { N_FORMATS = sizeof format_names / sizeof *format_names, MAX_TYPES = 64 };

/* Payload and metadata of K and V of a token in `layers` layers. */
static size_t token_bytes(const model_params *p, kv_format f, int layers) {
    size_t item = kv_format_payload_bytes(f, p->head_dim) + kv_format_meta_bytes(f, p->head_dim);
    return item * (size_t)p->n_kv * (size_t)layers;
}

/* The page a policy gets for the format without columns, beside f16 where it needs a tail; its slack is the share of a full page that no
 * item uses. */
static err page_of(const model_params *p, kv_format f, page_layout *l, double *slack) {
    kv_format tiers[2] = {{.k_bits = 16, .v_bits = 16}, f};
    page_layout both[2];
    int n = f.k_channels ? 2 : 1;
    if (n == 1 && !p->window) TRY(page_layout_search_full(f, p->head_dim, 0, false, p->context, both));
    else TRY(page_layout_search(tiers + 2 - n, n, p->head_dim, 0, false, p->context, both));
    *l = both[n - 1];
    *slack = 1 - (double)l->cap * (l->payload_bytes + l->meta_bytes) / l->page_bytes;
    return OK;
}

/* Tiers that share pages, with the positions that moving items needs; NULL-terminated. */
static const char *const tier_sets[][KV_MAX_TIERS] = {
    {"f16", "k8v4"}, {"f16", "k4v4g32"}, {"f16", "q4_0"}, {"k8v4", "k4v2"}, {"f16", "k8v4", "k4v2"}, {"k8v4", "k4v4", "k4v2"}};
enum { N_TIER_SETS = sizeof tier_sets / sizeof *tier_sets };

typedef struct shared_page {
    int n_tiers;
    page_layout tier[KV_MAX_TIERS];
    double slack; /* of the tier that wastes most */
    char name[64];
} shared_page;

static err page_of_tiers(const model_params *p, const char *const *names, shared_page *out) {
    kv_format f[KV_MAX_TIERS];
    *out = (shared_page){0};
    for (int t = 0; t < KV_MAX_TIERS && names[t]; t++) {
        TRY(kv_format_parse(names[t], &f[out->n_tiers++]));
        snprintf(out->name + strlen(out->name), sizeof out->name - strlen(out->name), "%s%s", t ? " " : "", names[t]);
    }
    TRY(page_layout_search(f, out->n_tiers, p->head_dim, p->context <= 65536 ? 2 : 4, false, p->context, out->tier));
    for (int t = 0; t < out->n_tiers; t++) {
        const page_layout *l = &out->tier[t];
        double slack = 1 - (double)l->cap * (l->payload_bytes + l->meta_bytes + l->column_bytes) / l->page_bytes;
        if (slack > out->slack) out->slack = slack;
    }
    return OK;
}

static double cache_bytes_of(const model_params *p, kv_format f, int n) {
    return (double)model_cached_tokens(p, (size_t)n) * (double)token_bytes(p, f, 1);
}

/* The longest cache, up to the context, that fits `room` bytes. */
static int tokens_that_fit(const model_params *p, kv_format f, double room) {
    int lo = 0, hi = p->context + 1;
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if (cache_bytes_of(p, f, mid) <= room) lo = mid;
        else hi = mid;
    }
    return lo;
}

typedef struct type_sum {
    const char *name;
    size_t bytes, n_tensors;
} type_sum;

static int sum_types(const gguf *g, type_sum *out) {
    int n = 0;
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        const wtype_info *w = wtype_find(t->type);
        int k = 0;
        if (!w) continue; /* refused when the model is loaded */
        while (k < n && strcmp(out[k].name, w->name) != 0) k++;
        if (k == n) out[n++] = (type_sum){w->name, 0, 0};
        out[k].bytes += t->bytes;
        out[k].n_tensors++;
    }
    return n;
}

static err print_json(const gguf *g, const model_ref *ref, const char *sha, const model_params *p, size_t bytes) {
    json_t *root =
        json_pack("{s:o,s:o,s:s,s:I,s:s,s:o,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:f,s:f}", "model", jsonx_text(ref->name),
                  "path", jsonx_text(ref->path), "sha256", sha, "file_bytes", (json_int_t)bytes, "architecture",
                  p->arch, "name", jsonx_text(p->name), "layers", p->n_layers, "embedding", p->n_embd, "heads",
                  p->n_heads, "kv_heads", p->n_kv, "head_dim", p->head_dim, "ffn", p->n_ff, "vocabulary", p->n_vocab,
                  "context", p->context, "rope_base", (double)p->rope_base, "norm_eps", (double)p->norm_eps);
    if (root) {
        json_t *types = json_object(), *cache = json_object(), *pages = json_object();
        type_sum sums[MAX_TYPES];
        for (int i = 0, n = sum_types(g, sums); i < n; i++) json_object_set_new(types, sums[i].name, json_integer((json_int_t)sums[i].bytes));
        for (int i = 0; i < N_FORMATS; i++) {
            kv_format f;
            if (kv_format_parse(format_names[i], &f) != OK || kv_format_check(f, p->head_dim) != OK) continue;
            json_object_set_new(cache, format_names[i], json_integer((json_int_t)token_bytes(p, f, p->n_layers)));
            page_layout l;
            double slack;
            if (page_of(p, f, &l, &slack) != OK) continue;
            json_object_set_new(pages, format_names[i], json_pack("{s:i,s:i,s:f}", "bytes", (int)l.page_bytes, "items", (int)l.cap, "slack", slack));
        }
        json_object_set_new(root, "weight_bytes", types);
        json_object_set_new(root, "cache_bytes_per_token", cache);
        json_object_set_new(root, "cache_pages", pages);
        json_t *sets = json_object();
        for (int i = 0; i < N_TIER_SETS; i++) {
            shared_page page;
            if (page_of_tiers(p, tier_sets[i], &page) != OK) continue;
            json_object_set_new(sets, page.name, json_pack("{s:i,s:f}", "bytes", (int)page.tier[0].page_bytes, "slack", page.slack));
        }
        json_object_set_new(root, "tier_pages", sets);
        json_object_set_new(root, "window", json_integer(p->window));
        json_object_set_new(root, "global_layers", json_integer(model_n_global(p)));
    }
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    if (!text) return ERR(ERR_NOMEM, "out of memory: the model cannot be described");
    puts(text);
    free(text);
    return OK;
}

static void print_text(const gguf *g, const model_ref *ref, const char *sha, const model_params *p, size_t bytes) {
    printf("%s (%s)\n%s\nsha256 %s\n%.1f MB, architecture %s\n", ref->name, p->name, ref->path, sha,
           (double)bytes * 1e-6, p->arch);
    printf("%d layers, embedding %d, ffn %d, vocabulary %d\n", p->n_layers, p->n_embd, p->n_ff, p->n_vocab);
    printf("%d query heads, %d KV heads of %d, context %d\n", p->n_heads, p->n_kv, p->head_dim, p->context);
    printf("rope base %g, norm eps %g\n", (double)p->rope_base, (double)p->norm_eps);
    if (p->window)
        printf("%d of %d layers are global, the others see %d tokens\n", model_n_global(p), p->n_layers, p->window);
    type_sum sums[MAX_TYPES];
    printf("weights:");
    for (int i = 0, n = sum_types(g, sums); i < n; i++)
        printf("%s %s %.1f MB in %zu tensors", i ? "," : "", sums[i].name, (double)sums[i].bytes * 1e-6, sums[i].n_tensors);
    double free_bytes = (double)machine_available_bytes(), room = free_bytes - (double)bytes;
    printf("\nof %.1f GB available memory %.1f are left beside the file's weights:\n%-10s %14s %16s %16s %7s %6s %7s\n", free_bytes * 1e-9,
           (room > 0 ? room : 0) * 1e-9, "cache", "bytes/token", "full context MB", "tokens that fit", "page", "items", "slack");
    for (int i = 0; i < N_FORMATS; i++) {
        kv_format f;
        if (kv_format_parse(format_names[i], &f) != OK || kv_format_check(f, p->head_dim) != OK) continue;
        page_layout l;
        double slack;
        if (page_of(p, f, &l, &slack) != OK) continue;
        printf("%-10s %14zu %16.1f %16d %7u %6u %5.2f %%\n", format_names[i], token_bytes(p, f, p->n_layers),
               cache_bytes_of(p, f, p->context) * 1e-6, tokens_that_fit(p, f, room), l.page_bytes, l.cap, 100 * slack);
    }
    printf("\n%-24s %7s %7s   %s\n", "tiers on shared pages", "page", "slack", "items of a page");
    for (int i = 0; i < N_TIER_SETS; i++) {
        shared_page page;
        if (page_of_tiers(p, tier_sets[i], &page) != OK) continue;
        printf("%-24s %7u %5.2f %%  ", page.name, page.tier[0].page_bytes, 100 * page.slack);
        for (int t = 0; t < page.n_tiers; t++) printf(" %u", page.tier[t].cap);
        puts("");
    }
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
        e = print_json(file, &ref, sha, &p, gguf_file_bytes(file));
    else if (e == OK)
        print_text(file, &ref, sha, &p, gguf_file_bytes(file));
    if (file) gguf_close(file);
    model_ref_free(&ref);
    return e;
}
