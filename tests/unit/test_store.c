/* sweep.h5, exports and report: what is written is what the results say, damage is found, and nothing half-written is
 * left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <signal.h>
#include <unistd.h>

#include <hdf5.h>

#include "base/io.h"
#include "base/mem.h"
#include "run/export.h"
#include "run/outputs.h"
#include "run/plot.h"
#include "run/store.h"
#include "tests/support/made_results.h"
#include "tests/support/temp.h"

static results *made(uint64_t seed) {
    results *r;
    assert_int_equal(made_results(seed, false, temp_dir(), &r), OK);
    return r;
}

static char *fresh_dir(const char *name) {
    char *dir = io_join(temp_dir(), name);
    assert_int_equal(io_make_dirs(dir), OK);
    return dir;
}

static char *read_whole(const char *dir, const char *name, size_t *n) {
    char *path = io_join(dir, name), *text;
    assert_int_equal(io_read_file(path, 64 << 20, &text, n), OK);
    mem_free(path);
    return text;
}

static void written_and_read_back(void **state) {
    results *r = made(1);
    char *dir = fresh_dir("back");
    assert_int_equal(outputs_store(r, dir), OK);
    assert_int_equal(outputs_verify(r, dir), OK);
    results_free(r);
    mem_free(dir);
}

static void same_results_same_bytes(void **state) {
    results *r = made(1);
    char *a = fresh_dir("a"), *b = fresh_dir("b");
    size_t n, m;
    assert_int_equal(outputs_store(r, a), OK);
    assert_int_equal(outputs_store(r, b), OK);
    char *x = read_whole(a, "sweep.h5", &n), *y = read_whole(b, "sweep.h5", &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    mem_free(x);
    mem_free(y);
    mem_free(a);
    mem_free(b);
    results_free(r);
}

static void values_stand_where_the_layout_says(void **state) {
    results *r = made(3);
    char *dir = fresh_dir("values"), *path = io_join(dir, "sweep.h5");
    double kl[17][6], want[6];
    assert_int_equal(outputs_store(r, dir), OK);
    hid_t f = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), set = H5Dopen2(f, "/metrics/lm/kl", H5P_DEFAULT);
    assert_true(set >= 0);
    assert_int_equal(r->n_points, 17);
    assert_true(H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, kl) >= 0);
    for (int p = 0; p < 17; p++) {
        results_column(r, p, 0, "kl", want);
        for (int i = 0; i < 6; i++) assert_true(isnan(want[i]) ? isnan(kl[p][i]) : want[i] == kl[p][i]);
    }
    H5Dclose(set);
    set = H5Dopen2(f, "/metrics/speed/decode_tps", H5P_DEFAULT);
    assert_true(H5Aexists(set, "timing") > 0);
    H5Dclose(set);
    H5Fclose(f);
    mem_free(path);
    mem_free(dir);
    results_free(r);
}

/* Changes one number of one record and expects verify to name its place. */
static void a_changed_number_is_named(void **state) {
    results *r = made(1);
    char *dir = fresh_dir("changed");
    assert_int_equal(outputs_store(r, dir), OK);
    unit_record *u = results_unit(r, 6, 0, 2);
    double before = u->metrics[1].value;
    u->metrics[1].value = nextafter(before, 10);
    assert_int_equal(outputs_verify(r, dir), ERR_VERIFY);
    assert_non_null(strstr(err_text(), "/metrics/lm/kl[snapkv budget=0.25, 2]"));
    u->metrics[1].value = before;
    u->kept[5]++;
    assert_int_equal(outputs_verify(r, dir), ERR_VERIFY);
    assert_non_null(strstr(err_text(), "/heads/lm/kept[snapkv budget=0.25, 2, 1, 2, 0]"));
    u->kept[5]--;
    u->kl[3] = nextafterf(u->kl[3], 10);
    assert_int_equal(outputs_verify(r, dir), ERR_VERIFY);
    assert_non_null(strstr(err_text(), "/series/lm/kl[snapkv budget=0.25, 2, 3]"));
    results_free(r);
    mem_free(dir);
}

