/* kvlab score: a text teacher-forced after a compressed context, against the full cache on the same tokens. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/mem.h"
#include "run/jsonx.h"
#include "run/session.h"

enum { CHUNK = 16 }; /* tokens fed at once: extend equals steps, so this bounds memory and changes nothing */
static const size_t max_input_bytes = (size_t)1 << 30;

/* ---- input ---- */

static err read_ids(const char *path, int n_vocab, token_list *out) {
    char *text;
    size_t n;
    TRY(io_read_file(path, max_input_bytes, &text, &n));
    json_error_t je;
    json_t *j = json_loadb(text, n, JSON_DECODE_ANY, &je);
    mem_free(text);
    err e = OK;
    if (!j)
        e = ERR(ERR_FORMAT, "%s:%d: not JSON: %s", path, je.line, je.text);
    else if (!json_is_array(j))
        e = ERR(ERR_FORMAT, "%s: token ids must be a JSON list of integers", path);
    for (size_t i = 0; e == OK && i < json_array_size(j); i++) {
        const json_t *v = json_array_get(j, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= n_vocab)
            e = ERR(ERR_FORMAT, "%s: entry %zu is not a token id of this model (0..%d)", path, i, n_vocab - 1);
        else
            e = token_list_push(out, (int32_t)id);
    }
    json_decref(j);
    return e;
}

static err read_text(const char *path, const tokenizer *tok, token_list *out) {
    char *text;
    size_t n;
    TRY(io_read_file(path, max_input_bytes, &text, &n));
    err e = tokenizer_encode(tok, text, n, false, false, out);
    mem_free(text);
    return e;
}

static err read_input(const session *s, const options *o, token_list *out) {
    if (o->file)
        TRY(read_text(o->file, engine_tokenizer(s->e), out));
    else
        TRY(read_ids(o->ids, engine_model(s->e)->p.n_vocab, out));
    long long need = (long long)o->skip + o->context + o->tokens + 1;
    if (out->n < need)
        return ERR(ERR_USAGE, "%s has %d tokens; --skip %d --context %d --tokens %d needs %lld",
                   o->file ? o->file : o->ids, out->n, o->skip, o->context, o->tokens, need);
    if ((long long)o->context + o->tokens > engine_context(s->e))
        return ERR(ERR_USAGE, "--context %d and --tokens %d exceed the model's context of %d tokens", o->context,
                   o->tokens, engine_context(s->e));
    return OK;
}

/* ---- scoring ---- */

typedef struct scores {
    double *nll, *nll_full, *kl; /* [n] */
    bool *top1;
    int n;
    cache_bytes at_prompt, at_end;
    policy_report report;
    double seconds;
} scores;

static err scores_alloc(int n, scores *s) {
    *s = (scores){.n = n};
    TRY(mem_alloc(MEM_OTHER, (size_t)n * sizeof *s->nll, &s->nll));
    TRY(mem_alloc(MEM_OTHER, (size_t)n * sizeof *s->nll_full, &s->nll_full));
    TRY(mem_alloc(MEM_OTHER, (size_t)n * sizeof *s->kl, &s->kl));
    return mem_alloc(MEM_OTHER, (size_t)n * sizeof *s->top1, &s->top1);
}

static void scores_free(scores *s) {
    mem_free(s->nll);
    mem_free(s->nll_full);
    mem_free(s->kl);
    mem_free(s->top1);
}

/* Both timelines advance together, so that only CHUNK rows of logits are held. cont[0] follows the context. */
static err feed(seq *full, seq *q, const int32_t *cont, int n_vocab, float *logits, scores *out) {
    float *p_rows = logits, *q_rows = logits + (size_t)CHUNK * (size_t)n_vocab;
    for (int at = 0; at < out->n; at += CHUNK) {
        int n = out->n - at < CHUNK ? out->n - at : CHUNK;
        TRY(seq_extend(full, cont + at, n, p_rows));
        TRY(seq_extend(q, cont + at, n, q_rows));
        for (int i = 0; i < n; i++) {
            fidelity f;
            fidelity_of(p_rows + (size_t)i * (size_t)n_vocab, q_rows + (size_t)i * (size_t)n_vocab, n_vocab,
                        cont[at + i + 1], &f);
            out->kl[at + i] = f.kl;
            out->nll[at + i] = f.nll_q;
            out->nll_full[at + i] = f.nll_p;
            out->top1[at + i] = f.top1;
        }
    }
    return OK;
}

