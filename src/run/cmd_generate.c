/* kvlab generate: text from a model under a policy, as it comes. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/session.h"
#include "text/sampler.h"

static err read_prompt(const options *o, char **out) {
    size_t n;
    if (!o->prompt) return ERR(ERR_USAGE, "kvlab generate needs --prompt TEXT (- reads it from standard input)");
    if (strcmp(o->prompt, "-") == 0) return io_read_file("/dev/stdin", 64 << 20, out, &n);
    *out = mem_strdup(o->prompt);
    return OK;
}

static err encode(const session *s, const options *o, const char *prompt, token_list *ids) {
    const tokenizer *tok = engine_tokenizer(s->e);
    char *text = NULL;
    if (o->chat || o->template_name) {
        chat_message m = {"user", prompt};
        TRY(chat_render(engine_model(s->e)->file, o->template_name, &m, 1, true, &text));
    }
    err e = tokenizer_encode(tok, text ? text : prompt, strlen(text ? text : prompt), text != NULL, true, ids);
    mem_free(text);
    if (e == OK && ids->n == 0) e = ERR(ERR_USAGE, "the prompt is empty");
    if (e == OK && ids->n + 1 > engine_context(s->e))
        e = ERR(ERR_USAGE, "the prompt has %d tokens, the model's context is %d", ids->n, engine_context(s->e));
    return e;
}

static err emit(const tokenizer *tok, int32_t id) {
    char *bytes;
    size_t n;
    TRY(tokenizer_decode(tok, &id, 1, false, &bytes, &n));
    fwrite(bytes, 1, n, stdout);
    mem_free(bytes);
    if (fflush(stdout) != 0) return ERR(ERR_IO, "cannot write standard output");
    return OK;
}

static err stream(const session *s, const options *o, seq *q, float *logits, sampler *sam, int *n_out) {
    const tokenizer *tok = engine_tokenizer(s->e);
    for (*n_out = 0; *n_out < o->n;) {
        int32_t id = sampler_next(sam, logits);
        if (tokenizer_is_stop(tok, id)) break;
        TRY(emit(tok, id));
        if (++*n_out == o->n || seq_n_tokens(q) >= engine_context(s->e)) break;
        TRY(engine_step(s->e, &q, &id, 1, logits));
    }
    putchar('\n');
    return OK;
}

static err generate(const session *s, const options *o, const token_list *ids) {
    policy *p = NULL;
    cache_space *space = NULL;
    seq *q = NULL;
    sampler *sam = NULL;
    float *logits = NULL;
    int n_out = 0, n_vocab = engine_model(s->e)->p.n_vocab;
    err e;
    sampler_conf c = {(float)o->temperature, o->top_k, (float)o->top_p, s->g.seed};
    GOTO(done, e, mem_alloc(MEM_LOGITS, (size_t)n_vocab * sizeof *logits, &logits));
    GOTO(done, e, sampler_create(c, n_vocab, &sam));
    GOTO(done, e, session_policy(s, NULL, ids->n + o->n, &p, &space));
    GOTO(done, e, seq_create(s->e, space, p, s->g.seed, &q));
    double t0 = clock_now();
    GOTO(done, e, seq_prefill(q, ids->ids, ids->n, logits));
    double t1 = clock_now();
    GOTO(done, e, stream(s, o, q, logits, sam, &n_out));
    double t2 = clock_now();
    cache_bytes b = seq_bytes(q);
    log_info("%s: %d prompt tokens at %.0f/s, %d generated at %.1f/s, cache %.2f MB live (%.1f %% of full f16)",
             policy_describe(p), ids->n, ids->n / (t1 - t0), n_out, t2 > t1 ? n_out / (t2 - t1) : 0.0,
             (double)b.live * 1e-6, b.full_f16 ? 100.0 * (double)b.live / (double)b.full_f16 : 0.0);
done:
    if (q) seq_destroy(q);
    cache_space_destroy(space);
    policy_destroy(p);
    sampler_destroy(sam);
    mem_free(logits);
    return e;
}

err cmd_generate(const options *o) {
    session s;
    char *prompt;
    token_list ids = {0};
    TRY(read_prompt(o, &prompt));
    err e = session_open(o, &s);
    if (e == OK) {
        e = encode(&s, o, prompt, &ids);
        if (e == OK) e = generate(&s, o, &ids);
        session_close(&s);
    }
    token_list_free(&ids);
    mem_free(prompt);
    return e;
}
