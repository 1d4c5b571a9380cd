/* Field tables: defaults, ranges and names, and what is said when they are missed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "conf/fields.h"

typedef struct conf {
    int context, math;
    bool log;
    double ratio, free;
    const char *path;
} conf;

static const char *const math_names[] = {"fast", "exact", NULL};
static const field fields[] = {
    FIELD_INT(conf, context, 2048, 1, 8192, "tokens"),
    FIELD_ENUM(conf, math, "exact", math_names, "arithmetic"),
    FIELD_BOOL(conf, log, 1, "whether"),
    FIELD_DOUBLE(conf, ratio, 0.25, 0, 1, "kept"),
    FIELD_DOUBLE(conf, free, 3, 0, INFINITY, "no upper end"),
    FIELD_STRING(conf, path, NULL, "file"),
    FIELD_END,
};

static void assert_defaults(const conf *c) {
    assert_int_equal(c->context, 2048);
    assert_int_equal(c->math, 1);
    assert_true(c->log);
    assert_true(c->ratio == 0.25);
    assert_null(c->path);
}

static void missing_fields_take_their_defaults(void **state) {
    conf c;
    memset(&c, 0xa5, sizeof c);
    assert_int_equal(fields_read(NULL, fields, &c), OK);
    assert_defaults(&c);
    node *n;
    const char *text = "context:\nmath: ~\n";
    assert_int_equal(node_parse_text(text, strlen(text), "t", &n), OK);
    memset(&c, 0xa5, sizeof c);
    assert_int_equal(fields_read(n, fields, &c), OK);
    assert_defaults(&c);
    node_free(n);
}

static void given_fields_are_read(void **state) {
    const char *text = "{context: 8_192, math: fast, log: false, ratio: 1, free: 1e9, path: \"5\", other: x}";
    node *n;
    conf c;
    assert_int_equal(node_parse_text(text, strlen(text), "t", &n), OK);
    (void)node_get(n, "other"); /* the caller's own */
    assert_int_equal(fields_read(n, fields, &c), OK);
    assert_int_equal(c.context, 8192);
    assert_int_equal(c.math, 0);
    assert_false(c.log);
    assert_true(c.ratio == 1 && c.free == 1e9);
    assert_string_equal(c.path, "5");
    node_free(n);
}

static void wrong_fields_are_explained(void **state) {
    const struct { const char *text, *message; } cases[] = {
        {"context: 0", "t:1:10: context must be between 1 and 8192, got 0"},
        {"context: 99999999999999", "t:1:10: context must be between 1 and 8192, got 99999999999999"},
        {"context: many", "t:1:10: context: expected an integer, got \"many\""},
        {"ratio: 1.5", "t:1:8: ratio must be between 0 and 1, got 1.5"},
        {"free: -1", "t:1:7: free must be at least 0, got -1"},
        {"math: exat", "t:1:7: math: unknown value \"exat\"; did you mean \"exact\"?"},
        {"math: other", "t:1:7: math: unknown value \"other\"; known: fast, exact"},
        {"math: [fast]", "t:1:7: math must be one of: fast, exact"},
        {"log: 1", "t:1:6: log: expected true or false, got \"1\""},
        {"path: {a: b}", "t:1:7: path: expected text, got a map"},
        {"contxt: 5", "t:1:1: unknown key \"contxt\"; did you mean \"context\"?"},
        {"zzz: 5", "t:1:1: unknown key \"zzz\"; known here: context, math, log, ratio, free, path"},
        {"[1]", "t:1:1: expected a map of options, got a list"},
        {"5", "t:1:1: expected a map of options, got a value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        node *n;
        conf c;
        assert_int_equal(node_parse_text(cases[i].text, strlen(cases[i].text), "t", &n), OK);
        assert_int_equal(fields_read(n, fields, &c), ERR_USAGE);
        assert_string_equal(err_text(), cases[i].message);
        node_free(n);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_fields_take_their_defaults),
        cmocka_unit_test(given_fields_are_read),
        cmocka_unit_test(wrong_fields_are_explained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
