#include "run/grid.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "base/mem.h"

static int width_of(const char *s) {
    int n = 0;
    for (; *s; s++) n += (*s & 0xc0) != 0x80;
    return n;
}

err grid_make(grid *g, int rows, int cols) {
    g->rows = rows;
    g->cols = cols;
    TRY(mem_alloc(MEM_OTHER, sizeof *g->text * (size_t)rows * (size_t)cols, &g->text));
    err e = mem_alloc(MEM_OTHER, sizeof *g->color * (size_t)rows * (size_t)cols, &g->color);
    if (e != OK) mem_free(g->text);
    return e;
}
void grid_free(grid *g) {
    mem_free(g->text);
    mem_free(g->color);
}
void grid_set(grid *g, int row, int col, const char *color, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(g->text[row * g->cols + col], GRID_CELL, fmt, ap);
    va_end(ap);
    g->color[row * g->cols + col] = color;
}
void grid_print(const grid *g, int n_head, FILE *f, bool color) {
    int w[GRID_MAX_COLS] = {0};
    for (int r = 0; r < g->rows; r++)
        for (int c = 0; c < g->cols; c++) {
            int n = width_of(g->text[r * g->cols + c]);
            if (n > w[c]) w[c] = n;
        }
    for (int r = 0; r < g->rows; r++) {
        for (int c = 0; c < g->cols; c++) {
            const char *t = g->text[r * g->cols + c], *ink = color ? (r < n_head ? "\033[1m" : g->color[r * g->cols + c]) : NULL;
            int pad = w[c] - width_of(t);
            fprintf(f, "%s", c ? "  " : "");
            if (c) fprintf(f, "%*s", pad, "");
            fprintf(f, "%s%s%s", ink ? ink : "", t, ink ? "\033[0m" : "");
            if (!c) fprintf(f, "%*s", pad, "");
        }
        fprintf(f, "\n");
        if (r == n_head - 1) {
            for (int c = 0; c < g->cols; c++) {
                fprintf(f, "%s", c ? "  " : "");
                for (int i = 0; i < w[c]; i++) fprintf(f, "-");
            }
            fprintf(f, "\n");
        }
    }
}

void grid_number(char out[24], double x, const char *unit) {
    if (isnan(x)) snprintf(out, 24, "-");
    else if (strcmp(unit, "%") == 0 || strcmp(unit, "share") == 0 || strcmp(unit, "fraction") == 0) snprintf(out, 24, "%.1f %%", strcmp(unit, "%") ? 100 * x : x);
    else if (x == 0) snprintf(out, 24, "0");
    else if (fabs(x) < 1e-4) snprintf(out, 24, "%.1e", x);
    else if (fabs(x) < 1) snprintf(out, 24, "%.4f", x);
    else if (fabs(x) < 100) snprintf(out, 24, "%.3f", x);
    else snprintf(out, 24, "%.0f", x);
}

json_t *grid_json_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

json_t *grid_json_interval(interval v) {
    return json_pack("{s:o, s:o, s:o, s:i}", "mean", grid_json_number(v.mean), "lo", grid_json_number(v.lo), "hi", grid_json_number(v.hi), "n", v.n);
}

err grid_print_json(json_t *j, FILE *f) {
    if (!j) return ERR(ERR_NOMEM, "no memory for the JSON of a table");
    int bad = json_dumpf(j, f, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) || fputc('\n', f) == EOF;
    json_decref(j);
    return bad ? ERR(ERR_IO, "writing the table failed") : OK;
}
