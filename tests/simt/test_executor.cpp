// The executor by itself: collectives against their definition, launch limits, memory, errors, injected faults, protection. Runs plain.
#include "cases.h"
#include "harness.h"
#include <cstring>
#include <sys/wait.h>
#include <unistd.h>

static simt::Options &fresh() {
    simt::reset();
    simt::options() = simt::Options();
    simt::options().print = false;
    simt::options().check = simt::instrumented();
    return simt::options();
}

// ---- collectives -----------------------------------------------------------------------------------------------------------------
const unsigned all_lanes = 0xffffffffu;

__global__ void warp_operations(const int *x, int *out, unsigned *masks) {
    const int lane = threadIdx.x, v = x[lane];
    int *o = out + lane * 16;
    int all_equal = 0;
    o[0] = __shfl_sync(all_lanes, v, lane * 7);
    o[1] = __shfl_up_sync(all_lanes, v, 3);
    o[2] = __shfl_down_sync(all_lanes, v, 5, 8);
    o[3] = __shfl_xor_sync(all_lanes, v, 9, 16);
    o[4] = __shfl_sync(all_lanes, v, 19, 16);
    o[5] = __any_sync(all_lanes, v == x[13]);
    o[6] = __all_sync(all_lanes, v > -1000);
    o[7] = __reduce_add_sync(all_lanes, v);
    o[8] = __reduce_min_sync(all_lanes, v);
    o[9] = __reduce_max_sync(all_lanes, static_cast<unsigned>(v)) == static_cast<unsigned>(__reduce_max_sync(all_lanes, static_cast<unsigned>(v)));
    o[10] = __reduce_xor_sync(all_lanes, static_cast<unsigned>(v));
    o[11] = static_cast<int>(__shfl_xor_sync(all_lanes, static_cast<double>(v) / 4, 1) * 4);
    o[12] = __half2float(__shfl_down_sync(all_lanes, __float2half(static_cast<float>(lane)), 1));
    masks[lane * 3] = __ballot_sync(all_lanes, v & 1);
    masks[lane * 3 + 1] = __match_any_sync(all_lanes, v & 3);
    masks[lane * 3 + 2] = __match_all_sync(all_lanes, v >> 20, &all_equal);
    o[13] = all_equal;
}

static void test_collectives() {
    fresh();
    std::vector<int> x(32);
    for (int &v : x) v = static_cast<int>(next_random() % 100) - 20;
    for (int &v : x) v = v < 0 ? -v : v;
    Buffer<int> d_x(x), d_out(std::vector<int>(512, 0));
    Buffer<unsigned> d_masks(size_t(96));
    LAUNCH(warp_operations, dim3(1), dim3(32), 0, 0, d_x, d_out, d_masks);
    const std::vector<int> out = d_out.get();
    const std::vector<unsigned> masks = d_masks.get();
    int sum = 0, least = x[0], bits = 0;
    for (int v : x) sum += v, least = v < least ? v : least, bits ^= v;
    for (int l = 0; l < 32; l++) {
        const int *o = &out[l * 16];
        unsigned ballot = 0, match = 0;
        for (int m = 0; m < 32; m++) {
            ballot |= static_cast<unsigned>(x[m] & 1) << m;
            match |= static_cast<unsigned>((x[m] & 3) == (x[l] & 3)) << m;
        }
        CHECK(o[0] == x[l * 7 % 32] && o[1] == x[l < 3 ? l : l - 3] && o[2] == x[l % 8 + 5 > 7 ? l : l + 5], "shuffles of lane %d", l);
        CHECK(o[3] == x[l ^ 9] && o[4] == x[l / 16 * 16 + 3], "shuffles with width, lane %d", l);
        CHECK(o[5] == 1 && o[6] == 1 && o[7] == sum && o[8] == least && o[9] == 1 && o[10] == bits, "votes and reductions of lane %d", l);
        CHECK(o[11] == x[l ^ 1] && o[12] == (l == 31 ? 31 : l + 1) && o[13] == 1, "other types, lane %d", l);
        CHECK(masks[l * 3] == ballot && masks[l * 3 + 1] == match && masks[l * 3 + 2] == all_lanes, "masks of lane %d", l);
    }
    CHECK(simt::reports().empty(), "%s", simt::reports()[0].text.c_str());
}

