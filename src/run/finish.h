/* What the verbs that read a results directory share. */
#ifndef KVLAB_RUN_FINISH_H
#define KVLAB_RUN_FINISH_H
#include "run/options.h"
#include "run/outputs.h"

/* sweep.h5, export/, plots/, report.html and MANIFEST.tsv; without gnuplot everything but the pictures, with a warning.
 */
MUST err finish_outputs(const results *r);
/* The table on stdout, as options say. */
MUST err finish_table(const results *r, const options *o);
bool finish_color(const options *o); /* stdout is a terminal and nobody minds */
#endif
