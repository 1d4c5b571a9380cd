/* Weight types of GGUF files: block sizes and the reference decoders that judge every packed form. */
#ifndef KVLAB_GGUF_WTYPE_H
#define KVLAB_GGUF_WTYPE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

typedef enum wtype { /* values as in the file */
    WTYPE_F32 = 0,
    WTYPE_F16 = 1,
    WTYPE_Q4_0 = 2,
    WTYPE_Q4_1 = 3,
    WTYPE_Q5_0 = 6,
    WTYPE_Q5_1 = 7,
    WTYPE_Q8_0 = 8,
    WTYPE_Q4_K = 12,
    WTYPE_Q5_K = 13,
    WTYPE_Q6_K = 14,
    WTYPE_BF16 = 30,
} wtype;

typedef struct wtype_info {
    wtype type;
    const char *name;
    int block;         /* values per block */
    int block_bytes;
    void (*decode)(const void *src, float *dst, size_t n); /* n a multiple of block */
} wtype_info;

const wtype_info *wtype_find(uint32_t file_value); /* NULL if unsupported */
const char *wtype_file_name(uint32_t file_value);  /* also names the unsupported ones: "Q2_K", "type 77" */
/* Block sizes of any type the format knows, decoded or not; false for an unknown value. */
bool wtype_file_block(uint32_t file_value, int *block, int *block_bytes);
const char *wtype_supported(void);                 /* "F32 F16 Q4_0 ... BF16" */
/* The eight scales and minima, 6 bits each, that Q4_K and Q5_K pack into 12 bytes. */
void wtype_k_scales(const uint8_t packed[12], uint8_t scale[8], uint8_t min[8]);
size_t wtype_row_bytes(wtype t, size_t n_cols);
#endif
