/* How the attention ops cut their work and lay out their scratch: equal on every path, so one set of scratch_bytes serves all.
 * Offsets and sizes are in floats and multiples of 16 (64 bytes). */
#ifndef KVLAB_KERNELS_CPU_ATTN_PLAN_H
#define KVLAB_KERNELS_CPU_ATTN_PLAN_H
#include "backend/backend.h"

enum {
    ATTN_TILE = 64,                         /* keys decoded together, transposed to [head_dim][ATTN_TILE] */
    ATTN_P_LD = ATTN_CUT + ATTN_TILE,       /* row of probabilities of a cut: up to 31 leading lanes, padded to whole tiles */
    ATTN_P_TILES = ATTN_P_LD / ATTN_TILE,   /* tiles of such a row */
    ATTN_BLOCK_QUERIES = 48,                /* decode: queries (rows x group) that share one decoded tile */
    ATTN_FEW_QUERIES = 6,                   /* decode: at most so many are multiplied straight from page bytes */
    ATTN_BF16_QUERIES = 24,                 /* prefill on bf16 tiles: the same, what stays in L1 beside a tile of K and V */
    ATTN_PREFILL_QUERIES = 126,             /* prefill: the same; a multiple of the 6 queries of a register tile at group 3 */
};

static inline size_t attn_round16(size_t n) { return (n + 15) & ~(size_t)15; }
static inline int attn_min(int a, int b) { return a < b ? a : b; }
static inline int attn_max(int a, int b) { return a > b ? a : b; }
static inline float *attn_align64(void *p) { return (float *)(((uintptr_t)p + 63) & ~(uintptr_t)63); }

static inline float *attn_carve(float *base, size_t *at, size_t n) { /* base NULL: only sizes are asked for */
    float *p = base ? base + *at : NULL;
    *at += n;
    return p;
}

/* ---- decode ---- */
static inline int attn_seg_items(const attn_segment *s, int row) { return s->n_items + (s->grows ? row : 0); }
static inline int attn_n_cuts(int n_items) { return (n_items + ATTN_CUT - 1) / ATTN_CUT; }
static inline int attn_last_row(const attn_job *j) { return attn_max(j->n_rows, 1) - 1; } /* sees most */
static inline int attn_job_cuts(const attn_job *j) {
    int n = 0;
    for (int s = 0; s < j->n_segs; s++) n += attn_n_cuts(attn_seg_items(&j->seg[s], attn_last_row(j)));
    return n;
}
static inline int attn_block_rows(int group, int block_queries) { return attn_max(1, block_queries / group); }
/* A partial result: out [head_dim], then at attn_round16(head_dim): maximum, sum. */
static inline size_t attn_part_floats(int head_dim) { return attn_round16((size_t)head_dim) + 16; }

/* Where one job's results lie in the shared scratch; attn_place_next steps from job to job. */
typedef struct attn_place {
    size_t part;       /* [n_rows * group][n_cuts][attn_part_floats] */
    size_t stat;       /* [n_rows * group][2]: maximum, 1 / sum over all segments */
    size_t live;       /* [n_rows * group][n_cuts][ATTN_CUT] probabilities relative to the cut's maximum; only if live.on */
    size_t end;        /* first float after the job */
    int n_cuts;
    bool any_live;     /* so far */
} attn_place;
static inline void attn_place_next(attn_place *at, const attn_job *j) {
    size_t n_queries = (size_t)j->n_rows * (size_t)j->group;
    at->n_cuts = attn_job_cuts(j);
    at->part = at->end;
    at->stat = at->part + n_queries * (size_t)at->n_cuts * attn_part_floats(j->head_dim);
    at->live = at->stat + attn_round16(2 * n_queries);
    at->end = at->live + (j->live.on ? n_queries * (size_t)at->n_cuts * ATTN_CUT : 0);
    at->any_live |= j->live.on;
}

static inline float attn_live_fold(live_fold fold, float column, float value) {
    if (fold == LIVE_REPLACE) return value;
    if (fold == LIVE_KEEP_MAX) return column > value ? column : value;
    return column + value;
}

