/* Cache formats: what the bytes of one item mean (docs/formats.md describes every byte).
 *
 * An item is one token's K and V of one (sequence, layer, KV head), head_dim values each. K and V have their own width: 32 (f32),
 * 16 (f16), or 8, 4, 3, 2, 1 bits, quantised per token in one group or in groups of 32, 64 or 128 channels.
 *
 * Offset (LeanKV, arXiv 2412.03131 section 4; reference baselines.md 17a), the default:
 *
 *   zero  = f16(min)                                    over the group
 *   scale = f16((max - min) / 255)                      one scale serves all widths
 *   step  = (max - min) / (2^b - 1) while quantising, scale * 255 / (2^b - 1) while decoding (f32)
 *   code  = clamp(rne((x - min) / step), 0, 2^b - 1)    all 0 when max == min
 *   x^    = step * code + zero
 *
 * So 8->4, 8->2, 4->2 and any ->1 keep scale and zero: code' = rne(code * (2^b' - 1) / (2^b - 1)) = rne(code / odd number).
 * Symmetric (17b) and ggml's q8_0 and q4_0 (17c) have a scale and no zero; they and 3 bits re-quantise when they move. Narrow is offset
 * over the middle of the range and with a gain (quantise.h). Its scales suit one width, so it re-quantises too.
 * Keys may be quantised per channel over KV_TOKEN_GROUP consecutive items instead (KIVI, arXiv 2402.02750; 17d).
 * All operations are explicitly rounded f32 (no contraction): every codec gives the same bits. */
#ifndef KVLAB_FORMAT_FORMAT_H
#define KVLAB_FORMAT_FORMAT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/half.h"

enum { KV_MAX_HEAD_DIM = 256, KV_MAX_TIERS = 4, KV_MAX_GROUPS = 8, KV_TOKEN_GROUP = 32 };
enum { ROTATE_K = 1, ROTATE_V = 2 };
enum { QUANT_OFFSET, QUANT_SYMMETRIC, QUANT_GGML, QUANT_NARROW };

typedef struct kv_format {
    uint8_t k_bits, v_bits; /* 32, 16, 8, 4, 3, 2, 1; 32 and 16 come as a pair (f32, f16) */
    uint8_t group;          /* channels per group of a side quantised per token: 0 = all of head_dim, else 32, 64, 128 */
    uint8_t rotate;         /* ROTATE_K, ROTATE_V: sides stored after a Hadamard rotation (rotate.h); quantised formats only */
    uint8_t quant;          /* QUANT_OFFSET, ... */
    bool k_channels;        /* K per channel over KV_TOKEN_GROUP items: such tiers take and lose whole groups only */
} kv_format;

/* "f32", "f16"; kXvY with widths X and Y, then in this order: c after X (K per channel), g32, g64 or g128 (groups of channels),
 * s (symmetric) or n (narrow), and r, rk or rv (both sides, K or V rotated), as in "k4v2", "k4cv4g32", "k8v4s", "k4v2nr"; "q8_0", "q4_0",
 * or K and V apart as in "q8_0-q4_0", also with r, rk or rv. Lower case. */
MUST err kv_format_parse(const char *name, kv_format *out);
void kv_format_name(kv_format f, char out[16]);
bool kv_format_equal(kv_format a, kv_format b);
static inline bool kv_format_is_float(kv_format f) { return f.k_bits >= 16; }
static inline bool kv_format_has_zero(kv_format f) { return f.quant == QUANT_OFFSET || f.quant == QUANT_NARROW; }
static inline int kv_format_n_groups(kv_format f, int head_dim) { return f.group ? head_dim / f.group : 1; }
/* Items that are stored and freed together. */
static inline int kv_format_item_group(kv_format f) { return f.k_channels ? KV_TOKEN_GROUP : 1; }
/* May items of format `from` be moved into `to`? Only downwards: neither side gains bits; groups, quantiser and rotation equal unless
 * `from` is float. Formats with K per channel are entered by whole groups from a float format, and left for nothing else. */
bool kv_format_can_move(kv_format from, kv_format to);
/* Payload and metadata bytes of one item (payload = codes of K and V; metadata = f16 scale and zero per group and side; its share of
 * them where K is quantised per channel). */
size_t kv_format_payload_bytes(kv_format f, int head_dim);
size_t kv_format_meta_bytes(kv_format f, int head_dim);
/* ERR_UNSUPPORTED with a sentence when head_dim does not suit the format. */
MUST err kv_format_check(kv_format f, int head_dim);
#endif
