#include "policy/budget.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "conf/fields.h"
#include "policy/stage.h"

static const char *const unit_names[] = {"none", "ratio", "tokens", "bytes", "rate", "pages"};

static err check_amount(const node *at, const budget *b) {
    double a = b->amount;
    if (b->unit == BUDGET_TOKENS || b->unit == BUDGET_PAGES) {
        const char *of = unit_names[b->unit];
        if (!(a >= 1 && a <= (b->unit == BUDGET_TOKENS ? 1 << 30 : 1 << 24)))
            return NODE_ERR(at, "budget: %g %s is impossible: a head keeps at least 1", a, of);
        if (a != (double)(int)a) return NODE_ERR(at, "budget: %g %s is not a whole number", a, of);
    } else if (b->unit == BUDGET_RATE) {
        if (!(a >= 1 && a <= 1 << 20)) return NODE_ERR(at, "budget: rate %g is impossible: it is the tokens of the prompt over those kept, at least 1", a);
    } else if (!(a > 0 && a <= 1)) {
        const char *of = b->unit == BUDGET_RATIO ? "of the tokens kept" : "of the bytes of an f16 cache";
        const char *hint = a > 1 && b->unit == BUDGET_RATIO ? "; a number of tokens is written {tokens: n}" : "";
        return NODE_ERR(at, "budget: %s %g is impossible: it is a share %s, above 0 and at most 1%s",
                        unit_names[b->unit], a, of, hint);
    }
    return OK;
}

err budget_parse(const node *n, budget *out) {
    *out = (budget){0};
    if (node_type(n) == NODE_NULL) return OK;
    if (node_type(n) == NODE_SCALAR) {
        out->unit = BUDGET_RATIO;
        TRY(node_as_double(n, &out->amount));
        return check_amount(n, out);
    }
    if (node_type(n) != NODE_MAP)
        return NODE_ERR(n, "budget is a ratio of the tokens or one of {ratio: x}, {tokens: n}, {bytes: x}, {rate: x}, {pages: n}");
    const node *at = n;
    for (int u = BUDGET_RATIO; u <= BUDGET_PAGES; u++) {
        const node *v = node_get(n, unit_names[u]);
        if (node_type(v) == NODE_NULL) continue;
        if (out->unit)
            return NODE_ERR(v, "budget has two units, %s and %s: give one", unit_names[out->unit], unit_names[u]);
        out->unit = (budget_unit)u;
        TRY(node_as_double(v, &out->amount));
        at = v;
    }
    if (out->unit == BUDGET_RATE) {
        static const field rule[] = {
            FIELD_INT(budget, floor, 128, 0, 1 << 30, "tokens that a rate leaves at least"),
            FIELD_INT(budget, step, 16, 1, 1 << 16, "what a rate is rounded down to"), FIELD_END};
        (void)node_get(n, "decode");
        TRY(fields_read(n, rule, out));
    }
    const node *d = node_get(n, "decode");
    if (d) {
        const char *text = node_type(d) == NODE_SCALAR ? node_text(d) : "";
        out->proportional = !strcmp(text, "proportional");
        out->decode_given = true;
        if (!out->proportional && strcmp(text, "fixed"))
            return NODE_ERR(d, "budget decode is \"%s\": fixed and proportional are supported", text);
    }
    TRY(node_check_read(n));
    if (!out->unit) return NODE_ERR(n, "budget names no amount: give one of ratio, tokens, bytes, rate, pages");
    if (out->proportional && (out->unit == BUDGET_TOKENS || out->unit == BUDGET_PAGES))
        return NODE_ERR(d, "budget decode: proportional contradicts {%s: %g}, which is fixed", unit_names[out->unit], out->amount);
    return check_amount(at, out);
}

void budget_describe(const budget *b, char *out, size_t n) {
    char rule[48] = "";
    if (b->unit == BUDGET_RATE) snprintf(rule, sizeof rule, " floor %d step %d", b->floor, b->step);
    snprintf(out, n, "budget %s %g%s%s", unit_names[b->unit], b->amount, rule, b->proportional ? " proportional" : "");
}

int budget_ratio_tokens(double ratio, int n) {
    double removed = 1.0 - ratio;
    int kept = (int)((double)n * (1.0 - removed));
    return kept < 1 ? (n < 1 ? n : 1) : kept > n ? n : kept;
}

int budget_rate_tokens(double rate, int floor_tokens, int step, int n) {
    int kept = (int)floor(((double)n / rate - 1) / step) * step;
    return kept > floor_tokens ? kept : floor_tokens;
}

bool budget_needs_layouts(const struct policy *p) {
    return p->budget.unit == BUDGET_BYTES || (p->budget.unit == BUDGET_PAGES && !p->use[STAGE_QUOTA].st->chunks);
}

/* Tables as the cache allocates them: its own record, one per (head, tier), and 4 bytes per page with a few entries to spare. */
enum { TABLE_CACHE_BYTES = 768, TABLE_LIST_BYTES = 20, TABLE_ENTRY_BYTES = 4 };
static double table_bytes(int n_items, int cap) {
    int pages = (n_items + cap - 1) / cap, spare = pages ? 3 + pages / 16 : 0;
    return TABLE_LIST_BYTES + TABLE_ENTRY_BYTES * (pages + spare);
}

/* Heads of unequal quotas hold, on average, up to this much more than heads of the mean quota: each may round one more item into
 * the dearer of the tiers that its unprotected items go to, and begin one more page (and its spare entry) per tier. */
