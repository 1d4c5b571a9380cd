#include "kernels/cpu/elementwise.h"
#include <assert.h>
#include <string.h>
#include "kernels/cpu/vmath.h"

#define NAME(op)   op##_scalar
typedef struct squares { double s[8]; } squares;
static squares squares_zero(void) { return (squares){{0}}; }
static squares squares_add(squares s, const float *x) {
    for (int i = 0; i < 8; i++) s.s[i] += (double)x[i] * (double)x[i];
    return s;
}
static void squares_store(squares s, double *to) { memcpy(to, s.s, sizeof s.s); }

#define SILU_LANES 1
static void silu_lanes(const float *gate, const float *up, float *y) {
    *y = *gate / (1.0f + vexp(-*gate)) * *up;
}

static void gelu_lanes(const float *gate, const float *up, float *y) {
    float g = *gate;
    *y = g / (1.0f + vexp(GELU_A * (g + GELU_B * (g * g * g)))) * *up;
}

#define ROUND_LANES 1
static void round_lanes(float *x) { *x = f32_round_f16(*x); }

#define MOMENT_LANES 2
#include "kernels/cpu/elementwise.inc"
#include "kernels/cpu/moments.inc"
#include "kernels/cpu/rope.inc"
