/* Which figures a sweep has. */
#include <math.h>
#include <string.h>

#include "base/io.h"
#include "base/mem.h"
#include "run/export.h"
#include "run/plot.h"

static bool any_cell(const summary *s, int group, int task, int metric) {
    for (int p = 0; p < s->r->n_points; p++)
        if (s->r->points[p].group == group && summary_at(s, p, task, metric)->present &&
            summary_bytes_at(s, p, task)->live_per_token > 0)
            return true;
    return false;
}

static bool any_point(const summary *s, int group, bool evicting) {
    for (int p = 0; p < s->r->n_points; p++)
        if (s->r->points[p].group == group &&
            (evicting ? plot_point_evicts(s, p) : summary_point_bytes(s, p).live_per_token > 0))
            return true;
    return false;
}

static bool name_taken(const figure_list *l, const char *name) {
    for (int i = 0; i < l->n; i++)
        if (strcmp(l->fig[i].name, name) == 0) return true;
    return false;
}

/* Takes over the figure's texts. `what` distinguishes figures of one script: a task's name or "". */
static void add(figure_list *l, const summary *s, figure fig, const char *what) {
    char *word = export_file_word(what),
         *group = s->r->n_groups > 1 ? mem_sprintf("-group%d", fig.group + 1) : mem_strdup("");
    fig.name = mem_sprintf("%s%s%s%s", fig.script, *word ? "-" : "", word, group);
    for (int k = 2; name_taken(l, fig.name); k++) {
        mem_free(fig.name);
        fig.name = mem_sprintf("%s%s%s%s-%d", fig.script, *word ? "-" : "", word, group, k);
    }
    mem_free(word);
    mem_free(group);
    l->fig[l->n++] = fig;
}

static void add_of_task(figure_list *l, const summary *s, int g, int t) {
    const char *task = s->r->tasks[t].name;
    int kl = results_find_metric(s->r, t, "kl"), score = results_find_metric(s->r, t, "exact_match"),
        tps = results_find_metric(s->r, t, "decode_tps");
    if (score < 0) score = results_find_metric(s->r, t, "accuracy");
    if (kl >= 0 && any_cell(s, g, t, kl))
        add(l, s,
            (figure){
                .script = "kl_vs_bytes",
                .title = mem_sprintf("%s: how far do predictions drift, per byte of cache?", task),
                .caption = mem_sprintf(
                    "KL divergence from the full cache's predictions on %s (lower is better) against the live bytes of "
                    "the cache per token; both axes are "
                    "logarithmic. Bars: 95 %% bootstrap intervals over records. Grey staircase: Pareto front of the "
                    "means. Marks at equal bytes stand side by side (of more than 16 policies: where they are, with bars for policies on "
                    "the front only). Shaded: noise floor, the "
                    "same full cache in the other math mode. Points without any divergence lie on the line marked 0.",
                    task),
                .group = g,
                .task = t,
                .metric = kl,
                .write = plot_write_bytes},
            task);
    if (score >= 0 && any_cell(s, g, t, score))
        add(l, s,
            (figure){.script = "score_vs_bytes",
                     .title = mem_sprintf("%s: how much of the score is left, per byte of cache?", task),
                     .caption =
                         mem_sprintf("%s on %s (higher is better) against the live bytes of the cache per "
                                     "token. Bars: 95 %% bootstrap intervals over records. Grey "
                                     "staircase: Pareto front of the means. Marks at equal bytes stand side by side (of more than 16 policies: where they are, "
                                     "with bars for policies on the front only).",
                                     s->r->tasks[t].metrics[score].name, task),
                     .group = g,
                     .task = t,
                     .metric = score,
                     .write = plot_write_bytes},
            task);
    if (tps >= 0 && any_cell(s, g, t, tps))
        add(l, s,
            (figure){.script = "decode_speed",
                     .title = mem_sprintf("%s: how fast does decoding run as the context grows?", task),
                     .caption = mem_strdup("Left: decoded tokens per second of one sequence. Right: bytes of the cache "
                                           "that decoding had to read, per second. Medians over "
                                           "repeats on this machine; they vary from run to run."),
                     .group = g,
                     .task = t,
                     .metric = tps,
                     .write = plot_write_speed},
            strcmp(task, "speed") == 0 ? "" : task);
}

err figures_list(const summary *s, figure_list *out) {
    const results *r = s->r;
    *out = (figure_list){0};
    TRY(mem_alloc(MEM_OTHER, sizeof *out->fig * (size_t)r->n_groups * (3 * (size_t)r->n_tasks + 3), &out->fig));
    for (int g = 0; g < r->n_groups; g++) {
        for (int t = 0; t < r->n_tasks; t++) add_of_task(out, s, g, t);
        if (plot_has_axes(s, g))
            add(out, s,
                (figure){.script = "axes",
                         .title = mem_strdup("Which alternative of each axis gives the lowest KL?"),
                         .caption = mem_strdup("KL divergence from the full cache of every point (geometric mean over tasks) over the named alternatives "
                                               "it is made of. Bars: medians. Filled: the best point of all."),
                         .group = g,
                         .task = -1,
                         .metric = -1,
                         .write = plot_write_axes},
                "");
        if (any_point(s, g, true))
            add(out, s,
                (figure){.script = "kept_heads",
                         .title = mem_strdup("Which layers and heads keep their items?"),
                         .caption = mem_strdup("Share of the prompt's items that each layer (rows) and KV head "
                                               "(columns) keeps after compression, mean over records."),
                         .group = g,
                         .task = -1,
                         .metric = -1,
                         .write = plot_write_heads},
                "");
        if (any_point(s, g, false))
            add(out, s,
                (figure){.script = "memory",
                         .title = mem_strdup("What are the bytes of each cache?"),
                         .caption = mem_strdup("Counted bytes per prompt token at the end of the prompt. Payload: "
                                               "codes or floats of K and V; metadata: scales and zeros; columns: "
                                               "positions and scores; tables: page tables and lengths; slack: unused "
                                               "rest of pages, not live. Dashed: payload of an f16 cache "
                                               "that keeps everything."),
                         .group = g,
                         .task = -1,
                         .metric = -1,
                         .write = plot_write_memory},
                "");
    }
    return OK;
}

void figures_free(figure_list *l) {
    for (int i = 0; i < l->n; i++) {
        mem_free(l->fig[i].name);
        mem_free(l->fig[i].title);
        mem_free(l->fig[i].caption);
    }
    mem_free(l->fig);
    *l = (figure_list){0};
}

static MUST err write_one(const figure *fig, const summary *s, const char *dir) {
    char *file = mem_sprintf("%s.dat", fig->name), *path = io_join(dir, file);
    io_file f;
    err e = io_begin(path, &f);
    if (e == OK) {
        fprintf(f.f, "# %s\n# Sweep ", fig->title);
        plot_quoted(f.f, s->r->name);
        fprintf(f.f, " (%s)\n# Draw: gnuplot -e \"dat='%s'; out='%s.png'\" plots/%s.gp   (.svg works too)\n",
                s->r->sweep_id, file, fig->name, fig->script);
        fprintf(f.f, "# Settings of the figure:\n");
        e = fig->write(fig, s, f.f);
        if (e == OK)
            e = io_commit(&f);
        else
            io_abort(&f);
    }
    mem_free(path);
    mem_free(file);
    return e;
}

err figures_write(const summary *s, const char *dir) {
    figure_list l;
    TRY(figures_list(s, &l));
    err e = OK;
    for (int i = 0; i < l.n && e == OK; i++) e = write_one(&l.fig[i], s, dir);
    figures_free(&l);
    return e;
}
