// The checker: what it remembers of every byte that kernels can share, and when two accesses are ordered.
//
// Order. Time is one growing number, the epoch. An access of an earlier epoch of the same block lies behind a __syncthreads; an access of
// this launch from before this block began belongs to another block and is not ordered; what an earlier launch did is ordered unless a
// stream could run the two at once. Within an epoch, threads of one warp are ordered by vector clocks that only __syncwarp advances:
// shuffles and votes do not order memory. Shared memory is a new one for each block.
//
// Memory. Per 4-byte word: the last plain write, two atomics and two reads, of different threads, since one would hide the others
// behind a thread's own. Accesses to parts of a word split it into bytes with such records each, until a whole plain write joins them.
#include "internal.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <unordered_map>

namespace simt {

Fiber *hooked;
bool checking, counting;

struct Record {
    uint32_t epoch; // 0: none
    uint32_t clock : 22, thread : 10;
    uint32_t place; // index into places
};
struct Cell { // small, since the misses of these in the cache are most of the checker's cost
    Record write, read;
    bool split; // bytes have cells of their own
    bool more;  // there is something in the other part
};
struct Cold {
    Record read, atomic[2];
};
static_assert(sizeof(Cell) == 28, "a cell has grown");

enum : uint8_t { addressable = 1, initialised = 2 };

static uint8_t *flags;    // per byte of the arena
static Cell *words;       // per 4 bytes
static Cell *bytes_cells; // per byte, in use where the word is split
static Cold *cold_words, *cold_bytes;
static uint32_t epoch = 1, launch_first = 1, block_first = 1;
static std::vector<Epochs> unordered; // of work that the current work may run beside
static bool copying;                  // the current accesses are those of a copy

// ---- places: 32-bit names for program counters and call sites --------------------------------------------------------------------

static std::vector<Where> places = {Where{}};
static std::unordered_map<const void *, uint32_t> by_pc;
static struct { const void *pc; uint32_t index; } recent[1024];

static uint32_t place_index(const Where &where) {
    if (where.pc) {
        auto &r = recent[reinterpret_cast<uintptr_t>(where.pc) >> 1 & 1023];
        if (r.pc == where.pc) return r.index;
        auto found = by_pc.emplace(where.pc, static_cast<uint32_t>(places.size()));
        if (found.second) places.push_back(where);
        r = {where.pc, found.first->second};
        return r.index;
    }
    static std::unordered_map<uint64_t, uint32_t> by_site;
    const uint64_t key = reinterpret_cast<uint64_t>(where.site.file) * 1000003 + static_cast<uint64_t>(where.site.line) * 4099 +
                         static_cast<uint64_t>(where.site.id);
    static struct { uint64_t key; uint32_t index; } recent_sites[256];
    auto &r = recent_sites[key & 255];
    if (r.key == key) return r.index;
    auto found = by_site.emplace(key, static_cast<uint32_t>(places.size()));
    if (found.second) places.push_back(where);
    r = {key, found.first->second};
    return r.index;
}

// ---- set-up ----------------------------------------------------------------------------------------------------------------------

static void *reserve(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "simt: no address space for the checker's %zu MiB\n", bytes >> 20);
        exit(2);
    }
    return p;
}

// Flags are kept whenever kernels are instrumented, so that a check may begin at any launch.
static bool has_shadow() {
    if (flags) return true;
    if (!instrumented()) return false;
    flags = static_cast<uint8_t *>(reserve(arena_bytes));
    words = static_cast<Cell *>(reserve(arena_bytes / 4 * sizeof(Cell)));
    bytes_cells = static_cast<Cell *>(reserve(arena_bytes * sizeof(Cell)));
    cold_words = static_cast<Cold *>(reserve(arena_bytes / 4 * sizeof(Cold)));
    cold_bytes = static_cast<Cold *>(reserve(arena_bytes * sizeof(Cold)));
    return true;
}

static void advance() {
    if (++epoch > 0xfffffff0u) {
        fprintf(stderr, "simt: more than four thousand million barriers; the checker cannot count on\n");
        exit(2);
    }
}

uint32_t check_begin(const std::vector<Epochs> &concurrent) {
    advance();
    launch_first = block_first = epoch;
    unordered = concurrent;
    return epoch;
}
uint32_t check_end() {
    advance();
    return epoch;
}

