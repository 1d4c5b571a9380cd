#include "tests/support/real_model.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/io.h"

const char *real_model_file(const char *name) {
    static char path[1024];
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && *cache) snprintf(path, sizeof path, "%s/kvlab/models/%s", cache, name);
    else snprintf(path, sizeof path, "%s/.cache/kvlab/models/%s", home ? home : ".", name);
    if (io_exists(path)) return path;
    printf("# SKIP the model file %s is absent: make models\n", path);
    return NULL;
}

const char *real_model_path(void) { return real_model_file("SmolLM2-135M-Instruct.Q4_1.gguf"); }
