/* DIR/report.html: one file that shows the sweep without anything else: question, findings, pictures, provenance,
 * commands. The pictures are the SVG of DIR/plots, carried inside. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "base/mem.h"
#include "run/export.h"
#include "run/outputs.h"
#include "run/plot.h"
#include "run/report.h"

static const char style[] =
    "<style>\n"
    ":root{--ink:#1c1c1e;--soft:#6b6b70;--line:#e3e3e6;--good:#00734f;--bad:#b3400a;--accent:#0072b2}\n"
    "body{font:15px/1.55 system-ui,-apple-system,'Segoe UI','DejaVu "
    "Sans',Helvetica,Arial,sans-serif;color:var(--ink);background:#fff;"
    "max-width:1200px;margin:0 auto;padding:40px 28px 80px}\n"
    "h1{font-size:26px;line-height:1.25;margin:0 0 4px}h2{font-size:18px;margin:44px 0 "
    "12px;padding-top:14px;border-top:1px solid var(--line)}\n"
    ".lead{color:var(--soft);margin:0 0 22px}\n"
    ".cards{display:flex;flex-wrap:wrap;gap:12px;margin:20px 0}.card{border:1px solid "
    "var(--line);border-radius:8px;padding:10px 16px;min-width:120px}"
    ".card b{display:block;font-size:19px}.card span{color:var(--soft);font-size:13px}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:5px 12px 5px 0;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}\n"
    "th{font-weight:600;vertical-align:bottom;border-bottom:1.5px solid "
    "#999}th:first-child,td:first-child{text-align:left;padding-right:22px}\n"
    "th.group{text-align:center;border-bottom:none;padding-bottom:0}td.better{color:var(--good)}td.worse{color:var(--"
    "bad)}td.same{color:var(--soft)}td small{color:var(--soft)}tr.base td{font-weight:600}\n"
    "td.text,th.text{text-align:left;white-space:normal}\n"
    "figure{margin:26px 0 34px}figure img{width:100%;height:auto;border:1px solid var(--line);border-radius:8px}"
    "figcaption{color:var(--soft);font-size:13.5px;max-width:820px;margin-top:8px}\n"
    "pre{background:#f6f6f8;border-radius:8px;padding:14px 16px;overflow-x:auto;font:12.5px/1.5 'DejaVu Sans "
    "Mono',ui-monospace,Menlo,Consolas,monospace}\n"
    "details{margin:10px "
    "0}summary{cursor:pointer;color:var(--accent)}.note{font-size:13.5px;color:var(--soft);max-width:820px}\n"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:3px "
    "22px;font-size:13.5px}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}\n"
    "@media print{body{padding:0}h2{break-after:avoid}figure{break-inside:avoid}}\n"
    "</style>\n";

void report_text(FILE *f, const char *text) {
    for (; *text; text++) switch (*text) {
        case '&':
            fputs("&amp;", f);
            break;
        case '<':
            fputs("&lt;", f);
            break;
        case '>':
            fputs("&gt;", f);
            break;
        case '"':
            fputs("&quot;", f);
            break;
        default:
            fputc(*text, f);
        }
}

static void write_head(const results *r, FILE *f) {
    const char *question = *r->question ? r->question : r->name;
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
          "content=\"width=device-width, initial-scale=1\">\n<title>",
          f);
    report_text(f, r->name);
    fputs("</title>\n", f);
    fputs(style, f);
    fputs("</head>\n<body>\n<h1>", f);
    report_text(f, question);
    fputs("</h1>\n<p class=\"lead\">Sweep <b>", f);
    report_text(f, r->name);
    fprintf(f, "</b> (%s)", r->sweep_id);
    for (int g = 0; g < r->n_groups; g++) {
        fputs(g ? "; " : " on ", f);
        report_text(f, r->groups[g].model);
        fprintf(f, ", %s %s, %s, %d thread%s", r->groups[g].backend, r->groups[g].isa, r->groups[g].math,
                r->groups[g].threads, r->groups[g].threads == 1 ? "" : "s");
    }
    fputs("</p>\n", f);
}

static void write_card(FILE *f, const char *what, int n) {
    fprintf(f, "<div class=\"card\"><b>%d</b><span>%s</span></div>\n", n, what);
}

static void write_cards(const results *r, FILE *f) {
    int missing = r->n_expected - r->n_ok - r->n_failed - r->n_crashed - r->n_skipped;
    fputs("<div class=\"cards\">\n", f);
    write_card(f, r->n_points == 1 ? "policy point" : "policy points", r->n_points);
    write_card(f, r->n_tasks == 1 ? "task" : "tasks", r->n_tasks);
    fprintf(f, "<div class=\"card\"><b>%d of %d</b><span>records ok</span></div>\n", r->n_ok, r->n_expected);
    if (r->n_failed) write_card(f, "failed", r->n_failed);
    if (r->n_crashed) write_card(f, "crashed", r->n_crashed);
    if (r->n_skipped) write_card(f, "skipped", r->n_skipped);
    if (missing > 0) write_card(f, "not run", missing);
    fputs("</div>\n", f);
}

/* ---- pictures ---- */

static void write_base64(FILE *f, const char *data, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = (const unsigned char *)data;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0u);
        fputc(digits[v >> 18], f);
        fputc(digits[v >> 12 & 63], f);
        fputc(i + 1 < n ? digits[v >> 6 & 63] : '=', f);
        fputc(i + 2 < n ? digits[v & 63] : '=', f);
    }
}

/* As an image rather than as elements of the page: gnuplot's pictures use the same ids, which would refer to each
 * other. */
static MUST err write_figure(const figure *fig, const char *dir, FILE *f) {
    char *path = mem_sprintf("%s/plots/%s.svg", dir, fig->name), *svg;
    size_t n;
    if (!io_exists(path)) {
        fputs("<p class=\"note\">Not drawn (gnuplot was missing; `kvlab plot` and `kvlab report` add it): ", f);
        report_text(f, fig->title);
        fputs("</p>\n", f);
        mem_free(path);
        return OK;
    }
    err e = io_read_file(path, 64 << 20, &svg, &n);
    mem_free(path);
    TRY(e);
    fputs("<figure id=\"", f);
    report_text(f, fig->name);
    fputs("\"><img alt=\"", f);
    report_text(f, fig->title);
    fputs("\" src=\"data:image/svg+xml;base64,", f);
    write_base64(f, svg, n);
    fputs("\"><figcaption>", f);
    report_text(f, fig->caption);
    fputs(" Data: <code>export/", f);
    report_text(f, fig->name);
    fputs(".dat</code></figcaption></figure>\n", f);
    mem_free(svg);
    return OK;
}

static MUST err write_figures(const summary *s, const char *dir, FILE *f) {
    figure_list l;
    TRY(figures_list(s, &l));
    err e = OK;
    if (l.n) fputs("<h2>Pictures</h2>\n", f);
    for (int i = 0; i < l.n && e == OK; i++) e = write_figure(&l.fig[i], dir, f);
    figures_free(&l);
    return e;
}

err outputs_report(const results *r, const char *dir) {
    summary *s;
    io_file f;
    TRY(summary_make(r, &s));
    char *path = io_join(dir, "report.html");
    err e = io_begin(path, &f);
    if (e == OK) {
        write_head(r, f.f);
        write_cards(r, f.f);
        report_tables(s, f.f);
        e = write_figures(s, dir, f.f);
        if (e == OK) {
            report_provenance(s, dir, f.f);
            fputs("</body>\n</html>\n", f.f);
            e = io_commit(&f);
        } else
            io_abort(&f);
    }
    mem_free(path);
    summary_free(s);
    return e;
}
