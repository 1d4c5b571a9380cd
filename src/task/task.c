/* The registry of tasks and what all of them share: creation, records, metrics, cost. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "task/task_impl.h"

static const task_kind *const kinds[] = {&task_lm, &task_repeat_back, &task_passkey, &task_speed};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static err find_kind(const node *conf, const task_kind **out) {
    if (node_type(conf) != NODE_MAP) return NODE_ERR(conf, "expected a map with the key `task`");
    const node *n = node_get(conf, "task");
    const char *names[N_KINDS];
    for (int i = 0; i < N_KINDS; i++) names[i] = kinds[i]->name;
    if (node_type(n) != NODE_SCALAR)
        return NODE_ERR(conf, "the key `task` is missing; known: lm, repeat_back, passkey, speed");
    for (int i = 0; i < N_KINDS; i++)
        if (!strcmp(names[i], node_text(n))) {
            *out = kinds[i];
            return OK;
        }
    const char *near = node_suggest(node_text(n), names, N_KINDS);
    if (near) return NODE_ERR(n, "unknown task \"%s\"; did you mean \"%s\"?", node_text(n), near);
    return NODE_ERR(n, "unknown task \"%s\"; known: lm, repeat_back, passkey, speed", node_text(n));
}

err task_create(const node *conf, engine *e, text_source *text, uint64_t seed, task **out) {
    const task_kind *kind = NULL;
    task *t = NULL;
    *out = NULL;
    TRY(find_kind(conf, &kind));
    TRY(mem_alloc(MEM_OTHER, sizeof *t, &t));
    t->kind = kind;
    t->e = e;
    t->text = text;
    t->seed = seed;
    err r = kind->create(t, conf);
    int longest = t->max_prompt + t->max_feed + t->max_generate;
    if (!r && longest > engine_context(e))
        r = NODE_ERR(conf, "%s: records of %d tokens do not fit the context of %d", kind->name, longest,
                     engine_context(e));
    if (r) {
        task_destroy(t);
        return r;
    }
    *out = t;
    return OK;
}

void task_destroy(task *t) {
    if (!t) return;
    if (t->impl) t->kind->destroy(t);
    mem_free(t->impl);
    mem_free(t);
}

const char *task_name(const task *t) {
    return t->kind->name;
}
int task_n_items(const task *t) {
    return t->n_items;
}
bool task_is_timed(const task *t) {
    return t->kind->timed;
}
int task_prompt_tokens(const task *t) {
    return t->max_prompt;
}

int task_list_metrics(const task *t, const task_metric **out) {
    *out = t->kind->metrics;
    return t->kind->n_metrics;
}

/* GFLOP of the linear layers per token and of attention per token and position; one decode step reads all weights for
 * one token, which costs about as much as eight tokens of a prompt. */
double task_item_cost(const task *t, bool needs_prefill) {
    const model_params *p = &engine_model(t->e)->p;
    double q = p->n_heads * p->head_dim, kv = p->n_kv * p->head_dim;
    double linear = 2e-9 * p->n_layers * p->n_embd * (2 * q + 2 * kv + 3.0 * p->n_ff),
           attention = 4e-9 * p->n_layers * q;
    double head = 2e-9 * p->n_embd * p->n_vocab, n = t->max_prompt, fed = t->max_feed, steps = t->max_generate;
    double prefill = n * linear + n * n / 2 * attention;
    double finish = n * attention * SNAPSHOT_TAIL_ROWS; /* signals of the query tail and storing */
    double cost = finish + fed * (linear + head + n * attention) + steps * (8 * (linear + head) + n * attention);
    if (needs_prefill || t->kind->timed) cost += prefill;
    return t->n_repeats > 1 ? cost * t->n_repeats : cost;
}

void task_result_free(task_result *r) {
    if (!r) return;
    mem_free(r->series.kl);
    mem_free(r->series.nll);
    mem_free(r->series.top1);
    mem_free(r->kept);
    mem_free(r->output);
    memset(r, 0, sizeof *r);
}

