#include "gguf/index.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

err name_index_create(int n_names, name_index *out) {
    size_t n = 8;
    while (n < (size_t)n_names * 2) n *= 2;
    TRY(mem_alloc(MEM_OTHER, n * sizeof *out->slots, &out->slots));
    out->mask = n - 1;
    return OK;
}

void name_index_free(name_index *x) {
    mem_free(x->slots);
    x->slots = NULL;
}

static name_slot *slot_of(const name_index *x, gguf_str name) {
    size_t i = (size_t)hash_bytes(name.p, name.n, 0) & x->mask;
    for (;; i = (i + 1) & x->mask) {
        name_slot *s = &x->slots[i];
        if (!s->name.p || (s->name.n == name.n && memcmp(s->name.p, name.p, name.n) == 0)) return s;
    }
}

int name_index_add(name_index *x, gguf_str name, int value) {
    name_slot *s = slot_of(x, name);
    if (!s->name.p) *s = (name_slot){name, value};
    return s->value;
}

int name_index_find(const name_index *x, gguf_str name) {
    const name_slot *s = slot_of(x, name);
    return s->name.p ? s->value : -1;
}
