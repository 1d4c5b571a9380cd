/* Weight types: sizes of every type a GGUF file may hold (so that files can be checked whole), decoders of those kvlab
 * reads. */
#include "gguf/wtype.h"

#include <stdio.h>
#include <string.h>

#include "base/half.h"

typedef struct file_type {
    uint32_t value;
    const char *name;
    int block, block_bytes; /* values and bytes per block */
} file_type;

static const file_type file_types[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},    {41, "Q1_0", 128, 18},
};

static const file_type *file_type_find(uint32_t value) {
    for (size_t i = 0; i < sizeof file_types / sizeof *file_types; i++)
        if (file_types[i].value == value) return &file_types[i];
    return NULL;
}

static void decode_f32(const void *src, float *dst, size_t n) {
    memcpy(dst, src, n * sizeof *dst);
}

static uint16_t load_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static void decode_f16(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i++) dst[i] = f16_to_f32(load_u16(p + 2 * i));
}

static void decode_bf16(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i++) dst[i] = bf16_to_f32(load_u16(p + 2 * i));
}

/* Block: f16 step, f16 minimum, 16 bytes; low nibbles are values 0-15, high nibbles values 16-31. */
static void decode_q4_1(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 32, p += 20) {
        float step = f16_to_f32(load_u16(p)), min = f16_to_f32(load_u16(p + 2));
        for (int j = 0; j < 16; j++) {
            dst[i + j] = (float)(p[4 + j] & 15) * step + min;
            dst[i + 16 + j] = (float)(p[4 + j] >> 4) * step + min;
        }
    }
}

/* Block: f16 step, 16 bytes of nibbles as in Q4_1; 8 stands for zero. */
static void decode_q4_0(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 32, p += 18) {
        float step = f16_to_f32(load_u16(p));
        for (int j = 0; j < 16; j++) {
            dst[i + j] = (float)((p[2 + j] & 15) - 8) * step;
            dst[i + 16 + j] = (float)((p[2 + j] >> 4) - 8) * step;
        }
    }
}

/* Five bits: nibbles as in Q4_1, and bit j of a 32-bit word is the fifth bit of value j. */
static int five_bits(const uint8_t *high, const uint8_t *nibbles, int j) {
    int low = j < 16 ? nibbles[j] & 15 : nibbles[j - 16] >> 4;
    return low | (high[j / 8] >> j % 8 & 1) << 4;
}

/* Block: f16 step, fifth bits, nibbles; 16 stands for zero. */
static void decode_q5_0(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 32, p += 22) {
        float step = f16_to_f32(load_u16(p));
        for (int j = 0; j < 32; j++) dst[i + j] = (float)(five_bits(p + 2, p + 6, j) - 16) * step;
    }
}

/* Block: f16 step, f16 minimum, fifth bits, nibbles. */
static void decode_q5_1(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 32, p += 24) {
        float step = f16_to_f32(load_u16(p)), min = f16_to_f32(load_u16(p + 2));
        for (int j = 0; j < 32; j++) dst[i + j] = (float)five_bits(p + 4, p + 8, j) * step + min;
    }
}

void wtype_k_scales(const uint8_t packed[12], uint8_t scale[8], uint8_t min[8]) {
    for (int j = 0; j < 4; j++) {
        scale[j] = packed[j] & 63;
        min[j] = packed[j + 4] & 63;
        scale[j + 4] = (uint8_t)((packed[j + 8] & 15) | packed[j] >> 6 << 4);
        min[j + 4] = (uint8_t)(packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4);
    }
}

/* Block of 256: f16 step, f16 minimum, 12 bytes of scales and minima of 8 groups of 32, 128 bytes of nibbles: each 32
 * bytes hold a group in their low nibbles and the next in their high ones. */
