#include "tests/support/made_results.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/io.h"
#include "base/mem.h"
#include "base/rng.h"
#include "run/journal.h"
#include "run/jsonx.h"

enum { N_LAYERS = 12, N_KV = 3, HEAD_DIM = 64, N_ITEMS = 6, N_TOKENS = 20 };

typedef struct made_point {
    const char *preset, *budget, *tiers[2];
    double bits, kept, harm; /* payload bits per number; share kept; scale of the divergence */
} made_point;
static const made_point few[] = {
    {"full", NULL, {"f16"}, 16, 1, 0},
    {"k8v8", NULL, {"K8V8"}, 8, 1, 2e-4},
    {"k8v4", NULL, {"K8V4"}, 6, 1, 3e-3},
    {"k4v4", NULL, {"K4V4"}, 4, 1, 2e-2},
    {"k4v2", NULL, {"K4V2"}, 3, 1, 0.2},
    {"snapkv", "0.5", {"f16"}, 16, 0.5, 0.03},
    {"snapkv", "0.25", {"f16"}, 16, 0.25, 0.12},
    {"snapkv", "0.125", {"f16"}, 16, 0.125, 0.3},
    {"adakv", "0.5", {"f16"}, 16, 0.5, 0.02},
    {"adakv", "0.25", {"f16"}, 16, 0.25, 0.08},
    {"adakv", "0.125", {"f16"}, 16, 0.125, 0.25},
    {"adakv_k8v4_k4v2", "0.5", {"K8V4", "K4V2"}, 5, 0.7, 0.04},
    {"adakv_k8v4_k4v2", "0.25", {"K8V4", "K4V2"}, 5, 0.4, 0.1},
    {"streamingllm", "0.5", {"f16"}, 16, 0.5, 0.3},
    {"streamingllm", "0.25", {"f16"}, 16, 0.25, 0.7},
    {"random", "0.5", {"f16"}, 16, 0.5, 0.9},
    {"random", "0.25", {"f16"}, 16, 0.25, 2},
};
enum { N_FEW = sizeof few / sizeof *few, N_POLICIES = 20, N_CROWD = 2 + 2 * N_POLICIES };

/* `full`, one quantised point and twenty policies at two budgets. */
static const made_point *make_crowd(void) {
    static made_point crowd[N_CROWD];
    static char names[N_POLICIES][16];
    crowd[0] = few[0];
    crowd[1] = few[2];
    for (int i = 0; i < N_POLICIES; i++) {
        snprintf(names[i], sizeof names[i], "policy_%02d", i);
        for (int k = 0; k < 2; k++)
            crowd[2 + 2 * i + k] = (made_point){names[i], k ? "0.125" : "0.5", {"f16"}, 16, k ? 0.125 : 0.5, (k ? 0.1 : 0.01) * (1 + i)};
    }
    return crowd;
}

static const made_point *points = few;
static int n_points = N_FEW;

static void made_id(int i, char id[17]) {
    snprintf(id, 17, "%016llx", 0x1234567890ull + (unsigned long long)i * 0x1000193ull);
}

static json_t *metric(const char *name, const char *unit, const char *help, metric_direction d, int timing) {
    return json_pack("{s:s,s:s,s:s,s:i,s:b}", "name", name, "unit", unit, "help", help, "direction", (int)d, "timing",
                     timing);
}

