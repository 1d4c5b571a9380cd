// Launches: the limits a device would enforce, the order of blocks, host threads; and the error state of the runtime API.
#include "internal.h"
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <ctime>
#include <map>
#include <thread>

namespace simt {

static Options current_options;
static cudaError_t last_error, sticky;
static std::map<const void *, int> dynamic_limits; // by kernel, from cudaFuncSetAttribute
static Worker *workers[max_host_threads];
static size_t static_shared;
static double seconds_in_kernels;

Options &options() { return current_options; }
size_t last_static_shared_bytes() { return static_shared; }
double kernel_seconds() { return seconds_in_kernels; }

static double cpu_seconds() {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

void set_error(cudaError_t error, bool is_sticky) {
    last_error = error;
    if (is_sticky && !sticky) sticky = error;
}
cudaError_t sticky_error() { return sticky; }
void errors_reset() { last_error = sticky = cudaSuccess; }

bool fault_due(long &countdown) { return countdown > 0 && --countdown == 0; }

void reset() {
    Quiet quiet;
    streams_reset();
    arena_reset();
    errors_reset();
    clear_reports();
    dynamic_limits.clear();
}

static uint3 block_index(const Launch &launch, uint64_t i) {
    const uint64_t x = launch.grid.x, y = launch.grid.y;
    return make_uint3(static_cast<unsigned>(i % x), static_cast<unsigned>(i / x % y), static_cast<unsigned>(i / (x * y)));
}

static Worker &worker(unsigned i) {
    if (!workers[i]) {
        workers[i] = new Worker;
        workers[i]->index = i;
    }
    worker_prepare(*workers[i]);
    return *workers[i];
}

void execute_launch(Launch &launch) {
    ArenaScope open;
    const double start = cpu_seconds();
    const Options &o = options();
    checking = o.check;
    counting = o.count;
    const uint64_t n_blocks = static_cast<uint64_t>(launch.grid.x) * launch.grid.y * launch.grid.z;
    std::vector<uint32_t> order;
    if (o.order == Order::random) {
        order.resize(n_blocks);
        for (uint64_t i = 0; i < n_blocks; i++) order[i] = static_cast<uint32_t>(i);
        RunQueue random;
        random.start(Order::random, o.seed * 31 + 7);
        for (uint64_t i = n_blocks - 1; i > 0; i--) std::swap(order[i], order[random.below(static_cast<unsigned>(i + 1))]);
    }
    auto nth = [&](uint64_t k) { return o.order == Order::random ? order[k] : o.order == Order::reverse ? n_blocks - 1 - k : k; };
    const unsigned wanted = checking || counting ? 1 : std::min<unsigned>(o.n_host_threads, max_host_threads);
    const unsigned n_host_threads = static_cast<unsigned>(std::min<uint64_t>(wanted ? wanted : 1, n_blocks));
    std::atomic<uint64_t> next{0};
    auto work = [&](unsigned index) {
        arena_init();
        Worker &w = *workers[index];
        tls_worker = &w;
        for (uint64_t k; !launch.aborted && (k = next.fetch_add(1)) < n_blocks;) run_block(w, launch, block_index(launch, nth(k)));
        tls_worker = nullptr;
    };
    for (unsigned i = 0; i < n_host_threads; i++) worker(i);
    std::vector<std::thread> threads;
    for (unsigned i = 1; i < n_host_threads; i++) threads.emplace_back(work, i);
    work(0);
    for (std::thread &t : threads) t.join();
    static_shared = workers[0]->static_bytes;
    seconds_in_kernels += cpu_seconds() - start;
    checking = counting = false;
}

static cudaError_t check_limits(const dim3 &grid, const dim3 &block, size_t shared_bytes, size_t limit) {
    const uint64_t n_threads = static_cast<uint64_t>(block.x) * block.y * block.z;
    if (n_threads == 0 || n_threads > max_threads || block.x > 1024 || block.y > 1024 || block.z > 64) return cudaErrorInvalidConfiguration;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaErrorInvalidConfiguration;
    if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidConfiguration;
    return shared_bytes > limit ? cudaErrorInvalidValue : cudaSuccess;
}

void launch_closure(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                    std::unique_ptr<Closure> closure) {
    Quiet quiet;
    if (sticky) {
        last_error = sticky;
        return;
    }
    const Options &o = options();
    if ((o.check || o.count) && !instrumented()) {
        fprintf(stderr, "simt: the checker and the counters need kernels compiled with -fsanitize=thread; these were not\n");
        set_error(cudaErrorLaunchFailure, true);
        return;
    }
    auto it = dynamic_limits.find(kernel);
    const size_t limit = it == dynamic_limits.end() ? 49152 : static_cast<size_t>(it->second);
    cudaError_t error = check_limits(grid, block, shared_bytes, std::max<size_t>(limit, 49152));
    if (!error && fault_due(options().fail_launch)) error = cudaErrorLaunchOutOfResources;
    if (error) {
        set_error(error, false);
        return;
    }
    std::unique_ptr<Launch> launch(new Launch{name, grid, block, shared_bytes, limit, closure.get()});
    enqueue_launch(stream, std::move(launch), std::move(closure));
}

} // namespace simt

using namespace simt;

cudaError_t cudaGetLastError() {
    const cudaError_t error = sticky ? sticky : last_error;
    last_error = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError() { return sticky ? sticky : last_error; }

cudaError_t cudaGetDeviceCount(int *n) {
    if (!n) return cudaErrorInvalidValue;
    *n = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    if (!device) return cudaErrorInvalidValue;
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    Quiet quiet;
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || static_cast<size_t>(value) > options().max_shared_bytes) {
        set_error(cudaErrorInvalidValue, false);
        return cudaErrorInvalidValue;
    }
    dynamic_limits[kernel] = value;
    return cudaSuccess;
}

static const struct {
    cudaError_t error;
    const char *name, *text;
} error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidSymbol, "cudaErrorInvalidSymbol", "invalid device symbol"},
    {cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer", "invalid device pointer"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
};
const char *cudaGetErrorString(cudaError_t error) {
    for (const auto &e : error_texts) {
        if (e.error == error) return e.text;
    }
    return "unrecognized error code";
}
const char *cudaGetErrorName(cudaError_t error) {
    for (const auto &e : error_texts) {
        if (e.error == error) return e.name;
    }
    return "unrecognized error code";
}
