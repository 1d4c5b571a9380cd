/* Pages move out of sparse extents; a temporary map finds the table entry that names a page. */
#include <assert.h>
#include "base/log.h"
#include "base/mem.h"
#include "cache/cache_impl.h"

typedef struct owners {
    page_ref **entry; /* [one per page of the extents in use] */
    size_t refs_per_page, refs_per_extent, pages_per_extent;
} owners;

static size_t page_index(const owners *o, page_ref r) {
    return r / o->refs_per_extent * o->pages_per_extent + r % o->refs_per_extent / o->refs_per_page;
}

static void page_moved(void *arg, page_ref from, page_ref to) {
    owners *o = arg;
    page_ref *entry = o->entry[page_index(o, from)];
    assert(entry); /* a page of no cache: the caller left one out */
    *entry = to;
    o->entry[page_index(o, to)] = entry;
}

void cache_trim(cache **caches, int n) {
    if (n == 0) return;
    pool *p = caches[0]->pool;
    pool_stats st = pool_get_stats(p);
    if (st.extents <= (st.pages_used + st.pages_per_extent - 1) / st.pages_per_extent + 1) return;

    owners o = {.refs_per_page = st.page_bytes / 64,
                .refs_per_extent = POOL_EXTENT_BYTES / 64,
                .pages_per_extent = st.pages_per_extent};
    page_ref top = 0;
    for (int k = 0; k < n; k++) {
        for (size_t i = 0; i < caches[k]->n_lists; i++) {
            const page_list *l = &caches[k]->lists[i];
            for (uint32_t j = 0; j < l->n_pages; j++) {
                if (caches[k]->refs[l->first + j] > top) top = caches[k]->refs[l->first + j];
            }
        }
    }
    /* pages may also move up into free slots of the highest extent in use */
    size_t n_pages = (top / o.refs_per_extent + 1) * o.pages_per_extent;
    if (mem_alloc(MEM_OTHER, n_pages * sizeof *o.entry, &o.entry) != OK) {
        log_warn("the page pool was not trimmed: %s", err_text());
        return;
    }
    for (int k = 0; k < n; k++) {
        for (size_t i = 0; i < caches[k]->n_lists; i++) {
            const page_list *l = &caches[k]->lists[i];
            for (uint32_t j = 0; j < l->n_pages; j++) {
                page_ref *entry = &caches[k]->refs[l->first + j];
                o.entry[page_index(&o, *entry)] = entry;
            }
        }
    }
    pool_trim(p, page_moved, &o);
    mem_free(o.entry);
    for (int k = 0; k < n; k++) CACHE_ASSERT_SOUND(caches[k]);
}
