/* DIR/plots: every figure as PNG and SVG, drawn by gnuplot from DIR/export. A picture appears under its name only when
 * it is whole. */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "base/mem.h"
#include "run/outputs.h"
#include "run/plot.h"
#include "run/preset.h"

extern char **environ;

/* The scripts lie beside configs/. */
static MUST err find_scripts(char **out) {
    char *configs;
    TRY(preset_dir(&configs));
    char *dir = io_join(configs, "../plots");
    mem_free(configs);
    *out = realpath(dir, NULL);
    err e = *out ? OK : ERR(ERR_ENV, "cannot find the gnuplot scripts: %s: %s", dir, strerror(errno));
    mem_free(dir);
    return e;
}

/* gnuplot's own strings, in single quotes, write a quote twice. */
static char *single_quoted(const char *text) {
    char *out = mem_alloc_small(2 * strlen(text) + 3), *to = out;
    *to++ = '\'';
    for (; *text; text++) {
        if (*text == '\'') *to++ = '\'';
        *to++ = *text;
    }
    *to++ = '\'';
    return out;
}

/* What gnuplot said, as one line: its last message that is not a warning. */
static char *last_complaint(const char *log) {
    char *text, *out = NULL;
    size_t n;
    if (io_read_file(log, 1 << 20, &text, &n) != OK) return mem_strdup("it did not say why");
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        if (!strstr(line, "line ") || strstr(line, "warning:")) continue;
        mem_free(out);
        out = mem_strdup(line);
    }
    mem_free(text);
    return out ? out : mem_strdup("it did not say why");
}

static MUST err run_gnuplot(const char *script, const char *settings, const char *log) {
    posix_spawn_file_actions_t io;
    char *const argv[] = {"gnuplot", "-d", "-e", (char *)settings, (char *)script, NULL};
    pid_t pid;
    int status;
    if (posix_spawn_file_actions_init(&io) != 0) return ERR(ERR_NOMEM, "no memory to start gnuplot");
    posix_spawn_file_actions_addopen(&io, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&io, STDOUT_FILENO, log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_adddup2(&io, STDOUT_FILENO, STDERR_FILENO);
    int failed = posix_spawnp(&pid, "gnuplot", &io, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&io);
    if (failed == ENOENT) return ERR(ERR_ENV, "gnuplot is not installed: apt-get install gnuplot-nox");
    if (failed) return ERR(ERR_IO, "gnuplot cannot be started: %s", strerror(failed));
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return ERR(ERR_IO, "gnuplot cannot be waited for: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return OK;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return ERR(ERR_ENV, "gnuplot is not installed: apt-get install gnuplot-nox");
    char *why = last_complaint(log);
    err e = ERR(ERR_FAILED, "gnuplot failed on %s: %s", script, why);
    mem_free(why);
    return e;
}

/* gnuplot does not report a full disk, so the picture's own end is looked at. */
static bool is_whole(const char *path, bool svg) {
    static const char png_end[] = {'I', 'E', 'N', 'D', '\xae', 'B', '`', '\x82'};
    char tail[9] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    off_t size = lseek(fd, 0, SEEK_END);
    bool read_it = size > 8 && pread(fd, tail, 8, size - 8) == 8;
    close(fd);
    return read_it && (svg ? strstr(tail, "</svg>") != NULL : memcmp(tail, png_end, 8) == 0);
}

static MUST err draw(const figure *fig, const char *scripts, const char *dat_dir, const char *to, const char *suffix) {
    char *script = mem_sprintf("%s/%s.gp", scripts, fig->script), *dat = mem_sprintf("%s/%s.dat", dat_dir, fig->name);
    char *path = mem_sprintf("%s/%s%s", to, fig->name, suffix),
         *tmp = mem_sprintf("%s/%s.tmp.%ld%s", to, fig->name, (long)getpid(), suffix);
    char *log = mem_sprintf("%s/%s.tmp.%ld.log", to, fig->name, (long)getpid());
    char *quoted_dat = single_quoted(dat), *quoted_out = single_quoted(tmp),
         *settings = mem_sprintf("dat=%s; out=%s", quoted_dat, quoted_out);
    err e = run_gnuplot(script, settings, log);
    if (e == OK && !is_whole(tmp, strcmp(suffix, ".svg") == 0))
        e = ERR(ERR_IO, "cannot write %s: gnuplot left an incomplete picture (is the disk full?)", path);
    if (e == OK && rename(tmp, path) != 0) e = ERR(ERR_IO, "cannot write %s: %s", path, strerror(errno));
    if (e != OK) unlink(tmp);
    unlink(log);
    char *const texts[] = {script, dat, path, tmp, log, quoted_dat, quoted_out, settings};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) mem_free(texts[i]);
    return e;
}

err outputs_plot(const results *r, const char *dir) {
    static const char *const suffixes[] = {".png", ".svg"};
    summary *s = NULL;
    figure_list l = {0};
    char *scripts = NULL, *data = io_join(dir, "export"), *to = io_join(dir, "plots");
    err e;
    GOTO(done, e, summary_make(r, &s));
    GOTO(done, e, figures_list(s, &l));
    GOTO(done, e, find_scripts(&scripts));
    GOTO(done, e, io_make_dirs(data));
    GOTO(done, e, figures_write(s, data));
    GOTO(done, e, io_make_dirs(to));
    for (int i = 0; i < l.n && e == OK; i++)
        for (int k = 0; k < 2 && e == OK; k++) e = draw(&l.fig[i], scripts, data, to, suffixes[k]);
done:
    free(scripts);
    mem_free(data);
    mem_free(to);
    figures_free(&l);
    summary_free(s);
    return e;
}
