#include "policy/signal/pool.h"
#include <string.h>

void signal_pool(pool_kind kind, pool_direction dir, int width, const float *x, int n, float *y) {
    if (kind == POOL_NONE) {
        memcpy(y, x, (size_t)n * sizeof *y);
        return;
    }
    for (int j = 0; j < n; j++) {
        int lo = dir == POOL_FORWARD ? j : j - width / 2, hi = lo + width;
        if (lo < 0) lo = 0;
        if (hi > n) hi = n;
        float r = x[lo];
        if (kind == POOL_MAX) {
            for (int i = lo + 1; i < hi; i++) r = x[i] > r ? x[i] : r;
        } else {
            for (int i = lo + 1; i < hi; i++) r += x[i];
            r /= (float)width;
        }
        y[j] = r;
    }
}

void signal_group_add(group_kind kind, int m, const float *x, int n, float *acc) {
    if (m == 0) memcpy(acc, x, (size_t)n * sizeof *acc);
    else if (kind == GROUP_MAX)
        for (int j = 0; j < n; j++) acc[j] = x[j] > acc[j] ? x[j] : acc[j];
    else
        for (int j = 0; j < n; j++) acc[j] += x[j];
}

void signal_group_finish(group_kind kind, int n_members, int n, float *acc) {
    if (kind == GROUP_MEAN)
        for (int j = 0; j < n; j++) acc[j] /= (float)n_members;
}
