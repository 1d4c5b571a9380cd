/* Scores that go on in decode, from the live columns of the items. */
#ifndef KVLAB_POLICY_SIGNAL_LIVE_H
#define KVLAB_POLICY_SIGNAL_LIVE_H
#include "policy/stage.h"

/* At prefill: the live columns start from the scores. In decode: the scores are the live columns. */
void live_exchange(const decision *d);
/* One set per layer: every score becomes the mean over the layer's heads at that position; a head without the item counts as 0. */
void live_layer_mean(const decision *d);
#endif
