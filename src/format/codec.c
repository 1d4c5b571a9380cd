/* The portable reference codec. Every operation is one rounded f32 operation in the order of format.h.
 *
 * Quantised sides take any bit pattern: NaN counts as 0, values are clamped to the f16 range and -0 counts as +0, so
 * scale and zero are always finite. Codes are 0 when the step is 0 (constant vectors, and ranges too small for an f32
 * step). */
#include <assert.h>
#include <string.h>
#include "format/layout.h"
#include "format/quantise.h"
#include "format/rotate.h"
#include "format/rows.h"

/* One side (K or V) of an item's quantised form. */
typedef struct side {
    int bits, n_groups, d, quant;
    uint32_t off_scale, off_zero;
} side;

static side k_side(const page_layout *l) {
    return (side){l->fmt.k_bits, l->n_groups, l->head_dim, l->fmt.quant, l->off_k_scale, l->off_k_zero};
}
static side v_side(const page_layout *l) {
    return (side){l->fmt.v_bits, l->n_groups, l->head_dim, l->fmt.quant, l->off_v_scale, l->off_v_zero};
}

static bool has_zero(side s) { return s.quant == QUANT_OFFSET || s.quant == QUANT_NARROW; }

/* ---- codes ---- */

enum { LANES = 16 }; /* head_dim and groups are multiples of it */

static void quantise_group(const float *x, int n, int bits, quantise_part part, f16 *scale, f16 *zero, uint8_t *code) {
    float s[KV_MAX_HEAD_DIM], lo[LANES], hi[LANES];
    for (int i = 0; i < n; i++) s[i] = quantise_sane(x[i]);
    memcpy(lo, s, sizeof lo);
    memcpy(hi, s, sizeof hi);
    for (int i = LANES; i < n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            lo[j] = s[i + j] < lo[j] ? s[i + j] : lo[j];
            hi[j] = s[i + j] > hi[j] ? s[i + j] : hi[j];
        }
    }
    float min = lo[0], max = hi[0];
    for (int j = 1; j < LANES; j++) {
        min = lo[j] < min ? lo[j] : min;
        max = hi[j] > max ? hi[j] : max;
    }
    float range = max - min, levels = (float)((1 << bits) - 1);
    quantise_narrow(part, &min, &range);
    float step = range / levels;
    *zero = f16_from_f32(quantise_sane(min * part.gain));
    *scale = f16_from_f32(range * part.gain / 255.0f);
    if (step == 0.0f) {
        memset(code, 0, (size_t)n);
        return;
    }
    for (int i = 0; i < n; i++) {
        float q = (s[i] - min) / step;
        q = q < levels ? q : levels;
        q = q > 0.0f ? q : 0.0f; /* below a narrow range */
        code[i] = (uint8_t)f32_bits(q + 0x1p23f); /* the sum's unit in the last place is 1: ties to even */
    }
}

/* A plane holds `bits` (1, 2, 4 or 8) bits of every code; 3-bit codes lie in a plane of their low 2 bits and, behind it, one of their
 * high bits. Codes of K go 8/bits quads to a dword; shifting whole dwords keeps every code in its own byte. */
static void pack_k_plane(uint8_t *at, int d, int bits, const uint8_t *code) {
    int fields = 8 / bits, n_dwords = d * bits / 32;
    for (int j = 0; j < n_dwords; j++) {
        uint32_t w = 0;
        for (int f = 0; f < fields; f++) {
            uint32_t quad;
            memcpy(&quad, code + 4 * (j * fields + f), 4);
            w |= quad << (bits * f);
        }
        memcpy(at + (size_t)j * 32, &w, 4);
    }
}

