#include "kernels/cpu/weights.h"
#include <string.h>
#include <sys/mman.h>
#include "base/half.h"
#include "base/mem.h"

enum { HUGE_PAGE = 2 << 20 };

static err weight_check(const backend *b, const weight_src *src, const wtype_info **info) {
    *info = wtype_find((uint32_t)src->type);
    if (!*info)
        return ERR(ERR_UNSUPPORTED, "weight %s has type %s; backend %s supports %s", src->name,
                   wtype_file_name((uint32_t)src->type), b->name, wtype_supported());
    if (src->n_rows < 1 || src->n_cols < 1)
        return ERR(ERR_UNSUPPORTED, "weight %s has shape %d x %d; both must be at least 1", src->name, src->n_rows,
                   src->n_cols);
    if (src->n_cols % (*info)->block)
        return ERR(ERR_UNSUPPORTED, "weight %s has %d columns; type %s needs a multiple of %d", src->name, src->n_cols,
                   (*info)->name, (*info)->block);
    return OK;
}

static err weight_alloc(const weight_src *src, int n_panels, size_t panel_bytes, size_t bytes, packed_weight **out) {
    packed_weight *w;
    TRY(mem_alloc(MEM_WEIGHTS, sizeof *w, &w));
    *w = (packed_weight){src->type, src->n_rows, src->n_cols, n_panels, panel_bytes, bytes, NULL};
    err e = mem_alloc(MEM_WEIGHTS, bytes, &w->data);
    if (e) {
        mem_free(w);
        return err_wrap(e, "weight %s", src->name);
    }
    uintptr_t lo = ((uintptr_t)w->data + HUGE_PAGE - 1) & -(uintptr_t)HUGE_PAGE;
    uintptr_t hi = ((uintptr_t)w->data + bytes) & -(uintptr_t)HUGE_PAGE;
    if (lo < hi) (void)madvise((void *)lo, hi - lo, MADV_HUGEPAGE); /* a hint: without it only the speed differs */
    *out = w;
    return OK;
}

/* One block of 32 inputs of n_cols rows of the file, row_bytes apart, to one record. */
static void pack_q4_record(const uint8_t *src, size_t row_bytes, int n_cols, uint8_t *rec) {
    uint16_t *d = (uint16_t *)(rec + Q4_CODES), *m = d + PANEL;
    for (int c = 0; c < n_cols; c++) {
        const uint8_t *blk = src + (size_t)c * row_bytes; /* d, m, 16 bytes: byte j = inputs j and j + 16 */
        uint8_t code[QBLOCK];
        memcpy(&d[c], blk, 2);
        memcpy(&m[c], blk + 2, 2);
        for (int j = 0; j < 16; j++) {
            code[j] = blk[4 + j] & 15;
            code[j + 16] = blk[4 + j] >> 4;
        }
        for (int p = 0; p < 4; p++)
            for (int i = 0; i < 4; i++)
                rec[p * 128 + c * 4 + i] = (uint8_t)(code[8 * p + i] | code[8 * p + 4 + i] << 4);
    }
}
static void pack_q8_record(const uint8_t *src, size_t row_bytes, int n_cols, uint8_t *rec) {
    uint16_t *d = (uint16_t *)(rec + Q8_CODES);
    for (int c = 0; c < n_cols; c++) {
        const uint8_t *blk = src + (size_t)c * row_bytes; /* d, 32 signed codes */
        memcpy(&d[c], blk, 2);
        for (int k = 0; k < QBLOCK; k++) rec[(k / 4) * 128 + c * 4 + k % 4] = blk[2 + k] ^ 0x80;
    }
}
static void pack_float_panel(const uint8_t *src, size_t row_bytes, size_t elem, int k, int n_cols, uint8_t *out) {
    for (int c = 0; c < n_cols; c++)
        for (int i = 0; i < k; i++)
            memcpy(out + ((size_t)i * PANEL + (size_t)c) * elem, src + (size_t)c * row_bytes + (size_t)i * elem, elem);
}

err weight_pack_panels(const backend *b, const weight_src *src, packed_weight **out) {
    const wtype_info *info;
    TRY(weight_check(b, src, &info));
    size_t n_blocks = (size_t)(src->n_cols / info->block), row_bytes = n_blocks * (size_t)info->block_bytes;
    size_t record = src->type == WTYPE_Q4_1   ? Q4_RECORD
                    : src->type == WTYPE_Q8_0 ? Q8_RECORD
                                              : (size_t)info->block_bytes * PANEL;
    int n_panels = (src->n_rows + PANEL - 1) / PANEL;
    packed_weight *w = NULL;
    TRY(weight_alloc(src, n_panels, n_blocks * record, (size_t)n_panels * n_blocks * record, &w));
    for (int p = 0; p < n_panels; p++) {
        const uint8_t *rows = (const uint8_t *)src->data + (size_t)p * PANEL * row_bytes;
        uint8_t *panel = w->data + (size_t)p * w->panel_bytes;
        int n_cols = src->n_rows - p * PANEL < PANEL ? src->n_rows - p * PANEL : PANEL;
        switch (src->type) {
        case WTYPE_Q4_1:
            for (size_t i = 0; i < n_blocks; i++)
                pack_q4_record(rows + i * (size_t)info->block_bytes, row_bytes, n_cols, panel + i * record);
            break;
        case WTYPE_Q8_0:
            for (size_t i = 0; i < n_blocks; i++)
                pack_q8_record(rows + i * (size_t)info->block_bytes, row_bytes, n_cols, panel + i * record);
            break;
        case WTYPE_F32:
        case WTYPE_F16:
        case WTYPE_BF16:
            pack_float_panel(rows, row_bytes, (size_t)info->block_bytes, src->n_cols, n_cols, panel);
            break;
        }
    }
    *out = w;
    return OK;
}

err weight_pack_rows(const backend *b, const weight_src *src, packed_weight **out) {
    const wtype_info *info;
    TRY(weight_check(b, src, &info));
    size_t row_bytes = wtype_row_bytes(src->type, (size_t)src->n_cols);
    TRY(weight_alloc(src, 0, row_bytes, row_bytes * (size_t)src->n_rows, out));
    memcpy((*out)->data, src->data, (*out)->bytes);
    return OK;
}

void weight_free(packed_weight *w) {
    if (!w) return;
    mem_free(w->data);
    mem_free(w);
}
size_t weight_bytes(const packed_weight *w) {
    return w->bytes;
}
