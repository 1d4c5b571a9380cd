/* What the arithmetic units give at best, one thread: independent chains in registers, the best of many short rounds. */
#include <immintrin.h>
#include "backend/backend.h"
#include "base/clock.h"
#include "kernels/cpu/isa.h"

enum { CHAINS = 12, STEPS = 4000, ROUNDS = 200 }; /* rounds of some 20 us: many escape what else runs */

/* A loop of one instruction over CHAINS accumulators, none of which the compiler may merge, move or leave out. */
#define EACH for (int i = 0; i < CHAINS; i++)
#define UNROLL _Pragma("GCC unroll 16")
#define PEAK(name, features, vec, zero, step)                                                                          \
    __attribute__((target(features))) static void name(void) {                                                         \
        vec a[CHAINS];                                                                                                 \
        UNROLL EACH a[i] = zero;                                                                                       \
        for (int n = 0; n < STEPS; n++) {                                                                              \
            UNROLL EACH {                                                                                              \
                a[i] = step;                                                                                           \
                __asm__ volatile("" : "+x"(a[i]));                                                                     \
            }                                                                                                          \
        }                                                                                                              \
        UNROLL EACH __asm__ volatile("" : : "x"(a[i]));                                                                \
    }
PEAK(fma_256, "avx2,fma", __m256, _mm256_set1_ps(1), _mm256_fmadd_ps(a[i], _mm256_set1_ps(0.5f), _mm256_set1_ps(1)))
PEAK(maddubs_256, "avx2", __m256i, _mm256_set1_epi8(1), _mm256_maddubs_epi16(a[i], _mm256_set1_epi8(1)))
PEAK(fma_512, "avx512f", __m512, _mm512_set1_ps(1), _mm512_fmadd_ps(a[i], _mm512_set1_ps(0.5f), _mm512_set1_ps(1)))
PEAK(dpbusd_512, "avx512f,avx512bw,avx512vnni", __m512i, _mm512_set1_epi8(1),
     _mm512_dpbusd_epi32(a[i], _mm512_set1_epi8(3), _mm512_set1_epi8(1)))
PEAK(dpbf16_512, "avx512f,avx512bw,avx512bf16", __m512, _mm512_set1_ps(1),
     _mm512_dpbf16_ps(a[i], (__m512bh)_mm512_set1_epi32(0x3f803f80), (__m512bh)_mm512_set1_epi32(0x3f003f00)))

int backend_peaks(backend_peak *out, int max) {
    static const struct probe {
        cpu_isa isa;
        const char *name;
        int ops; /* of one instruction; a multiply-add is two */
        void (*run)(void);
    } probes[] = {
        {ISA_AVX2, "f32 fma, 256 bits", 16, fma_256},          {ISA_AVX2, "int8 vpmaddubsw, 256 bits", 64, maddubs_256},
        {ISA_AVX512, "f32 fma, 512 bits", 32, fma_512},        {ISA_AVX512, "int8 vpdpbusd, 512 bits", 128, dpbusd_512},
        {ISA_AVX512_BF16, "bf16 vdpbf16ps, 512 bits", 64, dpbf16_512},
    };
    int n = 0;
    for (size_t i = 0; i < sizeof probes / sizeof *probes && n < max; i++) {
        if (!isa_present(probes[i].isa)) continue;
        double best = 1e30;
        for (int r = 0; r < ROUNDS; r++) {
            double start = clock_now();
            probes[i].run();
            double t = clock_now() - start;
            best = t < best ? t : best;
        }
        out[n++] = (backend_peak){probes[i].name, (double)probes[i].ops * CHAINS * STEPS / best * 1e-9};
    }
    return n;
}
