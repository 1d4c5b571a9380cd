/* DIR/export: the results as tables that any program reads (CSV), as one JSON file, and as the data of the figures. */
#include "run/export.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "run/jsonx.h"
#include "run/outputs.h"
#include "run/plot.h"

const char *const export_byte_names[EXPORT_N_BYTES] = {"payload", "metadata",  "columns",  "tables", "live",
                                                       "slack",   "committed", "full_f16", "ratio"};

double export_byte_value(const cache_bytes *b, int k) {
    const size_t field[EXPORT_N_BYTES - 1] = {b->payload, b->metadata, b->columns,   b->tables,
                                              b->live,    b->slack,    b->committed, b->full_f16};
    if (k < EXPORT_N_BYTES - 1) return (double)field[k];
    return b->full_f16 ? (double)b->live / (double)b->full_f16 : NAN;
}

const char *export_direction_name(metric_direction d) {
    static const char *const names[] = {"neutral", "higher", "lower"};
    return names[d];
}

char *export_point_axes(const result_point *p) {
    json_t *o = json_object();
    for (int i = 0; i < p->n_axes; i++) json_object_set_new(o, p->axes[i].path, jsonx_text(p->axes[i].text));
    char *text = json_dumps(o, JSON_COMPACT), *copy = mem_strdup(text ? text : "{}");
    free(text);
    json_decref(o);
    return copy;
}

char *export_point_tiers(const result_point *p) {
    char *all = mem_strdup("");
    for (int i = 0; i < p->n_tiers; i++) {
        char *longer = mem_sprintf("%s%s%s", all, i ? " " : "", p->tiers[i]);
        mem_free(all);
        all = longer;
    }
    return all;
}

char *export_item_id(const results *r, int task, int item) {
    for (int p = 0; p < r->n_points; p++) {
        const unit_record *u = results_unit(r, p, task, item);
        if (u && u->item_id && *u->item_id) return mem_strdup(u->item_id);
    }
    return mem_sprintf("item %d", item);
}

char *export_file_word(const char *text) {
    char *word = mem_strdup(text);
    for (char *c = word; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("._-=", *c)) *c = '_';
    return word;
}

/* ---- CSV ---- */

void csv_text(FILE *f, const char *text) {
    if (!text) return;
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, f);
        return;
    }
    fputc('"', f);
    for (; *text; text++) {
        if (*text == '"') fputc('"', f);
        fputc(*text, f);
    }
    fputc('"', f);
}

void csv_number(FILE *f, double x) {
    if (!isnan(x)) fprintf(f, "%.17g", x);
}

static void csv_texts(FILE *f, const char *const *texts, int n) {
    for (int i = 0; i < n; i++) {
        csv_text(f, texts[i]);
        fputc(',', f);
    }
}

static void write_points(const summary *s, FILE *f) {
    const results *r = s->r;
    fprintf(f, "id,label,policy,tiers,axes,full,group,model,model_sha256,backend,isa,math,threads,context,seed,"
               "records,bytes_per_token,bytes_per_token_f16,ratio,kept,payload,metadata,columns,tables,slack,committed,"
               "budget_clamped\n");
    for (int i = 0; i < r->n_points; i++) {
        const result_point *p = &r->points[i];
        const result_group *g = &r->groups[p->group];
        char *axes = export_point_axes(p), *tiers = export_point_tiers(p);
        csv_texts(f,
                  (const char *const[]){p->id, p->label, p->policy, tiers, axes, p->full ? "1" : "0", g->id, g->model,
                                        g->model_sha256, g->backend, g->isa, g->math},
                  12);
        summary_bytes b = summary_point_bytes(s, i);
        fprintf(f, "%d,%d,%llu,%d", g->threads, g->context, (unsigned long long)g->seed, b.n);
        const double x[] = {b.live_per_token, b.full_per_token, b.ratio,  b.kept,  b.payload,
                            b.metadata,       b.columns,        b.tables, b.slack, b.committed};
        for (size_t k = 0; k < sizeof x / sizeof *x; k++) {
            fputc(',', f);
            csv_number(f, b.n ? x[k] : NAN);
        }
        fprintf(f, ",%d\n", b.n_clamped);
        mem_free(axes);
        mem_free(tiers);
    }
}

