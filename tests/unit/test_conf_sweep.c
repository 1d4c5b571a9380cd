/* Sweep files and --set: which points come out, in which order, under which labels. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "conf/sweep.h"

static node *parse(const char *text) {
    node *n = NULL;
    if (node_parse_text(text, strlen(text), "s.yaml", &n) != OK) fail_msg("%s", err_text());
    return n;
}

/* Expands after the given --set and compares the labels, one per line. */
static void assert_labels(const char *text, const char *const *sets, const char *want) {
    node *root = parse(text);
    for (; sets && *sets; sets++)
        if (sweep_apply_set(root, *sets) != OK) fail_msg("%s", err_text());
    sweep s;
    if (sweep_expand(root, &s) != OK) fail_msg("%s", err_text());
    char got[4000] = "";
    for (int i = 0; i < s.n; i++) {
        size_t used = strlen(got);
        snprintf(got + used, sizeof got - used, "%s\n", s.points[i].label);
    }
    assert_string_equal(got, want);
    sweep_free(&s);
    node_free(root);
}

static void assert_refused(const char *text, const char *set, const char *message) {
    node *root = parse(text);
    sweep s;
    err e = set ? sweep_apply_set(root, set) : OK;
    if (e == OK) e = sweep_expand(root, &s);
    assert_int_equal(e, ERR_USAGE);
    assert_string_equal(err_text(), message);
    node_free(root);
}

static void a_grid_is_a_product_with_the_last_axis_fastest(void **state) {
    node *root = parse("name: x\npolicy: {recent: 8}\n"
                       "sweep:\n  grid:\n    policy.preset: [snapkv, adakv]\n    policy.budget: [0.5, {bytes: 0.25}]\n");
    sweep s;
    assert_int_equal(sweep_expand(root, &s), OK);
    assert_int_equal(s.n, 4);
    assert_string_equal(s.points[0].label, "snapkv budget=0.5");
    assert_string_equal(s.points[1].label, "snapkv budget=bytes:0.25");
    assert_string_equal(s.points[2].label, "adakv budget=0.5");
    assert_int_equal(s.points[1].n_axes, 2);
    assert_string_equal(s.points[1].axes[1].path, "policy.budget");
    assert_string_equal(s.points[1].axes[1].text, "{bytes: 0.25}");
    char *c = node_canonical(s.points[1].conf);
    assert_string_equal(c, "{\"name\":\"x\",\"policy\":{\"budget\":{\"bytes\":0.25},\"preset\":\"snapkv\",\"recent\":8}}");
    mem_free(c);
    assert_string_equal(node_place(node_path(s.points[3].conf, "policy.budget")), "s.yaml:6:26");
    assert_string_equal(node_place(s.points[0].origin), "s.yaml:5:5");
    sweep_free(&s);
    node_free(root);
}

static void a_list_holds_sub_grids_with_their_own_axes(void **state) {
    assert_labels("sweep:\n  list:\n  - {policy.preset: [full, k8v4]}\n  - {policy.preset: snapkv, policy.budget: [0.5, 0.25]}\n", NULL,
                  "full\nk8v4\nsnapkv budget=0.5\nsnapkv budget=0.25\n");
}

static void named_alternatives_set_several_paths(void **state) {
    static const char text[] = "policy: {budget: {bytes: 0.5}}\nsweep:\n  grid:\n"
                               "    tiers:\n    - {name: A, set: {policy.tiers: [k8v4, k4v2], policy.tier.by_rank.shares: {k8v4: 0.5, k4v2: 0.5}}}\n"
                               "    - {name: plain, set: {policy.tiers: [f16]}}\n"
                               "    quota: [{name: global, set: {policy.quota: global, policy.tier.by_rank.over: sequence}}]\n";
    assert_labels(text, NULL, "A global\nplain global\n");
    assert_labels(text, (const char *const[]){"policy.tiers=[f32]", "seed=1,2", NULL},
                  "A global policy.tiers=[f32] seed=1\nA global policy.tiers=[f32] seed=2\nplain global policy.tiers=[f32] seed=1\nplain global policy.tiers=[f32] seed=2\n");
    node *root = parse(text);
    sweep s;
    assert_int_equal(sweep_expand(root, &s), OK);
    assert_string_equal(s.points[0].axes[0].path, "tiers");
    assert_string_equal(s.points[0].axes[0].text, "A");
    char *c = node_canonical(s.points[0].conf);
    assert_string_equal(c, "{\"policy\":{\"budget\":{\"bytes\":0.5},\"quota\":\"global\",\"tier\":{\"by_rank\":{\"over\":\"sequence\",\"shares\":"
                           "{\"k4v2\":0.5,\"k8v4\":0.5}}},\"tiers\":[\"k8v4\",\"k4v2\"]}}");
    mem_free(c);
    sweep_free(&s);
    node_free(root);
    assert_refused("sweep:\n  grid:\n    a: [{name: x, set: 3}]\n", NULL,
                   "s.yaml:3:24: alternative x: set is a map from paths to values, like {policy.score: random}");
    assert_refused("sweep:\n  grid:\n    a: [{name: [x], set: {b: 1}}]\n", NULL, "s.yaml:3:16: the name of an alternative is a word");
}

