#include "tests/support/engines.h"
#include "tests/support/profiles.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/mem.h"
#include "base/rng.h"
#include "tests/support/temp.h"

const char *tiny_model_file(const char *name, tiny_model m) {
    const char *path = temp_path(name);
    if (!io_exists(path)) assert_ok(tiny_model_write(path, &m));
    return path;
}

engine *tiny_engine(const char *model_path, math_mode math, int threads, const char *be, const char *isa) {
    engine *e = NULL;
    engine_conf c = {.model_path = model_path, .backend = be, .isa = isa, .math = math, .threads = threads};
    assert_ok(engine_open(&c, &e));
    return e;
}

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

int preset_names(const char **names, int max) {
    DIR *d = opendir("configs/policies");
    assert_non_null(d);
    int n = 0;
    for (struct dirent *f; (f = readdir(d)) && n < max;) {
        size_t len = strlen(f->d_name);
        if (len <= 5 || strcmp(f->d_name + len - 5, ".yaml") != 0) continue;
        char *name = strdup(f->d_name);
        name[len - 5] = 0;
        names[n++] = name;
    }
    closedir(d);
    qsort(names, (size_t)n, sizeof *names, by_name);
    return n;
}

policy *preset_policy(const engine *e, const char *preset, const char *overrides, node **tree) {
    char path[256];
    snprintf(path, sizeof path, "configs/policies/%s.yaml", preset);
    node *root;
    policy *p = NULL;
    assert_ok(node_parse_file(path, &root));
    if (overrides) {
        char text[512];
        snprintf(text, sizeof text, "policy: %s", overrides);
        node *over;
        assert_ok(node_parse_text(text, strlen(text), "overrides", &over));
        assert_ok(node_merge(root, over));
        node_free(over);
    }
    assert_ok(policy_create(node_get(root, "policy"), shape_with_profile(engine_policy_shape(e)), &p));
    *tree = root;
    return p;
}

double logprob_gap(const float *logits, int n_vocab, const int32_t *id, const float *logprob, int n) {
    double z = 0, max = logits[0], worst = 0;
    for (int i = 1; i < n_vocab; i++) max = fmax(max, logits[i]);
    for (int i = 0; i < n_vocab; i++) z += exp(logits[i] - max);
    for (int k = 0; k < n; k++) worst = fmax(worst, fabs(logits[id[k]] - max - log(z) - logprob[k]));
    return worst;
}

void random_ids(int32_t *ids, int n, int n_vocab, uint64_t seed) {
    rng r = rng_make(seed, 77);
    for (int i = 0; i < n; i++) ids[i] = (int32_t)rng_below(&r, (uint32_t)n_vocab);
}
