#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

static err read_error(const char *path) {
    return ERR(ERR_IO, "cannot read %s: %s", path, strerror(errno));
}

static err write_error(const char *path) {
    return ERR(ERR_IO, "cannot write %s: %s", path, strerror(errno));
}

/* Reads to the end of `fd` whatever it is (pipes have no size), growing the block. */
static err read_all(int fd, const char *path, size_t max_bytes, size_t guess, char **text, size_t *n) {
    char *buf = NULL;
    size_t cap = guess + 2, used = 0; /* one byte for the NUL, one so that the end is seen without growing */
    err e;
    GOTO(fail, e, mem_alloc(MEM_OTHER, cap, &buf));
    for (;;) {
        if (used + 1 == cap) {
            char *larger;
            GOTO(fail, e, mem_alloc(MEM_OTHER, cap * 2, &larger));
            memcpy(larger, buf, used);
            mem_free(buf);
            buf = larger;
            cap *= 2;
        }
        ssize_t got = read(fd, buf + used, cap - used - 1);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) GOTO(fail, e, read_error(path));
        if (got == 0) break;
        used += (size_t)got;
        if (used > max_bytes)
            GOTO(fail, e, ERR(ERR_FORMAT, "%s is larger than %zu bytes, the most that is read", path, max_bytes));
    }
    buf[used] = 0;
    *text = buf;
    *n = used;
    return OK;
fail:
    mem_free(buf);
    return e;
}

err io_read_file(const char *path, size_t max_bytes, char **text, size_t *n) {
    *text = NULL;
    *n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return read_error(path);
    struct stat st;
    err e;
    if (fstat(fd, &st) != 0)
        e = read_error(path);
    else if (S_ISREG(st.st_mode) && (uintmax_t)st.st_size > max_bytes)
        e = ERR(ERR_FORMAT, "%s has %jd bytes; at most %zu are read", path, (intmax_t)st.st_size, max_bytes);
    else
        e = read_all(fd, path, max_bytes, S_ISREG(st.st_mode) ? (size_t)st.st_size : 4096, text, n);
    close(fd);
    return e;
}

err io_begin(const char *path, io_file *out) {
    *out = (io_file){0};
    struct stat st;
    bool in_place = false; /* devices and pipes cannot be replaced by renaming */
    if (stat(path, &st) == 0) {
        if (S_ISDIR(st.st_mode)) return ERR(ERR_IO, "cannot write %s: it is a directory", path);
        in_place = !S_ISREG(st.st_mode);
    }
    char *tmp = in_place ? NULL : mem_sprintf("%s.tmp.%ld", path, (long)getpid());
    int fd = open(in_place ? path : tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "wb");
    if (!f) {
        err e = write_error(path);
        if (fd >= 0) close(fd);
        mem_free(tmp);
        return e;
    }
    *out = (io_file){f, mem_strdup(path), tmp};
    return OK;
}

/* Makes the rename itself durable; file systems that cannot sync a directory are left to their own order. */
static void sync_parent(const char *path) {
    const char *slash = strrchr(path, '/');
    char *dir = mem_sprintf("%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    mem_free(dir);
}

err io_commit(io_file *f) {
    err e = OK;
    if (fflush(f->f) != 0 || ferror(f->f)) e = write_error(f->path);
    if (e == OK && f->tmp && fsync(fileno(f->f)) != 0) e = write_error(f->path);
    if (fclose(f->f) != 0 && e == OK) e = write_error(f->path);
    f->f = NULL;
    if (e == OK && f->tmp) {
        if (rename(f->tmp, f->path) != 0) {
            e = write_error(f->path);
        } else {
            sync_parent(f->path);
            mem_free(f->tmp);
            f->tmp = NULL;
        }
    }
    io_abort(f);
    return e;
}

void io_abort(io_file *f) {
    if (f->f) fclose(f->f);
    if (f->tmp) unlink(f->tmp);
    mem_free(f->tmp);
    mem_free(f->path);
    *f = (io_file){0};
}

err io_write_file(const char *path, const void *data, size_t n) {
    io_file f;
    TRY(io_begin(path, &f));
    if (n > 0 && fwrite(data, 1, n, f.f) != n) {
        err e = write_error(path);
        io_abort(&f);
        return e;
    }
    return io_commit(&f);
}

static err make_one_dir(const char *dir, const char *whole) {
    if (mkdir(dir, 0777) == 0) return OK;
    int mkdir_errno = errno;
    struct stat st;
    if (stat(dir, &st) == 0) {
        if (S_ISDIR(st.st_mode)) return OK;
        return ERR(ERR_IO, "cannot create directory %s: %s exists and is not a directory", whole, dir);
    }
    return ERR(ERR_IO, "cannot create directory %s: %s", whole, strerror(mkdir_errno));
}

err io_make_dirs(const char *path) {
    char *dir = mem_strdup(path);
    err e = OK;
    for (char *s = dir; *s && e == OK; s++) {
        if (*s != '/' || s == dir) continue;
        *s = 0;
        e = make_one_dir(dir, path);
        *s = '/';
    }
    if (e == OK) e = make_one_dir(dir, path);
    mem_free(dir);
    return e;
}

bool io_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

char *io_join(const char *dir, const char *name) {
    if (*name == '/' || *dir == 0) return mem_strdup(name);
    return mem_sprintf("%s%s%s", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", name);
}