static void without_a_sweep_there_is_one_point(void **state) {
    assert_labels("name: x\npolicy: {preset: leankv}\n", NULL, "leankv\n");
    assert_labels("name: x\n", NULL, "x\n");
    assert_labels("model: y\nsweep:\n", NULL, "base\n");
}

static void ranges_stand_for_their_numbers(void **state) {
    assert_labels("sweep: {grid: {seed: 1..3, r: 0.1..0.5..0.2}}\n", NULL,
                  "seed=1 r=0.1\nseed=1 r=0.3\nseed=1 r=0.5\nseed=2 r=0.1\nseed=2 r=0.3\nseed=2 r=0.5\n"
                  "seed=3 r=0.1\nseed=3 r=0.3\nseed=3 r=0.5\n");
    assert_labels("sweep: {grid: {n: [8..2..-3, 64], t: ['1..2', 1.5.2]}}\n", NULL,
                  "n=8 t=1..2\nn=8 t=1.5.2\nn=5 t=1..2\nn=5 t=1.5.2\nn=2 t=1..2\nn=2 t=1.5.2\nn=64 t=1..2\nn=64 t=1.5.2\n");
    assert_refused("sweep: {grid: {a: 5..1}}\n", NULL, "s.yaml:1:19: range 5..1 never reaches its end");
    assert_refused("sweep: {grid: {a: 1..5..0}}\n", NULL, "s.yaml:1:19: range 1..5..0 never reaches its end");
    assert_refused("sweep: {grid: {a: 0.1..0.5}}\n", NULL, "s.yaml:1:19: range 0.1..0.5 needs a step, like 0.1..0.5..0.1");
    assert_refused("sweep: {grid: {a: 1..999999999}}\n", NULL, "s.yaml:1:19: range 1..999999999 has more than 10000 values");
    assert_refused("sweep: {grid: {a: 1..x}}\n", NULL, "s.yaml:1:19: \"1..x\" is not a range like 1..8 or 1..8..2");
}

static void labels_take_as_much_of_a_path_as_tells_axes_apart(void **state) {
    assert_labels("sweep: {grid: {score.rows: [1, 2], tier.rows: 3, model.preset: m}}\n", NULL,
                  "score.rows=1 tier.rows=3 m\nscore.rows=2 tier.rows=3 m\n");
    assert_labels("sweep: {list: [{a.rows: 1}, {b.rows: 1}, {c: [x, {y: [1, 2], z: w}]}]}\n", NULL,
                  "a.rows=1\nb.rows=1\nc=x\nc=y:[1,2],z:w\n");
}

static void wrong_sweeps_are_refused_with_their_place(void **state) {
    assert_refused("sweep: {grid: {a: [1, 1.0]}}\n", NULL, "s.yaml:1:15: point \"a=1.0\" is the same as point \"a=1\" of s.yaml:1:15");
    assert_refused("a: 1\nsweep:\n  list:\n  - {b: 2}\n  - {a: 1, b: 2}\n", NULL,
                   "s.yaml:5:5: point \"a=1 b=2\" is the same as point \"b=2\" of s.yaml:4:5");
    assert_refused("sweep: {grd: {a: 1}}\n", NULL, "s.yaml:1:9: unknown key \"grd\"; did you mean \"grid\"?");
    assert_refused("sweep: {grid: {a: 1}, list: []}\n", NULL, "s.yaml:1:8: sweep takes either grid or list");
    assert_refused("sweep: {}\n", NULL, "s.yaml:1:8: sweep takes either grid or list");
    assert_refused("sweep: [1]\n", NULL, "s.yaml:1:8: sweep must be {grid: {...}} or {list: [{...}, ...]}");
    assert_refused("sweep: {list: {a: 1}}\n", NULL, "s.yaml:1:15: sweep.list must be a list of sub-grids");
    assert_refused("sweep: {list: [5]}\n", NULL,
                   "s.yaml:1:16: a sub-grid is a map from paths to values, like {policy.budget: [0.5, 0.25]}");
    assert_refused("sweep: {grid: {a: []}}\n", NULL, "s.yaml:1:19: axis a has no values");
    assert_refused("sweep: {grid: {a.b: 1, a: 2}}\n", NULL, "s.yaml:1:27: axis a would overwrite axis a.b; write it before that one");
    assert_refused("sweep: {grid: {a..b: 1}}\n", NULL, "s.yaml:1:22: \"a..b\" is not a path like policy.budget");
    assert_refused("name: x\nsweep: {grid: {name.y: 1}}\n", NULL, "s.yaml:2:24: cannot set name.y: name is \"x\", not a map");
    assert_refused("sweep: {grid: {a: 1..200, b: 1..200}}\n", NULL, "s.yaml:1:15: the sweep has more than 10000 points");
    assert_refused("[1]\n", NULL, "s.yaml:1:1: an experiment is a map with model, tasks and policy");
}