static void write_items(const summary *s, FILE *f) {
    const results *r = s->r;
    fprintf(f, "point,point_id,task,item,item_id,status,text,n_prompt,n_decoded,budget_clamped");
    for (int k = 0; k < EXPORT_N_BYTES; k++) fprintf(f, ",prompt_%s", export_byte_names[k]);
    for (int k = 0; k < EXPORT_N_BYTES; k++) fprintf(f, ",end_%s", export_byte_names[k]);
    fprintf(f, ",seconds,output\n");
    for (int p = 0; p < r->n_points; p++)
        for (int t = 0; t < r->n_tasks; t++)
            for (int i = 0; i < r->tasks[t].n_items; i++) {
                const unit_record *u = results_unit(r, p, t, i);
                if (!u) continue;
                csv_texts(f, (const char *const[]){r->points[p].label, r->points[p].id, r->tasks[t].name}, 3);
                fprintf(f, "%d,", i);
                csv_texts(f, (const char *const[]){u->item_id, unit_status_name(u->status), u->text}, 3);
                fprintf(f, "%d,%d,%d", u->n_prompt, u->n_decoded, u->budget_clamped);
                for (int k = 0; k < 2 * EXPORT_N_BYTES; k++) {
                    fputc(',', f);
                    csv_number(f,
                               export_byte_value(k < EXPORT_N_BYTES ? &u->at_prompt : &u->at_end, k % EXPORT_N_BYTES));
                }
                fputc(',', f);
                csv_number(f, u->seconds);
                fputc(',', f);
                csv_text(f, u->output);
                fputc('\n', f);
            }
}

static void write_metrics(const summary *s, FILE *f) {
    const results *r = s->r;
    fprintf(f, "point,point_id,task,metric,item,item_id,value\n");
    for (int p = 0; p < r->n_points; p++)
        for (int t = 0; t < r->n_tasks; t++)
            for (int i = 0; i < r->tasks[t].n_items; i++) {
                const unit_record *u = results_unit(r, p, t, i);
                for (int m = 0; u && u->status == UNIT_OK && m < r->tasks[t].n_metrics; m++) {
                    const char *name = r->tasks[t].metrics[m].name;
                    csv_texts(f, (const char *const[]){r->points[p].label, r->points[p].id, r->tasks[t].name, name}, 4);
                    fprintf(f, "%d,", i);
                    csv_texts(f, (const char *const[]){u->item_id}, 1);
                    csv_number(f, unit_record_metric(u, name));
                    fputc('\n', f);
                }
            }
}

static void write_summary(const summary *s, FILE *f) {
    const results *r = s->r;
    fprintf(f, "point,point_id,task,metric,unit,direction,timing,n,mean,lo,hi,diff_n,diff_mean,diff_lo,diff_hi,verdict,"
               "noise\n");
    for (int p = 0; p < r->n_points; p++)
        for (int t = 0; t < r->n_tasks; t++)
            for (int m = 0; m < r->tasks[t].n_metrics; m++) {
                const summary_cell *c = summary_at(s, p, t, m);
                const result_metric *d = &r->tasks[t].metrics[m];
                if (!c->present) continue;
                csv_texts(f,
                          (const char *const[]){r->points[p].label, r->points[p].id, r->tasks[t].name, d->name, d->unit,
                                                export_direction_name(d->direction)},
                          6);
                fprintf(f, "%d", d->timing);
                const interval *v[] = {&c->mean, &c->diff};
                for (int k = 0; k < 2; k++) {
                    fprintf(f, ",%d", v[k]->n);
                    const double x[] = {v[k]->mean, v[k]->lo, v[k]->hi};
                    for (int q = 0; q < 3; q++) {
                        fputc(',', f);
                        csv_number(f, v[k]->n ? x[q] : NAN);
                    }
                }
                fprintf(f, ",%s,", summary_verdict_name(c->verdict));
                csv_number(f, c->noise);
                fputc('\n', f);
            }
}

static MUST err write_csv(const summary *s, const char *dir, const char *name, void (*write)(const summary *, FILE *)) {
    char *path = io_join(dir, name);
    io_file f;
    err e = io_begin(path, &f);
    if (e == OK) {
        write(s, f.f);
        e = io_commit(&f);
    }
    mem_free(path);
    return e;
}

err outputs_export(const results *r, const char *dir) {
    static const struct {
        const char *name;
        void (*write)(const summary *, FILE *);
    } tables[] = {{"points.csv", write_points},
                  {"items.csv", write_items},
                  {"metrics.csv", write_metrics},
                  {"summary.csv", write_summary}};
    summary *s;
    TRY(summary_make(r, &s));
    char *to = io_join(dir, "export");
    err e = io_make_dirs(to);
    for (size_t i = 0; i < sizeof tables / sizeof *tables && e == OK; i++)
        e = write_csv(s, to, tables[i].name, tables[i].write);
    if (e == OK) e = export_json(s, to);
    if (e == OK) e = figures_write(s, to);
    mem_free(to);
    summary_free(s);
    return e;
}