static json_t *made_tasks(void) {
    json_t *lm = json_pack("[o,o,o]", metric("nll", "nats", "mean negative log-likelihood", METRIC_LOWER, 0),
                           metric("kl", "nats", "KL from the full cache", METRIC_LOWER, 0),
                           metric("top1", "", "share of equal first choices", METRIC_HIGHER, 0));
    json_t *passkey = json_pack("[o,o]", metric("exact_match", "", "the digits are right", METRIC_HIGHER, 0),
                                metric("kl", "nats", "KL from the full cache", METRIC_LOWER, 0));
    json_t *speed =
        json_pack("[o,o,o,o]", metric("decode_tps", "tokens/s", "decode steps per second", METRIC_HIGHER, 1),
                  metric("prefill_tps", "tokens/s", "prompt tokens per second", METRIC_HIGHER, 1),
                  metric("kv_gbs", "GB/s", "cache bytes read per second", METRIC_NEUTRAL, 1),
                  metric("kv_read_bytes", "B", "cache bytes of a step", METRIC_LOWER, 0));
    static const char *const names[] = {"lm", "passkey length=a/b", "speed"};
    json_t *metrics[] = {lm, passkey, speed}, *list = json_array();
    for (int t = 0; t < 3; t++)
        json_array_append_new(list, json_pack("{s:s,s:s,s:b,s:i,s:o,s:f,s:f,s:i}", "name", names[t], "conf",
                                              "{\"task\":\"made\"}", "timed", t == 2, "n_items", t == 2 ? 4 : N_ITEMS,
                                              "metrics", metrics[t], "cost_prepare", 1.0, "cost_unit", 1.0,
                                              "prompt_tokens", 1024));
    return list;
}

static json_t *made_header(void) {
    json_t *list = json_array();
    for (int i = 0; i < n_points; i++) {
        char id[17], label[64];
        made_id(i, id);
        snprintf(label, sizeof label, "%s%s%s", points[i].preset, points[i].budget ? " budget=" : "",
                 points[i].budget ? points[i].budget : "");
        json_t *axes = json_pack("[[s,s]]", "policy.preset", points[i].preset), *tiers = json_array();
        if (points[i].budget) json_array_append_new(axes, json_pack("[s,s]", "policy.budget", points[i].budget));
        for (int k = 0; k < 2 && points[i].tiers[k]; k++) json_array_append_new(tiers, json_string(points[i].tiers[k]));
        json_array_append_new(list,
                              json_pack("{s:s,s:s,s:o,s:s,s:s,s:o,s:b,s:i,s:[i,i,i]}", "id", id, "label", label, "axes",
                                        axes, "conf", "{\"a\":\"b, \\\"c\\\"\"}", "policy", "made up, for tests",
                                        "tiers", tiers, "full", i == 0, "group", 0, "tasks", 0, 1, 2));
    }
    json_t *groups =
        json_pack("[{s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:s}]", "id", "00000000000000aa", "model", "made-model",
                  "model_sha256", "0000000000000000000000000000000000000000000000000000000000000000", "backend", "cpu",
                  "isa", "avx512-vnni", "math", "fast", "threads", 2, "context", 2048, "seed", "0000000000000001");
    return json_pack("{s:s,s:i,s:s,s:s,s:s,s:s,s:s,s:o,s:o,s:o}", "kind", "sweep", "version", 1, "name", "made",
                     "question", "Do \"quotes\", <tags> & commas survive?", "sweep_id", "0123456789abcdef", "text_name",
                     "made.txt", "text_sha256", "", "groups", groups, "tasks", made_tasks(), "points", list);
}

static void add_metric(unit_record *u, const char *name, double value) {
    u->metrics[u->n_metrics].name = mem_strdup(name);
    u->metrics[u->n_metrics++].value = value;
}

static cache_bytes made_bytes(const made_point *p, int n_tokens) {
    cache_bytes b = {0};
    b.items_full = (size_t)n_tokens * N_LAYERS * N_KV;
    b.items = (size_t)((double)b.items_full * p->kept);
    b.full_f16 = b.items_full * HEAD_DIM * 4;
    b.payload = (size_t)((double)b.items * HEAD_DIM * 2 * p->bits / 8);
    b.metadata = p->bits < 16 ? b.items * 8 : 0;
    b.columns = p->kept < 1 ? b.items * 4 : 0;
    b.tables = 4096;
    b.live = b.payload + b.metadata + b.columns + b.tables;
    b.slack = 65536;
    b.committed = (b.live + b.slack + (2 << 20) - 1) & ~(size_t)((2 << 20) - 1);
    b.peak_live = b.live;
    b.peak_committed = b.committed;
    return b;
}

