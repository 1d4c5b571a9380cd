// One block on one host thread: its fibers, who runs next, the block barrier, and what happens when nobody can go on.
#include "internal.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

namespace simt {

__thread Worker *tls_worker;

// ---- run queue -------------------------------------------------------------------------------------------------------------------

unsigned RunQueue::below(unsigned n) {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return static_cast<unsigned>((random >> 32) * n >> 32);
}

void RunQueue::start(Order o, uint64_t seed) {
    order = o;
    random = seed * 0x9E3779B97F4A7C15ull | 1;
    for (int i = 0; i < 8; i++) below(2);
    head = count = warp = 0;
    memset(warp_head, 0, sizeof warp_head);
    memset(warp_count, 0, sizeof warp_count);
}

void RunQueue::push(unsigned thread) {
    if (order == Order::warp_major) {
        const unsigned w = thread / 32;
        warp_ring[w][(warp_head[w] + warp_count[w]++) % 32] = static_cast<uint16_t>(thread);
    } else {
        ring[(head + count) % max_threads] = static_cast<uint16_t>(thread);
    }
    count++;
}

unsigned RunQueue::pop() {
    count--;
    if (order == Order::warp_major) {
        while (warp_count[warp] == 0) warp = (warp + 1) % max_warps;
        const unsigned thread = warp_ring[warp][warp_head[warp]];
        warp_head[warp] = static_cast<uint8_t>((warp_head[warp] + 1) % 32);
        warp_count[warp]--;
        return thread;
    }
    if (order == Order::random) {
        const unsigned k = (head + below(count + 1)) % max_threads;
        std::swap(ring[k], ring[head]);
    }
    const unsigned thread = ring[head];
    head = (head + 1) % max_threads;
    return thread;
}

// ---- fibers ----------------------------------------------------------------------------------------------------------------------

static ThreadInfo *info_of(const Fiber &f) { return reinterpret_cast<ThreadInfo *>(f.stack + stack_bytes - sizeof(ThreadInfo)); }

const ThreadInfo *thread_info() { return info_of(*tls_worker->current); }

static void switch_away(Worker &w) {
    Fiber *from = w.current;
    const auto go = from->state == State::exited || w.aborted ? context_leave : context_switch;
    if (w.queue.count == 0 || w.aborted) {
        w.current = nullptr;
        go(&from->context, &w.scheduler);
        return;
    }
    Fiber *to = &w.fibers[w.queue.pop()];
    if (to == from) return;
    w.current = to;
    go(&from->context, &to->context);
}

void yield(Worker &w) { switch_away(w); }

void stop_and_requeue(Worker &w) {
    if (w.queue.count == 0) return;
    w.queue.push(w.current->thread);
    if (w.queue.order == Order::warp_major) w.queue.warp = w.queue.below(max_warps);
    switch_away(w);
}

void abort_launch(Worker &w) {
    w.aborted = w.launch->aborted = true;
    switch_away(w);
    abort(); // an aborted block's fibers are never picked again
}

void release_fiber(Worker &w, Fiber &f) {
    f.state = State::runnable;
    w.queue.push(f.thread);
}

static void fiber_main() {
    context_entered();
    Worker &w = *tls_worker;
    Fiber &f = *w.current;
    if (checking || counting) hooked = &f;
    w.launch->closure->run();
    hooked = checking || counting ? nullptr : hooked;
    if (!f.copies.empty()) {
        const Site site = f.copies.front().site;
        report(Kind::async_copy, at_site(site), at_site({}), "thread %u exits while its cp.async of %zu bytes was never waited for",
               f.thread, f.copies.front().bytes);
        f.copies.clear();
    }
    f.groups.clear();
    f.state = State::exited;
    if (w.n_exited++ == 0) w.first_exited = f.thread;
    warp_exited(w, f);
    switch_away(w);
    abort(); // an exited fiber is never picked again
}

void worker_prepare(Worker &w) {
    if (w.fibers) return;
    w.fibers = new Fiber[max_threads];
    char *stacks = static_cast<char *>(mmap(nullptr, stack_bytes * max_threads, PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks == MAP_FAILED) {
        fprintf(stderr, "simt: no address space for the stacks of %u threads\n", max_threads);
        exit(2);
    }
    for (unsigned i = 0; i < max_threads; i++) {
        Fiber &f = w.fibers[i];
        f.stack = stacks + i * stack_bytes;
        mprotect(f.stack, 4096, PROT_NONE);
        f.thread = static_cast<uint16_t>(i);
        f.lane = static_cast<uint16_t>(i % 32);
        f.warp = static_cast<uint16_t>(i / 32);
    }
    w.shared = shared_region(w.index);
}

static void start_fiber(Worker &w, unsigned i) {
    Fiber &f = w.fibers[i];
    const Launch &launch = *w.launch;
    f.state = State::runnable;
    f.copies.clear();
    f.groups.clear();
    ThreadInfo *info = info_of(f);
    const unsigned x = launch.block.x, y = launch.block.y;
    info->thread = make_uint3(i % x, i / x % y, i / (x * y));
    info->block = w.block;
    info->block_dim = launch.block;
    info->grid_dim = launch.grid;
    context_make(&f.context, f.stack, stack_bytes - sizeof(ThreadInfo), fiber_main);
}

// ---- the block barrier -----------------------------------------------------------------------------------------------------------

static bool same_site(Site a, Site b) { return a.line == b.line && a.id == b.id && strcmp(a.file, b.file) == 0; }

static void release_barrier(Worker &w) {
    const Fiber *first = nullptr;
    int n = 0, all = 1;
    for (unsigned i = 0; i < w.n_threads; i++) {
        const Fiber &f = w.fibers[i];
        if (f.state != State::at_barrier) continue;
        if (!first) first = &f;
        if (!same_site(f.site, first->site)) {
            report(Kind::barrier_divergence, at_site(first->site), at_site(f.site), "thread %u waits at this barrier while thread %u waits at another",
                   first->thread, f.thread);
        }
        n += f.argument != 0;
        all &= f.argument != 0;
    }
    if (w.n_exited) {
        report(Kind::exit_before_barrier, at_site(first->site), at_site({}), "%u of %u threads, thread %u first, exited before this barrier",
               w.n_exited, w.n_threads, w.first_exited);
    }
    check_barrier(w);
    if (counting) totals.barriers++;
    w.n_at_barrier = 0;
    const bool backwards = w.queue.order == Order::reverse;
    for (unsigned k = 0; k < w.n_threads; k++) {
        Fiber &f = w.fibers[backwards ? w.n_threads - 1 - k : k];
        if (f.state != State::at_barrier) continue;
        f.result = static_cast<uint64_t>(f.reduce == Reduce::count ? n : f.reduce == Reduce::all ? all : n != 0);
        release_fiber(w, f);
    }
}

int block_barrier(Site site, Reduce reduce, int predicate) {
    Quiet quiet;
    Worker &w = *tls_worker;
    Fiber &f = *w.current;
    if (checking) {
        note_barrier(site, false);
        if (barrier_skipped(site)) return predicate;
    }
    f.site = site;
    f.reduce = reduce;
    f.argument = predicate;
    f.state = State::at_barrier;
    w.n_at_barrier++;
    if (w.n_at_barrier + w.n_exited == w.n_threads) release_barrier(w);
    switch_away(w);
    return static_cast<int>(f.result);
}

static const char *waits_in(const Fiber &f) { return f.state == State::at_barrier ? "__syncthreads" : "a warp operation"; }

// Nobody can run: name two places where threads wait for each other.
static void report_deadlock(Worker &w) {
    const Fiber *first = nullptr, *other = nullptr;
    for (unsigned i = 0; i < w.n_threads; i++) {
        const Fiber &f = w.fibers[i];
        if (f.state == State::exited) continue;
        if (!first) first = &f;
        // The most telling partner: one that waits for another kind of thing, else one at another place, else with another mask.
        if (f.state != first->state && (!other || other->state == first->state)) other = &f;
        if (!other && (!same_site(f.site, first->site) || f.mask != first->mask)) other = &f;
    }
    if (other && first->state == State::at_barrier) std::swap(first, other);
    const bool barrier = w.n_at_barrier != 0;
    if (!other) {
        report(barrier ? Kind::barrier_divergence : Kind::collective, at_site(first->site), at_site({}),
               "deadlock: thread %u waits in %s with mask %08x for lanes that never come; %u of %u threads exited", first->thread,
               waits_in(*first), first->mask, w.n_exited, w.n_threads);
        return;
    }
    report(barrier ? Kind::barrier_divergence : Kind::collective, at_site(first->site), at_site(other->site),
           "deadlock: thread %u waits in %s (mask %08x), thread %u in %s (mask %08x)", first->thread, waits_in(*first), first->mask,
           other->thread, waits_in(*other), other->mask);
}

// ---- shared memory ---------------------------------------------------------------------------------------------------------------

void *shared_array(Site site, const char *function, size_t bytes, size_t alignment) {
    Quiet quiet;
    Worker &w = *tls_worker;
    for (unsigned i = 0; i < w.n_vars; i++) {
        if (w.vars[i].site.id == site.id && w.vars[i].function == function) {
            return w.vars[i].p;
        }
    }
    w.static_bytes = (w.static_bytes + alignment - 1) / alignment * alignment + bytes;
    const size_t limit = std::max<size_t>(w.launch->dynamic_limit, 49152);
    if (w.static_bytes > 49152 || w.static_bytes + w.launch->dynamic_bytes > limit || w.n_vars == sizeof w.vars / sizeof w.vars[0]) {
        report(Kind::out_of_bounds, at_site(site), at_site({}),
               "shared memory comes to %zu static bytes (at most 49152) and %zu dynamic ones (at most %zu together)", w.static_bytes,
               w.launch->dynamic_bytes, limit);
        set_error(cudaErrorInvalidConfiguration, false);
        abort_launch(w);
    }
    // Every array starts at bank 0 and has a red zone behind it.
    char *p = w.shared + w.shared_end;
    w.shared_end = (w.shared_end + bytes + 64 + 127) / 128 * 128;
    w.vars[w.n_vars++] = {site, function, p, bytes};
    memset(p, 0xff, bytes);
    check_shared(p, bytes);
    return p;
}

void *dynamic_shared() { return tls_worker->dynamic; }

// ---- a block ---------------------------------------------------------------------------------------------------------------------

void run_block(Worker &w, Launch &launch, uint3 block) {
    Quiet quiet;
    const Options &o = options();
    w.launch = &launch;
    w.block = block;
    w.n_threads = launch.block.x * launch.block.y * launch.block.z;
    w.n_exited = w.n_at_barrier = w.n_vars = 0;
    w.aborted = false;
    w.static_bytes = 0;
    for (Warp &warp : w.warps) warp = {};
    const uint64_t linear = block.x + static_cast<uint64_t>(launch.grid.x) * (block.y + static_cast<uint64_t>(launch.grid.y) * block.z);
    w.queue.start(o.order, o.seed + 1000003 * linear);
    check_block(w);
    w.dynamic = w.shared + red_zone_bytes;
    w.shared_end = (red_zone_bytes + launch.dynamic_bytes + 64 + 127) / 128 * 128;
    if (launch.dynamic_bytes) {
        memset(w.dynamic, 0xff, launch.dynamic_bytes);
        check_shared(w.dynamic, launch.dynamic_bytes);
    }
    for (unsigned k = 0; k < w.n_threads; k++) {
        const unsigned i = o.order == Order::reverse ? w.n_threads - 1 - k : k;
        start_fiber(w, i);
        w.queue.push(i);
    }
    for (;;) {
        if (w.queue.count) {
            w.current = &w.fibers[w.queue.pop()];
            context_switch(&w.scheduler, &w.current->context);
            if (w.aborted) break;
            continue;
        }
        if (w.n_exited == w.n_threads) break;
        if (w.n_at_barrier && w.n_at_barrier + w.n_exited == w.n_threads) {
            release_barrier(w);
            continue;
        }
        report_deadlock(w);
        set_error(cudaErrorLaunchFailure, true);
        w.aborted = launch.aborted = true;
        break;
    }
    w.current = nullptr;
    check_block_end();
    if (counting) count_block_end(w);
}

} // namespace simt