__global__ void mma_kinds(float *out, const uint32_t *a, const uint32_t *b) {
    uint32_t af[4], bf[2];
    float c[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    for (int i = 0; i < 4; i++) af[i] = a[i * 32 + threadIdx.x];
    for (int i = 0; i < 2; i++) bf[i] = b[i * 32 + threadIdx.x];
    mma_m16n8k16_bf16(c, af, bf, c);
    for (int i = 0; i < 4; i++) out[threadIdx.x * 8 + i] = c[i];
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_m16n8k32_e4m3(d, af, bf, d);
    for (int i = 0; i < 4; i++) out[threadIdx.x * 8 + 4 + i] = d[i];
}

// All elements one, then a single two in a known place: where it lands tells the layout.
static void test_mma_layout() {
    fresh();
    const uint32_t one_bf16 = 0x3f803f80u;
    std::vector<uint32_t> a(128, one_bf16), b(64, one_bf16);
    a[2 * 32 + 6] = 0x3f804000u; // lane 6: group 1, part 2; register 2: row 1, k = 2*2 + 8 = 12 holds a two
    b[1 * 32 + 22] = 0x3f804040u; // lane 22: column 5, part 2; register 1: k = 12 holds a three
    Buffer<uint32_t> d_a(a), d_b(b);
    Buffer<float> out(size_t(256));
    LAUNCH(mma_kinds, dim3(1), dim3(32), 0, 0, out, d_a, d_b);
    const std::vector<float> got = out.get();
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
            const float product = row == 1 && column == 5 ? 6 : row == 1 ? 2 : column == 5 ? 3 : 1;
            CHECK(got[lane * 8 + i] == 15 + product + 1 + i, "bf16 row %d column %d: %g", row, column, got[lane * 8 + i]);
        }
    }
    // 0x38 is one in e4m3, 0x40 two.
    std::fill(a.begin(), a.end(), 0x38383838u);
    std::fill(b.begin(), b.end(), 0x38383838u);
    a[3 * 32 + 4] = 0x38384038u; // row 1 + 8, k = 16 + 1
    Buffer<uint32_t> e_a(a), e_b(b);
    LAUNCH(mma_kinds, dim3(1), dim3(32), 0, 0, out, e_a, e_b);
    const std::vector<float> fp8 = out.get();
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) CHECK(fp8[lane * 8 + 4 + i] == (lane / 4 + 8 * (i / 2) == 9 ? 33 : 32), "e4m3 lane %d: %g", lane, fp8[lane * 8 + 4 + i]);
    }
    CHECK(simt::reports().empty(), "%s", simt::reports()[0].text.c_str());
}

// ---- limits ----------------------------------------------------------------------------------------------------------------------
__global__ void do_nothing(int *p) {
    if (p) *p = 1;
}
__global__ void two_arrays(int *out) {
    SHARED(char, a, [3]);
    SHARED(double, b, [5]);
    DYN_SHARED(int, c);
    a[threadIdx.x % 3] = 0;
    b[threadIdx.x % 5] = 0;
    if (out) c[0] = 1;
}
__global__ void too_much_static(int *out) {
    SHARED(int, s, [12289]);
    s[threadIdx.x] = 1;
    out[threadIdx.x] = s[threadIdx.x];
}

static cudaError_t launch_error(dim3 grid, dim3 block, size_t bytes) {
    LAUNCH(do_nothing, grid, block, bytes, 0, nullptr);
    return cudaGetLastError();
}

static void test_launch_limits() {
    fresh();
    CHECK(launch_error(dim3(1), dim3(1024), 49152) == cudaSuccess, "the largest block");
    CHECK(launch_error(dim3(1), dim3(1025), 0) == cudaErrorInvalidConfiguration, "1,025 threads");
    CHECK(launch_error(dim3(1), dim3(512, 4), 0) == cudaErrorInvalidConfiguration, "2,048 threads");
    CHECK(launch_error(dim3(1), dim3(1, 1, 65), 0) == cudaErrorInvalidConfiguration, "z = 65");
    CHECK(launch_error(dim3(1), dim3(0), 0) == cudaErrorInvalidConfiguration, "no threads");
    CHECK(launch_error(dim3(0), dim3(32), 0) == cudaErrorInvalidConfiguration, "no blocks");
    CHECK(launch_error(dim3(1, 65536), dim3(1), 0) == cudaErrorInvalidConfiguration, "grid y");
    CHECK(launch_error(dim3(1, 1, 65536), dim3(1), 0) == cudaErrorInvalidConfiguration, "grid z");
    CHECK(launch_error(dim3(70000), dim3(1), 0) == cudaSuccess, "many blocks in x");
    CHECK(launch_error(dim3(1), dim3(32), 49153) == cudaErrorInvalidValue, "dynamic shared memory without the attribute");
    CHECK(cudaFuncSetAttribute(do_nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 101377) == cudaErrorInvalidValue && cudaGetLastError() == cudaErrorInvalidValue, "above the device's limit");
    CHECK(cudaFuncSetAttribute(do_nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 101376) == cudaSuccess, "the device's limit");
    CHECK(launch_error(dim3(1), dim3(32), 101376) == cudaSuccess, "with the attribute");
    LAUNCH(two_arrays, dim3(1), dim3(32), 64, 0, nullptr);
    CHECK(cudaGetLastError() == cudaSuccess && simt::last_static_shared_bytes() == 48, "static shared memory %zu", simt::last_static_shared_bytes());
    Buffer<int> out(size_t(32));
    LAUNCH(too_much_static, dim3(1), dim3(32), 0, 0, out);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration, "49,156 static bytes");
}

