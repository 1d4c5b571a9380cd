/* Figures of a sweep from its records. */
#include "run/summary.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

static const char *const telling[] = {"exact_match", "accuracy", "kl", "top1", "dnll", "nll", "decode_tps", "prefill_tps"};

int summary_headline(const results *r, int task, int *metrics, int max) {
    int n = 0;
    for (size_t i = 0; i < sizeof telling / sizeof *telling && n < max; i++) {
        int m = results_find_metric(r, task, telling[i]);
        if (m >= 0) metrics[n++] = m;
    }
    for (int m = 0; m < r->tasks[task].n_metrics && n == 0 && max > 0; m++) metrics[n++] = m;
    return n;
}

static summary_bytes bytes_of(const results *r, int point, int task) {
    summary_bytes b = {0};
    double full_bytes = 0, live = 0, items = 0, items_full = 0, tokens = 0, live_end = 0, full_end = 0;
    for (int i = 0; i < r->tasks[task].n_items; i++) {
        const unit_record *u = results_unit(r, point, task, i);
        if (!u || u->status != UNIT_OK || !u->n_prompt) continue;
        b.n++;
        live += (double)u->at_prompt.live;
        full_bytes += (double)u->at_prompt.full_f16;
        tokens += u->n_prompt;
        items += (double)u->at_prompt.items;
        items_full += (double)u->at_prompt.items_full;
        live_end += (double)u->at_end.live;
        full_end += (double)u->at_end.full_f16;
        b.payload += (double)u->at_prompt.payload;
        b.metadata += (double)u->at_prompt.metadata;
        b.columns += (double)u->at_prompt.columns;
        b.tables += (double)u->at_prompt.tables;
        b.slack += (double)u->at_prompt.slack;
        b.committed += (double)u->at_prompt.committed;
        b.released += (double)u->at_prompt.released;
        b.released_pages += (double)u->at_prompt.released_pages;
        b.n_clamped += u->budget_clamped;
    }
    if (!b.n) return b;
    double *means[] = {&b.payload, &b.metadata, &b.columns, &b.tables, &b.slack, &b.committed, &b.released, &b.released_pages};
    for (size_t i = 0; i < sizeof means / sizeof *means; i++) *means[i] /= b.n;
    b.live_per_token = live / tokens;
    b.full_per_token = full_bytes / tokens;
    b.ratio = full_bytes > 0 ? live / full_bytes : NAN;
    b.live_end = live_end / b.n;
    b.ratio_end = full_end > 0 ? live_end / full_end : NAN;
    b.kept = items_full > 0 ? items / items_full : NAN;
    return b;
}

summary_bytes summary_point_bytes(const summary *s, int point) {
    const results *r = s->r;
    summary_bytes sum = {0};
    for (int timed = 0; timed < 2 && !sum.n; timed++)
        for (int t = 0; t < r->n_tasks; t++) {
            const summary_bytes *b = summary_bytes_at(s, point, t);
            if (!b->n || r->tasks[t].timed != (timed == 1)) continue;
            double *to = &sum.live_per_token;
            const double *from = &b->live_per_token;
            size_t n = (offsetof(summary_bytes, kept) - offsetof(summary_bytes, live_per_token)) / sizeof(double) + 1;
            for (size_t i = 0; i < n; i++) to[i] = (to[i] * sum.n + from[i] * b->n) / (sum.n + b->n);
            sum.n += b->n;
            sum.n_clamped += b->n_clamped;
        }
    return sum;
}

/* How far the same cache is from itself in the other math mode: what no policy can be told apart from. */
static double noise_of(const summary *s, int group, int task, const char *metric, double *x, double *y) {
    const results *r = s->r;
    int base = -1;
    for (int p = 0; p < r->n_points; p++)
        if (r->points[p].group == group && r->points[p].baseline >= 0) base = r->points[p].baseline;
    results_noise_column(r, group, task, metric, x);
    if (base >= 0) results_column(r, base, task, metric, y);
    double sum = 0;
    int n = 0;
    for (int i = 0; i < r->tasks[task].n_items; i++) {
        if (isnan(x[i])) continue;
        double own = base >= 0 && !isnan(y[i]) ? y[i] : 0; /* of a fidelity metric `full` against itself: 0 */
        if (base < 0 && strcmp(metric, "kl") != 0) continue;
        sum += x[i] - own;
        n++;
    }
    return n ? fabs(sum / n) : 0;
}

