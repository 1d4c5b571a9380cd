/* Parallel compaction leaves the bytes that its specification says, carried out here step by step: pages, lists, references and ring, for any
 * number of threads. The ring wraps around, may be empty, and may hold too little. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "cache/cache.h"
#include "format/compact.h"
#include "tests/support/seed.h"

enum { D = 32, MAX_SEGS = 14, WINDOW = 12, MAX_ITEMS = 70, MAX_PAGES = 700, RING = 1024, MAX_THREADS = 4 };

typedef struct world { /* everything that compaction may touch */
    uint8_t *pages;
    page_list lists[MAX_SEGS][KV_MAX_TIERS];
    uint32_t refs[MAX_SEGS][KV_MAX_TIERS * WINDOW];
    uint32_t slot[RING];
    page_ring ring;
    int n_done;
} world;

typedef struct setup {
    int n_segs, n_tiers;
    page_layout layout[KV_MAX_TIERS];
    size_t bytes;
    uint8_t target[MAX_SEGS][KV_MAX_TIERS * MAX_ITEMS];
} setup;

static setup s;
static world start, want, got;

static uint32_t page_ref_of(int page) { return (uint32_t)(page * (int)(s.layout[0].page_bytes / 64)); }
static void *at(const world *w, const page_list *l, const uint32_t *refs, uint32_t slot, int tier) {
    return w->pages + (size_t)refs[l->first + slot / s.layout[tier].cap] * 64;
}

static const struct { int n; const char *tiers[4]; } sets[] = {
    {1, {"f16"}}, {2, {"f16", "k8v4"}}, {3, {"f16", "k8v4", "k4v2"}}, {2, {"f16", "k4cv4g32"}}, {4, {"f32", "f16", "k8v8", "k2v2"}},
};

enum { N_SETS = sizeof sets / sizeof *sets };

/* Random contents; targets that the formats allow; a ring with n_free references that starts anywhere. */
static void make_world(rng *r, int set, int n_free) {
    kv_format f[KV_MAX_TIERS];
    s.n_tiers = sets[set].n;
    for (int t = 0; t < s.n_tiers; t++) assert_int_equal(kv_format_parse(sets[set].tiers[t], &f[t]), OK);
    bool groups = f[s.n_tiers - 1].k_channels;
    assert_int_equal(page_layout_search(f, s.n_tiers, D, 2, true, 60, s.layout), OK);
    s.n_segs = 1 + (int)rng_below(r, MAX_SEGS);
    s.bytes = (size_t)MAX_PAGES * s.layout[0].page_bytes;
    start.pages = calloc(1, s.bytes);
    want.pages = malloc(s.bytes);
    got.pages = malloc(s.bytes);
    int next = 0;
    for (int i = 0; i < s.n_segs; i++) {
        uint8_t *to = s.target[i];
        int from_hot = 0;
        for (int t = 0; t < s.n_tiers; t++) {
            page_list *l = &start.lists[i][t];
            *l = (page_list){.first = (uint32_t)(t * WINDOW), .cap = WINDOW};
            l->n_items = rng_below(r, 5) ? rng_below(r, MAX_ITEMS) : 0;
            if (s.layout[t].fmt.k_channels) l->n_items = l->n_items / KV_TOKEN_GROUP * KV_TOKEN_GROUP;
            l->n_pages = (l->n_items + s.layout[t].cap - 1) / s.layout[t].cap + (rng_below(r, 4) == 0);
            for (uint32_t j = 0; j < l->n_pages; j++) start.refs[i][l->first + j] = page_ref_of(next++);
            int drop = (int)rng_below(r, 100), sink = rng_below(r, 2) ? (int)rng_below(r, 60) : 0;
            for (uint32_t j = 0; j < l->n_items; j++) {
                static float values[64 * D];
                if (values[0] == 0)
                    for (int x = 0; x < 64 * D; x++) values[x] = rng_normal(r);
                const float *k = values + rng_below(r, 63 * D), *v = values + rng_below(r, 63 * D);
                if (!s.layout[t].fmt.k_channels) page_put(&s.layout[t], at(&start, l, start.refs[i], j, t), (int)(j % s.layout[t].cap), 1, k, D, v, D, &j);
                uint8_t u = (uint8_t)t;
                if ((int)rng_below(r, 100) < sink) u = (uint8_t)(t + (int)rng_below(r, (uint32_t)(s.n_tiers - t)));
                if (!groups && (int)rng_below(r, 100) < drop) u = KV_DROP;
                if (groups && t == 0) { /* whole groups leave the hot tier, others go or stay */
                    bool whole = from_hot / KV_TOKEN_GROUP < (int)l->n_items / KV_TOKEN_GROUP;
                    u = whole ? 1 : (int)rng_below(r, 100) < drop ? KV_DROP : 0;
                    from_hot += whole;
                }
                *to++ = u;
            }
        }
    }
    start.ring = (page_ring){start.slot, RING, rng_below(r, 1 << 20), 0};
    start.ring.tail = start.ring.head;
    for (int i = 0; i < n_free; i++) *page_ring_at(&start.ring, start.ring.tail++) = page_ref_of(next++);
    assert_true(next <= MAX_PAGES);
}

