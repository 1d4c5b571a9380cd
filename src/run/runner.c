#include "run/runner.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "run/journal.h"
#include "run/jsonx.h"
#include "run/lock.h"
#include "run/provenance.h"
#include "run/signals.h"
#include "run/worker.h"

enum { NOTHING = -3, BETWEEN = -4 }; /* no unit begun; none in hand; else a point, WORKER_PREPARE, WORKER_NOISE */

typedef struct runner {
    const experiment *x;
    const run_conf *c;
    journal *journal;
    results *r; /* NULL until the header is known */
    worklist list;
    int lock;
    pid_t pid; /* of the worker, 0 = none */
    int fd;    /* its pipe */
    char *buf; /* bytes of a line not yet whole */
    size_t used, cap;
    int g, t, i, point; /* what the worker is on */
    bool told, done, stopped;
    double spent;
    progress *bar;
    char note[160]; /* what the bar says */
} runner;

/* ---- units ---- */

/* Units weigh what they cost, so that the time left is right; shown as a number of units. */
static double units_done(const runner *run) {
    double n = run->list.n_units + run->list.n_noise;
    return run->list.cost > 0 ? floor(n * run->spent / run->list.cost + 1e-9) : 0;
}

static progress *begin_progress(const runner *run) {
    return progress_begin(run->x->name, run->list.n_units + run->list.n_noise, run->c->progress);
}

static void show_progress(runner *run, const char *label) {
    const result_task *t = &run->r->tasks[run->t];
    snprintf(run->note, sizeof run->note, "%s %s %d/%d", label, t->name, run->i + 1, t->n_items);
    progress_update(run->bar, units_done(run), run->note);
}

/* Everything that ends a unit comes through here: journal first, then memory. */
static err keep_record(runner *run, unit_record *rec, const json_t *line) {
    bool noise = rec->noise;
    int owner = -1, t = -1;
    for (int k = 0; k < run->r->n_tasks; k++)
        if (strcmp(run->r->tasks[k].name, rec->task) == 0) t = k;
    for (int k = 0; k < (noise ? run->r->n_groups : run->r->n_points); k++)
        if (strcmp(noise ? run->r->groups[k].id : run->r->points[k].id, rec->point) == 0) owner = k;
    if (t < 0 || owner < 0 || rec->item >= run->r->tasks[t].n_items)
        return ERR(ERR_FORMAT, "the worker sent a record of an unknown unit (%s %s %d)", rec->label, rec->task,
                   rec->item);
    TRY(journal_append(run->journal, line));
    const result_task *k = &run->r->tasks[t];
    run->spent += k->cost_unit + (noise ? k->cost_prepare : 0);
    *(noise ? worklist_noise(&run->list, owner, t, rec->item) : worklist_unit(&run->list, owner, t, rec->item)) = false;
    if (rec->status == UNIT_FAILED)
        log_error("%s, %s: %s", rec->label, *rec->item_id ? rec->item_id : rec->task, rec->text);
    show_progress(run, rec->label);
    run->point = BETWEEN;
    return results_add(run->r, rec);
}

static err keep_crash(runner *run, int point, const char *why) {
    bool noise = point == WORKER_NOISE;
    unit_record rec = {.noise = noise, .item = run->i, .status = UNIT_CRASHED};
    memcpy(rec.point, noise ? run->r->groups[run->g].id : run->r->points[point].id, sizeof rec.point);
    rec.label = mem_strdup(noise ? "noise" : run->r->points[point].label);
    rec.task = mem_strdup(run->r->tasks[run->t].name);
    rec.item_id = mem_strdup("");
    rec.text = mem_strdup(why);
    json_t *line = NULL;
    err e = unit_record_to_json(&rec, &line);
    if (e == OK) e = keep_record(run, &rec, line);
    json_decref(line);
    unit_record_free(&rec);
    return e;
}

