#include "run/journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/io.h"
#include "base/mem.h"
#include "run/jsonx.h"

enum { HASH_HEX = 16 };
static const double sync_every_s = 1;
static const size_t max_journal_bytes = (size_t)8 << 30;

struct journal {
    int fd;
    char *path;
    double synced;
    bool dirty;
};

/* ---- lines ---- */

err journal_line_encode(const json_t *value, char **line) {
    char *text = json_dumps(value, JSONX_DUMP);
    *line = NULL;
    if (!text) return ERR(ERR_NOMEM, "out of memory: a journal line cannot be encoded");
    char hex[HASH_HEX + 1];
    hash_hex64(hash_bytes(text, strlen(text), 0), hex);
    *line = mem_sprintf("%s %s", hex, text);
    free(text);
    return OK;
}

err journal_line_decode(const char *line, size_t n, json_t **value) {
    *value = NULL;
    if (n < HASH_HEX + 3 || line[HASH_HEX] != ' ') return ERR(ERR_FORMAT, "no checksum at its start");
    char hex[HASH_HEX + 1];
    hash_hex64(hash_bytes(line + HASH_HEX + 1, n - HASH_HEX - 1, 0), hex);
    if (memcmp(hex, line, HASH_HEX) != 0) return ERR(ERR_FORMAT, "its checksum is wrong");
    json_error_t je;
    *value = json_loadb(line + HASH_HEX + 1, n - HASH_HEX - 1, JSON_REJECT_DUPLICATES, &je);
    if (!*value) return ERR(ERR_FORMAT, "not JSON: %s", je.text);
    return OK;
}

/* ---- writing ---- */

static err io_failed(const char *what, const char *path) {
    return ERR(ERR_IO, "cannot %s journal %s: %s", what, path, strerror(errno));
}

/* Cuts what follows the last newline: the line of a writer that died. */
static err cut_torn_line(int fd, const char *path) {
    struct stat st;
    if (fstat(fd, &st) != 0) return io_failed("read", path);
    if (!S_ISREG(st.st_mode)) return ERR(ERR_IO, "journal %s is not a regular file", path);
    off_t end = st.st_size;
    char buf[4096];
    while (end > 0) {
        size_t want = end < (off_t)sizeof buf ? (size_t)end : sizeof buf;
        ssize_t got = pread(fd, buf, want, end - (off_t)want);
        if (got != (ssize_t)want) return io_failed("read", path);
        size_t keep = want;
        while (keep > 0 && buf[keep - 1] != '\n') keep--;
        end -= (off_t)(want - keep);
        if (keep > 0) break;
    }
    if (end != st.st_size && ftruncate(fd, end) != 0) return io_failed("cut the torn end of", path);
    return OK;
}

err journal_open(const char *path, journal **out) {
    *out = NULL;
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return io_failed("open", path);
    err e = cut_torn_line(fd, path);
    journal *j = NULL;
    if (e == OK) e = mem_alloc(MEM_OTHER, sizeof *j, &j);
    if (e != OK) {
        close(fd);
        return e;
    }
    *j = (journal){.fd = fd, .path = mem_strdup(path), .synced = clock_now()};
    *out = j;
    return OK;
}

/* A line that could not be written whole is cut off again, so that the next one does not continue it. */
static err append_bytes(journal *j, const char *text, size_t n) {
    off_t before = lseek(j->fd, 0, SEEK_END);
    for (size_t done = 0; done < n;) {
        ssize_t w = write(j->fd, text + done, n - done);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) {
            err e = io_failed("append to", j->path);
            if (before >= 0 && ftruncate(j->fd, before) != 0)
                return err_wrap(e, "a torn line stays at the end (it is tolerated)");
            return e;
        }
        done += (size_t)w;
    }
    j->dirty = true;
    return OK;
}

err journal_append(journal *j, const json_t *value) {
    char *line;
    TRY(journal_line_encode(value, &line));
    size_t n = strlen(line);
    line[n] = '\n'; /* over the NUL: the length is known */
    err e = append_bytes(j, line, n + 1);
    mem_free(line);
    if (e == OK && clock_now() - j->synced >= sync_every_s) e = journal_sync(j);
    return e;
}

err journal_sync(journal *j) {
    if (!j->dirty) return OK;
    j->synced = clock_now();
    if (fdatasync(j->fd) != 0) return io_failed("sync", j->path);
    j->dirty = false;
    return OK;
}

err journal_close(journal *j) {
    if (!j) return OK;
    err e = journal_sync(j);
    if (close(j->fd) != 0 && e == OK) e = io_failed("close", j->path);
    mem_free(j->path);
    mem_free(j);
    return e;
}

/* ---- reading ---- */

err journal_read(const char *path, err (*visit)(void *arg, int line, const json_t *value), void *arg,
                 journal_report *report) {
    char *text;
    size_t n;
    *report = (journal_report){0};
    TRY(io_read_file(path, max_journal_bytes, &text, &n));
    err e = OK;
    for (const char *p = text, *end = text + n; p < end && e == OK;) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        if (!nl) {
            report->torn = true;
            break;
        }
        json_t *value;
        int line = ++report->n_lines;
        if (journal_line_decode(p, (size_t)(nl - p), &value) == OK) {
            report->n_good++;
            e = visit(arg, line, value);
            json_decref(value);
        } else {
            if (report->n_corrupt < JOURNAL_MAX_NAMED) report->corrupt[report->n_corrupt] = line;
            report->n_corrupt++;
        }
        p = nl + 1;
    }
    mem_free(text);
    return e;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int is_journal(const struct dirent *d) {
    size_t n = strlen(d->d_name);
    return n > 6 && d->d_name[0] != '.' && strcmp(d->d_name + n - 6, ".jsonl") == 0;
}

err journal_list(const char *results_dir, char ***paths, int *n) {
    char *dir = io_join(results_dir, "journal");
    struct dirent **names = NULL;
    int count = scandir(dir, &names, is_journal, NULL);
    *paths = NULL;
    *n = 0;
    err e = OK;
    if (count < 0)
        e = ERR(ERR_IO, "%s is not a results directory: cannot read %s: %s", results_dir, dir, strerror(errno));
    else
        e = mem_alloc(MEM_OTHER, (size_t)count * sizeof **paths, paths);
    for (int i = 0; i < count; i++) {
        if (e == OK) (*paths)[(*n)++] = io_join(dir, names[i]->d_name);
        free(names[i]);
    }
    free(names);
    mem_free(dir);
    if (e == OK && *n > 1) qsort(*paths, (size_t)*n, sizeof **paths, by_name);
    return e;
}

void journal_list_free(char **paths, int n) {
    for (int i = 0; i < n; i++) mem_free(paths[i]);
    mem_free(paths);
}
