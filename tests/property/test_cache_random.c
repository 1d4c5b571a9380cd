/* Random lives of a cache against a naive model: lists of items that are full vectors, moved by the rules of the
 * headers. An item's value in the model lives in a private page of one format after the other, so the model shares the
 * codec but neither plan, pages, tables nor counters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "cache/cache.h"
#include "tests/support/seed.h"

enum { LAYERS = 2, KV = 2, D = 32, MAX_ITEMS = 700 };

static const backend codec = {.name = "codec only", .page_put = page_put, .page_move = page_move};

typedef struct model_item {
    uint32_t pos;
    float score, k[D], v[D]; /* as decoded */
    uint8_t *page;           /* slot 0 holds the item in its tier's format */
} model_item;

typedef struct model_list {
    model_item *items[MAX_ITEMS];
    int n;
} model_list;

typedef struct model {
    int n_tiers, n_tokens, n_appended;
    page_layout l[KV_MAX_TIERS];
    model_list list[LAYERS][KV][KV_MAX_TIERS];
} model;

static model_item *model_put(const model *m, int tier, const float *k, const float *v, uint32_t pos) {
    model_item *it = calloc(1, sizeof *it);
    assert_non_null(it);
    it->page = calloc(1, m->l[tier].page_bytes);
    assert_non_null(it->page);
    it->pos = pos;
    page_put(&m->l[tier], it->page, 0, 1, k, D, v, D, &pos);
    page_get(&m->l[tier], it->page, 0, it->k, it->v);
    return it;
}

static void model_drop(model_item *it) {
    free(it->page);
    free(it);
}

static void model_sink(const model *m, model_item *it, int from, int to) {
    uint8_t *page = calloc(1, m->l[to].page_bytes);
    assert_non_null(page);
    page_move(&m->l[from], it->page, 0, &m->l[to], page, 0);
    page_get(&m->l[to], page, 0, it->k, it->v);
    free(it->page);
    it->page = page;
}

static void model_apply(model *m, int layer, int head, const uint8_t *target) {
    model_list *tiers = m->list[layer][head], after[KV_MAX_TIERS];
    int column[KV_MAX_TIERS + 1] = {0};
    for (int t = 0; t < m->n_tiers; t++) {
        column[t + 1] = column[t] + tiers[t].n;
        /* stayers keep their slots; the tail falls into the holes */
        after[t].n = 0;
        int n_stay = 0;
        for (int i = 0; i < tiers[t].n; i++) n_stay += target[column[t] + i] == t;
        int tail = n_stay;
        for (int i = 0; i < n_stay; i++) {
            int from = i;
            if (target[column[t] + i] != t) {
                while (target[column[t] + tail] != t) tail++;
                from = tail++;
            }
            after[t].items[after[t].n++] = tiers[t].items[from];
        }
    }
    for (int t = 0; t < m->n_tiers; t++) {
        for (int i = 0; i < tiers[t].n; i++) {
            uint8_t to = target[column[t] + i];
            if (to == t) continue;
            if (to == KV_DROP) {
                model_drop(tiers[t].items[i]);
                continue;
            }
            model_sink(m, tiers[t].items[i], t, to);
            after[to].items[after[to].n++] = tiers[t].items[i];
        }
    }
    memcpy(tiers, after, (size_t)m->n_tiers * sizeof *after);
    m->n_appended = 0;
}

static void model_clear(model *m) {
    for (int i = 0; i < LAYERS * KV * KV_MAX_TIERS; i++) {
        model_list *l = &m->list[0][0][0] + i;
        while (l->n) model_drop(l->items[--l->n]);
    }
}

/* ---- comparison ---- */

static void *page_of(const cache *c, const attn_segment *s, int i) {
    return pool_page(pool_base(cache_pool(c)), s->pages[(s->first + i) / s->layout->cap]);
}

