// Counters: bytes, transactions and conflicts of warp-wide accesses. Lanes that come to the same place in the program for the n-th time
// form one warp-wide access, as they do on a device where they run together.
#include "internal.h"
#include <algorithm>
#include <cstring>
#include <unordered_map>

namespace simt {

Counters totals;

const Counters &counters() {
    Quiet quiet;
    count_code_finish(&totals);
    return totals;
}

struct LaneAccess {
    uint64_t group; // place, warp and how often the lane has been there
    const char *p;
    uint16_t bytes, lane;
    bool write;
};
static std::vector<LaneAccess> accesses; // of the block that is running
static std::unordered_map<uint64_t, uint32_t> visits;

void clear_counters() {
    Quiet quiet;
    totals = Counters();
    accesses.clear();
    visits.clear();
    count_code_clear();
}

void count_instruction(Instruction which, uint64_t flops) {
    if (!counting || !hooked) return;
    Worker &w = *tls_worker;
    switch (which) {
    case Instruction::special: totals.special++; break;
    case Instruction::dot_product: totals.dot_products++; break;
    case Instruction::mma:
        if (w.current->lane == 0) totals.mma++;
        totals.mma_flops += flops;
        break;
    }
}

void count_access(const void *address, size_t bytes, Access access, const Where &where) {
    Worker &w = *tls_worker;
    const Fiber &f = *w.current;
    const char *p = static_cast<const char *>(address);
    if (p >= f.stack && p < f.stack + stack_bytes) {
        if (p >= f.stack + stack_bytes - sizeof(ThreadInfo)) return; // threadIdx and its like are registers
        totals.local.accesses++;
        (access == Access::read ? totals.local.read_bytes : totals.local.written_bytes) += bytes;
        return;
    }
    if (!in_arena(p)) return; // arguments and constants
    uint64_t place = where.pc ? reinterpret_cast<uint64_t>(where.pc)
                              : reinterpret_cast<uint64_t>(where.site.file) + static_cast<uint64_t>(where.site.line) * 131071 +
                                    static_cast<uint64_t>(where.site.id) * 8191;
    place = place * 0x9E3779B97F4A7C15ull ^ (access == Access::read ? 0 : 0x5bd1e995u);
    const uint32_t visit = visits[place ^ (static_cast<uint64_t>(f.thread) << 48)]++;
    accesses.push_back({(place ^ static_cast<uint64_t>(f.warp) << 58) + visit * 0xD6E8FEB86659FD93ull, p, static_cast<uint16_t>(bytes), f.lane,
                        access != Access::read});
}

// 32-byte sectors that these bytes lie in.
static unsigned count_sectors(const LaneAccess *a, size_t n) {
    std::vector<uintptr_t> sectors;
    for (size_t i = 0; i < n; i++) {
        for (uintptr_t s = reinterpret_cast<uintptr_t>(a[i].p) / 32; s <= (reinterpret_cast<uintptr_t>(a[i].p) + a[i].bytes - 1) / 32; s++) sectors.push_back(s);
    }
    std::sort(sectors.begin(), sectors.end());
    return static_cast<unsigned>(std::unique(sectors.begin(), sectors.end()) - sectors.begin());
}

// Passes over the 32 banks: lanes go together while they want different words of different banks or the same word. 8-byte accesses go by
// half warps and 16-byte ones by quarter warps.
static unsigned count_passes(const LaneAccess *a, size_t n, unsigned *ideal) {
    unsigned passes = 0;
    *ideal = 0;
    const unsigned lanes_at_once = a[0].bytes >= 16 ? 8 : a[0].bytes == 8 ? 16 : 32;
    for (unsigned first = 0; first < 32; first += lanes_at_once) {
        std::vector<uintptr_t> bank_words;
        for (size_t i = 0; i < n; i++) {
            if (a[i].lane < first || a[i].lane >= first + lanes_at_once) continue;
            const uintptr_t from = reinterpret_cast<uintptr_t>(a[i].p) / 4, last = (reinterpret_cast<uintptr_t>(a[i].p) + a[i].bytes - 1) / 4;
            for (uintptr_t word = from; word <= last; word++) bank_words.push_back(word);
        }
        if (bank_words.empty()) continue;
        std::sort(bank_words.begin(), bank_words.end());
        bank_words.erase(std::unique(bank_words.begin(), bank_words.end()), bank_words.end());
        unsigned per_bank[32] = {}, most = 0;
        for (uintptr_t word : bank_words) most = std::max(most, ++per_bank[word % 32]);
        passes += most;
        *ideal += 1;
    }
    return passes;
}

void count_block_end(Worker &w) {
    const char *shared_end = w.shared + shared_region_bytes;
    std::stable_sort(accesses.begin(), accesses.end(), [](const LaneAccess &a, const LaneAccess &b) { return a.group < b.group; });
    for (size_t i = 0; i < accesses.size();) {
        size_t n = 1, bytes = accesses[i].bytes;
        while (i + n < accesses.size() && accesses[i + n].group == accesses[i].group) bytes += accesses[i + n++].bytes;
        const LaneAccess *a = &accesses[i];
        const bool shared = a->p >= w.shared && a->p < shared_end;
        Counters::Space &space = shared ? totals.shared : totals.global;
        (a->write ? space.written_bytes : space.read_bytes) += bytes;
        space.accesses++;
        if (shared) {
            unsigned ideal;
            const unsigned passes = count_passes(a, n, &ideal);
            space.transactions += passes;
            space.ideal += ideal;
            totals.bank_conflicts += passes - ideal;
        } else {
            space.transactions += count_sectors(a, n);
            // Lanes that read the same bytes share them.
            std::vector<const char *> distinct;
            for (size_t k = 0; k < n; k++) distinct.push_back(a[k].p);
            std::sort(distinct.begin(), distinct.end());
            const size_t n_distinct = static_cast<size_t>(std::unique(distinct.begin(), distinct.end()) - distinct.begin());
            space.ideal += (n_distinct * a->bytes + 31) / 32;
        }
        i += n;
    }
    accesses.clear();
    visits.clear();
}

} // namespace simt
