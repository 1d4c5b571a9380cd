/* Natural text: a file of the user, or a long document that Debian installs. Plain or gzip, told apart by zlib. */
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>
#include "base/hash.h"
#include "base/io.h"
#include "base/mem.h"
#include "task/task_impl.h"

enum { TEXT_MAX_BYTES = 256 << 20, TEXT_CHUNK_BYTES = 1 << 20 };

struct text_source {
    char *name, *data_dir; /* file name without folders; NULL without --data */
    char *text;            /* [n], NUL-terminated */
    size_t n;
    char sha256[65]; /* of the file as it lies on disk */
};

static const char *const installed_documents[] = {
    "/usr/share/debian-reference/debian-reference.en.txt.gz",
    "/usr/share/doc/debian-history/docs/project-history.en.txt.gz",
};

static bool is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* The path as given, else under the data folder; new text, NULL if neither is a file. */
static char *find_named(const char *path, const char *data_dir) {
    if (is_file(path)) return mem_strdup(path);
    if (!data_dir || path[0] == '/') return NULL;
    char *joined = io_join(data_dir, path);
    if (is_file(joined)) return joined;
    mem_free(joined);
    return NULL;
}

/* Decompressed sizes are not stored reliably in gzip files, so the text grows by doubling. */
static err read_all(gzFile f, const char *path, char **text, size_t *n) {
    size_t cap = TEXT_CHUNK_BYTES, used = 0;
    char *p = NULL;
    TRY(mem_alloc(MEM_OTHER, cap + 1, &p));
    for (;;) {
        int got = gzread(f, p + used, (unsigned)(cap - used < TEXT_CHUNK_BYTES ? cap - used : TEXT_CHUNK_BYTES));
        if (got < 0) {
            int code;
            const char *why = gzerror(f, &code);
            mem_free(p);
            return ERR(code == Z_ERRNO ? ERR_IO : ERR_FORMAT, "%s: cannot be read as text or gzip: %s", path, why);
        }
        used += (size_t)got;
        if (got == 0) break;
        if (used == cap) {
            char *larger = NULL;
            err e = cap >= TEXT_MAX_BYTES
                        ? ERR(ERR_UNSUPPORTED, "%s: more than %d MiB of text; at most that is supported", path,
                              TEXT_MAX_BYTES >> 20)
                        : mem_alloc(MEM_OTHER, 2 * cap + 1, &larger);
            if (!e) memcpy(larger, p, used);
            mem_free(p);
            if (e) return e;
            p = larger;
            cap *= 2;
        }
    }
    p[used] = 0;
    *text = p;
    *n = used;
    return OK;
}

static err load(text_source *t, const char *path) {
    gzFile f = gzopen(path, "rb");
    if (!f) return ERR(ERR_IO, "%s: cannot be opened", path);
    err e = read_all(f, path, &t->text, &t->n);
    /* A gzip file that ends early reads without an error until it is closed. */
    int closed = gzclose(f);
    if (!e && closed == Z_BUF_ERROR) e = ERR(ERR_FORMAT, "%s: the gzip stream ends early", path);
    if (!e && t->n == 0) e = ERR(ERR_FORMAT, "%s: is empty", path);
    if (!e) e = hash_file_sha256(path, t->sha256);
    if (e) return e;
    const char *slash = strrchr(path, '/');
    t->name = mem_strdup(slash ? slash + 1 : path);
    return OK;
}

err text_source_open(const char *text_path, const char *data_dir, text_source **out) {
    *out = NULL;
    char *path = NULL;
    if (text_path) {
        path = find_named(text_path, data_dir);
        if (!path && data_dir) return ERR(ERR_ENV, "text %s: no such file, here or in %s", text_path, data_dir);
        if (!path) return ERR(ERR_ENV, "text %s: no such file", text_path);
    } else {
        for (size_t i = 0; !path && i < sizeof installed_documents / sizeof *installed_documents; i++)
            if (is_file(installed_documents[i])) path = mem_strdup(installed_documents[i]);
        if (!path)
            return ERR(
                ERR_ENV,
                "no natural text: name a file with --text or install the Debian package debian-reference-en (%s)",
                installed_documents[0]);
    }
    text_source *t = NULL;
    err e = mem_alloc(MEM_OTHER, sizeof *t, &t);
    if (!e) e = load(t, path);
    mem_free(path);
    if (e) {
        text_source_close(t);
        return e;
    }
    if (data_dir) t->data_dir = mem_strdup(data_dir);
    *out = t;
    return OK;
}

void text_source_close(text_source *t) {
    if (!t) return;
    mem_free(t->name);
    mem_free(t->data_dir);
    mem_free(t->text);
    mem_free(t);
}

const char *text_source_name(const text_source *t) {
    return t->name;
}
const char *text_source_sha256(const text_source *t) {
    return t->sha256;
}
const char *text_source_data_dir(const text_source *t) {
    return t->data_dir;
}

const char *text_source_text(const text_source *t, size_t *n) {
    if (n) *n = t->n;
    return t->text;
}
