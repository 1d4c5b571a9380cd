/* Heads lose whole pages, the cheapest first (KV-Compress, arXiv 2410.00161). A page is a logical one of `chunk` items, whatever the
 * cache's physical pages hold. A head of c items has hang = (c - 1) % chunk + 1 of them in its last page: to free e pages it gives up
 * the k(e) = hang + (e - 1) * chunk items of lowest score, and price e is read from those that page e adds:
 *
 *   max   their largest score (paper's algorithm, code)     sum   their sum, empty slots of the last page counting 0 (paper's motivation)
 *   mean  their sum over their number                       No page costs less than the one before it.
 *
 * All prices of the heads that compete are ranked together; among equal ones the lower layer, head and page go first, so every head
 * loses the first e of its list. Protected and forced items have no price. What the budget of `kept` items per head means:
 *
 *   pages    held pages - heads * ceil(kept / chunk) go (code since 29afe5f2)
 *   items    pages go until at most heads * kept items are left (paper); auto under a byte budget or where there are several tiers
 *   excess   ceil((items - heads * kept) / chunk) pages go (the code's rate mode: partly filled last pages make it a few too many)
 *
 * Layers in control_layers keep everything, whatever the budget; the others are what they would be without them (code, with its even
 * layers only).
 *
 * In decode the items of every (head, tier) have pages and prices of their own; a page of another tier holds as many items as
 * take the bytes of `chunk` hot ones. */
#include <stdio.h>
#include <string.h>
#include "conf/fields.h"
#include "policy/topk.h"

enum { MAX_CONTROL_LAYERS = 256 };
typedef struct pages_conf {
    int chunk, price, over, count, least, n_control;
    uint64_t control[MAX_CONTROL_LAYERS / 64]; /* a bit per layer that keeps everything */
} pages_conf;
STAGE_CONF_FITS(pages_conf);

static const char *const price_names[] = {"max", "sum", "mean", NULL};
enum { PRICE_MAX, PRICE_SUM, PRICE_MEAN };
static const char *const over_names[] = {"sequence", "layer", "head", NULL};
enum { OVER_SEQUENCE, OVER_LAYER, OVER_HEAD };
static const char *const count_names[] = {"auto", "pages", "items", "excess", NULL};
enum { COUNT_AUTO, COUNT_PAGES, COUNT_ITEMS, COUNT_EXCESS };
static const field pages_fields[] = {
    FIELD_INT(pages_conf, chunk, 16, 0, 64, "items of a logical page; 0: as many as the cache's pages hold"),
    FIELD_ENUM(pages_conf, price, "max", price_names, "of a page, from the scores of its items"),
    FIELD_ENUM(pages_conf, over, "sequence", over_names, "heads that compete; head: as many pages from each"),
    FIELD_ENUM(pages_conf, count, "auto", count_names, "what the budget is counted in"),
    FIELD_INT(pages_conf, least, 0, 0, 1 << 16, "pages that every head keeps"),
    FIELD_END};

static bool is_control(const pages_conf *c, int layer) { return c->n_control && layer < MAX_CONTROL_LAYERS && c->control[layer / 64] >> layer % 64 & 1; }

static err read_control(const policy *p, const node *list, pages_conf *c) {
    if (node_type(list) == NODE_NULL) return OK;
    if (node_type(list) != NODE_LIST) return NODE_ERR(list, "quota pages: control_layers is a list of layers, as [0, 1]");
    if (c->over == OVER_SEQUENCE && node_count(list))
        return NODE_ERR(list, "quota pages: control_layers keep everything, and over: sequence would take that from the others: use over: layer or head");
    if (p->budget.unit == BUDGET_BYTES && node_count(list))
        return NODE_ERR(list, "quota pages: control_layers keep everything, which a budget in bytes does not count: give tokens, a ratio, a rate or pages");
    int most = p->shape.n_layers < MAX_CONTROL_LAYERS ? p->shape.n_layers : MAX_CONTROL_LAYERS;
    for (int i = 0; i < node_count(list); i++) {
        int64_t layer;
        TRY(node_as_int(node_at(list, i), &layer));
        if (layer < 0 || layer >= most) return NODE_ERR(list, "quota pages: control layer %lld does not exist, layers are 0 to %d", (long long)layer, most - 1);
        c->control[layer / 64] |= (uint64_t)1 << layer % 64;
        c->n_control++;
    }
    return OK;
}