err task_item_open(task *t, int i, task_item **out) {
    task_item *it = NULL;
    *out = NULL;
    if (i < 0 || i >= t->n_items)
        return ERR(ERR_USAGE, "%s: record %d of %d does not exist", t->kind->name, i, t->n_items);
    TRY(mem_alloc(MEM_OTHER, sizeof *it, &it));
    it->t = t;
    it->index = i;
    it->extra = NAN;
    err r = t->kind->open(t, i, it);
    if (r) {
        task_item_close(it);
        return err_wrap(r, "%s record %d", t->kind->name, i);
    }
    *out = it;
    return OK;
}

void task_item_close(task_item *it) {
    if (!it) return;
    token_list_free(&it->prompt);
    token_list_free(&it->feed);
    token_list_free(&it->target);
    token_list_free(&it->ref_output);
    snapshot_destroy(it->snap);
    mem_free(it->ref);
    mem_free(it->gold);
    mem_free(it);
}

const char *task_item_id(const task_item *it) {
    return it->id;
}

err task_item_prepare(task_item *it, engine *e) {
    if (it->t->kind->timed || it->snap) return OK;
    return teacher_prepare(it, e);
}

static void start_result(task_result *out) {
    memset(out, 0, sizeof *out);
    for (int i = 0; i < TASK_MAX_METRICS; i++) out->value[i] = NAN;
}

err task_item_run(task_item *it, engine *e, cache_space *space, policy *p, uint64_t seed, task_result *out) {
    const task_kind *k = it->t->kind;
    start_result(out);
    if (!k->timed && !it->snap) return ERR(ERR_USAGE, "%s: task_item_prepare has not been called", it->id);
    err r = k->timed ? k->run(it, e, space, p, seed, out) : teacher_run(it, e, space, p, seed, out);
    if (r) task_result_free(out);
    return r ? err_wrap(r, "%s", it->id) : OK;
}

err task_item_run_noise(task_item *it, engine *other, task_result *out) {
    const task_kind *k = it->t->kind;
    start_result(out);
    if (k->timed) return ERR(ERR_UNSUPPORTED, "%s: a timed task has no fidelity and so no noise floor", it->id);
    if (!it->snap) return ERR(ERR_USAGE, "%s: task_item_prepare has not been called", it->id);
    err r = teacher_run_noise(it, other, out);
    for (int i = 0; i < TASK_MAX_METRICS; i++)
        if (!(i < k->n_metrics && k->fidelity >> i & 1)) out->value[i] = NAN;
    if (r) task_result_free(out);
    return r ? err_wrap(r, "noise floor of %s", it->id) : OK;
}

err task_read_numbers(const node *conf, const char *key, const double *defaults, int n_defaults, double lo, double hi,
                      double **out, int *n) {
    const node *list = node_get(conf, key);
    bool absent = node_type(list) == NODE_NULL, one = node_type(list) == NODE_SCALAR;
    double *x = NULL;
    *out = NULL;
    *n = absent ? n_defaults : one ? 1 : node_count(list);
    if (!absent && !one && (node_type(list) != NODE_LIST || *n == 0))
        return NODE_ERR(list, "%s: expected a number or a list of numbers", key);
    TRY(mem_alloc(MEM_OTHER, (size_t)*n * sizeof *x, &x));
    for (int i = 0; i < *n; i++) {
        if (absent) {
            x[i] = defaults[i];
            continue;
        }
        const node *v = one ? list : node_at(list, i);
        err e = node_as_double(v, &x[i]);
        if (!e && !(x[i] >= lo && x[i] <= hi))
            e = NODE_ERR(v, "%s must be between %.15g and %.15g, got %.15g", key, lo, hi, x[i]);
        if (e) {
            mem_free(x);
            return e;
        }
    }
    *out = x;
    return OK;
}

err token_list_add(token_list *l, const int32_t *ids, int n) {
    for (int i = 0; i < n; i++) TRY(token_list_push(l, ids[i]));
    return OK;
}

double mean_of(const double *x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    return n ? sum / n : NAN;
}
