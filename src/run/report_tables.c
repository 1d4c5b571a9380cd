/* The report's tables: the headline of every task per point, with intervals, verdicts, noise floor; then every metric
 * of every task. */
#include <math.h>
#include <string.h>

#include "run/report.h"

enum { MAX_COLUMNS = 48, MAX_HEADLINE = 2 };

/* Digits that mean something beside an interval: two digits of its half width, four at most. */
static void number(FILE *f, double x, double half) {
    if (!isfinite(x)) {
        fputs(isnan(x) ? "-" : x > 0 ? "∞" : "-∞", f);
        return;
    }
    double scale = isfinite(half) && half > 0 ? half : fabs(x) / 100;
    int decimals = scale > 0 ? (int)ceil(-log10(scale)) + 1 : 0;
    if (x != 0 && fabs(x) < 1e-3)
        fprintf(f, "%.1e", x);
    else
        fprintf(f, "%.*f", decimals < 0 ? 0 : decimals > 5 ? 5 : decimals, x);
}

static const char *class_of(const summary_cell *c, const result_metric *m) {
    if (c->diff.n < 2 || c->verdict == VERDICT_UNKNOWN) return "";
    if (c->verdict == VERDICT_SAME) return "same";
    if (m->direction == METRIC_NEUTRAL) return "";
    return (c->verdict == VERDICT_HIGHER) == (m->direction == METRIC_HIGHER) ? "better" : "worse";
}

static void write_cell(FILE *f, const summary_cell *c, const result_metric *m, bool base) {
    if (!c->present) {
        fputs("<td>-</td>", f);
        return;
    }
    double half = (c->mean.hi - c->mean.lo) / 2;
    fprintf(f, "<td class=\"%s\">%s", base ? "" : class_of(c, m),
            !base && c->verdict == VERDICT_SAME && c->diff.n > 1 ? "~" : "");
    number(f, c->mean.mean, half);
    if (c->mean.n > 1) {
        fputs(" <small>[", f);
        number(f, c->mean.lo, half);
        fputs(", ", f);
        number(f, c->mean.hi, half);
        fputs("]</small>", f);
    }
    fputs("</td>", f);
}

static void write_metric_head(FILE *f, const result_metric *m) {
    fputs("<th title=\"", f);
    report_text(f, m->help);
    fputs("\">", f);
    report_text(f, m->name);
    fputs(m->direction == METRIC_HIGHER ? " ↑" : m->direction == METRIC_LOWER ? " ↓" : "", f);
    if (*m->unit) {
        fputs("<br><small>", f);
        report_text(f, m->unit);
        fputs("</small>", f);
    }
    fputs("</th>", f);
}

static void write_results(const summary *s, FILE *f) {
    const results *r = s->r;
    int task[MAX_COLUMNS], metric[MAX_COLUMNS], n = 0;
    fputs("<h2>Results</h2>\n<div class=\"wide\"><table>\n<tr><th class=\"group\"></th><th class=\"group\" "
          "colspan=\"3\">cache</th>",
          f);
    for (int t = 0; t < r->n_tasks; t++) {
        int m[MAX_HEADLINE], k = summary_headline(r, t, m, MAX_HEADLINE);
        if (n + k > MAX_COLUMNS) break;
        fprintf(f, "<th class=\"group\" colspan=\"%d\">", k);
        report_text(f, r->tasks[t].name);
        fputs("</th>", f);
        for (int i = 0; i < k; i++) {
            task[n] = t;
            metric[n++] = m[i];
        }
    }
    fputs("</tr>\n<tr><th>policy</th><th>B/token</th><th>of f16</th><th>kept</th>", f);
    for (int i = 0; i < n; i++) write_metric_head(f, &r->tasks[task[i]].metrics[metric[i]]);
    fputs("</tr>\n", f);
    for (int p = 0; p < r->n_points; p++) {
        summary_bytes b = summary_point_bytes(s, p);
        fprintf(f, "<tr%s><td title=\"", r->points[p].full ? " class=\"base\"" : "");
        report_text(f, r->points[p].policy);
        fputs("\">", f);
        report_text(f, r->points[p].label);
        if (b.n)
            fprintf(f, "</td><td>%.0f</td><td>%.1f %%</td><td>%.1f %%</td>", b.live_per_token, 100 * b.ratio,
                    100 * b.kept);
        else
            fputs("</td><td>-</td><td>-</td><td>-</td>", f);
        for (int i = 0; i < n; i++)
            write_cell(f, summary_at(s, p, task[i], metric[i]), &r->tasks[task[i]].metrics[metric[i]],
                       r->points[p].baseline == p);
        fputs("</tr>\n", f);
    }
    fputs("</table></div>\n", f);
}

