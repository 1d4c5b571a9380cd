/* Every committed experiment expands into points whose policies fit a model of SmolLM2's shape. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "conf/sweep.h"
#include "policy/policy.h"
#include "run/preset.h"
#include "tests/support/profiles.h"

static const policy_shape shape = {.n_layers = 30, .n_heads = 9, .n_kv = 3, .head_dim = 64, .context = 8192};

static void check_file(const char *path, int *n_points) {
    node *root, *conf;
    sweep s;
    if (node_parse_file(path, &root) != OK || sweep_expand(root, &s) != OK) fail_msg("%s", err_text());
    for (int i = 0; i < s.n; i++) {
        policy *p;
        if (preset_resolve_policy(node_get(s.points[i].conf, "policy"), &conf) != OK || policy_create(conf, shape_with_profile(shape), &p) != OK)
            fail_msg("%s, point %s: %s", path, s.points[i].label, err_text());
        policy_destroy(p);
        node_free(conf);
    }
    *n_points += s.n;
    sweep_free(&s);
    node_free(root);
}

static void every_experiment_makes_policies(void **state) {
    DIR *d = opendir("experiments");
    int n_files = 0, n_points = 0;
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d));) {
        char path[300];
        size_t len = strlen(f->d_name);
        if (len <= 5 || strcmp(f->d_name + len - 5, ".yaml") != 0) continue;
        snprintf(path, sizeof path, "experiments/%s", f->d_name);
        check_file(path, &n_points);
        n_files++;
    }
    closedir(d);
    assert_true(n_files >= 10 && n_points > 300);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_experiment_makes_policies)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
