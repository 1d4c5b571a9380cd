#include "run/options.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "conf/node.h"

typedef enum row_kind { ROW_FLAG, ROW_TEXT, ROW_TEXTS, ROW_INT, ROW_SEED, ROW_DOUBLE } row_kind;
typedef struct row {
    const char *name; /* long */
    char letter;      /* short, 0 = none */
    row_kind kind;
    size_t offset;
    const char *arg; /* what the help calls the value */
    double min, max;
    unsigned groups; /* 0 = every verb */
    const char *help;
} row;
#define AT(f) offsetof(options, f)

static const row rows[] = {
    {"out", 'o', ROW_TEXT, AT(out), "DIR", 0, 0, OPT_OUT, "results directory (default results/NAME)"},
    {"set", 0, ROW_TEXTS, AT(sets), "A.B=V", 0, 0, OPT_SWEEP | OPT_MODEL,
     "set a value by dotted path; several values (a,b or 1..8) make an axis; repeatable"},
    {"only", 0, ROW_TEXTS, AT(only), "GLOB", 0, 0, OPT_RUN | OPT_BENCH,
     "run only points whose label or id matches; bench policies: presets; repeatable"},
    {"limit", 0, ROW_INT, AT(limit), "N", 1, INT_MAX, OPT_RUN, "run only the first N records of each task"},
    {"model", 'm', ROW_TEXT, AT(model), "M", 0, 0, OPT_MODEL, "preset name or GGUF file (default smollm2-135m)"},
    {"policy", 'p', ROW_TEXT, AT(policy), "P", 0, 0, OPT_MODEL, "preset name or YAML file (default full)"},
    {"math", 0, ROW_TEXT, AT(math), "MODE", 0, 0, OPT_MODEL, "fast or exact (default fast)"},
    {"file", 'f', ROW_TEXT, AT(file), "TEXT", 0, 0, OPT_SCORE, "text file to score"},
    {"ids", 0, ROW_TEXT, AT(ids), "FILE", 0, 0, OPT_SCORE, "JSON list of token ids to score instead of text"},
    {"goal", 'g', ROW_TEXT, AT(goal), "G", 0, 0, OPT_CALIBRATE,
     "kl=NATS or dnll=NATS: fewest bytes within it; bytes=SHARE: smallest KL within it"},
    {"vary", 0, ROW_TEXTS, AT(vary), "A.B=V,..", 0, 0, OPT_CALIBRATE,
     "a number of the policy and values to try; repeatable (default: its thresholds)"},
    {"records", 'r', ROW_INT, AT(records), "R", 1, 16, OPT_CALIBRATE, "windows of the text that are scored (default 2)"},
    {"rounds", 0, ROW_INT, AT(rounds), "N", 0, 30, OPT_CALIBRATE,
     "bisections between the best value and its neighbours (default 3)"},
    {"heads", 0, ROW_FLAG, AT(heads), NULL, 0, 0, OPT_CALIBRATE, "make a head profile: which share of a cache each KV head needs"},
    {"loss", 0, ROW_FLAG, AT(loss), NULL, 0, 0, OPT_CALIBRATE, "with --heads: by what outputs lose for the 64 tokens that follow, instead of by a score"},
    {"join", 0, ROW_TEXT, AT(join), "FILE", 0, 0, OPT_CALIBRATE, "with --heads: write three quarters of this profile of the same model and a quarter of the new one"},
    {"write", 'w', ROW_TEXT, AT(write), "FILE", 0, 0, OPT_CALIBRATE, "write a preset, with the curve as comments, or the head profile"},
    {"skip", 0, ROW_INT, AT(skip), "S", 0, INT_MAX / 4, OPT_SCORE | OPT_CALIBRATE,
     "tokens left out at the start (default 0)"},
    {"context", 0, ROW_INT, AT(context), "N", 1, INT_MAX / 4, OPT_SCORE | OPT_CALIBRATE,
     "tokens prefilled and compressed (default 1024)"},
    {"tokens", 0, ROW_INT, AT(tokens), "T", 1, INT_MAX / 4, OPT_SCORE | OPT_CALIBRATE,
     "tokens scored after them (default 128)"},
    {"prompt", 0, ROW_TEXT, AT(prompt), "TEXT", 0, 0, OPT_GENERATE, "the prompt; - reads it from standard input"},
    {"chat", 0, ROW_FLAG, AT(chat), NULL, 0, 0, OPT_GENERATE, "wrap the prompt in the model's chat template"},
    {"template", 0, ROW_TEXT, AT(template_name), "NAME", 0, 0, OPT_GENERATE, "wrap it in this chat template instead (chatml, llama3, ...)"},
    {"n", 'n', ROW_INT, AT(n), "N", 1, INT_MAX / 4, OPT_GENERATE, "tokens to generate at most (default 64)"},
    {"temperature", 0, ROW_DOUBLE, AT(temperature), "T", 0, 100, OPT_GENERATE, "0 = greedy (default)"},
    {"top-k", 0, ROW_INT, AT(top_k), "K", 0, INT_MAX, OPT_GENERATE, "sample from the K most likely (0 = all)"},
    {"top-p", 0, ROW_DOUBLE, AT(top_p), "P", 0, 1, OPT_GENERATE, "sample from the smallest set of mass P (default 1)"},
    {"depths", 0, ROW_TEXT, AT(depths), "N,N", 0, 0, OPT_BENCH, "prompt lengths and cache depths (default 512,1024,4096)"},
    {"formats", 0, ROW_TEXT, AT(formats), "F,F", 0, 0, OPT_BENCH,
     "cache formats of the attention kernels (default f16,k8v8,k8v4,k4v4,k4v2)"},
    {"repeats", 0, ROW_INT, AT(repeats), "N", 1, 1000, OPT_BENCH, "times that everything is measured (default 5)"},
    {"threads", 't', ROW_INT, AT(threads), "N", 1, 4096, OPT_SWEEP | OPT_RUN | OPT_MODEL, "threads (default all CPUs)"},
    {"isa", 0, ROW_TEXT, AT(isa), "X", 0, 0, OPT_SWEEP | OPT_MODEL, "force an instruction set: `kvlab ls backends`"},
    {"backend", 0, ROW_TEXT, AT(backend), "X", 0, 0, OPT_SWEEP | OPT_MODEL, "auto, cpu or reference"},
    {"seed", 0, ROW_SEED, AT(seed), "N", 0, 0, OPT_SWEEP | OPT_MODEL, "seed of items, policies and sampling"},
    {"data", 0, ROW_TEXT, AT(data), "DIR", 0, 0, OPT_SOURCE, "directory with data sets that tasks name"},
    {"text", 0, ROW_TEXT, AT(text), "FILE", 0, 0, OPT_SOURCE, "natural text (default: an installed Debian document)"},
    {"force", 0, ROW_FLAG, AT(force), NULL, 0, 0, OPT_FORCE, "run: start anew; resume: repeat failed units too"},
    {"json", 0, ROW_FLAG, AT(json), NULL, 0, 0, OPT_JSON, "JSON on standard output instead of a table"},
    {"no-progress", 0, ROW_FLAG, AT(no_progress), NULL, 0, 0, OPT_RUN | OPT_CALIBRATE, "no progress line"},
    {"quiet", 'q', ROW_FLAG, AT(quiet), NULL, 0, 0, 0, "errors only"},
    {"verbose", 'v', ROW_FLAG, AT(verbose), NULL, 0, 0, 0, "more messages, and where an error came from"},
    {"no-color", 0, ROW_FLAG, AT(no_color), NULL, 0, 0, 0, "no colour (also NO_COLOR)"},
    {"help", 'h', ROW_FLAG, AT(help), NULL, 0, 0, 0, "this text"},
    {"version", 0, ROW_FLAG, AT(version), NULL, 0, 0, 0, "version, commit and compiler"},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static bool applies(const row *r, const verb *v) {
    return r->groups == 0 || (v && (r->groups & v->groups));
}

/* ---- help ---- */

static void print_row(FILE *f, const row *r) {
    char left[64];
    snprintf(left, sizeof left, "%c%c%s --%s%s%s", r->letter ? '-' : ' ', r->letter ? r->letter : ' ',
             r->letter ? "," : " ", r->name, r->arg ? " " : "", r->arg ? r->arg : "");
    fprintf(f, "  %-24s %s\n", left, r->help);
}

void options_print_help(FILE *f, const verb *v) {
    int n;
    const verb *all = verb_list(&n);
    if (!v) {
        fputs("kvlab: KV-cache compression policies compared on a real model, in quality, true bytes and speed\n\n"
              "usage: kvlab VERB ... [options]\n\n",
              f);
        for (int i = 0; i < n; i++) fprintf(f, "  %-9s %-38s %s\n", all[i].name, all[i].args, all[i].summary);
        fputs("\n`kvlab VERB --help` lists the options of a verb. First steps: kvlab doctor; kvlab plan "
              "experiments/demo.yaml;\n"
              "kvlab run experiments/demo.yaml. Data goes to standard output, messages to standard error.\n"
              "Exit status: 0 ok, 1 some points failed, 2 usage or configuration, 3 environment, 4 verification "
              "failed, 75 asked to\n"
              "requeue, 130 and 143 signals.\n",
              f);
        return;
    }
    fprintf(f, "usage: kvlab %s%s%s [options]\n\n%s\n", v->name, *v->args ? " " : "", v->args, v->summary);
    if (v->more) fprintf(f, "\n%s\n", v->more);
    fputs("\n", f);
    for (int i = 0; i < N_ROWS; i++)
        if (applies(&rows[i], v)) print_row(f, &rows[i]);
}

/* ---- parsing ---- */

static const row *find_long(const char *name, size_t n) {
    for (int i = 0; i < N_ROWS; i++)
        if (strlen(rows[i].name) == n && memcmp(rows[i].name, name, n) == 0) return &rows[i];
    return NULL;
}

static const row *find_short(char c) {
    for (int i = 0; i < N_ROWS; i++)
        if (rows[i].letter == c) return &rows[i];
    return NULL;
}

static err unknown_option(const char *arg, const verb *v) {
    const char *names[N_ROWS];
    int n = 0;
    for (int i = 0; i < N_ROWS; i++)
        if (applies(&rows[i], v)) names[n++] = rows[i].name;
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int)strcspn(arg, "="), arg);
    const char *bare = word + strspn(word, "-"), *near = node_suggest(bare, names, n);
    if (near) return ERR(ERR_USAGE, "unknown option %s: did you mean --%s?", word, near);
    return ERR(ERR_USAGE, "unknown option %s; `kvlab%s%s --help` lists them", word, v ? " " : "", v ? v->name : "");
}