/* The unit in hand gets a row; a record that could not even be prepared costs all units that wait for it. */
static err keep_crashed(runner *run, const char *why) {
    if (run->point == BETWEEN) {
        log_warn("%s between two units; it is started again", why);
        return OK;
    }
    const char *on = run->point == WORKER_PREPARE ? "preparing a record"
                     : run->point == WORKER_NOISE ? "noise"
                                                  : run->r->points[run->point].label;
    const char *plugin = run->point < 0 ? NULL : run->x->points[run->point].plugin_paths;
    char *text = mem_sprintf("%s%s%s", why, plugin ? " in a unit with the plug-in " : "", plugin ? plugin : "");
    log_error("%s, %s %d: %s; the worker is started again", on, run->r->tasks[run->t].name, run->i + 1, text);
    err e = run->point == WORKER_PREPARE ? OK : keep_crash(run, run->point, text);
    mem_free(text);
    if (run->point != WORKER_PREPARE) return e;
    for (int p = 0; p < run->r->n_points; p++)
        if (run->x->points[p].group == run->g && *worklist_unit(&run->list, p, run->t, run->i))
            TRY(keep_crash(run, p, why));
    return *worklist_noise(&run->list, run->g, run->t, run->i) ? keep_crash(run, WORKER_NOISE, why) : OK;
}

/* ---- messages of the worker ---- */

static err take_header(runner *run, const json_t *j) {
    if (run->r) return OK;
    TRY(results_from_header(j, run->x->dir, &run->r));
    TRY(worklist_create(run->x, run->r, run->c->filter, &run->list));
    TRY(journal_append(run->journal, j));
    progress_end(run->bar, true);
    run->bar = begin_progress(run);
    return journal_sync(run->journal);
}

static err take_begin(runner *run, const json_t *j) {
    int g, t, i, p;
    TRY(jsonx_get_int(j, "group", 0, run->r->n_groups - 1, &g));
    TRY(jsonx_get_int(j, "task", 0, run->r->n_tasks - 1, &t));
    TRY(jsonx_get_int(j, "item", 0, run->r->tasks[t].n_items - 1, &i));
    TRY(jsonx_get_int(j, "point", WORKER_NOISE, run->r->n_points - 1, &p));
    run->g = g;
    run->t = t;
    run->i = i;
    run->point = p;
    show_progress(run, p == WORKER_PREPARE ? "prefill" : p == WORKER_NOISE ? "noise floor" : run->r->points[p].label);
    return OK;
}

static err take_message(runner *run, const json_t *j) {
    const char *kind = json_string_value(json_object_get(j, "kind"));
    if (!kind) return ERR(ERR_FORMAT, "a message of the worker has no kind");
    if (strcmp(kind, "sweep") == 0) return take_header(run, j);
    if (strcmp(kind, "fatal") == 0) {
        int code;
        char *text;
        TRY(jsonx_get_int(j, "code", ERR_USAGE, ERR_INTERRUPTED, &code));
        TRY(jsonx_get_text_required(j, "text", &text));
        err e = ERR((err)code, "%s", text);
        mem_free(text);
        return e;
    }
    if (strcmp(kind, "done") == 0) {
        run->done = true;
        return jsonx_get_bool(j, "stopped", &run->stopped);
    }
    if (strcmp(kind, "log") == 0) {
        const char *text = json_string_value(json_object_get(j, "text"));
        log_warn("%s", text ? text : "");
        return OK;
    }
    if (!run->r) return ERR(ERR_FORMAT, "the worker sent %s before the header", kind);
    if (strcmp(kind, "begin") == 0) return take_begin(run, j);
    if (strcmp(kind, "prepared") == 0) {
        run->spent += run->r->tasks[run->t].cost_prepare;
        run->point = BETWEEN;
        return OK;
    }
    unit_record rec;
    TRY(unit_record_from_json(j, &rec));
    err e = keep_record(run, &rec, j);
    unit_record_free(&rec);
    return e;
}

static err take_lines(runner *run) {
    size_t start = 0;
    for (;;) {
        char *nl = memchr(run->buf + start, '\n', run->used - start);
        if (!nl) break;
        json_error_t je;
        json_t *j = json_loadb(run->buf + start, (size_t)(nl - run->buf) - start, 0, &je);
        if (!j) return ERR(ERR_FORMAT, "a message of the worker is not JSON: %s", je.text);
        err e = take_message(run, j);
        json_decref(j);
        TRY(e);
        start = (size_t)(nl - run->buf) + 1;
    }
    memmove(run->buf, run->buf + start, run->used - start);
    run->used -= start;
    return OK;
}

/* ---- the worker process ---- */

