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

static err weight_alloc(const weight_src *src, pack_form form, size_t record, int n_panels, size_t panel_bytes, size_t bytes, packed_weight **out) {
    packed_weight *w;
    TRY(mem_alloc(MEM_WEIGHTS, sizeof *w, &w));
    *w = (packed_weight){src->type, form, record, src->n_rows, src->n_cols, n_panels, panel_bytes, bytes, NULL, false};
    err e = mem_alloc(MEM_WEIGHTS, bytes, &w->data);
    if (e) {
        mem_free(w);
        return err_wrap(e, "weight %s", src->name);
    }
    *out = w;
    return OK;
}

pack_form pack_form_of(wtype t) {
    switch (t) {
    case WTYPE_Q4_0:
    case WTYPE_Q4_1:
        return PACK_Q4_F16;
    case WTYPE_Q5_0:
    case WTYPE_Q8_0:
        return PACK_Q8_F16;
    case WTYPE_Q4_K:
        return PACK_Q4_F32;
    case WTYPE_Q5_1:
    case WTYPE_Q5_K:
        return PACK_Q8_MIN;
    case WTYPE_Q6_K:
        return PACK_Q8_HALVES;
    case WTYPE_F32:
    case WTYPE_F16:
    case WTYPE_BF16:
        break;
    }
    return PACK_FLOAT;
}

/* ---- blocks as they lie in files, see gguf/wtype.c ---- */
static float read_f16(const uint8_t *p) {
    return f16_to_f32((f16)(p[0] | p[1] << 8));
}
static void read_nibbles(const uint8_t *p, int8_t *code) {
    for (int j = 0; j < 16; j++) {
        code[j] = (int8_t)(p[j] & 15);
        code[j + 16] = (int8_t)(p[j] >> 4);
    }
}
static void add_fifth_bits(const uint8_t *p, int8_t *code) {
    for (int j = 0; j < QBLOCK; j++) code[j] = (int8_t)(code[j] | (p[j / 8] >> j % 8 & 1) << 4);
}
/* Group g of a block of 256 of Q4_K, or of Q5_K, whose fifth bits come before the nibbles. */
static void read_k_group(const uint8_t *blk, int g, bool fifth, quant_block *out) {
    const uint8_t *nibbles = blk + (fifth ? 48 : 16) + g / 2 * 32;
    uint8_t scale[8], min[8];
    wtype_k_scales(blk + 4, scale, min);
    for (int j = 0; j < QBLOCK; j++) {
        int high = fifth ? blk[16 + j] >> g & 1 : 0;
        out->code[j] = (int8_t)((nibbles[j] >> g % 2 * 4 & 15) | high << 4);
    }
    out->d[0] = out->d[1] = read_f16(blk) * scale[g];
    out->m = -(read_f16(blk + 2) * min[g]);
}
static void read_q6_k_group(const uint8_t *blk, int g, quant_block *out) {
    const uint8_t *nibbles = blk + g / 4 * 64 + g % 2 * 32, *upper = blk + 128 + g / 4 * 32;
    for (int j = 0; j < QBLOCK; j++)
        out->code[j] = (int8_t)(((nibbles[j] >> g % 4 / 2 * 4 & 15) | (upper[j] >> g % 4 * 2 & 3) << 4) - 32);
    for (int h = 0; h < 2; h++) out->d[h] = read_f16(blk + 208) * (int8_t)blk[192 + 2 * g + h];
    out->m = 0;
}

