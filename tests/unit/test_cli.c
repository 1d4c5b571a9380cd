/* The command line: what is understood, what is refused, and that a refusal says what was meant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run/options.h"

enum { MAX_ARGS = 32 };

/* Splits at spaces. */
static err parse(const char *line, options *o, char buf[512]) {
    char *argv[MAX_ARGS] = {"kvlab"};
    int argc = 1;
    snprintf(buf, 512, "%s", line);
    for (char *s = strtok(buf, " "); s && argc < MAX_ARGS; s = strtok(NULL, " ")) argv[argc++] = s;
    return options_parse(argc, argv, o);
}

static void assert_refused(const char *line, const char *says) {
    options o;
    char buf[512];
    if (parse(line, &o, buf) != ERR_USAGE) fail_msg("`kvlab %s` was not refused", line);
    if (!strstr(err_text(), says)) fail_msg("`kvlab %s` says \"%s\", not \"%s\"", line, err_text(), says);
    options_free(&o);
}

static void options_come_before_and_after_arguments(void **state) {
    options o;
    char buf[512];
    assert_int_equal(
        parse("run -o out --limit=3 a.yaml --set x=1 --set y=2,3 -t4 --seed 18 --only snap* --only full -q --json", &o, buf),
        OK);
    assert_string_equal(o.verb->name, "run");
    assert_int_equal(o.n_args, 1);
    assert_string_equal(o.args[0], "a.yaml");
    assert_string_equal(o.out, "out");
    assert_int_equal(o.only.n, 2);
    assert_string_equal(o.only.at[0], "snap*");
    assert_string_equal(o.only.at[1], "full");
    assert_int_equal(o.limit, 3);
    assert_int_equal(o.threads, 4);
    assert_true(o.seed == 18);
    assert_int_equal(o.sets.n, 2);
    assert_string_equal(o.sets.at[0], "x=1");
    assert_string_equal(o.sets.at[1], "y=2,3");
    assert_true(o.quiet && o.json && !o.verbose && !o.force);
    options_free(&o);
}

static void defaults_are_those_of_the_help(void **state) {
    options o;
    char buf[512];
    assert_int_equal(parse("score --ids f", &o, buf), OK);
    assert_int_equal(o.skip, 0);
    assert_int_equal(o.context, 1024);
    assert_int_equal(o.tokens, 128);
    assert_true(o.seed == -1);
    assert_null(o.model);
    options_free(&o);
}

static void after_two_dashes_everything_is_an_argument(void **state) {
    options o;
    char buf[512];
    assert_int_equal(parse("status -- --odd", &o, buf), OK);
    assert_string_equal(o.args[0], "--odd");
    options_free(&o);
}

static void mistakes_get_a_suggestion(void **state) {
    assert_refused("rnu a.yaml", "did you mean `kvlab run`");
    assert_refused("run a.yaml --thread 2", "did you mean --threads");
    assert_refused("run a.yaml --limti=2", "did you mean --limit");
    assert_refused("frobnicate", "`kvlab --help` lists them");
    assert_refused("run a.yaml --xyzzy", "`kvlab run --help`");
}

static void wrong_values_are_named(void **state) {
    assert_refused("run a.yaml --limit x", "--limit takes a number");
    assert_refused("run a.yaml --limit 1.5", "whole number");
    assert_refused("run a.yaml --limit 0", "must lie in 1..");
    assert_refused("run a.yaml --limit 1e99", "must lie in");
    assert_refused("run a.yaml --limit nan", "takes a number");
    assert_refused("run a.yaml --seed -4", "whole number from 0");
    assert_refused("run a.yaml --seed 99999999999999999999", "whole number from 0");
    assert_refused("generate --top-p 1.5", "must lie in 0..1");
    assert_refused("run a.yaml --out", "needs a value");
    assert_refused("run a.yaml --out=", "is empty");
    assert_refused("run a.yaml --only full --only=", "--only is empty");
    assert_refused("run a.yaml --force=yes", "takes no value");
    assert_refused("run a.yaml -q -v", "exclude each other");
}

static void each_verb_takes_its_own_options_only(void **state) {
    assert_refused("status d --force", "kvlab status does not take --force");
    assert_refused("run a.yaml --prompt x", "kvlab run does not take --prompt");
    assert_refused("--json status d", "comes after the verb");
    assert_refused("run", "needs SWEEP.yaml");
    assert_refused("compare d a", "needs DIR POINT_A POINT_B");
    assert_refused("status a b", "does not know what to do with \"b\"");
    assert_refused("", "no verb");
}

static void help_lists_every_verb_and_option(void **state) {
    int n;
    const verb *all = verb_list(&n);
    assert_int_equal(n, 20);
    for (int i = -1; i < n; i++) {
        char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);
        assert_non_null(f);
        options_print_help(f, i < 0 ? NULL : &all[i]);
        fclose(f);
        for (int k = 0; i < 0 && k < n; k++) assert_non_null(strstr(text, all[k].summary));
        if (i >= 0) {
            assert_non_null(strstr(text, all[i].summary));
            assert_non_null(strstr(text, "--help"));
            assert_ptr_equal(verb_find(all[i].name), &all[i]);
        }
        for (char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
            if (strcspn(line, "\n") > 130) fail_msg("help line too long: %.*s", (int)strcspn(line, "\n"), line);
        free(text);
    }
}

static void help_and_version_need_nothing_else(void **state) {
    options o;
    char buf[512];
    assert_int_equal(parse("run --help", &o, buf), OK);
    assert_true(o.help);
    options_free(&o);
    assert_int_equal(parse("--version", &o, buf), OK);
    assert_true(o.version && !o.verb);
    options_free(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_come_before_and_after_arguments),
        cmocka_unit_test(defaults_are_those_of_the_help),
        cmocka_unit_test(after_two_dashes_everything_is_an_argument),
        cmocka_unit_test(mistakes_get_a_suggestion),
        cmocka_unit_test(wrong_values_are_named),
        cmocka_unit_test(each_verb_takes_its_own_options_only),
        cmocka_unit_test(help_lists_every_verb_and_option),
        cmocka_unit_test(help_and_version_need_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
