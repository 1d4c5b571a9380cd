/* `speed`: time of the real flow. Prefill with compression, then greedy decode at that depth, on a sequence of its own;
 * medians over repeats. Times are only comparable within one machine, so the bytes moved per second stand beside them.
 */
#include <math.h>
#include <stdio.h>
#include "base/clock.h"
#include "task/task_impl.h"

typedef struct speed_conf {
    int decode, warmup, repeats, skip, limit;
} speed_conf;
static const field speed_fields[] = {
    FIELD_INT(speed_conf, decode, 32, 1, 1 << 16, "timed decode steps"),
    FIELD_INT(speed_conf, warmup, 2, 0, 1 << 12, "decode steps before them, not timed"),
    FIELD_INT(speed_conf, repeats, 3, 1, 1000, "runs of each record; medians are reported"),
    FIELD_INT(speed_conf, skip, 0, 0, 1 << 26, "tokens of the text before the prompt"),
    FIELD_INT(speed_conf, limit, 0, 0, 1 << 20, "at most so many records; 0: all"),
    FIELD_END,
};
static const double default_contexts[] = {1024};

enum { PREFILL_TPS, TTFT, DECODE_TPS, KV_GBS, READ_GBS, KV_BYTES, POLICY_SECONDS, N_METRICS };
static const task_metric speed_metrics[N_METRICS] = {
    [PREFILL_TPS] = {"prefill_tps", "tokens/s", "prompt tokens per second, compression included", METRIC_HIGHER, true},
    [TTFT] = {"ttft", "s", "time to first token: prefill, compression and choice", METRIC_LOWER, true},
    [DECODE_TPS] = {"decode_tps", "tokens/s", "decode steps per second of one sequence", METRIC_HIGHER, true},
    [KV_GBS] = {"kv_gbs", "GB/s", "cache bytes that decode steps had to read, per second of decode", METRIC_NEUTRAL,
                true},
    [READ_GBS] = {"read_gbs", "GB/s", "cache and weight bytes that decode steps had to read, per second of decode",
                  METRIC_HIGHER, true},
    [KV_BYTES] = {"kv_read_bytes", "B", "payload and quantiser metadata of the cache, mean over the timed steps",
                  METRIC_LOWER, false},
    [POLICY_SECONDS] = {"policy_seconds", "s", "time in signals, decisions and moves of one run", METRIC_LOWER, true},
};

typedef struct speed {
    speed_conf c;
    double *contexts;
    int n_contexts;
    text_windows w;
} speed;

static void speed_destroy(task *t) {
    speed *m = t->impl;
    mem_free(m->contexts);
    text_windows_close(&m->w);
}

static err speed_create(task *t, const node *conf) {
    speed *m = NULL;
    TRY(mem_alloc(MEM_OTHER, sizeof *m, &m));
    t->impl = m;
    TRY(task_read_numbers(conf, "context", default_contexts, 1, 1, 1 << 20, &m->contexts, &m->n_contexts));
    (void)node_get(conf, "text"); /* read by text_windows_open */
    TRY(fields_read(conf, speed_fields, &m->c));
    for (int i = 0; i < m->n_contexts; i++) {
        if (m->contexts[i] != floor(m->contexts[i]))
            return NODE_ERR(conf, "speed: context %g is not a number of tokens", m->contexts[i]);
        if (m->contexts[i] > t->max_prompt) t->max_prompt = (int)m->contexts[i];
    }
    t->n_items = task_limited(m->n_contexts, m->c.limit);
    t->max_generate = m->c.warmup + m->c.decode;
    t->n_repeats = m->c.repeats;
    text_windows_conf w = {.window = t->max_prompt, .skip = m->c.skip, .records = 1};
    return text_windows_open(t, conf, &w, &m->w);
}

