/* Presets: configs/{models,policies,tasks}/NAME.yaml, one concept per file; and the models they name. */
#ifndef KVLAB_RUN_PRESET_H
#define KVLAB_RUN_PRESET_H
#include "conf/node.h"

/* The configs folder: beside the executable or above it, else under the current directory. ERR_ENV if there is none. */
MUST err preset_dir(char **out); /* mem_free */
/* Where head profiles given by name lie: configs/profiles. NULL without a configs folder; valid until the process ends. */
const char *preset_profile_dir(void);
/* kind: "models", "policies", "tasks". Names without .yaml, sorted. */
MUST err preset_list(const char *kind, char ***names, int *n);
void preset_list_free(char **names, int n);
bool preset_exists(const char *kind, const char *name);
/* The file as a tree. An unknown name is an error at `where` (may be NULL) with a suggestion and the list. */
MUST err preset_load(const char *kind, const char *name, const node *where, node **out);
/* One line of what the preset is: its `summary` key, else its first comment line, else "". mem_free. */
char *preset_about(const char *kind, const char *name);
/* Its `origin` key: where a policy comes from; "" without one. mem_free. */
char *preset_origin(const char *kind, const char *name);

/* Merges `over` onto `base` as presets are: maps deeply, but a map that names a choice (score, quota, select, tier,
 * decide, budget) replaces the base's when it names another one. `over`'s key `preset` is left out. */
MUST err preset_merge(node *base, const node *over);
/* {preset: snapkv, budget: 0.25} or "snapkv" or {score: ...}: the full policy map, a tree of its own. NULL or null =
 * empty map. */
MUST err preset_resolve_policy(const node *policy, node **out);
/* "lm", {preset: lm, tokens: 64} or {task: lm, ...}. */
MUST err preset_resolve_task(const node *entry, node **out);

typedef struct model_ref {
    char *name; /* preset name or path, as given */
    char *path;
    char *sha256; /* what the preset expects; NULL for a path */
} model_ref;
/* {preset: NAME} | {path: FILE} | "NAME or FILE". A file that is not there is ERR_ENV with what fetches it. */
MUST err model_ref_resolve(const node *model, model_ref *out);
MUST err model_ref_find(const char *name_or_path, model_ref *out);
void model_ref_free(model_ref *m);
/* SHA-256 of the file; ERR_ENV when a preset expects another one. */
MUST err model_ref_check(const model_ref *m, char sha256[65]);
#endif
