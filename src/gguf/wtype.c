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

/* Block: f16 step, 32 signed bytes. */
static void decode_q8_0(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 32, p += 34) {
        float step = f16_to_f32(load_u16(p));
        for (int j = 0; j < 32; j++) dst[i + j] = (float)(int8_t)p[2 + j] * step;
    }
}

static const wtype_info infos[] = {
    {WTYPE_F32, "F32", 1, 4, decode_f32},      {WTYPE_F16, "F16", 1, 2, decode_f16},
    {WTYPE_Q4_1, "Q4_1", 32, 20, decode_q4_1}, {WTYPE_Q8_0, "Q8_0", 32, 34, decode_q8_0},
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
    return "F32 F16 Q4_1 Q8_0 BF16";
}

size_t wtype_row_bytes(wtype t, size_t n_cols) {
    const wtype_info *w = wtype_find((uint32_t)t);
    return n_cols / (size_t)w->block * (size_t)w->block_bytes;
}
