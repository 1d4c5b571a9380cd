// Seeded bugs: kernels that are wrong in one way each, and what the checker must say of them in every order. The lines it must name carry the
// comments //A and, where a report has two, //B; a report whose two places are the same line is marked //A //B there.
#pragma once
#include "../../kernels/cuda/block.cuh"
#include <vector>

// g: 256 ints, all zero. u: 250 ints never written. h: host memory. f: device memory that was freed. n: 256.
#define KERNEL(name)                                                                                                   \
    __global__ void name([[maybe_unused]] int *g, [[maybe_unused]] int *u, [[maybe_unused]] int *h, [[maybe_unused]] int *f, [[maybe_unused]] int n)

struct Bug {
    const char *file, *name;
    void (*kernel)(int *, int *, int *, int *, int);
    simt::Kind kind;
    const char *group;
    int n_blocks, n_threads, dynamic_bytes;
};
#define BUG(kernel, kind, group, ...)                                                                                  \
    { __FILE__, #kernel, kernel, simt::Kind::kind, group, __VA_ARGS__ }
const std::vector<Bug> &race_bugs();
const std::vector<Bug> &memory_bugs();
const std::vector<Bug> &order_bugs();
