/* Heap with accounting by tag: bytes are counted where they are allocated, never estimated (design section 5).
 * Blocks are 64-byte aligned and zeroed. Thread-safe. All of kvlab's larger buffers come from here. */
#ifndef KVLAB_BASE_MEM_H
#define KVLAB_BASE_MEM_H
#include <stddef.h>
#include <stdbool.h>
#include "base/err.h"

typedef enum mem_tag {
    MEM_OTHER,
    MEM_WEIGHTS,  /* packed weights (the mmapped file is not counted) */
    MEM_POOL,     /* committed extents of page pools */
    MEM_TABLES,   /* page tables and per-head lengths */
    MEM_SNAPSHOT, /* full-precision K/V kept for forks */
    MEM_SCRATCH,  /* activations, partial results, work lists */
    MEM_POLICY,   /* policy state and signals */
    MEM_LOGITS,   /* reference distributions for KL */
    MEM_N_TAGS
} mem_tag;

/* *out = zeroed block of `bytes` (0 gives a valid 64-byte block); ERR_NOMEM names tag and size. */
MUST err mem_alloc(mem_tag tag, size_t bytes, void *out_ptr /* T ** */);
/* Grows a block to at least `bytes`, old contents NOT kept; for scratch. Never shrinks. *cap_bytes is updated. */
MUST err mem_reserve(mem_tag tag, size_t bytes, void *inout_ptr /* T ** */, size_t *cap_bytes);
void mem_free(void *block); /* NULL is fine */
/* Accounts memory that does not come from mem_alloc (pool extents). */
void mem_account(mem_tag tag, ptrdiff_t delta_bytes);

const char *mem_tag_name(mem_tag tag);
size_t mem_live_bytes(mem_tag tag);
size_t mem_peak_bytes(mem_tag tag);
void mem_reset_peaks(void);
size_t mem_rss_bytes(void); /* resident set of the process, from /proc/self/statm; 0 if unreadable */

/* Tests only: the n-th next allocation (1 = next) fails with ERR_NOMEM; 0 disarms. */
void mem_fail_nth(int n);

/* For names and configuration, bounded and small: a process that cannot have these bytes ends with a message. */
void *mem_alloc_small(size_t bytes);                                 /* zeroed, MEM_OTHER */
char *mem_strdup(const char *s);
char *mem_sprintf(const char *fmt, ...) PRINTF_LIKE(1, 2);           /* free with mem_free */
#endif
