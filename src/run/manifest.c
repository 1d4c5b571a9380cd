/* DIR/MANIFEST.tsv: what a results directory consists of. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/mem.h"
#include "run/provenance.h"

typedef struct names {
    char **path;
    int n, cap;
} names;

static err add_name(names *l, char *path) {
    if (l->n == l->cap) {
        char **larger;
        TRY(mem_alloc(MEM_OTHER, (size_t)(2 * l->cap + 64) * sizeof *larger, &larger));
        if (l->n) memcpy(larger, l->path, (size_t)l->n * sizeof *larger);
        mem_free(l->path);
        l->path = larger;
        l->cap = 2 * l->cap + 64;
    }
    l->path[l->n++] = path;
    return OK;
}

static void names_free(names *l) {
    for (int i = 0; i < l->n; i++) mem_free(l->path[i]);
    mem_free(l->path);
}

static err walk(const char *dir, const char *below, names *out) {
    char *here = io_join(dir, below);
    DIR *d = opendir(here);
    if (!d) {
        err e = ERR(ERR_IO, "cannot read %s: %s", here, strerror(errno));
        mem_free(here);
        return e;
    }
    err e = OK;
    for (struct dirent *entry; e == OK && (entry = readdir(d));) {
        if (entry->d_name[0] == '.' || (!*below && strcmp(entry->d_name, "MANIFEST.tsv") == 0) ||
            strstr(entry->d_name, ".tmp."))
            continue;
        char *rel = *below ? mem_sprintf("%s/%s", below, entry->d_name) : mem_strdup(entry->d_name),
             *path = io_join(dir, rel);
        struct stat st;
        if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
            e = walk(dir, rel, out);
        else if (S_ISREG(st.st_mode) && (e = add_name(out, rel)) == OK)
            rel = NULL;
        mem_free(rel);
        mem_free(path);
    }
    closedir(d);
    mem_free(here);
    return e;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

err manifest_write(const char *dir) {
    names l = {0};
    io_file f = {0};
    char *path = io_join(dir, "MANIFEST.tsv");
    err e = walk(dir, "", &l);
    if (e == OK && l.n > 1) qsort(l.path, (size_t)l.n, sizeof *l.path, by_name);
    if (e == OK) e = io_begin(path, &f);
    if (e == OK) fprintf(f.f, "path\tbytes\tsha256\n");
    for (int i = 0; i < l.n && e == OK; i++) {
        char *full = io_join(dir, l.path[i]), sha[65];
        struct stat st;
        if (stat(full, &st) != 0)
            e = ERR(ERR_IO, "cannot read %s: %s", full, strerror(errno));
        else if ((e = hash_file_sha256(full, sha)) == OK)
            fprintf(f.f, "%s\t%lld\t%s\n", l.path[i], (long long)st.st_size, sha);
        mem_free(full);
    }
    if (e == OK)
        e = io_commit(&f);
    else
        io_abort(&f);
    names_free(&l);
    mem_free(path);
    return e;
}

static err check_line(const char *dir, const char *line, size_t n) {
    char *text = mem_sprintf("%.*s", (int)n, line), *bytes = strchr(text, '\t'),
         *want = bytes ? strchr(bytes + 1, '\t') : NULL, sha[65];
    err e;
    if (!want) {
        e = ERR(ERR_VERIFY, "%s/MANIFEST.tsv has a line of fewer than three columns", dir);
    } else {
        *bytes = *want = 0;
        char *full = io_join(dir, text);
        if (!io_exists(full))
            e = ERR(ERR_VERIFY, "%s is missing", full);
        else if ((e = hash_file_sha256(full, sha)) == OK && strcmp(sha, want + 1) != 0)
            e = ERR(ERR_VERIFY, "%s has changed since MANIFEST.tsv was written", full);
        mem_free(full);
    }
    mem_free(text);
    return e;
}

err manifest_check(const char *dir, int *n_files) {
    char *path = io_join(dir, "MANIFEST.tsv"), *text;
    size_t n;
    *n_files = 0;
    err e = io_read_file(path, 64 << 20, &text, &n);
    mem_free(path);
    TRY(e);
    const char *line = strchr(text, '\n');
    for (line = line ? line + 1 : text + n; *line && e == OK; line += strcspn(line, "\n"), line += *line == '\n') {
        e = check_line(dir, line, strcspn(line, "\n"));
        *n_files += e == OK;
    }
    mem_free(text);
    return e;
}
