/* kvlab schema: every key of a sweep file, and the stages of a policy. */
#include <stdio.h>
#include <stdlib.h>

#include "policy/policy.h"
#include "run/jsonx.h"
#include "run/options.h"

static const struct key {
    const char *path, *value, *help;
} keys[] = {
    {"name", "TEXT", "names the results directory (default: the file's name)"},
    {"question", "TEXT", "what the sweep is to answer"},
    {"model", "{preset: NAME} | {path: FILE}", "the model; `kvlab ls models`"},
    {"engine.backend", "auto | cpu | reference", "who computes"},
    {"engine.isa", "auto | NAME", "forces an instruction set; `kvlab ls backends`"},
    {"engine.math", "fast | exact", "fast: int8 activations, f16 cache; exact: f32 everywhere"},
    {"engine.threads", "auto | N", "threads; results do not depend on it"},
    {"engine.context", "auto | N", "tokens a sequence may have (default: the model's)"},
    {"tasks", "[NAME | {preset: NAME, ...} | {task: KIND, ...}]", "what is asked; `kvlab ls tasks`"},
    {"policy.preset", "NAME", "starting point of the policy; `kvlab ls policies`; other keys override it"},
    {"policy.budget", "R | {ratio: R} | {tokens: N} | {bytes: R}", "what may stay"},
    {"policy.tiers", "[FORMAT, ...]", "formats, hot one first: f32, f16, k8v8, k8v4, k4v4, k4v2, ..."},
    {"policy.trigger", "{prefill: BOOL, slack: N, every: N, pressure: BOOL, order: NAME}", "when decisions are made"},
    {"policy.protect", "{sink: N, recent: N}", "tokens that always stay"},
    {"policy.positions", "absolute | slot", "slot: positions inside of the cache (StreamingLLM)"},
    {"policy.layers", "global | all", "layers without a sliding window, or all"},
    {"policy.page_bytes", "N", "size of a page (default: the one with the least slack)"},
    {"policy.score, quota, select, tier", "{STAGE: {...}}", "the stages below"},
    {"seed", "N", "seed of records, policies and sampling (default 1)"},
    {"data.text", "FILE", "natural text (default: an installed Debian document)"},
    {"data.dir", "DIR", "directory with data sets that tasks name"},
    {"noise_floor.records", "N", "records per task on which `full` runs in the other math mode too (default 2)"},
    {"sweep.grid", "{PATH: [VALUE, ...], ...}", "product of axes; keys are dotted paths of the above"},
    {"sweep.grid.ANY", "[{name: TEXT, set: {PATH: VALUE, ...}}, ...]", "alternatives that set several paths; labels show the name"},
    {"sweep.list", "[{PATH: [VALUE, ...]}, ...]", "several such products, one after the other"},
};
enum { N_KEYS = sizeof keys / sizeof *keys };

err cmd_schema(const options *o) {
    const stage_info *s;
    int n = policy_list_stages(&s);
    if (!o->json) {
        for (int i = 0; i < N_KEYS; i++) printf("%s: %s\n    %s\n", keys[i].path, keys[i].value, keys[i].help);
        puts("\nstages of a policy");
        for (int i = 0; i < n; i++) printf("  %s: %s\n    %s\n", s[i].stage, s[i].name, s[i].help);
        return OK;
    }
    json_t *k = json_array(), *st = json_array();
    for (int i = 0; i < N_KEYS; i++)
        json_array_append_new(
            k, json_pack("{s:s,s:s,s:s}", "path", keys[i].path, "value", keys[i].value, "help", keys[i].help));
    for (int i = 0; i < n; i++)
        json_array_append_new(st,
                              json_pack("{s:s,s:s,s:s}", "stage", s[i].stage, "name", s[i].name, "help", s[i].help));
    json_t *root = json_pack("{s:o,s:o}", "keys", k, "stages", st);
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (!text) return ERR(ERR_NOMEM, "out of memory: the schema cannot be encoded");
    puts(text);
    free(text);
    return OK;
}