// ---- memory ----------------------------------------------------------------------------------------------------------------------
static void test_memory() {
    fresh().memory_bytes = 1 << 20;
    char *a = nullptr, *b = nullptr, *c = nullptr;
    CHECK(cudaMalloc(&a, 1000) == cudaSuccess && cudaMalloc(&b, 24) == cudaSuccess, "allocation");
    CHECK(reinterpret_cast<uintptr_t>(a) % 256 == 0 && reinterpret_cast<uintptr_t>(b) % 256 == 0, "alignment");
    CHECK((b > a ? b - a : a - b) >= 1000 + 256, "red zones");
    CHECK(cudaMalloc(&c, 1 << 20) == cudaErrorMemoryAllocation && c == nullptr && cudaGetLastError() == cudaErrorMemoryAllocation, "a full device");
    char host[1000];
    memset(host, 7, sizeof host);
    CHECK(cudaMemcpy(host, a, 1000, cudaMemcpyDeviceToHost) == cudaSuccess && host[0] == -1 && host[999] == -1, "poison");
    CHECK(cudaMemset(a, 3, 1000) == cudaSuccess && cudaMemcpy(host, a, 1000, cudaMemcpyDefault) == cudaSuccess && host[500] == 3, "memset");
    CHECK(cudaMemcpy(a, host, 1001, cudaMemcpyHostToDevice) == cudaErrorInvalidValue, "a copy over the end");
    CHECK(cudaMemcpy(a, host, 10, cudaMemcpyDeviceToHost) == cudaErrorInvalidMemcpyDirection, "a wrong direction");
    CHECK(cudaMemset(b, 0, 25) == cudaErrorInvalidValue, "memset over the end");
    CHECK(cudaMemcpy(b, a, 24, cudaMemcpyDeviceToDevice) == cudaSuccess && cudaMemcpy(host, b, 24, cudaMemcpyDeviceToHost) == cudaSuccess && host[23] == 3, "on the device");
    CHECK(cudaFree(a + 8) == cudaErrorInvalidValue && simt::live_allocations() == 2, "freeing the middle");
    CHECK(cudaFree(a) == cudaSuccess && cudaFree(a) == cudaErrorInvalidValue && cudaFree(nullptr) == cudaSuccess, "freeing twice");
    CHECK(cudaMemcpy(host, a, 10, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue, "a copy from freed memory");
    char *again = nullptr;
    CHECK(cudaMalloc(&again, 1000) == cudaSuccess && again != a, "freed memory is kept out of use");
    size_t free_bytes = 0, total = 0;
    CHECK(cudaMemGetInfo(&free_bytes, &total) == cudaSuccess && total == 1 << 20 && free_bytes == total - 1024, "memory information");
    cudaFree(again);
    cudaFree(b);
    CHECK(simt::live_allocations() == 0, "leaks");
}

__global__ void write_one_past(char *p, int n) { p[n] = 1; }

static void test_red_zone_without_checker() {
    fresh().check = false;
    char *p = nullptr;
    cudaMalloc(&p, 100);
    LAUNCH(write_one_past, dim3(1), dim3(1), 0, 0, p, 100);
    CHECK(simt::reports().empty(), "too early");
    cudaFree(p);
    CHECK(simt::reports().size() == 1 && simt::reports()[0].kind == simt::Kind::out_of_bounds, "an overwritten red zone");
}

// What a process that runs this dies of: its status and the end of what it says.
template <class F> static int run_in_child(F body, char text[256]) {
    int ends[2];
    text[0] = 0;
    if (pipe(ends)) return -1;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        body();
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t k; n < 255 && (k = read(ends[0], text + n, 255 - n)) > 0;) n += static_cast<size_t>(k);
    text[n] = 0;
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

__global__ void recurse(int *p, int depth) {
    volatile char frame[512];
    frame[0] = static_cast<char>(depth);
    if (depth < 1000000) recurse(p, depth + 1);
    p[0] = frame[0];
}

static void test_host_is_kept_out() {
    fresh().check = false;
    int *p = nullptr;
    cudaMalloc(&p, 64);
    char text[256];
    int status = run_in_child([p] { *static_cast<volatile int *>(p) = 1; }, text);
    CHECK(status == 3 && strstr(text, "host code touched device memory"), "status %d: %s", status, text);
    status = run_in_child([p] { LAUNCH(recurse, dim3(1), dim3(1), 0, 0, p, 0); }, text);
    CHECK(status == 3 && strstr(text, "stack overflow") && strstr(text, "recurse"), "status %d: %s", status, text);
    cudaFree(p);
}

// ---- faults and errors -----------------------------------------------------------------------------------------------------------
// A host function that cleans up after itself: with the n-th step failing it must leave nothing behind.
static cudaError_t allocate_and_run() {
    int *a = nullptr, *b = nullptr;
    cudaError_t error = cudaMalloc(&a, 128);
    if (!error) error = cudaMalloc(&b, 128);
    if (!error) {
        LAUNCH(do_nothing, dim3(1), dim3(32), 0, 0, static_cast<int *>(nullptr));
        error = cudaGetLastError();
    }
    if (!error) {
        LAUNCH(do_nothing, dim3(1), dim3(1), 0, 0, b);
        error = cudaGetLastError();
    }
    cudaFree(a);
    cudaFree(b);
    return error;
}

static void test_injected_faults() {
    for (int n = 1; n <= 3; n++) {
        fresh().fail_alloc = n;
        CHECK(allocate_and_run() == (n <= 2 ? cudaErrorMemoryAllocation : cudaSuccess), "allocation %d fails", n);
        CHECK(simt::live_allocations() == 0, "leak when allocation %d fails", n);
        fresh().fail_launch = n;
        CHECK(allocate_and_run() == (n <= 2 ? cudaErrorLaunchOutOfResources : cudaSuccess), "launch %d fails", n);
        CHECK(simt::live_allocations() == 0, "leak when launch %d fails", n);
    }
}

__global__ void deadlock(int *p) {
    if (threadIdx.x < 16) __syncwarp();
    else p[threadIdx.x] = static_cast<int>(__ballot_sync(0xffffffffu, 1));
}

static void test_errors_stick() {
    fresh();
    int *p = nullptr;
    cudaMalloc(&p, 128);
    LAUNCH(deadlock, dim3(3), dim3(32), 0, 0, p);
    CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure, "a deadlock ends the launch");
    CHECK(simt::reports().size() == 1 && simt::reports()[0].place.line != simt::reports()[0].other.line, "%zu reports", simt::reports().size());
    CHECK(cudaGetLastError() == cudaErrorLaunchFailure && cudaGetLastError() == cudaErrorLaunchFailure, "the error stays");
    CHECK(cudaMalloc(&p, 128) == cudaErrorLaunchFailure, "nothing works any more");
    simt::reset();
    CHECK(cudaMalloc(&p, 128) == cudaSuccess && cudaGetLastError() == cudaSuccess, "but after a reset");
    CHECK(launch_error(dim3(0), dim3(1), 0) == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess, "a refused launch does not stick");
    CHECK(strcmp(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress") == 0 && strlen(cudaGetErrorString(cudaErrorNotReady)), "texts");
}

// ---- orders ----------------------------------------------------------------------------------------------------------------------
__global__ void record_order(int *next, int *order) { order[atomicAdd(next, 1)] = static_cast<int>(blockIdx.x * 64 + threadIdx.x); }

static std::vector<int> order_of(simt::Order order, uint64_t seed) {
    simt::Options &o = fresh();
    o.check = false;
    o.order = order;
    o.seed = seed;
    Buffer<int> next(std::vector<int>(1, 0)), out(size_t(256));
    LAUNCH(record_order, dim3(4), dim3(64), 0, 0, next, out);
    return out.get();
}

static void test_orders() {
    const std::vector<int> forward = order_of(simt::Order::forward, 1), reverse = order_of(simt::Order::reverse, 1);
    const std::vector<int> random = order_of(simt::Order::random, 1), other = order_of(simt::Order::random, 2);
    for (int i = 0; i < 256; i++) CHECK(forward[i] == i && reverse[i] == 255 - i, "place %d: %d, %d", i, forward[i], reverse[i]);
    CHECK(random != forward && random != other && random == order_of(simt::Order::random, 1), "random orders differ by seed and repeat");
}

static void test_checker_needs_instrumentation() {
    if (simt::instrumented()) return;
    fresh().check = true;
    CHECK(launch_error(dim3(1), dim3(1), 0) == cudaErrorLaunchFailure, "a check of code without instrumentation must not pass");
    fresh();
}

int main() {
    RUN(test_collectives);
    RUN(test_mma_layout);
    RUN(test_launch_limits);
    RUN(test_memory);
    RUN(test_red_zone_without_checker);
    RUN(test_host_is_kept_out);
    RUN(test_injected_faults);
    RUN(test_errors_stick);
    RUN(test_orders);
    RUN(test_checker_needs_instrumentation);
    return finish();
}
