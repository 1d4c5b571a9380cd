/* Tiers with K per channel: whole groups of 32 items, in position order, from the hot tier, which is their tail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "cache/cache.h"
#include "tests/support/seed.h"

enum { D = 64, N_KV = 2, N = 301, G = KV_TOKEN_GROUP };

static const backend codec = {.name = "codec only", .page_put = page_put, .page_move = page_move};
static float k[N_KV][N][D], v[N_KV][N][D];

typedef struct fixture {
    pool *p;
    cache *c;
    page_layout l[3];
} fixture;

static fixture fixture_open(const char *const *names, int n_tiers) {
    fixture f;
    kv_format fmt[3];
    for (int t = 0; t < n_tiers; t++) assert_int_equal(kv_format_parse(names[t], &fmt[t]), OK);
    assert_int_equal(page_layout_search(fmt, n_tiers, D, 2, true, 256, f.l), OK);
    assert_int_equal(pool_create(f.l[0].page_bytes, 0, &f.p), OK);
    assert_int_equal(cache_create(f.p, &codec, (cache_shape){1, N_KV, D}, f.l, n_tiers, &f.c), OK);
    rng r = rng_make(seed_get(), 1);
    float *ks = (float *)k, *vs = (float *)v;
    for (int i = 0; i < N_KV * N * D; i++) ks[i] = f32_round_f16(rng_normal(&r)), vs[i] = f32_round_f16(rng_normal(&r));
    return f;
}

static void fixture_close(fixture *f) {
    cache_destroy(f->c);
    assert_int_equal(pool_get_stats(f->p).pages_used, 0);
    pool_destroy(f->p);
}

typedef struct filling {
    cache *c;
    const uint8_t *target;
    err e;
} filling;

static void fill_body(const par *p, void *arg) {
    filling *f = arg;
    err e = cache_fill(f->c, p, 0, N, k[0][0], v[0][0], f->target);
    if (p->ith == 0) f->e = e;
}

static err fill(fixture *f, const uint8_t *target, int n_threads) {
    filling a = {f->c, target, OK};
    par_run(n_threads, fill_body, &a);
    if (a.e == OK) cache_set_n_tokens(f->c, N);
    return a.e;
}

/* Tier 1 must hold tokens[0 .. n-1] of a head as if their groups had been put directly. */
static void assert_groups(const fixture *f, int head, const int *tokens, int n) {
    const page_layout *l = cache_layout(f->c, 1);
    attn_segment seg[ATTN_MAX_SEGMENTS];
    assert_int_equal(cache_n_items(f->c, 0, head, 1), n);
    if (n == 0) return;
    assert_true(cache_segments(f->c, 0, head, 0, 0, seg) >= 1);
    assert_true(seg[0].layout == l && seg[0].n_items == n);
    uint8_t *page = calloc(1, l->page_bytes);
    assert_true(l->cap >= G && page);
    for (int g = 0; g < n; g += G) {
        float kg[G][D], vg[G][D], ka[D], va[D], kb[D], vb[D];
        uint32_t pos[G];
        for (int i = 0; i < G; i++) {
            memcpy(kg[i], k[head][tokens[g + i]], sizeof kg[i]);
            memcpy(vg[i], v[head][tokens[g + i]], sizeof vg[i]);
            pos[i] = (uint32_t)tokens[g + i];
        }
        page_put(l, page, 0, G, kg[0], D, vg[0], D, pos);
        for (int i = 0; i < G; i++) {
            int item = g + i;
            const uint8_t *in = pool_base(f->p) + 64 * (size_t)seg[0].pages[item / l->cap];
            page_get(l, in, item % l->cap, ka, va);
            page_get(l, page, i, kb, vb);
            assert_memory_equal(ka, kb, sizeof ka);
            assert_memory_equal(va, vb, sizeof va);
            assert_int_equal(page_pos(l, in, item % l->cap), pos[i]);
        }
    }
    free(page);
}

/* Survivors of an uneven eviction are grouped in position order, whatever thread has them. */
static void prefill_groups_survivors_in_position_order(void **state) {
    static const char *const names[] = {"f16", "k4cv4g32"};
    for (int threads = 1; threads <= 4; threads++) {
        fixture f = fixture_open(names, 2);
        uint8_t target[N_KV][N];
        int kept[N_KV][N], n[N_KV] = {0};
        rng r = rng_make(seed_get(), (uint64_t)threads);
        for (int h = 0; h < N_KV; h++) {
            for (int i = 0; i < N; i++) {
                target[h][i] = rng_below(&r, 3) ? 1 : KV_DROP;
                if (target[h][i] == 1) kept[h][n[h]++] = i;
            }
            while (n[h] % G) target[h][kept[h][--n[h]]] = 0; /* the newest are the tail */
        }
        assert_int_equal(fill(&f, target[0], threads), OK);
        for (int h = 0; h < N_KV; h++) assert_groups(&f, h, kept[h], n[h]);
        fixture_close(&f);
    }
}

