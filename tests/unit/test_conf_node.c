/* YAML trees: what is read, what is refused and where it says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "conf/node.h"
#include "tests/support/temp.h"

static node *parse(const char *text) {
    node *n = NULL;
    if (node_parse_text(text, strlen(text), "t.yaml", &n) != OK) fail_msg("%s", err_text());
    return n;
}

static void assert_refused(const char *text, const char *message) {
    node *n = NULL;
    assert_int_equal(node_parse_text(text, strlen(text), "t.yaml", &n), ERR_USAGE);
    assert_null(n);
    assert_string_equal(err_text(), message);
}

static void assert_canonical(const char *text, const char *want) {
    node *n = parse(text);
    char *got = node_canonical(n);
    assert_string_equal(got, want);
    mem_free(got);
    node_free(n);
}

static void values_have_types_and_places(void **state) {
    node *n = parse("name: abc\npolicy:\n  budget: {bytes: 0.25}\n  tiers: [f16, k8v4]\nempty:\n");
    assert_int_equal(node_type(n), NODE_MAP);
    assert_int_equal(node_count(n), 3);
    assert_string_equal(node_key(n, 1), "policy");
    assert_string_equal(node_text(node_get(n, "name")), "abc");
    assert_int_equal(node_type(node_get(n, "empty")), NODE_NULL);
    assert_string_equal(node_text(node_get(n, "empty")), "");
    const node *bytes = node_path(n, "policy.budget.bytes");
    double d;
    assert_int_equal(node_as_double(bytes, &d), OK);
    assert_true(d == 0.25);
    assert_string_equal(node_place(bytes), "t.yaml:3:19");
    assert_string_equal(node_text(node_path(n, "policy.tiers.1")), "k8v4");
    assert_null(node_path(n, "policy.tiers.2"));
    assert_null(node_path(n, "policy.tiers.x"));
    assert_null(node_path(n, "policy..budget"));
    assert_null(node_get(NULL, "x"));
    assert_int_equal(node_type(NULL), NODE_NULL);
    node_free(n);
}

static void plain_scalars_read_as_the_core_schema(void **state) {
    assert_canonical("[1, -7, +3, 1_000, 007, 1.0, 0.250, 1e3, .5, 5., -0.0, 1e400, 0x10, 1__0, _1, 1_]",
                     "[1,-7,3,1000,7,1,0.25,1000,0.5,5,0,\"1e400\",\"0x10\",\"1__0\",\"_1\",\"1_\"]");
    assert_canonical("[true, False, yes, null, ~, Null, '', \"1\", 'true', !!str 5, .inf, 9223372036854775808]",
                     "[true,false,\"yes\",null,null,null,\"\",\"1\",\"true\",\"5\",\".inf\",9.223372036854776e+18]");
    assert_canonical("0.1", "0.1");
    assert_canonical("0.30000000000000004", "0.30000000000000004");
}

static void canonical_text_ignores_order_and_style(void **state) {
    assert_canonical("b: 1\na:\n  - x\n  - {d: 2, c: 'q\"\\'}\n", "{\"a\":[\"x\",{\"c\":\"q\\\"\\\\\",\"d\":2}],\"b\":1}");
    assert_canonical("\"a\\tb\": \"\\u00e9\\x01\"", "{\"a\\u0009b\":\"\xc3\xa9\\u0001\"}");
    assert_canonical("", "null");
    assert_canonical("# only a comment\n", "null");
}

static void wrong_types_are_named_with_their_key(void **state) {
    node *n = parse("seed: '5'\nlimit: 2.5\nflag: yes\nlist: [x]\n");
    int64_t i;
    double d;
    bool b;
    assert_int_equal(node_as_int(node_get(n, "seed"), &i), ERR_USAGE);
    assert_string_equal(err_text(), "t.yaml:1:7: seed: expected an integer, got the text \"5\"");
    assert_int_equal(node_as_int(node_get(n, "limit"), &i), ERR_USAGE);
    assert_string_equal(err_text(), "t.yaml:2:8: limit: expected an integer, got \"2.5\"");
    assert_int_equal(node_as_bool(node_get(n, "flag"), &b), ERR_USAGE);
    assert_string_equal(err_text(), "t.yaml:3:7: flag: expected true or false, got \"yes\"");
    assert_int_equal(node_as_double(node_get(n, "list"), &d), ERR_USAGE);
    assert_string_equal(err_text(), "t.yaml:4:7: list: expected a number, got a list");
    assert_int_equal(node_as_double(node_path(n, "list.0"), &d), ERR_USAGE);
    assert_string_equal(err_text(), "t.yaml:4:8: expected a number, got \"x\"");
    assert_int_equal(node_as_double(NULL, &d), ERR_USAGE);
    assert_string_equal(err_text(), "expected a number, got nothing");
    node_free(n);
}

static void malformed_text_is_refused_with_its_place(void **state) {
    assert_refused("a: 1\nb: 2\na: 3\n", "t.yaml:3:1: key \"a\" appears twice, first in line 1");
    assert_refused("a: 1\n---\nb: 2\n", "t.yaml:2:1: a second document begins; one file holds one");
    assert_refused("a:\n\t- x\n", "t.yaml:2:1: found character that cannot start any token, while scanning for the next token"
                                  " (a tab: YAML is indented with spaces)");
    assert_refused("a: [1, 2\nb: 3\n", "t.yaml:2:2: did not find expected ',' or ']', while parsing a flow sequence");
    assert_refused("? [a]\n: 1\n", "t.yaml:1:3: a key must be plain text");
    assert_refused("'': 1\n", "t.yaml:1:1: empty key");
    assert_refused("a: !!int 5\n", "t.yaml:1:4: tag tag:yaml.org,2002:int is not supported; only !!str is");
    assert_refused("a: \"x\\0y\"\n", "t.yaml:1:4: text with a NUL character");
    assert_refused("a: &x 1\n<<: *x\n", "t.yaml:2:1: merge keys (<<) are not supported; name a preset instead");
    assert_refused("a: \xff\xfe\n", "t.yaml: not text: invalid leading UTF-8 octet at byte 3");
}

static void aliases_are_copies_within_a_limit(void **state) {
    node *n = parse("a: &v {x: 1}\nb: *v\n");
    char *s = node_canonical(n);
    assert_string_equal(s, "{\"a\":{\"x\":1},\"b\":{\"x\":1}}");
    mem_free(s);
    assert_int_equal(node_set_text(n, "b.x", "2", "--set"), OK);
    s = node_canonical(n);
    assert_string_equal(s, "{\"a\":{\"x\":1},\"b\":{\"x\":2}}");
    mem_free(s);
    node_free(n);
    assert_refused("a: *v\n", "t.yaml:1:4: alias *v stands for no anchor that is complete above");
    assert_refused("a: &v [*v]\n", "t.yaml:1:8: alias *v stands for no anchor that is complete above");
    assert_refused("a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
                   "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
                   "e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n",
                   "t.yaml:5:29: alias *d expands the file to more than 100000 values");
}

static void depth_and_size_are_bounded(void **state) {
    char deep[1000];
    memset(deep, '[', 500);
    memset(deep + 500, ']', 500);
    node *n;
    assert_int_equal(node_parse_text(deep, sizeof deep, "t.yaml", &n), ERR_USAGE);
    assert_string_equal(err_text(), "t.yaml:1:65: nested deeper than 64 levels");
    assert_int_equal(node_parse_text(deep + 436, 128, "t.yaml", &n), OK);
    node_free(n);
    assert_refused("a: &a [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n"
                   "b: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[*a]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n",
                   "t.yaml:2:41: alias *a nests deeper than 64 levels");
    assert_int_equal(node_parse_text(deep, (size_t)5 << 20, "t.yaml", &n), ERR_USAGE);
    assert_string_equal(err_text(), "t.yaml has 5242880 bytes; at most 4194304 are supported");
    char key[400] = "";
    memset(key, 'k', 300);
    strcpy(key + 300, ": 1\n");
    assert_refused(key, "t.yaml:1:1: key of 300 bytes; at most 256 are supported");
}

static void files_are_named_in_errors(void **state) {
    node *n;
    assert_int_equal(node_parse_file(temp_path("absent.yaml"), &n), ERR_USAGE);
    assert_non_null(strstr(err_text(), "absent.yaml: No such file or directory"));
    assert_int_equal(node_parse_file(temp_file("x.yaml", "a: [\n"), &n), ERR_USAGE);
    assert_non_null(strstr(err_text(), "x.yaml:2:1: "));
    assert_int_equal(node_parse_file(temp_dir(), &n), ERR_USAGE);
    assert_int_equal(node_parse_file(temp_file("y.yaml", "a: 1\n"), &n), OK);
    node_free(n);
}

static void paths_set_values_and_create_maps(void **state) {
    node *n = parse("tasks: [{limit: 1}, {limit: 2}]\npolicy:\nname: x\n");
    assert_int_equal(node_set_text(n, "tasks.1.limit", "20", "--set"), OK);
    assert_int_equal(node_set_text(n, "policy.budget", "{bytes: 0.25}", "--set"), OK);
    assert_int_equal(node_set_text(n, "engine.math", "exact", "--set"), OK);
    char *s = node_canonical(n);
    assert_string_equal(s, "{\"engine\":{\"math\":\"exact\"},\"name\":\"x\",\"policy\":{\"budget\":{\"bytes\":0.25}},"
                           "\"tasks\":[{\"limit\":1},{\"limit\":20}]}");
    mem_free(s);
    assert_string_equal(node_place(node_path(n, "engine.math")), "--set engine.math");
    const struct { const char *path, *yaml, *message; } wrong[] = {
        {"tasks.2.limit", "1", "--set tasks.2.limit: cannot set tasks.2.limit: tasks is a list of 2, and \"2\" is no index of it"},
        {"name.x.y", "1", "--set name.x.y: cannot set name.x.y: name is \"x\", not a map"},
        {"a..b", "1", "--set a..b: \"a..b\" is not a path like policy.budget"},
        {"a.", "1", "--set a.: \"a.\" is not a path like policy.budget"},
        {"", "1", "--set : \"\" is not a path like policy.budget"},
        {"a b", "1", "--set a b: path with a space or a special character"},
        {"a", "[1", "--set a:2:1: did not find expected ',' or ']', while parsing a flow sequence"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(node_set_text(n, wrong[i].path, wrong[i].yaml, "--set"), ERR_USAGE);
        assert_string_equal(err_text(), wrong[i].message);
    }
    node_free(n);
}

static void maps_merge_and_the_rest_is_replaced(void **state) {
    node *base = parse("a: {x: 1, y: [1, 2]}\nb: 2\nc: {z: 1}\n"), *over = parse("a: {y: [3], w: 4}\nc: 5\nd: {e: 6}\n");
    assert_int_equal(node_merge(base, over), OK);
    node_free(over);
    char *s = node_canonical(base);
    assert_string_equal(s, "{\"a\":{\"w\":4,\"x\":1,\"y\":[3]},\"b\":2,\"c\":5,\"d\":{\"e\":6}}");
    mem_free(s);
    assert_string_equal(node_place(node_path(base, "a.w")), "t.yaml:1:16");
    node_free(base);
}

static void unread_keys_are_errors_with_a_suggestion(void **state) {
    node *n = parse("budget: 1\nengine:\n  mathh: fast\n");
    (void)node_get(n, "budget");
    assert_int_equal(node_check_read(n), ERR_USAGE);
    assert_string_equal(err_text(), "t.yaml:2:1: unknown key \"engine\"; known here: budget");
    const node *engine = node_get(n, "engine");
    assert_int_equal(node_check_read(n), OK);
    (void)node_get(engine, "math");
    (void)node_get(engine, "threads");
    assert_int_equal(node_check_all_read(n), ERR_USAGE);
    assert_string_equal(err_text(), "t.yaml:3:3: unknown key \"mathh\"; did you mean \"math\"?");
    (void)node_get(engine, "mathh");
    assert_int_equal(node_check_all_read(n), OK);
    node *copy = node_clone(n);
    assert_int_equal(node_check_read(copy), ERR_USAGE); /* a copy is unread */
    node_free(copy);
    node_free(n);
}