static void compare_head(const model *m, const cache *c, int layer, int head) {
    const model_list *tiers = m->list[layer][head];
    attn_segment seg[ATTN_MAX_SEGMENTS];
    int n_segs = cache_segments(c, layer, head, 0, 0, seg), total = 0, n_used = 0;
    static uint32_t pos[MAX_ITEMS];
    static uint8_t tier[MAX_ITEMS];
    static float score[MAX_ITEMS];
    item_columns col = {0, pos, tier, score};
    cache_columns(c, layer, head, &col);
    for (int t = 0; t < m->n_tiers; t++) {
        assert_int_equal(cache_n_items(c, layer, head, t), tiers[t].n);
        n_used += tiers[t].n > 0;
        for (int i = 0; i < tiers[t].n; i++, total++) {
            const model_item *it = tiers[t].items[i];
            assert_int_equal(tier[total], t);
            assert_int_equal(pos[total], m->l[0].pos_bytes ? it->pos : (uint32_t)i);
            assert_true(score[total] == (m->l[0].has_score ? it->score : 0));
        }
    }
    assert_int_equal(col.n, total);
    assert_int_equal(cache_n_items_head(c, layer, head), total);
    assert_int_equal(n_segs, n_used);
    for (int s = 0; s < n_segs; s++) {
        int t = 0;
        while (cache_layout(c, t) != seg[s].layout) t++;
        assert_int_equal(seg[s].n_items, tiers[t].n);
        for (int i = 0; i < tiers[t].n; i++) {
            float k[D], v[D];
            page_get(seg[s].layout, page_of(c, &seg[s], i), i % seg[s].layout->cap, k, v);
            assert_memory_equal(k, tiers[t].items[i]->k, sizeof k);
            assert_memory_equal(v, tiers[t].items[i]->v, sizeof v);
        }
    }
}

static void compare(const model *m, const cache *c) {
    cache_bytes b = cache_get_bytes(c);
    size_t payload = 0, meta = 0, columns = 0, items = 0, pages = 0;
    for (int l = 0; l < LAYERS; l++) {
        for (int h = 0; h < KV; h++) {
            compare_head(m, c, l, h);
            for (int t = 0; t < m->n_tiers; t++) {
                size_t n = (size_t)m->list[l][h][t].n;
                items += n;
                payload += n * kv_format_payload_bytes(m->l[t].fmt, D);
                meta += n * kv_format_meta_bytes(m->l[t].fmt, D);
                columns += n * (m->l[0].pos_bytes + (m->l[0].has_score ? 4 : 0));
                pages += (n + m->l[t].cap - 1) / m->l[t].cap;
            }
        }
    }
    assert_int_equal(b.items, items);
    assert_int_equal(b.payload, payload);
    assert_int_equal(b.metadata, meta);
    assert_int_equal(b.columns, columns);
    assert_int_equal(b.live, payload + meta + columns + b.tables);
    assert_true(b.peak_live >= b.live && b.peak_committed >= b.committed);
    assert_true(b.slack + payload + meta + columns >= pages * m->l[0].page_bytes);
    assert_int_equal(b.items_full, (size_t)m->n_tokens * LAYERS * KV);
    assert_int_equal(b.full_f16, b.items_full * D * 4);
    assert_int_equal(cache_n_tokens(c), m->n_tokens);
    assert_int_equal(cache_check(c), OK);
}

/* ---- operations on both ---- */

static void set_values(rng *r, float *k, float *v) {
    for (int i = 0; i < D; i++) k[i] = rng_normal(r), v[i] = rng_normal(r);
}

typedef struct filling {
    cache *c;
    int layer, n;
    const float *k, *v;
    const uint8_t *target;
} filling;
static void fill_body(const par *p, void *arg) {
    filling *f = arg;
    err e = cache_fill(f->c, p, f->layer, f->n, f->k, f->v, f->target);
    if (e != OK) abort();
}

