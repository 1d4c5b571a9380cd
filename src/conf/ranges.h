/* `1..8`, `1..8..2`, `0.1..0.5..0.1` as the numbers they stand for. */
#ifndef KVLAB_CONF_RANGES_H
#define KVLAB_CONF_RANGES_H
#include "conf/node.h"
/* Appends to the list `out` the numbers of a range, or `value` itself when it is none. Both of one tree. */
MUST err range_expand(node *value, node *out);
#endif
