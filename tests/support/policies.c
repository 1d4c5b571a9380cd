#include "tests/support/policies.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void bind(policy *p, int head_dim) {
    const policy_needs *needs = policy_get_needs(p);
    page_layout layouts[KV_MAX_TIERS];
    for (int t = 0; t < needs->n_tiers; t++)
        if (page_layout_make(needs->tiers[t], head_dim, needs->pos_column ? 4 : 0, needs->score_column, 8192, &layouts[t]))
            fail_msg("layout: %s", err_text());
    if (policy_bind(p, layouts)) fail_msg("bind: %s", err_text());
}

static policy *from_node(policy_shape shape, const node *conf, const char *what) {
    policy *p = NULL;
    if (policy_create(conf, shape, &p)) fail_msg("%s\n%s", err_text(), what);
    bind(p, shape.head_dim);
    return p;
}

policy *policy_from_text(policy_shape shape, const char *yaml) {
    node *root = NULL;
    if (node_parse_text(yaml, strlen(yaml), "test", &root)) fail_msg("%s\n%s", err_text(), yaml);
    policy *p = from_node(shape, root, yaml);
    node_free(root);
    return p;
}

policy *policy_from_preset(policy_shape shape, const char *name, const char *overrides) {
    char path[256];
    snprintf(path, sizeof path, "configs/policies/%s.yaml", name);
    node *root = NULL, *over = NULL;
    if (node_parse_file(path, &root)) fail_msg("%s", err_text());
    if (overrides) {
        char text[512];
        snprintf(text, sizeof text, "policy: %s", overrides);
        if (node_parse_text(text, strlen(text), "overrides", &over) || node_merge(root, over)) fail_msg("%s", err_text());
        node_free(over);
    }
    policy *p = from_node(shape, node_get(root, "policy"), path);
    node_free(root);
    return p;
}

void assert_policy_refused(const char *yaml, int line, const char *words) {
    node *root = NULL;
    if (node_parse_text(yaml, strlen(yaml), "test", &root)) fail_msg("%s\n%s", err_text(), yaml);
    policy *p = NULL;
    policy_shape shape = {.n_layers = 2, .n_heads = 4, .n_kv = 2, .head_dim = 64, .context = 256};
    err e = policy_create(root, shape, &p);
    if (e != ERR_USAGE) fail_msg("accepted, or refused with code %d:\n%s", (int)e, yaml);
    char place[32];
    snprintf(place, sizeof place, "test:%d:", line);
    if (!strstr(err_text(), place)) fail_msg("\"%s\" does not name %s\n%s", err_text(), place, yaml);
    while (*words) {
        char word[64];
        size_t n = strcspn(words, "|");
        snprintf(word, sizeof word, "%.*s", (int)n, words);
        if (!strstr(err_text(), word)) fail_msg("\"%s\" does not say \"%s\"\n%s", err_text(), word, yaml);
        words += n + (words[n] == '|');
    }
    node_free(root);
}
