/* Engines over tiny models and policies by preset, for tests of the engine and above. */
#ifndef KVLAB_TESTS_SUPPORT_ENGINES_H
#define KVLAB_TESTS_SUPPORT_ENGINES_H
#include "engine/engine.h"
#include "tests/support/tiny_gguf.h"

/* cmocka's fail with the error's text. */
#define assert_ok(call)                                                                                                                    \
    do {                                                                                                                                   \
        err e_ = (call);                                                                                                                   \
        if (e_ != OK) fail_msg("%s: %s (%s)", #call, err_text(), err_place());                                                             \
    } while (0)

/* A tiny model file of this program's temporary directory, written once per distinct name. */
const char *tiny_model_file(const char *name, tiny_model m);
engine *tiny_engine(const char *model_path, math_mode math, int threads, const char *backend, const char *isa);
/* Names of configs/policies/NAME.yaml, sorted; the repository's root is the current directory. */
int preset_names(const char **names, int max);
/* A policy of a preset with overrides in YAML flow style ("{budget: 0.3}" or NULL). *tree must outlive the policy: node_free. */
policy *preset_policy(const engine *e, const char *preset, const char *overrides, node **tree);
/* Largest distance of log-probabilities at `id` from those of another program. */
double logprob_gap(const float *logits, int n_vocab, const int32_t *id, const float *logprob, int n);
void random_ids(int32_t *ids, int n, int n_vocab, uint64_t seed);
#endif
