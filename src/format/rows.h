/* Rows of numbers between f32 and f16, bit-equal to base/half.h but free of branches, so that compilers vectorise them.
 */
#ifndef KVLAB_FORMAT_ROWS_H
#define KVLAB_FORMAT_ROWS_H
#include <stddef.h>
#include "base/half.h"

void f16_row_from_f32(const float *x, f16 *y, size_t n);
void f16_row_to_f32(const f16 *x, float *y, size_t n);
#endif
