/* What sweep.h5 holds of single records: texts and numbers, series over steps, kept items per layer and head. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "run/export.h"
#include "run/jsonx.h"
#include "run/store_walk.h"

static MUST err put_item_array(walk *w, int t, const char *group, const char *name, store_type type, const void *data,
                               const char *unit, const char *help, bool timing) {
    return walk_put(w, (store_array){.group = group,
                                .name = name,
                                .type = type,
                                .rank = 2,
                                .dim = {"point", "item"},
                                .shape = {(size_t)w->r->n_points, (size_t)w->r->tasks[t].n_items},
                                .data = data,
                                .unit = unit,
                                .help = help,
                                .timing = timing});
}

static const char *item_text(const unit_record *u, int k) {
    const char *text = !u       ? (k == 0 ? "missing" : "")
                       : k == 0 ? unit_status_name(u->status)
                       : k == 1 ? u->text
                                : u->output;
    return text ? text : "";
}

static MUST err walk_item_texts(walk *w, int t, const char *group) {
    static const struct {
        const char *name, *help;
    } columns[] = {{"status", "ok, failed, crashed, skipped or missing"},
                   {"text", "why it is not ok"},
                   {"output", "generated text"}};
    const results *r = w->r;
    int n = r->tasks[t].n_items;
    for (int k = 0; k < 3; k++) {
        const char **x;
        TRY(walk_buffer(w, (size_t)r->n_points * (size_t)n, sizeof *x, &x));
        for (int p = 0; p < r->n_points; p++)
            for (int i = 0; i < n; i++) x[(size_t)p * (size_t)n + (size_t)i] = item_text(results_unit(r, p, t, i), k);
        TRY(put_item_array(w, t, group, columns[k].name, STORE_TEXT, x, "", columns[k].help, false));
    }
    return OK;
}

static MUST err walk_item_numbers(walk *w, int t, const char *group) {
    static const char *const names[] = {"n_prompt", "n_decoded", "budget_clamped", "seconds"}, *const units[] = {
                                                                                                   "tokens", "tokens",
                                                                                                   "", "s"};
    const results *r = w->r;
    int n = r->tasks[t].n_items;
    for (int k = 0; k < 4 + 2 * EXPORT_N_BYTES; k++) {
        double *x;
        TRY(walk_buffer(w, (size_t)r->n_points * (size_t)n, sizeof *x, &x));
        int b = (k - 4) % EXPORT_N_BYTES;
        bool at_end = k >= 4 + EXPORT_N_BYTES;
        for (int p = 0; p < r->n_points; p++)
            for (int i = 0; i < n; i++) {
                const unit_record *u = results_unit(r, p, t, i);
                double *to = &x[(size_t)p * (size_t)n + (size_t)i];
                if (!u || (k != 3 && u->status != UNIT_OK))
                    *to = NAN;
                else if (k < 4)
                    *to = k == 0 ? u->n_prompt : k == 1 ? u->n_decoded : k == 2 ? u->budget_clamped : u->seconds;
                else
                    *to = export_byte_value(at_end ? &u->at_end : &u->at_prompt, b);
            }
        char *name =
            k < 4 ? mem_strdup(names[k]) : mem_sprintf("%s_%s", at_end ? "end" : "prompt", export_byte_names[b]);
        err e = put_item_array(w, t, group, name, STORE_F64, x,
                               k < 4                     ? units[k]
                               : b == EXPORT_N_BYTES - 1 ? ""
                                                         : "B",
                               k < 4    ? ""
                               : at_end ? "at the end of decoding"
                                        : "at the end of the prompt",
                               k == 3);
        mem_free(name);
        TRY(e);
    }
    return OK;
}

err walk_items(walk *w, int t) {
    char *group = store_task_group("items", w->r->tasks[t].name);
    err e = walk_begin_group(w, group, true, w->r->tasks[t].n_items);
    if (e == OK) e = walk_item_texts(w, t, group);
    if (e == OK) e = walk_item_numbers(w, t, group);
    mem_free(group);
    return e;
}

err walk_series(walk *w, int t) {
    static const char *const names[] = {"kl", "nll", "top1"}, *const units[] = {"nats", "nats", ""},
                             *const helps[] = {"KL(full || policy) of each scored token",
                                               "negative log-likelihood of each scored token",
                                               "1: the first choice equals full's"};
    const results *r = w->r;
    int n = r->tasks[t].n_items, steps = 0;
    for (int p = 0; p < r->n_points; p++)
        for (int i = 0; i < n; i++) {
            const unit_record *u = results_unit(r, p, t, i);
            if (u && u->status == UNIT_OK && u->n_series > steps) steps = u->n_series;
        }
    if (!steps) return OK;
    char *group = store_task_group("series", r->tasks[t].name);
    err e = walk_begin_group(w, group, true, n);
    if (e == OK) e = walk_put_counts(w, group, "step", steps);
    for (int k = 0; k < 3 && e == OK; k++) {
        float *x;
        e = walk_buffer(w, (size_t)r->n_points * (size_t)n * (size_t)steps, sizeof *x, &x);
        if (e != OK) break;
        for (int p = 0; p < r->n_points; p++)
            for (int i = 0; i < n; i++) {
                const unit_record *u = results_unit(r, p, t, i);
                float *to = x + ((size_t)p * (size_t)n + (size_t)i) * (size_t)steps;
                int have = u && u->status == UNIT_OK ? u->n_series : 0;
                for (int q = 0; q < steps; q++)
                    to[q] = q >= have ? NAN : k == 0 ? u->kl[q] : k == 1 ? u->nll[q] : (float)u->top1[q];
            }
        e = walk_put(w, (store_array){.group = group,
                                 .name = names[k],
                                 .type = STORE_F32,
                                 .rank = 3,
                                 .dim = {"point", "item", "step"},
                                 .shape = {(size_t)r->n_points, (size_t)n, (size_t)steps},
                                 .data = x,
                                 .unit = units[k],
                                 .help = helps[k]});
    }
    mem_free(group);
    return e;
}

typedef struct head_shape {
    int layers, heads, tiers;
} head_shape;

static const unit_record *record_with_heads(const results *r, int p, int t, int i) {
    const unit_record *u = results_unit(r, p, t, i);
    return u && u->status == UNIT_OK && u->kept ? u : NULL;
}

static MUST err put_kept(walk *w, int t, const char *group, head_shape h) {
    const results *r = w->r;
    int n = r->tasks[t].n_items;
    size_t per_item = (size_t)h.layers * (size_t)h.heads * (size_t)h.tiers;
    uint32_t *x;
    TRY(walk_buffer(w, (size_t)r->n_points * (size_t)n * per_item, sizeof *x, &x));
    memset(x, 0, (size_t)r->n_points * (size_t)n * per_item * sizeof *x);
    for (int p = 0; p < r->n_points; p++)
        for (int i = 0; i < n; i++) {
            const unit_record *u = record_with_heads(r, p, t, i);
            uint32_t *to = x + ((size_t)p * (size_t)n + (size_t)i) * per_item;
            for (int l = 0; u && l < u->n_layers; l++)
                for (int q = 0; q < u->n_kv; q++)
                    memcpy(to + ((size_t)l * (size_t)h.heads + (size_t)q) * (size_t)h.tiers,
                           u->kept + (l * u->n_kv + q) * u->n_tiers, sizeof *x * (size_t)u->n_tiers);
        }
    return walk_put(
        w,
        (store_array){
            .group = group,
            .name = "kept",
            .type = STORE_U32,
            .rank = 5,
            .dim = {"point", "item", "layer", "head", "tier"},
            .shape = {(size_t)r->n_points, (size_t)n, (size_t)h.layers, (size_t)h.heads, (size_t)h.tiers},
            .data = x,
            .unit = "items",
            .help =
                "items after compression; 0 where a point has no such layer, head or tier, or the record is missing"});
}

static MUST err put_kept_fraction(walk *w, int t, const char *group, head_shape h) {
    const results *r = w->r;
    int n = r->tasks[t].n_items;
    size_t per_point = (size_t)h.layers * (size_t)h.heads;
    double *x;
    TRY(walk_buffer(w, (size_t)r->n_points * per_point, sizeof *x, &x));
    for (size_t k = 0; k < (size_t)r->n_points * per_point; k++) x[k] = NAN;
    for (int p = 0; p < r->n_points; p++)
        for (int l = 0; l < h.layers; l++)
            for (int q = 0; q < h.heads; q++) {
                double sum = 0;
                int records = 0;
                for (int i = 0; i < n; i++) {
                    const unit_record *u = record_with_heads(r, p, t, i);
                    if (!u || !u->n_prompt || l >= u->n_layers || q >= u->n_kv) continue;
                    for (int k = 0; k < u->n_tiers; k++)
                        sum += (double)u->kept[(l * u->n_kv + q) * u->n_tiers + k] / u->n_prompt;
                    records++;
                }
                if (records) x[(size_t)p * per_point + (size_t)l * (size_t)h.heads + (size_t)q] = sum / records;
            }
    return walk_put(w, (store_array){.group = group,
                                .name = "kept_fraction",
                                .type = STORE_F64,
                                .rank = 3,
                                .dim = {"point", "layer", "head"},
                                .shape = {(size_t)r->n_points, (size_t)h.layers, (size_t)h.heads},
                                .data = x,
                                .help = "items kept / prompt tokens, mean over records"});
}

err walk_heads(walk *w, int t) {
    const results *r = w->r;
    head_shape h = {0, 0, 0};
    for (int p = 0; p < r->n_points; p++)
        for (int i = 0; i < r->tasks[t].n_items; i++) {
            const unit_record *u = record_with_heads(r, p, t, i);
            if (u && u->n_layers > h.layers) h.layers = u->n_layers;
            if (u && u->n_kv > h.heads) h.heads = u->n_kv;
            if (u && u->n_tiers > h.tiers) h.tiers = u->n_tiers;
        }
    if (!h.layers) return OK;
    char *group = store_task_group("heads", r->tasks[t].name);
    err e = walk_begin_group(w, group, true, r->tasks[t].n_items);
    if (e == OK) e = walk_put_counts(w, group, "layer", h.layers);
    if (e == OK) e = walk_put_counts(w, group, "head", h.heads);
    if (e == OK) e = walk_put_counts(w, group, "tier", h.tiers);
    if (e == OK) e = put_kept(w, t, group, h);
    if (e == OK) e = put_kept_fraction(w, t, group, h);
    mem_free(group);
    return e;
}
