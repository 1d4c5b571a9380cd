/* Policies from YAML text, with page layouts bound, for tests of the policy module. */
#ifndef KVLAB_TESTS_SUPPORT_POLICIES_H
#define KVLAB_TESTS_SUPPORT_POLICIES_H
#include "policy/policy.h"

/* Fails the test with the error's text. The tree is gone when this returns: a policy keeps nothing of it. */
policy *policy_from_text(policy_shape shape, const char *yaml);
/* The policy of configs/policies/NAME.yaml, overrides as {budget: 0.5} or NULL. The repository's root is the current directory. */
policy *policy_from_preset(policy_shape shape, const char *name, const char *overrides);
/* policy_create must refuse the text with ERR_USAGE, "test:LINE:", and every word of `words` (separated by |) in the message. */
void assert_policy_refused(const char *yaml, int line, const char *words);
#endif