static err pages_parse(policy *p, const node *at, const node *map, void *conf) {
    pages_conf *c = conf;
    const node *control = node_get(map, "control_layers");
    TRY(fields_read(map, pages_fields, c));
    TRY(read_control(p, control, c));
    bool items = p->budget.unit == BUDGET_BYTES || p->needs.n_tiers > 1;
    if (items && (c->count == COUNT_PAGES || c->count == COUNT_EXCESS))
        return NODE_ERR(at, "quota pages: count: %s does not fit %s: use items", count_names[c->count],
                        p->needs.n_tiers > 1 ? "several tiers, whose pages hold different numbers of items" : "a budget in bytes");
    if (c->count == COUNT_AUTO) c->count = items ? COUNT_ITEMS : COUNT_PAGES;
    p->chunk = c->chunk ? c->chunk : POLICY_CHUNK_PHYSICAL;
    p->needs.scope = c->over == OVER_SEQUENCE ? SCOPE_SEQUENCE : SCOPE_LAYER;
    return OK;
}

static void pages_describe(const policy *p, const void *conf, char *out, size_t n) {
    const pages_conf *c = conf;
    static const char *const over[] = {"all layers", "a layer", "one head"};
    char chunk[24] = "physical pages", least[64] = "";
    if (c->chunk) snprintf(chunk, sizeof chunk, "of %d", c->chunk);
    if (c->least) snprintf(least, sizeof least, ", at least %d", c->least);
    size_t used = strlen(least);
    if (c->n_control) snprintf(least + used, sizeof least - used, ", %d control layers", c->n_control);
    snprintf(out, n, "%s, price %s, over %s, %s counted%s", chunk, price_names[c->price], over[c->over], count_names[c->count], least);
}

static int chunk_of(const policy *p, const head_items *h) { return policy_chunk(p, h->tier_now && h->n ? h->tier_now[0] : 0); }
static int hang_of(int n, int chunk) { return (n - 1) % chunk + 1; }
static int items_of(const head_items *h, int chunk, int e) { return e ? hang_of(h->n, chunk) + (e - 1) * chunk : 0; }

static uint32_t price_of(const pages_conf *c, const uint64_t *keys, int n) {
    if (c->price == PRICE_MAX) return (uint32_t)(keys[n - 1] >> 32);
    double sum = 0;
    for (int i = 0; i < n; i++) sum += topk_key_score(keys[i]);
    return (uint32_t)(topk_key((float)(c->price == PRICE_MEAN ? sum / n : sum), 0) >> 32);
}

/* Prices of the pages that a head can lose, in x [h->n]; returns how many. */
static int head_prices(const pages_conf *c, const decision *d, const head_items *h, uint64_t *x) {
    int chunk = chunk_of(d->p, h), n = 0, e = 0, most = (h->n + chunk - 1) / chunk - c->least;
    for (int i = 0; i < h->n; i++)
        if (!(h->flags[i] & (ITEM_PROTECTED | ITEM_FORCED))) x[n++] = topk_item_key(d->p, h, i);
    topk_sort(x, (uint64_t *)(void *)d->tmp, n);
    for (int from = 0, to; e < most && (to = items_of(h, chunk, e + 1)) <= n; from = to, e++) { /* x[e] lies before what is still read */
        uint32_t price = price_of(c, x + from, to - from);
        x[e] = e && price < x[e - 1] ? x[e - 1] : price;
    }
    return e;
}

