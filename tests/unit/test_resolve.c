/* From a sweep file to points: presets, overrides, identities, and every mistake named with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/experiment.h"
#include "run/preset.h"
#include "run/worklist.h"
#include "tests/support/temp.h"
#include "tests/support/tiny_gguf.h"

#define assert_ok(call)                                                                                                \
    do {                                                                                                               \
        err e_ = (call);                                                                                               \
        if (e_ != OK) fail_msg("%s: %s (%s)", #call, err_text(), err_place());                                         \
    } while (0)

static const char *model_path, *text_path;

static int write_inputs(void **state) {
    tiny_model m = tiny_model_default();
    model_path = temp_path("tiny.gguf");
    text_path = temp_file("text.txt", "Some plain words that a task could be made of, if one were created here.\n");
    return tiny_model_write(model_path, &m) == OK ? 0 : -1;
}

static options with(const char **sets, int n) {
    return (options){.seed = -1, .sets = {sets, n}, .text = text_path};
}

static err load_with(const char *body, const options *o, experiment **out) {
    char *yaml = mem_sprintf("name: t\nmodel: {path: %s}\n%s", model_path, body);
    const char *file = temp_file("sweep.yaml", yaml);
    mem_free(yaml);
    return experiment_load(file, o, out);
}

static experiment *load(const char *body) {
    experiment *x;
    options o = with(NULL, 0);
    assert_ok(load_with(body, &o, &x));
    return x;
}

/* The text must hold `says` and, in every message about a file, its place. */
static void assert_refused(const char *body, err code, const char *says) {
    experiment *x = NULL;
    options o = with(NULL, 0);
    err e = load_with(body, &o, &x);
    if (e != code) fail_msg("code %d, not %d: %s\n%s", (int)e, (int)code, e == OK ? "accepted" : err_text(), body);
    if (!strstr(err_text(), says)) fail_msg("says \"%s\", not \"%s\"", err_text(), says);
    if (!strstr(err_text(), ".yaml")) fail_msg("says no place: \"%s\"", err_text());
}

/* ---- points ---- */

static void presets_are_merged_under_what_the_point_says(void **state) {
    experiment *x =
        load("tasks: [lm]\npolicy: {preset: snapkv, budget: 0.5, score: {window: {rows: 8}}, select: top_k}\n");
    assert_int_equal(x->n_points, 1);
    const node *pol = x->points[0].policy;
    assert_string_equal(node_text(node_path(pol, "budget")), "0.5");
    assert_string_equal(node_text(node_path(pol, "score.window.rows")), "8");
    assert_non_null(node_path(pol, "score.window.pool")); /* from the preset */
    assert_null(node_path(pol, "preset"));
    assert_int_equal(x->points[0].full, false);
    experiment_free(x);
}

static void another_choice_replaces_the_presets_choice(void **state) {
    experiment *x =
        load("tasks: [lm]\npolicy: {preset: adakv, budget: {tokens: 64}, score: {random: {}}, quota: {fixed: {}}}\n");
    const node *pol = x->points[0].policy;
    assert_int_equal(node_count(node_path(pol, "score")), 1);
    assert_int_equal(node_count(node_path(pol, "quota")), 1);
    assert_non_null(node_path(pol, "quota.fixed"));
    experiment_free(x);
}

static void a_preset_equals_its_map_written_out(void **state) {
    char **names;
    int n;
    assert_ok(preset_list("policies", &names, &n));
    assert_true(n > 10);
    for (int i = 0; i < n; i++) {
        if (strncmp(names[i], "kvlab_best", 10) == 0) continue; /* they need a head profile, and this model has none */
        char *body = mem_sprintf("tasks: [lm]\npolicy: {preset: %s}\n", names[i]);
        experiment *a = load(body), *b;
        char *yaml = node_flow(a->points[0].policy), *inline_body = mem_sprintf("tasks: [lm]\npolicy: %s\n", yaml);
        b = load(inline_body);
        assert_string_equal(a->points[0].describe, b->points[0].describe);
        assert_string_equal(a->points[0].id, b->points[0].id);
        experiment_free(a);
        experiment_free(b);
        mem_free(body);
        mem_free(yaml);
        mem_free(inline_body);
    }
    preset_list_free(names, n);
}

