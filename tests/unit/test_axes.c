/* Alternatives of a search: which rows there are, what each reaches, and the figure that only a search has. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "run/axes.h"
#include "run/contrast.h"
#include "run/outputs.h"
#include "run/plot.h"
#include "tests/support/made_results.h"
#include "tests/support/temp.h"

static const char *name_of(int point) { return point % 3 == 1 ? "first" : point % 3 == 2 ? "second" : "third"; }

/* A made sweep whose points are the named alternatives of an axis `picks`, but `full`. */
static results *made(bool named) {
    results *r;
    assert_int_equal(made_results(3, false, temp_dir(), &r), OK);
    for (int p = 0; p < r->n_points && named; p++) {
        if (r->points[p].full) continue;
        mem_free(r->points[p].axes[0].path);
        mem_free(r->points[p].axes[0].text);
        r->points[p].axes[0] = (result_axis){mem_strdup("picks"), mem_strdup(name_of(p))};
    }
    return r;
}

static double kl_of(const summary *s, int p) {
    double product = 1;
    int n = 0;
    for (int t = 0; t < s->r->n_tasks; t++) {
        int m = results_find_metric(s->r, t, "kl");
        if (m < 0) continue;
        const summary_cell *c = summary_at(s, p, t, m);
        if (!c->present || !(c->mean.mean > 0)) return NAN;
        product *= c->mean.mean;
        n++;
    }
    return n ? pow(product, 1.0 / n) : NAN;
}

static void every_alternative_has_a_row_with_its_best_and_median(void **state) {
    results *r = made(true);
    summary *s;
    axis_rows x;
    assert_int_equal(summary_make(r, &s), OK);
    assert_int_equal(axes_make(s, 0, &x), OK);
    assert_int_equal(x.n, 3);
    int total = 0;
    for (int i = 0; i < x.n; i++) {
        const axis_row *row = &x.at[i];
        int n = 0, below = 0;
        double best = INFINITY;
        for (int p = 0; p < r->n_points; p++) {
            double kl = kl_of(s, p);
            if (r->points[p].group != 0 || r->points[p].full || isnan(kl) || strcmp(name_of(p), row->name) != 0) continue;
            n++;
            best = fmin(best, kl);
            below += kl < row->middle * (1 - 1e-9);
        }
        assert_string_equal(row->axis, "picks");
        assert_int_equal(row->n, n);
        total += n;
        if (!n) continue;
        assert_true(fabs(row->best - best) < 1e-9 * best && fabs(kl_of(s, row->best_point) - best) < 1e-9 * best);
        assert_int_equal(below, n / 2); /* of odd n the middle one itself lies not below */
    }
    assert_true(total > 3);
    axes_free(&x);
    summary_free(s);
    results_free(r);
}

static void only_a_search_has_the_figure_and_the_table(void **state) {
    for (int named = 0; named < 2; named++) {
        results *r = made(named);
        summary *s;
        figure_list l;
        int found = 0;
        char text[20000] = "";
        FILE *f = tmpfile();
        assert_non_null(f);
        assert_int_equal(summary_make(r, &s), OK);
        assert_int_equal(figures_list(s, &l), OK);
        for (int i = 0; i < l.n; i++) {
            if (strcmp(l.fig[i].script, "axes") != 0) continue;
            found++;
            assert_int_equal(l.fig[i].write(&l.fig[i], s, f), OK);
        }
        assert_int_equal(found, named);
        assert_int_equal(outputs_table(r, f, false, false), OK);
        rewind(f);
        text[fread(text, 1, sizeof text - 1, f)] = 0;
        fclose(f);
        assert_int_equal(strstr(text, "\npicks second ") != NULL, named);
        figures_free(&l);
        summary_free(s);
        results_free(r);
    }
}

/* The made points at budgets become alternatives of `picks` at those budgets; streamingllm's keep no budget, so that they stand against all;
 * random's have another axis in its place and stand against nobody. */
static results *made_pairs(void) {
    results *r;
    assert_int_equal(made_results(4, false, temp_dir(), &r), OK);
    for (int p = 0; p < r->n_points; p++) {
        result_point *q = &r->points[p];
        if (q->n_axes < 2) continue;
        mem_free(q->axes[0].path);
        q->axes[0].path = mem_strdup("picks");
        if (strcmp(q->axes[0].text, "random") == 0) {
            mem_free(q->axes[1].path);
            q->axes[1].path = mem_strdup("policy.other");
        }
        if (strcmp(q->axes[0].text, "streamingllm") != 0) continue;
        q->n_axes = 1;
        mem_free(q->axes[1].path);
        mem_free(q->axes[1].text);
    }
    return r;
}

static double kl_of_record(const results *r, int p, int t, int i) {
    const unit_record *u = results_unit(r, p, t, i);
    return u && u->status == UNIT_OK ? unit_record_metric(u, "kl") : NAN;
}