static void set_with_one_value_wins_everywhere(void **state) {
    const char *const budget[] = {"policy.budget=0.1", NULL};
    assert_labels("policy: {preset: p}\n", budget, "p\n");
    assert_labels("sweep: {list: [{policy.budget: [0.5, 0.25]}, {seed: 1}]}\n", budget, "budget=0.1\nseed=1\n");
    assert_labels("sweep: {grid: {policy: [{preset: p, budget: 1}, {preset: q, budget: 1}]}}\n", budget,
                  "policy=preset:p,budget:1 budget=0.1\npolicy=preset:q,budget:1 budget=0.1\n");
    node *root = parse("a: 1\n");
    assert_int_equal(sweep_apply_set(root, "tasks=[lm, {kind: 'x, y'}]"), OK);
    assert_int_equal(sweep_apply_set(root, "b.c=a=b"), OK);
    char *c = node_canonical(root);
    assert_string_equal(c, "{\"a\":1,\"b\":{\"c\":\"a=b\"},\"tasks\":[\"lm\",{\"kind\":\"x, y\"}]}");
    mem_free(c);
    node_free(root);
}

static void set_with_several_values_is_an_axis_of_every_sub_grid(void **state) {
    const char *const seeds[] = {"seed=1..5..2", NULL}, *const budgets[] = {"policy.budget={bytes: 0.5}, 0.25", NULL};
    assert_labels("a: 1\n", seeds, "seed=1\nseed=3\nseed=5\n");
    assert_labels("sweep: {list: [{policy.budget: [0.5, 0.1]}, {x: 1}]}\n", budgets,
                  "budget=bytes:0.5\nbudget=0.25\nx=1 budget=bytes:0.5\nx=1 budget=0.25\n");
    const char *const both[] = {"seed=1,2", "seed=7", NULL};
    assert_labels("a: 1\n", both, "seed=7\n");
}

static void wrong_assignments_are_refused(void **state) {
    assert_refused("a: 1\n", "a", "--set \"a\": expected PATH=VALUE, like policy.budget=0.25");
    assert_refused("a: 1\n", "=1", "--set \"=1\": expected PATH=VALUE, like policy.budget=0.25");
    assert_refused("a: 1\n", "b=", "--set b: a value is missing; write null or '' if that is meant");
    assert_refused("a: 1\n", "b=1,,2", "--set b: a value is missing; write null or '' if that is meant");
    assert_refused("a: 1\n", "a.b=1", "--set a.b: cannot set a.b: a is \"1\", not a map");
    assert_refused("a: 1\n", "b=[1", "--set b:2:1: did not find expected ',' or ']', while parsing a flow sequence");
    assert_refused("a: 1\n", "b c=1", "--set b c: path with a space or a special character");
    assert_refused("sweep: 5\n", "b=1", "s.yaml:1:8: sweep takes either grid or list");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_grid_is_a_product_with_the_last_axis_fastest),
        cmocka_unit_test(a_list_holds_sub_grids_with_their_own_axes),
        cmocka_unit_test(named_alternatives_set_several_paths), cmocka_unit_test(without_a_sweep_there_is_one_point),
        cmocka_unit_test(ranges_stand_for_their_numbers),
        cmocka_unit_test(labels_take_as_much_of_a_path_as_tells_axes_apart),
        cmocka_unit_test(wrong_sweeps_are_refused_with_their_place),
        cmocka_unit_test(set_with_one_value_wins_everywhere),
        cmocka_unit_test(set_with_several_values_is_an_axis_of_every_sub_grid),
        cmocka_unit_test(wrong_assignments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