static void write_notes(const summary *s, FILE *f) {
    const results *r = s->r;
    int clamped = 0;
    fprintf(f,
            "<p class=\"note\">Means over records with 95 %% bootstrap intervals (%d resamples). ~ and grey: not shown "
            "to differ from the full cache (the interval of the paired "
            "difference holds 0 or lies inside the noise floor); green and orange: shown to be better or worse. Cache: "
            "live bytes at the end of the prompt, counted: payload, "
            "scales and zeros, columns, tables.</p>\n",
            s->conf.n_resamples);
    for (int g = 0; g < r->n_groups; g++)
        for (int t = 0; t < r->n_tasks; t++) {
            int p = 0, shown = 0;
            while (p < r->n_points && r->points[p].group != g) p++;
            if (p == r->n_points) continue;
            for (int m = 0; m < r->tasks[t].n_metrics; m++) {
                const summary_cell *c = summary_at(s, p, t, m);
                if (!(c->noise > 0)) continue;
                fputs(shown++ ? ", " : "<p class=\"note\">Noise floor (full in the other math mode) on ", f);
                if (shown == 1) {
                    report_text(f, r->tasks[t].name);
                    fputs(": ", f);
                }
                report_text(f, r->tasks[t].metrics[m].name);
                fprintf(f, " %.2g", c->noise);
                if (*r->tasks[t].metrics[m].unit) fputc(' ', f);
                report_text(f, r->tasks[t].metrics[m].unit);
            }
            if (shown) fputs(".</p>\n", f);
            if (s->uninformative[(size_t)g * (size_t)r->n_tasks + (size_t)t]) {
                fputs("<p class=\"note\"><b>Uninformative:</b> on ", f);
                report_text(f, r->tasks[t].name);
                fputs(
                    ", the full cache is not shown to beat StreamingLLM, so the task cannot tell policies apart.</p>\n",
                    f);
            }
        }
    for (int p = 0; p < r->n_points; p++) clamped += summary_point_bytes(s, p).n_clamped;
    if (clamped)
        fprintf(
            f, "<p class=\"note\">In %d records the budget was below the protected items and was raised to them.</p>\n",
            clamped);
}

static void write_task(const summary *s, int t, FILE *f) {
    const results *r = s->r;
    const result_task *k = &r->tasks[t];
    fputs("<details><summary>", f);
    report_text(f, k->name);
    fprintf(f, ": all %d metrics</summary>\n<div class=\"wide\"><table>\n<tr><th>policy</th><th>records</th>",
            k->n_metrics);
    for (int m = 0; m < k->n_metrics; m++) write_metric_head(f, &k->metrics[m]);
    fputs("</tr>\n", f);
    for (int p = 0; p < r->n_points; p++) {
        if (!r->points[p].has_task[t]) continue;
        fprintf(f, "<tr%s><td>", r->points[p].full ? " class=\"base\"" : "");
        report_text(f, r->points[p].label);
        fprintf(f, "</td><td>%d</td>", summary_bytes_at(s, p, t)->n);
        for (int m = 0; m < k->n_metrics; m++)
            write_cell(f, summary_at(s, p, t, m), &k->metrics[m], r->points[p].baseline == p);
        fputs("</tr>\n", f);
    }
    fputs("</table></div></details>\n", f);
}

void report_tables(const summary *s, FILE *f) {
    write_results(s, f);
    write_notes(s, f);
    for (int t = 0; t < s->r->n_tasks; t++) write_task(s, t, f);
}
