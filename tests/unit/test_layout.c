/* Page layouts: sections inside the page and apart, capacities, and what the search promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "format/layout.h"

static const char *const formats[] = {"f32",  "f16",  "k8v8", "k8v4",    "k8v2",   "k4v8",
                                      "k4v4", "k4v2", "k2v2", "k8v4g32", "k4v2g32"};
enum { N_FORMATS = sizeof formats / sizeof *formats };

static kv_format parse(const char *name) {
    kv_format f;
    assert_int_equal(kv_format_parse(name, &f), OK);
    return f;
}

static void check_layout(const page_layout *l) {
    size_t cap = l->cap, d = l->head_dim, scales = cap * l->n_groups * 2, zero = kv_format_has_zero(l->fmt);
    size_t k_scales = l->fmt.k_channels ? cap / KV_TOKEN_GROUP * d * 2 : scales, unit = l->fmt.k_channels ? KV_TOKEN_GROUP : 8;
    bool quantised = !kv_format_is_float(l->fmt);
    assert_true(cap >= 8);
    assert_int_equal(l->off_k, 0);
    assert_true(l->off_v >= cap * d * l->fmt.k_bits / 8);
    size_t end = l->off_v + cap * d * l->fmt.v_bits / 8;
    if (quantised) {
        assert_int_equal(cap % unit, 0);
        assert_true(l->off_k_scale >= end && l->off_k_zero >= l->off_k_scale + k_scales);
        assert_true(l->off_v_scale >= l->off_k_zero + zero * k_scales && l->off_v_zero >= l->off_v_scale + scales);
        assert_int_equal((l->off_k_scale | l->off_k_zero | l->off_v_scale | l->off_v_zero) % 4, 0);
        end = l->off_v_zero + zero * scales;
    }
    if (l->pos_bytes) {
        assert_true(l->off_pos >= end && l->off_pos % 4 == 0);
        end = l->off_pos + cap * l->pos_bytes;
    }
    if (l->has_score) {
        assert_true(l->off_score >= end && l->off_score % 4 == 0);
        end = l->off_score + cap * 4;
    }
    assert_true(end <= l->page_bytes);
    size_t item = l->payload_bytes + l->meta_bytes + l->column_bytes;
    size_t pair = 2 + 2 * zero, v_meta = pair * l->n_groups;
    size_t meta = !quantised ? 0 : v_meta + (l->fmt.k_channels ? pair * d / KV_TOKEN_GROUP : v_meta);
    assert_int_equal(item, d * (l->fmt.k_bits + l->fmt.v_bits) / 8 + meta + l->pos_bytes + (l->has_score ? 4 : 0));
    assert_true(cap * item <= l->page_bytes);
    /* the largest one: one unit more would not fit even without padding, or only by the padding of K and V */
    assert_true((cap + (quantised ? unit : 1)) * item + 8 > l->page_bytes);
}

static void sections_are_apart_and_inside_the_page(void **state) {
    static const int dims[] = {32, 64, 96, 128, 256};
    for (int f = 0; f < N_FORMATS; f++) {
        for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
            for (int columns = 0; columns < 6; columns++) {
                for (size_t bytes = 8192; bytes <= 32768; bytes += 1088) {
                    page_layout l;
                    err e = page_layout_make(parse(formats[f]), dims[i], columns % 3 * 2, columns / 3, bytes, &l);
                    if (e == ERR_UNSUPPORTED) {
                        assert_true(8 * (kv_format_payload_bytes(parse(formats[f]), dims[i]) + 16) > bytes);
                        continue;
                    }
                    assert_int_equal(e, OK);
                    assert_int_equal(l.page_bytes, bytes);
                    check_layout(&l);
                }
            }
        }
    }
}

