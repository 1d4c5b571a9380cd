/* Cache formats: what the bytes of one item mean.
 *
 * An item is one token's K and V of one (sequence, layer, KV head), head_dim values each. K and V have their own width:
 * 32 (f32), 16 (f16), or 8, 4, 2 bits with an offset quantiser per token, in one group or in groups of 32 channels
 * (LeanKV, arXiv 2412.03131 section 4; reference baselines.md 17a):
 *
 *   zero  = f16(min)                                    over the group
 *   scale = f16((max - min) / 255)                      one scale serves all widths
 *   step  = (max - min) / (2^b - 1) while quantising, scale * 255 / (2^b - 1) while decoding (f32)
 *   code  = clamp(rne((x - min) / step), 0, 2^b - 1)    all 0 when max == min
 *   x^    = step * code + zero
 *
 * So 8->4, 8->2 and 4->2 keep scale and zero: code' = rne(code * (2^b' - 1) / (2^b - 1)) = rne(code / {17, 85, 5}).
 * All operations are explicitly rounded f32 (no contraction): every codec gives the same bits. */
#ifndef KVLAB_FORMAT_FORMAT_H
#define KVLAB_FORMAT_FORMAT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/half.h"

enum { KV_MAX_HEAD_DIM = 256, KV_MAX_TIERS = 4, KV_MAX_GROUPS = 8 };

typedef struct kv_format {
    uint8_t k_bits, v_bits; /* 32, 16, 8, 4, 2; 32 and 16 come as a pair (f32, f16) */
    uint8_t group;          /* channels per group of a quantised side: 0 = all of head_dim, else 32 */
    uint8_t rotate;         /* ROTATE_K, ROTATE_V: sides stored after a Hadamard rotation (rotate.h); quantised formats only */
} kv_format;
enum { ROTATE_K = 1, ROTATE_V = 2 };

/* "f32", "f16", "k8v4", "k4v2g32", ...; a last r rotates both sides (k4v4r, k4v4g32r), rk only K, rv only V. Lower case. */
MUST err kv_format_parse(const char *name, kv_format *out);
void kv_format_name(kv_format f, char out[16]);
static inline bool kv_format_is_float(kv_format f) { return f.k_bits >= 16; }
static inline int kv_format_n_groups(kv_format f, int head_dim) { return f.group ? head_dim / f.group : 1; }
/* May an item of format `from` be moved into `to`? Only downwards: neither side gains bits; groups and rotation equal unless `from` is
 * float. */
bool kv_format_can_move(kv_format from, kv_format to);
/* Payload and metadata bytes of one item (payload = codes of K and V; metadata = f16 scale and zero per group and side). */
size_t kv_format_payload_bytes(kv_format f, int head_dim);
size_t kv_format_meta_bytes(kv_format f, int head_dim);
/* ERR_UNSUPPORTED with a sentence when head_dim does not suit the format. */
MUST err kv_format_check(kv_format f, int head_dim);
#endif