static err speed_open(const task *t, int i, task_item *it) {
    const speed *m = t->impl;
    int n = (int)m->contexts[i];
    snprintf(it->id, sizeof it->id, "speed/%04d context=%d", i, n);
    return token_list_add(&it->prompt, text_windows_ids(&m->w, 0), n);
}

typedef struct timing {
    double ttft, decode, policy, kv_bytes;
} timing; /* kv_bytes: mean over the timed steps */

static double read_bytes(cache_bytes b) {
    return (double)b.payload + (double)b.metadata;
}

static err time_once(task_item *it, engine *e, cache_space *space, policy *p, uint64_t seed, float *logits, timing *out,
                     task_result *first) {
    const speed *m = it->t->impl;
    int n_vocab = engine_model(e)->p.n_vocab;
    seq *s = NULL;
    err r;
    GOTO(done, r, seq_create(e, space, p, seed, &s));
    double start = clock_now();
    GOTO(done, r, seq_prefill(s, it->prompt.ids, it->prompt.n, logits));
    int32_t id = argmax_of(logits, n_vocab);
    out->ttft = clock_now() - start;
    if (first) GOTO(done, r, result_note_prompt(s, first));
    for (int i = 0; i < m->c.warmup; i++) {
        GOTO(done, r, engine_step(e, &s, &id, 1, logits));
        id = argmax_of(logits, n_vocab);
    }
    double kv_before = read_bytes(seq_bytes(s));
    start = clock_now();
    for (int i = 0; i < m->c.decode; i++) {
        GOTO(done, r, engine_step(e, &s, &id, 1, logits));
        id = argmax_of(logits, n_vocab);
    }
    out->decode = clock_now() - start;
    out->kv_bytes = (kv_before + read_bytes(seq_bytes(s))) / 2;
    out->policy = seq_policy_seconds(s);
    if (first) {
        first->at_end = seq_bytes(s);
        first->n_decoded = seq_n_tokens(s) - it->prompt.n;
        first->budget_clamped = seq_policy_report(s).budget_clamped;
    }
done:
    seq_destroy(s);
    return r;
}

static err speed_run(task_item *it, engine *e, cache_space *space, policy *p, uint64_t seed, task_result *out) {
    const speed *m = it->t->impl;
    int n = m->c.repeats;
    double *column = NULL, *ttft, *decode, *policy_s;
    float *logits = NULL;
    timing t = {0};
    err r;
    GOTO(done, r, mem_alloc(MEM_OTHER, (size_t)n * 3 * sizeof *column, &column));
    GOTO(done, r, mem_alloc(MEM_LOGITS, (size_t)engine_model(e)->p.n_vocab * sizeof *logits, &logits));
    ttft = column;
    decode = column + n;
    policy_s = column + 2 * n;
    for (int i = 0; i < n; i++) {
        GOTO(done, r, time_once(it, e, space, p, seed, logits, &t, i == 0 ? out : NULL));
        ttft[i] = t.ttft;
        decode[i] = t.decode;
        policy_s[i] = t.policy;
    }
    double step = stats_quantile(decode, n, 0.5) / m->c.decode;
    out->value[TTFT] = stats_quantile(ttft, n, 0.5);
    out->value[PREFILL_TPS] = it->prompt.n / out->value[TTFT];
    out->value[DECODE_TPS] = 1 / step;
    out->value[KV_GBS] = t.kv_bytes / step / 1e9;
    out->value[READ_GBS] = (t.kv_bytes + (double)model_decode_bytes(engine_model(e))) / step / 1e9;
    out->value[KV_BYTES] = t.kv_bytes;
    out->value[POLICY_SECONDS] = stats_quantile(policy_s, n, 0.5);
done:
    mem_free(column);
    mem_free(logits);
    return r;
}

const task_kind task_speed = {
    .name = "speed",
    .metrics = speed_metrics,
    .n_metrics = N_METRICS,
    .timed = true,
    .create = speed_create,
    .destroy = speed_destroy,
    .open = speed_open,
    .run = speed_run,
};
