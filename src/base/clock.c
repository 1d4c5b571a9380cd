#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

static double read_clock(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double clock_now(void) {
    return read_clock(CLOCK_MONOTONIC);
}

double clock_thread(void) {
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

double clock_wall(void) {
    return read_clock(CLOCK_REALTIME);
}

void clock_iso8601(double wall, char out[32]) {
    time_t t = (time_t)floor(wall);
    struct tm tm;
    out[0] = 0;
    if (gmtime_r(&t, &tm)) strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

void clock_duration(double s, char out[16]) {
    if (!(s > 0)) s = 0;
    if (s < 59.95) {
        snprintf(out, 16, "%.1fs", s);
    } else if (s < 3599.5) {
        int n = (int)lround(s);
        snprintf(out, 16, "%dm%02ds", n / 60, n % 60);
    } else if (s < 359970) {
        int n = (int)lround(s / 60);
        snprintf(out, 16, "%dh%02dm", n / 60, n % 60);
    } else if (s < 86400e4) {
        int n = (int)lround(s / 3600);
        snprintf(out, 16, "%dd%02dh", n / 24, n % 24);
    } else {
        snprintf(out, 16, "very long");
    }
}
