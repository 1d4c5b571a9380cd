/* The command line: one table of verbs, one table of options; `--help` of every verb is printed from them. */
#ifndef KVLAB_RUN_OPTIONS_H
#define KVLAB_RUN_OPTIONS_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "base/err.h"

typedef struct text_list {
    const char **at; /* in order of the command line */
    int n;
} text_list;

typedef struct options {
    const struct verb *verb; /* NULL: only --help or --version was given */
    bool help, version;
    const char **args; /* positional, in order */
    int n_args;
    const char *out, *isa, *backend, *data, *text; /* NULL = not given */
    text_list sets, only, vary;                    /* each repeatable */
    int limit;    /* records per task; 0 = all */
    int threads;  /* 0 = not given */
    int64_t seed; /* -1 = not given */
    bool force, json, quiet, verbose, no_progress, no_color;
    const char *model, *file, *ids, *policy, *math, *prompt; /* score, generate */
    const char *goal, *write, *join; /* calibrate */
    int skip, context, tokens, n, top_k, records, rounds;
    double temperature, top_p;
    bool chat, heads, loss;
    const char *depths, *formats; /* bench */
    int repeats;
    const char *template_name;
} options;

typedef struct verb {
    const char *name, *args, *summary;
    const char *more; /* a paragraph for --help, or NULL */
    int min_args, max_args;
    err (*run)(const options *o);
    unsigned groups; /* which options it takes: OPT_... */
} verb;
enum {
    OPT_SWEEP = 1,
    OPT_RUN = 2,
    OPT_OUT = 4,
    OPT_MODEL = 8,
    OPT_SCORE = 16,
    OPT_GENERATE = 32,
    OPT_JSON = 64,
    OPT_FORCE = 128,
    OPT_SOURCE = 256,
    OPT_BENCH = 512,
    OPT_CALIBRATE = 1024
};

const verb *verb_find(const char *name); /* NULL if unknown */
const verb *verb_list(int *n);
/* Parses argv; the pointers in *out live as long as argv and options_free. ERR_USAGE names the option and what was
 * meant. */
MUST err options_parse(int argc, char **argv, options *out);
void options_free(options *o);
void options_print_help(FILE *f, const verb *v); /* NULL: all verbs */

err cmd_plan(const options *o);
err cmd_run(const options *o);
err cmd_status(const options *o);
err cmd_resume(const options *o);
err cmd_export(const options *o);
err cmd_plot(const options *o);
err cmd_report(const options *o);
err cmd_show(const options *o);
err cmd_compare(const options *o);
err cmd_contrast(const options *o);
err cmd_ls(const options *o);
err cmd_validate(const options *o);
err cmd_verify(const options *o);
err cmd_doctor(const options *o);
err cmd_generate(const options *o);
err cmd_score(const options *o);
err cmd_calibrate(const options *o);
err cmd_inspect(const options *o);
err cmd_schema(const options *o);
err cmd_bench(const options *o);
#endif