void quant_block_read(wtype t, const uint8_t *row, int block, quant_block *out) {
    const wtype_info *info = wtype_find((uint32_t)t);
    const int per_block = info->block / QBLOCK;
    const uint8_t *blk = row + (size_t)(block / per_block) * (size_t)info->block_bytes;
    switch (t) {
    case WTYPE_Q4_0:
        read_nibbles(blk + 2, out->code);
        break;
    case WTYPE_Q4_1:
        read_nibbles(blk + 4, out->code);
        break;
    case WTYPE_Q5_0:
        read_nibbles(blk + 6, out->code);
        add_fifth_bits(blk + 2, out->code);
        for (int j = 0; j < QBLOCK; j++) out->code[j] = (int8_t)(out->code[j] - 16);
        break;
    case WTYPE_Q5_1:
        read_nibbles(blk + 8, out->code);
        add_fifth_bits(blk + 4, out->code);
        break;
    case WTYPE_Q8_0:
        memcpy(out->code, blk + 2, QBLOCK);
        break;
    case WTYPE_Q4_K:
        read_k_group(blk, block % per_block, false, out);
        return;
    case WTYPE_Q5_K:
        read_k_group(blk, block % per_block, true, out);
        return;
    case WTYPE_Q6_K:
        read_q6_k_group(blk, block % per_block, out);
        return;
    case WTYPE_F32:
    case WTYPE_F16:
    case WTYPE_BF16:
        break;
    }
    out->d[0] = out->d[1] = read_f16(blk);
    out->m = t == WTYPE_Q4_0 ? -8 * out->d[0] : t == WTYPE_Q4_1 || t == WTYPE_Q5_1 ? read_f16(blk + 2) : 0;
}

/* ---- records ---- */
static size_t record_bytes(pack_form f) {
    static const size_t bytes[] = {Q4_RECORD, Q8_RECORD, Q4_F32_RECORD, Q8_MIN_RECORD, Q8_HALVES_RECORD};
    return bytes[f];
}

/* Column c of a record. */
static void pack_column(pack_form f, const quant_block *w, int c, uint8_t *rec) {
    const bool four_bits = f == PACK_Q4_F16 || f == PACK_Q4_F32;
    const uint8_t flip = f == PACK_Q8_F16 || f == PACK_Q8_HALVES ? 0x80 : 0;
    if (four_bits)
        for (int p = 0; p < 4; p++)
            for (int i = 0; i < 4; i++)
                rec[p * 128 + c * 4 + i] = (uint8_t)(w->code[8 * p + i] | w->code[8 * p + 4 + i] << 4);
    else
        for (int k = 0; k < QBLOCK; k++) rec[(k / 4) * 128 + c * 4 + k % 4] = (uint8_t)w->code[k] ^ flip;
    uint8_t *columns = rec + (four_bits ? Q4_CODES : Q8_CODES);
    if (f == PACK_Q4_F16 || f == PACK_Q8_F16) {
        f16 *d = (f16 *)columns;
        d[c] = f16_from_f32(w->d[0]);
        if (four_bits) d[PANEL + c] = f16_from_f32(w->m);
    } else {
        float *d = (float *)columns;
        d[c] = w->d[0];
        d[PANEL + c] = f == PACK_Q8_HALVES ? w->d[1] : w->m;
    }
}

static err pack_quantised_panel(const weight_src *src, const uint8_t *rows, size_t row_bytes, int n_cols,
                                const packed_weight *w, uint8_t *panel) {
    for (int b = 0; b < w->k / QBLOCK; b++)
        for (int c = 0; c < n_cols; c++) {
            quant_block q;
            quant_block_read(w->type, rows + (size_t)c * row_bytes, b, &q);
            if (w->type == WTYPE_Q4_0 && fabsf(q.m) > 65504)
                return ERR(ERR_UNSUPPORTED, "weight %s: a step of %g in a block of Q4_0 is too large (supported: up to 8188)",
                           src->name, (double)q.d[0]);
            pack_column(w->form, &q, c, panel + (size_t)b * w->record);
        }
    return OK;
}

static void pack_float_panel(const uint8_t *src, size_t row_bytes, size_t elem, int k, int n_cols, uint8_t *out) {
    for (int c = 0; c < n_cols; c++)
        for (int i = 0; i < k; i++)
            memcpy(out + ((size_t)i * PANEL + (size_t)c) * elem, src + (size_t)c * row_bytes + (size_t)i * elem, elem);
}

