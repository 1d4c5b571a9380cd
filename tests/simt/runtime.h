// The host side of the executor: the part of CUDA's runtime API that host code of kernels uses, under its own names, and the executor's
// controls in namespace simt. Error codes have the toolkit's numbers.
#pragma once
#include "../../kernels/cuda/compat/fp8.h"
#include <memory>
#include <string>
#include <utility>
#include <vector>

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidSymbol = 13,
    cudaErrorInvalidDevicePointer = 17,
    cudaErrorInvalidMemcpyDirection = 21,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchOutOfResources = 701,
    cudaErrorMisalignedAddress = 716,
    cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaFuncAttributePreferredSharedMemoryCarveout = 9 };
enum : unsigned { cudaStreamDefault = 0, cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaEventDisableTiming = 2 };
typedef struct simt_stream *cudaStream_t;
typedef struct simt_event *cudaEvent_t;
typedef void (*cudaHostFn_t)(void *);

cudaError_t cudaMalloc(void **p, size_t bytes);
template <class T> cudaError_t cudaMalloc(T **p, size_t bytes) { return cudaMalloc(reinterpret_cast<void **>(p), bytes); }
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t bytes);
template <class T> cudaError_t cudaMallocHost(T **p, size_t bytes) { return cudaMallocHost(reinterpret_cast<void **>(p), bytes); }
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream = nullptr);
cudaError_t cudaMemset(void *p, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data);
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value);
template <class... P> cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attribute, value);
}
const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);

namespace simt {

enum class Order { forward, reverse, random, warp_major };

struct Options {
    Order order = Order::forward; // of blocks, of threads, and of who goes on after a barrier
    uint64_t seed = 1;            // of random orders, of preemption and of deferred streams
    unsigned preempt = 0;         // checker only: stop a thread before one access in about this many; 0 never
    bool check = false;           // needs kernels compiled with -fsanitize=thread
    bool count = false;           // counters; needs the same
    bool deferred = false;        // streams queue their work and run it, reordered as far as legal, when somebody waits
    bool protect = true;          // device memory is out of the host's reach while nothing runs
    bool print = true;            // reports also go to stderr
    unsigned n_host_threads = 1;  // blocks in parallel; only while neither check nor count
    size_t max_shared_bytes = 101376; // per block, dynamic and static, after cudaFuncSetAttribute: sm_86 to sm_89
    size_t memory_bytes = size_t(256) << 20;
    long fail_alloc = 0;  // the n-th cudaMalloc or cudaMallocHost from now fails; 0 never
    long fail_launch = 0; // the n-th launch from now fails
};
Options &options();

enum class Kind {
    race,
    uninitialised,
    out_of_bounds,
    misaligned,
    host_memory,
    barrier_divergence,
    exit_before_barrier,
    collective, // lanes that disagree on a warp operation, a caller outside its mask, a source lane that takes no part
    async_copy, // cp.async never waited for
    host_buffer // a host buffer freed or changed while an asynchronous copy still needs it
};
const char *kind_name(Kind kind);

struct Place {
    std::string file; // "?" where debug information says nothing
    int line = 0;
};
struct Report {
    Kind kind;
    std::string kernel, text;
    Place place, other; // other: the second access of a race, the barrier where the rest waits; line 0 where there is none
};
const std::vector<Report> &reports();
void clear_reports();

// Device memory gone, streams empty, errors and reports cleared; options stay.
void reset();
size_t live_allocations();
// False when the program's kernels were compiled without -fsanitize=thread: the checker and the counters would see nothing.
bool instrumented();
// Static shared memory of the last launch as ptxas counts it (without the executor's red zones).
size_t last_static_shared_bytes();
// The processor's time that kernels took since the program began; memory management and copies are not in it.
double kernel_seconds();

// Where kernels executed __syncthreads or __syncwarp, for the barrier mutator; skipping deletes it. A header's barrier has a site in each
// source file that includes it.
struct BarrierSite {
    const char *file;
    int line, id;
    bool warp;
};
const std::vector<BarrierSite> &barrier_sites();
void clear_barrier_sites();
void skip_barriers(const std::vector<BarrierSite> &sites);

struct Counters {
    struct Space {
        uint64_t read_bytes = 0, written_bytes = 0;
        uint64_t accesses = 0;     // warp-wide: lanes at the same place in the program, the same time round
        uint64_t transactions = 0; // global: 32-byte sectors; shared: passes, conflicts included
        uint64_t ideal = 0;        // the fewest transactions the same bytes could take
    };
    Space global, shared, local;
    uint64_t bank_conflicts = 0; // shared passes beyond the ideal
    uint64_t atomics = 0, barriers = 0, warp_syncs = 0, shuffles = 0, votes = 0, async_copies = 0, special = 0, dot_products = 0;
    uint64_t mma = 0, mma_flops = 0;
    uint64_t float_ops = 0, integer_ops = 0, branches = 0; // from the machine code of executed blocks; 0 without trace-pc
};
const Counters &counters();
void clear_counters();

struct Closure {
    size_t bytes = 0; // of the object with the arguments, which kernels may read
    virtual void run() = 0;
    virtual ~Closure() = default;
};
void launch_closure(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                    std::unique_ptr<Closure> closure);
void register_constant(const void *p, size_t bytes);

} // namespace simt
