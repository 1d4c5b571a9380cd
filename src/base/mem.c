#include "base/mem.h"

#include <assert.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MEM_ALIGN = 64 };

/* Lies just before the block; as large as the alignment so that the block is aligned too. */
typedef struct mem_header {
    _Alignas(MEM_ALIGN) uint64_t magic;
    size_t bytes;
    mem_tag tag;
} mem_header;
_Static_assert(sizeof(mem_header) == MEM_ALIGN, "the header fills one alignment unit");

static const uint64_t magic_live = 0x6b766c61624d454dull, magic_freed = 0x6b766c6162646561ull;

static _Atomic ptrdiff_t live[MEM_N_TAGS], peak[MEM_N_TAGS];
static atomic_int fail_countdown;

#ifdef __SANITIZE_ADDRESS__
/* A request that cannot be met must come back as ERR_NOMEM under the sanitizer too. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "allocator_may_return_null=1";
}
#endif

const char *mem_tag_name(mem_tag tag) {
    static const char *const names[MEM_N_TAGS] = {"other",    "weights", "pool",   "tables",
                                                  "snapshot", "scratch", "policy", "logits"};
    return (unsigned)tag < MEM_N_TAGS ? names[tag] : "unknown";
}

void mem_account(mem_tag tag, ptrdiff_t delta_bytes) {
    ptrdiff_t now = atomic_fetch_add_explicit(&live[tag], delta_bytes, memory_order_relaxed) + delta_bytes;
    assert(now >= 0);
    ptrdiff_t seen = atomic_load_explicit(&peak[tag], memory_order_relaxed);
    while (now > seen && !atomic_compare_exchange_weak_explicit(&peak[tag], &seen, now, memory_order_relaxed,
                                                                memory_order_relaxed)) {}
}

static void *block_new(mem_tag tag, size_t bytes) {
    if (bytes == 0) bytes = MEM_ALIGN;
    if (bytes > PTRDIFF_MAX - sizeof(mem_header)) return NULL;
    void *raw;
    if (posix_memalign(&raw, MEM_ALIGN, sizeof(mem_header) + bytes) != 0) return NULL;
    mem_header *h = raw;
    *h = (mem_header){magic_live, bytes, tag};
    memset(h + 1, 0, bytes);
    mem_account(tag, (ptrdiff_t)bytes);
    return h + 1;
}

static bool injected_failure(void) {
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) <= 0) return false;
    return atomic_fetch_sub(&fail_countdown, 1) == 1;
}

err mem_alloc(mem_tag tag, size_t bytes, void *out_ptr) {
    assert((unsigned)tag < MEM_N_TAGS);
    void *block = injected_failure() ? NULL : block_new(tag, bytes);
    memcpy(out_ptr, &block, sizeof block);
    if (!block) return ERR(ERR_NOMEM, "out of memory: cannot allocate %zu bytes for %s", bytes, mem_tag_name(tag));
    return OK;
}

err mem_reserve(mem_tag tag, size_t bytes, void *inout_ptr, size_t *cap_bytes) {
    void *block;
    memcpy(&block, inout_ptr, sizeof block);
    if (block && *cap_bytes >= bytes) return OK;
    mem_free(block); /* first, so that the peak is the larger block and not the sum */
    *cap_bytes = 0;
    TRY(mem_alloc(tag, bytes, inout_ptr));
    *cap_bytes = bytes;
    return OK;
}

void mem_free(void *block) {
    if (!block) return;
    mem_header *h = (mem_header *)block - 1;
    assert(h->magic == magic_live);
    h->magic = magic_freed;
    mem_account(h->tag, -(ptrdiff_t)h->bytes);
    free(h);
}

size_t mem_live_bytes(mem_tag tag) {
    return (size_t)atomic_load_explicit(&live[tag], memory_order_relaxed);
}

size_t mem_peak_bytes(mem_tag tag) {
    return (size_t)atomic_load_explicit(&peak[tag], memory_order_relaxed);
}

void mem_reset_peaks(void) {
    for (int t = 0; t < MEM_N_TAGS; t++) atomic_store(&peak[t], atomic_load(&live[t]));
}

size_t mem_rss_bytes(void) {
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    unsigned long total, resident;
    int n = fscanf(f, "%lu %lu", &total, &resident);
    fclose(f);
    return n == 2 ? resident * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

void mem_fail_nth(int n) {
    atomic_store(&fail_countdown, n);
}

void *mem_alloc_small(size_t bytes) {
    void *block = block_new(MEM_OTHER, bytes);
    if (!block) {
        fputs("kvlab: out of memory\n", stderr);
        abort();
    }
    return block;
}

char *mem_strdup(const char *s) {
    size_t n = strlen(s) + 1;
    return memcpy(mem_alloc_small(n), s, n);
}

char *mem_sprintf(const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    assert(n >= 0);
    char *s = mem_alloc_small((size_t)n + 1);
    vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}
