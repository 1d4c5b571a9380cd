#include "run/calibrate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"

typedef struct bench { /* the records, prefilled once each */
    text_source *text;
    task *lm;
    task_item *items[CALIBRATE_MAX_RECORDS];
    int n, kl, dnll, top1; /* records; indices of metrics */
} bench;

typedef struct search {
    const session *s;
    const calibrate_conf *c;
    calibrate_result *r;
    bench b;
    progress *bar;
    int planned;
} search;

/* ---- records ---- */

static err open_task(const session *s, const calibrate_conf *c, bench *b) {
    char conf[200];
    node *n;
    TRY(text_source_open(c->text, c->data, &b->text));
    snprintf(conf, sizeof conf, "{task: lm, context: %d, tokens: %d, skip: %d, stride: %d, records: %d}", c->context, c->tokens, c->skip, c->stride, c->records);
    TRY(node_parse_text(conf, strlen(conf), "calibrate", &n));
    err e = task_create(n, s->e, b->text, s->g.seed, &b->lm);
    node_free(n);
    return e;
}

static err bench_open(const session *s, const calibrate_conf *c, bench *b) {
    const task_metric *m;
    TRY(open_task(s, c, b));
    int n = task_list_metrics(b->lm, &m);
    for (int i = 0; i < n; i++) {
        if (!strcmp(m[i].name, "kl")) b->kl = i;
        if (!strcmp(m[i].name, "dnll")) b->dnll = i;
        if (!strcmp(m[i].name, "top1")) b->top1 = i;
    }
    int records = task_n_items(b->lm);
    for (b->n = 0; b->n < records; b->n++) {
        TRY(task_item_open(b->lm, b->n, &b->items[b->n]));
        err e = task_item_prepare(b->items[b->n], s->e);
        if (e != OK) {
            task_item_close(b->items[b->n]);
            return e;
        }
    }
    return OK;
}

static void bench_close(bench *b) {
    for (int i = 0; i < b->n; i++) task_item_close(b->items[i]);
    if (b->lm) task_destroy(b->lm);
    if (b->text) text_source_close(b->text);
}

/* ---- one point ---- */

err calibrate_policy(const session *s, const calibrate_conf *c, const calibrate_point *p, node **out) {
    *out = node_clone(s->policy);
    for (int k = 0; k < c->n_knobs; k++) {
        char number[40];
        snprintf(number, sizeof number, "%.10g", p->value[k]);
        err e = node_set_text(*out, c->knobs[k].path, number, "--vary");
        if (e != OK) {
            node_free(*out);
            *out = NULL;
            return e;
        }
    }
    return OK;
}

static err measure(const search *x, policy *p, cache_space *space, calibrate_point *out) {
    const bench *b = &x->b;
    double kl[CALIBRATE_MAX_RECORDS], dnll[CALIBRATE_MAX_RECORDS], live = 0, end = 0, payload = 0, full = 0, full_end = 0;
    for (int i = 0; i < b->n; i++) {
        task_result r;
        TRY(task_item_run(b->items[i], x->s->e, space, p, x->s->g.seed, &r));
        kl[i] = r.value[b->kl];
        dnll[i] = r.value[b->dnll];
        out->top1 += r.value[b->top1] / b->n;
        live += (double)r.at_prompt.live;
        payload += (double)r.at_prompt.payload;
        full += (double)r.at_prompt.full_f16;
        end += (double)r.at_end.live;
        full_end += (double)r.at_end.full_f16;
        task_result_free(&r);
    }
    stats_conf sc = {10000, 0.95, x->s->g.seed};
    out->kl = stats_mean(kl, b->n, sc);
    out->dnll = stats_mean(dnll, b->n, sc);
    out->bytes = live / full;
    out->bytes_end = end / full_end;
    out->data_bits = payload / full;
    return OK;
}

static bool seen(const search *x, const calibrate_point *p, int *at) {
    for (*at = 0; *at < x->r->n; ++*at)
        if (!memcmp(x->r->points[*at].value, p->value, sizeof p->value)) return true;
    return false;
}

static double loss_of(const goal *g, const calibrate_point *p) { return g->kind == GOAL_DNLL ? p->dnll.mean : p->kl.mean; }

bool calibrate_meets(const goal *g, const calibrate_point *p) {
    return !p->refused && (g->kind == GOAL_BYTES ? p->bytes : loss_of(g, p)) <= g->limit;
}

/* Both within the goal: fewer bytes win under a loss limit, a smaller loss under a byte target; then the other; then the earlier. */
static bool better(const goal *g, const calibrate_point *a, const calibrate_point *b) {
    double xa = a->bytes, xb = b->bytes, ya = loss_of(g, a), yb = loss_of(g, b);
    if (g->kind == GOAL_BYTES) return ya != yb ? ya < yb : xa < xb;
    return xa != xb ? xa < xb : ya < yb;
}

static void note_best(search *x, int at) {
    calibrate_result *r = x->r;
    if (!calibrate_meets(&x->c->goal, &r->points[at])) return;
    if (r->best < 0 || better(&x->c->goal, &r->points[at], &r->points[r->best])) r->best = at;
}

