/* kvlab status */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "run/jsonx.h"
#include "run/options.h"
#include "run/results.h"

static const char *const open_states[] = {"ok", "failed", "crashed", "skipped", "missing"};
enum { MISSING = UNIT_N_STATUS, N_STATES };

static void count_point(const results *r, int p, int n[N_STATES]) {
    for (int t = 0; t < r->n_tasks; t++)
        for (int i = 0; r->points[p].has_task[t] && i < r->tasks[t].n_items; i++) {
            const unit_record *u = results_unit(r, p, t, i);
            n[u ? (int)u->status : MISSING]++;
        }
}

static json_t *counts_to_json(const int n[N_STATES]) {
    json_t *o = json_object();
    for (int s = 0; s < N_STATES; s++) json_object_set_new(o, open_states[s], json_integer(n[s]));
    return o;
}

static void total(const results *r, int n[N_STATES]) {
    for (int s = 0; s < N_STATES; s++) n[s] = 0;
    for (int p = 0; p < r->n_points; p++) count_point(r, p, n);
}

/* Records that are not ok, noise floor included. */
static void visit_bad(const results *r, void (*visit)(void *arg, const unit_record *u), void *arg) {
    size_t per_point = (size_t)r->n_tasks * (size_t)r->max_items;
    for (size_t i = 0; i < (size_t)r->n_points * per_point; i++)
        if (r->unit[i] && r->unit[i]->status != UNIT_OK) visit(arg, r->unit[i]);
    for (size_t i = 0; i < (size_t)r->n_groups * per_point; i++)
        if (r->noise[i] && r->noise[i]->status != UNIT_OK) visit(arg, r->noise[i]);
}

static void add_bad(void *arg, const unit_record *u) {
    json_array_append_new(arg, json_pack("{s:o,s:o,s:i,s:s,s:o}", "point", jsonx_text(u->label), "task",
                                         jsonx_text(u->task), "item", u->item, "status", unit_status_name(u->status),
                                         "text", jsonx_text(u->text)));
}

static void print_bad(void *arg, const unit_record *u) {
    printf("%s: %s, %s %d: %s\n", unit_status_name(u->status), u->label, u->task, u->item, u->text);
}

static err print_json(const results *r) {
    int all[N_STATES];
    total(r, all);
    json_t *points = json_array(), *bad = json_array();
    for (int p = 0; p < r->n_points; p++) {
        int n[N_STATES] = {0};
        count_point(r, p, n);
        json_array_append_new(points, json_pack("{s:s,s:o,s:o}", "id", r->points[p].id, "label",
                                                jsonx_text(r->points[p].label), "units", counts_to_json(n)));
    }
    visit_bad(r, add_bad, bad);
    json_t *root = json_pack("{s:o,s:s,s:i,s:o,s:o,s:o,s:i}", "name", jsonx_text(r->name), "sweep_id", r->sweep_id,
                             "expected", r->n_expected, "units", counts_to_json(all), "points", points, "not_ok", bad,
                             "corrupted_lines", r->n_corrupt_lines);
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (!text) return ERR(ERR_NOMEM, "out of memory: the status cannot be encoded");
    puts(text);
    free(text);
    return OK;
}

static void print_text(const results *r) {
    int all[N_STATES];
    total(r, all);
    printf("%s (%s)\n%d points, %d tasks, %d units: %d ok, %d failed, %d crashed, %d missing\n", r->name, r->dir,
           r->n_points, r->n_tasks, r->n_expected, all[UNIT_OK], all[UNIT_FAILED], all[UNIT_CRASHED], all[MISSING]);
    for (int p = 0; p < r->n_points; p++) {
        int n[N_STATES] = {0}, sum = 0;
        count_point(r, p, n);
        for (int s = 0; s < N_STATES; s++) sum += n[s];
        printf("  %-40s %4d/%d", r->points[p].label, n[UNIT_OK], sum);
        if (n[UNIT_FAILED]) printf("  %d failed", n[UNIT_FAILED]);
        if (n[UNIT_CRASHED]) printf("  %d crashed", n[UNIT_CRASHED]);
        putchar('\n');
    }
    visit_bad(r, print_bad, NULL);
    if (all[MISSING] || all[UNIT_CRASHED]) printf("`kvlab resume %s` computes what is missing\n", r->dir);
}

err cmd_status(const options *o) {
    results *r;
    TRY(results_load(o->args[0], &r));
    err e = OK;
    if (o->json)
        e = print_json(r);
    else
        print_text(r);
    results_free(r);
    return e;
}