static err start_worker(runner *run) {
    int fds[2];
    if (pipe(fds) != 0) return ERR(ERR_IO, "cannot make a pipe: %s", strerror(errno));
    pid_t parent = getpid(), pid = fork();
    if (pid < 0) {
        close(fds[0]);
        close(fds[1]);
        return ERR(ERR_NOMEM, "cannot start a worker process: %s", strerror(errno));
    }
    if (pid == 0) {
        signals_install_worker();
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        close(fds[0]);
        lock_release(run->lock);
        worker_main(fds[1], run->x, run->r, run->r ? &run->list : NULL, run->c->filter);
    }
    close(fds[1]);
    run->fd = fds[0];
    run->pid = pid;
    run->point = NOTHING;
    run->used = 0;
    run->told = false;
    signals_set_child(pid);
    return OK;
}

/* Waits for bytes of the worker; *end when it has closed its side. */
static err read_some(runner *run, bool *end) {
    struct pollfd p = {.fd = run->fd, .events = POLLIN};
    if (signals_pending() && !run->told) {
        log_info("finishing the unit in hand; a second signal ends at once");
        kill(run->pid, SIGTERM);
        run->told = true;
    }
    int n = poll(&p, 1, 500);
    if (n < 0 && errno != EINTR) return ERR(ERR_IO, "cannot wait for the worker: %s", strerror(errno));
    if (n <= 0) {
        if (run->r) progress_update(run->bar, units_done(run), run->note);
        return journal_sync(run->journal);
    }
    if (run->cap - run->used < 65536) {
        size_t cap = 2 * run->cap + 131072;
        char *larger;
        TRY(mem_alloc(MEM_OTHER, cap, &larger));
        if (run->used) memcpy(larger, run->buf, run->used);
        mem_free(run->buf);
        run->buf = larger;
        run->cap = cap;
    }
    ssize_t k = read(run->fd, run->buf + run->used, run->cap - run->used);
    if (k < 0 && errno == EINTR) return OK;
    if (k < 0) return ERR(ERR_IO, "cannot read from the worker: %s", strerror(errno));
    *end = k == 0;
    run->used += (size_t)k;
    return k > 0 ? take_lines(run) : OK;
}

static void describe_death(int status, char *out, size_t n) {
    if (WIFSIGNALED(status))
        snprintf(out, n, "the worker died of signal %d (%s)%s", WTERMSIG(status), strsignal(WTERMSIG(status)),
                 WTERMSIG(status) == SIGKILL ? ", perhaps for lack of memory" : "");
    else
        snprintf(out, n, "the worker ended with status %d", WEXITSTATUS(status));
}

static void stop_worker(runner *run, bool kill_it, int *status) {
    if (run->pid == 0) return;
    if (kill_it) kill(run->pid, SIGKILL);
    while (waitpid(run->pid, status, 0) < 0 && errno == EINTR) {
    }
    close(run->fd);
    signals_set_child(0);
    run->pid = 0;
}

/* One worker from start to end. */
static err run_worker(runner *run) {
    int status = 0;
    bool end = false;
    TRY(start_worker(run));
    err e = OK;
    while (e == OK && !end) e = read_some(run, &end);
    stop_worker(run, e != OK, &status);
    if (e != OK || run->done) return e;
    char why[160];
    describe_death(status, why, sizeof why);
    if (!run->r || run->point == NOTHING) return ERR(ERR_FAILED, "%s before it began a unit", why);
    return keep_crashed(run, why);
}

static err run_workers(runner *run) {
    while (!run->done) {
        TRY(run_worker(run));
        if (signals_pending()) run->done = run->stopped = true;
        if (run->r && !run->done) {
            int left = 0;
            for (size_t k = 0, n = (size_t)run->r->n_points * (size_t)run->r->n_tasks * (size_t)run->r->max_items;
                 k < n; k++)
                left += run->list.unit[k];
            for (size_t k = 0, n = (size_t)run->r->n_groups * (size_t)run->r->n_tasks * (size_t)run->r->max_items;
                 k < n; k++)
                left += run->list.noise[k];
            run->done = left == 0;
        }
    }
    return OK;
}

/* ---- the directory ---- */

/* A journal without a readable header is that of a run that was killed before it began. */
static err has_header(void *arg, int line, const json_t *value) {
    const char *kind = json_string_value(json_object_get(value, "kind"));
    *(bool *)arg |= kind && strcmp(kind, "sweep") == 0;
    return OK;
}