static void decode_q4_k(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 256, p += 144) {
        float step = f16_to_f32(load_u16(p)), min = f16_to_f32(load_u16(p + 2));
        uint8_t scale[8], m[8];
        wtype_k_scales(p + 4, scale, m);
        for (int j = 0; j < 256; j++) {
            int g = j / 32, code = p[16 + g / 2 * 32 + j % 32] >> g % 2 * 4 & 15;
            dst[i + j] = step * scale[g] * (float)code - min * m[g];
        }
    }
}

/* As Q4_K, with 32 bytes of fifth bits before the nibbles: bit g of byte j belongs to value j of group g. */
static void decode_q5_k(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 256, p += 176) {
        float step = f16_to_f32(load_u16(p)), min = f16_to_f32(load_u16(p + 2));
        uint8_t scale[8], m[8];
        wtype_k_scales(p + 4, scale, m);
        for (int j = 0; j < 256; j++) {
            int g = j / 32, low = p[48 + g / 2 * 32 + j % 32] >> g % 2 * 4 & 15, high = p[16 + j % 32] >> g & 1;
            dst[i + j] = step * scale[g] * (float)(low | high << 4) - min * m[g];
        }
    }
}

/* Block of 256: 128 bytes of nibbles, 64 bytes of two upper bits, 16 signed scales of groups of 16, f16 step; 32 stands
 * for zero. In each half of 128, byte l of 64 holds values l (low nibble) and 64 + l (high). */
static void decode_q6_k(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 256, p += 210) {
        float step = f16_to_f32(load_u16(p + 208));
        for (int j = 0; j < 256; j++) {
            int half = j / 128, v = j % 128;
            int low = p[half * 64 + v % 64] >> v / 64 * 4 & 15, high = p[128 + half * 32 + v % 32] >> v / 32 * 2 & 3;
            dst[i + j] = step * (int8_t)p[192 + j / 16] * (float)((low | high << 4) - 32);
        }
    }
}

/* Block: f16 step, 32 signed bytes. */
static void decode_q8_0(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 32, p += 34) {
        float step = f16_to_f32(load_u16(p));
        for (int j = 0; j < 32; j++) dst[i + j] = (float)(int8_t)p[2 + j] * step;
    }
}

static const wtype_info infos[] = {
    {WTYPE_F32, "F32", 1, 4, decode_f32},         {WTYPE_F16, "F16", 1, 2, decode_f16},
    {WTYPE_Q4_0, "Q4_0", 32, 18, decode_q4_0},    {WTYPE_Q4_1, "Q4_1", 32, 20, decode_q4_1},
    {WTYPE_Q5_0, "Q5_0", 32, 22, decode_q5_0},    {WTYPE_Q5_1, "Q5_1", 32, 24, decode_q5_1},
    {WTYPE_Q8_0, "Q8_0", 32, 34, decode_q8_0},    {WTYPE_Q4_K, "Q4_K", 256, 144, decode_q4_k},
    {WTYPE_Q5_K, "Q5_K", 256, 176, decode_q5_k},  {WTYPE_Q6_K, "Q6_K", 256, 210, decode_q6_k},
    {WTYPE_BF16, "BF16", 1, 2, decode_bf16},
};

const wtype_info *wtype_find(uint32_t file_value) {
    for (size_t i = 0; i < sizeof infos / sizeof *infos; i++)
        if ((uint32_t)infos[i].type == file_value) return &infos[i];
    return NULL;
}

const char *wtype_file_name(uint32_t file_value) {
    static _Thread_local char unknown[20];
    const file_type *t = file_type_find(file_value);
    if (t) return t->name;
    snprintf(unknown, sizeof unknown, "type %u", file_value);
    return unknown;
}

bool wtype_file_block(uint32_t file_value, int *block, int *block_bytes) {
    const file_type *t = file_type_find(file_value);
    if (!t) return false;
    *block = t->block;
    *block_bytes = t->block_bytes;
    return true;
}

const char *wtype_supported(void) {
    return "F32 F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K BF16";
}

size_t wtype_row_bytes(wtype t, size_t n_cols) {
    const wtype_info *w = wtype_find((uint32_t)t);
    return n_cols / (size_t)w->block * (size_t)w->block_bytes;
}
