// The checker's long way: what shadow.h cannot decide at a glance, what it remembers in full, and what it says.
//
// Order. What an earlier __syncthreads of the same block ended lies behind everything that follows; an access of this launch from before
// this block began belongs to another block and is not ordered; what an earlier launch did is ordered unless a stream could run the two
// at once. Between two __syncthreads, threads of one warp are ordered by vector clocks that only __syncwarp advances: shuffles and votes do
// not order memory. Shared memory is a new one for each block.
//
// Memory in full. Per word, or per byte where a word is split: the last plain write, two atomics and two reads, of different threads, since
// one would hide the others behind a thread's own.
#include "shadow.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <unordered_map>

namespace simt {

Fiber *hooked;
bool checking, counting;
Shadow shadow;

struct Full {
    Record write, read[2], atomic[2];
};
static Full *full_words, *full_halves, *full_bytes;
static uint64_t now = 1, launch_first = 1, block_first = 1, last_barrier = 1, settled_before = 1;
static std::vector<Span> unordered; // of work that the current work may run beside
static bool copying;                // the current accesses are those of a copy

// ---- places: 16-bit names for program counters and call sites --------------------------------------------------------------------

static std::vector<Where> places = {Where{}};
PlaceOfPc::Recent PlaceOfPc::recents[4096];
PlaceOfSite::Recent PlaceOfSite::recents[256];

static uint64_t new_place(const Where &where) {
    if (places.size() > 0xffff) {
        fprintf(stderr, "simt: more than 65,535 places in kernels that access memory; the checker has no names left\n");
        exit(2);
    }
    places.push_back(where);
    return places.size() - 1;
}

uint64_t PlaceOfPc::find(const void *pc) {
    static std::unordered_map<const void *, uint64_t> known;
    if (const uint64_t shifted = PlaceOfPc{pc}.recent()) return shifted;
    uint64_t &shifted = known[pc];
    if (!shifted) shifted = new_place(at_pc(pc)) << place_shift;
    recents[reinterpret_cast<uintptr_t>(pc) >> 1 & 4095] = {pc, shifted};
    return shifted;
}

uint64_t PlaceOfSite::find(Site site) {
    static std::unordered_map<uint64_t, uint64_t> known;
    if (const uint64_t shifted = PlaceOfSite{site}.recent()) return shifted;
    uint64_t &shifted = known[key_of(site)];
    if (!shifted) shifted = new_place(at_site(site)) << place_shift;
    recents[key_of(site) & 255] = {key_of(site), shifted};
    return shifted;
}

// ---- set-up ----------------------------------------------------------------------------------------------------------------------

static void *reserve(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "simt: no address space for the checker's %zu MiB\n", bytes >> 20);
        exit(2);
    }
#ifdef MADV_HUGEPAGE
    madvise(p, bytes, MADV_HUGEPAGE); // strided kernels touch a page of the shadow with nearly every access
#endif
    return p;
}

// Flags are kept whenever kernels are instrumented, so that a check may begin at any launch.
static bool has_shadow() {
    if (shadow.flags) return true;
    if (!instrumented()) return false;
    shadow.flags = static_cast<uint8_t *>(reserve(arena_bytes / 4));
    shadow.words = static_cast<Record *>(reserve(arena_bytes / 4 * sizeof(Record)));
    shadow.halves = static_cast<Record *>(reserve(arena_bytes / 2 * sizeof(Record)));
    shadow.bytes = static_cast<Record *>(reserve(arena_bytes * sizeof(Record)));
    full_words = static_cast<Full *>(reserve(arena_bytes / 4 * sizeof(Full)));
    full_halves = static_cast<Full *>(reserve(arena_bytes / 2 * sizeof(Full)));
    full_bytes = static_cast<Full *>(reserve(arena_bytes * sizeof(Full)));
    return true;
}

static void advance() {
    if (++now >= last_time) {
        fprintf(stderr, "simt: more than sixty thousand million barriers; the checker cannot count on\n");
        exit(2);
    }
}
static void set_stamp(Fiber &f) { f.stamp = now << time_shift | static_cast<uint64_t>(f.thread) << thread_shift; }

// All threads of the block, or nobody, go on from here.
static void begin_span(Worker *w) {
    advance();
    last_barrier = now;
    shadow.barrier = now << time_shift;
    for (unsigned i = 0; w && i < w->n_threads; i++) set_stamp(w->fibers[i]);
}

static void begin_block(Worker *w) {
    begin_span(w);
    block_first = now;
    shadow.block_first = now << time_shift;
    shadow.other_blocks = shadow.block_first - shadow.launch_first;
}

