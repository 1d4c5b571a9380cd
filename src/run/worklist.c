#include "run/worklist.h"

#include "base/mem.h"

static bool wanted(const unit_record *u, bool retry_failed) {
    if (!u) return true;
    return u->status == UNIT_CRASHED || (u->status == UNIT_FAILED && retry_failed);
}

static bool has_fidelity(const result_task *t) {
    return !t->timed && t->n_metrics > 0;
}

static void count_cost(const experiment *x, const results *r, worklist *w) {
    for (int g = 0; g < r->n_groups; g++)
        for (int t = 0; t < r->n_tasks; t++)
            for (int i = 0; i < r->tasks[t].n_items; i++) {
                const result_task *k = &r->tasks[t];
                int n = worklist_points(w, x, g, t, i);
                bool noise = *worklist_noise(w, g, t, i);
                w->cost += n * k->cost_unit + (n > 0 || noise ? k->cost_prepare : 0) +
                           (noise ? k->cost_prepare + k->cost_unit : 0);
            }
}

err worklist_create(const experiment *x, const results *r, work_filter f, worklist *out) {
    *out = (worklist){r->n_points, r->n_groups, r->n_tasks, r->max_items, NULL, NULL, 0, 0, 0};
    size_t per_point = (size_t)r->n_tasks * (size_t)r->max_items;
    TRY(mem_alloc(MEM_OTHER, (size_t)r->n_points * per_point, &out->unit));
    TRY(mem_alloc(MEM_OTHER, (size_t)r->n_groups * per_point, &out->noise));
    for (int t = 0; t < r->n_tasks; t++) {
        int n = r->tasks[t].n_items;
        if (f.limit > 0 && f.limit < n) n = f.limit;
        for (int p = 0; p < r->n_points; p++) {
            if (!r->points[p].has_task[t] || !experiment_point_matches(x, p, f.only)) continue;
            for (int i = 0; i < n; i++) {
                *worklist_unit(out, p, t, i) = wanted(results_unit(r, p, t, i), f.retry_failed);
                out->n_units += *worklist_unit(out, p, t, i);
                if (i >= x->noise_records || !has_fidelity(&r->tasks[t])) continue;
                bool *noise = worklist_noise(out, r->points[p].group, t, i);
                if (!*noise && wanted(results_noise(r, r->points[p].group, t, i), f.retry_failed)) {
                    *noise = true;
                    out->n_noise++;
                }
            }
        }
    }
    count_cost(x, r, out);
    return OK;
}

void worklist_free(worklist *w) {
    mem_free(w->unit);
    mem_free(w->noise);
    *w = (worklist){0};
}

int worklist_points(const worklist *w, const experiment *x, int g, int t, int i) {
    int n = 0;
    for (int p = 0; p < w->n_points; p++) n += x->points[p].group == g && *worklist_unit(w, p, t, i);
    return n;
}

bool worklist_any(const worklist *w, const experiment *x, int g, int t, int i) {
    return *worklist_noise(w, g, t, i) || worklist_points(w, x, g, t, i) > 0;
}
