/* Packed weights and quantised activations of the CPU backends.
 *
 * A panel is 32 output columns (rows of the file's matrix), padded with zero weights; everything a tile reads lies in
 * one stream of 64-byte lines, in the order in which it is read.
 *
 *   Q4_F16     (Q4_1, Q4_0) per block of 32 inputs: codes [4][32 columns][4 bytes], byte i of step p = inputs 8p+i
 *              (low nibble) and 8p+4+i (high), then d [32] and m [32] in f16: 640 bytes, 0.625 a weight
 *   Q8_F16     (Q8_0, Q5_0) codes + 128 as u8 [8][32 columns][4 bytes], then d [32] in f16: 1088 bytes
 *   Q4_F32     (Q4_K) as Q4_F16 with d and m in f32: 768 bytes
 *   Q8_MIN     (Q5_1, Q5_K) codes as they are [8][32 columns][4 bytes], then d [32] and m [32] in f32: 1280 bytes
 *   Q8_HALVES  (Q6_K) codes + 128, then d [2][32] in f32, one for each 16 inputs: 1280 bytes
 *   FLOAT      as they are: [k][32 columns]
 *
 * The scales of K-quants are folded, d = step * scale: f16 times 6 or 8 bits is exact in f32, so packing loses nothing.
 */
#ifndef KVLAB_KERNELS_CPU_WEIGHTS_H
#define KVLAB_KERNELS_CPU_WEIGHTS_H
#include <math.h>
#include "backend/backend.h"
#include "base/half.h"

enum {
    QBLOCK = 32,     /* inputs per quantised block, of weights and of activations */
    PANEL = 32,      /* output columns of a panel */
    PANEL_HALF = 16, /* the unit in which threads divide columns */
    Q4_CODES = 512,
    Q4_RECORD = 640,
    Q8_CODES = 1024,
    Q8_RECORD = 1088,
    Q4_F32_RECORD = 768,
    Q8_MIN_RECORD = 1280,
    Q8_HALVES_RECORD = 1280,
};

typedef enum pack_form {
    PACK_Q4_F16,
    PACK_Q8_F16,
    PACK_Q4_F32,
    PACK_Q8_MIN,
    PACK_Q8_HALVES,
    PACK_N_QUANTISED,
    PACK_FLOAT = PACK_N_QUANTISED,
} pack_form;

struct packed_weight {
    wtype type;
    pack_form form;
    size_t record; /* bytes of 32 inputs (FLOAT: of one) of a panel */
    int n, k; /* outputs, inputs */
    int n_panels;
    size_t panel_bytes; /* rows as in the file (reference backend): bytes of one row */
    size_t bytes;
    uint8_t *data;
    bool in_run; /* data lies in a run of weight_gather */
};

/* 32 activations of a row, rounded to int8: x ~ scale * q. A block holding an infinity or NaN has scale and sum NaN, so
 * that its row of outputs is NaN. */
typedef struct act_block {
    int8_t q[QBLOCK]; /* -127 .. 127 */
    float scale;      /* max |x| / 127; 0 for a block of zeros */
    float sum;        /* scale * isum */
    int32_t isum;     /* sum of q */
} act_block;

static inline size_t act_blocks(int k) {
    return k % QBLOCK ? 0 : (size_t)k / QBLOCK;
} /* per row; 0: not quantised */

/* From max |x| of a block: its scale, and what x is multiplied with before rounding to the nearest, ties to even.
 * inverse 0: all codes are 0 (a block of zeros, or so small that 127 / max would overflow; or not finite, and the scale
 * is NaN). */
static inline void act_block_scale(float max, float *scale, float *inverse) {
    bool finite = max < INFINITY, usable = finite && max >= 0x1p-100f;
    *scale = usable ? max / 127.0f : finite ? 0.0f : NAN;
    *inverse = usable ? 127.0f / max : 0.0f;
}

/* 32 weights of a row of any quantised type: w[j] = d[j / 16] * code[j] + m. */
typedef struct quant_block {
    int8_t code[QBLOCK]; /* 0 .. 31, or signed where there is no minimum */
    float d[2], m;
} quant_block;
void quant_block_read(wtype t, const uint8_t *row, int block, quant_block *out);

pack_form pack_form_of(wtype t);

MUST err weight_pack_panels(const backend *b, const weight_src *src, packed_weight **out);
MUST err weight_pack_rows(const backend *b, const weight_src *src,
                          packed_weight **out); /* a plain copy, for "reference" */
void weight_free(packed_weight *w);
size_t weight_bytes(const packed_weight *w);
MUST err weight_gather(packed_weight *const *w, int n, void **run);
void weight_run_free(void *run);
#endif
