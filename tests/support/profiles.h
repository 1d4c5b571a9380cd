/* Head profiles of made-up models, so that presets which need one run on tiny models too. */
#ifndef KVLAB_TESTS_SUPPORT_PROFILES_H
#define KVLAB_TESTS_SUPPORT_PROFILES_H
#include "base/rng.h"
#include "policy/policy.h"
#include "policy/profile.h"

head_profile *random_profile(rng *r, int n_layers, int n_kv, const char *model_sha256);
/* The shape with a model's hash of its own and a folder that holds a profile for it. */
policy_shape shape_with_profile(policy_shape shape);
#endif