static void do_fill(rng *r, model *m, cache *c) {
    int n = 1 + (int)rng_below(r, 200);
    uint32_t drop = rng_below(r, 100);
    float *k = malloc((size_t)KV * n * D * sizeof *k), *v = malloc((size_t)KV * n * D * sizeof *v);
    uint8_t *target = malloc((size_t)KV * n);
    assert_true(k && v && target);
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; i < KV * n; i++) {
            set_values(r, k + (size_t)i * D, v + (size_t)i * D);
            target[i] = rng_below(r, 100) < drop   ? KV_DROP
                        : rng_below(r, 3) && i % n ? target[i - 1]
                                                   : (uint8_t)rng_below(r, (uint32_t)m->n_tiers);
            if (target[i] == KV_DROP) continue;
            model_list *to = &m->list[l][i / n][target[i]];
            to->items[to->n++] = model_put(m, target[i], k + (size_t)i * D, v + (size_t)i * D, (uint32_t)(i % n));
        }
        par_run(1 + (int)rng_below(r, 4), fill_body, &(filling){c, l, n, k, v, target});
    }
    cache_set_n_tokens(c, n);
    m->n_tokens = n;
    free(k), free(v), free(target);
}

static int longest(const model *m) {
    int most = 0;
    for (int i = 0; i < LAYERS * KV; i++) {
        int n = 0;
        for (int t = 0; t < m->n_tiers; t++) n += m->list[i / KV][i % KV][t].n;
        if (n > most) most = n;
    }
    return most;
}

static void do_append(rng *r, model *m, cache *c) {
    int n = 1 + (int)rng_below(r, 40), kept = n - (int)rng_below(r, 3);
    if (longest(m) + n > MAX_ITEMS) return;
    assert_int_equal(cache_reserve(c, n), OK);
    if (kept < 1) return; /* reserved in vain */
    for (int l = 0; l < LAYERS; l++) {
        for (int h = 0; h < KV; h++) {
            for (int row = 0; row < n; row++) {
                float k[D], v[D];
                set_values(r, k, v);
                cache_append(c, l, h, row, k, v);
                if (row >= kept) continue;
                model_list *to = &m->list[l][h][0];
                to->items[to->n++] = model_put(m, 0, k, v, (uint32_t)(m->n_tokens + row));
            }
        }
    }
    cache_commit(c, kept);
    m->n_tokens += kept;
    m->n_appended += kept;
}

static void do_truncate(rng *r, model *m, cache *c) {
    int drop = (int)rng_below(r, 30);
    err e = cache_truncate(c, m->n_tokens - drop);
    if (drop > m->n_tokens) {
        assert_int_equal(e, ERR_USAGE);
        return;
    }
    assert_int_equal(e, drop <= m->n_appended ? OK : ERR_UNSUPPORTED);
    if (e != OK) return;
    for (int i = 0; i < LAYERS * KV; i++) {
        model_list *l = &m->list[i / KV][i % KV][0];
        for (int j = 0; j < drop; j++) model_drop(l->items[--l->n]);
    }
    m->n_tokens -= drop;
    m->n_appended -= drop;
}

static compactor *all_at_once;

static void do_apply(rng *r, model *m, cache *c) {
    uint32_t drop = rng_below(r, 4) ? rng_below(r, 20) : rng_below(r, 101),
             sink = rng_below(r, 3) ? rng_below(r, 30) : 0;
    bool together = rng_below(r, 2); /* all heads at once, or each in turn */
    static uint8_t targets[LAYERS * KV][MAX_ITEMS + 1];
    cache_change change[LAYERS * KV];
    int n_changes = 0;
    for (int l = 0; l < LAYERS; l++) {
        for (int h = 0; h < KV; h++) {
            if (rng_below(r, 4) == 0) continue;
            uint8_t *target = targets[n_changes];
            int n = 0;
            for (int t = 0; t < m->n_tiers; t++) {
                for (int i = 0; i < m->list[l][h][t].n; i++) {
                    uint8_t to = (uint8_t)t;
                    if (rng_below(r, 100) < sink) to = (uint8_t)(t + (int)rng_below(r, (uint32_t)(m->n_tiers - t)));
                    target[n++] = rng_below(r, 100) < drop ? KV_DROP : to;
                }
            }
            change[n_changes++] = (cache_change){c, l, h, target};
            if (!together) assert_int_equal(cache_apply(c, l, h, target), OK);
            model_apply(m, l, h, target);
        }
    }
    if (together) assert_int_equal(cache_compact(all_at_once, change, n_changes, 1 + (int)rng_below(r, 3)), OK);
}

