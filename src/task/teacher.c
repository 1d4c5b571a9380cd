/* Runs a record of an untimed task: fork the snapshot under a policy, feed tokens as a teacher does, compare each
 * scored row with the reference, and let the model write where the task asks for it. The reference is the same run
 * under `full`. */
#include <math.h>
#include <string.h>
#include "task/task_impl.h"

enum { CHUNK_ROWS = 64 }; /* rows of logits held at a time; extend is bit-identical for any chunking */

typedef struct player {
    task_item *it;
    engine *e;
    cache_space *space;
    policy *p;
    const snapshot *snap;
    uint64_t seed;
    int n_vocab;
    float *rows;    /* [CHUNK_ROWS][n_vocab] */
    float *capture; /* the item's reference rows when they are being made, or NULL */
    scores *s;      /* when comparing, or NULL */
    bool all_hit;   /* every target was the argmax so far */
} player;

err full_policy_open(engine *e, int n_tokens, full_policy *out) {
    const char *text = engine_backend(e)->math == MATH_EXACT ? "tiers: [f32]" : "tiers: [f16]";
    *out = (full_policy){0};
    err r = node_parse_text(text, strlen(text), "full", &out->tree);
    if (!r) r = policy_create(out->tree, engine_policy_shape(e), &out->p);
    if (!r) r = cache_space_create(e, out->p, n_tokens, 0, &out->space);
    if (r) full_policy_close(out);
    return r;
}

void full_policy_close(full_policy *f) {
    if (f->space) cache_space_destroy(f->space);
    if (f->p) policy_destroy(f->p);
    if (f->tree) node_free(f->tree);
    *f = (full_policy){0};
}

static err scores_alloc(int n, scores *s) {
    double *block = NULL;
    TRY(mem_alloc(MEM_OTHER, (size_t)n * 6 * sizeof *block, &block));
    *s = (scores){n, block, block + n, block + 2 * n, block + 3 * n, block + 4 * n, block + 5 * n};
    return OK;
}

static void take_row(player *pl, int i, const float *logits) {
    const task_item *it = pl->it;
    int32_t target = it->target.ids[i];
    bool hit = argmax_of(logits, pl->n_vocab) == target;
    pl->all_hit = pl->all_hit && hit;
    if (pl->capture)
        memcpy(pl->capture + (size_t)i * (size_t)pl->n_vocab, logits, (size_t)pl->n_vocab * sizeof *logits);
    if (!pl->s) return;
    fidelity f;
    fidelity_of(it->ref + (size_t)i * (size_t)pl->n_vocab, logits, pl->n_vocab, target, &f);
    pl->s->kl[i] = f.kl;
    pl->s->nll[i] = f.nll_q;
    pl->s->nll_full[i] = f.nll_p;
    pl->s->top1[i] = f.top1;
    pl->s->top5[i] = f.top5;
    pl->s->hit[i] = hit;
}

/* The prompt under the policy; pl->rows[0] = logits of its last token. */
static err start(player *pl, seq **s) {
    return seq_fork(pl->e, pl->space, pl->snap, pl->p, pl->seed, pl->rows, s);
}

static err feed_all(player *pl, seq *s) {
    const task_item *it = pl->it;
    int row = 0;
    if (it->scores_prefill) take_row(pl, row++, pl->rows);
    if (it->n_lead) TRY(seq_extend(s, it->feed.ids, it->n_lead, NULL));
    for (int at = it->n_lead; at < it->feed.n; at += CHUNK_ROWS) {
        int n = it->feed.n - at < CHUNK_ROWS ? it->feed.n - at : CHUNK_ROWS;
        TRY(seq_extend(s, it->feed.ids + at, n, pl->rows));
        for (int r = 0; r < n; r++) take_row(pl, row++, pl->rows + (size_t)r * (size_t)pl->n_vocab);
    }
    return OK;
}

/* Greedy, from the logits in pl->rows[0], until n_generate tokens or a stop token. */
static err write_on(player *pl, seq *s, token_list *ids) {
    int n = pl->it->n_generate;
    while (ids->n < n) {
        int32_t id = argmax_of(pl->rows, pl->n_vocab);
        if (tokenizer_is_stop(engine_tokenizer(pl->e), id)) break;
        TRY(token_list_push(ids, id));
        if (ids->n < n) TRY(seq_extend(s, &id, 1, pl->rows));
    }
    return OK;
}