static void ids_follow_what_matters_and_nothing_else(void **state) {
    static const char base[] = "tasks: [lm]\npolicy: {preset: snapkv}\n";
    static const char *const same[] = {
        "tasks: lm\npolicy: snapkv\n", "question: why?\ntasks: [lm]\npolicy: {preset: snapkv}\n",
        "tasks: [lm]\npolicy: {preset: snapkv}\nengine: {threads: 1}\n",
        "tasks: [{preset: lm}]\npolicy: {preset: snapkv}\nnoise_floor: {records: 0}\nseed: 1\n"};
    static const char *const other[] = {"tasks: [{preset: lm, tokens: 5}]\npolicy: {preset: snapkv}\n",
                                        "tasks: [lm]\npolicy: {preset: snapkv, budget: 0.3}\n",
                                        "tasks: [lm]\npolicy: {preset: snapkv}\nseed: 2\n",
                                        "tasks: [lm]\npolicy: {preset: snapkv}\nengine: {math: exact}\n",
                                        "tasks: [lm]\npolicy: {preset: snapkv}\nengine: {backend: reference}\n",
                                        "tasks: [lm]\npolicy: {preset: snapkv}\nengine: {context: 512}\n"};
    experiment *x = load(base);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        experiment *y = load(same[i]);
        if (strcmp(x->points[0].id, y->points[0].id) != 0)
            fail_msg("another id: %s\n%s\n%s", same[i], x->points[0].canonical, y->points[0].canonical);
        experiment_free(y);
    }
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        experiment *y = load(other[i]);
        if (strcmp(x->points[0].id, y->points[0].id) == 0) fail_msg("the same id: %s", other[i]);
        experiment_free(y);
    }
    experiment_free(x);
}

/* Finished units must not be taken for those of another text of the same name. */
static void ids_follow_what_is_in_the_texts_of_tasks(void **state) {
    char *body = mem_sprintf("tasks: [{preset: lm, text: ['%s', '%s/second_[0-9].txt']}]\npolicy: {preset: snapkv}\n", temp_file("first.txt", "one"), temp_dir());
    temp_file("second_1.txt", "two");
    experiment *x = load(body), *y = load(body);
    assert_string_equal(x->points[0].id, y->points[0].id);
    experiment_free(y);
    temp_file("second_1.txt", "three");
    y = load(body);
    assert_string_not_equal(x->points[0].id, y->points[0].id);
    experiment_free(y);
    temp_file("second_1.txt", "two");
    temp_file("second_2.txt", "three");
    y = load(body);
    assert_string_not_equal(x->points[0].id, y->points[0].id);
    experiment_free(y);
    experiment_free(x);
    mem_free(body);
    node *conf;
    assert_ok(node_parse_text("{task: lm, text: gone.txt}", 26, "test", &conf));
    char *hashes;
    assert_int_equal(task_text_hashes(conf, NULL, &hashes), ERR_ENV);
    mem_free(hashes);
    node_free(conf);
}

static void points_share_engines_and_tasks(void **state) {
    experiment *x = load("tasks: [lm, {preset: lm, tokens: 7}, {preset: lm, tokens: 9, records: 3}]\n"
                         "sweep: {grid: {engine.math: [fast, exact], policy.preset: [full, snapkv, k8v4]}}\n");
    assert_int_equal(x->n_points, 6);
    assert_int_equal(x->n_groups, 2);
    assert_int_equal(x->n_tasks, 3);
    assert_true(x->points[0].full && !x->points[1].full && !x->points[2].full);
    assert_int_equal(x->points[3].group, 1);
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < i; k++) assert_string_not_equal(x->tasks[i].name, x->tasks[k].name);
    assert_non_null(strstr(x->tasks[1].name, "tokens=7"));
    experiment_free(x);
}