static MUST err fill(unit_record *u, int point, int task, int item, rng *g) {
    const made_point *p = &points[point];
    double harm = p->harm * (0.6 + 0.8 * rng_uniform(g));
    TRY(mem_alloc(MEM_OTHER, sizeof *u->metrics * 4, &u->metrics));
    u->n_prompt = task == 2 ? 512 << item : 1000 + 7 * item;
    u->n_decoded = N_TOKENS;
    u->at_prompt = made_bytes(p, u->n_prompt);
    u->at_end = made_bytes(p, u->n_prompt + N_TOKENS);
    u->seconds = rng_uniform(g);
    if (task == 0) {
        add_metric(u, "nll", 2.5 + harm);
        add_metric(u, "kl", harm);
        add_metric(u, "top1", 1 - fmin(0.9, harm / 2));
        u->n_series = N_TOKENS - (item == 1 ? 5 : 0);
        TRY(mem_alloc(MEM_OTHER, sizeof(float) * N_TOKENS, &u->kl));
        TRY(mem_alloc(MEM_OTHER, sizeof(float) * N_TOKENS, &u->nll));
        TRY(mem_alloc(MEM_OTHER, N_TOKENS, &u->top1));
        for (int i = 0; i < u->n_series; i++) {
            u->kl[i] = (float)(harm * rng_uniform(g));
            u->nll[i] = (float)(5 * rng_uniform(g));
            u->top1[i] = rng_uniform(g) > harm;
        }
    } else if (task == 1) {
        add_metric(u, "exact_match", rng_uniform(g) < 1 - fmin(0.9, p->harm) ? 1 : 0);
        add_metric(u, "kl", item == 2 ? NAN : harm / 3);
        u->output = mem_sprintf("the key is \"%d\",\nor so", 10000 + item);
    } else {
        double step = 2e-3 + (double)u->at_prompt.live / 8e9 + 2e-4 * rng_uniform(g);
        add_metric(u, "decode_tps", 1 / step);
        add_metric(u, "prefill_tps", 900 - u->n_prompt / 20.0);
        add_metric(u, "kv_gbs", (double)u->at_prompt.live / step / 1e9);
        add_metric(u, "kv_read_bytes", (double)u->at_prompt.payload);
        return OK;
    }
    u->n_layers = N_LAYERS;
    u->n_kv = N_KV;
    u->n_tiers = p->tiers[1] ? 2 : 1;
    TRY(mem_alloc(MEM_OTHER, sizeof *u->kept * N_LAYERS * N_KV * 2, &u->kept));
    for (int h = 0; h < N_LAYERS * N_KV; h++) {
        double share = p->kept >= 1 ? 1 : fmin(1, p->kept * (0.3 + 1.4 * rng_uniform(g)));
        for (int k = 0; k < u->n_tiers; k++) u->kept[h * u->n_tiers + k] = (uint32_t)(share * u->n_prompt / u->n_tiers);
    }
    return OK;
}

static MUST err add_unit(results *r, int point, int task, int item, rng *g) {
    unit_record u = {.item = item};
    memcpy(u.point, r->points[point].id, sizeof u.point);
    u.label = mem_strdup(r->points[point].label);
    u.task = mem_strdup(r->tasks[task].name);
    u.item_id = mem_sprintf("%s/%04d", r->tasks[task].name, item);
    bool failed = point == 15 && item == 3, missing = point == 16 && task == 0 && item == 5;
    u.status = failed ? UNIT_FAILED : UNIT_OK;
    u.text = mem_strdup(failed ? "a made-up failure, to be shown" : "");
    err e = failed || missing ? OK : fill(&u, point, task, item, g);
    if (e == OK && !missing) e = results_add(r, &u);
    unit_record_free(&u);
    return e;
}

