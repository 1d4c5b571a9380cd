// The little the executor's own tests need: CHECK counts and prints the first failures of a test, RUN prints "ok NAME" or "not ok NAME".
#pragma once
#include <chrono>
#include <cstdio>
#include <cstdlib>

inline int n_check_failures = 0, n_tests_failed = 0;

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition) && n_check_failures++ < 8) {                                                                  \
            printf("# %s:%d: %s: ", __FILE__, __LINE__, #condition);                                                   \
            printf(__VA_ARGS__);                                                                                       \
            printf("\n");                                                                                              \
        }                                                                                                              \
    } while (0)

// One test case's verdict, for tests that are data rather than functions.
inline void verdict(const char *name) {
    printf("%s %s\n", n_check_failures ? "not ok" : "ok", name);
    fflush(stdout);
    n_tests_failed += n_check_failures != 0;
    n_check_failures = 0;
}

#define RUN(test)                                                                                                      \
    do {                                                                                                               \
        test();                                                                                                        \
        verdict(#test);                                                                                                \
    } while (0)

inline int finish() { return n_tests_failed != 0; }

inline double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