static void options_count_as_if_they_stood_in_the_file(void **state) {
    experiment *x, *y = load("tasks: [lm]\nseed: 7\nengine: {isa: scalar}\npolicy: {preset: snapkv, budget: 0.4}\n");
    const char *sets[] = {"policy.budget=0.4"};
    options o = with(sets, 1);
    o.seed = 7;
    o.isa = "scalar";
    assert_ok(load_with("tasks: [lm]\npolicy: {preset: snapkv}\n", &o, &x));
    assert_string_equal(x->points[0].id, y->points[0].id);
    const char *file = temp_file("again.yaml", x->yaml); /* what `resume` reads */
    experiment *z;
    options plain = {.seed = -1};
    assert_ok(experiment_load(file, &plain, &z));
    assert_string_equal(x->id, z->id);
    experiment_free(x);
    experiment_free(y);
    experiment_free(z);
    const char *axis[] = {"policy.budget=0.4,0.2,0.1"};
    o = with(axis, 1);
    assert_ok(load_with("tasks: [lm]\npolicy: {preset: snapkv}\n", &o, &x));
    assert_int_equal(x->n_points, 3);
    const char *globs[] = {"*0.2*", x->points[0].id};
    assert_true(experiment_point_matches(x, 1, (text_list){globs, 1}));
    assert_false(experiment_point_matches(x, 0, (text_list){globs, 1}));
    assert_true(experiment_point_matches(x, 0, (text_list){globs, 2}));
    assert_true(experiment_point_matches(x, 2, (text_list){NULL, 0}));
    experiment_free(x);
}

static void resolved_yaml_reads_back_as_the_same_policies(void **state) {
    experiment *x = load("tasks: [lm]\nsweep: {grid: {policy.preset: [full, adakv_k8v4_k4v2]}}\n");
    char *yaml;
    node *root;
    assert_ok(experiment_resolved_yaml(x, &yaml));
    assert_ok(node_parse_text(yaml, strlen(yaml), "resolved", &root));
    for (int i = 0; i < 2; i++) {
        char path[32];
        snprintf(path, sizeof path, "points.%d.policy", i + 1);
        char *a = node_canonical(node_path(root, path)), *b = node_canonical(x->points[i].policy);
        assert_string_equal(a, b);
        mem_free(a);
        mem_free(b);
    }
    node_free(root);
    mem_free(yaml);
    experiment_free(x);
}

/* ---- mistakes ---- */

static void unknown_keys_are_named_with_a_suggestion(void **state) {
    assert_refused("tasks: [lm]\npolcy: {preset: full}\n", ERR_USAGE, "did you mean");
    assert_refused("tasks: [lm]\nengine: {treads: 2}\n", ERR_USAGE, "threads");
    assert_refused("tasks: [lm]\npolicy: {preset: snapkv, bugdet: 0.5}\n", ERR_USAGE, "bugdet");
    assert_refused("tasks: [lm]\npolicy: {preset: snapkv, score: {window: {rowz: 3}}}\n", ERR_USAGE, "rowz");
    assert_refused("tasks: [lm]\nnoise_floor: {record: 2}\n", ERR_USAGE, "record");
    assert_refused("tasks: [lm]\ndata: {texts: a}\n", ERR_USAGE, "texts");
}

static void unknown_presets_are_refused_with_the_list(void **state) {
    assert_refused("tasks: [lm]\npolicy: {preset: snapvk}\n", ERR_USAGE, "did you mean snapkv");
    assert_refused("tasks: [lm]\npolicy: {preset: zzzzzz}\n", ERR_USAGE, "`kvlab ls policies` lists them");
    assert_refused("tasks: [passkee]\n", ERR_USAGE, "did you mean passkey");
    assert_refused("tasks: [lm]\npolicy: {preset: ../policies/full}\n", ERR_USAGE, "unknown preset");
    assert_refused("tasks: [lm]\npolicy: {preset: [full]}\n", ERR_USAGE, "not a name");
    assert_refused("tasks: [{tokens: 5}]\n", ERR_USAGE, "preset name or `task");
}

static void impossible_points_are_refused_with_the_reason(void **state) {
    assert_refused("tasks: [lm]\nengine: {context: 100000}\n", ERR_USAGE, "has a context of 2048");
    assert_refused("tasks: [lm]\nengine: {math: slow}\n", ERR_USAGE, "fast or exact");
    assert_refused("tasks: [lm]\nengine: {threads: 0}\n", ERR_USAGE, "auto or 1..");
    assert_refused("tasks: [lm]\nseed: -1\n", ERR_USAGE, "negative");
    assert_refused("tasks: []\n", ERR_USAGE, "tasks is empty");
    assert_refused("policy: full\n", ERR_USAGE, "no tasks");
    assert_refused("tasks: [lm, lm]\n", ERR_USAGE, "listed twice");
    assert_refused("tasks: [lm]\npolicy: [full]\n", ERR_USAGE, "a list");
    assert_refused("tasks: [lm]\nsweep: {grid: {policy: [full, {preset: full}]}}\n", ERR_USAGE,
                   "same after their presets are merged");
    assert_refused("tasks: [lm]\nengine: {context: many}\n", ERR_USAGE, "context");
    assert_refused("tasks: [lm]\nnoise_floor: 2\n", ERR_USAGE, "noise_floor");
}

