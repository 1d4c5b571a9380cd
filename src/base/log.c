#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/progress.h"

static atomic_int max_shown = LOG_INFO;
static atomic_bool colored;

void log_set(log_level max_level, bool color) {
    const char *no_color = getenv("NO_COLOR");
    atomic_store(&max_shown, (int)max_level);
    atomic_store(&colored, color && !(no_color && *no_color) && isatty(STDERR_FILENO));
}

bool log_color(void) {
    return atomic_load(&colored);
}

void log_at(log_level level, const char *fmt, ...) {
    static const char *const plain[] = {"error: ", "warning: ", "", "debug: "};
    static const char *const bright[] = {"\033[1;31merror:\033[0m ", "\033[1;33mwarning:\033[0m ", "",
                                         "\033[2mdebug:\033[0m "};
    if ((int)level > atomic_load(&max_shown)) return;
    char fixed[1024], *text = fixed, *long_text = NULL;
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(fixed, sizeof fixed, fmt, ap);
    va_end(ap);
    if (n >= (int)sizeof fixed && mem_alloc(MEM_OTHER, (size_t)n + 1, &long_text) == OK) {
        vsnprintf(long_text, (size_t)n + 1, fmt, again);
        text = long_text;
    }
    va_end(again);
    progress_print((log_color() ? bright : plain)[level], text);
    mem_free(long_text);
}
