// Warp-wide operations. A lane deposits what it brings and waits; when every lane of its mask waits at the same call, one pass computes
// all results and lets them go on.
#include "internal.h"
#include <cstring>

namespace simt {

static unsigned lanes_in_warp(const Worker &w, unsigned warp) {
    const unsigned n = w.n_threads - 32 * warp;
    return n >= 32 ? 0xffffffffu : (1u << n) - 1;
}

static bool same_call(const Fiber &a, const Fiber &b) {
    return a.op == b.op && a.mask == b.mask && a.site.line == b.site.line && a.site.id == b.site.id &&
           (a.site.file == b.site.file || strcmp(a.site.file, b.site.file) == 0);
}

// The lane a shuffle reads from, by PTX's rules; lanes outside their segment read themselves.
static unsigned source_lane(const Fiber &f) {
    const int lane = f.lane, width = f.width, first = lane / width * width, last = first + width - 1;
    int source = lane;
    switch (f.op) {
    case Op::shuffle: source = first + (f.argument & (width - 1)); break;
    case Op::shuffle_up: source = lane - f.argument < first ? lane : lane - f.argument; break;
    case Op::shuffle_down: source = lane + f.argument > last ? lane : lane + f.argument; break;
    default: source = (lane ^ f.argument) > last ? lane : lane ^ f.argument; break;
    }
    return static_cast<unsigned>(source);
}

static uint64_t combine(Op op, uint64_t a, uint64_t b) {
    const int32_t sa = static_cast<int32_t>(a), sb = static_cast<int32_t>(b);
    const uint32_t ua = static_cast<uint32_t>(a), ub = static_cast<uint32_t>(b);
    switch (op) {
    case Op::add: return static_cast<uint32_t>(ua + ub);
    case Op::min_signed: return static_cast<uint32_t>(sa < sb ? sa : sb);
    case Op::max_signed: return static_cast<uint32_t>(sa > sb ? sa : sb);
    case Op::min_unsigned: return ua < ub ? ua : ub;
    case Op::max_unsigned: return ua > ub ? ua : ub;
    case Op::bit_and: return ua & ub;
    case Op::bit_or: return ua | ub;
    default: return ua ^ ub;
    }
}

static void compute(Worker &w, Fiber *lanes, unsigned present) {
    const Op op = lanes[__builtin_ctz(present)].op;
    unsigned ballot = 0;
    uint64_t reduced = 0;
    bool first = true;
    for (unsigned rest = present; rest; rest &= rest - 1) {
        const Fiber &f = lanes[__builtin_ctz(rest)];
        if (f.value) ballot |= 1u << f.lane;
        if (op >= Op::add && op <= Op::bit_xor) reduced = first ? f.value : combine(op, reduced, f.value);
        first = false;
    }
    if (op == Op::exchange) {
        void *deposits[32] = {};
        for (unsigned rest = present; rest; rest &= rest - 1) {
            const unsigned i = static_cast<unsigned>(__builtin_ctz(rest));
            deposits[i] = reinterpret_cast<void *>(lanes[i].value);
        }
        if (present == 0xffffffffu) lanes[0].compute(deposits); // else reported already
    }
    for (unsigned rest = present; rest; rest &= rest - 1) {
        Fiber &f = lanes[__builtin_ctz(rest)];
        switch (op) {
        case Op::sync:
        case Op::exchange: break;
        case Op::ballot: f.result = ballot; break;
        case Op::any: f.result = ballot != 0; break;
        case Op::all: f.result = ballot == present; break;
        case Op::shuffle:
        case Op::shuffle_up:
        case Op::shuffle_down:
        case Op::shuffle_xor: {
            const unsigned source = source_lane(f);
            if (source > 31 || !(present >> source & 1)) {
                report(Kind::collective, at_site(f.site), at_site({}), "lane %u reads lane %u, which takes no part (mask %08x)", f.lane, source,
                       f.mask);
                f.result = f.value;
            } else {
                f.result = lanes[source].value;
            }
            break;
        }
        case Op::match_any:
        case Op::match_all: {
            unsigned same = 0;
            for (unsigned others = present; others; others &= others - 1) {
                const unsigned i = static_cast<unsigned>(__builtin_ctz(others));
                if (lanes[i].value == f.value) same |= 1u << i;
            }
            f.result = op == Op::match_any || same == present ? same : 0;
            break;
        }
        default: f.result = reduced; break;
        }
    }
    if (op == Op::sync) check_sync_warp(w, lanes->thread, present);
    if (counting) {
        if (op == Op::sync) totals.warp_syncs++;
        else if (op >= Op::ballot && op <= Op::all) totals.votes++;
        else if (op != Op::exchange) totals.shuffles++;
    }
}

static void complete_ready(Worker &w, unsigned warp) {
    Fiber *lanes = &w.fibers[32 * warp];
    Warp &state = w.warps[warp];
    unsigned tried = 0;
    const unsigned n = static_cast<unsigned>(__builtin_popcount(lanes_in_warp(w, warp)));
    for (unsigned i = 0; i < n; i++) {
        const Fiber &f = lanes[i];
        if (f.state != State::in_collective || (tried >> i & 1)) continue;
        const unsigned expected = f.mask & lanes_in_warp(w, warp), present = expected & ~state.exited;
        bool ready = true;
        for (unsigned rest = present; rest && ready; rest &= rest - 1) {
            const Fiber &g = lanes[__builtin_ctz(rest)];
            ready = g.state == State::in_collective && same_call(f, g);
            if (ready) tried |= 1u << g.lane; // the same question has the same answer
        }
        if (!ready) continue;
        if (present != expected || expected != f.mask) {
            report(Kind::exit_before_barrier, at_site(f.site), at_site({}), "lanes %08x of mask %08x exited or do not exist at this warp operation",
                   f.mask & ~present, f.mask);
        }
        compute(w, lanes, present);
        state.n_waiting -= static_cast<unsigned>(__builtin_popcount(present));
        const bool backwards = w.queue.order == Order::reverse;
        for (unsigned k = 0; k < 32; k++) {
            const unsigned lane = backwards ? 31 - k : k;
            if (present >> lane & 1) release_fiber(w, lanes[lane]);
        }
    }
}

void warp_arrived(Worker &w, Fiber &f) {
    Warp &state = w.warps[f.warp];
    state.n_waiting++;
    const unsigned needed = f.mask & lanes_in_warp(w, f.warp) & ~state.exited;
    if (state.n_waiting >= static_cast<unsigned>(__builtin_popcount(needed))) complete_ready(w, f.warp);
}

void warp_exited(Worker &w, Fiber &f) {
    w.warps[f.warp].exited |= 1u << f.lane;
    if (w.warps[f.warp].n_waiting) complete_ready(w, f.warp);
}

static uint64_t arrive(Worker &w, Fiber &f) {
    f.state = State::in_collective;
    warp_arrived(w, f);
    yield(w);
    return f.result;
}

uint64_t collective(Site site, Op op, unsigned mask, uint64_t value, int argument, int width) {
    Quiet quiet;
    Worker &w = *tls_worker;
    Fiber &f = *w.current;
    if (op == Op::sync && checking) {
        note_barrier(site, true);
        if (barrier_skipped(site)) return 0;
    }
    if (!(mask >> f.lane & 1)) {
        report(Kind::collective, at_site(site), at_site({}), "lane %u calls a warp operation whose mask %08x does not name it", f.lane, mask);
        mask |= 1u << f.lane;
    }
    if (width < 1 || width > 32 || (width & (width - 1))) {
        report(Kind::collective, at_site(site), at_site({}), "shuffle width %d; it must be a power of two up to 32", width);
        width = 32;
    }
    f.site = site;
    f.op = op;
    f.mask = mask;
    f.value = value;
    f.argument = argument;
    f.width = width;
    return arrive(w, f);
}

void warp_exchange(Site site, void *deposit, void (*compute_all)(void *const deposits[32])) {
    Quiet quiet;
    Worker &w = *tls_worker;
    Fiber &f = *w.current;
    f.site = site;
    f.op = Op::exchange;
    f.mask = 0xffffffffu;
    f.value = reinterpret_cast<uint64_t>(deposit);
    f.compute = compute_all;
    arrive(w, f);
}

// ---- cp.async --------------------------------------------------------------------------------------------------------------------

void async_copy(Site site, void *shared, const void *global, size_t bytes) {
    Quiet quiet;
    Worker &w = *tls_worker;
    Fiber &f = *w.current;
    const char *to = static_cast<const char *>(shared);
    if (to < w.shared || to >= w.shared + shared_region_bytes) {
        report(Kind::out_of_bounds, at_site(site), at_site({}), "cp.async to %p, which is not shared memory", shared);
        abort_launch(w);
    }
    if (counting) totals.async_copies++;
    // The hardware may read and write any time from here to the wait: look at both ends of that span.
    check_access(global, bytes, Access::read, at_site(site));
    check_access(shared, bytes, Access::write, at_site(site));
    memset(shared, 0xff, bytes);
    check_initialised(shared, bytes, false);
    f.copies.push_back({shared, global, bytes, site});
}

void async_commit() {
    Quiet quiet;
    Fiber &f = *tls_worker->current;
    size_t grouped = 0;
    for (size_t n : f.groups) grouped += n;
    f.groups.push_back(f.copies.size() - grouped);
}

void finish_copies(Worker &w, Fiber &f, size_t n_copies) {
    (void)w;
    for (size_t i = 0; i < n_copies; i++) {
        const PendingCopy &c = f.copies[i];
        memcpy(c.shared, c.global, c.bytes);
        const bool counted = counting;
        counting = false; // counted when issued
        check_access(c.shared, c.bytes, Access::write, at_site(c.site));
        counting = counted;
    }
    f.copies.erase(f.copies.begin(), f.copies.begin() + static_cast<std::ptrdiff_t>(n_copies));
}

void async_wait(Site site, unsigned n_left) {
    (void)site;
    Quiet quiet;
    Worker &w = *tls_worker;
    Fiber &f = *w.current;
    while (f.groups.size() > n_left) {
        const size_t n = f.groups.front();
        f.groups.erase(f.groups.begin());
        finish_copies(w, f, n);
    }
}

} // namespace simt
