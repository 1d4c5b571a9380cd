#include "tests/support/linear_evex.h"
#include <immintrin.h>
#include <string.h>
#include "kernels/cpu/isa.h"

#pragma GCC push_options
ISA_TARGET_AVX512
#define VNNI 1
#define DPBUSD _mm256_dpbusd_epi32
#include "kernels/cpu/linear_ymm.inc"
LINEAR_ISA(linear_evex)
#pragma GCC pop_options
