/* Page pool: equal-sized pages in 2 MiB extents of a reserved address range. Extents are committed on demand, filled fullest first,
 * and given back to the OS (MADV_DONTNEED) as soon as they are empty, so smaps agrees with `committed`.
 *
 * A page reference is the page's byte offset in the range divided by 64, so pages never straddle extents and kernels need no
 * division: address = pool_base(p) + 64 * ref. Not thread-safe: pages are allocated between or before parallel work. */
#ifndef KVLAB_CACHE_POOL_H
#define KVLAB_CACHE_POOL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum { POOL_EXTENT_BYTES = 2 << 20 };
typedef uint32_t page_ref;
enum { PAGE_NONE = 0xffffffffu };

typedef struct pool pool;
typedef struct pool_stats {
    size_t page_bytes, pages_per_extent;
    size_t pages_used, peak_pages_used;
    size_t extents, peak_extents;         /* committed */
    size_t committed_bytes, peak_committed_bytes;
} pool_stats;

/* page_bytes: multiple of 64, at most one extent. max_bytes bounds `committed` (0 = only the address range of 64 GiB does). */
MUST err pool_create(size_t page_bytes, size_t max_bytes, pool **out);
void pool_destroy(pool *p);
uint8_t *pool_base(const pool *p);
static inline void *pool_page(uint8_t *base, page_ref r) { return base + (size_t)r * 64; }
/* ERR_NOMEM says "pool of N bytes is full" or what the OS refused. Contents undefined. */
MUST err pool_alloc(pool *p, page_ref *out);
MUST err pool_alloc_n(pool *p, int n, page_ref *out /* [n] */); /* all or none */
void pool_free(pool *p, page_ref r);
bool pool_is_used(const pool *p, page_ref r); /* is r a page that was handed out and not freed? */
size_t pool_free_pages(const pool *p); /* that may still be allocated under the bound; SIZE_MAX without one */
pool_stats pool_get_stats(const pool *p);
void pool_reset_peaks(pool *p);
size_t pool_smaps_rss_bytes(const pool *p); /* Rss of the mapping from /proc/self/smaps; 0 if unreadable */

/* Relocates pages out of the emptiest extents until they hold at most one extent more than the pages used, and gives the
 * freed extents back. `moved` is called for each relocated page so that its owner can update tables. */
void pool_trim(pool *p, void (*moved)(void *arg, page_ref from, page_ref to), void *arg);
#endif
