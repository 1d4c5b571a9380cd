/* Alternatives of a search: which rows there are, what each reaches, and the figure that only a search has. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "run/axes.h"
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_alternative_has_a_row_with_its_best_and_median),
        cmocka_unit_test(only_a_search_has_the_figure_and_the_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
