/* Where results come from: DIR/environment.json. */
#ifndef KVLAB_RUN_PROVENANCE_H
#define KVLAB_RUN_PROVENANCE_H
#include <jansson.h>
#include "run/experiment.h"

/* Version, commit, compiler: baked in when this was built. */
const char *build_version(void);
const char *build_commit(void); /* "unknown" outside a repository */
bool build_dirty(void);         /* uncommitted changes when built */
const char *build_compiler(void);
const char *build_flags(void);

/* CPU model, CPUs, memory, OS; bandwidth only if asked for (it takes half a second). */
MUST err provenance_machine(bool bandwidth, json_t **out);
/* Writes environment.json; with `resumed`, what is there is kept and an entry added to its list `resumed`. */
MUST err provenance_write(const experiment *x, bool resumed);
/* DIR/MANIFEST.tsv: path, bytes and SHA-256 of every file of the directory but itself and the lock. */
MUST err manifest_write(const char *dir);
/* ERR_VERIFY names the first file that is missing or differs; *n_files counts those checked. */
MUST err manifest_check(const char *dir, int *n_files);

typedef struct bandwidth {
    double one, all;
    int threads;
} bandwidth;                              /* read GB/s */
MUST err bandwidth_probe(bandwidth *out); /* own threads, gone afterwards: forking stays safe */
size_t machine_memory_bytes(void);
size_t machine_available_bytes(void);
char *machine_cpu_model(void); /* mem_free */
#endif