static void backends_that_are_not_here_are_refused(void **state) {
    experiment *x;
    options o = with(NULL, 0);
    static const char *const bodies[] = {"tasks: [lm]\nengine: {backend: cuda}\n",
                                         "tasks: [lm]\nengine: {backend: quantum}\n",
                                         "tasks: [lm]\nengine: {isa: avx1024}\n"};
    static const char *const says[] = {"cuda", "quantum", "avx1024"};
    for (int i = 0; i < 3; i++) {
        err e = load_with(bodies[i], &o, &x);
        assert_true(e == ERR_USAGE || e == ERR_ENV || e == ERR_UNSUPPORTED);
        assert_non_null(strstr(err_text(), says[i]));
        assert_non_null(strstr(err_text(), "sweep.yaml"));
    }
}

static void a_point_in_a_sweep_is_named_in_its_error(void **state) {
    assert_refused(
        "tasks: [lm]\nsweep: {list: [{policy.preset: [full]}, {policy.preset: [snapkv], policy.budget: [0.5, -3]}]}\n",
        ERR_USAGE, "snapkv budget=-3");
}

static void models_that_are_not_there_say_what_fetches_them(void **state) {
    experiment *x;
    options o = with(NULL, 0);
    const char *file = temp_file("nomodel.yaml", "name: t\nmodel: {path: no/such/file.gguf}\ntasks: [lm]\n");
    assert_int_equal(experiment_load(file, &o, &x), ERR_ENV);
    assert_non_null(strstr(err_text(), "no/such/file.gguf"));
    file = temp_file("nomodel.yaml", "name: t\ntasks: [lm]\n");
    assert_int_equal(experiment_load(file, &o, &x), ERR_USAGE);
    assert_non_null(strstr(err_text(), "no model"));
    file = temp_file("nomodel.yaml", "name: t\nmodel: {preset: smollm-135}\ntasks: [lm]\n");
    assert_int_equal(experiment_load(file, &o, &x), ERR_USAGE);
    assert_non_null(strstr(err_text(), "smollm2-135m"));
    file = temp_file("nomodel.yaml", "name: t\nmodel: {preset: a, path: b}\ntasks: [lm]\n");
    assert_int_equal(experiment_load(file, &o, &x), ERR_USAGE);
    file = temp_file("nomodel.yaml", "name: a/b\nmodel: {path: x}\ntasks: [lm]\n");
    assert_int_equal(experiment_load(file, &o, &x), ERR_USAGE);
    assert_non_null(strstr(err_text(), "a/b"));
}

static void a_model_of_the_wrong_bytes_is_refused(void **state) {
    model_ref ref = {"m", (char *)model_path, "00"};
    char sha[65];
    assert_int_equal(model_ref_check(&ref, sha), ERR_ENV);
    assert_non_null(strstr(err_text(), "SHA-256"));
}

/* ---- what is to be done ---- */

static json_t *header_of(const experiment *x, int n_items) {
    json_t *groups = json_array(), *tasks = json_array(), *points = json_array();
    for (int i = 0; i < x->n_groups; i++)
        json_array_append_new(groups, json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:s}", "id", x->groups[i].id, "model",
                                                "m", "model_sha256", "", "backend", "cpu", "isa", "scalar", "math",
                                                "fast", "threads", 1, "context", 64, "seed", "0000000000000001"));
    for (int i = 0; i < x->n_tasks; i++)
        json_array_append_new(tasks,
                              json_pack("{s:s,s:s,s:b,s:i,s:[{s:s,s:s,s:s,s:i,s:b}],s:f,s:f,s:i}", "name",
                                        x->tasks[i].name, "conf", "{}", "timed", i > 0, "n_items", n_items, "metrics",
                                        "name", "kl", "unit", "", "help", "", "direction", 2, "timing", 0,
                                        "cost_prepare", 10.0, "cost_unit", 1.0, "prompt_tokens", 8));
    for (int i = 0; i < x->n_points; i++)
        json_array_append_new(points, json_pack("{s:s,s:s,s:[],s:s,s:s,s:[],s:b,s:i,s:[i,i]}", "id", x->points[i].id,
                                                "label", x->points[i].label, "axes", "conf", "{}", "policy", "",
                                                "tiers", "full", 0, "group", x->points[i].group, "tasks", 0, 1));
    return json_pack("{s:s,s:i,s:s,s:s,s:s,s:s,s:s,s:o,s:o,s:o}", "kind", "sweep", "version", 1, "name", "t",
                     "question", "", "sweep_id", x->id, "text_name", "", "text_sha256", "", "groups", groups, "tasks",
                     tasks, "points", points);
}

