/* Extents with the same number of used pages form a list, so the fullest with room and the emptiest are found at once.
 * Which pages of an extent are used is a bitmap in a second, demand-zero mapping: the extents themselves hold nothing
 * but pages. */
#define _GNU_SOURCE /* mmap flags, madvise */
#include "cache/pool.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include "base/mem.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define FORBID(at, n) ASAN_POISON_MEMORY_REGION(at, n)
#define PERMIT(at, n) ASAN_UNPOISON_MEMORY_REGION(at, n)
#else
#define FORBID(at, n) ((void)0)
#define PERMIT(at, n) ((void)0)
#endif

enum { REF_UNIT = 64, REFS_PER_EXTENT = POOL_EXTENT_BYTES / REF_UNIT };
#define RANGE_BYTES     ((size_t)64 << 30)
#define RANGE_MIN_BYTES ((size_t)64 << 20)
#define NO_EXTENT       UINT32_MAX

typedef struct extent {
    uint32_t n_used;
    bool committed;
    uint32_t prev, next; /* committed extents with equal n_used */
} extent;

struct pool {
    uint8_t *base;
    size_t range_bytes, n_extents, max_extents; /* of the range; that may be committed */
    bool bounded;
    size_t refs_per_page, words_per_extent;     /* words of 64 bits of the bitmap */
    extent *ext;                                /* [n_extents], in the second mapping with the bitmaps */
    uint64_t *used;                             /* [n_extents][words_per_extent] */
    size_t side_bytes;
    size_t first_gap; /* no extent below it is uncommitted */
    uint32_t *head;   /* [pages_per_extent + 1] lists by n_used */
    pool_stats st;
};

