// The toolkit's own conversions, where its headers are present; test_types.cpp compares ours with them.
#include <cstdint>
#include <cstring>
#include <vector_types.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#define NAME(f) toolkit_##f
#include "types_api.inc"