static void copy_world(world *to) {
    uint8_t *pages = to->pages;
    memcpy(pages, start.pages, s.bytes);
    *to = start;
    to->pages = pages;
    to->ring.slot = to->slot;
}

/* ---- the specification, one segment after the other ---- */

static uint32_t pages_after(int t, int n) { return (uint32_t)((n + s.layout[t].cap - 1) / s.layout[t].cap); }

static void do_moves(world *w, int i, const plan *p) {
    static float k[KV_MAX_TIERS][KV_TOKEN_GROUP * D], v[KV_MAX_TIERS][KV_TOKEN_GROUP * D];
    static float score[KV_MAX_TIERS][KV_TOKEN_GROUP];
    static uint32_t pos[KV_MAX_TIERS][KV_TOKEN_GROUP];
    int n[KV_MAX_TIERS] = {0};
    for (int j = 0; j < p->n_moves; j++) {
        plan_move m = p->moves[j];
        int a = m.from_tier, b = m.to_tier, sa = (int)(m.from_slot % s.layout[a].cap), sb = (int)(m.to_slot % s.layout[b].cap);
        uint8_t *src = at(w, &w->lists[i][a], w->refs[i], m.from_slot, a), *dst = at(w, &w->lists[i][b], w->refs[i], m.to_slot, b);
        if (a == b || !s.layout[b].fmt.k_channels) {
            page_move(&s.layout[a], src, sa, &s.layout[b], dst, sb);
            continue;
        }
        page_get(&s.layout[a], src, sa, k[b] + n[b] * D, v[b] + n[b] * D);
        pos[b][n[b]] = page_pos(&s.layout[a], src, sa);
        score[b][n[b]] = page_score(&s.layout[a], src, sa);
        if (++n[b] < KV_TOKEN_GROUP) continue;
        page_put(&s.layout[b], dst, sb + 1 - KV_TOKEN_GROUP, KV_TOKEN_GROUP, k[b], D, v[b], D, pos[b]);
        for (int x = 0; x < KV_TOKEN_GROUP; x++) page_set_score(&s.layout[b], dst, sb + 1 - KV_TOKEN_GROUP + x, score[b][x]);
        n[b] = 0;
    }
}

static void specification(world *w) {
    static plan_move moves[MAX_SEGS][KV_MAX_TIERS * MAX_ITEMS];
    static plan plans[MAX_SEGS];
    uint32_t need[MAX_SEGS] = {0};
    int order[MAX_SEGS], n = 0;
    for (int i = 0; i < s.n_segs; i++) {
        int items[KV_MAX_TIERS];
        for (int t = 0; t < s.n_tiers; t++) items[t] = (int)w->lists[i][t].n_items;
        plans[i].moves = moves[i];
        plan_moves(items, s.n_tiers, s.target[i], &plans[i]);
        for (int t = 0; t < s.n_tiers; t++) {
            uint32_t pages = pages_after(t, plans[i].n_after[t]);
            if (pages > w->lists[i][t].n_pages) need[i] += pages - w->lists[i][t].n_pages;
        }
    }
    for (int needy = 0; needy < 2; needy++)
        for (int i = 0; i < s.n_segs; i++)
            if ((need[i] > 0) == needy) order[n++] = i;
    w->n_done = 0;
    while (w->n_done < n) {
        uint64_t left = w->ring.tail - w->ring.head;
        int end = w->n_done;
        while (end < n && need[order[end]] <= left) left -= need[order[end++]];
        if (end == w->n_done) return;
        static uint32_t freed[MAX_PAGES];
        int n_freed = 0;
        for (; w->n_done < end; w->n_done++) {
            int i = order[w->n_done];
            for (int t = 0; t < s.n_tiers; t++) {
                page_list *l = &w->lists[i][t];
                while (l->n_pages < pages_after(t, plans[i].n_after[t])) w->refs[i][l->first + l->n_pages++] = *page_ring_at(&w->ring, w->ring.head++);
            }
            do_moves(w, i, &plans[i]);
            for (int t = 0; t < s.n_tiers; t++) {
                page_list *l = &w->lists[i][t];
                uint32_t keep = pages_after(t, plans[i].n_after[t]);
                for (uint32_t j = keep; j < l->n_pages; j++) freed[n_freed++] = w->refs[i][l->first + j];
                l->n_pages = keep;
                l->n_items = (uint32_t)plans[i].n_after[t];
            }
        }
        for (int i = 0; i < n_freed; i++) *page_ring_at(&w->ring, w->ring.tail++) = freed[i];
    }
}

