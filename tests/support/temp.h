/* A fresh directory per test program, removed with everything in it at exit. */
#ifndef KVLAB_TESTS_SUPPORT_TEMP_H
#define KVLAB_TESTS_SUPPORT_TEMP_H
const char *temp_dir(void);
/* A path inside it; the text lives until exit. */
const char *temp_path(const char *name);
/* Writes `text` to temp_path(name) and returns that path. */
const char *temp_file(const char *name, const char *text);
#endif
