#include "policy/profile.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/hash.h"
#include "base/io.h"
#include "base/mem.h"

static const char MAGIC[] = "kvlab head profile 1";
enum { MAX_FILE = 512 << 20, TOP = 65535 };

err head_profile_new(int n_layers, int n_kv, head_profile **out) {
    head_profile *p;
    TRY(mem_alloc(MEM_POLICY, sizeof *p, &p));
    p->n_layers = n_layers;
    p->n_kv = n_kv;
    err e = mem_alloc(MEM_POLICY, (size_t)n_layers * (size_t)n_kv * PROFILE_POINTS * sizeof *p->table, &p->table);
    if (e) head_profile_free(p);
    else *out = p;
    return e;
}

void head_profile_free(head_profile *p) {
    if (!p) return;
    mem_free(p->origin);
    mem_free(p->table);
    mem_free(p);
}

float head_profile_value(const head_profile *p, int layer, int head, int rank, int n) {
    const uint16_t *row = p->table + ((size_t)layer * (size_t)p->n_kv + (size_t)head) * PROFILE_POINTS;
    double at = ((double)rank + 0.5) / (double)n * PROFILE_POINTS - 0.5;
    if (at <= 0) return (float)row[0] / TOP;
    int j = (int)at;
    if (j >= PROFILE_POINTS - 1) return (float)row[PROFILE_POINTS - 1] / TOP;
    return (float)((row[j] + (at - j) * (row[j + 1] - row[j])) / TOP);
}

/* ---- reading ---- */

typedef struct reader { const char *path; char *at, *end; int line; } reader;

#define BAD(r, fmt, ...) ERR(ERR_FORMAT, "%s:%d: " fmt, (r)->path, (r)->line, ##__VA_ARGS__)

/* The next line, without its end, cut out of the text. */
static err next_line(reader *r, char **line) {
    char *begin = r->at, *end = memchr(begin, '\n', (size_t)(r->end - begin));
    r->line++;
    *line = begin;
    if (!end) return BAD(r, "the head profile ends in the middle");
    *end = 0;
    r->at = end + 1;
    return OK;
}

/* "key value": the value. */
static err keyed(reader *r, const char *key, char **value) {
    char *line = NULL;
    size_t n = strlen(key);
    TRY(next_line(r, &line));
    if (strncmp(line, key, n) != 0 || line[n] != ' ') return BAD(r, "expected \"%s ...\"", key);
    *value = line + n + 1;
    return OK;
}

static err whole(const reader *r, char **at, long min, long max, const char *what, int *out) {
    char *end;
    if (!isdigit((unsigned char)**at)) return BAD(r, "%s is not a number", what);
    long x = strtol(*at, &end, 10);
    if (x < min || x > max) return BAD(r, "%s is %ld; it must lie in %ld..%ld", what, x, min, max);
    *at = end + (*end == ' ');
    *out = (int)x;
    return OK;
}

static err keyed_number(reader *r, const char *key, long min, long max, int *out) {
    char *value;
    TRY(keyed(r, key, &value));
    TRY(whole(r, &value, min, max, key, out));
    return *value ? BAD(r, "more than a number after %s", key) : OK;
}

static err read_row(reader *r, int layer, int head, uint16_t *row) {
    char *at = NULL;
    int l, h, x, before = 0;
    TRY(next_line(r, &at));
    TRY(whole(r, &at, 0, PROFILE_MAX_HEADS, "the layer", &l));
    TRY(whole(r, &at, 0, PROFILE_MAX_HEADS, "the head", &h));
    if (l != layer || h != head) return BAD(r, "layer %d head %d stands where layer %d head %d is due", l, h, layer, head);
    for (int j = 0; j < PROFILE_POINTS; j++) {
        TRY(whole(r, &at, 0, TOP, "a point", &x));
        if (x < before) return BAD(r, "point %d of layer %d head %d falls from %d to %d", j, layer, head, before, x);
        row[j] = (uint16_t)(before = x);
    }
    return *at ? BAD(r, "more than %d points", PROFILE_POINTS) : OK;
}

static err read_header(reader *r, char sha[65], char **origin, int *n_layers, int *n_kv) {
    char *line = NULL;
    int n_points;
    TRY(next_line(r, &line));
    if (strcmp(line, MAGIC) != 0) return BAD(r, "not a head profile: the first line is not \"%s\"", MAGIC);
    TRY(keyed(r, "model", &line));
    if (strlen(line) != 64 || strspn(line, "0123456789abcdef") != 64) return BAD(r, "the model's SHA-256 is not 64 hexadecimal digits");
    memcpy(sha, line, 65);
    TRY(keyed(r, "origin", origin));
    TRY(keyed_number(r, "layers", 1, PROFILE_MAX_HEADS, n_layers));
    TRY(keyed_number(r, "heads", 1, PROFILE_MAX_HEADS, n_kv));
    TRY(keyed_number(r, "points", PROFILE_POINTS, PROFILE_POINTS, &n_points));
    /* a point takes at least two bytes: what is announced cannot be more than the file holds */
    if ((int64_t)*n_layers * *n_kv > (r->end - r->at) / (2 * PROFILE_POINTS)) return BAD(r, "%d x %d heads are more than the file holds", *n_layers, *n_kv);
    return OK;
}