static double unequal_bytes(const struct policy *p, int n_rest) {
    const stage_use *tier = policy_placer(p);
    int rest[KV_MAX_TIERS] = {0};
    double least = 0, most = 0;
    tier->st->count(tier->conf, 0, 0, n_rest, rest);
    for (int t = 0; t < p->needs.n_tiers; t++) {
        if (!rest[t]) continue;
        if (least == 0 || p->item_bytes[t] < least) least = p->item_bytes[t];
        if (p->item_bytes[t] > most) most = p->item_bytes[t];
    }
    return most - least + 2.0 * TABLE_ENTRY_BYTES * p->needs.n_tiers;
}

double budget_items_bytes(const struct policy *p, const int *per_tier) {
    double bytes = 0;
    for (int t = 0; t < p->needs.n_tiers; t++) bytes += per_tier[t] * p->item_bytes[t] + table_bytes(per_tier[t], p->page_items[t]);
    return bytes;
}

double budget_layer_bytes(const struct policy *p, int layer, int n_tokens) {
    return p->budget.amount * window_sees(policy_layer_window(p, layer), n_tokens) * p->shape.head_dim * 4 * p->shape.n_kv;
}

double budget_sequence_bytes(const struct policy *p, int n_tokens) {
    double bytes = 0;
    if (!p->needs.all_layers) return p->budget.amount * n_tokens * p->shape.head_dim * 4 * p->shape.n_layers * p->shape.n_kv;
    for (int l = 0; l < p->shape.n_layers; l++) bytes += budget_layer_bytes(p, l, n_tokens);
    return bytes;
}

double budget_head_share(const struct policy *p) { return (double)TABLE_CACHE_BYTES / (p->shape.n_layers * p->shape.n_kv); }

/* Items of a head by tier, when it keeps so many. */
static int count_tiers(const struct policy *p, int window, int n_tokens, int kept, int *per_tier /* [KV_MAX_TIERS], zeroed */) {
    int n_sink, n_recent;
    protect_count(&p->protect, window, n_tokens, &n_sink, &n_recent);
    int n_rest = kept - n_sink - n_recent;
    if (n_rest < 0) n_rest = 0;
    const stage_use *tier = policy_placer(p);
    tier->st->count(tier->conf, n_sink, n_recent, n_rest, per_tier);
    for (int t = 1; t < p->needs.n_tiers; t++) { /* what fills no whole group stays hot */
        int left = per_tier[t] % kv_format_item_group(p->needs.tiers[t]);
        per_tier[t] -= left;
        per_tier[0] += left;
    }
    return n_rest;
}

double budget_head_bytes(const struct policy *p, int window, int n_tokens, int kept) {
    int per_tier[KV_MAX_TIERS] = {0}, n_rest = count_tiers(p, window, n_tokens, kept, per_tier);
    double bytes = budget_head_share(p) + budget_items_bytes(p, per_tier);
    if (p->use[STAGE_QUOTA].st->budgeted && !p->use[STAGE_QUOTA].st->even) bytes += unequal_bytes(p, n_rest);
    return bytes;
}

static double head_pages(const struct policy *p, int window, int n_tokens, int kept) {
    int per_tier[KV_MAX_TIERS] = {0}, pages = 0;
    (void)count_tiers(p, window, n_tokens, kept, per_tier);
    for (int t = 0; t < p->needs.n_tiers; t++) pages += (per_tier[t] + p->page_items[t] - 1) / p->page_items[t];
    return pages;
}

/* Largest count in [lo, most] whose bytes or pages are within the limit; both grow with the count because one more item never lowers
 * another's tier. (Where one more item completes a group they may fall: then the count found is within the limit, not always the largest.) */
static int solve(const struct policy *p, double (*cost)(const struct policy *, int, int, int), double limit, int window, int n_tokens, int lo, bool *clamped) {
    if (cost(p, window, n_tokens, lo) > limit) {
        *clamped = true;
        return lo;
    }
    int hi = window_holds(window, n_tokens) + 1; /* lo fits, hi does not */
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if (cost(p, window, n_tokens, mid) <= limit) lo = mid;
        else hi = mid;
    }
    return lo;
}

int budget_kept(const struct policy *p, int window, int n_prompt, int n_tokens, bool *clamped) {
    const budget *b = &p->budget;
    int n_sink, n_recent, most = window_holds(window, n_tokens), n_past = b->proportional || n_prompt == 0 ? n_tokens : n_prompt;
    int n_ref = window_holds(window, n_past);
    protect_count(&p->protect, window, n_tokens, &n_sink, &n_recent);
    int least = n_sink + n_recent, kept = most;
    if (least < 1) least = most < 1 ? 0 : 1;
    switch (b->unit) {
    case BUDGET_NONE: return most;
    case BUDGET_RATIO: kept = budget_ratio_tokens(b->amount, n_ref); break;
    case BUDGET_TOKENS: kept = (int)b->amount; break;
    case BUDGET_RATE: kept = budget_rate_tokens(b->amount, b->floor, b->step, n_ref); break;
    case BUDGET_BYTES: {
        double limit = b->amount * (double)window_sees(window, n_past) * p->shape.head_dim * 4;
        int n_layers = p->shape.n_layers, rest = n_layers - p->skip_layers;
        if (p->skip_layers && rest) limit = (limit * n_layers - p->skip_layers * budget_head_bytes(p, window, n_tokens, most)) / rest;
        if (rest) kept = solve(p, budget_head_bytes, limit, window, n_tokens, least, clamped);
        else if (budget_head_bytes(p, window, n_tokens, most) > limit) *clamped = true; /* all layers keep everything */
        break;
    }
    case BUDGET_PAGES:
        if (p->use[STAGE_QUOTA].st->chunks) kept = (int)b->amount * policy_chunk(p, 0);
        else kept = solve(p, head_pages, b->amount, window, n_tokens, least, clamped);
        break;
    }
    if (kept < least) {
        kept = least;
        *clamped = true;
    }
    return kept < most ? kept : most;
}
