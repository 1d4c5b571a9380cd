/* SIGINT, SIGTERM, SIGUSR1: the first asks to finish the unit and flush, the second ends the process at once. */
#ifndef KVLAB_RUN_SIGNALS_H
#define KVLAB_RUN_SIGNALS_H
#include <sys/types.h>
void signals_install(void);
int signals_pending(void);         /* the signal that came, 0 if none */
void signals_set_child(pid_t pid); /* killed when the second signal comes; 0 = none */
int signals_exit_status(void);     /* 130, 143, 75; 130 when none came */
/* In a worker: SIGTERM asks it to stop after its unit; the terminal's signals are left to the parent. */
void signals_install_worker(void);
#endif