static size_t shared_flagged; // bytes of the shared region that have flags from the last block

void check_block() {
    if (!checking || !has_shadow()) return;
    advance();
    block_first = epoch;
    memset(flags, 0, shared_flagged);
    shared_flagged = 0;
}

void check_block_end(Worker &w) {
    if (checking && w.aborted) advance();
}

void check_barrier() {
    if (checking) advance();
}

void check_shared(const void *p, size_t bytes) {
    if (!checking || !has_shadow()) return;
    const size_t at = static_cast<size_t>(static_cast<const char *>(p) - arena);
    memset(flags + at, addressable, bytes);
    if (at + bytes > shared_flagged) shared_flagged = at + bytes;
}

void check_allocated(const void *p, size_t bytes) {
    if (has_shadow()) memset(flags + (static_cast<const char *>(p) - arena), addressable, bytes);
}
void check_freed(const void *p, size_t bytes) {
    if (has_shadow()) memset(flags + (static_cast<const char *>(p) - arena), 0, bytes);
}
void check_initialised(const void *p, size_t bytes, bool yes) {
    if (!has_shadow() || !in_arena(p)) return;
    const size_t at = static_cast<size_t>(static_cast<const char *>(p) - arena);
    memset(flags + at, yes ? addressable | initialised : addressable, bytes);
}
void check_copied(const void *to, const void *from, size_t bytes) {
    if (has_shadow()) memmove(flags + (static_cast<const char *>(to) - arena), flags + (static_cast<const char *>(from) - arena), bytes);
}

// Joins the clocks of the lanes that synchronise.
void check_sync_warp(Worker &w, unsigned first_thread, unsigned lanes) {
    if (!checking) return;
    uint32_t joined[32] = {};
    Fiber *fibers = &w.fibers[first_thread];
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        const Fiber &f = fibers[__builtin_ctz(rest)];
        for (int i = 0; i < 32; i++) joined[i] = joined[i] > f.clock[i] ? joined[i] : f.clock[i];
    }
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        Fiber &f = fibers[__builtin_ctz(rest)];
        memcpy(f.clock, joined, sizeof joined);
        if (++f.clock[f.lane] >= 1u << 22) {
            fprintf(stderr, "simt: more than four million __syncwarp in one block; the checker cannot count on\n");
            exit(2);
        }
    }
}

// ---- order -----------------------------------------------------------------------------------------------------------------------

struct Current {
    Fiber *fiber;
    Record record;
    bool shared;
};

static bool ordered_beyond_block(const Record &r) {
    if (r.epoch >= launch_first) return false; // another block
    for (const Epochs &e : unordered) {
        if (r.epoch >= e.first && r.epoch < e.end) return false;
    }
    return true;
}

static inline bool ordered(const Record &r, const Current &me) {
    if (r.epoch == 0) return true;
    if (r.epoch == epoch) {
        if (r.thread == me.record.thread) return true;
        return r.thread / 32 == me.record.thread / 32 && me.fiber && me.fiber->clock[r.thread % 32] >= r.clock;
    }
    if (r.epoch >= block_first || me.shared) return true;
    return ordered_beyond_block(r);
}

// Reads and atomics: what is ordered before me says nothing that I do not; else keep one of another warp or block.
static void remember(Record &first, Record &second, const Current &me) {
    Record *const kept[2] = {&first, &second};
    for (int i = 0; i < 2; i++) {
        if (ordered(*kept[i], me)) {
            *kept[i] = me.record;
            // Never the same thread in both slots.
            Record &twin = *kept[1 - i];
            if (twin.epoch == me.record.epoch && twin.thread == me.record.thread) twin.epoch = 0;
            return;
        }
    }
    const bool like_first = first.epoch >= block_first && first.thread / 32 == me.record.thread / 32;
    const bool like_second = second.epoch >= block_first && second.thread / 32 == me.record.thread / 32;
    if (like_first && !like_second) return; // its warp is represented already, and the other slot holds another warp
    second = me.record;
}

static void report_race(const char *what, const Record &r, const Current &me, const void *address) {
    Quiet quiet;
    char text[256];
    const bool other_block = r.epoch < block_first, other_launch = r.epoch < launch_first;
    report(Kind::race, places[me.record.place], places[r.place], "%s by thread %u%s, %s thread %u%s, %s", what, me.record.thread,
           copying ? " (a copy)" : "", "unordered with", r.thread,
           other_launch ? " of work in another stream" : other_block ? " of another block" : "", describe_address(address, text, sizeof text));
}

