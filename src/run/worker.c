#include "run/worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "run/jsonx.h"
#include "run/signals.h"
#include "run/workset.h"

typedef struct worker {
    int fd;
    const experiment *x;
    const results *r;
    worklist list;
    workset set;     /* of one group at a time */
    task_item *item; /* open now */
    int g, t, i;     /* what it is */
} worker;

/* ---- messages ---- */

/* A parent that is gone ends the worker: nobody would keep what it computes. */
static void send_line(const worker *w, json_t *value) {
    char *text = value ? json_dumps(value, JSONX_DUMP) : NULL;
    json_decref(value);
    if (!text) _exit(1);
    size_t n = strlen(text);
    text[n++] = '\n';
    for (size_t done = 0; done < n;) {
        ssize_t k = write(w->fd, text + done, n - done);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) _exit(1);
        done += (size_t)k;
    }
    free(text);
}

static void send_begin(const worker *w, int point) {
    send_line(w, json_pack("{s:s,s:i,s:i,s:i,s:i}", "kind", "begin", "group", w->g, "task", w->t, "item", w->i, "point",
                           point));
}

static void send_fatal(const worker *w, err code) {
    send_line(w, json_pack("{s:s,s:i,s:o,s:s}", "kind", "fatal", "code", (int)code, "text", jsonx_text(err_text()),
                           "place", err_place()));
}

/* ---- records ---- */

static void start_record(const worker *w, int point, unit_record *rec) {
    bool noise = point == WORKER_NOISE;
    *rec = (unit_record){.noise = noise, .item = w->i};
    memcpy(rec->point, noise ? w->r->groups[w->g].id : w->r->points[point].id, sizeof rec->point);
    rec->label = mem_strdup(noise ? "noise" : w->r->points[point].label);
    rec->task = mem_strdup(w->r->tasks[w->t].name);
    rec->item_id = mem_strdup(w->item ? task_item_id(w->item) : "");
}

/* Takes over what the result holds. */
static err take_result(const worker *w, task_result *res, unit_record *rec) {
    const result_task *t = &w->r->tasks[w->t];
    TRY(mem_alloc(MEM_OTHER, (size_t)t->n_metrics * sizeof *rec->metrics, &rec->metrics));
    for (int m = 0; m < t->n_metrics; m++)
        rec->metrics[m] = (named_value){mem_strdup(t->metrics[m].name), res->value[m]};
    rec->n_metrics = t->n_metrics;
    rec->n_series = res->series.n;
    rec->kl = res->series.kl;
    rec->nll = res->series.nll;
    rec->top1 = res->series.top1;
    rec->kept = res->kept;
    rec->output = res->output;
    res->series = (task_series){0};
    res->kept = NULL;
    res->output = NULL;
    rec->at_prompt = res->at_prompt;
    rec->at_end = res->at_end;
    rec->n_layers = rec->kept ? res->n_layers : 0;
    rec->n_kv = rec->kept ? res->n_kv : 0;
    rec->n_tiers = rec->kept ? res->n_tiers : 0;
    rec->n_prompt = res->n_prompt;
    rec->n_decoded = res->n_decoded;
    rec->budget_clamped = res->budget_clamped;
    return OK;
}

static void send_record(const worker *w, err e, double began, unit_record *rec) {
    rec->status = e == OK ? UNIT_OK : UNIT_FAILED;
    rec->text = mem_strdup(e == OK ? "" : err_text());
    rec->seconds = clock_now() - began;
    json_t *j;
    if (unit_record_to_json(rec, &j) != OK) _exit(1);
    unit_record_free(rec);
    send_line(w, j);
}

static err run_policy(const worker *w, int point, task_result *res) {
    policy *p;
    cache_space *space = NULL; /* fresh for every unit: no bytes and no peaks of another one in its pool */
    TRY(experiment_policy(w->x, point, &p));
    int hint = task_prompt_tokens(w->set.tasks[w->t]);
    err e = experiment_load_plugins(w->x, point, p);
    if (e == OK) e = cache_space_create(w->set.e, p, hint > 0 ? hint : 1, 0, &space);
    if (e == OK) e = task_item_run(w->item, w->set.e, space, p, unit_seed(w->x, w->g, w->t, w->i), res);
    cache_space_destroy(space);
    policy_destroy(p);
    return e;
}

static err run_noise(worker *w, task_result *res) {
    engine *other;
    TRY(workset_other(&w->set, &other));
    return task_item_run_noise(w->item, other, res);
}

static void run_unit(worker *w, int point) {
    unit_record rec;
    task_result res = {0};
    double began = clock_now();
    send_begin(w, point);
    start_record(w, point, &rec);
    err e = point == WORKER_NOISE ? run_noise(w, &res) : run_policy(w, point, &res);
    if (e == OK) e = take_result(w, &res, &rec);
    send_record(w, e, began, &rec);
    task_result_free(&res);
}