static void add(results *r, const char *point, bool noise, const char *task_name_text, int item, unit_status status) {
    unit_record u = {.noise = noise, .item = item, .status = status};
    snprintf(u.point, sizeof u.point, "%s", point);
    u.task = mem_strdup(task_name_text);
    assert_ok(results_add(r, &u));
    unit_record_free(&u);
}

static void the_worklist_is_what_is_missing(void **state) {
    experiment *x = load("tasks: [lm, speed]\nsweep: {grid: {policy.preset: [full, snapkv, k8v4]}}\n");
    json_t *h = header_of(x, 4);
    results *r;
    worklist w;
    assert_ok(results_from_header(h, "dir", &r));
    assert_ok(worklist_create(x, r, (work_filter){0}, &w));
    assert_int_equal(w.n_units, 3 * 2 * 4);
    assert_int_equal(w.n_noise, 2); /* of the untimed task */
    assert_true(w.cost == 24 * 1.0 + 8 * 10.0 + 2 * 11.0);
    worklist_free(&w);
    add(r, x->points[0].id, false, x->tasks[0].name, 0, UNIT_OK);
    add(r, x->points[0].id, false, x->tasks[0].name, 1, UNIT_FAILED);
    add(r, x->points[0].id, false, x->tasks[0].name, 2, UNIT_CRASHED);
    add(r, x->groups[0].id, true, x->tasks[0].name, 0, UNIT_OK);
    assert_ok(worklist_create(x, r, (work_filter){0}, &w));
    assert_int_equal(w.n_units, 24 - 2); /* a crashed unit is tried again */
    assert_int_equal(w.n_noise, 1);
    assert_int_equal(worklist_points(&w, x, 0, 0, 0), 2);
    worklist_free(&w);
    assert_ok(worklist_create(x, r, (work_filter){.retry_failed = true}, &w));
    assert_int_equal(w.n_units, 24 - 1);
    worklist_free(&w);
    assert_ok(worklist_create(x, r, (work_filter){.limit = 1, .only = {(const char *[]){"snap*"}, 1}}, &w));
    assert_int_equal(w.n_units, 2);
    assert_false(worklist_any(&w, x, 0, 0, 1));
    worklist_free(&w);
    results_free(r);
    json_decref(h);
    experiment_free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_are_merged_under_what_the_point_says),
        cmocka_unit_test(another_choice_replaces_the_presets_choice),
        cmocka_unit_test(a_preset_equals_its_map_written_out),
        cmocka_unit_test(ids_follow_what_matters_and_nothing_else),
        cmocka_unit_test(ids_follow_what_is_in_the_texts_of_tasks),
        cmocka_unit_test(points_share_engines_and_tasks),
        cmocka_unit_test(options_count_as_if_they_stood_in_the_file),
        cmocka_unit_test(resolved_yaml_reads_back_as_the_same_policies),
        cmocka_unit_test(unknown_keys_are_named_with_a_suggestion),
        cmocka_unit_test(unknown_presets_are_refused_with_the_list),
        cmocka_unit_test(impossible_points_are_refused_with_the_reason),
        cmocka_unit_test(backends_that_are_not_here_are_refused),
        cmocka_unit_test(a_point_in_a_sweep_is_named_in_its_error),
        cmocka_unit_test(models_that_are_not_there_say_what_fetches_them),
        cmocka_unit_test(a_model_of_the_wrong_bytes_is_refused),
        cmocka_unit_test(the_worklist_is_what_is_missing),
    };
    log_set(LOG_ERROR, false);
    return cmocka_run_group_tests(tests, write_inputs, NULL);
}
