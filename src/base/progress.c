#include "base/progress.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

static const double redraw_s = 0.1, heartbeat_s = 10;
enum { MAX_COLUMNS = 512, BAR_MAX = 30, BAR_MIN = 8 };

struct progress {
    char *what;
    char note[256];
    double total, done, began, shown; /* shown: time of the last line written */
    bool enabled, terminal;
    progress *outer; /* the newest is drawn; when it ends, the one before it is */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards everything here, and stderr */
static progress *newest;
static bool line_drawn;

static size_t terminal_columns(void) {
    struct winsize w;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) != 0 || w.ws_col == 0) return 80;
    return w.ws_col < MAX_COLUMNS ? w.ws_col : MAX_COLUMNS;
}

static double fraction(const progress *p) {
    double f = p->total > 0 ? p->done / p->total : 0;
    return f < 0 ? 0 : f > 1 ? 1 : f;
}

static void time_left(const progress *p, double elapsed, char out[16]) {
    double f = fraction(p);
    if (f > 0)
        clock_duration(elapsed * (1 - f) / f, out);
    else
        strcpy(out, "?");
}

/* Cuts at `n` bytes without splitting a UTF-8 sequence. */
static void cut(char *s, size_t n) {
    if (strlen(s) <= n) return;
    while (n > 0 && ((unsigned char)s[n] & 0xC0) == 0x80) n--;
    s[n] = 0;
}

static void clear_line(void) {
    if (line_drawn) fputs("\r\033[K", stderr);
    line_drawn = false;
}

static void draw(progress *p) {
    char elapsed[16], left[16], head[MAX_COLUMNS], tail[MAX_COLUMNS], bar[BAR_MAX + 1] = "";
    double now = clock_now(), f = fraction(p);
    clock_duration(now - p->began, elapsed);
    time_left(p, now - p->began, left);
    snprintf(head, sizeof head, "%.40s %3d%%", p->what, (int)(100 * f));
    snprintf(tail, sizeof tail, " %.6g/%.6g %s ETA %s%s%s", p->done, p->total, elapsed, left, *p->note ? "  " : "",
             p->note);
    size_t columns = terminal_columns() - 1; /* writing the last column would wrap on some terminals */
    size_t fixed = strlen(head) + strlen(tail) + 3, bar_n = columns > fixed ? columns - fixed : 0;
    if (bar_n > BAR_MAX) bar_n = BAR_MAX;
    if (bar_n >= BAR_MIN) {
        size_t full = (size_t)(f * (double)bar_n + 0.5);
        memset(bar, '#', full);
        memset(bar + full, '.', bar_n - full);
    }
    char line[2 * MAX_COLUMNS + BAR_MAX + 8];
    snprintf(line, sizeof line, *bar ? "%s [%s]%s" : "%s%s%s", head, bar, tail);
    cut(line, columns);
    fprintf(stderr, "\r%s\033[K", line);
    fflush(stderr);
    line_drawn = true;
    p->shown = now;
}

static void heartbeat(progress *p) {
    char elapsed[16], left[16];
    double now = clock_now();
    clock_duration(now - p->began, elapsed);
    time_left(p, now - p->began, left);
    fprintf(stderr, "%s: %d%% (%.6g/%.6g), %s elapsed, ETA %s%s%s\n", p->what, (int)(100 * fraction(p)), p->done,
            p->total, elapsed, left, *p->note ? ": " : "", p->note);
    p->shown = now;
}

progress *progress_begin(const char *what, double total, bool enabled) {
    progress *p = NULL;
    if (mem_alloc(MEM_OTHER, sizeof *p, &p) != OK) return NULL; /* work goes on without a bar */
    p->what = mem_strdup(what);
    p->total = total;
    p->enabled = enabled;
    p->terminal = isatty(STDERR_FILENO);
    p->began = p->shown = clock_now();
    pthread_mutex_lock(&lock);
    p->outer = newest;
    newest = p;
    if (enabled && p->terminal) draw(p);
    pthread_mutex_unlock(&lock);
    return p;
}

void progress_update(progress *p, double done, const char *note) {
    if (!p) return;
    pthread_mutex_lock(&lock);
    p->done = done;
    snprintf(p->note, sizeof p->note, "%s", note ? note : "");
    if (p->enabled && p == newest && clock_now() - p->shown >= (p->terminal ? redraw_s : heartbeat_s)) {
        if (p->terminal)
            draw(p);
        else
            heartbeat(p);
    }
    pthread_mutex_unlock(&lock);
}

void progress_end(progress *p, bool finished) {
    if (!p) return;
    pthread_mutex_lock(&lock);
    if (p->enabled && p->terminal) clear_line();
    if (p->enabled) {
        char elapsed[16];
        clock_duration(clock_now() - p->began, elapsed);
        if (finished)
            fprintf(stderr, "%s: done, %.6g in %s\n", p->what, p->total, elapsed);
        else
            fprintf(stderr, "%s: stopped at %.6g of %.6g after %s\n", p->what, p->done, p->total, elapsed);
    }
    progress **link = &newest;
    while (*link && *link != p) link = &(*link)->outer;
    if (*link) *link = p->outer;
    pthread_mutex_unlock(&lock);
    mem_free(p->what);
    mem_free(p);
}

void progress_print(const char *prefix, const char *text) {
    pthread_mutex_lock(&lock);
    bool redraw = line_drawn;
    clear_line();
    fprintf(stderr, "%s%s\n", prefix, text);
    if (redraw && newest && newest->enabled && newest->terminal) draw(newest);
    pthread_mutex_unlock(&lock);
}