static void unpack_k_plane(const uint8_t *at, int d, int bits, uint8_t *code) {
    int fields = 8 / bits, n_dwords = d * bits / 32;
    uint32_t mask = ((1u << bits) - 1) * 0x01010101u;
    for (int j = 0; j < n_dwords; j++) {
        uint32_t w;
        memcpy(&w, at + (size_t)j * 32, 4);
        for (int f = 0; f < fields; f++) {
            uint32_t quad = w >> (bits * f) & mask;
            memcpy(code + 4 * (j * fields + f), &quad, 4);
        }
    }
}

static void pack_v_plane(uint8_t *at, int d, int bits, const uint8_t *code) {
    int fields = 8 / bits, n_bytes = d * bits / 8;
    memcpy(at, code, (size_t)n_bytes);
    for (int f = 1; f < fields; f++) {
        for (int j = 0; j < n_bytes; j++) at[j] |= (uint8_t)(code[j + f * n_bytes] << (bits * f));
    }
}

static void unpack_v_plane(const uint8_t *at, int d, int bits, uint8_t *code) {
    int fields = 8 / bits, n_bytes = d * bits / 8;
    uint8_t mask = (uint8_t)((1 << bits) - 1);
    for (int f = 0; f < fields; f++) {
        for (int j = 0; j < n_bytes; j++) code[j + f * n_bytes] = (uint8_t)(at[j] >> (bits * f) & mask);
    }
}

typedef void (*pack_fn)(uint8_t *at, int d, int bits, const uint8_t *code);
typedef void (*unpack_fn)(const uint8_t *at, int d, int bits, uint8_t *code);

static void pack_planes(pack_fn pack, uint8_t *at, size_t high_plane, int d, int bits, const uint8_t *code) {
    if (bits != 3) {
        pack(at, d, bits, code);
        return;
    }
    uint8_t low[KV_MAX_HEAD_DIM], high[KV_MAX_HEAD_DIM];
    for (int i = 0; i < d; i++) low[i] = code[i] & 3, high[i] = code[i] >> 2;
    pack(at, d, 2, low);
    pack(at + high_plane, d, 1, high);
}

static void unpack_planes(unpack_fn unpack, const uint8_t *at, size_t high_plane, int d, int bits, uint8_t *code) {
    if (bits != 3) {
        unpack(at, d, bits, code);
        return;
    }
    uint8_t high[KV_MAX_HEAD_DIM];
    unpack(at, d, 2, code);
    unpack(at + high_plane, d, 1, high);
    for (int i = 0; i < d; i++) code[i] |= (uint8_t)(high[i] << 2);
}

static uint8_t *k_item(const page_layout *l, const void *page, int slot) {
    size_t n_dwords = (size_t)l->head_dim * l->fmt.k_bits / 32;
    return (uint8_t *)(uintptr_t)page + l->off_k + (size_t)(slot / 8) * n_dwords * 32 + (size_t)(slot % 8) * 4;
}
static uint8_t *v_item(const page_layout *l, const void *page, int slot) {
    return (uint8_t *)(uintptr_t)page + l->off_v + (size_t)slot * l->head_dim * l->fmt.v_bits / 8;
}

static void pack_k(const page_layout *l, uint8_t *page, int slot, const uint8_t *code) {
    int d = l->head_dim;
    pack_planes(pack_k_plane, k_item(l, page, slot), (size_t)d * 2, d, l->fmt.k_bits, code); /* d * 2/32 dwords, 32 bytes apart */
}
static void unpack_k(const page_layout *l, const uint8_t *page, int slot, uint8_t *code) {
    int d = l->head_dim;
    unpack_planes(unpack_k_plane, k_item(l, page, slot), (size_t)d * 2, d, l->fmt.k_bits, code);
}
static void pack_v(const page_layout *l, uint8_t *page, int slot, const uint8_t *code) {
    int d = l->head_dim;
    pack_planes(pack_v_plane, v_item(l, page, slot), (size_t)d / 4, d, l->fmt.v_bits, code);
}
static void unpack_v(const page_layout *l, const uint8_t *page, int slot, uint8_t *code) {
    int d = l->head_dim;
    unpack_planes(unpack_v_plane, v_item(l, page, slot), (size_t)d / 4, d, l->fmt.v_bits, code);
}

