/* Page layout: where the bytes of `cap` items lie inside a page of `page_bytes` (design section 5).
 *
 *   float pages      k: [cap][d]              v: [cap][d]                          row-major, any cap
 *   quantised pages  k: [cap/8][d*b/32][8 items][4 bytes]                          cap a multiple of 8
 *                    dword j of an item: byte i holds channels (4*(j*8/b) + 4*f + i) in bit field f = 0 .. 8/b - 1
 *                    (8 bit: 4 consecutive channels; 4 bit: quads 2j low nibbles and 2j+1 high nibbles; 2 bit: quads 4j..4j+3)
 *                    v: [cap][d*b/8]: byte j of an item holds channel j + f * (d*b/8) in bit field f
 *                    3 bit: the low 2 bits of all codes as above (b = 2), then their high bits (b = 1), within each granule of 8 items
 *                    of k and each item of v
 *   metadata         k_scale [G][cap] f16, k_zero [G][cap], v_scale [G][cap], v_zero [G][cap]  (only for quantised sides; zeros
 *                    only for offset quantisers); K per channel: k_scale [cap/32][d], k_zero [cap/32][d], cap a multiple of 32
 *   columns          pos [cap] u16 or u32 (if pos_bytes), score [cap] f32 (if has_score)
 *
 * No byte is shared by two items, so items of one page may be written by different threads. Sections start at multiples of
 * 64 bytes where there is room (k, v) and of 4 else. */
#ifndef KVLAB_FORMAT_LAYOUT_H
#define KVLAB_FORMAT_LAYOUT_H
#include "format/format.h"

typedef struct page_layout {
    kv_format fmt;
    uint16_t head_dim;
    uint16_t cap;       /* items per page */
    uint8_t n_groups;   /* per quantised side */
    uint8_t pos_bytes;  /* 0, 2 or 4 */
    bool has_score;     /* f32 per item */
    uint32_t off_k, off_v;
    uint32_t off_k_scale, off_k_zero, off_v_scale, off_v_zero;
    uint32_t off_pos, off_score;
    uint32_t payload_bytes, meta_bytes, column_bytes; /* of ONE item */
    uint32_t page_bytes;
} page_layout;

/* Does one side keep its scale and zero when its codes are narrowed? Otherwise it is decoded and quantised anew. */
static inline bool page_side_keeps_scale(int quant, int from_bits, int to_bits) {
    return from_bits == to_bits || (quant == QUANT_OFFSET && from_bits != 3 && to_bits != 3);
}

/* Lays `fmt` out in a page of page_bytes with the largest cap; ERR_UNSUPPORTED if not even 8 items fit. */
MUST err page_layout_make(kv_format fmt, int head_dim, int pos_bytes, bool has_score, size_t page_bytes, page_layout *out);
/* Chooses page_bytes in 2-8 KiB (at head_dim 64; scaled by head_dim/64; up to 16 KiB where no size up to 8 keeps in-page slack within
 * 2 % for one tier, 3 % for two, 4 % for three) for the tiers in use, minimising in-page waste plus
 * half a page per (head, tier) at `items_hint` items per head; fills all layouts with it. */
MUST err page_layout_search(const kv_format *fmts, int n_tiers, int head_dim, int pos_bytes, bool has_score, int items_hint,
                            page_layout *out /* [n_tiers] */);
/* The same for one tier that holds every item of a head: with many of them the largest power of two of items, up to 256, that a page of up to 32 KiB takes,
 * as long as half a page is at most 0.5 % of what items_hint items need. Attention reads longer runs faster (kernels/lab/LOG.md, D12 and D14). */
MUST err page_layout_search_full(kv_format fmt, int head_dim, int pos_bytes, bool has_score, int items_hint, page_layout *out);

/* ---- the portable reference codec; SIMD codecs equal it bit for bit ---- */
/* Quantises and stores items: rows i = 0..n-1 of k and v ([n][ld] f32) go to slots slot0+i. pos may be NULL without the column;
 * scores are set to 0. Formats with K per channel: slot0 and n are multiples of KV_TOKEN_GROUP. Rotated sides (format/rotate.h) are rotated in f32 first. */
void page_put(const page_layout *l, void *page, int slot0, int n, const float *k, size_t ldk, const float *v, size_t ldv,
              const uint32_t *pos);
/* Asks for the lines that page_put will write for one item: a hint for its speed. Formats with K per channel, which put whole groups: no hint. */
void page_prefetch(const page_layout *l, const void *page, int slot);
/* Decodes one item to f32 (either pointer may be NULL) as it is stored: rotated sides come rotated. */
void page_get(const page_layout *l, const void *page, int slot, float *k /* [d] */, float *v /* [d] */);
/* Moves one item with its columns; re-quantises downwards where formats differ (kv_format_can_move must hold). Within formats with K
 * per channel, groups move item by item to the same places of another group; from float formats into them only page_put leads. */
void page_move(const page_layout *from, const void *src, int src_slot, const page_layout *to, void *dst, int dst_slot);
uint32_t page_pos(const page_layout *l, const void *page, int slot);
/* Positions of the first n slots, of a layout that stores them. */
void page_pos_column(const page_layout *l, const void *page, int n, uint32_t *out /* [n] */);
float page_score(const page_layout *l, const void *page, int slot);
void page_set_score(const page_layout *l, void *page, int slot, float score);
#endif
