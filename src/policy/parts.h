/* Building a policy: where each part was written, for messages, and the checks between parts. */
#ifndef KVLAB_POLICY_PARTS_H
#define KVLAB_POLICY_PARTS_H
#include "policy/stage.h"

typedef struct policy_parts { /* nodes of the configuration; NULL where nothing was written */
    const node *root, *budget, *tiers, *trigger, *protect, *positions, *layers;
    const node *stage[STAGE_N_KINDS];
} policy_parts;

/* Sets decode_drops and decode_moves; ERR_USAGE naming both sides of the first conflict. */
MUST err policy_check_parts(policy *p, const policy_parts *at);
#endif