/* ---- scale and zero of group g of an item ---- */

static f16 get_f16(const uint8_t *page, uint32_t off, size_t i) {
    f16 h;
    memcpy(&h, page + off + i * sizeof h, sizeof h);
    return h;
}
static void set_f16(uint8_t *page, uint32_t off, size_t i, f16 h) {
    memcpy(page + off + i * sizeof h, &h, sizeof h);
}

static void quantise_side(const page_layout *l, side s, uint8_t *page, int slot, const float *x, uint8_t *code) {
    int n = s.d / s.n_groups;
    for (int g = 0; g < s.n_groups; g++) {
        size_t i = (size_t)g * l->cap + slot;
        f16 scale, zero;
        if (has_zero(s)) {
            quantise_group(x + g * n, n, s.bits, quantise_part_of(s.quant, s.bits, n), &scale, &zero, code + g * n);
            set_f16(page, s.off_zero, i, zero);
        } else {
            quantise_without_zero(s.quant, x + g * n, n, s.bits, &scale, code + g * n);
        }
        set_f16(page, s.off_scale, i, scale);
    }
}

static float decoding_step(f16 scale, int bits, int quant) {
    float s = f16_to_f32(scale);
    return quant == QUANT_OFFSET || quant == QUANT_NARROW ? s * (255.0f / (float)((1 << bits) - 1)) : s;
}

static void decode_side(const page_layout *l, side s, const uint8_t *page, int slot, const uint8_t *code, float *x) {
    int n = s.d / s.n_groups, bias = has_zero(s) ? 0 : 1 << (s.bits - 1);
    for (int g = 0; g < s.n_groups; g++) {
        size_t i = (size_t)g * l->cap + slot;
        float zero = has_zero(s) ? f16_to_f32(get_f16(page, s.off_zero, i)) : 0.0f;
        float step = decoding_step(get_f16(page, s.off_scale, i), s.bits, s.quant);
        for (int j = 0; j < n; j++) {
            float product = step * (float)(code[g * n + j] - bias);
            x[g * n + j] = product + zero;
        }
    }
}

/* ---- K per channel: scale and zero of (group of items, channel) ---- */

static size_t channel_row(const page_layout *l, int slot) {
    return (size_t)(slot / KV_TOKEN_GROUP) * l->head_dim;
}

static void decode_k_channels(const page_layout *l, const uint8_t *page, int slot, const uint8_t *code, float *k) {
    for (int c = 0; c < l->head_dim; c++) {
        size_t i = channel_row(l, slot) + (size_t)c;
        float product = decoding_step(get_f16(page, l->off_k_scale, i), l->fmt.k_bits, QUANT_OFFSET) * (float)code[c];
        k[c] = product + f16_to_f32(get_f16(page, l->off_k_zero, i));
    }
}

/* ---- float rows ---- */

static uint8_t *float_row(const page_layout *l, uint32_t off, const void *page, int slot) {
    return (uint8_t *)(uintptr_t)page + off + (size_t)slot * l->head_dim * (l->fmt.k_bits / 8);
}

static void put_float(const page_layout *l, uint32_t off, void *page, int slot, const float *x) {
    uint8_t *row = float_row(l, off, page, slot);
    if (l->fmt.k_bits == 32)
        memcpy(row, x, (size_t)l->head_dim * sizeof(float));
    else
        f16_row_from_f32(x, (f16 *)(void *)row, l->head_dim);
}

static void get_float(const page_layout *l, uint32_t off, const void *page, int slot, float *x) {
    const uint8_t *row = float_row(l, off, page, slot);
    if (l->fmt.k_bits == 32)
        memcpy(x, row, (size_t)l->head_dim * sizeof(float));
    else
        f16_row_to_f32((const f16 *)(const void *)row, x, l->head_dim);
}