uint64_t check_begin(const std::vector<Span> &concurrent, uint64_t settled) {
    begin_block(nullptr);
    launch_first = now;
    shadow.other_blocks = 0;
    settled_before = settled ? settled : now;
    shadow.launch_first = launch_first << time_shift;
    shadow.settled = settled_before << time_shift;
    unordered = concurrent;
    return now;
}
uint64_t check_end() {
    advance();
    return now;
}

// A byte's two bits lie four apart in its word's flags.
enum : unsigned { addressable = 1, initialised = 16, both = addressable | initialised };

static unsigned flags_of(size_t at) { return shadow.flags[at / 4] >> (at & 3) & both; }
static void set_flags_of(size_t at, unsigned value) {
    uint8_t &f = shadow.flags[at / 4];
    f = static_cast<uint8_t>((f & ~(both << (at & 3))) | value << (at & 3));
}
static void set_flags(size_t at, size_t bytes, unsigned value) {
    const size_t end = at + bytes;
    while (at < end && at % 4) set_flags_of(at++, value);
    const size_t n_words = (end - at) / 4;
    memset(shadow.flags + at / 4, static_cast<int>(value * 15), n_words);
    for (at += 4 * n_words; at < end; at++) set_flags_of(at, value);
}
static size_t offset_of(const void *p) { return static_cast<size_t>(static_cast<const char *>(p) - arena); }

static size_t shared_flagged; // bytes of the shared region that have flags from the last block

void check_block(Worker &w) {
    if (!checking || !has_shadow()) return;
    const Options &o = options();
    shadow.quick_bytes = counting || o.preempt ? 0 : arena_bytes;
    begin_block(&w);
    set_flags(0, shared_flagged, 0);
    shared_flagged = 0;
}

void check_block_end() { shadow.quick_bytes = 0; }

void check_barrier(Worker &w) {
    if (checking) begin_span(&w);
}

void check_shared(const void *p, size_t bytes) {
    if (!checking || !has_shadow()) return;
    set_flags(offset_of(p), bytes, addressable);
    shared_flagged = std::max(shared_flagged, (offset_of(p) + bytes + 3) / 4 * 4);
}

void check_allocated(const void *p, size_t bytes) {
    if (has_shadow()) set_flags(offset_of(p), bytes, addressable);
}
void check_freed(const void *p, size_t bytes) {
    if (has_shadow()) set_flags(offset_of(p), bytes, 0);
}
void check_initialised(const void *p, size_t bytes, bool yes) {
    if (has_shadow() && in_arena(p)) set_flags(offset_of(p), bytes, yes ? both : addressable);
}
void check_copied(const void *to_, const void *from_, size_t bytes) {
    if (!has_shadow()) return;
    const size_t to = offset_of(to_), from = offset_of(from_);
    if (to % 4 == 0 && from % 4 == 0 && bytes % 4 == 0) {
        memmove(shadow.flags + to / 4, shadow.flags + from / 4, bytes / 4);
        return;
    }
    const bool backwards = to > from;
    for (size_t k = 0; k < bytes; k++) {
        const size_t i = backwards ? bytes - 1 - k : k;
        set_flags_of(to + i, flags_of(from + i));
    }
}

// Joins the clocks of the lanes that synchronise.
void check_sync_warp(Worker &w, unsigned first_thread, unsigned lanes) {
    if (!checking) return;
    uint64_t joined[32] = {};
    Fiber *fibers = &w.fibers[first_thread];
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        Fiber &f = fibers[__builtin_ctz(rest)];
        f.clock[f.lane] = time_of(f.stamp);
        for (int i = 0; i < 32; i++) joined[i] = std::max(joined[i], f.clock[i]);
    }
    advance();
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        Fiber &f = fibers[__builtin_ctz(rest)];
        memcpy(f.clock, joined, sizeof joined);
        set_stamp(f);
    }
}

// ---- order -----------------------------------------------------------------------------------------------------------------------

struct Current {
    const Fiber *fiber; // null: a copy
    Record record;      // of no kind
    bool shared;
    bool unwritten; // reads bytes that nobody wrote
};

static bool ordered_beyond_block(uint64_t time) {
    if (time >= launch_first) return false; // another block
    for (const Span &s : unordered) {
        if (time >= s.first && time < s.end) return false;
    }
    return true;
}

static inline bool ordered(Record r, const Current &me) {
    if (r == 0) return true;
    const uint64_t time = time_of(r);
    if (time >= last_barrier) {
        if (thread_of(r) == thread_of(me.record)) return true;
        return thread_of(r) / 32 == thread_of(me.record) / 32 && me.fiber && me.fiber->clock[thread_of(r) % 32] >= time;
    }
    if (time >= block_first || me.shared) return true;
    return ordered_beyond_block(time);
}

// Nothing that comes can be unordered with this.
static inline bool is_settled(Record r, const Current &me) { return time_of(r) < (me.shared ? last_barrier : settled_before); }

