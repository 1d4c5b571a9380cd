#include "run/signals.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t pending;
static volatile sig_atomic_t child;

static int exit_status(int sig) {
    return sig == SIGUSR1 ? 75 : sig == SIGTERM ? 143 : 130;
}

static void on_signal(int sig) {
    if (pending) {
        if (child > 0) kill((pid_t)child, SIGKILL);
        _exit(exit_status(sig));
    }
    pending = sig;
}

static void on_worker_term(int sig) {
    pending = sig;
}

static void handle(int sig, void (*fn)(int)) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = fn;
    sigemptyset(&a.sa_mask);
    sigaction(sig, &a, NULL); /* without SA_RESTART: a waiting parent wakes up */
}

void signals_install(void) {
    handle(SIGINT, on_signal);
    handle(SIGTERM, on_signal);
    handle(SIGUSR1, on_signal);
    handle(SIGPIPE, SIG_IGN);
}

void signals_install_worker(void) {
    child = 0;
    handle(SIGINT, SIG_IGN);
    handle(SIGUSR1, SIG_IGN);
    handle(SIGTERM, on_worker_term);
    handle(SIGPIPE, SIG_IGN);
}

int signals_pending(void) {
    return pending;
}

void signals_set_child(pid_t pid) {
    child = (sig_atomic_t)pid;
}

int signals_exit_status(void) {
    return exit_status(pending);
}