/* As live attention would: scores are written into the pages. */
static void do_score(rng *r, model *m, cache *c) {
    if (!m->l[0].has_score) return;
    for (int i = 0; i < LAYERS * KV; i++) {
        attn_segment seg[ATTN_MAX_SEGMENTS];
        int n = cache_segments(c, i / KV, i % KV, 0, 0, seg);
        for (int s = 0; s < n; s++) {
            int t = 0;
            while (cache_layout(c, t) != seg[s].layout) t++;
            for (int j = 0; j < seg[s].n_items; j++) {
                float x = rng_normal(r);
                page_set_score(seg[s].layout, page_of(c, &seg[s], j), j % seg[s].layout->cap, x);
                m->list[i / KV][i % KV][t].items[j]->score = x;
                page_set_score(seg[s].layout, m->list[i / KV][i % KV][t].items[j]->page, 0, x);
            }
        }
    }
}

static void random_lives_equal_the_model(void **state) {
    static const struct {
        int n;
        const char *tiers[4];
    } sets[] = {
        {1, {"f16"}},
        {2, {"f32", "k8v4"}},
        {3, {"f16", "k8v4", "k4v2"}},
        {2, {"k8v4", "k4v2"}},
        {4, {"f16", "k8v4", "k4v4", "k4v2"}},
        {4, {"f32", "f16", "k8v8g32", "k2v2g32"}},
    };
    rng r = rng_make(seed_get(), 1);
    static model m;
    assert_int_equal(compactor_create(&all_at_once), OK);
    for (int life = 0; life < 60; life++) {
        int set = life % 6;
        memset(&m, 0, sizeof m);
        m.n_tiers = sets[set].n;
        kv_format f[KV_MAX_TIERS];
        for (int t = 0; t < m.n_tiers; t++) assert_int_equal(kv_format_parse(sets[set].tiers[t], &f[t]), OK);
        assert_int_equal(page_layout_search(f, m.n_tiers, D, 2 * (int)rng_below(&r, 3), rng_below(&r, 2), 100, m.l),
                         OK);
        pool *p;
        cache *c, *crowd[8]; /* other caches that spread pages over extents */
        int n_crowd = 0;
        assert_int_equal(pool_create(m.l[0].page_bytes, 0, &p), OK);
        assert_int_equal(cache_create(p, &codec, (cache_shape){LAYERS, KV, D}, m.l, m.n_tiers, &c), OK);
        if (rng_below(&r, 4)) do_fill(&r, &m, c);
        for (int op = 0; op < 25; op++) {
            switch (rng_below(&r, 8)) {
            case 0:
            case 1:
            case 2:
                do_append(&r, &m, c);
                break;
            case 3:
            case 4:
                do_apply(&r, &m, c);
                break;
            case 5:
                do_truncate(&r, &m, c);
                break;
            case 6:
                do_score(&r, &m, c);
                break;
            default: { /* go on with a clone; the original stays in the crowd or goes */
                cache *copy;
                assert_int_equal(cache_clone(c, &copy), OK);
                if (n_crowd < 7)
                    crowd[n_crowd++] = c;
                else
                    cache_destroy(c);
                c = copy;
                if (n_crowd && rng_below(&r, 2)) cache_destroy(crowd[--n_crowd]);
                crowd[n_crowd] = c;
                cache_trim(crowd, n_crowd + 1);
                pool_stats st = pool_get_stats(p);
                assert_true(st.extents <= (st.pages_used + st.pages_per_extent - 1) / st.pages_per_extent + 1);
            }
            }
            if (op % 4 == 3) compare(&m, c);
        }
        compare(&m, c);
        while (n_crowd) {
            assert_int_equal(cache_check(crowd[n_crowd - 1]), OK);
            cache_destroy(crowd[--n_crowd]);
        }
        cache_destroy(c);
        assert_int_equal(pool_get_stats(p).pages_used, 0);
        assert_int_equal(pool_get_stats(p).extents, 0);
        pool_destroy(p);
        model_clear(&m);
    }
    compactor_destroy(all_at_once);
    assert_int_equal(mem_live_bytes(MEM_TABLES), 0);
    assert_int_equal(mem_live_bytes(MEM_POOL), 0);
    assert_int_equal(mem_live_bytes(MEM_SCRATCH), 0);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_lives_equal_the_model)};
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