static MUST err add_noise(results *r, int item, rng *g) {
    unit_record u = {.noise = true,
                     .item = item,
                     .label = mem_strdup("noise"),
                     .task = mem_strdup("lm"),
                     .item_id = mem_strdup("lm"),
                     .text = mem_strdup(""),
                     .n_prompt = 1000};
    memcpy(u.point, r->groups[0].id, sizeof u.point);
    err e = mem_alloc(MEM_OTHER, sizeof *u.metrics, &u.metrics);
    if (e == OK) add_metric(&u, "kl", 2e-5 * (1 + rng_uniform(g)));
    if (e == OK) e = results_add(r, &u);
    unit_record_free(&u);
    return e;
}

err made_results(uint64_t seed, bool crowded, const char *dir, results **out) {
    points = crowded ? make_crowd() : few;
    n_points = crowded ? N_CROWD : N_FEW;
    rng g = rng_make(seed, 17);
    json_t *header = made_header();
    err e = results_from_header(header, dir, out);
    json_decref(header);
    TRY(e);
    results *r = *out;
    mem_free(r->environment_json);
    r->environment_json = mem_strdup("{\"schema\":1,\"time\":\"2001-02-03T04:05:06Z\",\"kvlab\":{\"version\":\"0\","
                                     "\"dirty\":true},\"machine\":{\"cpu\":\"made CPU\",\"cpus\":2,"
                                     "\"read_bandwidth\":{\"one_thread\":21.5}},\"used_keys\":[\"policy.preset\"]}");
    mem_free(r->resolved_yaml);
    r->resolved_yaml = mem_strdup("# made\nname: made\n");
    mem_free(r->sweep_yaml);
    r->sweep_yaml = mem_strdup("name: made\n");
    for (int p = 0; p < r->n_points && e == OK; p++)
        for (int t = 0; t < r->n_tasks && e == OK; t++)
            for (int i = 0; i < r->tasks[t].n_items && e == OK; i++) e = add_unit(r, p, t, i, &g);
    for (int i = 0; i < N_ITEMS && e == OK; i++) e = add_noise(r, i, &g);
    return e;
}

static MUST err append_record(journal *j, const unit_record *u) {
    json_t *line;
    if (!u) return OK;
    TRY(unit_record_to_json(u, &line));
    err e = journal_append(j, line);
    json_decref(line);
    return e;
}

static MUST err write_side_file(const char *dir, const char *name, const char *text) {
    char *path = io_join(dir, name);
    err e = io_write_file(path, text, strlen(text));
    mem_free(path);
    return e;
}

err made_results_write(const results *r, const char *dir) {
    char *journals = io_join(dir, "journal"), *path = io_join(journals, "units.jsonl");
    journal *j = NULL;
    json_t *header;
    err e = io_make_dirs(journals);
    if (e == OK) e = journal_open(path, &j);
    if (e == OK && (e = results_header_json(r, &header)) == OK) {
        e = journal_append(j, header);
        json_decref(header);
    }
    for (int t = 0; t < r->n_tasks && e == OK; t++)
        for (int i = 0; i < r->tasks[t].n_items && e == OK; i++) {
            for (int p = 0; p < r->n_points && e == OK; p++) e = append_record(j, results_unit(r, p, t, i));
            if (e == OK) e = append_record(j, results_noise(r, 0, t, i));
        }
    err closed = journal_close(j);
    if (e == OK) e = closed;
    mem_free(path);
    mem_free(journals);
    if (e == OK) e = write_side_file(dir, "environment.json", r->environment_json);
    if (e == OK) e = write_side_file(dir, "resolved.yaml", r->resolved_yaml);
    if (e == OK) e = write_side_file(dir, "sweep.yaml", r->sweep_yaml);
    return e;
}