/* Where the model would have written the gold answer itself, the sequence that was taught it goes on; the rows are the
 * same bits. */
static err write_after_gold(player *pl, seq *s, token_list *ids) {
    const token_list *gold = &pl->it->target;
    int n = gold->n < pl->it->n_generate ? gold->n : pl->it->n_generate;
    TRY(token_list_add(ids, gold->ids, n));
    if (n < pl->it->n_generate) TRY(seq_extend(s, &gold->ids[n - 1], 1, pl->rows));
    return write_on(pl, s, ids);
}

static err write_afresh(player *pl, seq **s, token_list *ids) {
    const task_item *it = pl->it;
    seq_destroy(*s); /* first, so that peaks hold one sequence */
    *s = NULL;
    TRY(start(pl, s));
    int n_before = it->scores_prefill ? it->n_lead : it->n_lead + 1; /* rows up to the one that predicts target[0] */
    if (n_before > 1) TRY(seq_extend(*s, it->feed.ids, n_before - 1, NULL));
    if (n_before > 0) TRY(seq_extend(*s, it->feed.ids + n_before - 1, 1, pl->rows));
    return write_on(pl, *s, ids);
}

err result_note_prompt(const seq *s, task_result *out) {
    const cache *c = seq_cache(s);
    cache_shape shape = cache_get_shape(c);
    out->n_layers = shape.n_layers;
    out->n_kv = shape.n_kv;
    out->n_tiers = cache_n_tiers(c);
    out->n_prompt = seq_n_tokens(s);
    out->at_prompt = seq_bytes(s);
    TRY(mem_alloc(MEM_OTHER, (size_t)(out->n_layers * out->n_kv * out->n_tiers) * sizeof *out->kept, &out->kept));
    uint32_t *kept = out->kept;
    for (int l = 0; l < out->n_layers; l++)
        for (int h = 0; h < out->n_kv; h++)
            for (int t = 0; t < out->n_tiers; t++) *kept++ = (uint32_t)cache_n_items(c, l, h, t);
    return OK;
}

/* `out` may be NULL (the reference needs rows and output only); `generate` asks for the written answer as well. */
static err play(player *pl, bool generate, task_result *out, token_list *ids) {
    seq *s = NULL;
    err r;
    pl->all_hit = true;
    GOTO(done, r, mem_alloc(MEM_LOGITS, (size_t)CHUNK_ROWS * (size_t)pl->n_vocab * sizeof(float), &pl->rows));
    GOTO(done, r, start(pl, &s));
    if (out) GOTO(done, r, result_note_prompt(s, out));
    GOTO(done, r, feed_all(pl, s));
    if (generate && pl->it->n_generate > 0)
        GOTO(done, r, pl->all_hit ? write_after_gold(pl, s, ids) : write_afresh(pl, &s, ids));
    if (out) {
        out->at_end = seq_bytes(s);
        out->n_decoded = seq_n_tokens(s) - pl->it->prompt.n;
        out->budget_clamped = seq_policy_report(s).budget_clamped;
    }
done:
    seq_destroy(s);
    mem_free(pl->rows);
    pl->rows = NULL;
    return r;
}

static player player_make(task_item *it, engine *e, cache_space *space, policy *p, const snapshot *snap,
                          uint64_t seed) {
    return (player){
        .it = it, .e = e, .space = space, .p = p, .snap = snap, .seed = seed, .n_vocab = engine_model(e)->p.n_vocab};
}

static int longest(const task_item *it) {
    return it->prompt.n + it->feed.n + it->n_generate;
}

err teacher_prepare(task_item *it, engine *e) {
    full_policy full = {0};
    err r;
    GOTO(done, r, engine_snapshot(e, it->prompt.ids, it->prompt.n, &it->snap));
    GOTO(done, r, full_policy_open(e, longest(it), &full));
    player pl = player_make(it, e, full.space, full.p, it->snap, 0);
    GOTO(done, r, mem_alloc(MEM_LOGITS, (size_t)it->target.n * (size_t)pl.n_vocab * sizeof(float), &it->ref));
    pl.capture = it->ref;
    GOTO(done, r, play(&pl, true, NULL, &it->ref_output));
    if (it->t->kind->prepare) GOTO(done, r, it->t->kind->prepare(it, e, &full));
done:
    full_policy_close(&full);
    if (r) { /* so that a later call starts anew */
        if (it->snap) snapshot_destroy(it->snap);
        it->snap = NULL;
        mem_free(it->ref);
        it->ref = NULL;
        it->ref_output.n = 0;
        return err_wrap(r, "%s: reference", it->id);
    }
    return OK;
}

