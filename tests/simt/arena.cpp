// Device memory: one mapping that only kernels and copies may touch. Every allocation is 256-byte aligned, poisoned (0xFF: NaN, huge
// index), between red zones, and stays in quarantine after it is freed.
#include "internal.h"
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <sys/mman.h>
#include <unistd.h>

namespace simt {

static const size_t quarantine_limit = size_t(64) << 20;
static const int red_byte = 0xA5, poison_byte = 0xFF;

char *arena;
static char *top; // allocations end here
static int n_open;
static bool is_protected;
static size_t live_bytes, quarantined_bytes, protected_bytes;
static std::map<char *, size_t> allocations, host_allocations;
static std::deque<std::pair<char *, size_t>> quarantine;

// ---- faults ----------------------------------------------------------------------------------------------------------------------

static void on_fault(int, siginfo_t *info, void *) {
    char text[512];
    const Worker *w = tls_worker;
    const char *address = static_cast<const char *>(info->si_addr);
    int n = 0;
    if (w && w->current) {
        const Fiber &f = *w->current;
        const bool overflow = address >= f.stack && address < f.stack + 4096;
        n = snprintf(text, sizeof text, "simt: kernel %s, block (%u,%u,%u), thread %u: %s at %p\n", w->launch->name, w->block.x, w->block.y,
                     w->block.z, f.thread, overflow ? "stack overflow" : "invalid access", static_cast<const void *>(address));
    } else if (in_arena(address)) {
        n = snprintf(text, sizeof text, "simt: host code touched device memory at %p\n", static_cast<const void *>(address));
    } else {
        n = snprintf(text, sizeof text, "simt: segmentation fault at %p in host code\n", static_cast<const void *>(address));
    }
    if (write(2, text, static_cast<size_t>(n)) < 0) _exit(4);
    _exit(3);
}

// An overflowing fiber has no room left for a handler. What was there before comes back when the thread ends.
struct HandlerStack {
    stack_t before{};
    bool in_use = false; // a look at it makes the thread's own
    char stack[64 << 10];
    HandlerStack() {
        stack_t mine = {};
        mine.ss_size = sizeof stack;
        mine.ss_sp = stack;
        sigaltstack(&mine, &before);
    }
    ~HandlerStack() { sigaltstack(&before, nullptr); }
};

void arena_init() {
    static thread_local HandlerStack handler_stack;
    handler_stack.in_use = true;
    if (arena) return;
    void *p = mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "simt: no address space for device memory\n");
        _exit(2);
    }
    arena = static_cast<char *>(p);
    top = arena + max_host_threads * shared_region_bytes;
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
    is_protected = false;
}

void arena_open() {
    arena_init();
    if (n_open++ == 0 && is_protected) {
        mprotect(arena, protected_bytes, PROT_READ | PROT_WRITE);
        is_protected = false;
    }
}

void arena_close() {
    if (--n_open == 0 && options().protect) {
        protected_bytes = (static_cast<size_t>(top - arena) + 4095) / 4096 * 4096;
        mprotect(arena, protected_bytes, PROT_NONE);
        is_protected = true;
    }
}

bool in_arena(const void *p) { return arena && p >= arena && p < arena + arena_bytes; }

char *shared_region(unsigned worker) { return arena + worker * shared_region_bytes; }

static std::map<char *, size_t>::iterator allocation_of(const void *p) {
    auto it = allocations.upper_bound(const_cast<char *>(static_cast<const char *>(p)));
    if (it == allocations.begin()) return allocations.end();
    --it;
    return static_cast<const char *>(p) <= it->first + it->second ? it : allocations.end();
}

bool arena_holds(const void *p, size_t bytes) {
    auto it = allocation_of(p);
    return it != allocations.end() && static_cast<const char *>(p) + bytes <= it->first + it->second;
}

const char *describe_address(const void *address, char *text, size_t bytes) {
    const char *p = static_cast<const char *>(address);
    if (p < arena + max_host_threads * shared_region_bytes) {
        const Worker *w = tls_worker;
        for (unsigned i = 0; w && i < w->n_vars; i++) {
            if (p >= w->vars[i].p && p < w->vars[i].p + w->vars[i].bytes + 64) {
                snprintf(text, bytes, "shared memory, byte %td of the %zu declared at line %d", p - w->vars[i].p, w->vars[i].bytes,
                         w->vars[i].site.line);
                return text;
            }
        }
        if (w && p >= w->dynamic) snprintf(text, bytes, "shared memory, byte %td of %zu dynamic ones", p - w->dynamic, w->launch->dynamic_bytes);
        else snprintf(text, bytes, "shared memory before its first array");
        return text;
    }
    for (const auto &freed : quarantine) {
        if (p >= freed.first && p < freed.first + freed.second) {
            snprintf(text, bytes, "device memory, byte %td of %zu that were freed", p - freed.first, freed.second);
            return text;
        }
    }
    auto it = allocations.upper_bound(const_cast<char *>(p) + red_zone_bytes);
    if (it == allocations.begin()) {
        snprintf(text, bytes, "device memory outside every allocation");
        return text;
    }
    --it;
    snprintf(text, bytes, "device memory, byte %td of an allocation of %zu", p - it->first, it->second);
    return text;
}

