#include "tests/support/real_model.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/io.h"

const char *real_model_path(void) {
    static char path[1024];
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && *cache) snprintf(path, sizeof path, "%s/kvlab/models/SmolLM2-135M-Instruct.Q4_1.gguf", cache);
    else snprintf(path, sizeof path, "%s/.cache/kvlab/models/SmolLM2-135M-Instruct.Q4_1.gguf", home ? home : ".");
    if (io_exists(path)) return path;
    printf("# SKIP the model file %s is absent: make model\n", path);
    return NULL;
}