static void check_atomics(const Cold &cold, Access access, const Current &me, const void *address) {
    for (const Record &r : cold.atomic) {
        if (!ordered(r, me)) {
            report_race(access == Access::read ? "plain read beside an atomic:" : "plain write beside an atomic:", r, me, address);
            return;
        }
    }
}

static inline void check_cell(Cell &c, Cold &cold, Access access, const Current &me, const void *address) {
    if (!ordered(c.write, me)) {
        report_race(access == Access::read ? "read of what another writes:" : access == Access::write ? "two writes:" : "atomic beside a plain write:",
                    c.write, me, address);
    }
    if (c.more && access != Access::atomic) check_atomics(cold, access, me, address);
    if (access == Access::read) {
        if (!c.more) {
            if (ordered(c.read, me)) {
                c.read = me.record;
                return;
            }
            cold = Cold();
            c.more = true;
        }
        remember(c.read, cold.read, me);
        return;
    }
    if (!ordered(c.read, me) || (c.more && !ordered(cold.read, me))) {
        report_race(access == Access::write ? "write of what another reads:" : "atomic beside a plain read:",
                    ordered(c.read, me) ? cold.read : c.read, me, address);
    }
    if (access == Access::atomic) {
        if (!c.more) cold = Cold();
        c.more = true;
        remember(cold.atomic[0], cold.atomic[1], me);
    } else {
        c.write = me.record;
        c.read.epoch = 0;
        c.more = false;
    }
}

// ---- an access -------------------------------------------------------------------------------------------------------------------

static void split_word(size_t word) {
    for (size_t i = 4 * word; i < 4 * word + 4; i++) {
        bytes_cells[i] = words[word];
        if (words[word].more) cold_bytes[i] = cold_words[word];
    }
    words[word].split = true;
}

static void check_range(size_t at, size_t bytes, Access access, const Current &me) {
    size_t i = at;
    const size_t end = at + bytes;
    while (i < end) {
        Cell &word = words[i / 4];
        if (i % 4 == 0 && end - i >= 4) {
            if (!word.split) {
                check_cell(word, cold_words[i / 4], access, me, arena + i);
            } else {
                for (size_t k = i; k < i + 4; k++) check_cell(bytes_cells[k], cold_bytes[k], access, me, arena + k);
                if (access == Access::write) {
                    word = bytes_cells[i]; // a whole write leaves four equal cells with nothing more
                }
            }
            i += 4;
        } else {
            if (!word.split) split_word(i / 4);
            check_cell(bytes_cells[i], cold_bytes[i], access, me, arena + i);
            i++;
        }
    }
}

// Out of the arena: the thread's own stack and the arguments are fine to touch, constants to read.
static struct { const char *p; size_t bytes; } constants[256];
static unsigned n_constants;

void register_constant(const void *p, size_t bytes) {
    if (n_constants == sizeof constants / sizeof constants[0]) {
        fprintf(stderr, "simt: more than 256 CONSTANT arrays\n");
        exit(2);
    }
    constants[n_constants++] = {static_cast<const char *>(p), bytes};
}

static void check_outside(Worker &w, Fiber &f, const char *p, size_t bytes, Access access, const Where &where) {
    if (p >= f.stack && p < f.stack + stack_bytes) return;
    const char *stacks = w.fibers[0].stack;
    if (p >= stacks && p < stacks + stack_bytes * max_threads) {
        report(Kind::out_of_bounds, where, at_site({}), "thread %u touches the local memory of thread %zu", f.thread,
               static_cast<size_t>(p - stacks) / stack_bytes);
        return;
    }
    const char *closure = reinterpret_cast<const char *>(w.launch->closure);
    if (access == Access::read && p >= closure && p + bytes <= closure + w.launch->closure->bytes) return;
    for (unsigned i = 0; i < n_constants && access == Access::read; i++) {
        if (p >= constants[i].p && p + bytes <= constants[i].p + constants[i].bytes) return;
    }
    for (unsigned i = 0; i < n_constants; i++) {
        if (p < constants[i].p || p >= constants[i].p + constants[i].bytes + 64) continue;
        report(Kind::out_of_bounds, where, at_site({}), "%s %zu bytes at byte %td of a CONSTANT array of %zu",
               access == Access::read ? "reads" : "writes", bytes, p - constants[i].p, constants[i].bytes);
        set_error(cudaErrorIllegalAddress, true);
        abort_launch(w);
    }
    report(Kind::host_memory, where, at_site({}), "%s of %zu bytes at %p, which is no device memory",
           access == Access::read ? "read" : "write", bytes, static_cast<const void *>(p));
    set_error(cudaErrorIllegalAddress, true);
    abort_launch(w);
}

