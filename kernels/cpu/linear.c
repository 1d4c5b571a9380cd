/* Division of a linear layer among threads and into tiles. */
#include "kernels/cpu/linear.h"
#include <assert.h>
#include <string.h>

size_t act_bytes_fast(int m, int k) {
    return (size_t)m * act_blocks(k) * sizeof(act_block);
}
size_t act_bytes_exact(int m, int k) {
    return 0;
}
void act_prepare_none(const par *p, act *a) {}

void act_row_fast(const linear_isa *isa, const act *a, int row) {
    size_t n = act_blocks(a->k);
    if (n) isa->quantise(a->x + (size_t)row * (size_t)a->k, n, (act_block *)a->q + (size_t)row * n);
}

void act_prepare_fast(const linear_isa *isa, const par *p, act *a) {
    ptrdiff_t lo, hi;
    par_range(p, a->m, &lo, &hi);
    for (ptrdiff_t r = lo; r < hi; r++) act_row_fast(isa, a, (int)r);
}

/* Columns [col0, col0 + n) of a tile to y. */
static void tile_store(const float *tile, int n_rows, int half, int n_halves, const packed_weight *w, int panel,
                       float *y, size_t ldy, bool accumulate) {
    int col0 = panel * PANEL + half * PANEL_HALF, n = n_halves * PANEL_HALF;
    if (n > w->n - col0) n = w->n - col0;
    for (int r = 0; r < n_rows; r++) {
        const float *f = tile + r * PANEL + half * PANEL_HALF;
        float *o = y + (size_t)r * ldy + col0;
        if (accumulate)
            for (int c = 0; c < n; c++) o[c] = o[c] + f[c];
        else
            memcpy(o, f, (size_t)n * sizeof *o);
    }
}

/* Rows of tile t of n_tiles of nearly equal height: 7 rows are 4 + 3, not 6 + 1. */
static inline int tile_row(int n_rows, int n_tiles, int t) {
    return n_rows * t / n_tiles;
}

typedef struct job {
    const linear_isa *isa;
    const packed_weight *w;
    const act *a;
    float *y;
    size_t ldy;
    bool accumulate;
} job;

static void block_quantised(const job *j, int panel, int half, int n_halves, int row0, int n_rows) {
    const packed_weight *w = j->w;
    const uint8_t *data = w->data + (size_t)panel * w->panel_bytes;
    const int n_blocks = w->k / QBLOCK, n_tiles = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
    const bool whole = panel * PANEL + (half + n_halves) * PANEL_HALF <= w->n; /* else the last columns are padding */
    const int n_passes = n_rows / n_tiles <= j->isa->wide_rows ? 1 : n_halves; /* of a tile */
    const int passes = n_tiles * n_passes, n_lines = n_tiles > FAR_TILES ? 0 : ((int)w->record / 64 + passes - 1) / passes;
    const uint8_t *next = data + w->panel_bytes;
    float tile[TILE_ROWS * PANEL] __attribute__((aligned(64)));
    for (int t = 0; t < n_tiles; t++, next += (size_t)(n_passes * n_blocks * n_lines) * 64) {
        int r0 = row0 + tile_row(n_rows, n_tiles, t), r1 = row0 + tile_row(n_rows, n_tiles, t + 1);
        const act_block *a = (const act_block *)j->a->q + (size_t)r0 * (size_t)n_blocks;
        if (whole) {
            float *y = j->y + (size_t)r0 * j->ldy + panel * PANEL;
            j->isa->tile[w->form](data, n_blocks, a, r1 - r0, half, n_halves, y, j->ldy, j->accumulate, next, n_lines);
            continue;
        }
        j->isa->tile[w->form](data, n_blocks, a, r1 - r0, half, n_halves, tile, PANEL, false, next, n_lines);
        tile_store(tile, r1 - r0, half, n_halves, w, panel, j->y + (size_t)r0 * j->ldy, j->ldy, j->accumulate);
    }
}

