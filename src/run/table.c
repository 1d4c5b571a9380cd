/* The tables of the terminal: a sweep at a glance, and two points side by side. Intervals are 95 % paired bootstrap intervals; `~` marks a
 * value that is not shown to differ from the uncompressed cache. */
#include "run/outputs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "run/axes.h"
#include "run/grid.h"

static void cell_text(char out[GRID_CELL], const summary_cell *c, const result_metric *m, bool is_baseline) {
    char mean[24], half[24];
    if (!c->present) {
        snprintf(out, GRID_CELL, "-");
        return;
    }
    grid_number(mean, c->mean.mean, m->unit);
    grid_number(half, (c->mean.hi - c->mean.lo) / 2, m->unit);
    bool same = c->verdict == VERDICT_SAME && c->diff.n > 1 && !is_baseline;
    if (c->mean.n > 1) snprintf(out, GRID_CELL, "%s%s ±%s", same ? "~" : "", mean, half);
    else snprintf(out, GRID_CELL, "%s%s", same ? "~" : "", mean);
}

static const char *cell_color(const summary_cell *c, const result_metric *m) {
    if (!c->present || c->diff.n < 2 || c->verdict == VERDICT_SAME || c->verdict == VERDICT_UNKNOWN) return NULL;
    if (m->direction == METRIC_NEUTRAL) return NULL;
    return (c->verdict == VERDICT_HIGHER) == (m->direction == METRIC_HIGHER) ? GRID_GREEN : GRID_RED;
}

/* Quality is a mean over records. Speed is not: the records of a timed task are depths, and each gets a column of its own. */
typedef struct column { int task, metric, item; /* item -1: the mean */ } column;

static int pick_columns(const results *r, column *cols, int max) {
    int n = 0;
    for (int t = 0; t < r->n_tasks && n + 2 <= max; t++) {
        int m[2], k = summary_headline(r, t, m, 2);
        bool by_item = r->tasks[t].timed && r->tasks[t].n_items > 1;
        for (int i = 0; i < k; i++)
            for (int item = by_item ? 0 : -1; item < (by_item ? r->tasks[t].n_items : 0) && n < max; item++)
                cols[n++] = (column){t, m[i], item};
    }
    return n;
}

/* "speed/0003 context=4096" -> "context=4096" */
static const char *item_title(const results *r, column c) {
    for (int p = 0; p < r->n_points; p++) {
        const unit_record *u = results_unit(r, p, c.task, c.item);
        const char *space = u ? strchr(u->item_id, ' ') : NULL;
        if (u) return space ? space + 1 : u->item_id;
    }
    return "";
}

/* One timed record, with its ratio to the uncompressed cache's in the same run. */
static void timed_text(char out[GRID_CELL], const results *r, int p, column c) {
    const result_metric *m = &r->tasks[c.task].metrics[c.metric];
    const unit_record *u = results_unit(r, p, c.task, c.item);
    const unit_record *base = r->points[p].baseline < 0 || r->points[p].baseline == p ? NULL : results_unit(r, r->points[p].baseline, c.task, c.item);
    double x = u && u->status == UNIT_OK ? unit_record_metric(u, m->name) : NAN, y = base && base->status == UNIT_OK ? unit_record_metric(base, m->name) : NAN;
    char text[24];
    grid_number(text, x, m->unit);
    if (isfinite(x) && isfinite(y) && y > 0) snprintf(out, GRID_CELL, "%s ×%.2f", text, x / y);
    else snprintf(out, GRID_CELL, "%s", text);
}

/* Of a sweep that goes on later only points that have begun have a row. */
static bool has_row(const results *r, int p) {
    bool any = false;
    for (int t = 0; t < r->n_tasks; t++)
        for (int i = 0; i < r->tasks[t].n_items; i++) any |= results_unit(r, p, t, i) != NULL;
    return any || r->n_ok + r->n_failed + r->n_crashed + r->n_skipped == 0;
}

