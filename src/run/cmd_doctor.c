/* kvlab doctor: one line for each thing a sweep needs, with advice where it is missing. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/par.h"
#include "run/options.h"
#include "run/preset.h"
#include "run/provenance.h"
#include "task/task.h"

typedef struct report {
    int n_missing;
} report;

static void say(report *r, bool good, const char *what, const char *fmt, ...) PRINTF_LIKE(4, 5);
static void say(report *r, bool good, const char *what, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    printf("%-4s %-10s %s\n", good ? "ok" : "MISS", what, text);
    r->n_missing += !good;
}

static void check_cpu(report *r) {
    const char *isas[16];
    char *model_name = machine_cpu_model(), list[256] = "";
    int n = backend_isas(isas, 16);
    for (int i = 0; i < n && i < 16; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", isas[i]);
    }
    say(r, n > 0, "cpu", "%s, %d CPUs, paths: %s", *model_name ? model_name : "unknown CPU", par_n_cpus(), list);
    if (n > 0 && strcmp(isas[0], "scalar") == 0) printf("     no AVX2 or AVX-512 here: sweeps work and are slow\n");
    mem_free(model_name);
}

static void check_memory(report *r) {
    size_t all = machine_memory_bytes(), available = machine_available_bytes();
    bool enough = available >= (size_t)1 << 30;
    say(r, enough, "memory", "%.1f GB, %.1f GB available%s", (double)all * 1e-9, (double)available * 1e-9,
        enough ? "" : ": the default model wants about 1 GB");
}

static void check_bandwidth(report *r) {
    bandwidth b;
    if (bandwidth_probe(&b) == OK)
        say(r, true, "bandwidth", "reads %.1f GB/s with one thread, %.1f GB/s with %d", b.one, b.all, b.threads);
    else
        say(r, false, "bandwidth", "%s", err_text());
}

static void check_configs(report *r) {
    char *dir;
    if (preset_dir(&dir) == OK) {
        say(r, true, "configs", "%s", dir);
        mem_free(dir);
    } else {
        say(r, false, "configs", "%s: run kvlab from its repository", err_text());
    }
}

static void check_models(report *r) {
    char **names, sha[65];
    int n;
    if (preset_list("models", &names, &n) != OK) return; /* said by check_configs */
    for (int i = 0; i < n; i++) {
        model_ref ref;
        bool there = model_ref_find(names[i], &ref) == OK;
        if (there && model_ref_check(&ref, sha) == OK)
            say(r, true, "model", "%s: %s, SHA-256 as expected", names[i], ref.path);
        else
            say(r, false, "model", "%s", err_text());
        if (there) model_ref_free(&ref);
    }
    preset_list_free(names, n);
}

static void check_text(report *r, const options *o) {
    text_source *t;
    size_t n;
    if (text_source_open(o->text, o->data, &t) == OK) {
        (void)text_source_text(t, &n);
        say(r, true, "text", "%s, %.1f MB", text_source_name(t), (double)n * 1e-6);
        text_source_close(t);
    } else {
        say(r, false, "text", "%s", err_text());
    }
}

static void check_gnuplot(report *r) {
    FILE *f = popen("gnuplot --version 2>/dev/null", "r");
    char line[128] = "";
    if (f && !fgets(line, sizeof line, f)) *line = 0;
    int rc = f ? pclose(f) : -1;
    line[strcspn(line, "\n")] = 0;
    if (rc == 0 && *line)
        say(r, true, "gnuplot", "%s", line);
    else
        say(r, false, "gnuplot", "not found: sweeps run without pictures; install the package gnuplot-nox");
}

static void check_output(report *r, const options *o) {
    const char *dir = o->out ? o->out : "results";
    char *probe = io_join(dir, ".doctor");
    struct statvfs fs;
    bool there = io_exists(dir);
    err e = io_make_dirs(dir);
    if (e == OK) e = io_write_file(probe, "ok\n", 3);
    if (e == OK) unlink(probe);
    if (e != OK)
        say(r, false, "output", "%s: choose another directory with -o", err_text());
    else if (statvfs(dir, &fs) == 0)
        say(r, true, "output", "%s is writable, %.1f GB free", dir, (double)fs.f_bavail * (double)fs.f_frsize * 1e-9);
    else
        say(r, true, "output", "%s is writable", dir);
    if (!there) rmdir(dir); /* looking leaves nothing behind */
    mem_free(probe);
}

err cmd_doctor(const options *o) {
    report r = {0};
    printf("kvlab %s, commit %s%s, %s\n", build_version(), build_commit(), build_dirty() ? " with changes" : "",
           build_compiler());
    check_cpu(&r);
    check_memory(&r);
    check_bandwidth(&r);
    check_configs(&r);
    check_models(&r);
    check_text(&r, o);
    check_gnuplot(&r);
    check_output(&r, o);
    fflush(stdout);
    if (r.n_missing) return ERR(ERR_ENV, "%d thing%s missing, as said above", r.n_missing, r.n_missing > 1 ? "s" : "");
    return OK;
}
