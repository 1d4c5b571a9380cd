/* DIR/export/results.json: where the numbers come from, the points, and the statistics, in one file for programs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "run/export.h"
#include "run/jsonx.h"
#include "run/provenance.h"

static json_t *interval_json(interval v) {
    if (!v.n) return json_null();
    return json_pack("{s:o, s:o, s:o, s:i}", "mean", jsonx_number(v.mean), "lo", jsonx_number(v.lo), "hi",
                     jsonx_number(v.hi), "n", v.n);
}

static json_t *bytes_json(summary_bytes b) {
    if (!b.n) return json_null();
    return json_pack("{s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:i}", "records", b.n,
                     "bytes_per_token", jsonx_number(b.live_per_token), "bytes_per_token_f16",
                     jsonx_number(b.full_per_token), "ratio", jsonx_number(b.ratio), "payload", jsonx_number(b.payload),
                     "metadata", jsonx_number(b.metadata), "columns", jsonx_number(b.columns), "tables",
                     jsonx_number(b.tables), "slack", jsonx_number(b.slack), "committed", jsonx_number(b.committed),
                     "ratio_end", jsonx_number(b.ratio_end), "kept", jsonx_number(b.kept), "budget_clamped",
                     b.n_clamped);
}

static json_t *cell_json(const summary_cell *c) {
    return json_pack("{s:o, s:o, s:s, s:o}", "mean", interval_json(c->mean), "difference", interval_json(c->diff),
                     "verdict", summary_verdict_name(c->verdict), "noise_floor", jsonx_number(c->noise));
}

static json_t *point_json(const summary *s, int point) {
    const results *r = s->r;
    json_t *tasks = json_object();
    for (int t = 0; t < r->n_tasks; t++) {
        json_t *metrics = json_object();
        for (int m = 0; m < r->tasks[t].n_metrics; m++)
            if (summary_at(s, point, t, m)->present)
                json_object_set_new(metrics, r->tasks[t].metrics[m].name, cell_json(summary_at(s, point, t, m)));
        if (!json_object_size(metrics)) {
            json_decref(metrics);
            continue;
        }
        json_object_set_new(
            tasks, r->tasks[t].name,
            json_pack("{s:o, s:o}", "bytes", bytes_json(*summary_bytes_at(s, point, t)), "metrics", metrics));
    }
    const result_point *p = &r->points[point];
    return json_pack("{s:s, s:o, s:o, s:b, s:i, s:o, s:o}", "id", p->id, "label", jsonx_text(p->label), "policy",
                     jsonx_text(p->policy), "full", p->full, "group", p->group, "bytes",
                     bytes_json(summary_point_bytes(s, point)), "tasks", tasks);
}

static json_t *failures_json(const results *r) {
    json_t *list = json_array();
    for (int p = 0; p < r->n_points; p++)
        for (int t = 0; t < r->n_tasks; t++)
            for (int i = 0; i < r->tasks[t].n_items; i++) {
                const unit_record *u = results_unit(r, p, t, i);
                if (u && u->status != UNIT_OK)
                    json_array_append_new(list, json_pack("{s:o, s:o, s:i, s:s, s:o}", "point",
                                                          jsonx_text(r->points[p].label), "task",
                                                          jsonx_text(r->tasks[t].name), "item", i, "status",
                                                          unit_status_name(u->status), "text", jsonx_text(u->text)));
            }
    return list;
}

static json_t *environment(const results *r) {
    json_error_t je;
    json_t *j = json_loads(r->environment_json, 0, &je);
    return j ? j : json_null();
}

err export_json(const summary *s, const char *dir) {
    const results *r = s->r;
    json_t *header = NULL, *points = json_array();
    TRY(results_header_json(r, &header));
    for (int p = 0; p < r->n_points; p++) json_array_append_new(points, point_json(s, p));
    json_t *j = json_pack("{s:i, s:s, s:o, s:o, s:s, s:{s:i, s:i, s:i, s:i, s:i}, s:o, s:o, s:o, s:o}", "schema", 1,
                          "kvlab", build_version(), "name", jsonx_text(r->name), "question", jsonx_text(r->question),
                          "sweep_id", r->sweep_id, "units", "expected", r->n_expected, "ok", r->n_ok, "failed",
                          r->n_failed, "crashed", r->n_crashed, "skipped", r->n_skipped, "points", points, "failures",
                          failures_json(r), "sweep", header, "environment", environment(r));
    char *text = j ? json_dumps(j, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(j);
    if (!text) return ERR(ERR_NOMEM, "out of memory: results.json cannot be encoded");
    char *path = io_join(dir, "results.json");
    err e = io_write_file(path, text, strlen(text));
    mem_free(path);
    free(text);
    return e;
}
