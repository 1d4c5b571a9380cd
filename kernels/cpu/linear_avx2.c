/* Linear layers for AVX2 with FMA and F16C. */
#include <immintrin.h>
#include <string.h>
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"

#pragma GCC push_options
ISA_TARGET_AVX2
#define VNNI 0
#include "kernels/cpu/linear_ymm.inc"
LINEAR_ISA(linear_avx2)
#pragma GCC pop_options