/* ---- codes as integers meet them (attn_codes.inc) ---- */
typedef struct code_plane {
    int bits, shift; /* a code is the sum of its planes' fields, each shifted left */
    int before;      /* head_dim x before bits of an item lie before this plane */
} code_plane;
static inline int codes_n_planes(int bits) { return bits == 3 ? 2 : 1; }
static inline code_plane codes_plane(int bits, int plane) {
    if (bits != 3) return (code_plane){bits, 0, 0};
    return plane ? (code_plane){1, 2, 2} : (code_plane){2, 0, 0};
}
enum { WORD_MAX = 32767, BYTE_MAX = 127, RUNS_MAX = 127 << 7 }; /* integers of a query: of 16 bits, of 8, of runs */
/* Do weights of 8 bits meet the values? Steps of offset quantisers are not negative, and rows of each plane are whole blocks of 16 bytes. */
static inline bool codes_v_bytes(const page_layout *l) {
    int row = codes_plane(l->fmt.v_bits, codes_n_planes(l->fmt.v_bits) - 1).bits * l->head_dim / 8;
    return kv_format_has_zero(l->fmt) && l->fmt.v_bits <= 4 && row % 16 == 0 && l->head_dim / l->n_groups % 16 == 0;
}
/* Do queries of 8 bits meet the keys? A step of so few bits weighs more than what is rounded away. Keys per channel: their steps are part of what is
 * rounded, and the largest would set the scale. */
static inline bool codes_k_bytes(const page_layout *l) { return l->fmt.k_bits <= 4 && !l->fmt.k_channels; }
/* Are queries of 16 bits but for codes_runs_wide of their runs of RUN_CHANNELS channels within 8? They meet keys of 8 bits beside values of at most 4, whose
 * weights are rounded to 8 bits too; beside values of 8 bits all else is exact enough for the difference to be seen. One scale for all channels:
 * runs of channel groups would be wide in each. */
enum { RUN_CHANNELS = 8 };
static inline bool codes_k_runs(const page_layout *l) { return l->fmt.k_bits == 8 && l->fmt.v_bits <= 4 && !l->fmt.k_channels && l->n_groups == 1; }
static inline int codes_runs_wide(int head_dim) { return attn_max(1, head_dim / RUN_CHANNELS / 4); }
/* Channels of K that share a scale, or meet one sum. */
static inline int codes_k_group(const page_layout *l) { return l->fmt.k_channels ? l->head_dim : l->head_dim / l->n_groups; }
/* Bytes of a query as some path arranges it: 64 for 4 channels, channel groups padded to 64 bytes of a granule, two planes. */
static inline size_t codes_query_floats(int head_dim) { return 16 * attn_round16((size_t)head_dim); }