static void partial_groups_are_refused(void **state) {
    static const char *const names[] = {"f16", "k2cv2g32"};
    fixture f = fixture_open(names, 2);
    uint8_t target[N_KV * N];
    memset(target, 1, sizeof target); /* 301 items */
    assert_int_equal(fill(&f, target, 1), ERR_USAGE);
    assert_non_null(strstr(err_text(), "whole groups"));
    for (int i = 0; i < N_KV * N; i++) target[i] = i % N < 64;
    assert_int_equal(fill(&f, target, 1), OK);
    uint8_t now[N]; /* columns: 237 hot, 64 in tier 1 */
    memset(now, 0, 237);
    memset(now + 237, 1, 64);
    now[3] = 1; /* one alone */
    assert_int_equal(cache_apply(f.c, 0, 0, now), ERR_USAGE);
    now[3] = 0;
    now[237 + 40] = KV_DROP;
    assert_int_equal(cache_apply(f.c, 0, 0, now), ERR_USAGE);
    assert_int_equal(cache_n_items(f.c, 0, 0, 1), 64);
    fixture_close(&f);
}

/* Tokens leave the hot tier group by group; groups may leave the cache, and others take their places. */
static void decode_moves_and_drops_whole_groups(void **state) {
    static const char *const names[] = {"f16", "k4cv2g32"};
    fixture f = fixture_open(names, 2);
    uint8_t target[N_KV][N], now[N];
    for (int h = 0; h < N_KV; h++)
        for (int i = 0; i < N; i++) target[h][i] = i < 4 * G;
    assert_int_equal(fill(&f, target[0], 2), OK);
    int tokens[N], hot = N - 4 * G;
    for (int i = 0; i < 8 * G; i++) tokens[i] = i;
    memset(now, 0, (size_t)hot);
    memset(now, 1, 4 * G); /* the four oldest groups of the hot tier follow */
    memset(now + hot, 1, 4 * G);
    assert_int_equal(cache_apply(f.c, 0, 0, now), OK);
    assert_int_equal(cache_check(f.c), OK);
    assert_groups(&f, 0, tokens, 8 * G);
    assert_int_equal(cache_n_items(f.c, 0, 0, 0), N - 8 * G);
    hot = N - 8 * G;
    memset(now, 0, (size_t)hot);
    memset(now + hot, 1, 8 * G);
    memset(now + hot + 2 * G, KV_DROP, G); /* group 2 goes: the last one takes its place */
    assert_int_equal(cache_apply(f.c, 0, 0, now), OK);
    for (int i = 0; i < G; i++) tokens[2 * G + i] = 7 * G + i;
    assert_groups(&f, 0, tokens, 7 * G);
    assert_int_equal(cache_check(f.c), OK);
    fixture_close(&f);
}

static void such_tiers_need_a_float_tail(void **state) {
    static const char *const bad[][2] = {{"k4cv4g32", "k4cv2g32"}, {"k8v8g32", "k4cv4g32"}};
    for (int i = 0; i < 2; i++) {
        kv_format fmt[2];
        page_layout l[2];
        pool *p;
        cache *c;
        for (int t = 0; t < 2; t++) assert_int_equal(kv_format_parse(bad[i][t], &fmt[t]), OK);
        assert_int_equal(page_layout_search(fmt, 2, D, 2, false, 256, l), OK);
        assert_int_equal(pool_create(l[0].page_bytes, 0, &p), OK);
        assert_int_equal(cache_create(p, &codec, (cache_shape){1, N_KV, D}, l, 2, &c), ERR_UNSUPPORTED);
        assert_non_null(strstr(err_text(), "f16 or f32 as tier 0"));
        pool_destroy(p);
    }
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefill_groups_survivors_in_position_order),
        cmocka_unit_test(partial_groups_are_refused),
        cmocka_unit_test(decode_moves_and_drops_whole_groups),
        cmocka_unit_test(such_tiers_need_a_float_tail),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
