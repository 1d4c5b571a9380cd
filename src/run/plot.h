/* Figures: which ones a sweep has, and their data. A figure is export/NAME.dat drawn by plots/SCRIPT.gp of the
 * program's own folder, so each can be drawn again by hand:  gnuplot -e "dat='export/kl_vs_bytes-lm.dat'; out='kl.png'"
 * plots/kl_vs_bytes.gp
 *
 * A .dat begins with comments, then comes a block of settings (name, value), then blocks of numbers; blocks are
 * separated by two empty lines, as gnuplot counts them. Its numbers come from the summary only. */
#ifndef KVLAB_RUN_PLOT_H
#define KVLAB_RUN_PLOT_H
#include "run/summary.h"

typedef struct figure figure;
struct figure {
    char *name;              /* "kl_vs_bytes-lm" */
    const char *script;      /* "kl_vs_bytes" */
    char *title;             /* the question it answers */
    char *caption;           /* how to read it */
    int group, task, metric; /* -1: does not apply */
    err (*write)(const figure *fig, const summary *s, FILE *f);
};
typedef struct figure_list {
    figure *fig;
    int n;
} figure_list;

MUST err figures_list(const summary *s, figure_list *out);
void figures_free(figure_list *l);
MUST err figures_write(const summary *s, const char *dir); /* DIR/NAME.dat of each */

/* ---- what the files plot_*.c share ---- */

/* Points of one kind: "snapkv" at its budgets; "quantised" = every item kept, in fewer bits; "full" first. */
typedef struct plot_families {
    int n;
    char **name;   /* [n] */
    int *of_point; /* [n_points] */
    char **brief;  /* [n_points + 1] "snapkv 0.25"; ends with NULL */
    char **varies; /* [n] what tells the members apart: "budget", "" if it is not one setting */
    char **label;  /* [n_points + 1] what tells a point from the others of its family; ends with NULL */
} plot_families;
MUST err plot_families_make(const summary *s, plot_families *out);
void plot_families_free(plot_families *x);

/* A label beside a mark, in pixels of the plot's area (y upwards). */
typedef struct plot_label {
    double x, y, y_lo, y_hi; /* the mark and its interval */
    double w, h;             /* size of the text */
    double lx, ly;           /* out: middle of the text */
    bool leader;             /* out: far enough to need a line to its mark */
} plot_label;
typedef struct plot_segment {
    double x0, y0, x1, y1;
} plot_segment; /* a line that labels should not cover */
/* Labels avoid each other, marks, intervals and the edges; the same input gives the same places. */
void plot_labels_place(plot_label *l, int n, const plot_segment *lines, int n_lines, double width, double height);
/* One dimension: heights y[n] are moved apart to at least `gap`, in their order, within lo..hi if there is room. */
void plot_spread(double *y, int n, double gap, double lo, double hi);

/* One line of the settings: name "value". */
void plot_set(FILE *f, const char *name, const char *fmt, ...) PRINTF_LIKE(3, 4);
void plot_quoted(FILE *f, const char *text); /* "text"; no quotes or newlines inside */
void plot_next_block(FILE *f, const char *comment);
double plot_text_width(const char *utf8, double px_per_char);

err plot_write_bytes(const figure *fig, const summary *s, FILE *f);  /* kl_vs_bytes, score_vs_bytes */
err plot_write_speed(const figure *fig, const summary *s, FILE *f);  /* decode_speed */
err plot_write_heads(const figure *fig, const summary *s, FILE *f);  /* kept_heads */
err plot_write_axes(const figure *fig, const summary *s, FILE *f);   /* axes */
err plot_write_memory(const figure *fig, const summary *s, FILE *f); /* memory */
bool plot_has_axes(const summary *s, int group); /* alternatives with names, and a KL */
bool plot_point_evicts(const summary *s, int point); /* has records with fewer items than full's, and their places */
#endif