static void print_notes(const summary *s, FILE *f) {
    const results *r = s->r;
    int clamped = 0, shown_noise = 0;
    for (int p = 0; p < r->n_points; p++) clamped += summary_point_bytes(s, p).n_clamped;
    fprintf(f, "\nbytes: live cache at the end of the prompt (payload, scales and zeros, columns, tables) per token and as a share of f16 full.\n");
    for (int t = 0, said = 0; t < r->n_tasks && !said; t++)
        if (r->tasks[t].timed && r->tasks[t].n_items > 1 && (said = 1)) fprintf(f, "×: ratio to full on the same record, timed in the same run.\n");
    fprintf(f, "±: half of the 95 %% bootstrap interval over records; ~: not shown to differ from full (paired interval holds 0 or lies inside the noise floor).\n");
    for (int g = 0; g < r->n_groups; g++)
        for (int t = 0; t < r->n_tasks; t++) {
            int m = results_find_metric(r, t, "kl"), p = 0;
            while (p < r->n_points && r->points[p].group != g) p++;
            if (m < 0 || p == r->n_points || summary_at(s, p, t, m)->noise <= 0) continue;
            fprintf(f, "%s%s %.1e", shown_noise++ ? ", " : "noise floor (KL of full in the other math mode): ", r->tasks[t].name, summary_at(s, p, t, m)->noise);
        }
    if (shown_noise) fprintf(f, "\n");
    for (int g = 0; g < r->n_groups; g++)
        for (int t = 0; t < r->n_tasks; t++)
            if (s->uninformative[(size_t)g * (size_t)r->n_tasks + (size_t)t])
                fprintf(f, "uninformative: on %s, full is not shown to beat StreamingLLM.\n", r->tasks[t].name);
    if (clamped) fprintf(f, "budget clamped to the protected items: %d records.\n", clamped);
    int missing = r->n_expected - r->n_ok;
    fprintf(f, "%d of %d units ok", r->n_ok, r->n_expected);
    if (missing) fprintf(f, " (%d failed, %d crashed, %d skipped, %d not run)", r->n_failed, r->n_crashed, r->n_skipped, missing - r->n_failed - r->n_crashed - r->n_skipped);
    fprintf(f, ".\n");
    int n_left_out = 0;
    for (int p = 0; p < r->n_points; p++) n_left_out += !has_row(r, p);
    if (n_left_out) fprintf(f, "%d of %d points have not begun and are left out.\n", n_left_out, r->n_points);
}

/* Of a search: what the alternatives of its axes reach. */
static MUST err print_axes(const summary *s, int group, FILE *f, bool color) {
    static const char *const head[] = {"alternative", "points", "best KL", "median KL", "best point"};
    axis_rows x;
    grid g;
    TRY(axes_make(s, group, &x));
    err e = x.n ? grid_make(&g, x.n + 1, 5) : OK;
    for (int c = 0; x.n && e == OK && c < 5; c++) grid_set(&g, 0, c, NULL, "%s", head[c]);
    for (int i = 0; i < x.n && e == OK; i++) {
        const axis_row *row = &x.at[i];
        char best[24], middle[24];
        grid_number(best, row->n ? row->best : NAN, "nats");
        grid_number(middle, row->n ? row->middle : NAN, "nats");
        grid_set(&g, i + 1, 0, NULL, "%s %s", row->axis, row->name);
        grid_set(&g, i + 1, 1, NULL, "%d", row->n);
        grid_set(&g, i + 1, 2, NULL, "%s", best);
        grid_set(&g, i + 1, 3, NULL, "%s", middle);
        grid_set(&g, i + 1, 4, NULL, "%s", row->n ? s->r->points[row->best_point].label : "-");
    }
    if (x.n && e == OK) {
        fprintf(f, "\nalternatives by the KL of their points (geometric mean over tasks):\n");
        grid_print(&g, 1, f, color);
        grid_free(&g);
    }
    axes_free(&x);
    return e;
}

