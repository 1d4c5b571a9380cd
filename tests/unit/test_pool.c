/* The page pool: conservation, extents filled fullest first and really given back, trim, limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "cache/pool.h"
#include "tests/support/seed.h"

static pool *create(size_t page_bytes, size_t max_bytes) {
    pool *p;
    assert_int_equal(pool_create(page_bytes, max_bytes, &p), OK);
    return p;
}

static page_ref alloc(pool *p) {
    page_ref r;
    assert_int_equal(pool_alloc(p, &r), OK);
    return r;
}

/* Rss of huge pages comes in 2 MiB; a neighbour that the kernel merged is not ours. */
static void expect_rss(const pool *p, size_t least, size_t most) {
    size_t rss = pool_smaps_rss_bytes(p);
    if (rss + 8192 < least || rss > most + 8192)
        fail_msg("smaps says %zu bytes, expected %zu to %zu", rss, least, most);
}

static void sizes_that_cannot_be_are_refused(void **state) {
    pool *p;
    assert_int_equal(pool_create(0, 0, &p), ERR_UNSUPPORTED);
    assert_int_equal(pool_create(4100, 0, &p), ERR_UNSUPPORTED);
    assert_int_equal(pool_create(POOL_EXTENT_BYTES + 64, 0, &p), ERR_UNSUPPORTED);
    assert_int_equal(pool_create(4096, 1000, &p), ERR_UNSUPPORTED);
    assert_null(p);
    pool_destroy(NULL);
}

static void extents_are_committed_on_demand_and_given_back(void **state) {
    size_t before = mem_live_bytes(MEM_POOL);
    pool *p = create(7168, 0);
    size_t ppe = pool_get_stats(p).pages_per_extent;
    assert_int_equal(ppe, POOL_EXTENT_BYTES / 7168);
    assert_int_equal((uintptr_t)pool_base(p) % POOL_EXTENT_BYTES, 0);
    assert_int_equal(pool_get_stats(p).committed_bytes, 0);
    expect_rss(p, 0, 0);

    enum { N_EXTENTS = 5 };
    size_t n = ppe * N_EXTENTS;
    page_ref *r = malloc(n * sizeof *r);
    assert_non_null(r);
    for (size_t i = 0; i < n; i++) {
        r[i] = alloc(p);
        memset(pool_page(pool_base(p), r[i]), (int)i, 7168);
        assert_int_equal(pool_get_stats(p).extents, (i + ppe) / ppe);
    }
    pool_stats st = pool_get_stats(p);
    assert_int_equal(st.committed_bytes, N_EXTENTS * (size_t)POOL_EXTENT_BYTES);
    assert_int_equal(mem_live_bytes(MEM_POOL) - before, st.committed_bytes);
    expect_rss(p, n * 7168, st.committed_bytes);

    for (size_t i = ppe; i < 3 * ppe; i++) pool_free(p, r[i]); /* extents 1 and 2 become empty */
    st = pool_get_stats(p);
    assert_int_equal(st.extents, 3);
    assert_int_equal(st.peak_extents, N_EXTENTS);
    assert_int_equal(mem_live_bytes(MEM_POOL) - before, st.committed_bytes);
    expect_rss(p, st.pages_used * 7168, st.committed_bytes);
    for (size_t i = 0; i < n; i++) {
        if (i / ppe == 1 || i / ppe == 2) continue;
        uint8_t *page = pool_page(pool_base(p), r[i]);
        assert_true(page[0] == (uint8_t)i && page[7167] == (uint8_t)i);
        pool_free(p, r[i]);
    }
    assert_int_equal(pool_get_stats(p).committed_bytes, 0);
    expect_rss(p, 0, 0);
    pool_reset_peaks(p);
    assert_int_equal(pool_get_stats(p).peak_committed_bytes, 0);
    pool_destroy(p);
    assert_int_equal(mem_live_bytes(MEM_POOL), before);
    free(r);
}

static void a_bounded_pool_says_that_it_is_full(void **state) {
    pool *p = create(1 << 20, 3 * POOL_EXTENT_BYTES + 5);
    page_ref r[7];
    assert_int_equal(pool_alloc_n(p, 7, r), ERR_NOMEM);
    assert_string_equal(err_text(), "pool of 6291456 bytes is full");
    assert_int_equal(pool_get_stats(p).pages_used, 0);
    assert_int_equal(pool_get_stats(p).extents, 0);
    assert_int_equal(pool_alloc_n(p, 6, r), OK);
    assert_int_equal(pool_alloc(p, &r[6]), ERR_NOMEM);
    pool_free(p, r[2]);
    assert_int_equal(pool_alloc(p, &r[6]), OK);
    assert_int_equal(r[6], r[2]);
    pool_destroy(p);
}

static void the_fullest_extent_is_filled_first(void **state) {
    pool *p = create(1 << 18, 0); /* 8 pages an extent */
    page_ref r[24];
    assert_int_equal(pool_alloc_n(p, 24, r), OK);
    pool_free(p, r[0]), pool_free(p, r[1]), pool_free(p, r[2]); /* 5, 7 and 6 used */
    pool_free(p, r[8]);
    pool_free(p, r[16]), pool_free(p, r[17]);
    assert_int_equal(alloc(p), r[8]);
    assert_int_equal(alloc(p), r[16]);
    assert_int_equal(alloc(p), r[17]);
    assert_int_equal(alloc(p), r[0]);
    assert_int_equal(pool_get_stats(p).extents, 3);
    pool_destroy(p);
}