static inline bool same_warp_here(Record r, const Current &me) {
    return time_of(r) >= block_first && thread_of(r) / 32 == thread_of(me.record) / 32;
}

// Reads and atomics: what is ordered before me says nothing that I do not; else keep one of another warp or block.
static void remember(Record kept[2], const Current &me, RecordKind kind) {
    for (int i = 0; i < 2; i++) {
        if (ordered(kept[i], me)) {
            kept[i] = me.record | kind;
            // Never the same thread in both slots.
            Record &twin = kept[1 - i];
            if ((twin ^ me.record) >> thread_shift == 0) twin = 0;
            return;
        }
    }
    if (same_warp_here(kept[0], me) && !same_warp_here(kept[1], me)) return; // its warp is represented, and the other slot holds another
    kept[1] = me.record | kind;
}

static void report_race(const char *what, Record r, const Current &me, const void *address) {
    Quiet quiet;
    char text[256];
    const bool other_block = time_of(r) < block_first, other_launch = time_of(r) < launch_first;
    report(Kind::race, places[place_in(me.record)], places[place_in(r)], "%s by thread %u%s, %s thread %u%s, %s", what, thread_of(me.record),
           copying ? " (a copy)" : "", "unordered with", thread_of(r),
           other_launch ? " of work in another stream" : other_block ? " of another block" : "", describe_address(address, text, sizeof text));
}

// ---- one cell --------------------------------------------------------------------------------------------------------------------

static Full unpack(Record cell, const Full &full) {
    if (cell == cell_full || kind_of(cell) == by_readers) return full;
    Full f = {};
    (kind_of(cell) == by_read ? f.read[0] : kind_of(cell) == by_atomic ? f.atomic[0] : f.write) = cell;
    return f;
}

// One record if one says it all.
static void pack(Record &cell, Full &full, const Full &f, const Current &me) {
    Record kept = 0;
    int n = 0;
    for (Record r : {f.write, f.read[0], f.read[1], f.atomic[0], f.atomic[1]}) {
        if (r == 0 || is_settled(r, me)) continue;
        kept = r;
        n++;
    }
    if (n <= 1) {
        cell = kept;
        return;
    }
    full = f;
    const bool only_reads = is_settled(f.write, me) && is_settled(f.atomic[0], me) && is_settled(f.atomic[1], me);
    const bool by_two_warps = time_of(f.read[0]) >= last_barrier && time_of(f.read[1]) >= last_barrier &&
                              thread_of(f.read[0]) / 32 != thread_of(f.read[1]) / 32;
    cell = only_reads ? (me.record & ~place_mask) | by_readers | (by_two_warps ? of_two_warps : 0) : cell_full;
}

static bool read_again(Record &cell, Full &full, Record me, Record settled) {
    const Record c = cell;
    if (c < settled) return false;
    if (read_says_nothing(c, me)) return true;
    if (!(c & by_read)) return false;
    if (c < shadow.barrier) { // ordered before me if of this block, and then a later thread ordered behind me is behind it too
        if (c < shadow.block_first || kind_of(c) == by_readers) return false;
        cell = me | by_read;
        return true;
    }
    const bool same_warp = (c ^ me) >> (thread_shift + 5) == 0;
    if (!same_warp && thread_of(c) / 32 == thread_of(me) / 32) return false; // a __syncwarp between them
    if (kind_of(c) == by_read) {
        full = {0, {c, me | by_read}, {0, 0}};
    } else {
        if (full.read[1] < shadow.block_first) return false; // of work that runs beside this launch
        const bool mine_is_first = full.read[0] >= shadow.block_first && thread_of(full.read[0]) == thread_of(me);
        full.read[mine_is_first ? 0 : 1] = me | by_read;
    }
    cell = (me & ~place_mask) | by_readers | (same_warp ? 0 : of_two_warps);
    return true;
}
bool read_again(size_t at, Record me) {
    return read_again(shadow.words[at / 4], full_words[at / 4], me, at < all_shared_bytes ? shadow.barrier : shadow.settled);
}

static void check_cell(Record &cell, Full &full, Access access, const Current &me, const void *address) {
    if (access == Access::read && read_again(cell, full, me.record, me.shared ? shadow.barrier : shadow.settled)) return;
    Full f = unpack(cell, full);
    if (!ordered(f.write, me)) {
        report_race(access == Access::read ? "read of what another writes:" : access == Access::write ? "two writes:" : "atomic beside a plain write:",
                    f.write, me, address);
    }
    for (Record r : f.atomic) {
        if (access == Access::atomic || ordered(r, me)) continue;
        report_race(access == Access::read ? "plain read beside an atomic:" : "plain write beside an atomic:", r, me, address);
        break;
    }
    if (access == Access::read) {
        remember(f.read, me, by_read);
        pack(cell, full, f, me);
        return;
    }
    for (Record r : f.read) {
        if (ordered(r, me)) continue;
        report_race(access == Access::write ? "write of what another reads:" : "atomic beside a plain read:", r, me, address);
        break;
    }
    if (access == Access::write) {
        cell = me.record | by_write;
    } else {
        remember(f.atomic, me, by_atomic);
        pack(cell, full, f, me);
    }
}