/* Prices of the sorted x [n] below v. */
static int count_below(const uint64_t *x, int n, uint64_t v) {
    int lo = 0;
    for (int hi = n; lo < hi;) {
        int mid = lo + (hi - lo) / 2;
        if (x[mid] < v) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

typedef struct market { /* heads that compete, each with its prices (as many as its quota says) in its part of x */
    const pages_conf *c;
    const policy *p;
    head_items *heads;
    int n_heads;
    const uint64_t *x;
} market;

static int64_t gain(const market *m, const head_items *h, int e) { return m->c->count == COUNT_ITEMS ? items_of(h, chunk_of(m->p, h), e) : e; }

static int64_t gain_below(const market *m, uint64_t v) {
    int64_t sum = 0;
    const uint64_t *x = m->x;
    for (int k = 0; k < m->n_heads; x += m->heads[k++].n) sum += gain(m, &m->heads[k], count_below(x, m->heads[k].quota, v));
    return sum;
}

/* What must go, in the unit that is counted. */
static int64_t wanted(const market *m) {
    int64_t items = 0, held = 0, kept = 0, kept_pages = 0;
    int chunk = policy_chunk(m->p, 0);
    for (int k = 0; k < m->n_heads; k++) {
        const head_items *h = &m->heads[k];
        items += h->n;
        held += (h->n + chunk - 1) / chunk;
        if (k > 0 && h->head == h[-1].head && h->layer == h[-1].layer) continue; /* another tier of the same head */
        kept += h->kept;
        kept_pages += (h->kept + chunk - 1) / chunk;
    }
    int64_t excess = items - kept;
    if (m->c->count == COUNT_PAGES) excess = held - kept_pages;
    if (m->c->count == COUNT_EXCESS) excess = excess > 0 ? (excess + chunk - 1) / chunk : 0;
    return excess > 0 ? excess : 0;
}

/* The cheapest pages whose gain reaches `want`, or all. */
static void buy(const market *m, int64_t want) {
    uint64_t lo = 0, hi = (uint64_t)UINT32_MAX + 1; /* the least v such that prices below v are enough, minus one: the last price paid */
    if (gain_below(m, hi) > want)
        while (hi - lo > 1) {
            uint64_t mid = lo + (hi - lo) / 2;
            if (gain_below(m, mid) >= want) hi = mid;
            else lo = mid;
        }
    int64_t sum = gain_below(m, hi - 1);
    const uint64_t *x = m->x;
    for (int k = 0; k < m->n_heads; k++) {
        head_items *h = &m->heads[k];
        int e = count_below(x, h->quota, hi - 1), most = count_below(x, h->quota, hi);
        for (; e < most && sum < want; e++) sum += gain(m, h, e + 1) - gain(m, h, e);
        x += h->n;
        h->quota = h->n - items_of(h, chunk_of(m->p, h), e);
    }
}

static bool competes_with(const pages_conf *c, const head_items *a, const head_items *b) {
    return c->over == OVER_SEQUENCE || (a->layer == b->layer && (c->over == OVER_LAYER || a->head == b->head));
}

static void pages_allot(const void *conf, const decision *d) {
    const pages_conf *c = conf;
    for (int k = 0; k < d->n_heads;) {
        market m = {.c = c, .p = d->p, .heads = d->heads + k, .x = d->keys};
        uint64_t *x = d->keys;
        if (is_control(c, d->heads[k].layer)) {
            d->heads[k].quota = d->heads[k].n;
            k++;
            continue;
        }
        for (; k < d->n_heads && competes_with(c, m.heads, &d->heads[k]); x += d->heads[k++].n, m.n_heads++)
            d->heads[k].quota = head_prices(c, d, &d->heads[k], x);
        buy(&m, wanted(&m));
    }
}

const stage quota_pages = {
    .kind = STAGE_QUOTA, .live = true, .name = "pages", .help = "per head, whole pages go where they cost least (KV-Compress)",
    .parse = pages_parse, .describe = pages_describe, .budgeted = true, .ranks = true, .chunks = true, .allot = pages_allot};