static void pairs_agree_on_all_axes_but_the_one(void **state) {
    results *r = made_pairs();
    contrast c;
    int n_means = 0;
    assert_int_equal(contrast_make(r, "picks=snapkv", &c), OK);
    for (int i = 0, first = 0; i < c.n; i++) {
        const contrast_row *w = &c.at[i];
        double sum = 0, own = 0;
        int n = 0;
        if (w->point >= 0) {
            assert_string_equal(r->points[w->point].axes[0].text, "snapkv");
            assert_string_not_equal(w->other, "random");
            int q = -1, n_found = 0; /* of several, the one whose mean fits */
            for (int p = 0; p < r->n_points; p++) {
                const result_point *y = &r->points[p];
                if (y->n_axes == 0 || strcmp(y->axes[0].text, w->other) != 0) continue;
                if (y->n_axes == 2 && strcmp(y->axes[1].text, r->points[w->point].axes[1].text) != 0) continue;
                double d = 0;
                int m = 0;
                for (int k = 0; k < r->tasks[w->task].n_items; k++) {
                    double x = kl_of_record(r, p, w->task, k) - kl_of_record(r, w->point, w->task, k);
                    if (isnan(x)) continue;
                    d += x;
                    m++;
                }
                n_found++;
                if (m == w->diff.n && fabs(d / m - w->diff.mean) < 1e-12) q = p;
            }
            assert_true(q >= 0);
            assert_int_equal(n_found, strcmp(w->other, "streamingllm") == 0 ? 2 : 1);
            if (i == 0 || c.at[i - 1].point < 0 || strcmp(c.at[i - 1].other, w->other) != 0) first = i;
            continue;
        }
        n_means++;
        assert_int_equal(w->n_pairs, i - first);
        for (int k = 0; k < r->tasks[w->task].n_items; k++) { /* records that every pair has */
            double d = 0, x = 0;
            for (int j = first; j < i; j++) x += kl_of_record(r, c.at[j].point, w->task, k);
            for (int p = 0; p < r->n_points; p++)
                for (int z = 0; z < r->n_points; z++) {
                    const result_point *a = &r->points[p], *b = &r->points[z];
                    if (a->n_axes < 2 || strcmp(a->axes[0].text, "snapkv") != 0 || !b->n_axes || strcmp(b->axes[0].text, w->other) != 0) continue;
                    if (b->n_axes == 2 && strcmp(b->axes[1].text, a->axes[1].text) != 0) continue;
                    d += kl_of_record(r, z, w->task, k) - kl_of_record(r, p, w->task, k);
                }
            if (isnan(d) || isnan(x)) continue;
            sum += d / w->n_pairs;
            own += x / w->n_pairs;
            n++;
        }
        assert_int_equal(w->diff.n, n);
        assert_true(fabs(w->diff.mean - sum / n) < 1e-12 && fabs(w->kl.mean - own / n) < 1e-12);
        assert_true(w->diff.lo <= w->diff.mean && w->diff.mean <= w->diff.hi);
    }
    assert_int_equal(n_means, 2 * 3); /* lm and passkey; adakv, adakv_k8v4_k4v2, streamingllm */
    contrast_free(&c);
    results_free(r);
}

static void contrasts_that_cannot_be_are_refused(void **state) {
    static const struct { const char *what, *text; } cases[] = {
        {"picks", "picks is not AXIS=ALTERNATIVE"},
        {"pick=snapkv", "no axis is called pick; the sweep has policy.preset, picks, policy.budget, policy.other"},
        {"picks=snapk", "axis picks has no alternative snapk; it has snapkv, adakv, adakv_k8v4_k4v2, streamingllm, random"},
        {"preset=k8v8", "no record has a KL of policy.preset k8v8 and of another alternative at equal values of the other axes"},
    };
    results *r = made_pairs();
    for (int p = 0; p < r->n_points; p++) /* two quantised points would be a pair */
        if (!strcmp(r->points[p].label, "full") || !strncmp(r->points[p].label, "k4", 2) || !strcmp(r->points[p].label, "k8v4")) r->points[p].n_axes = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        contrast c;
        assert_int_equal(contrast_make(r, cases[i].what, &c), ERR_USAGE);
        assert_non_null(strstr(err_text(), cases[i].text));
    }
    for (int p = 0; p < r->n_points; p++) r->points[p].n_axes += r->points[p].n_axes == 0; /* they are freed */
    results_free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_alternative_has_a_row_with_its_best_and_median),
        cmocka_unit_test(only_a_search_has_the_figure_and_the_table),
        cmocka_unit_test(pairs_agree_on_all_axes_but_the_one),
        cmocka_unit_test(contrasts_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
