/* What the files of src/task share. A kind of task (one file each) builds records and says what is measured; teacher.c
 * runs every untimed kind, a timed kind runs itself. Adding a task touches its own file and the registry in task.c. */
#ifndef KVLAB_TASK_TASK_IMPL_H
#define KVLAB_TASK_TASK_IMPL_H
#include "base/mem.h"
#include "base/rng.h"
#include "conf/fields.h"
#include "task/task.h"

struct full_policy;

/* Scores of one record's rows under a policy, in the order of task_item.target. */
typedef struct scores {
    int n;
    double *kl, *nll, *nll_full, *top1, *top5, *hit; /* [n]; hit: argmax equals the target */
} scores;

typedef struct task_kind {
    const char *name;
    const task_metric *metrics;
    int n_metrics;
    uint32_t fidelity; /* bit i: metric i compares with the reference and means something for the noise floor */
    bool timed;
    err (*create)(task *t, const node *conf); /* reads conf, sets n_items, max_prompt, max_feed, max_generate, impl */
    void (*destroy)(task *t);                 /* what impl holds; impl itself is freed by task.c */
    err (*open)(const task *t, int i, task_item *it);                     /* id, prompt, feed, target, n_lead, ... */
    err (*prepare)(task_item *it, engine *e, struct full_policy *full);   /* untimed, may be NULL: fills extra */
    void (*measure)(const task_item *it, const scores *s, double *value); /* untimed */
    void (*measure_output)(const task_item *it, const token_list *ids, const char *text,
                           double *value); /* untimed, max_generate > 0 */
    err (*run)(task_item *it, engine *e, cache_space *space, policy *p, uint64_t seed, task_result *out); /* timed */
} task_kind;

struct task {
    const task_kind *kind;
    engine *e;
    const text_source *text; /* given by the caller, or NULL */
    uint64_t seed;
    int n_items, max_prompt, max_feed, max_generate;
    int n_repeats; /* of one unit; 0 counts as 1 */
    void *impl;
};

/* Row j of `feed` sees the prompt and feed[0..j] and predicts what follows. The first n_lead rows are fed and not
 * scored (a question); the others predict target[scores_prefill..]; with scores_prefill, target[0] is what the prompt's
 * last row predicts, before anything compressed was read. So feed.n = n_lead + target.n - scores_prefill. */
struct task_item {
    const task *t;
    int index;
    char id[96];
    token_list prompt, feed, target;
    int n_lead, n_generate;
    bool scores_prefill;
    char *gold;   /* text the output is compared with, or NULL */
    double extra; /* a kind's own figure of the reference (repeat_back: NLL of the first copy); NaN if none */
    /* by task_item_prepare */
    snapshot *snap;
    float *ref;            /* [target.n][n_vocab] logits of `full` */
    token_list ref_output; /* what `full` generates */
};

extern const task_kind task_lm, task_repeat_back, task_passkey, task_speed;

/* --- configuration --- */
/* A list of numbers or one number under `key` (the defaults if absent), each within lo..hi; *out mem_free. */
MUST err task_read_numbers(const node *conf, const char *key, const double *defaults, int n_defaults, double lo,
                           double hi, double **out, int *n);
/* limit <= 0 means all. */
static inline int task_limited(int n, int limit) {
    return limit > 0 && limit < n ? limit : n;
}

/* --- text --- */
const char *text_source_data_dir(const text_source *t); /* NULL without --data */
/* The first `n` tokens of the text, or all when it is shorter (out->n says how many); cut so that they do not depend on
 * n. special: control tokens that the text spells out are tokens. */
MUST err text_tokens(const text_source *t, const tokenizer *tok, int n, bool special, token_list *out);
/* Windows of `window` tokens at skip + i * stride (stride 0: window) of every text that the key `text` of conf names - a
 * file under the data folder, a pattern, a list -, or of the caller's text: `records` of each (0: as many as fit), at most
 * `limit` in all, the first of all texts before the second. Texts are tokenised as far as needed. */
typedef struct text_windows_conf {
    int window, skip, stride, records, limit;
    bool special_tokens;
} text_windows_conf;
typedef struct text_window { int text, record, start, offset; /* start in its text, whose tokens begin at offset */ } text_window;
enum { TASK_MAX_TEXTS = 256 };
typedef struct text_windows {
    token_list tokens;
    text_window *at; /* [n] */
    int n, n_texts;
    char *names[TASK_MAX_TEXTS];
} text_windows;
MUST err text_windows_open(task *t, const node *conf, const text_windows_conf *c, text_windows *out);
void text_windows_close(text_windows *w);
const int32_t *text_windows_ids(const text_windows *w, int i);
/* "lm/0003 tokens=6000", with the text's name where there are several. */
void text_windows_describe(const text_windows *w, int i, const char *task, char *out, size_t n);

MUST err token_list_add(token_list *l, const int32_t *ids, int n);

/* --- running (teacher.c) --- */
MUST err teacher_prepare(task_item *it, engine *e);
MUST err teacher_run(task_item *it, engine *e, cache_space *space, policy *p, uint64_t seed, task_result *out);
MUST err teacher_run_noise(task_item *it, engine *other, task_result *out);
/* `full` in the engine's own precision: f16 in fast, f32 in exact. */
typedef struct full_policy {
    policy *p;
    cache_space *space;
    node *tree;
} full_policy;
MUST err full_policy_open(engine *e, int n_tokens, full_policy *out);
void full_policy_close(full_policy *f);
/* Bytes, kept counts and clamping after the prompt. */
MUST err result_note_prompt(const seq *s, task_result *out);
/* The first run of digits in text, compared as a whole. */
bool first_digit_run_equals(const char *text, const char *gold);
double mean_of(const double *x, int n); /* NaN when n = 0 */
/* Mean NLL of ids[1..n-1], each predicted from those before it alone. */
MUST err teacher_plain_nll(engine *e, full_policy *full, const int32_t *ids, int n, double *out);
#endif
