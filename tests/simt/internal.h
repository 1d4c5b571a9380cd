// What the executor's source files share: fibers, the state of a running block, memory, and the calls between executor and checker.
#pragma once
#include "simt.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#undef warpSize
#include <cstdarg>

namespace simt {

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ADDRESS_SANITIZER 1
#endif
#endif
#ifdef SIMT_ADDRESS_SANITIZER
const size_t stack_bytes = 256 << 10; // its frames are larger
#else
const size_t stack_bytes = 64 << 10;
#endif
const unsigned max_threads = 1024, max_warps = 32;
const size_t arena_bytes = size_t(4) << 30, shared_region_bytes = 1 << 20, max_host_threads = 16, red_zone_bytes = 256;

// ---- fibers ----------------------------------------------------------------------------------------------------------------------
#if !defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define SIMT_UCONTEXT 1
#endif
struct Context {
    void *saved = nullptr; // the stack pointer, or a ucontext_t
    const void *stack = nullptr;
    size_t bytes = 0;
    void *sanitizers = nullptr; // what AddressSanitizer keeps of a stack that waits
};
void context_make(Context *context, char *stack, size_t bytes, void (*entry)()); // entry calls context_entered first
void context_entered();
void context_switch(Context *from, Context *to);
void context_leave(Context *from, Context *to); // for the last time

enum class State : uint8_t { runnable, at_barrier, in_collective, exited };

struct PendingCopy {
    void *shared;
    const void *global;
    size_t bytes;
    Site site;
};

struct Fiber {
    Context context;
    char *stack = nullptr; // ThreadInfo lies at its top
    uint64_t stamp = 0;    // the checker's: time of its last synchronisation and thread, as a record has them
    uint16_t thread = 0, lane = 0, warp = 0;
    State state = State::exited;
    Site site{}; // where it waits
    Op op = Op::sync;
    Reduce reduce = Reduce::none;
    unsigned mask = 0;
    int argument = 0, width = 32;
    uint64_t value = 0, result = 0;
    void (*compute)(void *const[32]) = nullptr;
    uint64_t clock[32]{};            // the latest time of each lane of its warp that it is ordered behind
    std::vector<PendingCopy> copies; // cp.async, oldest first
    std::vector<size_t> groups;      // number of copies in each committed group
};

struct Warp {
    unsigned n_waiting = 0, exited = 0;
};

// Runnable threads, by the order asked for. Released and stopped threads go behind those that are waiting for their turn.
struct RunQueue {
    Order order = Order::forward;
    uint16_t ring[max_threads];
    unsigned head = 0, count = 0;
    uint16_t warp_ring[max_warps][32];
    uint8_t warp_head[max_warps], warp_count[max_warps];
    unsigned warp = 0;
    uint64_t random = 1;
    void start(Order o, uint64_t seed);
    void push(unsigned thread);
    unsigned pop(); // count must not be 0
    unsigned below(unsigned n);
};

struct SharedVar {
    Site site;
    const char *function;
    char *p;
    size_t bytes;
};

struct Launch {
    const char *name;
    dim3 grid, block;
    size_t dynamic_bytes, dynamic_limit;
    Closure *closure;
    volatile bool aborted = false;
};

// One host thread's: a block at a time.
struct Worker {
    unsigned index = 0;
    Launch *launch = nullptr;
    Fiber *fibers = nullptr;
    Fiber *current = nullptr;
    Context scheduler;
    RunQueue queue;
    Warp warps[max_warps];
    uint3 block{};
    unsigned n_threads = 0, n_exited = 0, n_at_barrier = 0;
    uint16_t first_exited = 0;
    bool aborted = false;
    char *shared = nullptr, *dynamic = nullptr;
    size_t shared_end = 0, static_bytes = 0;
    unsigned n_vars = 0;
    SharedVar vars[128];
};
extern __thread Worker *tls_worker;

void run_block(Worker &w, Launch &launch, uint3 block);
void yield(Worker &w);                      // run somebody else; returns when this fiber is picked again
void stop_and_requeue(Worker &w);           // preemption
[[noreturn]] void abort_launch(Worker &w);  // from a fiber: the launch ends here
void release_fiber(Worker &w, Fiber &f);    // waiting to runnable
void warp_arrived(Worker &w, Fiber &f);     // warp.cpp: complete what has become complete
void warp_exited(Worker &w, Fiber &f);
void finish_copies(Worker &w, Fiber &f, size_t n_copies);
void worker_prepare(Worker &w);

// ---- device memory ---------------------------------------------------------------------------------------------------------------
extern char *arena;
void arena_init();
void arena_open(); // nested
void arena_close();
bool in_arena(const void *p);
bool arena_holds(const void *p, size_t bytes); // wholly inside one live allocation
void arena_reset();
char *shared_region(unsigned worker);
struct ArenaScope {
    ArenaScope() { arena_open(); }
    ~ArenaScope() { arena_close(); }
};
const char *describe_address(const void *p, char *text, size_t bytes);

// ---- streams ---------------------------------------------------------------------------------------------------------------------
cudaError_t run_all_work();
cudaError_t enqueue_launch(cudaStream_t stream, std::unique_ptr<Launch> launch, std::unique_ptr<Closure> closure);
void streams_reset();
void host_buffer_freed(const void *p, size_t bytes);
bool fault_due(long &countdown); // counts down to an injected fault
void set_error(cudaError_t error, bool sticky);
cudaError_t sticky_error();
void errors_reset();
void execute_launch(Launch &launch);
cudaError_t copy_now(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t check_copy(const void *to, const void *from, size_t bytes, cudaMemcpyKind kind);

// ---- reports ---------------------------------------------------------------------------------------------------------------------
struct Where { // an instrumented access is known by its program counter, a call by its site
    const void *pc;
    Site site;
};
Place place_of(const Where &where);
inline Where at_pc(const void *pc) { return {pc, {}}; }
inline Where at_site(Site site) { return {nullptr, site}; }
// Once for each kind and pair of places. The text gets "at FILE:LINE" for where, and what `link` says with the other place.
void report(Kind kind, const Where &where, const Where &other, const char *format, ...) __attribute__((format(printf, 4, 5)));
void report_once_clear();
void note_barrier(Site site, bool warp);
bool barrier_skipped(Site site);

// ---- checker and counters --------------------------------------------------------------------------------------------------------
enum class Access : uint8_t { read, write, atomic };
extern Fiber *hooked; // the fiber whose instrumented accesses are looked at; null while the executor itself runs
extern bool checking, counting;
void check_block(Worker &w);
void check_barrier(Worker &w);
void check_sync_warp(Worker &w, unsigned first_thread, unsigned lanes);
void check_shared(const void *p, size_t bytes);
void check_block_end();
void check_allocated(const void *p, size_t bytes);
void check_freed(const void *p, size_t bytes);
void check_initialised(const void *p, size_t bytes, bool yes);
void check_access(const void *p, size_t bytes, Access access, const Where &where);
void check_copied(const void *to, const void *from, size_t bytes); // device to device: what was uninitialised stays so
// A launch or a copy begins. Work that no stream, event or host wait orders before it ran in these spans of time.
struct Span {
    uint64_t first, end; // times
};
// Its own first time. What ran before `settled` (0: before now) is ordered before all work from now on.
uint64_t check_begin(const std::vector<Span> &concurrent, uint64_t settled);
uint64_t check_end(); // one past its last
void check_copy_access(const void *p, size_t bytes, bool write, bool cautious);
void count_access(const void *p, size_t bytes, Access access, const Where &where);
void count_block_end(Worker &w);
void count_code_finish(Counters *c);
void count_code_clear();
extern Counters totals;

// The executor's own code may call library functions that were compiled with instrumentation elsewhere in the program; inside a Quiet
// scope their accesses are not the kernel's.
struct Quiet {
    Fiber *saved;
    Quiet() : saved(hooked) {
        if (saved) hooked = nullptr;
    }
    ~Quiet() {
        if (saved) hooked = saved;
    }
};

} // namespace simt