static err number(const row *r, const char *text, double *out) {
    char *end;
    errno = 0;
    double x = strtod(text, &end);
    if (end == text || *end || errno || !isfinite(x))
        return ERR(ERR_USAGE, "--%s takes a number, not \"%s\"", r->name, text);
    if (r->kind == ROW_INT && x != floor(x))
        return ERR(ERR_USAGE, "--%s takes a whole number, not \"%s\"", r->name, text);
    if (x < r->min || x > r->max)
        return ERR(ERR_USAGE, "--%s is %s; it must lie in %.12g..%.12g", r->name, text, r->min, r->max);
    *out = x;
    return OK;
}

static err seed_number(const row *r, const char *text, int64_t *out) {
    char *end;
    errno = 0;
    long long x = strtoll(text, &end, 10);
    if (end == text || *end || errno || x < 0)
        return ERR(ERR_USAGE, "--%s takes a whole number from 0, not \"%s\"", r->name, text);
    *out = x;
    return OK;
}

static err store(options *o, const row *r, const char *value) {
    char *field = (char *)o + r->offset;
    double x = 0;
    int i;
    int64_t seed = 0;
    text_list *list;
    switch (r->kind) {
    case ROW_FLAG:
        memcpy(field, &(bool){true}, sizeof(bool));
        break;
    case ROW_TEXT:
        if (!*value && strcmp(r->name, "prompt") != 0) return ERR(ERR_USAGE, "--%s is empty", r->name);
        memcpy(field, &value, sizeof value);
        break;
    case ROW_TEXTS:
        if (!*value) return ERR(ERR_USAGE, "--%s is empty", r->name);
        list = (text_list *)field;
        list->at[list->n++] = value;
        break;
    case ROW_INT:
        TRY(number(r, value, &x));
        i = (int)x;
        memcpy(field, &i, sizeof i);
        break;
    case ROW_SEED:
        TRY(seed_number(r, value, &seed));
        memcpy(field, &seed, sizeof seed);
        break;
    case ROW_DOUBLE:
        TRY(number(r, value, &x));
        memcpy(field, &x, sizeof x);
        break;
    }
    return OK;
}

