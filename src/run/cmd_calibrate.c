/* kvlab calibrate: numbers of a policy that meet a goal on calibration text, the curve, and a preset. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "base/mem.h"
#include "run/calibrate.h"
#include "run/jsonx.h"

static const char *last_part(const char *path) {
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

static int column_width(const knob *k) {
    int n = (int)strlen(last_part(k->path));
    return n < 9 ? 9 : n;
}

static void print_head(FILE *f, const char *lead, const calibrate_conf *c) {
    fputs(lead, f);
    for (int k = 0; k < c->n_knobs; k++) fprintf(f, "%*s ", column_width(&c->knobs[k]), last_part(c->knobs[k].path));
    fprintf(f, "%7s %7s %7s %9s %18s %9s %7s\n", "bytes", "at end", "paper", "kl", "95 %", "dnll", "top1");
}

static void print_row(FILE *f, const char *lead, const calibrate_conf *c, const calibrate_point *p) {
    fputs(lead, f);
    for (int k = 0; k < c->n_knobs; k++) fprintf(f, "%*.6g ", column_width(&c->knobs[k]), p->value[k]);
    if (p->refused) {
        fprintf(f, "refused: %s\n", p->why);
        return;
    }
    char range[40] = "";
    if (p->kl.n > 1) snprintf(range, sizeof range, "%.5f..%.5f", p->kl.lo, p->kl.hi);
    fprintf(f, "%7.4f %7.4f %7.4f %9.5f %18s %+9.5f %7.4f%s\n", p->bytes, p->bytes_end, p->data_bits, p->kl.mean, range, p->dnll.mean, p->top1,
            calibrate_meets(&c->goal, p) ? "  *" : "");
}

static void print_found(void *arg, const calibrate_conf *c, const calibrate_point *p) {
    const options *o = arg;
    if (o->json) return;
    print_row(stdout, "", c, p);
    fflush(stdout);
}

/* ---- the preset ---- */

static void write_comments(FILE *f, const session *s, const options *o, const calibrate_conf *c, const calibrate_result *r) {
    fprintf(f, "# %d records of %d + %d tokens of %s (SHA-256 %.16s), from token %d, %s math, seed %lld.\n", c->records, c->context, c->tokens,
            r->text_name, r->text_sha256, c->skip, s->g.math == MATH_FAST ? "fast" : "exact", (long long)s->g.seed);
    fprintf(f, "# Model %s (SHA-256 %.16s): numbers found for one model do not suit another.\n", s->g.model, s->g.model_sha256);
    fprintf(f, "# bytes: live, of an f16 cache of the prompt; at end: after decoding; paper: data bits alone; * meets %s.\n#\n", o->goal);
    print_head(f, "#", c);
    for (int i = 0; i < r->n; i++) print_row(f, "#", c, &r->points[i]);
}

static err write_preset(const session *s, const options *o, const calibrate_conf *c, const calibrate_result *r) {
    const calibrate_point *best = &r->points[r->best];
    node *policy;
    io_file f;
    TRY(calibrate_policy(s, c, best, &policy));
    err e = io_begin(o->write, &f);
    if (e != OK) {
        node_free(policy);
        return e;
    }
    char *yaml = node_yaml(policy), name[80];
    snprintf(name, sizeof name, "%.79s", o->policy);
    for (char *q = name; *q; q++) /* a quoted scalar stays one line */
        if (*q == '"' || *q == '\\' || (unsigned char)*q < ' ') *q = '_';
    write_comments(f.f, s, o, c, r);
    fprintf(f.f, "origin: \"kvlab calibrate: %s under %s\"\n", name, o->goal);
    fprintf(f.f, "summary: \"%s at", name);
    for (int k = 0; k < c->n_knobs; k++) fprintf(f.f, "%s %s %.6g", k ? "," : "", last_part(c->knobs[k].path), best->value[k]);
    fprintf(f.f, ": KL %.5f at %.4f of the bytes of an f16 cache\"\npolicy:\n", best->kl.mean, best->bytes);
    for (const char *line = yaml; *line;) {
        size_t n = strcspn(line, "\n");
        if (n) fprintf(f.f, "  %.*s\n", (int)n, line);
        line += n + (line[n] == '\n');
    }
    mem_free(yaml);
    node_free(policy);
    return io_commit(&f);
}

/* ---- output ---- */

static json_t *interval_json(const interval *i) {
    return json_pack("{s:o,s:o,s:o,s:i}", "mean", jsonx_number(i->mean), "lo", jsonx_number(i->lo), "hi", jsonx_number(i->hi), "n", i->n);
}

static err print_json(const session *s, const calibrate_conf *c, const calibrate_result *r) {
    json_t *points = json_array();
    for (int i = 0; i < r->n; i++) {
        const calibrate_point *p = &r->points[i];
        json_t *values = json_object();
        for (int k = 0; k < c->n_knobs; k++) json_object_set_new(values, c->knobs[k].path, jsonx_number(p->value[k]));
        if (p->refused) {
            json_array_append_new(points, json_pack("{s:o,s:o}", "values", values, "refused", jsonx_text(p->why)));
            continue;
        }
        json_array_append_new(points, json_pack("{s:o,s:o,s:o,s:f,s:f,s:f,s:f,s:b}", "values", values, "kl", interval_json(&p->kl), "dnll",
                                                interval_json(&p->dnll), "top1", p->top1, "bytes", p->bytes, "bytes_end", p->bytes_end, "data_bits",
                                                p->data_bits, "meets", calibrate_meets(&c->goal, p)));
    }
    json_t *root = json_pack("{s:s,s:f,s:o,s:i,s:o,s:s,s:o,s:s}", "goal", goal_names[c->goal.kind], "limit", c->goal.limit, "points", points, "best", r->best,
                             "model", jsonx_text(s->g.model), "model_sha256", s->g.model_sha256, "text", jsonx_text(r->text_name), "text_sha256",
                             r->text_sha256);
    char *text = root ? json_dumps(root, JSONX_DUMP) : NULL;
    json_decref(root);
    if (!text) return ERR(ERR_NOMEM, "out of memory: the curve cannot be encoded");
    puts(text);
    free(text);
    return OK;
}

