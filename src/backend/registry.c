/* Backends by name. */
#include <string.h>
#include "backend/backend.h"
#include "conf/node.h"

static const backend_entry *const entries[] = {&backend_entry_cpu, &backend_entry_reference};
enum { N_ENTRIES = sizeof entries / sizeof *entries };

err backend_find(const char *name, const char *isa, math_mode math, const backend **out) {
    const char *wanted = strcmp(name, "auto") ? name : "cpu";
    for (int i = 0; i < N_ENTRIES; i++)
        if (!strcmp(wanted, entries[i]->name)) return entries[i]->open(isa, math, out);
    if (!strcmp(name, "cuda"))
        return ERR(ERR_UNSUPPORTED, "backend cuda is not part of this build; it has cpu and reference");
    static const char *const known[] = {"auto", "cpu", "reference"};
    const char *near = node_suggest(name, known, 3);
    if (near) return ERR(ERR_UNSUPPORTED, "there is no backend \"%s\"; did you mean %s?", name, near);
    return ERR(ERR_UNSUPPORTED, "there is no backend \"%s\"; this build has cpu and reference", name);
}