// ---- allocation ------------------------------------------------------------------------------------------------------------------

static void check_red_zones(char *p, size_t bytes) {
    const size_t tail = (bytes + 255) / 256 * 256 - bytes + red_zone_bytes;
    for (size_t i = 0; i < tail + red_zone_bytes; i++) {
        const char *z = i < red_zone_bytes ? p - red_zone_bytes + i : p + bytes + (i - red_zone_bytes);
        if (static_cast<unsigned char>(*z) == red_byte) continue;
        const Site site = {i < red_zone_bytes ? "before the allocation" : "behind the allocation", static_cast<int>(bytes), 0};
        report(Kind::out_of_bounds, at_site(site), at_site({}), "the red zone at byte %td of an allocation of %zu was overwritten", z - p, bytes);
        return;
    }
}

static char *take(size_t bytes) {
    const size_t span = (bytes + 255) / 256 * 256 + 2 * red_zone_bytes;
    if (top + span <= arena + arena_bytes) {
        char *p = top + red_zone_bytes;
        top += span;
        return p;
    }
    for (auto it = quarantine.begin(); it != quarantine.end(); ++it) {
        if ((it->second + 255) / 256 >= (bytes + 255) / 256) {
            char *p = it->first;
            quarantine.erase(it);
            return p;
        }
    }
    return nullptr;
}

void arena_reset() {
    if (!arena) return;
    ArenaScope open;
    for (auto &a : allocations) {
        check_red_zones(a.first, a.second);
        check_freed(a.first, a.second);
    }
    allocations.clear();
    quarantine.clear();
    top = arena + max_host_threads * shared_region_bytes;
    for (auto &h : host_allocations) delete[] h.first;
    host_allocations.clear();
    live_bytes = quarantined_bytes = 0;
}

size_t live_allocations() { return allocations.size() + host_allocations.size(); }

} // namespace simt

using namespace simt;

cudaError_t cudaMalloc(void **p, size_t bytes) {
    Quiet quiet;
    if (sticky_error()) return sticky_error();
    if (!p) return cudaErrorInvalidValue;
    *p = nullptr;
    if (bytes == 0) return cudaSuccess;
    ArenaScope open;
    char *fresh = fault_due(options().fail_alloc) || bytes > options().memory_bytes || live_bytes + bytes > options().memory_bytes ? nullptr
                                                                                                                         : take(bytes);
    if (!fresh) {
        set_error(cudaErrorMemoryAllocation, false);
        return cudaErrorMemoryAllocation;
    }
    memset(fresh - red_zone_bytes, red_byte, red_zone_bytes);
    memset(fresh, poison_byte, bytes);
    memset(fresh + bytes, red_byte, (bytes + 255) / 256 * 256 - bytes + red_zone_bytes);
    allocations[fresh] = bytes;
    live_bytes += bytes;
    check_allocated(fresh, bytes);
    *p = fresh;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    Quiet quiet;
    if (!p) return sticky_error();
    const cudaError_t error = run_all_work();
    if (error) return error;
    auto it = allocations.find(static_cast<char *>(p));
    if (it == allocations.end()) {
        set_error(cudaErrorInvalidValue, false);
        return cudaErrorInvalidValue;
    }
    ArenaScope open;
    check_red_zones(it->first, it->second);
    memset(it->first, poison_byte, it->second);
    check_freed(it->first, it->second);
    quarantine.emplace_back(it->first, it->second);
    quarantined_bytes += it->second;
    live_bytes -= it->second;
    allocations.erase(it);
    // Old quarantined pages go back to the system; their addresses stay out of use.
    for (auto &freed : quarantine) {
        if (quarantined_bytes <= quarantine_limit) break;
        char *first = reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(freed.first) + 4095) / 4096 * 4096);
        char *last = reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(freed.first) + freed.second) / 4096 * 4096);
        if (last > first) madvise(first, static_cast<size_t>(last - first), MADV_DONTNEED);
        quarantined_bytes -= std::min(quarantined_bytes, freed.second);
    }
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    Quiet quiet;
    if (sticky_error()) return sticky_error();
    if (!p) return cudaErrorInvalidValue;
    *p = nullptr;
    if (fault_due(options().fail_alloc)) {
        set_error(cudaErrorMemoryAllocation, false);
        return cudaErrorMemoryAllocation;
    }
    char *fresh = new char[bytes ? bytes : 1];
    memset(fresh, poison_byte, bytes);
    host_allocations[fresh] = bytes;
    *p = fresh;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) {
    Quiet quiet;
    if (!p) return cudaSuccess;
    auto it = host_allocations.find(static_cast<char *>(p));
    if (it == host_allocations.end()) {
        set_error(cudaErrorInvalidValue, false);
        return cudaErrorInvalidValue;
    }
    host_buffer_freed(it->first, it->second);
    delete[] it->first;
    host_allocations.erase(it);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    if (!free_bytes || !total_bytes) return cudaErrorInvalidValue;
    *total_bytes = options().memory_bytes;
    *free_bytes = *total_bytes > live_bytes ? *total_bytes - live_bytes : 0;
    return sticky_error();
}
