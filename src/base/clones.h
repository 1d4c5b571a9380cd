/* Loops over columns that the compiler vectorises by itself, built once per width of vectors and chosen when the program starts. For plain
 * arithmetic only, whose results do not depend on the width: no sums of floats. */
#ifndef KVLAB_BASE_CLONES_H
#define KVLAB_BASE_CLONES_H

#if defined(__x86_64__) && defined(__linux__) && defined(__OPTIMIZE__)
#define VECTOR_CLONES __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#else
#define VECTOR_CLONES
#endif

#endif
