#include "format/format.h"
#include <stdio.h>
#include <string.h>

static const char *const rotation_name[] = {"", "rk", "rv", "r"}; /* by kv_format.rotate */
#define N_ROTATIONS (sizeof rotation_name / sizeof rotation_name[0])

static bool is_code_width(int bits) {
    return bits == 8 || bits == 4 || bits == 2;
}

static err refuse_name(const char *name) {
    return ERR(ERR_UNSUPPORTED,
               "cache format '%s' is unknown; supported are f32, f16 and kXvY or kXvYg32 with X and Y of 8, 4, 2, then r, rk or "
               "rv to rotate both sides, K or V",
               name);
}

err kv_format_parse(const char *name, kv_format *out) {
    if (!strcmp(name, "f32")) {
        *out = (kv_format){.k_bits = 32, .v_bits = 32};
        return OK;
    }
    if (!strcmp(name, "f16")) {
        *out = (kv_format){.k_bits = 16, .v_bits = 16};
        return OK;
    }
    if (name[0] != 'k' || !name[1] || name[2] != 'v' || !name[3]) return refuse_name(name);
    int k = name[1] - '0', v = name[3] - '0', rotate = 0;
    const char *rest = name + 4;
    bool grouped = !strncmp(rest, "g32", 3);
    if (grouped) rest += 3;
    while (rotate < (int)N_ROTATIONS && strcmp(rest, rotation_name[rotate])) rotate++;
    if (!is_code_width(k) || !is_code_width(v) || rotate == (int)N_ROTATIONS) return refuse_name(name);
    *out = (kv_format){.k_bits = (uint8_t)k, .v_bits = (uint8_t)v, .group = grouped ? 32 : 0, .rotate = (uint8_t)rotate};
    return OK;
}

void kv_format_name(kv_format f, char out[16]) {
    if (kv_format_is_float(f))
        snprintf(out, 16, "f%u", f.k_bits);
    else if (f.group)
        snprintf(out, 16, "k%uv%ug%u%s", f.k_bits, f.v_bits, f.group, rotation_name[f.rotate & 3]);
    else
        snprintf(out, 16, "k%uv%u%s", f.k_bits, f.v_bits, rotation_name[f.rotate & 3]);
}

bool kv_format_can_move(kv_format from, kv_format to) {
    if (to.k_bits > from.k_bits || to.v_bits > from.v_bits) return false;
    return kv_format_is_float(from) || (from.group == to.group && from.rotate == to.rotate);
}

size_t kv_format_payload_bytes(kv_format f, int head_dim) {
    return (size_t)head_dim * (f.k_bits + f.v_bits) / 8;
}

size_t kv_format_meta_bytes(kv_format f, int head_dim) {
    if (kv_format_is_float(f)) return 0;
    return (size_t)kv_format_n_groups(f, head_dim) * 2 * (sizeof(f16) + sizeof(f16));
}

err kv_format_check(kv_format f, int head_dim) {
    char name[16];
    bool pair = (f.k_bits == 32 || f.k_bits == 16) && f.v_bits == f.k_bits && f.group == 0 && f.rotate == 0;
    if (!pair && (!is_code_width(f.k_bits) || !is_code_width(f.v_bits) || (f.group != 0 && f.group != 32) || f.rotate >= N_ROTATIONS))
        return ERR(ERR_UNSUPPORTED, "cache format with %u-bit K, %u-bit V and groups of %u channels is not supported",
                   f.k_bits, f.v_bits, f.group);
    kv_format_name(f, name);
    if (head_dim < 1 || head_dim > KV_MAX_HEAD_DIM)
        return ERR(ERR_UNSUPPORTED, "cache format %s: head_dim %d is not in 1..%d", name, head_dim, KV_MAX_HEAD_DIM);
    int unit = pair ? 1 : f.group ? 32 : 16;
    if (head_dim % unit)
        return ERR(ERR_UNSUPPORTED, "cache format %s: head_dim %d is not a multiple of %d", name, head_dim, unit);
    return OK;
}