/* ---- columns ---- */

uint32_t page_pos(const page_layout *l, const void *page, int slot) {
    const uint8_t *at = (const uint8_t *)page + l->off_pos + (size_t)slot * l->pos_bytes;
    uint16_t p16;
    uint32_t p32;
    if (l->pos_bytes == 0) return (uint32_t)slot;
    if (l->pos_bytes == 4) return memcpy(&p32, at, 4), p32;
    return memcpy(&p16, at, 2), p16;
}

void page_pos_column(const page_layout *l, const void *page, int n, uint32_t *out) {
    const uint8_t *column = (const uint8_t *)page + l->off_pos;
    if (l->pos_bytes == 4) {
        memcpy(out, column, (size_t)n * sizeof *out);
        return;
    }
    for (int i = 0; i < n; i++) {
        uint16_t pos;
        memcpy(&pos, column + 2 * i, 2);
        out[i] = pos;
    }
}

static void set_pos(const page_layout *l, void *page, int slot, uint32_t pos) {
    uint8_t *at = (uint8_t *)page + l->off_pos + (size_t)slot * l->pos_bytes;
    uint16_t p16 = (uint16_t)pos;
    assert(l->pos_bytes == 4 || pos <= UINT16_MAX);
    memcpy(at, l->pos_bytes == 4 ? (void *)&pos : (void *)&p16, l->pos_bytes);
}

float page_score(const page_layout *l, const void *page, int slot) {
    float score;
    if (!l->has_score) return 0.0f;
    memcpy(&score, (const uint8_t *)page + l->off_score + (size_t)slot * sizeof score, sizeof score);
    return score;
}

void page_set_score(const page_layout *l, void *page, int slot, float score) {
    if (l->has_score) memcpy((uint8_t *)page + l->off_score + (size_t)slot * sizeof score, &score, sizeof score);
}

/* ---- items ---- */

static const float *rotated(const float *x, int d, float *buf) {
    memcpy(buf, x, (size_t)d * sizeof *x);
    hadamard_rotate(buf, d);
    return buf;
}

/* Keys of a whole group: each channel's KV_TOKEN_GROUP values share scale and zero. */
static void put_k_channels(const page_layout *l, uint8_t *page, int slot, const float *k, size_t ldk) {
    uint8_t code[KV_TOKEN_GROUP][KV_MAX_HEAD_DIM], column_code[KV_TOKEN_GROUP];
    float x[KV_TOKEN_GROUP][KV_MAX_HEAD_DIM], column[KV_TOKEN_GROUP];
    int d = l->head_dim;
    for (int i = 0; i < KV_TOKEN_GROUP; i++) {
        memcpy(x[i], k + (size_t)i * ldk, (size_t)d * sizeof *k);
        if (l->fmt.rotate & ROTATE_K) hadamard_rotate(x[i], d);
    }
    for (int c = 0; c < d; c++) {
        f16 scale, zero;
        for (int i = 0; i < KV_TOKEN_GROUP; i++) column[i] = x[i][c];
        quantise_group(column, KV_TOKEN_GROUP, l->fmt.k_bits, (quantise_part){1.0f, 1.0f}, &scale, &zero, column_code);
        for (int i = 0; i < KV_TOKEN_GROUP; i++) code[i][c] = column_code[i];
        set_f16(page, l->off_k_scale, channel_row(l, slot) + (size_t)c, scale);
        set_f16(page, l->off_k_zero, channel_row(l, slot) + (size_t)c, zero);
    }
    for (int i = 0; i < KV_TOKEN_GROUP; i++) pack_k(l, page, slot + i, code[i]);
}

static void put_k(const page_layout *l, uint8_t *page, int slot, const float *k) {
    uint8_t code[KV_MAX_HEAD_DIM];
    float buf[KV_MAX_HEAD_DIM];
    quantise_side(l, k_side(l), page, slot, l->fmt.rotate & ROTATE_K ? rotated(k, l->head_dim, buf) : k, code);
    pack_k(l, page, slot, code);
}