// The uncommon ends of an access: not in the arena, misaligned, not addressable, never written.
__attribute__((noinline)) static bool check_suspicious(Worker &w, Fiber &f, const char *p, size_t bytes, Access access, const Where &where) {
    const size_t at = static_cast<size_t>(p - arena);
    if (at >= arena_bytes) {
        check_outside(w, f, p, bytes, access, where);
        return false;
    }
    if ((bytes == 2 || bytes == 4 || bytes == 8 || bytes == 16) && at % bytes) {
        report(Kind::misaligned, where, at_site({}), "%zu bytes at %p", bytes, static_cast<const void *>(p));
        set_error(cudaErrorMisalignedAddress, true);
        abort_launch(w);
    }
    bool all_addressable = true, all_initialised = true;
    for (size_t i = 0; i < bytes; i++) {
        all_addressable &= (flags[at + i] & addressable) != 0;
        all_initialised &= (flags[at + i] & initialised) != 0;
    }
    char text[256];
    if (!all_addressable) {
        report(Kind::out_of_bounds, where, at_site({}), "%s of %zu bytes by thread %u: %s", access == Access::read ? "read" : "write", bytes, f.thread,
               describe_address(p, text, sizeof text));
        set_error(cudaErrorIllegalAddress, true);
        abort_launch(w);
    }
    if (access != Access::write && !all_initialised) {
        report(Kind::uninitialised, where, at_site({}), "thread %u reads %zu bytes of which some were never written: %s", f.thread, bytes,
               describe_address(p, text, sizeof text));
    }
    if (access != Access::read) memset(flags + at, addressable | initialised, bytes);
    return true;
}

static inline bool is_plain_sailing(size_t at, size_t bytes) {
    uint64_t seen = 0;
    switch (bytes) {
    case 1: return flags[at] == 3;
    case 2: memcpy(&seen, flags + at, 2); return seen == 0x0303u && at % 2 == 0;
    case 4: memcpy(&seen, flags + at, 4); return seen == 0x03030303u && at % 4 == 0;
    case 8: memcpy(&seen, flags + at, 8); return seen == 0x0303030303030303u && at % 8 == 0;
    default: return false;
    }
}

void check_access(const void *address, size_t bytes, Access access, const Where &where) {
    if (counting) count_access(address, bytes, access, where);
    if (!checking) return;
    Worker &w = *tls_worker;
    Fiber &f = *w.current;
    const char *p = static_cast<const char *>(address);
    const size_t at = static_cast<size_t>(p - arena);
    if ((at >= arena_bytes || !is_plain_sailing(at, bytes)) && !check_suspicious(w, f, p, bytes, access, where)) return;
    Current me;
    me.fiber = &f;
    me.record.epoch = epoch;
    me.record.clock = f.clock[f.lane] & 0x3fffff;
    me.record.thread = f.thread & 0x3ff;
    me.record.place = place_index(where);
    me.shared = at < max_host_threads * shared_region_bytes;
    if (bytes == 4 && !words[at / 4].split) check_cell(words[at / 4], cold_words[at / 4], access, me, p);
    else check_range(at, bytes, access, me);
}

// Copies are checked against kernels and other copies that no stream orders.
void check_copy_access(const void *p, size_t bytes, bool write, bool cautious) {
    if (!cautious || !options().check || !has_shadow() || !in_arena(p)) return;
    static const Site site = {"an asynchronous copy", 0, 0};
    Current me;
    me.fiber = nullptr;
    me.record.epoch = epoch;
    me.record.clock = 0;
    me.record.thread = 0;
    me.record.place = place_index(at_site(site));
    me.shared = false;
    copying = true;
    check_range(static_cast<size_t>(static_cast<const char *>(p) - arena), bytes, write ? Access::write : Access::read, me);
    copying = false;
}

} // namespace simt
