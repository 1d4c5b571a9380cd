#define _GNU_SOURCE /* nftw */
#include "tests/support/temp.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_PATHS = 256 };

static char dir[256];
static char *paths[MAX_PATHS];
static int n_paths;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where) {
    if (kind == FTW_DP) chmod(path, 0700);
    return remove(path);
}

static void remove_all(void) {
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    for (int i = 0; i < n_paths; i++) free(paths[i]);
}

const char *temp_dir(void) {
    if (*dir) return dir;
    const char *root = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/kvlab-test-XXXXXX", root && *root ? root : "/tmp");
    if (!mkdtemp(dir)) die(dir);
    atexit(remove_all);
    return dir;
}

const char *temp_path(const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", temp_dir(), name);
    for (int i = 0; i < n_paths; i++)
        if (strcmp(paths[i], path) == 0) return paths[i];
    if (n_paths == MAX_PATHS || !(paths[n_paths] = strdup(path))) die("temp_path");
    return paths[n_paths++];
}

const char *temp_file(const char *name, const char *text) {
    const char *path = temp_path(name);
    FILE *f = fopen(path, "w");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0) die(path);
    return path;
}