/* One thread's buffers for blocks of up to n_queries queries. */
typedef struct attn_decode_buf {
    float *q;          /* [n_queries][head_dim] times scale */
    float *q_step;     /* [n_queries][head_dim] q times the steps of an item group (K per channel) */
    float *q_sum;      /* [n_queries][KV_MAX_GROUPS] sums of q (integers: of those) over channel groups */
    float *tile;       /* K: [head_dim][ATTN_TILE], V: [ATTN_TILE][round16(head_dim)] */
    float *s;          /* [n_queries][ATTN_TILE] scores on codes; probabilities times V step (few queries: of all groups); w8: [ATTN_P_LD] of one query */
    float *p;          /* [n_queries][ATTN_P_LD] scores, then probabilities, of a cut */
    float *v_step, *v_zero; /* [KV_MAX_GROUPS][ATTN_P_LD]; w8: v_zero + middle code v_step in place of v_zero */
    /* in integers */
    uint8_t *q_int;    /* [n_queries][4 codes_query_floats] arranged as the codes lie */
    float *unit;       /* [n_queries] p times it is a score (integers times it are q) */
    float *q_scale;    /* [n_queries] K per channel: integers times it are q step */
    int32_t *dots;     /* [n_queries][ATTN_TILE] integers times codes */
    int16_t *w16;      /* [KV_MAX_GROUPS][n_queries][ATTN_P_LD] probabilities times V step */
    uint8_t *w8;       /* the same in 8 bits, in the same place */
    float *w_scale;    /* [KV_MAX_GROUPS][n_queries]; w8: [KV_MAX_GROUPS][n_queries][ATTN_P_TILES] */
    float *w_rest;     /* [KV_MAX_GROUPS][n_queries] what all channels of a group get besides */
    int32_t *sums;     /* [n_queries][head_dim] weighted codes */
    size_t floats;     /* of all of them */
} attn_decode_buf;
static inline attn_decode_buf attn_decode_buf_at(float *base, int n_queries, int head_dim) {
    attn_decode_buf b;
    const size_t few = ATTN_FEW_QUERIES * KV_MAX_GROUPS;
    size_t nq = (size_t)n_queries, d = attn_round16((size_t)head_dim), at = 0;
    b.q = attn_carve(base, &at, nq * d);
    b.q_step = attn_carve(base, &at, nq * d);
    b.q_sum = attn_carve(base, &at, attn_round16(nq * KV_MAX_GROUPS));
    b.tile = attn_carve(base, &at, d * ATTN_TILE);
    b.s = attn_carve(base, &at, (nq > few ? nq : few) * ATTN_TILE);
    b.p = attn_carve(base, &at, nq * ATTN_P_LD);
    b.v_step = attn_carve(base, &at, KV_MAX_GROUPS * ATTN_P_LD);
    b.v_zero = attn_carve(base, &at, KV_MAX_GROUPS * ATTN_P_LD);
    b.q_int = (uint8_t *)attn_carve(base, &at, nq * codes_query_floats(head_dim));
    b.unit = attn_carve(base, &at, attn_round16(nq));
    b.q_scale = attn_carve(base, &at, attn_round16(nq));
    b.dots = (int32_t *)attn_carve(base, &at, nq * ATTN_TILE);
    b.w16 = (int16_t *)attn_carve(base, &at, KV_MAX_GROUPS * nq * ATTN_P_LD / 2);
    b.w8 = (uint8_t *)b.w16;
    b.w_scale = attn_carve(base, &at, attn_round16(KV_MAX_GROUPS * nq * ATTN_P_TILES));
    b.w_rest = attn_carve(base, &at, attn_round16(KV_MAX_GROUPS * nq));
    b.sums = (int32_t *)attn_carve(base, &at, nq * d);
    b.floats = at;
    return b;
}
/* The reference path's share of scratch: f64 scores of one row's group over all its items, f64 outputs, one item. */
static inline size_t attn_reference_floats(const attn_job *j) {
    size_t n = 0;
    for (int s = 0; s < j->n_segs; s++) n += (size_t)attn_seg_items(&j->seg[s], attn_last_row(j));
    return attn_round16(2 * (size_t)j->group * (n + 2 * (size_t)j->head_dim + 1) + (size_t)j->head_dim);
}
static inline size_t attn_decode_thread_floats(const attn_batch *b) {
    size_t most = 0;
    for (int i = 0; i < b->n_jobs; i++) {
        const attn_job *j = &b->jobs[i];
        int rows = attn_min(j->n_rows, attn_block_rows(j->group, ATTN_BLOCK_QUERIES));
        size_t simd = attn_decode_buf_at(NULL, rows * j->group, j->head_dim).floats, ref = attn_reference_floats(j);
        if (simd > most) most = simd;
        if (ref > most) most = ref;
    }
    return most;
}

/* ---- prefill ---- */
typedef struct attn_prefill_buf {
    float *q;          /* [n_queries][head_dim] times scale */
    float *k_tile;     /* [head_dim][ATTN_TILE] */
    float *v_tile;     /* [ATTN_TILE][round16(head_dim)], only for head_dim not a multiple of 16 */
    float *s;          /* [n_queries][ATTN_TILE] scores, then probabilities */
    float *o;          /* [n_queries][round16(head_dim)] */
    float *max, *sum;  /* [n_queries] */
    size_t floats;
} attn_prefill_buf;
static inline attn_prefill_buf attn_prefill_buf_at(float *base, int n_queries, int head_dim) {
    attn_prefill_buf b;
    size_t nq = (size_t)n_queries, d = attn_round16((size_t)head_dim), at = 0;
    b.q = attn_carve(base, &at, nq * d);
    b.k_tile = attn_carve(base, &at, d * ATTN_TILE);
    b.v_tile = attn_carve(base, &at, d * ATTN_TILE);
    b.s = attn_carve(base, &at, nq * ATTN_TILE);
    b.o = attn_carve(base, &at, nq * d);
    b.max = attn_carve(base, &at, attn_round16(nq));
    b.sum = attn_carve(base, &at, attn_round16(nq));
    b.floats = at;
    return b;
}
static inline size_t attn_prefill_thread_floats(const attn_prefill *a) {
    int group = a->n_heads / a->n_kv, rows = attn_min(a->n_tokens, attn_block_rows(group, ATTN_PREFILL_QUERIES));
    size_t simd = attn_prefill_buf_at(NULL, rows * group, a->head_dim).floats;
    size_t ref = attn_round16(2 * ((size_t)a->n_tokens + (size_t)a->head_dim));
    return simd > ref ? simd : ref;
}

