/* Names to positions: open addressing, sized once for the number of names. */
#ifndef KVLAB_GGUF_INDEX_H
#define KVLAB_GGUF_INDEX_H
#include "gguf/gguf.h"

typedef struct name_slot {
    gguf_str name;
    int value;
} name_slot; /* empty: name.p == NULL */
typedef struct name_index {
    name_slot *slots;
    size_t mask;
} name_index;

MUST err name_index_create(int n_names, name_index *out);
void name_index_free(name_index *x);
/* Returns the value that the name now has: an earlier one if it was there already. Names stay with the caller. */
int name_index_add(name_index *x, gguf_str name, int value);
int name_index_find(const name_index *x, gguf_str name); /* -1 if absent */
#endif