static void put_v(const page_layout *l, uint8_t *page, int slot, const float *v) {
    uint8_t code[KV_MAX_HEAD_DIM];
    float buf[KV_MAX_HEAD_DIM];
    quantise_side(l, v_side(l), page, slot, l->fmt.rotate & ROTATE_V ? rotated(v, l->head_dim, buf) : v, code);
    pack_v(l, page, slot, code);
}

void page_put(const page_layout *l, void *page, int slot0, int n, const float *k, size_t ldk, const float *v,
              size_t ldv, const uint32_t *pos) {
    int group = kv_format_item_group(l->fmt);
    assert(slot0 >= 0 && n >= 0 && slot0 + n <= l->cap && slot0 % group == 0 && n % group == 0);
    for (int i = 0; i < n; i++, k += ldk, v += ldv) {
        int slot = slot0 + i;
        if (kv_format_is_float(l->fmt)) {
            put_float(l, l->off_k, page, slot, k);
            put_float(l, l->off_v, page, slot, v);
        } else {
            if (!l->fmt.k_channels) put_k(l, page, slot, k);
            else if (i % group == 0) put_k_channels(l, page, slot, k, ldk);
            put_v(l, page, slot, v);
        }
        if (l->pos_bytes) set_pos(l, page, slot, pos[i]);
        page_set_score(l, page, slot, 0.0f);
    }
}

static void prefetch_bytes(const uint8_t *from, size_t bytes) {
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at, 1);
}
void page_prefetch(const page_layout *l, const void *page, int slot) {
    const uint8_t *from = page;
    size_t i = (size_t)slot, d = l->head_dim, k = d * l->fmt.k_bits / 8, v = d * l->fmt.v_bits / 8;
    if (l->fmt.k_channels) return;
    if (kv_format_is_float(l->fmt)) prefetch_bytes(from + l->off_k + i * k, k);
    else prefetch_bytes(from + l->off_k + i / 8 * 8 * k, 8 * k); /* interleaved with its granule */
    prefetch_bytes(from + l->off_v + i * v, v);
    for (size_t column = 0; column < l->meta_bytes / sizeof(f16); column++)
        prefetch_bytes(from + l->off_k_scale + (column * l->cap + i) * sizeof(f16), sizeof(f16));
}

void page_get(const page_layout *l, const void *page, int slot, float *k, float *v) {
    uint8_t code[KV_MAX_HEAD_DIM];
    assert(slot >= 0 && slot < l->cap);
    if (kv_format_is_float(l->fmt)) {
        if (k) get_float(l, l->off_k, page, slot, k);
        if (v) get_float(l, l->off_v, page, slot, v);
        return;
    }
    if (k) {
        unpack_k(l, page, slot, code);
        if (l->fmt.k_channels) decode_k_channels(l, page, slot, code, k);
        else decode_side(l, k_side(l), page, slot, code, k);
    }
    if (v) {
        unpack_v(l, page, slot, code);
        decode_side(l, v_side(l), page, slot, code, v);
    }
}

/* ---- moves ---- */

/* code' = rne(code / divisor); divisors are odd, so there are no ties. */
static void narrow_codes(uint8_t *code, int n, int from_bits, int to_bits) {
    unsigned divisor = (unsigned)((1 << from_bits) - 1) / (unsigned)((1 << to_bits) - 1);
    if (divisor == 1) return;
    for (int i = 0; i < n; i++) code[i] = (uint8_t)((code[i] + divisor / 2) / divisor);
}

static void copy_meta(const page_layout *from, side a, const uint8_t *src, int src_slot, const page_layout *to, side b,
                      uint8_t *dst, int dst_slot) {
    for (int g = 0; g < a.n_groups; g++) {
        size_t i = (size_t)g * from->cap + src_slot, j = (size_t)g * to->cap + dst_slot;
        set_f16(dst, b.off_scale, j, get_f16(src, a.off_scale, i));
        if (has_zero(a)) set_f16(dst, b.off_zero, j, get_f16(src, a.off_zero, i));
    }
}