/* Inputs k0 .. k0 + n - 1 of a panel as f32 [n][PANEL]: decoded into buf, or where they lie. */
static const float *decode_chunk(const linear_isa *isa, const packed_weight *w, const uint8_t *panel, int k0, int n,
                                 float *buf) {
    if (w->form != PACK_FLOAT) {
        for (int k = 0; k < n; k += QBLOCK)
            isa->decode[w->form](panel + (size_t)((k0 + k) / QBLOCK) * w->record, buf + k * PANEL);
        return buf;
    }
    if (w->type == WTYPE_F16) {
        isa->f16_decode((const uint16_t *)panel + (size_t)k0 * PANEL, (size_t)n * PANEL, buf);
        return buf;
    }
    if (w->type == WTYPE_BF16) {
        isa->bf16_decode((const uint16_t *)panel + (size_t)k0 * PANEL, (size_t)n * PANEL, buf);
        return buf;
    }
    return (const float *)panel + (size_t)k0 * PANEL;
}

static void block_float(const job *j, int panel, int half, int n_halves, int row0, int n_rows) {
    const packed_weight *w = j->w;
    const uint8_t *data = w->data + (size_t)panel * w->panel_bytes;
    const int n_tiles = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
    float sums[ROW_BLOCK * PANEL] __attribute__((aligned(64)));
    float buf[K_CHUNK * PANEL] __attribute__((aligned(64)));
    memset(sums, 0, (size_t)n_rows * PANEL * sizeof *sums);
    for (int k0 = 0; k0 < w->k; k0 += K_CHUNK) {
        int n = w->k - k0 < K_CHUNK ? w->k - k0 : K_CHUNK;
        const float *wf = decode_chunk(j->isa, w, data, k0, n, buf);
        for (int t = 0; t < n_tiles; t++) {
            int r0 = tile_row(n_rows, n_tiles, t), r1 = tile_row(n_rows, n_tiles, t + 1);
            const float *x = j->a->x + (size_t)(row0 + r0) * (size_t)w->k + k0;
            j->isa->f32_tile(wf, n, x, (size_t)w->k, r1 - r0, half, n_halves, sums + r0 * PANEL);
        }
    }
    tile_store(sums, n_rows, half, n_halves, w, panel, j->y + (size_t)row0 * j->ldy, j->ldy, j->accumulate);
}

/* Up to ROW_BLOCK rows: threads divide the columns in halves of panels. More rows: (panel, block of rows) units, panel
 * by panel, so that a panel stays in cache for all its rows. */
static void divide(const job *j, const par *p, void (*block)(const job *, int, int, int, int, int)) {
    const packed_weight *w = j->w;
    const int m = j->a->m, n_halves = (w->n + PANEL_HALF - 1) / PANEL_HALF;
    ptrdiff_t lo, hi;
    assert(j->a->k == w->k);
    if (m <= ROW_BLOCK) {
        par_range(p, n_halves, &lo, &hi);
        for (ptrdiff_t h = lo; h < hi;) {
            int count = h % 2 == 0 && h + 2 <= hi ? 2 : 1;
            block(j, (int)(h / 2), (int)(h % 2), count, 0, m);
            h += count;
        }
        return;
    }
    const int n_row_blocks = (m + ROW_BLOCK - 1) / ROW_BLOCK;
    par_range(p, (ptrdiff_t)w->n_panels * n_row_blocks, &lo, &hi);
    for (ptrdiff_t u = lo; u < hi; u++) {
        int panel = (int)(u / n_row_blocks), row0 = (int)(u % n_row_blocks) * ROW_BLOCK;
        int n_rows = m - row0 < ROW_BLOCK ? m - row0 : ROW_BLOCK;
        block(j, panel, 0, n_halves - 2 * panel < 2 ? 1 : 2, row0, n_rows);
    }
}

void linear_fast(const linear_isa *isa, const par *p, const packed_weight *w, const act *a, float *y, size_t ldy,
                 bool accumulate) {
    const job j = {isa, w, a, y, ldy, accumulate};
    divide(&j, p, w->form != PACK_FLOAT ? block_quantised : block_float);
}
void linear_exact(const linear_isa *isa, const par *p, const packed_weight *w, const act *a, float *y, size_t ldy,
                  bool accumulate) {
    const job j = {isa, w, a, y, ldy, accumulate};
    divide(&j, p, block_float);
}