static void damaged_files_are_refused(void **state) {
    results *r = made(1);
    char *dir = fresh_dir("damaged"), *path = io_join(dir, "sweep.h5");
    assert_int_equal(outputs_verify(r, dir), ERR_VERIFY);
    assert_non_null(strstr(err_text(), "is missing"));
    assert_int_equal(outputs_store(r, dir), OK);
    size_t n;
    char *whole = read_whole(dir, "sweep.h5", &n);
    const size_t lengths[] = {0, 1, 100, n / 3, n / 2, n - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        assert_int_equal(io_write_file(path, whole, lengths[i]), OK);
        assert_int_equal(outputs_verify(r, dir), ERR_VERIFY);
        assert_null(strchr(err_text(), '\n'));
    }
    mem_free(whole);
    mem_free(path);
    mem_free(dir);
    results_free(r);
}

static void a_failed_write_leaves_the_old_file(void **state) {
    results *r = made(1), *other = made(2);
    char *dir = fresh_dir("full"), *path = io_join(dir, "sweep.h5");
    assert_int_equal(outputs_store(r, dir), OK);
    /* A file size limit stands for a full disk: writes beyond it fail. */
    struct rlimit old, small;
    getrlimit(RLIMIT_FSIZE, &old);
    small = (struct rlimit){64 << 10, old.rlim_max};
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    err e = outputs_store(other, dir);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, handler);
    assert_int_equal(e, ERR_IO);
    assert_non_null(strstr(err_text(), "cannot write"));
    assert_non_null(strstr(err_text(), "sweep.h5"));
    assert_int_equal(outputs_verify(r, dir), OK);
    assert_int_equal(outputs_verify(other, dir), ERR_VERIFY);
    mem_free(path);
    mem_free(dir);
    results_free(r);
    results_free(other);
}

static void a_directory_that_is_not_there_is_named(void **state) {
    results *r = made(1);
    assert_int_equal(outputs_store(r, "/nowhere/at/all"), ERR_IO);
    assert_non_null(strstr(err_text(), "/nowhere/at/all/sweep.h5"));
    assert_int_equal(outputs_report(r, "/nowhere/at/all"), ERR_IO);
    results_free(r);
}

static int count_lines(const char *text) {
    int n = 0;
    for (; *text; text++) n += *text == '\n';
    return n;
}

static void exports_hold_every_record(void **state) {
    results *r = made(1);
    char *dir = fresh_dir("export");
    size_t n;
    assert_int_equal(outputs_export(r, dir), OK);
    char *points = read_whole(dir, "export/points.csv", &n), *metrics = read_whole(dir, "export/metrics.csv", &n),
         *items = read_whole(dir, "export/items.csv", &n);
    assert_int_equal(count_lines(points), 1 + r->n_points);
    assert_non_null(strstr(points, "\"{\"\"policy.preset\"\":\"\"snapkv\"\",\"\"policy.budget\"\":\"\"0.5\"\"}\""));
    int want = 0;
    for (int p = 0; p < r->n_points; p++)
        for (int t = 0; t < r->n_tasks; t++)
            for (int i = 0; i < r->tasks[t].n_items; i++) {
                const unit_record *u = results_unit(r, p, t, i);
                want += u && u->status == UNIT_OK ? r->tasks[t].n_metrics : 0;
            }
    assert_int_equal(count_lines(metrics), 1 + want);
    assert_non_null(strstr(items, "\"the key is \"\"10000\"\",\nor so\""));
    assert_non_null(strstr(items, "failed,\"a made-up failure, to be shown\""));
    mem_free(points);
    mem_free(metrics);
    mem_free(items);
    mem_free(dir);
    results_free(r);
}

static void the_report_escapes_texts_and_names_failures(void **state) {
    results *r = made(1);
    char *dir = fresh_dir("report");
    size_t n;
    assert_int_equal(outputs_report(r, dir), OK);
    char *html = read_whole(dir, "report.html", &n);
    assert_non_null(strstr(html, "Do &quot;quotes&quot;, &lt;tags&gt; &amp; commas survive?"));
    assert_null(strstr(html, "<tags>"));
    assert_non_null(strstr(html, "a made-up failure, to be shown"));
    assert_null(strstr(html, "<script"));
    assert_null(strstr(html, "http://"));
    assert_null(strstr(html, "https://"));
    mem_free(html);
    mem_free(dir);
    results_free(r);
}

