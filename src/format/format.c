#include "format/format.h"
#include <stdio.h>
#include <string.h>

static const char *const rotation_name[] = {"", "rk", "rv", "r"}; /* by kv_format.rotate */
#define N_ROTATIONS (sizeof rotation_name / sizeof rotation_name[0])

static bool is_code_width(int bits) {
    return bits == 8 || (bits >= 1 && bits <= 4);
}
static bool is_group(int channels) {
    return channels == 0 || channels == 32 || channels == 64 || channels == 128;
}

static err refuse_name(const char *name) {
    return ERR(ERR_UNSUPPORTED,
               "cache format '%s' is unknown; supported are f32, f16, q8_0, q4_0, q8_0-q4_0, q4_0-q8_0 and kXvY with X and Y of 8, 4, 3, "
               "2, 1, where c after X means K per channel over groups of 32 tokens (no other number), then g32, g64 or g128, s for symmetric (not 1 bit, not with c) or n for a narrow range (not with c), and r, rk or "
               "rv for a rotation",
               name);
}

/* Steps over `word` if the text begins with it. */
static bool take(const char **at, const char *word) {
    size_t n = strlen(word);
    if (strncmp(*at, word, n)) return false;
    *at += n;
    return true;
}

static bool take_width(const char **at, uint8_t *bits) {
    if (!is_code_width(**at - '0')) return false;
    *bits = (uint8_t)(*(*at)++ - '0');
    return true;
}

static bool take_ggml(const char **at, uint8_t *bits) {
    if (take(at, "q8_0")) return *bits = 8, true;
    if (take(at, "q4_0")) return *bits = 4, true;
    return false;
}

static bool take_rotation(const char *rest, uint8_t *rotate) {
    for (*rotate = 0; *rotate < N_ROTATIONS; (*rotate)++) {
        if (!strcmp(rest, rotation_name[*rotate])) return true;
    }
    return false;
}

static bool parse_ggml(const char *name, kv_format *f) {
    if (!take_ggml(&name, &f->k_bits)) return false;
    f->v_bits = f->k_bits;
    f->group = 32;
    f->quant = QUANT_GGML;
    if (take(&name, "-") && (!take_ggml(&name, &f->v_bits) || f->v_bits == f->k_bits)) return false;
    return take_rotation(name, &f->rotate);
}

static bool parse_codes(const char *name, kv_format *f) {
    if (!take(&name, "k") || !take_width(&name, &f->k_bits)) return false;
    f->k_channels = take(&name, "c");
    if (!take(&name, "v") || !take_width(&name, &f->v_bits)) return false;
    f->group = take(&name, "g32") ? 32 : take(&name, "g64") ? 64 : take(&name, "g128") ? 128 : 0;
    if (take(&name, "s")) f->quant = QUANT_SYMMETRIC;
    else if (take(&name, "n")) f->quant = QUANT_NARROW;
    if (f->quant == QUANT_NARROW && f->k_channels) return false;
    if (f->quant == QUANT_SYMMETRIC && (f->k_channels || f->k_bits == 1 || f->v_bits == 1)) return false;
    return take_rotation(name, &f->rotate);
}

err kv_format_parse(const char *name, kv_format *out) {
    kv_format f = {.k_bits = 0}, g = {.k_bits = 0};
    if (!strcmp(name, "f32")) f.k_bits = f.v_bits = 32;
    else if (!strcmp(name, "f16")) f.k_bits = f.v_bits = 16;
    else if (parse_ggml(name, &g)) f = g;
    else if (!parse_codes(name, &f)) return refuse_name(name);
    *out = f;
    return OK;
}

void kv_format_name(kv_format f, char out[16]) {
    const char *rotation = rotation_name[f.rotate % N_ROTATIONS];
    char group[8] = "";
    if (f.group) snprintf(group, sizeof group, "g%u", f.group);
    if (kv_format_is_float(f)) snprintf(out, 16, "f%u", f.k_bits);
    else if (f.quant == QUANT_GGML && f.k_bits == f.v_bits) snprintf(out, 16, "q%u_0%s", f.k_bits, rotation);
    else if (f.quant == QUANT_GGML) snprintf(out, 16, "q%u_0-q%u_0%s", f.k_bits, f.v_bits, rotation);
    else
        snprintf(out, 16, "k%u%sv%u%s%s%s", f.k_bits, f.k_channels ? "c" : "", f.v_bits, group,
                 f.quant == QUANT_SYMMETRIC ? "s" : f.quant == QUANT_NARROW ? "n" : "", rotation);
}

bool kv_format_equal(kv_format a, kv_format b) {
    return a.k_bits == b.k_bits && a.v_bits == b.v_bits && a.group == b.group && a.rotate == b.rotate && a.quant == b.quant &&
           a.k_channels == b.k_channels;
}

bool kv_format_can_move(kv_format from, kv_format to) {
    if (to.k_bits > from.k_bits || to.v_bits > from.v_bits) return false;
    if (kv_format_is_float(from) || kv_format_equal(from, to)) return true;
    return from.group == to.group && from.rotate == to.rotate && from.quant == to.quant && !from.k_channels && !to.k_channels;
}

size_t kv_format_payload_bytes(kv_format f, int head_dim) {
    return (size_t)head_dim * (f.k_bits + f.v_bits) / 8;
}

size_t kv_format_meta_bytes(kv_format f, int head_dim) {
    if (kv_format_is_float(f)) return 0;
    size_t pair = sizeof(f16) * (kv_format_has_zero(f) ? 2 : 1), v = pair * (size_t)kv_format_n_groups(f, head_dim);
    return v + (f.k_channels ? pair * (size_t)head_dim / KV_TOKEN_GROUP : v);
}

err kv_format_check(kv_format f, int head_dim) {
    char name[16];
    bool pair = (f.k_bits == 32 || f.k_bits == 16) && f.v_bits == f.k_bits && f.group == 0 && f.rotate == 0 && f.quant == 0 &&
                !f.k_channels;
    bool codes = is_code_width(f.k_bits) && is_code_width(f.v_bits) && is_group(f.group) && f.rotate < N_ROTATIONS;
    bool one_bit = f.k_bits == 1 || f.v_bits == 1;
    if (f.quant == QUANT_SYMMETRIC) codes = codes && !f.k_channels && !one_bit;
    else if (f.quant == QUANT_NARROW) codes = codes && !f.k_channels;
    else if (f.quant == QUANT_GGML)
        codes = codes && f.group == 32 && !f.k_channels && (f.k_bits == 8 || f.k_bits == 4) && (f.v_bits == 8 || f.v_bits == 4);
    else codes = codes && f.quant == QUANT_OFFSET;
    if (!pair && !codes)
        return ERR(ERR_UNSUPPORTED, "cache format with %u-bit K, %u-bit V and groups of %u channels is not supported", f.k_bits, f.v_bits,
                   f.group);
    kv_format_name(f, name);
    if (head_dim < 1 || head_dim > KV_MAX_HEAD_DIM)
        return ERR(ERR_UNSUPPORTED, "cache format %s: head_dim %d is not in 1..%d", name, head_dim, KV_MAX_HEAD_DIM);
    bool odd_width = one_bit || f.k_bits == 3 || f.v_bits == 3;
    int unit = pair ? 1 : f.group ? f.group : odd_width ? 32 : 16;
    if (head_dim % unit)
        return ERR(ERR_UNSUPPORTED, "cache format %s: head_dim %d is not a multiple of %d", name, head_dim, unit);
    return OK;
}
