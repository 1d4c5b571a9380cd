/* kvlab ls: what a sweep can name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "conf/node.h"
#include "run/jsonx.h"
#include "run/options.h"
#include "run/preset.h"
#include "policy/policy.h"

typedef struct listing {
    json_t *json;
    int n;
    bool as_json;
} listing; /* json: of the section in hand */

/* `origin` may be NULL: only policies have one. */
static void entry_from(listing *l, const char *name, const char *origin, const char *about) {
    if (l->as_json) {
        json_t *j = json_pack("{s:o,s:o}", "name", jsonx_text(name), "about", jsonx_text(about));
        if (origin) json_object_set_new(j, "origin", jsonx_text(origin));
        json_array_append_new(l->json, j);
    } else {
        printf("  %-26s %s\n", name, about);
        if (origin) printf("  %-26s   from %s\n", "", origin);
    }
    l->n++;
}

static void entry(listing *l, const char *name, const char *about) { entry_from(l, name, NULL, about); }

static err list_presets(listing *l, const char *kind) {
    char **names;
    int n;
    TRY(preset_list(kind, &names, &n));
    for (int i = 0; i < n; i++) {
        char *about = preset_about(kind, names[i]);
        if (strcmp(kind, "models") == 0) {
            model_ref ref;
            bool there = model_ref_find(names[i], &ref) == OK;
            char *with = mem_sprintf("%s%s", about, there ? "" : " [not installed]");
            if (there) model_ref_free(&ref);
            mem_free(about);
            about = with;
        }
        char *origin = strcmp(kind, "policies") == 0 ? preset_origin(kind, names[i]) : NULL;
        entry_from(l, names[i], origin, about);
        mem_free(origin);
        mem_free(about);
    }
    preset_list_free(names, n);
    return OK;
}

static err list_models(listing *l) {
    return list_presets(l, "models");
}

static err list_policies(listing *l) {
    return list_presets(l, "policies");
}

static err list_tasks(listing *l) {
    return list_presets(l, "tasks");
}

static err list_stages(listing *l) {
    const stage_info *s;
    int n = policy_list_stages(&s);
    for (int i = 0; i < n; i++) {
        char *name = mem_sprintf("%s.%s", s[i].stage, s[i].name);
        entry(l, name, s[i].help);
        mem_free(name);
    }
    return OK;
}

static err list_backends(listing *l) {
    const char *isas[16];
    int n = backend_isas(isas, 16);
    for (int i = 0; i < n && i < 16; i++) {
        char *about = mem_sprintf("--isa %s%s", isas[i], i == 0 ? " (what auto means here)" : "");
        entry(l, "cpu", about);
        mem_free(about);
    }
    entry(l, "reference", "plain scalar C that judges the fast one");
    return OK;
}

static const struct section {
    const char *name;
    err (*list)(listing *l);
} sections[] = {{"models", list_models},
                {"policies", list_policies},
                {"tasks", list_tasks},
                {"stages", list_stages},
                {"backends", list_backends}};
enum { N_SECTIONS = sizeof sections / sizeof *sections };

static err print_sections(const options *o, const char *which) {
    json_t *root = o->json ? json_object() : NULL;
    err e = OK;
    for (int i = 0; i < N_SECTIONS && e == OK; i++) {
        if (which && strcmp(which, sections[i].name) != 0) continue;
        listing l = {o->json ? json_array() : NULL, 0, o->json};
        if (!o->json) printf("%s\n", sections[i].name);
        e = sections[i].list(&l);
        if (o->json) json_object_set_new(root, sections[i].name, l.json);
    }
    if (e == OK && o->json) {
        char *text = json_dumps(root, JSON_INDENT(2));
        puts(text ? text : "{}");
        free(text);
    }
    json_decref(root);
    return e;
}

err cmd_ls(const options *o) {
    const char *which = o->n_args ? o->args[0] : NULL, *names[N_SECTIONS];
    bool known = !which;
    for (int i = 0; i < N_SECTIONS; i++) {
        names[i] = sections[i].name;
        known |= which && strcmp(which, names[i]) == 0;
    }
    if (known) return print_sections(o, which);
    const char *near = node_suggest(which, names, N_SECTIONS);
    if (near) return ERR(ERR_USAGE, "cannot list %s: did you mean `kvlab ls %s`?", which, near);
    return ERR(ERR_USAGE, "cannot list %s; known: models, policies, tasks, stages, backends", which);
}
