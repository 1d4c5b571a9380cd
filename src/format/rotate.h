/* Hadamard rotation (reference baselines.md 17e): blocks of the largest power of two n that divides d, each times the Sylvester matrix
 * H[i][j] = (-1)^popcount(i & j) / sqrt(n). H is symmetric and its own inverse, so the same call rotates back. Butterflies in a fixed
 * order of rounded f32 operations: the same bits on every path. Inline, so that each path compiles it with its own instructions. */
#ifndef KVLAB_FORMAT_ROTATE_H
#define KVLAB_FORMAT_ROTATE_H
#include <math.h>

static inline int hadamard_block(int d) {
    return d & -d;
}

static inline void hadamard_rotate(float *x, int d) {
    int n = hadamard_block(d);
    for (int h = 1; h < n; h *= 2) {
        for (int i = 0; i < d; i += 2 * h) {
            for (int j = i; j < i + h; j++) {
                float a = x[j], b = x[j + h];
                x[j] = a + b;
                x[j + h] = a - b;
            }
        }
    }
    float scale = 1.0f / sqrtf((float)n);
    for (int i = 0; i < d; i++) x[i] *= scale;
}
#endif