/* ---- the comparison ---- */

typedef struct job { compact c; } job;
static void body(const par *p, void *arg) {
    compact *c = &((job *)arg)->c;
    compact_plan(p, c);
    compact_carry_out(p, c);
}

static void run(world *w, int n_threads) {
    static compact_seg seg[MAX_SEGS];
    static uint32_t order[MAX_SEGS];
    static compact_sums before[MAX_SEGS + 1];
    static compact_share share[MAX_THREADS][2];
    static plan_move moves[MAX_SEGS][KV_MAX_TIERS * MAX_ITEMS];
    for (int i = 0; i < s.n_segs; i++)
        seg[i] = (compact_seg){.lists = w->lists[i], .refs = w->refs[i], .target = s.target[i], .plan = {.moves = moves[i]}};
    job j = {{.n_segs = s.n_segs, .n_tiers = s.n_tiers, .layout = s.layout, .codec = {page_put, page_move, w->pages}, .seg = seg, .ring = &w->ring,
              .order = order, .before = before, .share = share}};
    par_run(n_threads, body, &j);
    w->n_done = j.c.n_done;
}

static void compare(int n_threads) {
    if (got.n_done != want.n_done) fail_msg("%d threads: %d segments done instead of %d", n_threads, got.n_done, want.n_done);
    assert_true(got.ring.head == want.ring.head && got.ring.tail == want.ring.tail);
    for (uint64_t i = want.ring.head; i < want.ring.tail; i++) assert_int_equal(*page_ring_at(&got.ring, i), *page_ring_at(&want.ring, i));
    assert_memory_equal(got.lists, want.lists, sizeof want.lists);
    assert_memory_equal(got.refs, want.refs, sizeof want.refs);
    assert_memory_equal(got.pages, want.pages, s.bytes);
}

/* Every page is in one list or in the ring, once. */
static void check_pages(const world *w, int n_pages) {
    static uint8_t seen[MAX_PAGES];
    memset(seen, 0, sizeof seen);
    int unit = (int)s.layout[0].page_bytes / 64, n = 0;
    for (int i = 0; i < s.n_segs; i++)
        for (int t = 0; t < s.n_tiers; t++)
            for (uint32_t j = 0; j < w->lists[i][t].n_pages; j++, n++) assert_int_equal(seen[(int)w->refs[i][w->lists[i][t].first + j] / unit]++, 0);
    for (uint64_t i = w->ring.head; i < w->ring.tail; i++, n++) assert_int_equal(seen[(int)*page_ring_at(&w->ring, i) / unit]++, 0);
    assert_int_equal(n, n_pages);
}

static void one_round(rng *r, int set, int n_free) {
    make_world(r, set, n_free);
    int n_pages = n_free;
    for (int i = 0; i < s.n_segs; i++)
        for (int t = 0; t < s.n_tiers; t++) n_pages += (int)start.lists[i][t].n_pages;
    copy_world(&want);
    specification(&want);
    check_pages(&want, n_pages);
    for (int threads = 1; threads <= MAX_THREADS; threads += 1 + (int)rng_below(r, 3)) {
        copy_world(&got);
        run(&got, threads);
        compare(threads);
    }
    free(start.pages);
    free(want.pages);
    free(got.pages);
}

