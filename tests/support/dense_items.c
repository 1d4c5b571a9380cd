#include "tests/support/dense_items.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"

static float *floats(size_t n) {
    float *x = malloc((n ? n : 1) * sizeof *x);
    if (!x) abort();
    return x;
}
static float half_at(const uint8_t *page, size_t at) {
    f16 h;
    memcpy(&h, page + at, sizeof h);
    return f16_to_f32(h);
}

/* Field `channel` of `bits` bits. K: byte i of dword j holds channels 4 (j 8 / bits + f) + i; a granule has 8 items, dword by dword. */
static int k_field(const uint8_t *granule, int item, int bits, int channel) {
    int quad = channel / 4, dword = quad / (8 / bits), f = quad % (8 / bits);
    return granule[32 * dword + 4 * item + channel % 4] >> (f * bits) & ((1 << bits) - 1);
}
static int v_field(const uint8_t *row, int d, int bits, int channel) {
    int n_bytes = d * bits / 8;
    return row[channel % n_bytes] >> (channel / n_bytes * bits) & ((1 << bits) - 1);
}
static int k_code(const page_layout *l, const uint8_t *page, int slot, int c) {
    int d = l->head_dim, bits = l->fmt.k_bits;
    const uint8_t *granule = page + l->off_k + (size_t)(slot / 8) * (size_t)(d * bits);
    if (bits != 3) return k_field(granule, slot % 8, bits, c);
    return k_field(granule, slot % 8, 2, c) + 4 * k_field(granule + 2 * d, slot % 8, 1, c);
}
static int v_code(const page_layout *l, const uint8_t *page, int slot, int c) {
    int d = l->head_dim, bits = l->fmt.v_bits;
    const uint8_t *row = page + l->off_v + (size_t)slot * (size_t)(d * bits / 8);
    if (bits != 3) return v_field(row, d, bits, c);
    return v_field(row, d, 2, c) + 4 * v_field(row + d / 4, d, 1, c);
}

static void step_and_zero(const page_layout *l, const uint8_t *page, int bits, size_t off_scale, size_t off_zero, size_t at, float *step, float *zero) {
    bool offset = kv_format_has_zero(l->fmt);
    float scale = half_at(page, off_scale + 2 * at);
    *step = offset ? scale * (255.0f / (float)((1 << bits) - 1)) : scale;
    *zero = offset ? half_at(page, off_zero + 2 * at) : -*step * (float)(1 << (bits - 1));
}

static void hold_against(const char *side, float got, float want, float step, int bits) {
    if (fabsf(got - want) <= 1e-6f * (fabsf(want) + fabsf(step) * (float)(1 << bits))) return;
    fprintf(stderr, "dense items: %s of %d bits is %g by the layout's definition, %g by page_get\n", side, bits, (double)got, (double)want);
    abort();
}

static void read_item(const page_layout *l, const uint8_t *page, int slot, size_t row, dense_items *x) {
    float k[KV_MAX_HEAD_DIM], v[KV_MAX_HEAD_DIM];
    size_t d = (size_t)x->d;
    page_get(l, page, slot, k, v);
    x->size[row / d] = 0;
    for (size_t c = 0; c < d; c++) x->size[row / d] = fmaxf(x->size[row / d], fabsf(v[c]));
    if (kv_format_is_float(l->fmt)) {
        memcpy(x->k + row, k, d * sizeof *k);
        memcpy(x->v + row, v, d * sizeof *v);
        return;
    }
    for (size_t c = 0; c < d; c++) {
        size_t i = row + c, group = c / (size_t)x->gs * l->cap + (size_t)slot;
        size_t k_at = l->fmt.k_channels ? (size_t)(slot / KV_TOKEN_GROUP) * d + c : group;
        x->k[i] = (float)k_code(l, page, slot, (int)c);
        x->v[i] = (float)v_code(l, page, slot, (int)c);
        step_and_zero(l, page, l->fmt.k_bits, l->off_k_scale, l->off_k_zero, k_at, &x->k_step[i], &x->k_zero[i]);
        step_and_zero(l, page, l->fmt.v_bits, l->off_v_scale, l->off_v_zero, group, &x->v_step[i], &x->v_zero[i]);
        hold_against("K", x->k_step[i] * x->k[i] + x->k_zero[i], k[c], x->k_step[i], l->fmt.k_bits);
        hold_against("V", x->v_step[i] * x->v[i] + x->v_zero[i], v[c], x->v_step[i], l->fmt.v_bits);
    }
}

void dense_items_read(const attn_segment *seg, const uint8_t *pool_base, int n, dense_items *x) {
    const page_layout *l = seg->layout;
    size_t all = (size_t)n * l->head_dim;
    memset(x, 0, sizeof *x);
    x->n = n, x->d = l->head_dim, x->gs = l->head_dim / l->n_groups;
    x->k = floats(all), x->v = floats(all), x->size = floats((size_t)n);
    if (!kv_format_is_float(l->fmt)) x->k_step = floats(all), x->k_zero = floats(all), x->v_step = floats(all), x->v_zero = floats(all);
    for (int i = 0; i < n; i++) {
        int item = seg->first + i;
        read_item(l, pool_base + (size_t)seg->pages[item / l->cap] * 64, item % l->cap, (size_t)i * l->head_dim, x);
    }
}

void dense_items_free(dense_items *x) {
    free(x->k), free(x->v), free(x->size), free(x->k_step), free(x->k_zero), free(x->v_step), free(x->v_zero);
}
