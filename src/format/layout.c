#include "format/layout.h"
#include <math.h>
#include <string.h>

enum { MIN_ITEMS = 8, CODE_BLOCK = 8 /* items of a quantised K block */, MAX_CAP = 65504 /* of 16 bits, in whole groups of items */ };

static size_t round_up(size_t n, size_t unit) {
    return (n + unit - 1) / unit * unit;
}

/* Sets the offsets for l->cap items with K and V at multiples of `align`; returns the bytes used. */
static size_t place_sections(page_layout *l, size_t align) {
    size_t cap = l->cap, d = l->head_dim, at = 0, v_row = cap * l->n_groups * sizeof(f16);
    size_t k_row = l->fmt.k_channels ? cap / KV_TOKEN_GROUP * d * sizeof(f16) : v_row;
    bool quantised = !kv_format_is_float(l->fmt), zero = kv_format_has_zero(l->fmt);
    l->off_k = 0;
    at = round_up(cap * d * l->fmt.k_bits / 8, align);
    l->off_v = (uint32_t)at;
    at = round_up(at + cap * d * l->fmt.v_bits / 8, 4);
    l->off_k_scale = l->off_k_zero = l->off_v_scale = l->off_v_zero = (uint32_t)at;
    if (quantised) {
        at += k_row;
        l->off_k_zero = (uint32_t)at;
        if (zero) at += k_row;
        l->off_v_scale = (uint32_t)at;
        at += v_row;
        l->off_v_zero = (uint32_t)at;
        if (zero) at += v_row;
    }
    l->off_pos = (uint32_t)at;
    at += cap * l->pos_bytes;
    if (l->has_score) at = round_up(at, 4);
    l->off_score = (uint32_t)at;
    return at + (l->has_score ? cap * sizeof(float) : 0);
}

static bool fits(page_layout *l, size_t cap, size_t page_bytes) {
    l->cap = (uint16_t)cap;
    return place_sections(l, 64) <= page_bytes || place_sections(l, 4) <= page_bytes;
}

/* False when fewer than MIN_ITEMS items fit. */
static bool lay_out(kv_format fmt, int head_dim, int pos_bytes, bool has_score, size_t page_bytes, page_layout *l) {
    bool quantised = !kv_format_is_float(fmt);
    memset(l, 0, sizeof *l);
    l->fmt = fmt;
    l->head_dim = (uint16_t)head_dim;
    l->n_groups = (uint8_t)kv_format_n_groups(fmt, head_dim);
    l->pos_bytes = (uint8_t)pos_bytes;
    l->has_score = has_score;
    l->payload_bytes = (uint32_t)kv_format_payload_bytes(fmt, head_dim);
    l->meta_bytes = (uint32_t)kv_format_meta_bytes(fmt, head_dim);
    l->column_bytes = (uint32_t)(pos_bytes + (has_score ? sizeof(float) : 0));
    l->page_bytes = (uint32_t)page_bytes;

    size_t unit = fmt.k_channels ? KV_TOKEN_GROUP : quantised ? CODE_BLOCK : 1;
    size_t cap = page_bytes / (l->payload_bytes + l->meta_bytes + l->column_bytes) / unit * unit;
    if (cap > MAX_CAP) cap = MAX_CAP;
    while (cap >= MIN_ITEMS && !fits(l, cap, page_bytes)) cap -= unit;
    return cap >= MIN_ITEMS;
}

static err check_columns(int pos_bytes) {
    if (pos_bytes != 0 && pos_bytes != 2 && pos_bytes != 4)
        return ERR(ERR_UNSUPPORTED, "page layout: positions of %d bytes; supported are 0, 2, 4", pos_bytes);
    return OK;
}

err page_layout_make(kv_format fmt, int head_dim, int pos_bytes, bool has_score, size_t page_bytes, page_layout *out) {
    TRY(kv_format_check(fmt, head_dim));
    TRY(check_columns(pos_bytes));
    if (page_bytes == 0 || page_bytes % 64 || page_bytes > (2u << 20))
        return ERR(ERR_UNSUPPORTED, "page layout: pages of %zu bytes; supported are multiples of 64 up to 2 MiB",
                   page_bytes);
    if (!lay_out(fmt, head_dim, pos_bytes, has_score, page_bytes, out)) {
        char name[16];
        kv_format_name(fmt, name);
        return ERR(ERR_UNSUPPORTED,
                   "page layout: %d items of format %s with head_dim %d do not fit in a page of %zu bytes", MIN_ITEMS,
                   name, head_dim, page_bytes);
    }
    return OK;
}

