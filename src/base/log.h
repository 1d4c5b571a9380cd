/* Messages for the user, on stderr only; stdout is for data. Level from -q / -v. Colour only on a terminal without NO_COLOR. */
#ifndef KVLAB_BASE_LOG_H
#define KVLAB_BASE_LOG_H
#include <stdbool.h>
#include "base/err.h"
typedef enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG } log_level;
void log_set(log_level max_level, bool color);
bool log_color(void);
void log_at(log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)
#endif