static err keep_series(const scores *s, task_result *out) {
    size_t n = (size_t)s->n;
    TRY(mem_alloc(MEM_OTHER, n * sizeof(float), &out->series.kl));
    TRY(mem_alloc(MEM_OTHER, n * sizeof(float), &out->series.nll));
    TRY(mem_alloc(MEM_OTHER, n, &out->series.top1));
    out->series.n = s->n;
    for (int i = 0; i < s->n; i++) {
        out->series.kl[i] = (float)s->kl[i];
        out->series.nll[i] = (float)s->nll[i];
        out->series.top1[i] = s->top1[i] != 0;
    }
    return OK;
}

static err compare(player *pl, bool generate, task_result *out) {
    const task_kind *k = pl->it->t->kind;
    scores s = {0};
    token_list ids = {0};
    size_t n_bytes;
    err r;
    GOTO(done, r, scores_alloc(pl->it->target.n, &s));
    pl->s = &s;
    GOTO(done, r, play(pl, generate, out, &ids));
    GOTO(done, r, keep_series(&s, out));
    k->measure(pl->it, &s, out->value);
    if (generate && pl->it->n_generate > 0) {
        GOTO(done, r, tokenizer_decode(engine_tokenizer(pl->e), ids.ids, ids.n, true, &out->output, &n_bytes));
        k->measure_output(pl->it, &ids, out->output, out->value);
    }
done:
    token_list_free(&ids);
    mem_free(s.kl);
    return r;
}

err teacher_run(task_item *it, engine *e, cache_space *space, policy *p, uint64_t seed, task_result *out) {
    player pl = player_make(it, e, space, p, it->snap, seed);
    return compare(&pl, true, out);
}

err teacher_run_noise(task_item *it, engine *other, task_result *out) {
    snapshot *snap = NULL;
    full_policy full = {0};
    err r;
    if (engine_model(other)->p.n_vocab != engine_model(it->t->e)->p.n_vocab)
        return ERR(ERR_USAGE, "the other engine has a vocabulary of %d, the reference one of %d",
                   engine_model(other)->p.n_vocab, engine_model(it->t->e)->p.n_vocab);
    GOTO(done, r, engine_snapshot(other, it->prompt.ids, it->prompt.n, &snap));
    GOTO(done, r, full_policy_open(other, longest(it), &full));
    player pl = player_make(it, other, full.space, full.p, snap, 0);
    r = compare(&pl, false, out);
done:
    full_policy_close(&full);
    if (snap) snapshot_destroy(snap);
    return r;
}

err teacher_plain_nll(engine *e, full_policy *full, const int32_t *ids, int n, double *out) {
    int n_vocab = engine_model(e)->p.n_vocab;
    seq *s = NULL;
    float *rows = NULL;
    double sum = 0;
    err r;
    GOTO(done, r, mem_alloc(MEM_LOGITS, (size_t)CHUNK_ROWS * (size_t)n_vocab * sizeof *rows, &rows));
    GOTO(done, r, seq_create(e, full->space, full->p, 0, &s));
    GOTO(done, r, seq_prefill(s, ids, 1, rows));
    sum = nll_of(rows, n_vocab, ids[1]);
    for (int at = 1; at < n - 1; at += CHUNK_ROWS) {
        int m = n - 1 - at < CHUNK_ROWS ? n - 1 - at : CHUNK_ROWS;
        GOTO(done, r, seq_extend(s, ids + at, m, rows));
        for (int i = 0; i < m; i++) sum += nll_of(rows + (size_t)i * (size_t)n_vocab, n_vocab, ids[at + i + 1]);
    }
    *out = sum / (n - 1);
done:
    seq_destroy(s);
    mem_free(rows);
    return r;
}