/* Bytes of waste per head: the unused rest of full pages, and half a page at the end of every tier. */
static double expected_waste(const page_layout *l, int n_tiers, double items_per_tier) {
    double waste = 0;
    for (int t = 0; t < n_tiers; t++) {
        double item = l[t].payload_bytes + l[t].meta_bytes + l[t].column_bytes;
        waste += items_per_tier * ((double)l[t].page_bytes / l[t].cap - item) + 0.5 * l[t].page_bytes;
    }
    return waste;
}

static double worst_slack(const page_layout *l, int n_tiers) {
    double worst = 0;
    for (int t = 0; t < n_tiers; t++) {
        double item = l[t].payload_bytes + l[t].meta_bytes + l[t].column_bytes;
        worst = fmax(worst, 1 - item * l[t].cap / l[t].page_bytes);
    }
    return worst;
}

/* Pages at head_dim 64, scaled by it. */
enum { LEAST_PAGE = 2048, USUAL_PAGE = 8192, LONG_PAGE = 32768, LONG_ITEMS = 256 /* what attention works on at once */ };
static const double slack_ceiling[KV_MAX_TIERS] = {0.02, 0.03, 0.04, 0.05};
static size_t scaled(size_t bytes, int head_dim) { return round_up(bytes * (size_t)head_dim / 64, 64); }

/* The best page size of lo .. hi: within the ceiling if any is, then of least expected waste. best starts at infinity. */
typedef struct layout_choice {
    double best;
    bool within;
} layout_choice;

static void search_sizes(const kv_format *fmts, int n_tiers, const page_layout *columns, double items, size_t lo, size_t hi,
                         layout_choice *c, page_layout *out) {
    for (size_t bytes = lo; bytes <= hi; bytes += 64) {
        page_layout l[KV_MAX_TIERS];
        int t = 0;
        while (t < n_tiers && lay_out(fmts[t], columns->head_dim, columns->pos_bytes, columns->has_score, bytes, &l[t])) t++;
        if (t < n_tiers) continue;
        bool within = worst_slack(l, n_tiers) <= slack_ceiling[n_tiers - 1];
        double waste = expected_waste(l, n_tiers, items);
        if (within < c->within || (within == c->within && waste >= c->best)) continue;
        c->within = within;
        c->best = waste;
        memcpy(out, l, (size_t)n_tiers * sizeof *l);
    }
}

/* Real contexts differ from the hint, so pages whose in-page slack is within a ceiling are preferred whatever the hint says. Tiers
 * whose item sizes fit badly (f32 beside 4 bits) may need twice the usual size for it. */
err page_layout_search(const kv_format *fmts, int n_tiers, int head_dim, int pos_bytes, bool has_score, int items_hint,
                       page_layout *out) {
    if (n_tiers < 1 || n_tiers > KV_MAX_TIERS)
        return ERR(ERR_UNSUPPORTED, "page layout: %d tiers; supported are 1..%d", n_tiers, KV_MAX_TIERS);
    TRY(check_columns(pos_bytes));
    for (int t = 0; t < n_tiers; t++) TRY(kv_format_check(fmts[t], head_dim));

    size_t lo = scaled(LEAST_PAGE, head_dim), hi = scaled(USUAL_PAGE, head_dim);
    double items = (double)(items_hint > 0 ? items_hint : 1) / n_tiers;
    page_layout columns = {.head_dim = (uint16_t)head_dim, .pos_bytes = (uint8_t)pos_bytes, .has_score = has_score};
    layout_choice c = {.best = INFINITY};
    search_sizes(fmts, n_tiers, &columns, items, lo, hi, &c, out);
    if (!c.within) search_sizes(fmts, n_tiers, &columns, items, hi + 64, 2 * hi, &c, out);
    if (c.best == INFINITY)
        return ERR(ERR_UNSUPPORTED,
                   "page layout: no page size of %zu to %zu bytes holds %d items of every tier at head_dim %d", lo, 2 * hi,
                   MIN_ITEMS, head_dim);
    return OK;
}

err page_layout_search_full(kv_format fmt, int head_dim, int pos_bytes, bool has_score, int items_hint, page_layout *out) {
    TRY(page_layout_search(&fmt, 1, head_dim, pos_bytes, has_score, items_hint, out));
    size_t item = out->payload_bytes + out->meta_bytes + out->column_bytes;
    for (size_t cap = out->cap, bytes; cap <= LONG_ITEMS && (bytes = round_up(cap * item, 64)) <= scaled(LONG_PAGE, head_dim); cap++) {
        page_layout l;
        bool power = (cap & (cap - 1)) == 0, few = (double)bytes > 0.01 * (double)item * items_hint;
        if (!power || few || !lay_out(fmt, head_dim, pos_bytes, has_score, bytes, &l)) continue;
        if (l.cap == cap && worst_slack(&l, 1) <= slack_ceiling[0]) *out = l;
    }
    return OK;
}