static void known_pages_hold_what_the_design_says(void **state) {
    page_layout l;
    assert_int_equal(page_layout_make(parse("k8v4"), 64, 2, true, 7168, &l), OK); /* 110 bytes an item: 65.2 */
    assert_int_equal(l.cap, 64);
    assert_int_equal(page_layout_make(parse("k4v2"), 64, 2, true, 7168, &l), OK); /* 62: 115.6 */
    assert_int_equal(l.cap, 112);
    assert_int_equal(page_layout_make(parse("k8v4"), 64, 2, false, 4352, &l), OK); /* 106: 41.05 */
    assert_int_equal(l.cap, 40);
    assert_int_equal(page_layout_make(parse("f16"), 64, 0, false, 4096, &l), OK);
    assert_int_equal(l.cap, 16);
}

static void impossible_pages_are_refused(void **state) {
    page_layout l;
    assert_int_equal(page_layout_make(parse("f32"), 64, 0, false, 2048, &l), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "f32"));
    assert_int_equal(page_layout_make(parse("f16"), 64, 3, false, 4096, &l), ERR_UNSUPPORTED);
    assert_int_equal(page_layout_make(parse("f16"), 64, 0, false, 4100, &l), ERR_UNSUPPORTED);
    assert_int_equal(page_layout_make(parse("f16"), 64, 0, false, 0, &l), ERR_UNSUPPORTED);
    assert_int_equal(page_layout_make(parse("f16"), 64, 0, false, 4 << 20, &l), ERR_UNSUPPORTED);
    assert_int_equal(page_layout_make(parse("k8v4"), 72, 0, false, 4096, &l), ERR_UNSUPPORTED);
    kv_format five[5] = {parse("f16"), parse("f16"), parse("f16"), parse("f16"), parse("f16")};
    assert_int_equal(page_layout_search(five, 5, 64, 0, false, 100, &l), ERR_UNSUPPORTED);
    assert_int_equal(page_layout_search(five, 0, 64, 0, false, 100, &l), ERR_UNSUPPORTED);
}

/* In-page slack stays under 2 % with one tier, 3 % with two, 4 % with three, at head_dim 64 and 128, whatever columns
 * and hint. */
static void search_keeps_slack_low(void **state) {
    static const double ceiling[] = {0, 0.02, 0.03, 0.04};
    static const struct {
        int n;
        const char *tiers[3];
    } sets[] = {
        {1, {"f32"}},
        {1, {"f16"}},
        {1, {"k8v8"}},
        {1, {"k8v4"}},
        {1, {"k4v4"}},
        {1, {"k4v2"}},
        {1, {"k2v2"}},
        {1, {"k4v4g32"}},
        {1, {"k4v4r"}},
        {1, {"k3v1"}},
        {1, {"k8v8s"}},
        {1, {"q8_0"}},
        {1, {"q4_0"}},
        {1, {"k8v4g64"}},
        {2, {"f16", "k4cv4g32"}},
        {2, {"f16", "k2cv2g32"}},
        {2, {"f16", "q4_0"}},
        {2, {"f32", "k4v4"}},
        {2, {"f16", "k8v4"}},
        {2, {"f16", "k4v2"}},
        {2, {"k8v4", "k4v2"}},
        {2, {"f16", "k4v4"}},
        {3, {"f16", "k8v4", "k4v2"}},
        {3, {"k8v4", "k4v4", "k4v2"}},
        {3, {"f16", "k8v4r", "k4v2r"}},
        {3, {"f16", "k4v4", "k2cv2g32"}},
    };
    static const int dims[] = {64, 80, 96, 128, 256}, hints[] = {64, 512, 4096};
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) {
        for (int i = 0; i < 5 * 6 * 3; i++) {
            int d = dims[i % 5], columns = i / 5 % 6, hint = hints[i / 30];
            kv_format f[3];
            page_layout l[3];
            bool suits = true;
            for (int t = 0; t < sets[s].n; t++) f[t] = parse(sets[s].tiers[t]), suits = suits && kv_format_check(f[t], d) == OK;
            if (!suits) continue;
            assert_int_equal(page_layout_search(f, sets[s].n, d, columns % 3 * 2, columns / 3, hint, l), OK);
            assert_true(l[0].page_bytes >= 2048u * d / 64 && l[0].page_bytes <= 16384u * d / 64 &&
                        l[0].page_bytes % 64 == 0);
            for (int t = 0; t < sets[s].n; t++) {
                check_layout(&l[t]);
                assert_int_equal(l[t].page_bytes, l[0].page_bytes);
                double used = (double)l[t].cap * (l[t].payload_bytes + l[t].meta_bytes + l[t].column_bytes);
                if (1 - used / l[t].page_bytes > ceiling[sets[s].n])
                    fail_msg("%s of %d tiers, head_dim %d, columns %d, hint %d: %u-byte pages waste %.1f %%",
                             sets[s].tiers[t], sets[s].n, d, columns, hint, l[t].page_bytes,
                             100 * (1 - used / l[t].page_bytes));
            }
        }
    }
}

