// Streams and events with deferred, reordered work: correct programs give the same result in every order, and programs that forget a wait
// show it, by a report or by results that depend on the seed.
#include "cases.h"
#include "harness.h"
#include <cstring>
#include <set>

__global__ void add_to_all(int *p, int n, int v) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) p[i] += v;
}
__global__ void multiply_all(int *p, int n, int v) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) p[i] *= v;
}

static simt::Options &fresh(uint64_t seed) {
    simt::reset();
    simt::Options &o = simt::options();
    o = simt::Options();
    o.deferred = true;
    o.print = false;
    o.seed = seed;
    o.check = simt::instrumented();
    return o;
}
const int n = 64;

static bool has(simt::Kind kind) {
    for (const simt::Report &r : simt::reports()) {
        if (r.kind == kind) return true;
    }
    return false;
}

// (1 + 2) * 3 in two streams, ordered by an event or not. Returns the result's first element.
static int two_streams(bool with_event) {
    cudaStream_t a, b;
    cudaEvent_t ready;
    cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&ready, cudaEventDisableTiming);
    Buffer<int> p(std::vector<int>(n, 1));
    LAUNCH(add_to_all, dim3(2), dim3(32), 0, a, p, n, 2);
    cudaEventRecord(ready, a);
    if (with_event) cudaStreamWaitEvent(b, ready);
    LAUNCH(multiply_all, dim3(2), dim3(32), 0, b, p, n, 3);
    cudaStreamSynchronize(a);
    cudaStreamSynchronize(b);
    const std::vector<int> got = p.get();
    cudaEventDestroy(ready);
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
    return got[0];
}

static void test_event_orders_streams() {
    for (uint64_t seed = 1; seed <= 50; seed++) {
        fresh(seed);
        CHECK(two_streams(true) == 9, "seed %d", static_cast<int>(seed));
        CHECK(simt::reports().empty(), "%s", simt::reports()[0].text.c_str());
    }
}
static void test_missing_event_shows() {
    std::set<int> results;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        fresh(seed);
        results.insert(two_streams(false));
        if (simt::instrumented()) CHECK(has(simt::Kind::race), "seed %d: two launches race and nobody says so", static_cast<int>(seed));
    }
    CHECK(results == std::set<int>({5, 9}), "%zu different results", results.size());
}

// The pattern of a decode loop: upload, compute, download in one stream; the host waits before it looks.
static void test_one_stream_is_ordered() {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        fresh(seed);
        cudaStream_t s;
        cudaStreamCreate(&s);
        int *host = nullptr, *p = nullptr;
        cudaMallocHost(&host, n * sizeof(int));
        cudaMalloc(&p, n * sizeof(int));
        for (int round = 0; round < 3; round++) {
            for (int i = 0; i < n; i++) host[i] = i + round;
            cudaMemcpyAsync(p, host, n * sizeof(int), cudaMemcpyHostToDevice, s);
            LAUNCH(add_to_all, dim3(2), dim3(32), 0, s, p, n, 100);
            cudaMemcpyAsync(host, p, n * sizeof(int), cudaMemcpyDeviceToHost, s);
            CHECK(cudaStreamSynchronize(s) == cudaSuccess, "seed %d", static_cast<int>(seed));
            for (int i = 0; i < n; i++) CHECK(host[i] == i + round + 100, "element %d: %d", i, host[i]);
        }
        cudaFree(p);
        cudaFreeHost(host);
        cudaStreamDestroy(s);
        CHECK(simt::reports().empty(), "%s", simt::reports()[0].text.c_str());
    }
}

static void test_default_stream_waits() {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        fresh(seed);
        cudaStream_t blocking;
        cudaStreamCreate(&blocking);
        Buffer<int> p(std::vector<int>(n, 1));
        LAUNCH(add_to_all, dim3(2), dim3(32), 0, blocking, p, n, 2);
        LAUNCH(multiply_all, dim3(2), dim3(32), 0, 0, p, n, 3);
        LAUNCH(add_to_all, dim3(2), dim3(32), 0, blocking, p, n, 1);
        cudaStreamSynchronize(blocking);
        CHECK(p.get()[0] == 10, "seed %d", static_cast<int>(seed));
        CHECK(simt::reports().empty(), "%s", simt::reports()[0].text.c_str());
        cudaStreamDestroy(blocking);
    }
}

static void test_result_read_too_early() {
    fresh(1);
    cudaStream_t s;
    cudaStreamCreate(&s);
    Buffer<int> p(std::vector<int>(n, 1));
    std::vector<int> host(n, 5);
    LAUNCH(add_to_all, dim3(2), dim3(32), 0, s, p, n, 2);
    cudaMemcpyAsync(host.data(), p, n * sizeof(int), cudaMemcpyDeviceToHost, s);
    CHECK(host[0] != 3 && host[0] != 5, "neither the old value nor the new one may be there: %d", host[0]);
    cudaStreamSynchronize(s);
    CHECK(host[0] == 3, "%d", host[0]);
    CHECK(simt::reports().empty(), "%s", simt::reports()[0].text.c_str());
    cudaStreamDestroy(s);
}