static void fill_cell(const summary *s, int point, int task, int metric, double *x, double *y, summary_cell *c) {
    const results *r = s->r;
    const result_metric *m = &r->tasks[task].metrics[metric];
    int n = r->tasks[task].n_items, base = r->points[point].baseline;
    results_column(r, point, task, m->name, x);
    c->mean = stats_mean(x, n, s->conf);
    c->present = c->mean.n > 0;
    c->verdict = VERDICT_UNKNOWN;
    if (!c->present || base < 0) return;
    results_column(r, base, task, m->name, y);
    c->diff = stats_paired(x, y, n, s->conf);
    c->verdict = stats_verdict(c->diff, c->noise);
}

/* The floor policy is StreamingLLM; at the point of the sweep with the fewest bytes it says whether the task needs its context at all. */
static bool is_uninformative(const summary *s, int group, int task) {
    const results *r = s->r;
    int head[1], base = -1, floor_point = -1;
    if (r->tasks[task].timed || !summary_headline(r, task, head, 1)) return false;
    metric_direction want = r->tasks[task].metrics[head[0]].direction;
    for (int p = 0; p < r->n_points; p++) {
        if (r->points[p].group != group) continue;
        if (r->points[p].baseline >= 0) base = r->points[p].baseline;
        bool streaming = strncmp(r->points[p].label, "streamingllm", 12) == 0;
        if (streaming && summary_at(s, p, task, head[0])->diff.n > 1 &&
            (floor_point < 0 || summary_bytes_at(s, p, task)->ratio < summary_bytes_at(s, floor_point, task)->ratio))
            floor_point = p;
    }
    if (base < 0 || floor_point < 0 || want == METRIC_NEUTRAL) return false;
    verdict v = summary_at(s, floor_point, task, head[0])->verdict;
    return v != (want == METRIC_HIGHER ? VERDICT_LOWER : VERDICT_HIGHER);
}

MUST err summary_make(const results *r, summary **out) {
    summary *s;
    double *x = NULL, *y = NULL;
    err e;
    TRY(mem_alloc(MEM_OTHER, sizeof *s, &s));
    s->r = r;
    s->conf = (stats_conf){10000, 0.95, 1};
    for (int t = 0; t < r->n_tasks; t++)
        if (r->tasks[t].n_metrics > s->max_metrics) s->max_metrics = r->tasks[t].n_metrics;
    size_t n_pairs = (size_t)r->n_points * (size_t)r->n_tasks;
    GOTO(fail, e, mem_alloc(MEM_OTHER, sizeof *s->cells * n_pairs * (size_t)s->max_metrics, &s->cells));
    GOTO(fail, e, mem_alloc(MEM_OTHER, sizeof *s->bytes * n_pairs, &s->bytes));
    GOTO(fail, e, mem_alloc(MEM_OTHER, (size_t)r->n_groups * (size_t)r->n_tasks, &s->uninformative));
    GOTO(fail, e, mem_alloc(MEM_OTHER, sizeof *x * (size_t)r->max_items, &x));
    GOTO(fail, e, mem_alloc(MEM_OTHER, sizeof *y * (size_t)r->max_items, &y));
    for (int t = 0; t < r->n_tasks; t++)
        for (int m = 0; m < r->tasks[t].n_metrics; m++)
            for (int p = 0; p < r->n_points; p++) {
                summary_cell *c = (summary_cell *)summary_at(s, p, t, m);
                bool first = p == 0 || r->points[p].group != r->points[p - 1].group;
                c->noise = first ? noise_of(s, r->points[p].group, t, r->tasks[t].metrics[m].name, x, y) : summary_at(s, p - 1, t, m)->noise;
                fill_cell(s, p, t, m, x, y, c);
            }
    for (int p = 0; p < r->n_points; p++)
        for (int t = 0; t < r->n_tasks; t++) s->bytes[(size_t)p * (size_t)r->n_tasks + (size_t)t] = bytes_of(r, p, t);
    for (int g = 0; g < r->n_groups; g++)
        for (int t = 0; t < r->n_tasks; t++) s->uninformative[(size_t)g * (size_t)r->n_tasks + (size_t)t] = is_uninformative(s, g, t);
    mem_free(x);
    mem_free(y);
    *out = s;
    return OK;
fail:
    mem_free(x);
    mem_free(y);
    summary_free(s);
    return e;
}

const char *summary_verdict_name(verdict v) {
    static const char *const names[] = {[VERDICT_SAME] = "same", [VERDICT_HIGHER] = "higher", [VERDICT_LOWER] = "lower", [VERDICT_UNKNOWN] = "unknown"};
    return names[v];
}

void summary_free(summary *s) {
    if (!s) return;
    mem_free(s->cells);
    mem_free(s->bytes);
    mem_free(s->uninformative);
    mem_free(s);
}