/* The record cannot be prepared: all units that wait for it get the reason. */
static void fail_all(worker *w, err e) {
    double now = clock_now();
    char *text = mem_strdup(err_text());
    for (int p = 0; p < w->r->n_points; p++) {
        if (w->x->points[p].group != w->g || !*worklist_unit(&w->list, p, w->t, w->i)) continue;
        unit_record rec;
        start_record(w, p, &rec);
        send_record(w, ERR(e, "%s", text), now, &rec);
    }
    if (*worklist_noise(&w->list, w->g, w->t, w->i)) {
        unit_record rec;
        start_record(w, WORKER_NOISE, &rec);
        send_record(w, ERR(e, "%s", text), now, &rec);
    }
    mem_free(text);
}

/* ---- order ---- */

/* So that a prompt's one prefill keeps what the policies of all points need of it. */
static void declare_policies(const worker *w, int g) {
    for (int i = 0; i < w->r->n_points; i++) {
        policy *p;
        if (w->x->points[i].group != g || experiment_policy(w->x, i, &p) != OK) continue; /* its units will say why */
        err e = engine_declare(w->set.e, p);
        policy_destroy(p);
        if (e != OK) continue; /* the same */
    }
}

static err open_group(worker *w, int g) {
    if (w->set.x && w->set.group == g) return OK;
    if (w->set.x) workset_close(&w->set);
    TRY(workset_open(w->x, g, &w->set));
    declare_policies(w, g);
    const char *isa = engine_backend(w->set.e)->isa, *before = w->r->groups[g].isa;
    if (strcmp(isa, before) != 0) {
        char *text = mem_sprintf(
            "this machine runs %s, the records so far come from %s: they agree within bounds, not bit for bit", isa,
            before);
        send_line(w, json_pack("{s:s,s:o}", "kind", "log", "text", jsonx_text(text)));
        mem_free(text);
    }
    return OK;
}

/* False: stopped. */
static bool run_points(worker *w) {
    for (int p = 0; p < w->r->n_points; p++) {
        if (w->x->points[p].group != w->g || !*worklist_unit(&w->list, p, w->t, w->i)) continue;
        if (signals_pending()) return false;
        run_unit(w, p);
    }
    if (!*worklist_noise(&w->list, w->g, w->t, w->i)) return true;
    if (signals_pending()) return false;
    run_unit(w, WORKER_NOISE);
    return true;
}

static bool run_item(worker *w) {
    if (signals_pending()) return false;
    send_begin(w, WORKER_PREPARE);
    task *t = w->set.tasks[w->t];
    err e = w->i < task_n_items(t)
                ? task_item_open(t, w->i, &w->item)
                : ERR(ERR_FAILED, "task %s has %d records here, not %d", task_name(t), task_n_items(t), w->i + 1);
    if (e == OK && !task_is_timed(t)) e = task_item_prepare(w->item, w->set.e);
    bool go_on = true;
    if (e == OK) {
        send_line(w, json_pack("{s:s,s:i}", "kind", "prepared", "task", w->t));
        go_on = run_points(w);
    } else {
        fail_all(w, e);
    }
    if (w->item) task_item_close(w->item);
    w->item = NULL;
    return go_on;
}

/* Record by record, so that a prompt is prefilled once; timed tasks last, when nothing else competes for the machine's
 * caches. */
static err run_all(worker *w, bool *finished) {
    *finished = false;
    for (int timed = 0; timed < 2; timed++)
        for (w->g = 0; w->g < w->r->n_groups; w->g++)
            for (w->t = 0; w->t < w->r->n_tasks; w->t++)
                for (w->i = 0; w->r->tasks[w->t].timed == (timed == 1) && w->i < w->r->tasks[w->t].n_items; w->i++) {
                    if (!worklist_any(&w->list, w->x, w->g, w->t, w->i)) continue;
                    TRY(open_group(w, w->g));
                    if (!run_item(w)) return OK;
                }
    *finished = true;
    return OK;
}

static err begin(worker *w, work_filter filter, results **made) {
    json_t *header;
    TRY(survey(w->x, made, &w->set));
    w->r = *made;
    TRY(results_header_json(w->r, &header));
    send_line(w, header);
    return worklist_create(w->x, w->r, filter, &w->list);
}

void worker_main(int fd, const experiment *x, const results *r, const worklist *list, work_filter filter) {
    worker w = {.fd = fd, .x = x, .r = r};
    results *made = NULL;
    bool finished = false;
    err e = OK;
    if (r)
        w.list = *list;
    else
        e = begin(&w, filter, &made);
    if (e == OK) e = run_all(&w, &finished);
    if (e != OK)
        send_fatal(&w, e);
    else
        send_line(&w, json_pack("{s:s,s:b}", "kind", "done", "stopped", !finished));
    if (w.set.x) workset_close(&w.set);
    if (!r) {
        worklist_free(&w.list);
        results_free(made);
    }
    close(fd);
    _exit(0);
}
