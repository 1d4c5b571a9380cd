/* Errors: every fallible call returns `err`; the text, its place and its causes live in one thread-local buffer.
 *
 *   MUST err gguf_open(const char *path, gguf **out);
 *   ...
 *   TRY(gguf_open(path, &g));                                  // propagate as it is
 *   if (n > max) return ERR(ERR_FORMAT, "%s: %zu tensors, at most %d", path, n, max);
 *   if ((e = load(path))) return err_wrap(e, "model %s", path);   // "model x: <cause>"
 *
 * `assert` is for our own bugs only; bad input, full disks and missing memory come back as err.
 */
#ifndef KVLAB_BASE_ERR_H
#define KVLAB_BASE_ERR_H

typedef enum err {
    OK = 0,
    ERR_USAGE,       /* command line or configuration: exit 2 */
    ERR_ENV,         /* something this machine lacks (model file, GPU, gnuplot): exit 3 */
    ERR_IO,          /* read, write, disk full */
    ERR_FORMAT,      /* malformed or corrupted input file */
    ERR_UNSUPPORTED, /* well-formed, but not something kvlab does */
    ERR_NOMEM,
    ERR_VERIFY,      /* a check of results failed: exit 4 */
    ERR_FAILED,      /* some points failed: exit 1 */
    ERR_INTERRUPTED, /* a signal asked to stop */
} err;

#define MUST __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt_arg, first_arg) __attribute__((format(printf, fmt_arg, first_arg)))

/* Sets this thread's error text and returns `code`. */
#define ERR(code, ...) err_set_at(__FILE__, __LINE__, (code), __VA_ARGS__)
MUST err err_set_at(const char *file, int line, err code, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* Puts "context: " before the present text; returns `code` unchanged. */
MUST err err_wrap(err code, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The present text, one line without newline ("" after OK); valid until the next error of this thread. */
const char *err_text(void);
/* "src/gguf/gguf.c:120" of the origin, for -v. */
const char *err_place(void);
/* Process exit status of a code (design section 10). */
int err_exit_status(err code);

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        err try_e_ = (call);                                                                                           \
        if (try_e_ != OK) return try_e_;                                                                               \
    } while (0)
/* For functions with one exit: `GOTO(done, e, call)`. */
#define GOTO(label, var, call)                                                                                         \
    do {                                                                                                               \
        if (((var) = (call)) != OK) goto label;                                                                        \
    } while (0)

#endif
