/* What the terminal shows: one rewritten line that log lines do not tear, and plain lines where there is no terminal. */
#define _GNU_SOURCE /* openpty */
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/progress.h"

typedef struct capture {
    int reader, saved;
    char text[20000];
} capture;

static capture capture_terminal(unsigned short columns) {
    capture c = {.saved = dup(STDERR_FILENO)};
    int slave;
    struct winsize w = {.ws_row = 24, .ws_col = columns};
    assert_int_equal(openpty(&c.reader, &slave, NULL, NULL, &w), 0);
    dup2(slave, STDERR_FILENO);
    close(slave);
    return c;
}

static capture capture_pipe(void) {
    capture c = {.saved = dup(STDERR_FILENO)};
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    c.reader = ends[0];
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    return c;
}

static void capture_end(capture *c) {
    fflush(stderr);
    size_t n = 0;
    struct pollfd p = {.fd = c->reader, .events = POLLIN};
    while (n < sizeof c->text - 1 && poll(&p, 1, 100) > 0 && (p.revents & POLLIN)) {
        ssize_t got = read(c->reader, c->text + n, sizeof c->text - 1 - n);
        if (got <= 0) break;
        n += (size_t)got;
    }
    c->text[n] = 0;
    dup2(c->saved, STDERR_FILENO);
    close(c->saved);
    close(c->reader);
}

static int count(const char *text, const char *what) {
    int n = 0;
    for (const char *s = text; (s = strstr(s, what)); s += strlen(what)) n++;
    return n;
}

static void a_terminal_shows_one_line_that_is_rewritten(void **state) {
    capture c = capture_terminal(80);
    progress *p = progress_begin("run", 8, true);
    usleep(150000);
    progress_update(p, 4, "snapkv passkey 4/8");
    progress_update(p, 5, "too soon to be drawn");
    progress_end(p, true);
    capture_end(&c);
    assert_non_null(strstr(c.text, "\rrun   0% [....................."));
    assert_non_null(strstr(c.text, "\rrun  50% [#"));
    assert_non_null(strstr(c.text, " 4/8 0.2s ETA 0.2s  snapkv passkey 4/8\033[K"));
    assert_null(strstr(c.text, "too soon"));
    assert_non_null(strstr(c.text, "\r\033[Krun: done, 8 in 0.2s\r\n"));
    assert_int_equal(count(c.text, "\n"), 1);
}

static void it_is_redrawn_at_most_ten_times_a_second(void **state) {
    capture c = capture_terminal(80);
    progress *p = progress_begin("run", 1000, true);
    for (int i = 0; i < 250; i++) {
        progress_update(p, i, NULL);
        usleep(1000);
    }
    progress_end(p, false);
    capture_end(&c);
    int drawn = count(c.text, "\rrun");
    assert_in_range(drawn, 2, 12); /* a slow machine takes longer than 0.25 s for it */
    assert_non_null(strstr(c.text, "run: stopped at 249 of 1000 after"));
}

static void it_fits_the_width(void **state) {
    capture c = capture_terminal(30);
    progress *p = progress_begin("run", 8, true);
    usleep(120000);
    progress_update(p, 4, "a note \xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9 much longer than the line");
    progress_end(p, true);
    capture_end(&c);
    for (char *line = strtok(c.text, "\r\n"); line; line = strtok(NULL, "\r\n")) {
        char *end = strstr(line, "\033[K");
        if (end && end != line) assert_true(end - line <= 29);
    }
}

static void log_lines_stand_above_it(void **state) {
    capture c = capture_terminal(80);
    progress *p = progress_begin("run", 8, true);
    log_warn("disk is %s", "slow");
    log_debug("not shown at this level");
    progress_end(p, true);
    capture_end(&c);
    assert_non_null(strstr(c.text, "\r\033[Kwarning: disk is slow\r\n\rrun   0%"));
    assert_null(strstr(c.text, "not shown"));
}

static void without_a_terminal_there_are_plain_lines_only(void **state) {
    capture c = capture_pipe();
    progress *p = progress_begin("run", 8, true);
    progress_update(p, 4, NULL); /* the first heartbeat is due after 10 s */
    log_set(LOG_DEBUG, true);
    assert_false(log_color());
    log_error("a %0*d", 1500, 7);
    log_debug("shown");
    log_set(LOG_ERROR, true);
    log_info("quiet");
    log_set(LOG_INFO, false);
    progress_end(p, true);
    capture_end(&c);
    assert_null(strchr(c.text, '\r'));
    assert_null(strchr(c.text, '\033'));
    assert_non_null(strstr(c.text, "007\ndebug: shown\nrun: done, 8 in 0.0s\n"));
    assert_int_equal(strlen(c.text), strlen("error: a \n") + 1500 + strlen("debug: shown\nrun: done, 8 in 0.0s\n"));
}

static void colour_needs_a_terminal_and_no_no_color(void **state) {
    capture c = capture_terminal(80);
    unsetenv("NO_COLOR");
    log_set(LOG_INFO, true);
    bool plain = log_color();
    log_error("x");
    setenv("NO_COLOR", "1", 1);
    log_set(LOG_INFO, true);
    bool refused = log_color();
    log_set(LOG_INFO, false);
    capture_end(&c);
    assert_true(plain);
    assert_false(refused);
    assert_non_null(strstr(c.text, "\033[1;31merror:\033[0m x"));
}

static void a_disabled_one_is_silent_and_inner_ones_take_turns(void **state) {
    capture c = capture_terminal(80);
    progress *outer = progress_begin("outer", 8, false);
    progress *inner = progress_begin("inner", 8, true);
    progress_update(outer, 3, NULL);
    progress_end(inner, true);
    progress_end(outer, true);
    progress_update(NULL, 1, NULL);
    progress_end(NULL, true);
    capture_end(&c);
    assert_null(strstr(c.text, "outer"));
    assert_non_null(strstr(c.text, "inner"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_terminal_shows_one_line_that_is_rewritten),
        cmocka_unit_test(it_is_redrawn_at_most_ten_times_a_second),
        cmocka_unit_test(it_fits_the_width),
        cmocka_unit_test(log_lines_stand_above_it),
        cmocka_unit_test(without_a_terminal_there_are_plain_lines_only),
        cmocka_unit_test(colour_needs_a_terminal_and_no_no_color),
        cmocka_unit_test(a_disabled_one_is_silent_and_inner_ones_take_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