static void short_contexts_get_smaller_pages(void **state) {
    kv_format f[2] = {parse("k8v4"), parse("k4v2")};
    page_layout few[2], many[2];
    assert_int_equal(page_layout_search(f, 2, 64, 2, true, 64, few), OK);
    assert_int_equal(page_layout_search(f, 2, 64, 2, true, 100000, many), OK);
    assert_true(few[0].page_bytes <= many[0].page_bytes);
    double few_bytes = 0, many_bytes = 0; /* per item, rest of the page included */
    for (int t = 0; t < 2; t++) {
        few_bytes += (double)few[t].page_bytes / few[t].cap;
        many_bytes += (double)many[t].page_bytes / many[t].cap;
    }
    assert_true(many_bytes <= few_bytes);
}

/* Powers of two of items within 32 KiB, as long as half a page is at most 0.5 % of all items' bytes; else what the search for any policy gives. */
static void tiers_that_hold_everything_get_long_pages(void **state) {
    static const char *const names[] = {"f32", "f16", "k8v8", "k8v4", "k4v4g32", "k4v2", "k3v3", "k1v1", "q8_0"};
    static const int dims[] = {64, 80, 96, 128, 256}, hints[] = {0, 64, 1000, 4096, 8000, 32768, 1 << 20};
    for (size_t s = 0; s < sizeof names / sizeof *names; s++)
        for (int i = 0; i < 5 * 7 * 3; i++) {
            int d = dims[i % 5], hint = hints[i / 5 % 7], columns = i / 35;
            kv_format f = parse(names[s]);
            page_layout any, full;
            if (kv_format_check(f, d)) continue;
            assert_int_equal(page_layout_search(&f, 1, d, 2 * columns, columns > 1, hint, &any), OK);
            assert_int_equal(page_layout_search_full(f, d, 2 * columns, columns > 1, hint, &full), OK);
            check_layout(&full);
            if (full.page_bytes == any.page_bytes) {
                assert_int_equal(full.cap, any.cap);
                continue;
            }
            double item = full.payload_bytes + full.meta_bytes + full.column_bytes, used = item * full.cap;
            assert_true(full.cap > any.cap && (full.cap & (full.cap - 1)) == 0);
            assert_true(full.cap <= 256 && full.page_bytes <= 32768u * (unsigned)d / 64 && full.page_bytes - used <= 0.02 * full.page_bytes);
            assert_true(0.5 * full.page_bytes <= 0.005 * item * hint);
        }
    static const struct { const char *name; int hint, cap; } known[] = {
        {"f16", 1000, 8}, {"f16", 4096, 32}, {"k8v4", 1000, 24}, {"k8v4", 4096, 32}, {"k8v4", 8000, 64},
        {"f16", 32768, 128}, {"k8v4", 32768, 256}, {"k4v2", 32768, 256}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        page_layout l;
        assert_int_equal(page_layout_search_full(parse(known[i].name), 64, 0, false, known[i].hint, &l), OK);
        assert_int_equal(l.cap, known[i].cap);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sections_are_apart_and_inside_the_page),
        cmocka_unit_test(known_pages_hold_what_the_design_says),
        cmocka_unit_test(impossible_pages_are_refused),
        cmocka_unit_test(search_keeps_slack_low),
        cmocka_unit_test(short_contexts_get_smaller_pages),
        cmocka_unit_test(tiers_that_hold_everything_get_long_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
