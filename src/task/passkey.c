/* `passkey`: a number in a haystack (InfiniteBench, arXiv 2402.13718). Protocol p1 compresses after the whole prompt,
 * so policies that watch the last queries see the question; p2 compresses after the haystack and feeds the question
 * onto what is left.
 *
 * The answer prefix ends with a space: left to itself a small model often writes " a" there, and digits are single
 * tokens after it. Under p1 the first digit comes from the prefill itself, which reads nothing compressed; it counts
 * for exact_match and gold_nll, not for KL. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "task/haystack.h"
#include "task/task_impl.h"

typedef struct passkey_conf {
    int digits, samples, protocol, noise, new_tokens, limit, template;
    bool chat;
} passkey_conf;
enum { PROTOCOL_P1, PROTOCOL_P2 };
static const char *const protocol_names[] = {"p1", "p2", NULL};
static const char *const noise_names[] = {"repeated", "varied", NULL};
static const field passkey_fields[] = {
    FIELD_INT(passkey_conf, digits, 5, 1, 32, "digits of the key"),
    FIELD_INT(passkey_conf, samples, 1, 1, 1 << 16, "records per length and depth"),
    FIELD_ENUM(passkey_conf, protocol, "p1", protocol_names,
               "compress after the whole prompt (p1) or before the question (p2)"),
    FIELD_ENUM(passkey_conf, noise, "repeated", noise_names, "one line again and again, or sentences drawn at random"),
    FIELD_INT(passkey_conf, new_tokens, 0, 0, 1 << 12,
              "tokens to generate; 0: two more than the digits, so that a run that goes on is seen"),
    FIELD_BOOL(passkey_conf, chat, false, "wrap the prompt in the model's chat template"),
    FIELD_ENUM(passkey_conf, template, "own", chat_template_names, "with chat: the model's own template, or another one"),
    FIELD_INT(passkey_conf, limit, 0, 0, 1 << 20, "at most so many records; 0: all. Depths run fastest, then lengths"),
    FIELD_END,
};
static const double default_lengths[] = {1024}, default_depths[] = {0.1, 0.3, 0.5, 0.7, 0.9};

enum { EXACT, GOLD_NLL, GOLD_HITS, KL, TOP1, DNLL, AGREEMENT, N_METRICS };
static const task_metric passkey_metrics[N_METRICS] = {
    [EXACT] = {"exact_match", "", "the first run of digits written equals the key", METRIC_HIGHER, false},
    [GOLD_NLL] = {"gold_nll", "nats", "mean negative log-likelihood of the key's digits, teacher-forced", METRIC_LOWER,
                  false},
    [GOLD_HITS] = {"gold_accuracy", "", "share of the key's digits predicted as most likely, teacher-forced",
                   METRIC_HIGHER, false},
    [KL] = {"kl", "nats",
            "KL divergence from the full cache's prediction, mean over the digits predicted from the compressed cache",
            METRIC_LOWER, false},
    [TOP1] = {"top1", "", "share of those digits whose most likely prediction equals the full cache's", METRIC_HIGHER,
              false},
    [DNLL] = {"dnll", "nats", "gold_nll minus the full cache's", METRIC_LOWER, false},
    [AGREEMENT] = {"agreement", "",
                   "length of the common prefix with the full cache's output, over the longer of the two",
                   METRIC_HIGHER, false},
};

/* InfiniteBench's words. */
static const char intro[] =
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n\n";
static const char question[] = "\n\nWhat is the pass key?";
static const char answer_prefix[] = "\n\nThe pass key is ", chat_answer_prefix[] = "The pass key is ";

typedef struct passkey {
    passkey_conf c;
    double *lengths, *depths;
    int n_lengths, n_depths;
} passkey;

static void passkey_destroy(task *t) {
    passkey *m = t->impl;
    mem_free(m->lengths);
    mem_free(m->depths);
}

static err passkey_create(task *t, const node *conf) {
    passkey *m = NULL;
    TRY(mem_alloc(MEM_OTHER, sizeof *m, &m));
    t->impl = m;
    TRY(task_read_numbers(conf, "length", default_lengths, 1, 64, 1 << 20, &m->lengths, &m->n_lengths));
    TRY(task_read_numbers(conf, "depth", default_depths, 5, 0, 1, &m->depths, &m->n_depths));
    TRY(fields_read(conf, passkey_fields, &m->c));
    if (m->c.template && !m->c.chat) return NODE_ERR(conf, "passkey: template %s needs chat: true", chat_template_names[m->c.template]);
    int64_t n = (int64_t)m->n_lengths * m->n_depths * m->c.samples;
    if (n > 1 << 20) return NODE_ERR(conf, "passkey: %lld records; at most %d are supported", (long long)n, 1 << 20);
    t->n_items = task_limited((int)n, m->c.limit);
    t->max_generate = m->c.new_tokens ? m->c.new_tokens : m->c.digits + 2;
    for (int i = 0; i < m->n_lengths; i++) {
        if (m->lengths[i] != floor(m->lengths[i]))
            return NODE_ERR(conf, "passkey: length %g is not a number of tokens", m->lengths[i]);
        if (m->lengths[i] > t->max_prompt) t->max_prompt = (int)m->lengths[i];
    }
    t->max_feed = m->c.digits;
    return OK;
}