static void suggestions_are_near(void **state) {
    const char *const names[] = {"snapkv", "kvcrush", "streaming_llm", "h2o", "full"};
    const struct { const char *word, *want; } cases[] = {
        {"snapvk", "snapkv"}, {"SnapKV", "snapkv"}, {"kvcrsh", "kvcrush"}, {"stream", "streaming_llm"},
        {"h20", "h2o"},       {"x", NULL},          {"fu", "full"},        {"entirely_else", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *got = node_suggest(cases[i].word, names, 5);
        if (cases[i].want)
            assert_string_equal(got, cases[i].want);
        else
            assert_null(got);
    }
}

static void dumped_yaml_reads_back_the_same(void **state) {
    const char *text = "plain: some text\nnumber: '5'\nnull_text: \"null\"\nyes: true\nempty: {}\nnone: []\nnothing:\n"
                       "multi: \"a\\nb\\t\\u2028 \\uFEFF\"\nodd: [\"- x\", \"a: b\", \"c #d\", \" lead\", \"[\", \"...\", \"---\", \"?a\", \"-1\", -1]\n"
                       "nest: [[1, [2]], {a: [{b: c, d: [e]}]}]\n\"key: odd\": x\n'5': y\n\"<<\": z\n";
    node *n = parse(text);
    char *canonical = node_canonical(n), *yaml = node_yaml(n), *flow = node_flow(n);
    const char *const dumps[] = {yaml, flow};
    for (int i = 0; i < 2; i++) {
        node *again = parse(dumps[i]);
        char *s = node_canonical(again);
        assert_string_equal(s, canonical);
        mem_free(s);
        node_free(again);
    }
    assert_non_null(strstr(yaml, "plain: some text\nnumber: \"5\"\n"));
    assert_non_null(strstr(yaml, "nest:\n  - - 1\n    - - 2\n  - a:\n      - b: c\n        d:\n          - e\n"));
    mem_free(canonical);
    mem_free(yaml);
    mem_free(flow);
    node_free(n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_have_types_and_places),
        cmocka_unit_test(plain_scalars_read_as_the_core_schema),
        cmocka_unit_test(canonical_text_ignores_order_and_style),
        cmocka_unit_test(wrong_types_are_named_with_their_key),
        cmocka_unit_test(malformed_text_is_refused_with_its_place),
        cmocka_unit_test(aliases_are_copies_within_a_limit),
        cmocka_unit_test(depth_and_size_are_bounded),
        cmocka_unit_test(files_are_named_in_errors),
        cmocka_unit_test(paths_set_values_and_create_maps),
        cmocka_unit_test(maps_merge_and_the_rest_is_replaced),
        cmocka_unit_test(unread_keys_are_errors_with_a_suggestion),
        cmocka_unit_test(suggestions_are_near),
        cmocka_unit_test(dumped_yaml_reads_back_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