static void test_source_changed_too_early() {
    fresh(1);
    cudaStream_t s;
    cudaStreamCreate(&s);
    Buffer<int> p(std::vector<int>(n, 1));
    std::vector<int> host(n, 5);
    cudaMemcpyAsync(p, host.data(), n * sizeof(int), cudaMemcpyHostToDevice, s);
    host[7] = 6;
    cudaStreamSynchronize(s);
    CHECK(has(simt::Kind::host_buffer), "a changed source");
    simt::clear_reports();
    CHECK(p.get()[7] == 6, "the copy reads when it runs");
    cudaStreamDestroy(s);
}

static void test_buffer_freed_too_early() {
    fresh(1);
    cudaStream_t s;
    cudaStreamCreate(&s);
    Buffer<int> p(std::vector<int>(n, 1));
    int *pinned = nullptr;
    cudaMallocHost(&pinned, n * sizeof(int));
    memset(pinned, 0, n * sizeof(int));
    cudaMemcpyAsync(p, pinned, n * sizeof(int), cudaMemcpyHostToDevice, s);
    cudaFreeHost(pinned);
    CHECK(has(simt::Kind::host_buffer), "pinned memory");
    cudaStreamSynchronize(s);
    simt::clear_reports();
    std::vector<int> host(n, 5);
    cudaMemcpyAsync(host.data(), p, n * sizeof(int), cudaMemcpyDeviceToHost, s);
    host.assign(n, 1); // what a later owner of the same memory would do
    cudaStreamSynchronize(s);
    CHECK(has(simt::Kind::host_buffer), "a destination used for something else");
    cudaStreamDestroy(s);
}

// A copy in one stream beside a kernel in another.
static void test_copy_races_with_kernel() {
    if (!simt::instrumented()) return;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        fresh(seed);
        cudaStream_t a, b;
        cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
        cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
        Buffer<int> p(std::vector<int>(n, 1)), q(std::vector<int>(n, 1));
        LAUNCH(add_to_all, dim3(2), dim3(32), 0, a, p, n, 2);
        cudaMemcpyAsync(q, p, n * sizeof(int), cudaMemcpyDeviceToDevice, b);
        cudaDeviceSynchronize();
        CHECK(has(simt::Kind::race), "seed %d", static_cast<int>(seed));
        simt::clear_reports();
        LAUNCH(add_to_all, dim3(2), dim3(32), 0, a, p, n, 2);
        cudaStreamSynchronize(a); // the host's wait orders as well
        cudaMemcpyAsync(q, p, n * sizeof(int), cudaMemcpyDeviceToDevice, b);
        cudaDeviceSynchronize();
        CHECK(simt::reports().empty(), "%s", simt::reports()[0].text.c_str());
        cudaStreamDestroy(a);
        cudaStreamDestroy(b);
    }
}

static void count_call(void *data) { ++*static_cast<int *>(data); }

static void test_events_and_queries() {
    fresh(3);
    cudaStream_t s;
    cudaEvent_t first, last;
    cudaStreamCreate(&s);
    cudaEventCreate(&first);
    cudaEventCreate(&last);
    Buffer<int> p(std::vector<int>(n, 1));
    int n_calls = 0;
    cudaEventRecord(first, s);
    LAUNCH(add_to_all, dim3(2), dim3(32), 0, s, p, n, 2);
    cudaLaunchHostFunc(s, count_call, &n_calls);
    cudaEventRecord(last, s);
    float milliseconds = -1;
    CHECK(cudaEventQuery(last) == cudaErrorNotReady, "nothing has run");
    CHECK(cudaEventElapsedTime(&milliseconds, first, last) == cudaErrorNotReady, "nothing has run");
    int n_polls = 0;
    while (cudaEventQuery(last) == cudaErrorNotReady) CHECK(++n_polls < 100, "polling never ends");
    CHECK(n_calls == 1 && cudaStreamQuery(s) == cudaSuccess, "host function");
    CHECK(cudaEventElapsedTime(&milliseconds, first, last) == cudaSuccess && milliseconds >= 0, "elapsed time");
    cudaEventDestroy(first);
    cudaEventDestroy(last);
    cudaStreamDestroy(s);
    CHECK(cudaStreamSynchronize(s) == cudaErrorInvalidResourceHandle, "a destroyed stream");
}

// Freeing device memory waits for everything, as on a device.
static void test_free_waits() {
    fresh(5);
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    int *p = nullptr;
    cudaMalloc(&p, n * sizeof(int));
    cudaMemset(p, 0, n * sizeof(int));
    cudaDeviceSynchronize();
    LAUNCH(add_to_all, dim3(2), dim3(32), 0, s, p, n, 2);
    CHECK(cudaFree(p) == cudaSuccess && cudaStreamQuery(s) == cudaSuccess, "free");
    CHECK(simt::reports().empty(), "%s", simt::reports()[0].text.c_str());
    cudaStreamDestroy(s);
}

int main() {
    RUN(test_event_orders_streams);
    RUN(test_missing_event_shows);
    RUN(test_one_stream_is_ordered);
    RUN(test_default_stream_waits);
    RUN(test_result_read_too_early);
    RUN(test_source_changed_too_early);
    RUN(test_buffer_freed_too_early);
    RUN(test_copy_races_with_kernel);
    RUN(test_events_and_queries);
    RUN(test_free_waits);
    return finish();
}
