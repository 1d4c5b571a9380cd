/* What the build knows about itself; the Makefile passes the macros for this file only. */
#include "run/provenance.h"

#ifndef KVLAB_VERSION
#define KVLAB_VERSION "0.1.0"
#endif
#ifndef KVLAB_GIT_COMMIT
#define KVLAB_GIT_COMMIT "unknown"
#endif
#ifndef KVLAB_GIT_DIRTY
#define KVLAB_GIT_DIRTY 0
#endif
#ifndef KVLAB_BUILD_FLAGS
#define KVLAB_BUILD_FLAGS "unknown"
#endif

const char *build_version(void) {
    return KVLAB_VERSION;
}

const char *build_commit(void) {
    return *KVLAB_GIT_COMMIT ? KVLAB_GIT_COMMIT : "unknown";
}

bool build_dirty(void) {
    return KVLAB_GIT_DIRTY;
}

const char *build_compiler(void) {
#ifdef __clang__
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}

const char *build_flags(void) {
    return KVLAB_BUILD_FLAGS;
}
