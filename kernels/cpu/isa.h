/* Instruction set paths of the "cpu" backend. Each path lives in its own file, compiled with function-level targets
 * (never -march=native), and is entered only after isa_present said yes. */
#ifndef KVLAB_KERNELS_CPU_ISA_H
#define KVLAB_KERNELS_CPU_ISA_H
#include <stdbool.h>

typedef enum cpu_isa { ISA_SCALAR, ISA_AVX2, ISA_AVX_VNNI, ISA_AVX512, ISA_AVX512_BF16, ISA_N } cpu_isa;

/* To be used as  #pragma GCC push_options / ISA_TARGET_AVX2 / ... / #pragma GCC pop_options,  after all #includes. */
#define ISA_AVX2_FEATURES   "avx2,fma,f16c"
#define ISA_AVX512_FEATURES "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
#define TARGET_AVX2         __attribute__((target(ISA_AVX2_FEATURES)))
#define TARGET_AVX512       __attribute__((target(ISA_AVX512_FEATURES)))
#define ISA_TARGET_AVX2     _Pragma("GCC target(\"avx2,fma,f16c\")")
#define ISA_TARGET_AVX_VNNI _Pragma("GCC target(\"avx2,fma,f16c,avxvnni\")")
#define ISA_TARGET_AVX512   _Pragma("GCC target(\"avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni\")")
#define ISA_TARGET_AVX512_BF16                                                                                         \
    _Pragma("GCC target(\"avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16\")")

static inline const char *isa_name(cpu_isa isa) {
    static const char *const names[ISA_N] = {"scalar", "avx2", "avx-vnni", "avx512-vnni", "avx512-bf16"};
    return names[isa];
}
/* __builtin_cpu_supports also asks the operating system (xgetbv) whether it saves the wide registers. */
static inline bool isa_present(cpu_isa isa) {
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    switch (isa) {
    case ISA_SCALAR:
        return true;
    case ISA_AVX2:
        return avx2;
    case ISA_AVX_VNNI:
        return avx2 && __builtin_cpu_supports("avxvnni");
    case ISA_AVX512:
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vnni");
    case ISA_AVX512_BF16:
        return isa_present(ISA_AVX512) && __builtin_cpu_supports("avx512bf16");
    default:
        return false;
    }
}
/* Whether `auto` may choose it. vdpbf16ps runs at twice the rate of f32 on AMD's cores and at half of it on Intel's (there bf16 is
 * the business of AMX). A rule instead of a measurement: what `auto` means must not hang on a noisy moment. */
static inline bool isa_preferred(cpu_isa isa) {
    return isa_present(isa) && (isa != ISA_AVX512_BF16 || __builtin_cpu_is("amd"));
}
#endif