/* Evaluates a point unless it is known; *at is its place. A policy that cannot be is a point that meets nothing. */
static err evaluate(search *x, const double *value, int *at) {
    calibrate_point p = {0};
    memcpy(p.value, value, sizeof p.value);
    if (seen(x, &p, at)) return OK;
    if (x->r->n == CALIBRATE_MAX_POINTS) return ERR(ERR_USAGE, "more than %d points: give fewer values", CALIBRATE_MAX_POINTS);
    node *conf;
    policy *pol = NULL;
    cache_space *space = NULL;
    TRY(calibrate_policy(x->s, x->c, &p, &conf));
    err e = session_policy(x->s, conf, x->c->context + x->c->tokens, &pol, &space);
    if (e == ERR_USAGE) {
        p.refused = true;
        snprintf(p.why, sizeof p.why, "%s", err_text());
        e = OK;
    } else if (e == OK) {
        e = measure(x, pol, space, &p);
    }
    cache_space_destroy(space);
    policy_destroy(pol);
    node_free(conf);
    TRY(e);
    *at = x->r->n;
    x->r->points[x->r->n++] = p;
    note_best(x, *at);
    if (x->c->found) x->c->found(x->c->arg, x->c, &x->r->points[*at]);
    progress_update(x->bar, x->r->n < x->planned ? x->r->n : x->planned, NULL);
    return OK;
}

/* ---- search ---- */

static err walk_grid(search *x) {
    const calibrate_conf *c = x->c;
    int index[CALIBRATE_MAX_KNOBS] = {0}, k, at;
    do {
        double value[CALIBRATE_MAX_KNOBS] = {0};
        for (k = 0; k < c->n_knobs; k++) value[k] = c->knobs[k].value[index[k]];
        TRY(evaluate(x, value, &at));
        for (k = c->n_knobs - 1; k >= 0 && ++index[k] == c->knobs[k].n; k--) index[k] = 0;
    } while (k >= 0);
    return OK;
}

/* The nearest value of the grid on one side of `from`; false if there is none. */
static bool neighbour(const knob *k, double from, bool above, double *out) {
    bool any = false;
    for (int i = 0; i < k->n; i++) {
        double v = k->value[i];
        if (above ? v <= from : v >= from) continue;
        if (!any || (above ? v < *out : v > *out)) *out = v;
        any = true;
    }
    return any;
}

static bool whole_numbers(const knob *k) {
    for (int i = 0; i < k->n; i++)
        if (k->value[i] != floor(k->value[i])) return false;
    return true;
}

/* Bisection from the best point towards a neighbour: the middle becomes the best point or the new far end. A policy that takes only
 * whole numbers refuses others: then the middle is rounded. */
static err refine_side(search *x, int k, bool above) {
    const knob *kn = &x->c->knobs[k];
    double far = 0;
    bool whole = false;
    if (!neighbour(kn, x->r->points[x->r->best].value[k], above, &far)) return OK;
    for (int i = 0; i < x->c->rounds; i++) {
        double value[CALIBRATE_MAX_KNOBS], near = x->r->points[x->r->best].value[k], mid = (near + far) / 2;
        if (whole) mid = floor(mid);
        if (mid == near || mid == far) return OK;
        int best = x->r->best, at;
        memcpy(value, x->r->points[best].value, sizeof value);
        value[k] = mid;
        TRY(evaluate(x, value, &at));
        if (x->r->points[at].refused && !whole && mid != floor(mid) && whole_numbers(kn)) {
            whole = true;
            continue;
        }
        if (x->r->best != at) far = mid;
    }
    return OK;
}

static err refine(search *x) {
    for (int k = 0; k < x->c->n_knobs && x->r->best >= 0; k++) {
        TRY(refine_side(x, k, true));
        TRY(refine_side(x, k, false));
    }
    return OK;
}

err calibrate_run(const session *s, const calibrate_conf *c, calibrate_result *out) {
    *out = (calibrate_result){.best = -1};
    int grid = 1;
    for (int k = 0; k < c->n_knobs; k++) {
        grid *= c->knobs[k].n;
        if (grid > CALIBRATE_MAX_POINTS) return ERR(ERR_USAGE, "the values of --vary make more than %d points", CALIBRATE_MAX_POINTS);
    }
    search x = {.s = s, .c = c, .r = out, .planned = grid + 2 * c->n_knobs * c->rounds};
    TRY(mem_alloc(MEM_OTHER, sizeof *out->points * CALIBRATE_MAX_POINTS, &out->points));
    err e = bench_open(s, c, &x.b);
    if (e == OK) {
        out->text_name = mem_strdup(text_source_name(x.b.text));
        out->text_sha256 = mem_strdup(text_source_sha256(x.b.text));
        x.bar = progress_begin("calibrate", x.planned, c->show_progress);
        e = walk_grid(&x);
        if (e == OK) e = refine(&x);
        progress_end(x.bar, e == OK);
    }
    bench_close(&x.b);
    return e;
}

void calibrate_free(calibrate_result *r) {
    mem_free(r->points);
    mem_free(r->text_name);
    mem_free(r->text_sha256);
    *r = (calibrate_result){.best = -1};
}