static err score(const session *s, const int32_t *ids, int n_context, scores *out) {
    node *full_conf = NULL;
    policy *p = NULL, *full_p = NULL;
    cache_space *space = NULL, *full_space = NULL;
    snapshot *snap = NULL;
    seq *q = NULL, *full = NULL;
    float *logits = NULL;
    int n_vocab = engine_model(s->e)->p.n_vocab, hint = n_context + out->n;
    double began = clock_now();
    err e;
    GOTO(done, e, mem_alloc(MEM_LOGITS, 2 * (size_t)CHUNK * (size_t)n_vocab * sizeof *logits, &logits));
    GOTO(done, e, session_full_conf(s, &full_conf));
    GOTO(done, e, session_policy(s, full_conf, hint, &full_p, &full_space));
    GOTO(done, e, session_policy(s, NULL, hint, &p, &space));
    GOTO(done, e, engine_snapshot(s->e, ids, n_context, &snap));
    GOTO(done, e, seq_fork(s->e, full_space, snap, full_p, s->g.seed, NULL, &full));
    GOTO(done, e, seq_fork(s->e, space, snap, p, s->g.seed, NULL, &q));
    out->at_prompt = seq_bytes(q);
    GOTO(done, e, feed(full, q, ids + n_context, n_vocab, logits, out));
    out->at_end = seq_bytes(q);
    out->report = seq_policy_report(q);
    out->seconds = clock_now() - began;
done:
    if (q) seq_destroy(q);
    if (full) seq_destroy(full);
    snapshot_destroy(snap);
    cache_space_destroy(space);
    cache_space_destroy(full_space);
    policy_destroy(p);
    policy_destroy(full_p);
    node_free(full_conf);
    mem_free(logits);
    return e;
}

/* ---- output ---- */

static json_t *bytes_json(const cache_bytes *b) {
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "payload", (json_int_t)b->payload, "metadata",
                     (json_int_t)b->metadata, "columns", (json_int_t)b->columns, "tables", (json_int_t)b->tables,
                     "live", (json_int_t)b->live, "slack", (json_int_t)b->slack, "committed", (json_int_t)b->committed,
                     "full_f16", (json_int_t)b->full_f16, "ratio",
                     jsonx_number(b->full_f16 ? (double)b->live / (double)b->full_f16 : NAN));
}

static double mean(const double *x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    return n ? sum / n : NAN;
}

static err print_json(const session *s, const options *o, const scores *r) {
    json_t *nll = json_array(), *nll_full = json_array(), *kl = json_array(), *top1 = json_array();
    int agree = 0;
    for (int i = 0; i < r->n; i++) {
        json_array_append_new(nll, jsonx_number(r->nll[i]));
        json_array_append_new(nll_full, jsonx_number(r->nll_full[i]));
        json_array_append_new(kl, jsonx_number(r->kl[i]));
        json_array_append_new(top1, json_integer(r->top1[i]));
        agree += r->top1[i];
    }
    const backend *be = engine_backend(s->e);
    char *conf = node_canonical(s->policy);
    json_t *root =
        json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:{s:o,s:o,s:o,s:f},s:b,s:o,s:s,s:o,s:s,s:s,s:s,s:i,s:i,s:i,s:f}", "nll",
                  nll, "nll_full", nll_full, "kl", kl, "top1", top1, "bytes", bytes_json(&r->at_prompt), "bytes_end",
                  bytes_json(&r->at_end), "mean", "nll", jsonx_number(mean(r->nll, r->n)), "nll_full",
                  jsonx_number(mean(r->nll_full, r->n)), "kl", jsonx_number(mean(r->kl, r->n)), "top1",
                  r->n ? (double)agree / r->n : 0.0, "budget_clamped", r->report.budget_clamped, "model",
                  jsonx_text(s->g.model), "model_sha256", s->g.model_sha256, "policy", jsonx_text(conf), "math",
                  s->g.math == MATH_FAST ? "fast" : "exact", "backend", be->name, "isa", be->isa, "skip", o->skip,
                  "context", o->context, "tokens", o->tokens, "seconds", r->seconds);
    char *text = root ? json_dumps(root, JSONX_DUMP) : NULL;
    mem_free(conf);
    json_decref(root);
    if (!text) return ERR(ERR_NOMEM, "out of memory: the scores cannot be encoded");
    puts(text);
    free(text);
    return OK;
}

static void print_text(const options *o, const scores *r) {
    int agree = 0;
    for (int i = 0; i < r->n; i++) agree += r->top1[i];
    const cache_bytes *b = &r->at_prompt;
    printf("%d tokens after a context of %d%s\n", r->n, o->context,
           r->report.budget_clamped ? " (budget clamped to the protected tokens)" : "");
    printf("nll   %.4f nats (full %.4f), perplexity %.3f\n", mean(r->nll, r->n), mean(r->nll_full, r->n),
           exp(mean(r->nll, r->n)));
    printf("kl    %.6f nats from the full cache\n", mean(r->kl, r->n));
    printf("top1  %.2f %% equal to the full cache\n", 100.0 * agree / r->n);
    printf("bytes %zu live = payload %zu + metadata %zu + columns %zu + tables %zu; slack %zu, committed %zu; %.4f of "
           "full f16\n",
           b->live, b->payload, b->metadata, b->columns, b->tables, b->slack, b->committed,
           b->full_f16 ? (double)b->live / (double)b->full_f16 : NAN);
}

err cmd_score(const options *o) {
    session s;
    token_list ids = {0};
    scores r = {0};
    if (!o->file == !o->ids) return ERR(ERR_USAGE, "kvlab score needs one of --file TEXT and --ids FILE");
    TRY(session_open(o, &s));
    err e = read_input(&s, o, &ids);
    if (e == OK) e = scores_alloc(o->tokens, &r);
    if (e == OK) e = score(&s, ids.ids + o->skip, o->context, &r);
    if (e == OK && o->json)
        e = print_json(&s, o, &r);
    else if (e == OK)
        print_text(o, &r);
    scores_free(&r);
    token_list_free(&ids);
    session_close(&s);
    return e;
}