/* The key depends on seed and record alone: the same under both protocols and with any noise. */
static void write_key(const task *t, int i, int n_digits, char *out) {
    rng r = rng_make(t->seed, UINT64_C(0x7061737300000000) + (uint64_t)i);
    out[0] = (char)('1' + rng_below(&r, 9));
    for (int d = 1; d < n_digits; d++) out[d] = (char)('0' + rng_below(&r, 10));
    out[n_digits] = 0;
}

static err set_rows(const passkey *m, task_item *it, const token_list *head, const token_list *tail,
                    const token_list *key) {
    bool p2 = m->c.protocol == PROTOCOL_P2;
    TRY(token_list_add(&it->prompt, head->ids, head->n));
    TRY(token_list_add(p2 ? &it->feed : &it->prompt, tail->ids, tail->n));
    TRY(token_list_add(&it->feed, key->ids, key->n - 1));
    TRY(token_list_add(&it->target, key->ids, key->n));
    it->n_lead = p2 ? tail->n - 1 : 0;
    it->scores_prefill = !p2;
    return OK;
}

static err passkey_open(const task *t, int i, task_item *it) {
    const passkey *m = t->impl;
    const tokenizer *tok = engine_tokenizer(t->e);
    double depth = m->depths[i % m->n_depths];
    int length = (int)m->lengths[i / m->n_depths % m->n_lengths], n_lines;
    char key[33];
    write_key(t, i, m->c.digits, key);
    char *needle = mem_sprintf("The pass key is %s. Remember it. %s is the pass key.", key, key);
    haystack_spec h = {.noise = (noise_kind)m->c.noise,
                       .length = length,
                       .depth = depth,
                       .intro = intro,
                       .needle = needle,
                       .question = question,
                       .answer_prefix = m->c.chat ? chat_answer_prefix : answer_prefix,
                       .template_name = chat_template_names[m->c.template],
                       .chat = m->c.chat,
                       .seed = t->seed,
                       .stream = UINT64_C(0x6e6f697300000000) + (uint64_t)i};
    token_list head = {0}, tail = {0}, gold = {0};
    err r = haystack_build(&h, engine_model(t->e)->file, tok, &head, &tail, &n_lines);
    if (!r) r = tokenizer_encode(tok, key, strlen(key), false, false, &gold);
    if (!r) r = set_rows(m, it, &head, &tail, &gold);
    token_list_free(&head);
    token_list_free(&tail);
    token_list_free(&gold);
    mem_free(needle);
    TRY(r);
    it->gold = mem_strdup(key);
    it->n_generate = t->max_generate;
    snprintf(it->id, sizeof it->id, "passkey/%04d length=%d depth=%.2f", i, length, depth);
    return OK;
}

static void passkey_measure(const task_item *it, const scores *s, double *value) {
    int first = it->scores_prefill;
    value[GOLD_NLL] = mean_of(s->nll, s->n);
    value[GOLD_HITS] = mean_of(s->hit, s->n);
    value[KL] = mean_of(s->kl + first, s->n - first);
    value[TOP1] = mean_of(s->top1 + first, s->n - first);
    value[DNLL] = value[GOLD_NLL] - mean_of(s->nll_full, s->n);
}

/* InfiniteBench's score of passkey and number_string. */
bool first_digit_run_equals(const char *text, const char *gold) {
    while (*text && !(*text >= '0' && *text <= '9')) text++;
    size_t n = strspn(text, "0123456789");
    return n == strlen(gold) && !memcmp(text, gold, n);
}

static void passkey_measure_output(const task_item *it, const token_list *ids, const char *text, double *value) {
    const token_list *full = &it->ref_output;
    int same = 0, most = ids->n > full->n ? ids->n : full->n;
    while (same < ids->n && same < full->n && ids->ids[same] == full->ids[same]) same++;
    value[EXACT] = first_digit_run_equals(text, it->gold);
    value[AGREEMENT] = most ? (double)same / most : 1;
}

const task_kind task_passkey = {
    .name = "passkey",
    .metrics = passkey_metrics,
    .n_metrics = N_METRICS,
    .fidelity = 1u << KL | 1u << TOP1 | 1u << DNLL,
    .create = passkey_create,
    .destroy = passkey_destroy,
    .open = passkey_open,
    .measure = passkey_measure,
    .measure_output = passkey_measure_output,
};
