/* What the tables of the terminal are made of: text cells with their printed width (UTF-8 aware), right-aligned but for the first column;
 * numbers as tables write them; the JSON of an interval. */
#ifndef KVLAB_RUN_GRID_H
#define KVLAB_RUN_GRID_H
#include <jansson.h>
#include <stdio.h>
#include "base/err.h"
#include "run/summary.h"

enum { GRID_MAX_COLS = 64, GRID_CELL = 96 };
#define GRID_GREEN "\033[32m"
#define GRID_RED "\033[31m"
#define GRID_DIM "\033[2m"

typedef struct grid {
    int rows, cols;
    char (*text)[GRID_CELL];
    const char **color; /* ANSI or NULL */
} grid;

MUST err grid_make(grid *g, int rows, int cols); /* empty cells */
void grid_free(grid *g);
void grid_set(grid *g, int row, int col, const char *color, const char *fmt, ...) PRINTF_LIKE(5, 6);
void grid_print(const grid *g, int n_head, FILE *f, bool color);

/* Four significant digits at most, no exponent where a reader would not want one. */
void grid_number(char out[24], double x, const char *unit);

json_t *grid_json_number(double x); /* null unless finite */
json_t *grid_json_interval(interval v);
MUST err grid_print_json(json_t *j, FILE *f); /* takes over j */
#endif