static err parse(reader *r, uint64_t sum, head_profile **out) {
    char sha[65], *origin, *value, hex[17];
    int n_layers, n_kv;
    head_profile *p = NULL;
    err e;
    TRY(read_header(r, sha, &origin, &n_layers, &n_kv));
    TRY(head_profile_new(n_layers, n_kv, &p));
    p->origin = mem_strdup(origin);
    memcpy(p->model_sha256, sha, sizeof sha);
    for (int l = 0; l < n_layers; l++)
        for (int h = 0; h < n_kv; h++) GOTO(fail, e, read_row(r, l, h, p->table + ((size_t)l * (size_t)n_kv + (size_t)h) * PROFILE_POINTS));
    GOTO(fail, e, keyed(r, "checksum", &value));
    hash_hex64(sum, hex);
    if (strcmp(value, hex) != 0) GOTO(fail, e, BAD(r, "checksum %.16s, but the lines above have %s", value, hex));
    if (r->at != r->end) GOTO(fail, e, BAD(r, "text after the checksum"));
    p->checksum = sum;
    *out = p;
    return OK;
fail:
    head_profile_free(p);
    return e;
}

err head_profile_read(const char *path, head_profile **out) {
    char *text;
    size_t n;
    if (!io_exists(path)) return ERR(ERR_ENV, "head profile %s does not exist; `kvlab calibrate --heads` writes one", path);
    TRY(io_read_file(path, MAX_FILE, &text, &n));
    reader r = {path, text, text + n, 0};
    const char *last = NULL; /* the checksum covers what stands before its line */
    for (const char *at = text; (at = memchr(at, '\n', (size_t)(r.end - at))) && at + 1 < r.end; at++) last = at + 1;
    err e = parse(&r, last ? hash_bytes(text, (size_t)(last - text), 0) : 0, out);
    mem_free(text);
    return e;
}

/* Whether the file's second line names the model. Nothing else of it is looked at. */
static bool belongs(const char *path, const char *model_sha256) {
    char line[128];
    FILE *f = fopen(path, "r");
    bool yes = f && fgets(line, sizeof line, f) && strncmp(line, MAGIC, sizeof MAGIC - 1) == 0 && fgets(line, sizeof line, f) &&
               strncmp(line, "model ", 6) == 0 && strncmp(line + 6, model_sha256, 64) == 0;
    if (f) fclose(f);
    return yes;
}

static int is_profile(const struct dirent *d) {
    size_t n = strlen(d->d_name);
    return n > 8 && d->d_name[0] != '.' && strcmp(d->d_name + n - 8, ".profile") == 0;
}

err head_profile_find(const char *dir, const char *model_sha256, char **path) {
    struct dirent **found = NULL;
    int n = scandir(dir, &found, is_profile, alphasort);
    *path = NULL;
    if (n < 0 && errno != ENOENT) return ERR(ERR_ENV, "cannot read %s: %s", dir, strerror(errno));
    for (int i = 0; i < n; i++) {
        char *at = *path ? NULL : io_join(dir, found[i]->d_name);
        if (at && belongs(at, model_sha256)) *path = at;
        else mem_free(at);
        free(found[i]);
    }
    free(found);
    return OK;
}

/* ---- writing ---- */

static err to_text(const head_profile *p, char **text, size_t *n) {
    FILE *f = open_memstream(text, n);
    if (!f) return ERR(ERR_NOMEM, "no memory for the text of a head profile");
    fprintf(f, "%s\nmodel %s\norigin %s\nlayers %d\nheads %d\npoints %d\n", MAGIC, p->model_sha256, p->origin, p->n_layers, p->n_kv, PROFILE_POINTS);
    const uint16_t *row = p->table;
    for (int l = 0; l < p->n_layers; l++)
        for (int h = 0; h < p->n_kv; h++) {
            fprintf(f, "%d %d", l, h);
            for (int j = 0; j < PROFILE_POINTS; j++) fprintf(f, " %u", (unsigned)*row++);
            fputc('\n', f);
        }
    if (fclose(f) == 0) return OK;
    free(*text);
    return ERR(ERR_NOMEM, "no memory for the text of a head profile");
}

err head_profile_write(const char *path, head_profile *p) {
    char *text = NULL, hex[17];
    size_t n;
    TRY(to_text(p, &text, &n));
    p->checksum = hash_bytes(text, n, 0);
    hash_hex64(p->checksum, hex);
    char *all = mem_sprintf("%schecksum %s\n", text, hex);
    free(text);
    err e = io_write_file(path, all, strlen(all));
    mem_free(all);
    return e;
}