/* One option at argv[*i]; moves *i past a value that follows. */
static err parse_option(options *o, int argc, char **argv, int *i) {
    const char *arg = argv[*i], *value = NULL;
    const row *r;
    if (arg[1] == '-') {
        size_t n = strcspn(arg + 2, "=");
        r = find_long(arg + 2, n);
        if (arg[2 + n] == '=') value = arg + 3 + n;
    } else {
        r = find_short(arg[1]);
        if (r && arg[2]) {
            if (r->kind == ROW_FLAG) return unknown_option(arg, o->verb);
            value = arg + 2;
        }
    }
    if (!r) return unknown_option(arg, o->verb);
    if (!applies(r, o->verb)) {
        if (!o->verb) return ERR(ERR_USAGE, "--%s comes after the verb: kvlab VERB ... --%s", r->name, r->name);
        return ERR(ERR_USAGE, "kvlab %s does not take --%s", o->verb->name, r->name);
    }
    if (r->kind == ROW_FLAG && value) return ERR(ERR_USAGE, "--%s takes no value", r->name);
    if (r->kind != ROW_FLAG && !value) {
        if (*i + 1 >= argc) return ERR(ERR_USAGE, "--%s needs a value (%s)", r->name, r->arg);
        value = argv[++*i];
    }
    return store(o, r, value);
}