static err find_results(const char *dir, results **out) {
    char *folder = io_join(dir, "journal"), **paths = NULL;
    int n = 0;
    bool found = false;
    err e = OK;
    *out = NULL;
    if (io_exists(folder)) e = journal_list(dir, &paths, &n);
    for (int i = 0; i < n && e == OK; i++) {
        journal_report rep;
        e = journal_read(paths[i], has_header, &found, &rep);
    }
    journal_list_free(paths, n);
    mem_free(folder);
    if (e == OK && found) e = results_load(dir, out);
    return e;
}

/* --force: journals are kept under a name that nobody reads. */
static err put_aside(const char *dir) {
    char **paths;
    int n;
    TRY(journal_list(dir, &paths, &n));
    err e = OK;
    for (int i = 0; i < n && e == OK; i++) {
        char *aside = mem_sprintf("%s.replaced-%lld", paths[i], (long long)clock_wall());
        if (rename(paths[i], aside) != 0) e = ERR(ERR_IO, "cannot rename %s: %s", paths[i], strerror(errno));
        mem_free(aside);
    }
    journal_list_free(paths, n);
    return e;
}

static err adopt(runner *run) {
    const experiment *x = run->x;
    results *old;
    TRY(find_results(x->dir, &old));
    if (old && run->c->fresh) {
        results_free(old);
        return put_aside(x->dir);
    }
    if (!old) return run->c->must_exist ? ERR(ERR_USAGE, "%s holds no journal to resume", x->dir) : OK;
    if (strcmp(old->sweep_id, x->id) != 0) {
        err e = ERR(ERR_USAGE,
                    "%s holds the results of another sweep (%s, %d points, id %s; this one is %s): choose a directory "
                    "with -o%s",
                    x->dir, old->name, old->n_points, old->sweep_id, x->id,
                    run->c->must_exist ? "" : ", or --force to start anew");
        results_free(old);
        return e;
    }
    run->r = old;
    int n = old->n_ok + old->n_failed + old->n_crashed + old->n_skipped;
    if (n) log_info("%s: %d of %d units are there already", x->dir, n, old->n_expected);
    return worklist_create(x, old, run->c->filter, &run->list);
}

static err write_text(const char *dir, const char *name, const char *text) {
    char *path = io_join(dir, name);
    err e = io_write_file(path, text, strlen(text));
    mem_free(path);
    return e;
}

static err write_descriptions(runner *run) {
    const experiment *x = run->x;
    char *resolved;
    if (!run->c->must_exist) TRY(write_text(x->dir, "sweep.yaml", x->yaml));
    TRY(experiment_resolved_yaml(x, &resolved));
    err e = write_text(x->dir, "resolved.yaml", resolved);
    mem_free(resolved);
    return e;
}

static err open_directory(runner *run) {
    const experiment *x = run->x;
    char *folder = io_join(x->dir, "journal"), *path = io_join(folder, "units.jsonl");
    err e;
    GOTO(done, e, io_make_dirs(folder));
    GOTO(done, e, lock_take(x->dir, &run->lock));
    GOTO(done, e, adopt(run));
    GOTO(done, e, write_descriptions(run));
    GOTO(done, e, provenance_write(x, run->r != NULL));
    e = journal_open(path, &run->journal);
done:
    mem_free(folder);
    mem_free(path);
    return e;
}

static bool nothing_to_do(const runner *run) {
    return run->r && run->list.n_units == 0 && run->list.n_noise == 0;
}

err runner_run(const experiment *x, const run_conf *c, results **out) {
    runner run = {.x = x, .c = c, .lock = -1, .point = NOTHING};
    *out = NULL;
    signals_install();
    err e = open_directory(&run);
    if (e == OK && !nothing_to_do(&run)) {
        run.bar = run.r ? begin_progress(&run) : progress_begin("survey", 1, false);
        e = run_workers(&run);
        progress_end(run.bar, e == OK && !run.stopped);
    }
    err closed = journal_close(run.journal);
    if (e == OK) e = closed;
    if (e == OK && run.stopped) e = ERR(ERR_INTERRUPTED, "stopped by a signal; `kvlab resume %s` goes on", x->dir);
    lock_release(run.lock);
    worklist_free(&run.list);
    mem_free(run.buf);
    results_free(run.r);
    if (e == OK) return results_load(x->dir, out); /* what counts is what the journal holds */
    return e;
}
