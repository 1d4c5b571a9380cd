/* Files that are either whole or absent: written beside their place as NAME.tmp.PID, synced, renamed. */
#ifndef KVLAB_BASE_IO_H
#define KVLAB_BASE_IO_H
#include <stddef.h>
#include <stdio.h>
#include <stdbool.h>
#include "base/err.h"
MUST err io_read_file(const char *path, size_t max_bytes, char **text, size_t *n); /* NUL-terminated; mem_free */
MUST err io_write_file(const char *path, const void *data, size_t n);              /* atomic */
typedef struct io_file { FILE *f; char *path, *tmp; } io_file;
MUST err io_begin(const char *path, io_file *out);   /* then fprintf(out->f, ...) */
MUST err io_commit(io_file *f);                      /* fflush, fsync, rename; reports a full disk */
void io_abort(io_file *f);                           /* removes the temporary file; fine after commit */
MUST err io_make_dirs(const char *path);             /* mkdir -p */
bool io_exists(const char *path);
char *io_join(const char *dir, const char *name);    /* mem_free */
#endif
