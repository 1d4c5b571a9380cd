// The one header kernels include. Under nvcc it stands on the toolkit; under g++ and clang++ on the executor in tests/simt, which must be
// on the include path. What differs between the two is spelled with the macros here and the wrappers in wrap.h, cp_async.h and mma.h.
//
//   SHARED(float, tile, [4][64]);          __shared__ float tile[4][64];   SHARED(int, count, ) is a scalar
//   DYN_SHARED(float, scores);             extern __shared__ memory as float *
//   CONSTANT(float, table, [8]) = {...};   __constant__ float table[8], at namespace scope
//   LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...);   LAUNCH((kernel<3, float>), ...) for templates
//   UNROLL for (...)                       #pragma unroll
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cstdint>
#define SHARED(T, name, ...) __shared__ T name __VA_ARGS__
#define DYN_SHARED(T, name)                                                                                            \
    extern __shared__ __align__(16) unsigned char simt_dynamic_shared[];                                               \
    T *name = reinterpret_cast<T *>(simt_dynamic_shared)
#define CONSTANT(T, name, ...) __constant__ T name __VA_ARGS__
#define UNROLL _Pragma("unroll")
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                         \
    kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#define SIMT_SITE 0
#else
#include "simt.h"
#define SHARED(T, name, ...)                                                                                           \
    typedef T name##_shared_t __VA_ARGS__;                                                                             \
    name##_shared_t &name =                                                                                            \
        *static_cast<name##_shared_t *>(simt::shared_array(SIMT_SITE, __PRETTY_FUNCTION__, sizeof(name##_shared_t),       \
                                                    alignof(name##_shared_t)))
#define UNROLL
#define DYN_SHARED(T, name) T *name = static_cast<T *>(simt::dynamic_shared())
#define CONSTANT(T, name, ...)                                                                                         \
    extern T name __VA_ARGS__;                                                                                         \
    static const simt::RegisterConstant name##_registered(&name, sizeof(name));                                        \
    T name __VA_ARGS__
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                         \
    simt::launcher(#kernel, kernel, (grid), (block), (shared_bytes), (stream))(__VA_ARGS__)
#endif

#include "wrap.h"
#include "cp_async.h"
#include "mma.h"
