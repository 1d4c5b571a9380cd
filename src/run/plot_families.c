/* Kinds of points, and what a sweep's figures are. */
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "base/mem.h"
#include "run/export.h"
#include "run/plot.h"

/* ---- families ---- */

static bool keeps_all(const summary *s, int point) {
    summary_bytes b = summary_point_bytes(s, point);
    return b.n && b.kept > 0.9995;
}

/* "snapkv budget=0.25" -> "snapkv"; "budget=0.25" -> "budget". */
static char *first_word(const char *label) {
    return mem_sprintf("%.*s", (int)strcspn(label, " ="), label);
}

static int find_family(plot_families *x, const char *name) {
    for (int i = 0; i < x->n; i++)
        if (strcmp(x->name[i], name) == 0) return i;
    x->name[x->n] = mem_strdup(name);
    return x->n++;
}

/* "snapkv budget=0.25" within its family: "0.25"; two axes keep their names; a lone name stays. */
static char *short_label(const char *label, const char *family) {
    const char *rest = label;
    size_t n = strlen(family);
    if (strncmp(label, family, n) == 0 && (label[n] == ' ' || label[n] == '=')) rest = label + n + 1;
    if (strchr(rest, ' ')) return mem_strdup(rest);
    const char *equals = strchr(rest, '=');
    return mem_strdup(equals ? equals + 1 : rest);
}

/* "snapkv budget=0.25 window=32" -> "snapkv 0.25 32". */
static char *without_keys(const char *label) {
    char *out = mem_strdup("");
    for (const char *word = label; *word;) {
        size_t n = strcspn(word, " "), key = strcspn(word, "=");
        const char *from = key < n && word != label ? word + key + 1 : word;
        char *longer = mem_sprintf("%s%s%.*s", out, *out ? " " : "", (int)(word + n - from), from);
        mem_free(out);
        out = longer;
        word += n + (word[n] == ' ');
    }
    return out;
}

/* "budget" when every member of the family is "FAMILY budget=NUMBER"; else "". */
static char *varying_setting(const results *r, const plot_families *x, int family) {
    char *key = NULL;
    int members = 0;
    for (int p = 0; p < r->n_points; p++) {
        if (x->of_point[p] != family) continue;
        members++;
        const char *label = r->points[p].label, *rest = strchr(label, ' '), *equals = rest ? strchr(rest, '=') : NULL;
        bool one = rest && !strchr(rest + 1, ' ') && equals && strpbrk(equals, "0123456789");
        char *name = one ? mem_sprintf("%.*s", (int)(equals - rest - 1), rest + 1) : mem_strdup("");
        bool same = !key || strcmp(key, name) == 0;
        mem_free(key);
        key = same ? name : mem_strdup("");
        if (!same) mem_free(name);
        if (!*key) break;
    }
    if (members > 1) return key;
    mem_free(key);
    return mem_strdup("");
}

err plot_families_make(const summary *s, plot_families *out) {
    const results *r = s->r;
    size_t n = (size_t)r->n_points;
    *out = (plot_families){0};
    err e = mem_alloc(MEM_OTHER, sizeof *out->name * (n + 2), &out->name);
    if (e == OK) e = mem_alloc(MEM_OTHER, sizeof *out->of_point * n, &out->of_point);
    if (e == OK) e = mem_alloc(MEM_OTHER, sizeof *out->label * (n + 1), &out->label);
    if (e == OK) e = mem_alloc(MEM_OTHER, sizeof *out->brief * (n + 1), &out->brief);
    if (e == OK) e = mem_alloc(MEM_OTHER, sizeof *out->varies * (n + 2), &out->varies);
    if (e != OK) {
        plot_families_free(out);
        return e;
    }
    find_family(out, "full"); /* its colour is black in every figure */
    for (int p = 0; p < r->n_points; p++) {
        const char *label = r->points[p].label;
        char *word = first_word(label);
        int alike = 0;
        for (int k = 0; k < r->n_points; k++) {
            char *other = first_word(r->points[k].label);
            alike += strcmp(word, other) == 0;
            mem_free(other);
        }
        const char *family = r->points[p].full ? "full" : alike == 1 && keeps_all(s, p) ? "quantised, all kept" : word;
        out->of_point[p] = find_family(out, family);
        out->label[p] = short_label(label, word);
        out->brief[p] = without_keys(label);
        mem_free(word);
    }
    for (int p = 0; p < r->n_points; p++) { /* alone in its family, a point carries its whole name */
        int members = 0;
        for (int q = 0; q < r->n_points; q++) members += out->of_point[q] == out->of_point[p];
        if (members > 1) continue;
        mem_free(out->label[p]);
        out->label[p] = mem_strdup(out->brief[p]);
    }
    for (int k = 0; k < out->n; k++) out->varies[k] = varying_setting(r, out, k);
    return OK;
}

void plot_families_free(plot_families *x) {
    for (int i = 0; i < x->n; i++) {
        mem_free(x->name[i]);
        if (x->varies) mem_free(x->varies[i]);
    }
    for (int p = 0; x->label && x->label[p]; p++) mem_free(x->label[p]);
    for (int p = 0; x->brief && x->brief[p]; p++) mem_free(x->brief[p]);
    mem_free(x->brief);
    mem_free(x->varies);
    mem_free(x->name);
    mem_free(x->of_point);
    mem_free(x->label);
    *x = (plot_families){0};
}

/* ---- text of a .dat ---- */

void plot_quoted(FILE *f, const char *text) {
    fputc('"', f);
    for (; *text; text++)
        fputc(*text == '"' ? '\'' : iscntrl((unsigned char)*text) ? ' ' : *text == '\\' ? '/' : *text, f);
    fputc('"', f);
}

void plot_set(FILE *f, const char *name, const char *fmt, ...) {
    char *text;
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    text = mem_alloc_small((size_t)n + 1);
    vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(ap);
    fprintf(f, "%-12s ", name);
    plot_quoted(f, text);
    fputc('\n', f);
    mem_free(text);
}

void plot_next_block(FILE *f, const char *comment) {
    fprintf(f, "\n\n# %s\n", comment);
}
