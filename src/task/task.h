/* Tasks: deterministic lists of records and how a policy is run and scored on each (reference evaluation.md).
 *
 * A record has a prompt that is prefilled (and compressed) and what follows. Protocol P1 compresses after the whole prompt, P2 after
 * the context and before the question; the record hides the difference: `prompt` is what is compressed, the rest is fed after.
 * Prompts are prefilled once per record and forked for all policies, except for timed tasks, which use the real flow. */
#ifndef KVLAB_TASK_TASK_H
#define KVLAB_TASK_TASK_H
#include "conf/node.h"
#include "engine/engine.h"
#include "stats/stats.h"

typedef struct task task;
typedef struct task_item task_item;

enum { TASK_MAX_METRICS = 32 };
typedef enum metric_direction { METRIC_NEUTRAL, METRIC_HIGHER, METRIC_LOWER } metric_direction;
typedef struct task_metric { const char *name, *unit, *help; metric_direction direction; bool timing; /* varies from run to run */ } task_metric;

typedef struct text_source text_source; /* natural text: a file given by the user or an installed Debian document */
/* path NULL: looks for installed Debian documents (debian-reference), ERR_ENV names the package otherwise. *.gz is read through zlib.
 * A directory (--data) is searched for what tasks name. */
MUST err text_source_open(const char *text_path, const char *data_dir, text_source **out);
void text_source_close(text_source *t);
const char *text_source_name(const text_source *t);
const char *text_source_sha256(const text_source *t);
const char *text_source_text(const text_source *t, size_t *n);
/* SHA-256 of every text that a task's map names under `text`, in quotes, joined by commas; "" if it names none. mem_free. */
MUST err task_text_hashes(const node *conf, const char *data_dir, char **out);

/* `conf` = one entry of `tasks:` resolved to a map {task: lm, ...} (presets merged by the runner). Unknown keys are errors. */
MUST err task_create(const node *conf, engine *e, text_source *text, uint64_t seed, task **out);
void task_destroy(task *t);
const char *task_name(const task *t);
int task_n_items(const task *t);
bool task_is_timed(const task *t);
int task_prompt_tokens(const task *t);  /* largest prompt, for layouts and cost estimates */
int task_list_metrics(const task *t, const task_metric **out);
/* Rough cost of one unit, in seconds at 1 GFLOP/s-ish arbitrary but comparable units, for progress and ETA. */
double task_item_cost(const task *t, bool needs_prefill);

typedef struct task_series { int n; float *kl, *nll; uint8_t *top1; } task_series; /* per scored token; NULL when n = 0 */

typedef struct task_result {
    double value[TASK_MAX_METRICS];   /* by index of task_list_metrics; NaN = not applicable */
    task_series series;
    cache_bytes at_prompt, at_end;    /* after compression of the prompt; after decoding */
    int n_prompt, n_decoded;
    int n_layers, n_kv, n_tiers;
    uint32_t *kept;                   /* [n_layers][n_kv][n_tiers] items after compression */
    bool budget_clamped;
    char *output;                     /* generated text or NULL */
} task_result;
void task_result_free(task_result *r);

/* Builds record i (ids, gold answers). */
MUST err task_item_open(task *t, int i, task_item **out);
void task_item_close(task_item *it);
const char *task_item_id(const task_item *it);           /* "passkey/0003 depth=0.50" */
/* Untimed: prefills the prompt once and runs `full` (f16 in fast, f32 in exact) for reference logits. */
MUST err task_item_prepare(task_item *it, engine *e);
/* Runs one policy. Needs task_item_prepare before, unless timed. `space` belongs to the policy. */
MUST err task_item_run(task_item *it, engine *e, cache_space *space, policy *p, uint64_t seed, task_result *out);
/* Noise floor: `full` in `other` (an engine with the other math mode) against this item's reference. Fidelity metrics only. */
MUST err task_item_run_noise(task_item *it, engine *other, task_result *out);
#endif
