/* Linear layers: y[r][o] (+)= sum_k w[o][k] x[r][k]. The order of summation is the same on every path, so all of them,
 * the reference included, give the same bits:
 *
 *   quantised weights, fast   f = 0; for each block of 32: dot = exact integer sum of code * q;
 *                             f = fma(float(dot) * a.scale, d, f); with a minimum also f = fma(a.sum, m, f);
 *                             Q4_0 has the minimum -8 d; Q6_K has two dots and two d, one after the other
 *   exact, and float weights  f = 0; for each block of 32 (the last may be shorter): s = 0; for each k:
 *                             s = fma(x, w, s); f = f + s; with w = d * code (+ m), each operation rounded
 *   then                      y = f, or y = y + f
 */
#ifndef KVLAB_KERNELS_CPU_LINEAR_H
#define KVLAB_KERNELS_CPU_LINEAR_H
#include "kernels/cpu/weights.h"

enum {
    TILE_ROWS = 6,  /* rows of a tile */
    ROW_BLOCK = 96, /* rows for which a panel is used before the next; also a unit of the division among threads */
    NEAR_ROWS = 2,  /* up to so many rows, and from more than FAR_TILES tiles on, a tile fetches its own records ahead; else the next panel */
    FAR_TILES = 4,
    AHEAD_Q4 = 16,  /* the former, some 10 KiB: one row alone is read as fast as memory gives it */
    AHEAD_Q8 = 10,
    K_CHUNK = 128,  /* inputs decoded to f32 at a time: K_CHUNK x PANEL floats stay in L1 */
};

/* What an ISA path provides. A tile covers n_rows <= TILE_ROWS rows and columns 16 * half .. of a panel, n_halves of 16. A quantised
 * one writes (adds to) y, the panel's first column in the tile's first row; above NEAR_ROWS it fetches, at each block of each of its
 * passes, the n_lines of 64 bytes that follow from `next` on (0: its own records). f32 tiles add to out [n_rows][PANEL]. Buffers of the driver are 64-byte
 * aligned, y is not. */
typedef void quant_tile(const uint8_t *panel, int n_blocks, const act_block *a, int n_rows, int half, int n_halves, float *y,
                        size_t ldy, bool accumulate, const uint8_t *next, int n_lines);
typedef void quant_decode(const uint8_t *record, float *out /* [QBLOCK][PANEL] */);
typedef struct linear_isa {
    quant_tile *tile[PACK_N_QUANTISED];
    /* out += x [n_rows][ldx] times w [k][PANEL] */
    void (*f32_tile)(const float *w, int k, const float *x, size_t ldx, int n_rows, int half, int n_halves, float *out);
    quant_decode *decode[PACK_N_QUANTISED];
    void (*f16_decode)(const uint16_t *src, size_t n, float *out); /* n a multiple of 32 */
    void (*bf16_decode)(const uint16_t *src, size_t n, float *out);
    void (*quantise)(const float *x, size_t n, act_block *out); /* n blocks */
    int wide_rows; /* quantised tiles of so many rows take both halves of a panel in one pass, higher ones in two */
} linear_isa;

extern const linear_isa linear_scalar, linear_avx2, linear_avxvnni, linear_avx512;

/* The loops around the tiles, common to all paths. */
void linear_fast(const linear_isa *isa, const par *p, const packed_weight *w, const act *a, float *y, size_t ldy,
                 bool accumulate);
void linear_exact(const linear_isa *isa, const par *p, const packed_weight *w, const act *a, float *y, size_t ldy,
                  bool accumulate);
size_t act_bytes_fast(int m, int k);
size_t act_bytes_exact(int m, int k);
void act_prepare_fast(const linear_isa *isa, const par *p, act *a);
void act_row_fast(const linear_isa *isa, const act *a, int row); /* the same of one row */

/* The reference: rows as in the file, one output at a time. */
void linear_reference_fast(const par *p, const packed_weight *w, const act *a, float *y, size_t ldy, bool accumulate);
void linear_reference_exact(const par *p, const packed_weight *w, const act *a, float *y, size_t ldy, bool accumulate);
void act_prepare_reference(const par *p, act *a);
void act_row_reference(const act *a, int row);
void act_prepare_none(const par *p, act *a); /* exact: activations are used as they are */
#endif
