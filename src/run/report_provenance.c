/* The report's end: what failed, how to do it again, and on what it was measured. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/mem.h"
#include "run/provenance.h"
#include "run/report.h"

enum { MAX_FAILURES = 200 };

static void write_failures(const results *r, FILE *f) {
    int n = 0;
    for (int p = 0; p < r->n_points; p++)
        for (int t = 0; t < r->n_tasks; t++)
            for (int i = 0; i < r->tasks[t].n_items; i++) {
                const unit_record *u = results_unit(r, p, t, i);
                if (!u || u->status == UNIT_OK || n++ >= MAX_FAILURES) continue;
                if (n == 1)
                    fputs("<h2>Failures</h2>\n<div class=\"wide\"><table>\n<tr><th>policy</th><th "
                          "class=\"text\">record</th><th class=\"text\">status</th><th class=\"text\">why</th></tr>\n",
                          f);
                fputs("<tr><td>", f);
                report_text(f, r->points[p].label);
                fputs("</td><td class=\"text\">", f);
                if (u->item_id && *u->item_id)
                    report_text(f, u->item_id);
                else {
                    report_text(f, r->tasks[t].name);
                    fprintf(f, ", record %d", i);
                }
                fprintf(f, "</td><td class=\"text\">%s</td><td class=\"text\">", unit_status_name(u->status));
                report_text(f, u->text ? u->text : "");
                fputs("</td></tr>\n", f);
            }
    if (n) fputs("</table></div>\n", f);
    if (n > MAX_FAILURES) fprintf(f, "<p class=\"note\">%d more: export/items.csv.</p>\n", n - MAX_FAILURES);
}

static void write_commands(const results *r, const char *dir, FILE *f) {
    const char *slash = strrchr(dir, '/'), *name = slash && slash[1] ? slash + 1 : dir;
    fputs("<h2>Again</h2>\n<pre>", f);
    fputs("kvlab run sweep.yaml -o again       # the sweep, from the file below\nkvlab compare . POINT_A POINT_B    # "
          "paired difference of two points\n"
          "kvlab verify .                     # files against MANIFEST.tsv, sweep.h5 against the journal\n",
          f);
    fputs("gnuplot -e \"dat='export/memory.dat'; out='memory.png'\" plots/memory.gp   # a picture; the scripts are in "
          "kvlab's folder plots/\n",
          f);
    fputs("python3 -c 'import xarray; print(xarray.open_dataset(\"sweep.h5\", group=\"/metrics/", f);
    for (const char *c = r->n_tasks ? r->tasks[0].name : "TASK"; *c; c++)
        report_text(f, (char[]){*c == '/' ? '|' : *c, 0});
    fputs("\", engine=\"h5netcdf\"))'</pre>\n<p class=\"note\">In the results directory (", f);
    report_text(f, name);
    fputs("). On the same ISA and in the same math mode every number but the timings comes out the same.</p>\n", f);
}

static void write_value(FILE *f, const json_t *v) {
    if (json_is_string(v)) {
        report_text(f, json_string_value(v));
        return;
    }
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
    report_text(f, text ? text : "");
    free(text);
}

static void write_leaves(FILE *f, const char *path, const json_t *j) {
    if (!json_is_object(j)) {
        fputs("<dt>", f);
        report_text(f, path);
        fputs("</dt><dd>", f);
        write_value(f, j);
        fputs("</dd>\n", f);
        return;
    }
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)j, key, v) {
        char *longer = mem_sprintf("%s%s%s", path, *path ? "." : "", key);
        write_leaves(f, longer, v);
        mem_free(longer);
    }
}

static void write_environment(const results *r, FILE *f) {
    json_error_t je;
    json_t *j = json_loads(r->environment_json, 0, &je);
    fputs("<h2>Environment</h2>\n<dl>\n", f);
    if (j) write_leaves(f, "", j);
    for (int g = 0; g < r->n_groups; g++) {
        fputs("<dt>model</dt><dd>", f);
        report_text(f, r->groups[g].model);
        fprintf(f, ", sha256 %s, context %d, seed %llu</dd>\n", r->groups[g].model_sha256, r->groups[g].context,
                (unsigned long long)r->groups[g].seed);
    }
    if (*r->text_name) {
        fputs("<dt>text</dt><dd>", f);
        report_text(f, r->text_name);
        fprintf(f, ", sha256 %s</dd>\n", r->text_sha256);
    }
    fprintf(f, "<dt>report by</dt><dd>kvlab %s (%s)</dd>\n</dl>\n", build_version(), build_commit());
    json_decref(j);
}

static void write_file(FILE *f, const char *name, const char *text) {
    if (!*text) return;
    fprintf(f, "<details><summary>%s</summary><pre>", name);
    report_text(f, text);
    fputs("</pre></details>\n", f);
}

void report_provenance(const summary *s, const char *dir, FILE *f) {
    const results *r = s->r;
    write_failures(r, f);
    write_commands(r, dir, f);
    write_environment(r, f);
    write_file(f, "sweep.yaml", r->sweep_yaml);
    write_file(f, "resolved.yaml", r->resolved_yaml);
}
