/* Linear layers for AVX-VNNI: vpdpbusd on 256 bits, on CPUs without AVX-512. */
#include <immintrin.h>
#include <string.h>
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"

#pragma GCC push_options
ISA_TARGET_AVX_VNNI
#define VNNI 1
#define DPBUSD _mm256_dpbusd_avx_epi32
#include "kernels/cpu/linear_ymm.inc"
LINEAR_ISA(linear_avxvnni)
#pragma GCC pop_options
