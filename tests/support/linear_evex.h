/* The tiles of ISA path avx-vnni compiled for AVX-512 VNNI with VL, whose 256-bit vpdpbusd is the same instruction in another encoding:
 * where a CPU has no AVX-VNNI their results are judged all the same. Enter only if isa_present(ISA_AVX512). */
#ifndef KVLAB_TESTS_LINEAR_EVEX_H
#define KVLAB_TESTS_LINEAR_EVEX_H
#include "kernels/cpu/linear.h"
extern const linear_isa linear_evex;
#endif