/* Numbers of a family's lines start with bytes, mean, low, high, bytes as drawn. */
static void many_families_are_named_in_the_band_and_marks_stay(void **state) {
    results *r;
    summary *s;
    char *dir = fresh_dir("crowd"), *text;
    size_t n;
    assert_int_equal(made_results(5, true, temp_dir(), &r), OK);
    assert_int_equal(summary_make(r, &s), OK);
    assert_int_equal(figures_write(s, dir), OK);
    text = read_whole(dir, "kl_vs_bytes-lm.dat", &n);
    assert_non_null(strstr(text, "crowded      \"1\""));
    double band = 0, lowest = INFINITY, x[8];
    int n_names = 0, n_marks = 0, n_fields = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char name[64];
        int at_end = 0;
        if (strncmp(line, "band ", 5) == 0) assert_int_equal(sscanf(line, "band \"%lf", &band), 1);
        if (sscanf(line, "%lf %lf %lf %lf %lf %lf %*d \"%63[^\"]\" %d", x, x + 1, x + 2, x + 3, x + 4, x + 5, name, &at_end) == 8) {
            assert_int_equal(at_end, strncmp(name, "policy_", 7) == 0);
            n_names += at_end;
            if (at_end) assert_true(x[0] < band); /* the text ends there */
        } else if (sscanf(line, "%lf %lf %lf %lf %lf %lf %lf %lf %d", x, x + 1, x + 2, x + 3, x + 4, x + 5, x + 6, x + 7, &n_fields) == 9) {
            assert_true(x[0] == x[4]);
            lowest = fmin(lowest, x[0]);
            n_marks++;
        }
    }
    assert_int_equal(n_names, 20);
    assert_int_equal(n_marks, r->n_points);
    assert_true(lowest > band);
    mem_free(text);
    mem_free(dir);
    summary_free(s);
    results_free(r);
}

static void without_gnuplot_it_says_what_to_install(void **state) {
    results *r = made(1);
    char *dir = fresh_dir("no-gnuplot"), *path = mem_strdup(getenv("PATH"));
    setenv("PATH", temp_dir(), 1);
    err e = outputs_plot(r, dir);
    setenv("PATH", path, 1);
    assert_int_equal(e, ERR_ENV);
    assert_string_equal(err_text(), "gnuplot is not installed: apt-get install gnuplot-nox");
    char *plots = io_join(dir, "plots"), *any = mem_sprintf("ls -A %s | grep -q .", plots);
    assert_int_not_equal(system(any), 0);
    mem_free(any);
    mem_free(plots);
    mem_free(path);
    mem_free(dir);
    results_free(r);
}

static void labels_do_not_overlap_where_there_is_room(void **state) {
    plot_label l[12];
    for (int i = 0; i < 12; i++) {
        double x = 300 + 9 * (i % 4), y = 200 + 11 * (i / 4);
        l[i] = (plot_label){.x = x, .y = y, .y_lo = y - 4, .y_hi = y + 4, .w = 40, .h = 14};
    }
    plot_labels_place(l, 12, NULL, 0, 700, 460);
    for (int i = 0; i < 12; i++) {
        assert_true(l[i].lx > 20 && l[i].lx < 680 && l[i].ly > 7 && l[i].ly < 453);
        for (int j = 0; j < i; j++) assert_true(fabs(l[i].lx - l[j].lx) >= 39.9 || fabs(l[i].ly - l[j].ly) >= 13.9);
    }
    double y[] = {10, 11, 12, 300, 11};
    plot_spread(y, 5, 15, 0, 460);
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < i; j++) assert_true(fabs(y[i] - y[j]) > 15 - 1e-9);
    double z[40]; /* all at the top edge, the first lowest: one column below it in their order */
    for (int i = 0; i < 40; i++) z[i] = 459 + i * 1e-3;
    plot_spread(z, 40, 11, 4, 456);
    for (int i = 0; i < 40; i++) assert_true(fabs(z[i] - (456 - 11 * (39 - i))) < 1e-9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_and_read_back),
        cmocka_unit_test(same_results_same_bytes),
        cmocka_unit_test(values_stand_where_the_layout_says),
        cmocka_unit_test(a_changed_number_is_named),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(a_failed_write_leaves_the_old_file),
        cmocka_unit_test(a_directory_that_is_not_there_is_named),
        cmocka_unit_test(exports_hold_every_record),
        cmocka_unit_test(the_report_escapes_texts_and_names_failures),
        cmocka_unit_test(many_families_are_named_in_the_band_and_marks_stay),
        cmocka_unit_test(without_gnuplot_it_says_what_to_install),
        cmocka_unit_test(labels_do_not_overlap_where_there_is_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
