/* Many caches in one pool, thinned at random: trim keeps every item and the promise about extents, and the OS agrees.
 */
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

enum { LAYERS = 3, KV = 2, D = 64, CACHES = 6, TOKENS = 1500 };

static const backend codec = {.name = "codec only", .page_put = page_put, .page_move = page_move};

static void expect_items(cache *c, int which, const uint8_t *kept /* [LAYERS * KV][TOKENS] */) {
    for (int i = 0; i < LAYERS * KV; i++) {
        attn_segment s[ATTN_MAX_SEGMENTS];
        int n = cache_segments(c, i / KV, i % KV, 0, 0, s), found = 0, want = 0;
        for (int j = 0; j < TOKENS; j++) want += kept[i * TOKENS + j];
        for (int k = 0; k < n; k++) {
            for (int j = 0; j < s[k].n_items; j++) {
                float kv[2][D];
                const void *page = pool_page(pool_base(cache_pool(c)), s[k].pages[j / s[k].layout->cap]);
                page_get(s[k].layout, page, j % s[k].layout->cap, kv[0], kv[1]);
                uint32_t pos = page_pos(s[k].layout, page, j % s[k].layout->cap);
                assert_true(pos < TOKENS && kept[i * TOKENS + pos]);
                assert_true(kv[0][0] == (float)pos && kv[1][0] == (float)(which * LAYERS * KV + i));
                found++;
            }
        }
        assert_int_equal(found, want);
    }
}

static void trim_loses_nothing_and_keeps_its_promise(void **state) {
    rng r = rng_make(seed_get(), 1);
    kv_format f;
    page_layout l;
    pool *p;
    cache *c[CACHES];
    assert_int_equal(kv_format_parse("f16", &f), OK);
    assert_int_equal(page_layout_search(&f, 1, D, 2, false, 500, &l), OK);
    assert_int_equal(pool_create(l.page_bytes, 0, &p), OK);
    static uint8_t kept[CACHES][LAYERS * KV * TOKENS];
    float *k = calloc((size_t)KV * TOKENS * D, sizeof *k), *v = calloc((size_t)KV * TOKENS * D, sizeof *v);
    uint8_t *target = calloc(KV, TOKENS);
    assert_true(k && v && target);
    for (int i = 0; i < CACHES; i++)
        assert_int_equal(cache_create(p, &codec, (cache_shape){LAYERS, KV, D}, &l, 1, &c[i]), OK);
    for (int layer = 0; layer < LAYERS; layer++) { /* layers of the caches lie mixed in the extents */
        for (int i = 0; i < CACHES; i++) {
            for (int j = 0; j < KV * TOKENS; j++) {
                k[(size_t)j * D] = (float)(j % TOKENS);
                v[(size_t)j * D] = (float)(i * LAYERS * KV + layer * KV + j / TOKENS);
            }
            assert_int_equal(cache_fill(c[i], &par_single, layer, TOKENS, k, v, target), OK);
        }
    }
    memset(kept, 1, sizeof kept);
    for (int i = 0; i < CACHES; i++) cache_set_n_tokens(c[i], TOKENS);
    size_t before = pool_get_stats(p).extents;
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < CACHES; i++) {
            for (int h = 0; h < LAYERS * KV; h++) {
                uint32_t keep = rng_below(&r, 100);
                int n = cache_n_items_head(c[i], h / KV, h % KV);
                uint32_t *pos = malloc((size_t)n * sizeof *pos + 1);
                assert_non_null(pos);
                cache_columns(c[i], h / KV, h % KV, &(item_columns){0, pos, NULL, NULL});
                for (int j = 0; j < n; j++) {
                    target[j] = rng_below(&r, 100) < keep ? 0 : KV_DROP;
                    if (target[j]) kept[i][h * TOKENS + pos[j]] = 0;
                }
                assert_int_equal(cache_apply(c[i], h / KV, h % KV, target), OK);
                free(pos);
            }
        }
        cache_trim(c, CACHES);
        pool_stats st = pool_get_stats(p);
        assert_true(st.extents <= (st.pages_used + st.pages_per_extent - 1) / st.pages_per_extent + 1);
        assert_true(st.extents < before);
        assert_true(pool_smaps_rss_bytes(p) <= st.committed_bytes + 8192);
        for (int i = 0; i < CACHES; i++) {
            assert_int_equal(cache_check(c[i]), OK);
            expect_items(c[i], i, kept[i]);
        }
    }
    for (int i = 0; i < CACHES; i++) cache_destroy(c[i]);
    assert_int_equal(pool_get_stats(p).extents, 0);
    pool_destroy(p);
    free(k), free(v), free(target);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(trim_loses_nothing_and_keeps_its_promise)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