static err no_point(const options *o, const calibrate_conf *c, const calibrate_result *r) {
    bool bytes = c->goal.kind == GOAL_BYTES;
    double nearest = INFINITY;
    int refused = 0;
    for (int i = 0; i < r->n; i++) {
        const calibrate_point *p = &r->points[i];
        refused += p->refused;
        if (!p->refused) nearest = fmin(nearest, bytes ? p->bytes : c->goal.kind == GOAL_DNLL ? p->dnll.mean : p->kl.mean);
    }
    if (refused == r->n) return ERR(ERR_USAGE, "no point is a policy: %s", r->points[0].why);
    return ERR(ERR_FAILED, "none of %d points meets --goal %s; the nearest has %.5f: vary further, or relax the goal", r->n - refused, o->goal, nearest);
}

/* The best value at the end of what was given may not be the best there is. */
static void name_ends(const calibrate_conf *c, const calibrate_point *best) {
    for (int k = 0; k < c->n_knobs; k++) {
        double lo = INFINITY, hi = -INFINITY;
        for (int i = 0; i < c->knobs[k].n; i++) lo = fmin(lo, c->knobs[k].value[i]), hi = fmax(hi, c->knobs[k].value[i]);
        if (lo < hi && (best->value[k] == lo || best->value[k] == hi))
            printf("%s=%.6g is at the end of its values: --vary further that way may be better\n", c->knobs[k].path, best->value[k]);
    }
}

static err finish(const session *s, const options *o, const calibrate_conf *c, const calibrate_result *r) {
    if (o->json) TRY(print_json(s, c, r));
    if (r->best < 0) return no_point(o, c, r);
    if (!o->json) {
        printf("\nbest within %s:", o->goal);
        for (int k = 0; k < c->n_knobs; k++) printf(" %s=%.6g", c->knobs[k].path, r->points[r->best].value[k]);
        printf("\n");
        name_ends(c, &r->points[r->best]);
    }
    if (!o->write) return OK;
    TRY(write_preset(s, o, c, r));
    if (!o->json) printf("written to %s: use it as --policy %s\n", o->write, o->write);
    return OK;
}

static err prepare(const session *s, const options *o, calibrate_conf *c) {
    if (o->vary.n > CALIBRATE_MAX_KNOBS) return ERR(ERR_USAGE, "at most %d --vary are supported, not %d", CALIBRATE_MAX_KNOBS, o->vary.n);
    for (int i = 0; i < o->vary.n; i++) TRY(knob_parse(o->vary.at[i], &c->knobs[c->n_knobs++]));
    for (int i = 0; i < c->n_knobs; i++)
        for (int j = 0; j < i; j++)
            if (!strcmp(c->knobs[i].path, c->knobs[j].path)) return ERR(ERR_USAGE, "--vary names %s twice", c->knobs[i].path);
    if (o->vary.n == 0) TRY(knobs_of_policy(s->policy, c->knobs, &c->n_knobs));
    if (c->n_knobs == 0) return ERR(ERR_USAGE, "nothing is known about what to vary in this policy: name it, like --vary budget.bytes=0.1,0.2,0.4");
    return OK;
}

err cmd_calibrate(const options *o) {
    session s;
    calibrate_conf c = {.rounds = o->rounds, .records = o->records, .context = o->context, .tokens = o->tokens, .skip = o->skip, .text = o->text,
                        .data = o->data, .show_progress = !o->no_progress && !o->quiet, .found = print_found, .arg = (void *)o};
    calibrate_result r = {.best = -1};
    if (o->heads) return calibrate_heads(o);
    if (o->loss || o->join) return ERR(ERR_USAGE, "--%s needs --heads: it is about head profiles", o->loss ? "loss" : "join");
    if (o->n_args) return ERR(ERR_USAGE, "kvlab calibrate takes texts as arguments only with --heads: name one with --text");
    if (!o->goal) return ERR(ERR_USAGE, "kvlab calibrate needs --goal: kl=NATS, dnll=NATS or bytes=SHARE");
    if (!o->policy) return ERR(ERR_USAGE, "kvlab calibrate needs --policy: the one whose numbers are sought, like leankv");
    TRY(goal_parse(o->goal, &c.goal));
    TRY(session_open(o, &s));
    err e = prepare(&s, o, &c);
    if (e == OK && !o->json) print_head(stdout, "", &c);
    if (e == OK) e = calibrate_run(&s, &c, &r);
    if (e == OK) e = finish(&s, o, &c, &r);
    calibrate_free(&r);
    knobs_free(c.knobs, c.n_knobs);
    session_close(&s);
    return e;
}