err weight_pack_panels(const backend *b, const weight_src *src, packed_weight **out) {
    const wtype_info *info;
    TRY(weight_check(b, src, &info));
    const pack_form form = pack_form_of(src->type);
    size_t row_bytes = wtype_row_bytes(src->type, (size_t)src->n_cols);
    size_t record = form == PACK_FLOAT ? (size_t)info->block_bytes * PANEL : record_bytes(form);
    size_t panel_bytes = record * (size_t)(form == PACK_FLOAT ? src->n_cols : src->n_cols / QBLOCK);
    int n_panels = (src->n_rows + PANEL - 1) / PANEL;
    packed_weight *w = NULL;
    TRY(weight_alloc(src, form, record, n_panels, panel_bytes, (size_t)n_panels * panel_bytes, &w));
    for (int p = 0; p < n_panels; p++) {
        const uint8_t *rows = (const uint8_t *)src->data + (size_t)p * PANEL * row_bytes;
        uint8_t *panel = w->data + (size_t)p * panel_bytes;
        int n_cols = src->n_rows - p * PANEL < PANEL ? src->n_rows - p * PANEL : PANEL;
        err e = OK;
        if (form == PACK_FLOAT)
            pack_float_panel(rows, row_bytes, (size_t)info->block_bytes, src->n_cols, n_cols, panel);
        else
            e = pack_quantised_panel(src, rows, row_bytes, n_cols, w, panel);
        if (e) {
            weight_free(w);
            return e;
        }
    }
    *out = w;
    return OK;
}

err weight_pack_rows(const backend *b, const weight_src *src, packed_weight **out) {
    const wtype_info *info;
    TRY(weight_check(b, src, &info));
    size_t row_bytes = wtype_row_bytes(src->type, (size_t)src->n_cols);
    TRY(weight_alloc(src, pack_form_of(src->type), 0, 0, row_bytes, row_bytes * (size_t)src->n_rows, out));
    memcpy((*out)->data, src->data, (*out)->bytes);
    return OK;
}

void weight_free(packed_weight *w) {
    if (!w) return;
    if (!w->in_run) mem_free(w->data);
    mem_free(w);
}
size_t weight_bytes(const packed_weight *w) {
    return w->bytes;
}

/* Matrices by themselves lie on 4 KiB pages, where reading ahead stops at every page and half of the bandwidth is lost. */
typedef struct weight_run {
    uint8_t *map, *data; /* data: the first huge page boundary */
    size_t map_bytes, bytes;
} weight_run;

static size_t whole_lines(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

err weight_gather(packed_weight *const *w, int n, void **run) {
    weight_run *r;
    TRY(mem_alloc(MEM_WEIGHTS, sizeof *r, &r));
    for (int i = 0; i < n; i++) r->bytes += whole_lines(w[i]->bytes);
    r->map_bytes = r->bytes + HUGE_PAGE;
    r->map = mmap(NULL, r->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r->map == MAP_FAILED) {
        size_t bytes = r->bytes;
        mem_free(r);
        return ERR(ERR_NOMEM, "out of memory: cannot map %zu bytes for weights", bytes);
    }
    r->data = (uint8_t *)(((uintptr_t)r->map + HUGE_PAGE - 1) & -(uintptr_t)HUGE_PAGE);
    (void)madvise(r->data, r->bytes, MADV_HUGEPAGE); /* a hint, before the first touch: without it only the speed differs */
    uint8_t *to = r->data;
    for (int i = 0; i < n; i++) { /* one by one, so that no more than one matrix is held twice */
        mem_account(MEM_WEIGHTS, (ptrdiff_t)whole_lines(w[i]->bytes));
        memcpy(to, w[i]->data, w[i]->bytes);
        if (!w[i]->in_run) mem_free(w[i]->data);
        w[i]->data = to;
        w[i]->in_run = true;
        to += whole_lines(w[i]->bytes);
    }
    *run = r;
    return OK;
}

void weight_run_free(void *run) {
    weight_run *r = run;
    if (!r) return;
    munmap(r->map, r->map_bytes);
    mem_account(MEM_WEIGHTS, -(ptrdiff_t)r->bytes);
    mem_free(r);
}