static MUST err print_table(const summary *s, FILE *f, bool color) {
    const results *r = s->r;
    column cols[GRID_MAX_COLS - 3];
    int n = pick_columns(r, cols, GRID_MAX_COLS - 3), n_rows = 0;
    grid g;
    for (int p = 0; p < r->n_points; p++) n_rows += has_row(r, p);
    TRY(grid_make(&g, n_rows + 2, n + 3));
    grid_set(&g, 1, 0, NULL, "policy");
    grid_set(&g, 0, 1, NULL, "bytes");
    grid_set(&g, 1, 1, NULL, "per token");
    grid_set(&g, 1, 2, NULL, "of f16");
    for (int i = 0; i < n; i++) {
        const result_metric *m = &r->tasks[cols[i].task].metrics[cols[i].metric];
        grid_set(&g, 0, 3 + i, NULL, "%s", cols[i].item < 0 ? r->tasks[cols[i].task].name : item_title(r, cols[i]));
        grid_set(&g, 1, 3 + i, NULL, "%s%s", m->name, m->direction == METRIC_HIGHER ? " ↑" : m->direction == METRIC_LOWER ? " ↓" : "");
    }
    for (int p = 0, row = 2; p < r->n_points; p++) {
        if (!has_row(r, p)) continue;
        summary_bytes b = summary_point_bytes(s, p);
        grid_set(&g, row, 0, NULL, "%s", r->points[p].label);
        if (b.n) {
            grid_set(&g, row, 1, NULL, "%.0f", b.live_per_token);
            grid_set(&g, row, 2, NULL, "%.1f %%", 100 * b.ratio);
        } else {
            grid_set(&g, row, 1, GRID_DIM, "-");
            grid_set(&g, row, 2, GRID_DIM, "-");
        }
        for (int i = 0; i < n; i++) {
            const summary_cell *c = summary_at(s, p, cols[i].task, cols[i].metric);
            const result_metric *m = &r->tasks[cols[i].task].metrics[cols[i].metric];
            char t[GRID_CELL];
            if (cols[i].item >= 0) timed_text(t, r, p, cols[i]);
            else cell_text(t, c, m, r->points[p].baseline == p);
            grid_set(&g, row, 3 + i, cols[i].item < 0 ? cell_color(c, m) : NULL, "%s", t);
        }
        row++;
    }
    grid_print(&g, 2, f, color);
    grid_free(&g);
    err e = OK;
    for (int k = 0; k < r->n_groups && e == OK; k++) e = print_axes(s, k, f, color);
    print_notes(s, f);
    return e;
}

static MUST err table_json(const summary *s, FILE *f) {
    const results *r = s->r;
    json_t *points = json_array();
    for (int p = 0; p < r->n_points; p++) {
        summary_bytes b = summary_point_bytes(s, p);
        json_t *tasks = json_object();
        for (int t = 0; t < r->n_tasks; t++) {
            json_t *metrics = json_object();
            for (int m = 0; m < r->tasks[t].n_metrics; m++) {
                const summary_cell *c = summary_at(s, p, t, m);
                if (!c->present) continue;
                json_object_set_new(metrics, r->tasks[t].metrics[m].name,
                                    json_pack("{s:o, s:o, s:s, s:o}", "mean", grid_json_interval(c->mean), "difference", grid_json_interval(c->diff), "verdict",
                                              summary_verdict_name(c->verdict), "noise_floor", grid_json_number(c->noise)));
            }
            json_object_set_new(tasks, r->tasks[t].name, metrics);
        }
        json_array_append_new(points, json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:i, s:o}", "id", r->points[p].id, "label", r->points[p].label, "policy",
                                                r->points[p].policy, "bytes_per_token", grid_json_number(b.live_per_token), "ratio", grid_json_number(b.ratio), "kept",
                                                grid_json_number(b.kept), "budget_clamped", b.n_clamped, "tasks", tasks));
    }
    return grid_print_json(json_pack("{s:s, s:i, s:i, s:o}", "name", r->name, "units", r->n_expected, "ok", r->n_ok, "points", points), f);
}

MUST err outputs_table(const results *r, FILE *f, bool color, bool json) {
    summary *s;
    TRY(summary_make(r, &s));
    err e = json ? table_json(s, f) : print_table(s, f, color);
    summary_free(s);
    return e;
}

/* ---- two points ---- */

typedef struct pair_row { int task, metric; interval a, b, diff; verdict v; } pair_row;