/* Codes of one side under their new width; scale and zero go along where they serve both widths. */
static void move_side(const page_layout *from, side a, const uint8_t *src, int src_slot, const page_layout *to, side b,
                      uint8_t *dst, int dst_slot, uint8_t *code) {
    if (page_side_keeps_scale(a.quant, a.bits, b.bits)) {
        narrow_codes(code, a.d, a.bits, b.bits);
        copy_meta(from, a, src, src_slot, to, b, dst, dst_slot);
    } else {
        float x[KV_MAX_HEAD_DIM];
        decode_side(from, a, src, src_slot, code, x);
        quantise_side(to, b, dst, dst_slot, x, code);
    }
}

static void copy_columns(const page_layout *from, const void *src, int src_slot, const page_layout *to, void *dst,
                         int dst_slot) {
    if (to->pos_bytes) set_pos(to, dst, dst_slot, page_pos(from, src, src_slot));
    page_set_score(to, dst, dst_slot, page_score(from, src, src_slot));
}

static void copy_k_channels(const page_layout *from, const uint8_t *src, int src_slot, const page_layout *to, uint8_t *dst,
                            int dst_slot) {
    size_t row = (size_t)from->head_dim * sizeof(f16), i = channel_row(from, src_slot), j = channel_row(to, dst_slot);
    assert(src_slot % KV_TOKEN_GROUP == dst_slot % KV_TOKEN_GROUP);
    memcpy(dst + to->off_k_scale + j * sizeof(f16), src + from->off_k_scale + i * sizeof(f16), row);
    memcpy(dst + to->off_k_zero + j * sizeof(f16), src + from->off_k_zero + i * sizeof(f16), row);
}

void page_move(const page_layout *from, const void *src, int src_slot, const page_layout *to, void *dst, int dst_slot) {
    assert(kv_format_can_move(from->fmt, to->fmt) && from->head_dim == to->head_dim);
    assert(src_slot >= 0 && src_slot < from->cap && dst_slot >= 0 && dst_slot < to->cap);
    assert(from->fmt.k_channels == to->fmt.k_channels);
    uint8_t code[KV_MAX_HEAD_DIM];
    if (from->fmt.k_bits == to->fmt.k_bits && kv_format_is_float(from->fmt)) {
        size_t row = (size_t)from->head_dim * (from->fmt.k_bits / 8);
        memcpy(float_row(to, to->off_k, dst, dst_slot), float_row(from, from->off_k, src, src_slot), row);
        memcpy(float_row(to, to->off_v, dst, dst_slot), float_row(from, from->off_v, src, src_slot), row);
        copy_columns(from, src, src_slot, to, dst, dst_slot);
        return;
    }
    if (kv_format_is_float(from->fmt)) {
        float k[KV_MAX_HEAD_DIM], v[KV_MAX_HEAD_DIM];
        uint32_t pos = page_pos(from, src, src_slot);
        page_get(from, src, src_slot, k, v);
        page_put(to, dst, dst_slot, 1, k, 0, v, 0, &pos);
        copy_columns(from, src, src_slot, to, dst, dst_slot);
        return;
    }
    unpack_k(from, src, src_slot, code);
    if (from->fmt.k_channels) copy_k_channels(from, src, src_slot, to, dst, dst_slot);
    else move_side(from, k_side(from), src, src_slot, to, k_side(to), dst, dst_slot, code);
    pack_k(to, dst, dst_slot, code);
    unpack_v(from, src, src_slot, code);
    move_side(from, v_side(from), src, src_slot, to, v_side(to), dst, dst_slot, code);
    pack_v(to, dst, dst_slot, code);
    copy_columns(from, src, src_slot, to, dst, dst_slot);
}