// ---- an access -------------------------------------------------------------------------------------------------------------------

// A word in parts of this many bytes, fewer than before.
static void part_word(size_t word, size_t bytes) {
    Record &cell = shadow.words[word];
    for (size_t at = 4 * word; at < 4 * word + 4; at += bytes) {
        const Record from = cell == cell_halved ? shadow.halves[at / 2] : cell;
        const Full &full = cell == cell_halved ? full_halves[at / 2] : full_words[word];
        (bytes == 2 ? shadow.halves[at / 2] : shadow.bytes[at]) = from;
        (bytes == 2 ? full_halves[at / 2] : full_bytes[at]) = full;
    }
    cell = bytes == 2 ? cell_halved : cell_split;
}

static void check_part(Record &cell, Full &full, Access access, const Current &me, size_t at) {
    check_cell(cell, full, access, me, arena + at);
    if (!me.unwritten) return;
    full = unpack(cell, full);
    cell = cell_full;
}

static void check_range(size_t at, size_t bytes, Access access, const Current &me) {
    const Record mine = me.record | (access == Access::read ? by_read : access == Access::write ? by_write : by_atomic);
    const size_t end = at + bytes;
    while (at < end) {
        Record &word = shadow.words[at / 4];
        const size_t n = at % 4 == 0 && end - at >= 4 ? 4 : at % 2 == 0 && end - at >= 2 ? 2 : 1;
        size_t part = word == cell_split ? 1 : word == cell_halved ? 2 : 4;
        if (n < part) part_word(at / 4, part = n);
        bool same = true;
        for (size_t k = at; k < at + n; k += part) {
            Record &cell = part == 4 ? word : part == 2 ? shadow.halves[k / 2] : shadow.bytes[k];
            check_part(cell, part == 4 ? full_words[k / 4] : part == 2 ? full_halves[k / 2] : full_bytes[k], access, me, k);
            same &= cell == mine;
        }
        if (n == 4 && same) word = mine; // one story for the whole word again
        at += n;
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
struct Finding {
    bool in_arena, unwritten;
};
__attribute__((noinline)) static Finding check_suspicious(Worker &w, Fiber &f, const char *p, size_t bytes, Access access, const Where &where) {
    const size_t at = static_cast<size_t>(p - arena);
    if (at >= arena_bytes) {
        check_outside(w, f, p, bytes, access, where);
        return {false, false};
    }
    if ((bytes == 2 || bytes == 4 || bytes == 8 || bytes == 16) && at % bytes) {
        report(Kind::misaligned, where, at_site({}), "%zu bytes at %p", bytes, static_cast<const void *>(p));
        set_error(cudaErrorMisalignedAddress, true);
        abort_launch(w);
    }
    bool all_addressable = true, all_initialised = true;
    for (size_t i = 0; i < bytes; i++) {
        all_addressable &= (flags_of(at + i) & addressable) != 0;
        all_initialised &= (flags_of(at + i) & initialised) != 0;
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
    if (access != Access::read) set_flags(at, bytes, both);
    return {true, access == Access::read && !all_initialised};
}

static bool is_plain_sailing(size_t at, size_t bytes) {
    if (at >= arena_bytes || at & (bytes - 1)) return false;
    switch (bytes) {
    case 1: return quick_flags<1, Access::read>(at);
    case 2: return quick_flags<2, Access::read>(at);
    case 4: return quick_flags<4, Access::read>(at);
    case 8: return quick_flags<8, Access::read>(at);
    case 16: return quick_flags<16, Access::read>(at);
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
    Finding found = {true, false};
    if (!is_plain_sailing(at, bytes)) found = check_suspicious(w, f, p, bytes, access, where);
    if (!found.in_arena) return;
    const uint64_t place = where.pc ? PlaceOfPc::find(where.pc) : PlaceOfSite::find(where.site);
    check_range(at, bytes, access, {&f, f.stamp | place, at < all_shared_bytes, found.unwritten});
}

// Copies are checked against kernels and other copies that no stream orders.
void check_copy_access(const void *p, size_t bytes, bool write, bool cautious) {
    if (!cautious || !options().check || !has_shadow() || !in_arena(p)) return;
    static const Site site = {"an asynchronous copy", 0, 0};
    const Current me = {nullptr, now << time_shift | PlaceOfSite::find(site), false, false};
    copying = true;
    check_range(offset_of(p), bytes, write ? Access::write : Access::read, me);
    copying = false;
}

} // namespace simt
