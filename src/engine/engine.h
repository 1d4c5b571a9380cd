/* Engine and sequences (design section 7). An engine is immutable: model, backend, threads. A seq is one timeline: cache, policy state.
 *
 *   prefill = snapshot + fork, bit for bit: one function finishes a layer in both.
 *   extend(ids[n]) = n steps, bit for bit; step(seqs) = each alone, bit for bit.
 *
 * Not thread-safe: one call at a time per engine; calls use `threads` threads inside. A sequence whose call failed can only be destroyed. */
#ifndef KVLAB_ENGINE_ENGINE_H
#define KVLAB_ENGINE_ENGINE_H
#include "cache/cache.h"
#include "cache/snapshot.h"
#include "model/model.h"
#include "policy/policy.h"
#include "text/tokenizer.h"

typedef struct engine engine;
typedef struct seq seq;

typedef struct engine_conf {
    const char *model_path;
    const char *backend; /* "auto", "cpu", "reference" */
    const char *isa;     /* "auto" or a name */
    math_mode math;
    int threads;         /* 0 = all CPUs */
    int context;         /* 0 = the model's */
} engine_conf;

MUST err engine_open(const engine_conf *c, engine **out);
void engine_close(engine *e); /* after all its seqs, pools and snapshots */
const model *engine_model(const engine *e);
const tokenizer *engine_tokenizer(const engine *e);
const backend *engine_backend(const engine *e);
int engine_threads(const engine *e);
int engine_context(const engine *e);
policy_shape engine_policy_shape(const engine *e);
policy_shape policy_shape_of_model(const model_params *p, int context);

/* Chooses page layouts for a policy's tiers, binds them to it, and makes a pool for its sequences. `tokens_hint`: expected context. */
typedef struct cache_space cache_space; /* layouts + pool; shared by sequences under policies with equal tiers */
MUST err cache_space_create(engine *e, policy *p, int tokens_hint, size_t max_bytes /* 0 = unbounded */, cache_space **out);
void cache_space_destroy(cache_space *s);
pool *cache_space_pool(cache_space *s);

/* Statistics of the whole prompt that the policy's signals need are kept in later snapshots (cache_space_create declares, too). A
 * snapshot without them is completed by its first fork, at the cost of another prefill. ERR_UNSUPPORTED if the backend lacks them. */
MUST err engine_declare(engine *e, const policy *p);
/* Prefill without a cache: everything needed to finish under any policy. */
MUST err engine_snapshot(engine *e, const int32_t *ids, int n, snapshot **out);

MUST err seq_create(engine *e, cache_space *space, policy *p, uint64_t seed, seq **out);
void seq_destroy(seq *s);
/* Prompt into an empty sequence, then compression; logits of the last token [n_vocab] (may be NULL). Of the last layer only those rows attend
 * that statistics, signals or these logits read. */
MUST err seq_prefill(seq *s, const int32_t *ids, int n, float *logits);
/* The same result from a snapshot. */
MUST err seq_fork(engine *e, cache_space *space, const snapshot *snap, policy *p, uint64_t seed, float *logits, seq **out);
MUST err seq_clone(const seq *s, seq **out);
/* n tokens onto the cache; logits [n][n_vocab] for every one of them, or NULL: then the last layer only takes their K and V, unless scores are live. */
MUST err seq_extend(seq *s, const int32_t *ids, int n, float *logits);
/* One token for each of n sequences of the same engine with one weight pass; logits [n][n_vocab]. */
MUST err engine_step(engine *e, seq **seqs, const int32_t *ids, int n, float *logits);
/* Takes back rows appended since the last decision; ERR_UNSUPPORTED for policies whose scores are live. */
MUST err seq_truncate(seq *s, int n_tokens);

int seq_n_tokens(const seq *s);
const cache *seq_cache(const seq *s);
cache_bytes seq_bytes(const seq *s);
/* Scores of the next prompt, all layers together, for calibration. */
void seq_observe_scores(seq *s, policy_observer observe, void *observer);
policy_report seq_policy_report(const seq *s);
double seq_policy_seconds(const seq *s); /* time spent in signals, decisions and moves so far */
size_t engine_scratch_bytes(const engine *e);
#endif
