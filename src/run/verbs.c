#include <string.h>

#include "run/options.h"

static const verb verbs[] = {
    {"plan", "SWEEP.yaml", "print the points of a sweep, its cost in time and memory, and what cannot run", NULL, 1, 1,
     cmd_plan, OPT_SWEEP | OPT_RUN | OPT_OUT | OPT_SOURCE | OPT_JSON},
    {"run", "SWEEP.yaml", "run a sweep: journal, HDF5, table, pictures",
     "Finished units of the same sweep in the results directory are kept and only the rest is computed. --force starts "
     "anew. Exit\n"
     "status: 0 all units ok, 1 some failed, 75 after SIGUSR1 (run `resume`), 130 and 143 after SIGINT and SIGTERM.",
     1, 1, cmd_run, OPT_SWEEP | OPT_RUN | OPT_OUT | OPT_SOURCE | OPT_JSON | OPT_FORCE},
    {"status", "DIR", "what a results directory holds and lacks", NULL, 1, 1, cmd_status, OPT_JSON},
    {"resume", "DIR", "compute what a results directory lacks",
     "Missing and crashed units are computed. Failed ones end the same way again, so they are repeated only with "
     "--force.",
     1, 1, cmd_resume, OPT_RUN | OPT_SOURCE | OPT_JSON | OPT_FORCE},
    {"export", "DIR", "write DIR/sweep.h5 and DIR/export from the journal", NULL, 1, 1, cmd_export, 0},
    {"plot", "DIR", "draw DIR/plots with gnuplot", NULL, 1, 1, cmd_plot, 0},
    {"report", "DIR", "write DIR/report.html", NULL, 1, 1, cmd_report, 0},
    {"show", "DIR", "print the table of results", NULL, 1, 1, cmd_show, OPT_JSON},
    {"compare", "DIR POINT_A POINT_B", "print the paired differences of two points",
     "A point is named by its label, its id or the start of its id.", 3, 3, cmd_compare, OPT_JSON},
    {"contrast", "DIR AXIS=ALTERNATIVE", "print how the other alternatives of an axis differ in KL, paired",
     "Pairs agree on all other axes; one may lack some. The last row of each alternative is the mean over its pairs.", 2, 2, cmd_contrast, OPT_JSON},
    {"ls", "models|policies|tasks|stages|backends", "list what can be named in a sweep", NULL, 0, 1, cmd_ls, OPT_JSON},
    {"validate", "SWEEP.yaml|DIR", "check a sweep file, or the journal of a results directory", NULL, 1, 1,
     cmd_validate, OPT_SWEEP | OPT_SOURCE},
    {"verify", "DIR", "check the files of a results directory against MANIFEST.tsv and the journal", NULL, 1, 1,
     cmd_verify, 0},
    {"doctor", "", "check this machine: CPU, memory, model, gnuplot, text, bandwidth", NULL, 0, 0, cmd_doctor,
     OPT_SOURCE | OPT_OUT},
    {"generate", "", "stream text from a model, under any policy", NULL, 0, 0, cmd_generate, OPT_MODEL | OPT_GENERATE},
    {"score", "", "score a text teacher-forced after a compressed context, against the full cache",
     "Skips S tokens, prefills N, compresses by the policy and scores the next T predictions, made while feeding the T "
     "tokens after\n"
     "the context; S + N + T + 1 tokens are needed. KL is KL(full || policy) in nats over the whole vocabulary.",
     0, 0, cmd_score, OPT_MODEL | OPT_SCORE | OPT_JSON},
    {"bench", "[SECTION...]", "time kernels, prefill, decode, batches and the allocator",
     "Sections: machine, attention, linear, prefill, decode, batch, pool, compact, memory (default: these); policies: what presets\n"
     "that evict add to a prefill of the longest of --depths. Shortest and median of --repeats, beside probes of read bandwidth\n"
     "and arithmetic of the same minute. With one thread times are CPU time, with more wall time. memory counts what pages and\n"
     "tables cost beside live bytes.",
     0, 10, cmd_bench, OPT_MODEL | OPT_BENCH | OPT_JSON},
    {"calibrate", "[TEXT...]", "numbers of a policy that meet a goal on calibration text, or a head profile",
     "Tries the product of all --vary, then bisects between the best point and its neighbours. Losses are means over R "
     "windows of the\n"
     "text, against the full cache; bytes are live ones at the end of the prompt, of an f16 cache. The same command gives\n"
     "the same numbers.\n"
     "--heads writes a head profile instead: R windows of each TEXT are ranked over all heads by KVzip's score, or by that of --policy.",
     0, 64, cmd_calibrate, OPT_MODEL | OPT_CALIBRATE | OPT_SOURCE | OPT_JSON},
    {"inspect", "MODEL", "print a model's hyper-parameters", NULL, 1, 1, cmd_inspect, OPT_JSON},
    {"schema", "", "print every key of a sweep file and every stage of a policy", NULL, 0, 0, cmd_schema, OPT_JSON},
};

const verb *verb_list(int *n) {
    *n = (int)(sizeof verbs / sizeof *verbs);
    return verbs;
}

const verb *verb_find(const char *name) {
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(verbs[i].name, name) == 0) return &verbs[i];
    return NULL;
}