/* ---- prefill on bf16 tiles; sizes in dwords, two bf16 each ---- */
static inline size_t attn_bf16_k_dwords(int d) { return (size_t)((d + 1) / 2) * ATTN_TILE; }           /* [ceil(d / 2)][ATTN_TILE] */
static inline size_t attn_bf16_v_dwords(int d) { return ATTN_TILE / 2 * attn_round16((size_t)d); }     /* [ATTN_TILE / 2][round16(d)] */
typedef struct attn_bf16_buf {
    uint32_t *k, *v;   /* [n_kv][n_tiles] tiles; shared, the rest is this thread's */
    uint32_t *q;       /* [n_queries][ceil(d / 2)] times scale log2(e) */
    float *o;          /* [n_queries][round16(d)] */
    float *max;        /* [n_queries] */
    float *sum;        /* [n_queries][16] */
    size_t shared, own;
} attn_bf16_buf;
static inline attn_bf16_buf attn_bf16_buf_at(float *base, const attn_prefill *a, int ith) {
    attn_bf16_buf b;
    int group = a->n_heads / a->n_kv, d = a->head_dim;
    size_t tiles = (size_t)a->n_kv * (size_t)((a->n_tokens + ATTN_TILE - 1) / ATTN_TILE), at = 0;
    size_t nq = (size_t)(attn_min(a->n_tokens, attn_block_rows(group, ATTN_BF16_QUERIES)) * group);
    b.k = (uint32_t *)attn_carve(base, &at, tiles * attn_bf16_k_dwords(d));
    b.v = (uint32_t *)attn_carve(base, &at, tiles * attn_bf16_v_dwords(d));
    b.shared = at;
    b.own = attn_round16(nq * (size_t)((d + 1) / 2)) + nq * attn_round16((size_t)d) + attn_round16(nq) + nq * 16;
    at += (size_t)ith * b.own;
    b.q = (uint32_t *)attn_carve(base, &at, attn_round16(nq * (size_t)((d + 1) / 2)));
    b.o = attn_carve(base, &at, nq * attn_round16((size_t)d));
    b.max = attn_carve(base, &at, attn_round16(nq));
    b.sum = attn_carve(base, &at, nq * 16);
    return b;
}

/* ---- mass ---- */
typedef struct attn_mass_buf {
    float *p;          /* [n_queries][n_cuts * ATTN_CUT] probabilities relative to the cut's maximum; shared */
    float *stat;       /* [n_queries][n_cuts][2] maximum and sum of each cut; shared */
    float *factor;     /* [n_queries][n_cuts] what turns p into a probability; shared */
    float *q;          /* [n_queries][head_dim] times scale; this thread's, as is k_tile */
    float *k_tile;     /* [head_dim][ATTN_TILE] */
    size_t floats;     /* for all threads */
} attn_mass_buf;
static inline attn_mass_buf attn_mass_buf_at(float *base, const attn_mass *a, int ith, int nth) {
    attn_mass_buf b;
    size_t nq = (size_t)a->n_rows * (size_t)(a->n_heads / a->n_kv), n_cuts = (size_t)attn_n_cuts(a->n_tokens), at = 0;
    size_t d = attn_round16((size_t)a->head_dim), own = nq * d + d * ATTN_TILE, ref = attn_round16(2 * (size_t)a->n_tokens);
    if (own < ref) own = ref;
    b.p = attn_carve(base, &at, nq * n_cuts * ATTN_CUT);
    b.stat = attn_carve(base, &at, attn_round16(nq * n_cuts * 2));
    b.factor = attn_carve(base, &at, attn_round16(nq * n_cuts));
    b.floats = at + (size_t)nth * own;
    at += (size_t)ith * own;
    b.q = attn_carve(base, &at, nq * d);
    b.k_tile = attn_carve(base, &at, d * ATTN_TILE);
    return b;
}
#endif