static void any_number_of_threads_leaves_the_bytes_of_the_specification(void **state) {
    rng r = rng_make(seed_get(), 1);
    for (int i = 0; i < 200; i++) one_round(&r, i % N_SETS, 150);
}

static void few_free_pages_go_round(void **state) { /* several waves; some rounds cannot finish */
    rng r = rng_make(seed_get(), 2);
    int stuck = 0, whole = 0;
    for (int i = 0; i < 150; i++) {
        one_round(&r, i % N_SETS, (int)rng_below(&r, 6));
        *(got.n_done < s.n_segs ? &stuck : &whole) += 1;
    }
    if (!stuck || !whole) fail_msg("%d rounds were stuck, %d were not", stuck, whole);
}

static void no_free_page_is_needed_to_drop_items(void **state) {
    rng r = rng_make(seed_get(), 3);
    for (int i = 0; i < 30; i++) {
        one_round(&r, 0, 0);
        assert_int_equal(got.n_done, s.n_segs);
    }
}

/* ---- caches ---- */

static const backend codec = {.name = "codec only", .page_put = page_put, .page_move = page_move};

static void fill(cache *c, int n, uint8_t tier) {
    static float k[2 * 600 * D];
    static uint8_t target[2 * 600];
    rng r = rng_make(5, 5);
    for (int i = 0; i < 2 * n * D; i++) k[i] = rng_normal(&r);
    memset(target, tier, sizeof target);
    for (int l = 0; l < 2; l++) assert_int_equal(cache_fill(c, &par_single, l, n, k, k, target), OK);
    cache_set_n_tokens(c, n);
}

static void a_full_pool_says_so_and_still_drops(void **state) {
    page_layout l[2];
    const kv_format f[2] = {{.k_bits = 16, .v_bits = 16}, {.k_bits = 4, .v_bits = 4}};
    assert_int_equal(page_layout_search(f, 2, D, 0, false, 500, l), OK);
    pool *p;
    cache *a, *b;
    compactor *k;
    cache_shape shape = {2, 2, D};
    assert_int_equal(pool_create(l[0].page_bytes, POOL_EXTENT_BYTES, &p), OK);
    assert_int_equal(cache_create(p, &codec, shape, l, 2, &a), OK);
    assert_int_equal(cache_create(p, &codec, shape, l, 2, &b), OK);
    assert_int_equal(compactor_create(&k), OK);
    fill(a, 600, 0);
    fill(b, 600, 0);
    page_ref r[4096];
    int n = 0;
    while (pool_alloc(p, &r[n]) == OK) n++;
    static uint8_t lower[600], drop[600];
    memset(lower, 1, sizeof lower);
    for (int i = 0; i < 600; i++) drop[i] = i % 3 ? KV_DROP : 0;
    cache_change down[] = {{a, 0, 0, lower}}, away[] = {{a, 0, 0, drop}, {b, 1, 1, drop}}, bad[] = {{a, 0, 0, drop}, {a, 2, 0, drop}};
    assert_int_equal(cache_compact(k, down, 1, 2), ERR_NOMEM);
    assert_int_equal(cache_n_items(a, 0, 0, 0), 600);
    assert_int_equal(cache_compact(k, bad, 2, 2), ERR_USAGE);
    assert_int_equal(cache_compact(k, away, 2, 2), OK);
    assert_int_equal(cache_n_items(a, 0, 0, 0), 200);
    assert_int_equal(cache_n_items(b, 1, 1, 0), 200);
    memset(lower, 1, sizeof lower);
    assert_int_equal(cache_compact(k, down, 1, 2), OK); /* into pages that were just freed */
    assert_int_equal(cache_n_items(a, 0, 0, 1), 200);
    assert_int_equal(cache_check(a), OK);
    assert_int_equal(cache_check(b), OK);
    while (n) pool_free(p, r[--n]);
    compactor_destroy(k);
    cache_destroy(a);
    cache_destroy(b);
    assert_int_equal(pool_get_stats(p).pages_used, 0);
    pool_destroy(p);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_threads_leaves_the_bytes_of_the_specification),
        cmocka_unit_test(few_free_pages_go_round),
        cmocka_unit_test(no_free_page_is_needed_to_drop_items),
        cmocka_unit_test(a_full_pool_says_so_and_still_drops),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