static void *map_nothing(size_t bytes) {
    return mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

/* Reserves up to `want` bytes at a multiple of an extent, halving while the OS refuses. */
static err reserve_range(size_t want, uint8_t **base, size_t *bytes) {
    size_t least = want < RANGE_MIN_BYTES ? want : RANGE_MIN_BYTES;
    for (size_t n = want; n >= least; n /= 2) {
        n = n / POOL_EXTENT_BYTES * POOL_EXTENT_BYTES;
        uint8_t *at = map_nothing(n + POOL_EXTENT_BYTES);
        if (at == MAP_FAILED) continue;
        size_t skip = -(uintptr_t)at % POOL_EXTENT_BYTES;
        if (skip) munmap(at, skip);
        munmap(at + skip + n, POOL_EXTENT_BYTES - skip);
        *base = at + skip;
        *bytes = n;
        return OK;
    }
    return ERR(ERR_NOMEM,
               "page pool: the OS gives no address range of even %zu MiB (%s); a limit on virtual memory (ulimit -v) "
               "must leave room for it",
               least >> 20, strerror(errno));
}

err pool_create(size_t page_bytes, size_t max_bytes, pool **out) {
    *out = NULL;
    if (page_bytes == 0 || page_bytes % REF_UNIT || page_bytes > POOL_EXTENT_BYTES)
        return ERR(ERR_UNSUPPORTED, "page pool: pages of %zu bytes; supported are multiples of %d up to %d", page_bytes,
                   REF_UNIT, POOL_EXTENT_BYTES);
    if (max_bytes && max_bytes < POOL_EXTENT_BYTES)
        return ERR(ERR_UNSUPPORTED, "page pool: a bound of %zu bytes is less than one extent of %d bytes", max_bytes,
                   POOL_EXTENT_BYTES);
    pool *p = NULL;
    err e;
    GOTO(fail, e, mem_alloc(MEM_OTHER, sizeof *p, &p));
    p->st.page_bytes = page_bytes;
    p->st.pages_per_extent = POOL_EXTENT_BYTES / page_bytes;
    p->refs_per_page = page_bytes / REF_UNIT;
    p->words_per_extent = (p->st.pages_per_extent + 63) / 64;
    GOTO(fail, e, mem_alloc(MEM_OTHER, (p->st.pages_per_extent + 1) * sizeof *p->head, &p->head));
    memset(p->head, 0xff, (p->st.pages_per_extent + 1) * sizeof *p->head);

    size_t want =
        max_bytes && max_bytes < RANGE_BYTES ? max_bytes / POOL_EXTENT_BYTES * POOL_EXTENT_BYTES : RANGE_BYTES;
    GOTO(fail, e, reserve_range(want, &p->base, &p->range_bytes));
    p->n_extents = p->max_extents = p->range_bytes / POOL_EXTENT_BYTES;
    p->bounded = max_bytes != 0;
    p->side_bytes = p->n_extents * (sizeof(extent) + p->words_per_extent * sizeof(uint64_t));
    void *side = mmap(NULL, p->side_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (side == MAP_FAILED) {
        e = ERR(ERR_NOMEM, "page pool: the OS refuses %zu bytes for bitmaps (%s)", p->side_bytes, strerror(errno));
        goto fail;
    }
    p->used = side;
    p->ext = (extent *)(void *)(p->used + p->n_extents * p->words_per_extent);
    *out = p;
    return OK;
fail:
    pool_destroy(p);
    return e;
}

void pool_destroy(pool *p) {
    if (!p) return;
    mem_account(MEM_POOL, -(ptrdiff_t)p->st.committed_bytes);
    if (p->base) {
        for (size_t x = 0; p->used && x < p->n_extents; x++) {
            if (p->ext[x].committed) PERMIT(p->base + x * POOL_EXTENT_BYTES, POOL_EXTENT_BYTES);
        }
        munmap(p->base, p->range_bytes);
    }
    if (p->used) munmap(p->used, p->side_bytes);
    mem_free(p->head);
    mem_free(p);
}

uint8_t *pool_base(const pool *p) {
    return p->base;
}
pool_stats pool_get_stats(const pool *p) {
    return p->st;
}

size_t pool_free_pages(const pool *p) {
    return p->bounded ? p->max_extents * p->st.pages_per_extent - p->st.pages_used : SIZE_MAX;
}

void pool_reset_peaks(pool *p) {
    p->st.peak_pages_used = p->st.pages_used;
    p->st.peak_extents = p->st.extents;
    p->st.peak_committed_bytes = p->st.committed_bytes;
}

/* ---- lists of extents by used pages ---- */

static void list_remove(pool *p, uint32_t x) {
    extent *e = &p->ext[x];
    if (e->next != NO_EXTENT) p->ext[e->next].prev = e->prev;
    if (e->prev != NO_EXTENT)
        p->ext[e->prev].next = e->next;
    else
        p->head[e->n_used] = e->next;
}

static void list_insert(pool *p, uint32_t x) {
    extent *e = &p->ext[x];
    e->prev = NO_EXTENT;
    e->next = p->head[e->n_used];
    if (e->next != NO_EXTENT) p->ext[e->next].prev = x;
    p->head[e->n_used] = x;
}

static void set_n_used(pool *p, uint32_t x, uint32_t n_used) {
    list_remove(p, x);
    p->ext[x].n_used = n_used;
    list_insert(p, x);
}

static uint32_t fullest_with_room(const pool *p) {
    for (size_t n = p->st.pages_per_extent; n-- > 0;) {
        if (p->head[n] != NO_EXTENT) return p->head[n];
    }
    return NO_EXTENT;
}

static uint32_t emptiest(const pool *p) {
    for (size_t n = 0; n <= p->st.pages_per_extent; n++) {
        if (p->head[n] != NO_EXTENT) return p->head[n];
    }
    return NO_EXTENT;
}

/* ---- extents ---- */

static void count_extents(pool *p, int delta) {
    p->st.extents += (size_t)delta;
    p->st.committed_bytes = p->st.extents * POOL_EXTENT_BYTES;
    mem_account(MEM_POOL, (ptrdiff_t)delta * POOL_EXTENT_BYTES);
    if (p->st.extents > p->st.peak_extents) p->st.peak_extents = p->st.extents;
    p->st.peak_committed_bytes = p->st.peak_extents * POOL_EXTENT_BYTES;
}

static err commit_extent(pool *p, uint32_t *out) {
    size_t x = p->first_gap;
    while (x < p->n_extents && p->ext[x].committed) x++;
    p->first_gap = x;
    if (x == p->n_extents || p->st.extents == p->max_extents)
        return ERR(ERR_NOMEM, "pool of %zu bytes is full", p->max_extents * POOL_EXTENT_BYTES);
    uint8_t *at = p->base + x * POOL_EXTENT_BYTES;
    if (mprotect(at, POOL_EXTENT_BYTES, PROT_READ | PROT_WRITE))
        return ERR(ERR_NOMEM, "page pool: the OS refuses another extent of %d bytes beside %zu (%s)", POOL_EXTENT_BYTES,
                   p->st.committed_bytes, strerror(errno));
    madvise(at, POOL_EXTENT_BYTES, MADV_HUGEPAGE); /* best effort: kernels without huge pages refuse */
    FORBID(at, POOL_EXTENT_BYTES);
    p->ext[x] = (extent){.committed = true};
    list_insert(p, (uint32_t)x);
    count_extents(p, 1);
    *out = (uint32_t)x;
    return OK;
}

static void release_extent(pool *p, uint32_t x) {
    uint8_t *at = p->base + (size_t)x * POOL_EXTENT_BYTES;
    assert(p->ext[x].n_used == 0);
    list_remove(p, x);
    PERMIT(at, POOL_EXTENT_BYTES);
    madvise(at, POOL_EXTENT_BYTES, MADV_DONTNEED);
    mprotect(at, POOL_EXTENT_BYTES, PROT_NONE); /* a stray access ends the program at once; harmless where it fails */
    p->ext[x].committed = false;
    if (x < p->first_gap) p->first_gap = x;
    count_extents(p, -1);
}

/* ---- pages ---- */

static page_ref page_at(const pool *p, uint32_t x, size_t page) {
    return (page_ref)(x * (size_t)REFS_PER_EXTENT + page * p->refs_per_page);
}

static page_ref take_page(pool *p, uint32_t x) {
    uint64_t *words = p->used + x * p->words_per_extent;
    size_t w = 0;
    while (~words[w] == 0) w++;
    unsigned bit = (unsigned)__builtin_ctzll(~words[w]);
    words[w] |= (uint64_t)1 << bit;
    set_n_used(p, x, p->ext[x].n_used + 1);
    if (++p->st.pages_used > p->st.peak_pages_used) p->st.peak_pages_used = p->st.pages_used;
    page_ref r = page_at(p, x, w * 64 + bit);
    PERMIT(pool_page(p->base, r), p->st.page_bytes);
    return r;
}

/* Leaves an emptied extent committed. */
static void drop_page(pool *p, page_ref r) {
    uint32_t x = r / REFS_PER_EXTENT;
    size_t page = r % REFS_PER_EXTENT / p->refs_per_page;
    assert(pool_is_used(p, r));
    p->used[x * p->words_per_extent + page / 64] &= ~((uint64_t)1 << page % 64);
    set_n_used(p, x, p->ext[x].n_used - 1);
    p->st.pages_used--;
    FORBID(pool_page(p->base, r), p->st.page_bytes);
}

bool pool_is_used(const pool *p, page_ref r) {
    size_t x = r / REFS_PER_EXTENT, page = r % REFS_PER_EXTENT / p->refs_per_page;
    if (x >= p->n_extents || r % REFS_PER_EXTENT % p->refs_per_page || page >= p->st.pages_per_extent) return false;
    return p->ext[x].committed && (p->used[x * p->words_per_extent + page / 64] >> page % 64 & 1);
}

err pool_alloc(pool *p, page_ref *out) {
    uint32_t x = fullest_with_room(p);
    if (x == NO_EXTENT) TRY(commit_extent(p, &x));
    *out = take_page(p, x);
    return OK;
}

err pool_alloc_n(pool *p, int n, page_ref *out) {
    for (int i = 0; i < n; i++) {
        err e = pool_alloc(p, &out[i]);
        if (e == OK) continue;
        while (i > 0) pool_free(p, out[--i]);
        return e;
    }
    return OK;
}

void pool_free(pool *p, page_ref r) {
    drop_page(p, r);
    if (p->ext[r / REFS_PER_EXTENT].n_used == 0) release_extent(p, r / REFS_PER_EXTENT);
}

/* ---- trim ---- */

static void empty_extent(pool *p, uint32_t x, void (*moved)(void *arg, page_ref from, page_ref to), void *arg) {
    const uint64_t *words = p->used + x * p->words_per_extent;
    list_remove(p, x); /* not a target of its own pages */
    uint32_t left = p->ext[x].n_used;
    for (size_t w = 0; w < p->words_per_extent; w++) {
        for (; words[w]; left--) {
            page_ref from = page_at(p, x, w * 64 + (unsigned)__builtin_ctzll(words[w]));
            page_ref to = take_page(p, fullest_with_room(p));
            memcpy(pool_page(p->base, to), pool_page(p->base, from), p->st.page_bytes);
            moved(arg, from, to);
            p->used[x * p->words_per_extent + w] &= words[w] - 1;
            p->st.pages_used--;
        }
    }
    assert(left == 0);
    p->ext[x].n_used = 0;
    list_insert(p, x);
    release_extent(p, x);
}

void pool_trim(pool *p, void (*moved)(void *arg, page_ref from, page_ref to), void *arg) {
    size_t ppe = p->st.pages_per_extent, peak = p->st.peak_pages_used;
    while (p->st.extents > p->st.pages_used / ppe + 1) empty_extent(p, emptiest(p), moved, arg);
    p->st.peak_pages_used = peak; /* a page on its way was not two */
}

/* ---- what the OS says ---- */

size_t pool_smaps_rss_bytes(const pool *p) {
    FILE *f = fopen("/proc/self/smaps", "re");
    if (!f) return 0;
    char line[512];
    size_t total = 0;
    bool inside = false;
    uintptr_t base = (uintptr_t)p->base;
    while (fgets(line, sizeof line, f)) {
        unsigned long long lo, hi, kib;
        if (sscanf(line, "%llx-%llx ", &lo, &hi) == 2)
            inside = lo >= base && hi <= base + p->range_bytes;
        else if (inside && sscanf(line, "Rss: %llu kB", &kib) == 1)
            total += (size_t)kib << 10;
    }
    fclose(f);
    return total;
}
