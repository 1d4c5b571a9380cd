/* What a finished or interrupted sweep is turned into; every function reads `results` only and leaves whole files or
 * none. */
#ifndef KVLAB_RUN_OUTPUTS_H
#define KVLAB_RUN_OUTPUTS_H
#include <stdbool.h>
#include <stdio.h>
#include "run/results.h"

MUST err outputs_store(const results *r, const char *dir);  /* DIR/sweep.h5 */
MUST err outputs_export(const results *r, const char *dir); /* DIR/export: .csv, .dat, .json */
MUST err outputs_plot(const results *r, const char *dir);   /* DIR/plots: PNG and SVG by gnuplot; ERR_ENV without it */
MUST err outputs_report(const results *r, const char *dir); /* DIR/report.html */
MUST err outputs_table(const results *r, FILE *f, bool color, bool json); /* the table of the terminal */
/* Point a against point b on the records both have: every metric with its paired interval. */
MUST err outputs_compare(const results *r, int a, int b, FILE *f, bool color, bool json);
/* Reads DIR/sweep.h5 back and compares it with the journal: ERR_VERIFY says what differs. */
MUST err outputs_verify(const results *r, const char *dir);
#endif