typedef struct owner {
    page_ref ref;
    uint32_t mark;
} owner;
typedef struct owners {
    owner *o;
    size_t n;
    uint8_t *base;
} owners;

static void relocate(void *arg, page_ref from, page_ref to) {
    owners *a = arg;
    for (size_t i = 0; i < a->n; i++) {
        if (a->o[i].ref != from) continue;
        a->o[i].ref = to;
        return;
    }
    fail_msg("a page without owner was moved");
}

static void random_use_conserves_pages_and_trims(void **state) {
    static const size_t sizes[] = {64 * 33, 4352, 65536, 1 << 20};
    rng r = rng_make(seed_get(), 1);
    for (int s = 0; s < 4; s++) {
        pool *p = create(sizes[s], 0);
        size_t ppe = pool_get_stats(p).pages_per_extent, room = ppe * 6;
        owners a = {malloc(room * sizeof(owner)), 0, pool_base(p)};
        assert_non_null(a.o);
        uint32_t mark = 1;
        for (int round = 0; round < 30; round++) {
            size_t want = rng_below(&r, (uint32_t)room);
            while (a.n < want) {
                page_ref ref = alloc(p);
                uint32_t *page = pool_page(a.base, ref);
                page[0] = page[sizes[s] / 4 - 1] = mark;
                a.o[a.n++] = (owner){ref, mark++};
            }
            while (a.n > want) { /* at random, so that extents become sparse */
                size_t i = rng_below(&r, (uint32_t)a.n);
                pool_free(p, a.o[i].ref);
                assert_false(pool_is_used(p, a.o[i].ref));
                a.o[i] = a.o[--a.n];
            }
            if (round % 3 == 2) {
                pool_trim(p, relocate, &a);
                pool_stats st = pool_get_stats(p);
                assert_true(st.extents * ppe <= st.pages_used + ppe); /* at most one extent more than pages in use */
            }
            pool_stats st = pool_get_stats(p);
            assert_int_equal(st.pages_used, a.n);
            assert_int_equal(st.committed_bytes, st.extents * POOL_EXTENT_BYTES);
            assert_true(st.pages_used <= st.extents * ppe && st.peak_pages_used >= st.pages_used &&
                        st.peak_extents >= st.extents);
            assert_true(pool_smaps_rss_bytes(p) <= st.committed_bytes + 8192);
            for (size_t i = 0; i < a.n; i++) { /* contents intact means: no page was handed out twice */
                uint32_t *page = pool_page(a.base, a.o[i].ref);
                assert_true(pool_is_used(p, a.o[i].ref));
                assert_true(page[0] == a.o[i].mark && page[sizes[s] / 4 - 1] == a.o[i].mark);
            }
        }
        pool_destroy(p);
        free(a.o);
    }
}

static void references_that_are_no_pages_are_not_used(void **state) {
    pool *p = create(4352, 0);
    page_ref r = alloc(p);
    assert_true(pool_is_used(p, r));
    assert_false(pool_is_used(p, r + 1));
    assert_false(pool_is_used(p, r + 68));
    assert_false(pool_is_used(p, PAGE_NONE));
    assert_false(pool_is_used(p, 481 * 68)); /* the unusable rest of the extent */
    pool_destroy(p);
}

static void failing_allocations_leave_nothing_behind(void **state) {
    for (int n = 1; n <= 2; n++) {
        size_t before = mem_live_bytes(MEM_OTHER);
        pool *p;
        mem_fail_nth(n);
        assert_int_equal(pool_create(4096, 0, &p), ERR_NOMEM);
        mem_fail_nth(0);
        assert_null(p);
        assert_int_equal(mem_live_bytes(MEM_OTHER), before);
    }
}

/* Under a limit on address space the range becomes smaller, and below the least a sentence says why. */
static void a_limit_on_address_space_is_lived_with(void **state) {
#ifndef __SANITIZE_ADDRESS__ /* its shadow memory alone is beyond any limit */
    static const struct {
        size_t extra;
        err want;
    } cases[] = {{(size_t)1 << 30, OK}, {8 << 20, ERR_NOMEM}};
    for (int i = 0; i < 2; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            unsigned long pages = 0;
            FILE *f = fopen("/proc/self/statm", "r");
            if (!f || fscanf(f, "%lu", &pages) != 1) _exit(2);
            fclose(f);
            size_t bytes = pages * (size_t)sysconf(_SC_PAGESIZE) + cases[i].extra;
            if (setrlimit(RLIMIT_AS, &(struct rlimit){bytes, bytes})) _exit(3);
            pool *p;
            page_ref r;
            err e = pool_create(4096, 0, &p);
            if (e != cases[i].want) _exit(4);
            if (e == OK && (pool_alloc(p, &r) || !memset(pool_page(pool_base(p), r), 1, 4096))) _exit(5);
            if (e != OK && !strstr(err_text(), "ulimit -v")) _exit(6);
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
#endif
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_that_cannot_be_are_refused),
        cmocka_unit_test(extents_are_committed_on_demand_and_given_back),
        cmocka_unit_test(a_bounded_pool_says_that_it_is_full),
        cmocka_unit_test(the_fullest_extent_is_filled_first),
        cmocka_unit_test(random_use_conserves_pages_and_trims),
        cmocka_unit_test(references_that_are_no_pages_are_not_used),
        cmocka_unit_test(failing_allocations_leave_nothing_behind),
        cmocka_unit_test(a_limit_on_address_space_is_lived_with),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
