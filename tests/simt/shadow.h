// The checker's records of memory and the short way through them, which hooks.cpp takes for nearly every access; check.cpp has the long way.
//
// A record is one 64-bit word: when, which thread, where in the program, what. Time is one growing number that every launch, block,
// __syncthreads and __syncwarp advances, so a thread's time names the span between two of its synchronisations, and later is greater.
// What every access from now on is ordered behind is settled: it needs no record. One word of memory therefore needs one record nearly
// always: a write replaces everything ordered before it, and so does a read once the writes are settled. The rest (several readers, a
// read beside an unsettled write, several atomics) goes to a fuller form, and parts of one word that are used
// by themselves get cells of their own.
#pragma once
#include "internal.h"

namespace simt {

typedef uint64_t Record; // time 36, thread 10, place 16, kind 2; 0: none
const int kind_bits = 2, place_bits = 16, thread_bits = 10, place_shift = kind_bits, thread_shift = place_shift + place_bits,
          time_shift = thread_shift + thread_bits;
const uint64_t last_time = (uint64_t(1) << (64 - time_shift)) - 2;

enum RecordKind : uint64_t {
    by_write,
    by_read,
    by_atomic,
    by_readers // of several reads after settled writes: the last that was noted; all are in the fuller form
};
const Record of_two_warps = uint64_t(1) << place_shift; // of by_readers: in this time between barriers, so another read adds nothing
// Cells that hold no record; greater than every time.
const Record cell_full = ~uint64_t(0) << time_shift;       // the records are in the fuller form
const Record cell_halved = cell_full | 1 * of_two_warps; // the two halves of the word have cells of their own
const Record cell_split = cell_full | 2 * of_two_warps;  // the four bytes have

const uint64_t place_mask = uint64_t(0xffff) << place_shift;
inline uint64_t time_of(Record r) { return r >> time_shift; }
inline unsigned thread_of(Record r) { return static_cast<unsigned>(r >> thread_shift) & 0x3ffu; }
inline uint32_t place_in(Record r) { return static_cast<uint32_t>(r >> place_shift) & 0xffffu; }
inline RecordKind kind_of(Record r) { return static_cast<RecordKind>(r & 3); }

// Times here are shifted to where records have them, so that one comparison tells.
struct alignas(64) Shadow {
    size_t quick_bytes;     // accesses this far into the arena may go the short way: all of it or, while something is counted or threads
                            // are stopped at random, nothing
    uint8_t *flags;         // per word: 4 bits, which bytes may be touched, and 4, which were written
    Record *words, *halves, *bytes; // cells
    Record settled, barrier, launch_first, block_first, other_blocks; // other_blocks: the last two's difference
};
extern Shadow shadow;
const size_t all_shared_bytes = max_host_threads * shared_region_bytes; // of the arena's beginning

// Places are numbered when they are first seen. The short way knows those of late, shifted to where records have them; 0: not this one.
struct PlaceOfPc {
    const void *pc;
    static uint64_t find(const void *pc);
    uint64_t recent() const {
        const auto &r = recents[reinterpret_cast<uintptr_t>(pc) >> 1 & 4095];
        return r.pc == pc ? r.shifted : 0;
    }
    static struct Recent { const void *pc; uint64_t shifted; } recents[4096];
};
struct PlaceOfSite {
    Site site;
    static uint64_t find(Site site);
    uint64_t recent() const {
        const auto &r = recents[key_of(site) & 255];
        return r.key == key_of(site) ? r.shifted : 0;
    }
    static uint64_t key_of(Site s) {
        return reinterpret_cast<uint64_t>(s.file) * 1000003 + static_cast<uint64_t>(s.line) * 4099 + static_cast<uint64_t>(s.id);
    }
    static struct Recent { uint64_t key, shifted; } recents[256];
};

// The bytes of an access inside one word, as flags have them.
inline unsigned flag_mask(size_t at, size_t bytes) { return (bytes == 4 ? 0xffu : bytes == 2 ? 0x33u : 0x11u) << (at & 3); }

// Addressable and, if it is read, written before; a write marks it so. The access is aligned.
template <size_t bytes, Access access> inline bool quick_flags(size_t at) {
    uint8_t *f = shadow.flags + at / 4;
    if (bytes <= 4) {
        const unsigned mask = flag_mask(at, bytes);
        if (access != Access::write) return (*f & mask) == mask;
        if ((*f & mask & 15u) != (mask & 15u)) return false;
        *f = static_cast<uint8_t>(*f | mask);
        return true;
    }
    uint32_t seen = 0;
    const uint32_t all = bytes == 8 ? 0xffffu : 0xffffffffu;
    __builtin_memcpy(&seen, f, bytes / 4);
    if (access != Access::write) return seen == all;
    if ((seen | 0xf0f0f0f0u) != (all | 0xf0f0f0f0u)) return false;
    __builtin_memcpy(f, &all, bytes / 4);
    return true;
}

// Whether a read adds nothing to this unsettled cell. Another block's reads stand for it in any order that matters, since whoever writes
// later is unordered with them, too; so do those of two warps, and what the thread itself wrote or read in this span. A cell with by_read
// was seen written before, so flags need no look: the long way keeps reads of what was not in the fuller form.
inline bool read_says_nothing(Record c, uint64_t stamp) {
    if (c & by_read) {
        if (c - shadow.launch_first < shadow.other_blocks) return true;
        if ((c & (of_two_warps | by_readers)) == (of_two_warps | by_readers) && c >= shadow.barrier) return true;
    }
    return (c ^ stamp) >> thread_shift == 0 && kind_of(c) != by_atomic;
}

// An access that flags allow, to one cell. False: this needs the long way; nothing has changed then.
template <Access access, class Place> inline bool quick_cell(Record &cell, uint64_t stamp, const Place &place, Record settled) {
    const Record c = cell;
    if (c >= settled) {
        if (access == Access::read) return read_says_nothing(c, stamp);
        if ((c ^ stamp) >> thread_shift) return false;
        if (access == Access::atomic) return kind_of(c) == by_write || kind_of(c) == by_atomic;
        if (kind_of(c) == by_readers) return false;
    }
    const uint64_t where = place.recent();
    if (!where) return false;
    cell = stamp | where | (access == Access::read ? by_read : access == Access::write ? by_write : by_atomic);
    return true;
}

// A read of a cell that saw nothing but reads since a settled write, in its common cases. False: none of them.
bool read_again(size_t at, Record me);

template <size_t bytes, Access access, class Place> inline bool quick_access(size_t at, uint64_t stamp, const Place &place) {
    if (at & (bytes - 1)) return false;
    const Record settled = at < all_shared_bytes ? shadow.barrier : shadow.settled;
    Record *word = shadow.words + at / 4;
    if (bytes == 4 && access == Access::read && *word >= settled && (*word & by_read)) return read_says_nothing(*word, stamp);
    if (!quick_flags<bytes, access>(at)) return false;
    if (bytes >= 4) {
        for (size_t i = 0; i < bytes / 4; i++) {
            if (!quick_cell<access>(word[i], stamp, place, settled)) return false;
        }
        return true;
    }
    const Record parted = bytes == 2 ? cell_halved : cell_split;
    Record *cells = bytes == 2 ? shadow.halves + at / 2 : shadow.bytes + at;
    if (*word != parted) {
        if (*word >= settled) return access == Access::read && read_says_nothing(*word, stamp);
        __builtin_memset(bytes == 2 ? shadow.halves + at / 4 * 2 : shadow.bytes + at / 4 * 4, 0, 4 / bytes * sizeof(Record));
        *word = parted;
    }
    return quick_cell<access>(*cells, stamp, place, settled);
}

} // namespace simt