static err parse_verb(options *o, const char *name) {
    o->verb = verb_find(name);
    if (o->verb) return OK;
    int n;
    const verb *all = verb_list(&n);
    const char *names[64];
    for (int i = 0; i < n && i < 64; i++) names[i] = all[i].name;
    const char *near = node_suggest(name, names, n < 64 ? n : 64);
    if (near) return ERR(ERR_USAGE, "unknown verb %s: did you mean `kvlab %s`?", name, near);
    return ERR(ERR_USAGE, "unknown verb %s; `kvlab --help` lists them", name);
}

static err parse(int argc, char **argv, options *o) {
    bool only_args = false;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!only_args && strcmp(a, "--") == 0) {
            only_args = true;
        } else if (!only_args && a[0] == '-' && a[1]) {
            TRY(parse_option(o, argc, argv, &i));
        } else if (!o->verb) {
            if (strcmp(a, "help") == 0) {
                o->help = true;
                continue;
            }
            TRY(parse_verb(o, a));
        } else {
            o->args[o->n_args++] = a;
        }
    }
    if (o->help || o->version) return OK;
    if (!o->verb) return ERR(ERR_USAGE, "no verb; `kvlab --help` lists them");
    if (o->n_args < o->verb->min_args) return ERR(ERR_USAGE, "kvlab %s needs %s", o->verb->name, o->verb->args);
    if (o->n_args > o->verb->max_args)
        return ERR(ERR_USAGE, "kvlab %s does not know what to do with \"%s\"; usage: kvlab %s%s%s", o->verb->name,
                   o->args[o->verb->max_args], o->verb->name, *o->verb->args ? " " : "", o->verb->args);
    if (o->quiet && o->verbose) return ERR(ERR_USAGE, "--quiet and --verbose exclude each other");
    return OK;
}

err options_parse(int argc, char **argv, options *out) {
    *out = (options){.seed = -1, .context = 1024, .tokens = 128, .n = 64, .top_p = 1, .records = 2, .rounds = 3, .repeats = 5};
    TRY(mem_alloc(MEM_OTHER, (size_t)argc * sizeof *out->args, &out->args));
    TRY(mem_alloc(MEM_OTHER, (size_t)argc * sizeof *out->sets.at, &out->sets.at));
    TRY(mem_alloc(MEM_OTHER, (size_t)argc * sizeof *out->only.at, &out->only.at));
    TRY(mem_alloc(MEM_OTHER, (size_t)argc * sizeof *out->vary.at, &out->vary.at));
    return parse(argc, argv, out);
}

void options_free(options *o) {
    mem_free(o->args);
    mem_free(o->sets.at);
    mem_free(o->only.at);
    mem_free(o->vary.at);
    *o = (options){0};
}