static MUST err pair_rows(const results *r, int a, int b, pair_row **out, int *n_out) {
    stats_conf conf = {10000, 0.95, 1};
    int n = 0, max = 0;
    for (int t = 0; t < r->n_tasks; t++) max += r->tasks[t].n_metrics;
    pair_row *rows;
    double *x;
    TRY(mem_alloc(MEM_OTHER, sizeof *rows * (size_t)max, &rows));
    err e = mem_alloc(MEM_OTHER, sizeof *x * 2 * (size_t)r->max_items, &x);
    if (e != OK) {
        mem_free(rows);
        return e;
    }
    double *y = x + r->max_items;
    for (int t = 0; t < r->n_tasks; t++)
        for (int m = 0; m < r->tasks[t].n_metrics; m++) {
            results_column(r, a, t, r->tasks[t].metrics[m].name, x);
            results_column(r, b, t, r->tasks[t].metrics[m].name, y);
            pair_row w = {t, m, stats_mean(x, r->tasks[t].n_items, conf), stats_mean(y, r->tasks[t].n_items, conf),
                          stats_paired(x, y, r->tasks[t].n_items, conf), VERDICT_UNKNOWN};
            w.v = stats_verdict(w.diff, 0);
            if (w.diff.n) rows[n++] = w;
        }
    mem_free(x);
    *out = rows;
    *n_out = n;
    return OK;
}

static MUST err print_pair(const results *r, int a, int b, const pair_row *rows, int n, FILE *f, bool color) {
    grid g;
    TRY(grid_make(&g, n + 1, 7));
    static const char *const head[] = {"task", "metric", "n", "", "", "difference", "95 % interval"};
    for (int c = 0; c < 7; c++) grid_set(&g, 0, c, NULL, "%s", head[c]);
    grid_set(&g, 0, 3, NULL, "%s", r->points[a].label);
    grid_set(&g, 0, 4, NULL, "%s", r->points[b].label);
    for (int i = 0; i < n; i++) {
        const pair_row *w = &rows[i];
        const result_metric *m = &r->tasks[w->task].metrics[w->metric];
        char t[5][24];
        double v[5] = {w->a.mean, w->b.mean, w->diff.mean, w->diff.lo, w->diff.hi};
        for (int k = 0; k < 5; k++) grid_number(t[k], v[k], m->unit);
        bool better = (w->v == VERDICT_HIGHER) == (m->direction == METRIC_HIGHER);
        const char *ink = w->v == VERDICT_SAME || w->v == VERDICT_UNKNOWN || m->direction == METRIC_NEUTRAL ? NULL : better ? GRID_GREEN : GRID_RED;
        grid_set(&g, i + 1, 0, NULL, "%s", r->tasks[w->task].name);
        grid_set(&g, i + 1, 1, NULL, "%s", m->name);
        grid_set(&g, i + 1, 2, NULL, "%d", w->diff.n);
        grid_set(&g, i + 1, 3, NULL, "%s", t[0]);
        grid_set(&g, i + 1, 4, NULL, "%s", t[1]);
        grid_set(&g, i + 1, 5, ink, "%s%s", w->v == VERDICT_SAME ? "~" : "", t[2]);
        grid_set(&g, i + 1, 6, NULL, "[%s, %s]", t[3], t[4]);
    }
    grid_print(&g, 1, f, color);
    grid_free(&g);
    return OK;
}

MUST err outputs_compare(const results *r, int a, int b, FILE *f, bool color, bool json) {
    pair_row *rows;
    int n;
    TRY(pair_rows(r, a, b, &rows, &n));
    err e;
    if (json) {
        json_t *list = json_array();
        for (int i = 0; i < n; i++)
            json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:o, s:o, s:s}", "task", r->tasks[rows[i].task].name, "metric",
                                                  r->tasks[rows[i].task].metrics[rows[i].metric].name, "a", grid_json_interval(rows[i].a), "b",
                                                  grid_json_interval(rows[i].b), "difference", grid_json_interval(rows[i].diff), "verdict", summary_verdict_name(rows[i].v)));
        e = grid_print_json(json_pack("{s:s, s:s, s:o}", "a", r->points[a].label, "b", r->points[b].label, "metrics", list), f);
    } else e = print_pair(r, a, b, rows, n, f, color);
    mem_free(rows);
    return e;
}
