/* Parts of report.html; each writes HTML. */
#ifndef KVLAB_RUN_REPORT_H
#define KVLAB_RUN_REPORT_H
#include <stdio.h>
#include "run/summary.h"

void report_text(FILE *f, const char *text); /* escaped */
void report_tables(const summary *s, FILE *f);
void report_provenance(const summary *s, const char *dir, FILE *f);
#endif
