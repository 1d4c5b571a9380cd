// Wrong memory: never written, out of bounds, misaligned, not the device's.
#include "bugs.h"

CONSTANT(int, small_table, [4]) = {1, 2, 3, 4};
static int host_global[256]; // its middle is no neighbour of the table

// ---- never written ---------------------------------------------------------------------------------------------------------------
KERNEL(half_filled_shared) {
    SHARED(int, s, [32]);
    const int t = threadIdx.x;
    if (t < 16) s[t] = t;
    __syncthreads();
    g[t] = s[t]; //A
}
KERNEL(dynamic_never_filled) {
    DYN_SHARED(int, s);
    g[threadIdx.x] = s[threadIdx.x]; //A
}
KERNEL(global_never_filled) {
    g[threadIdx.x] = u[threadIdx.x]; //A
}
KERNEL(counter_never_zeroed) {
    SHARED(int, c, );
    atomicAdd(&c, 1); //A
    __syncthreads();
    if (threadIdx.x == 0) g[0] = 1;
}
KERNEL(vector_partly_filled) {
    SHARED(uint4, s, );
    int *words = reinterpret_cast<int *>(&s);
    if (threadIdx.x < 3) words[threadIdx.x] = 0;
    __syncthreads();
    const uint4 v = ld128(&s); //A
    g[threadIdx.x] = static_cast<int>(v.x);
}
KERNEL(byte_never_filled) {
    SHARED(unsigned char, s, [32]);
    if (threadIdx.x != 9) s[threadIdx.x] = 1;
    __syncthreads();
    g[threadIdx.x] = s[31 - threadIdx.x]; //A
}
KERNEL(read_before_wait) {
    SHARED(int, s, [32]);
    cp_async<4>(&s[threadIdx.x], g + threadIdx.x);
    cp_async_commit();
    g[64 + threadIdx.x] = s[threadIdx.x]; //A
    cp_async_wait<0>();
}
KERNEL(waits_for_too_few) {
    SHARED(int, s, [2][32]);
    for (int i = 0; i < 2; i++) {
        cp_async<4>(&s[i][threadIdx.x], g + threadIdx.x);
        cp_async_commit();
    }
    cp_async_wait<1>();
    g[64 + threadIdx.x] = s[0][threadIdx.x];
    g[96 + threadIdx.x] = s[1][threadIdx.x]; //A
    cp_async_wait<0>();
}
KERNEL(waits_without_commit) {
    SHARED(int, s, [32]);
    cp_async<4>(&s[threadIdx.x], g + threadIdx.x);
    cp_async_wait<0>();
    g[64 + threadIdx.x] = s[threadIdx.x]; //A
    cp_async_commit();
    cp_async_wait<0>();
}

// ---- out of bounds ---------------------------------------------------------------------------------------------------------------
KERNEL(one_past_the_end) {
    const int i = threadIdx.x + 225;
    if (i <= n) g[i] = i; //A
}
KERNEL(one_before_the_start) {
    g[64 + threadIdx.x] = g[static_cast<int>(threadIdx.x) - 1]; //A
}
KERNEL(shared_past_the_end) {
    SHARED(int, s, [32]);
    s[threadIdx.x + 1] = 1; //A
    __syncthreads();
}
KERNEL(dynamic_past_the_end) {
    DYN_SHARED(int, s);
    s[threadIdx.x] = 1; //A
}
KERNEL(before_dynamic) {
    DYN_SHARED(int, s);
    s[static_cast<int>(threadIdx.x) - 2] = 1; //A
}
KERNEL(atomic_past_the_end) {
    atomicAdd(&g[n + threadIdx.x], 1); //A
}
KERNEL(vector_over_the_end) {
    if (threadIdx.x == 0) st128(u + 248, make_uint4(1, 2, 3, 4)); //A
}
KERNEL(freed_memory) {
    f[threadIdx.x] = 1; //A
}
KERNEL(freed_memory_read) {
    g[threadIdx.x] = f[threadIdx.x]; //A
}
KERNEL(wild_index) {
    g[threadIdx.x * 100000] = 1; //A
}
KERNEL(other_threads_stack) {
    SHARED(int *, p, );
    int local = static_cast<int>(threadIdx.x);
    if (threadIdx.x == 0) p = &local;
    __syncthreads();
    if (threadIdx.x == 1) g[0] = *p; //A
    __syncthreads();
    g[1] = local;
}
KERNEL(constant_past_the_end) {
    g[threadIdx.x] = small_table[threadIdx.x & 7]; //A
}
KERNEL(copy_to_global) {
    cp_async<4>(g + 64 + threadIdx.x, g + threadIdx.x); //A
    cp_async_commit();
    cp_async_wait<0>();
}

// ---- misaligned ------------------------------------------------------------------------------------------------------------------
KERNEL(misaligned_vector) {
    const uint4 v = ld128(g + 2 * threadIdx.x); //A
    g[200] = static_cast<int>(v.x);
}
KERNEL(misaligned_long) {
    g[200] = static_cast<int>(*reinterpret_cast<long long *>(g + threadIdx.x)); //A
}
KERNEL(misaligned_int) {
    *reinterpret_cast<int *>(reinterpret_cast<char *>(g) + 2 + 4 * threadIdx.x) = 1; //A
}
KERNEL(misaligned_short) {
    *reinterpret_cast<short *>(reinterpret_cast<char *>(g) + 1) = 1; //A
}
KERNEL(misaligned_shared_store) {
    SHARED(int, s, [256]);
    st128(&s[4 * threadIdx.x + 1], make_uint4(1, 2, 3, 4)); //A
}
KERNEL(misaligned_copy) {
    SHARED(int, s, [256]);
    cp_async<16>(&s[4 * threadIdx.x], g + 2 + 4 * threadIdx.x); //A
    cp_async_commit();
    cp_async_wait<0>();
}
KERNEL(misaligned_atomic) {
    atomicAdd(reinterpret_cast<unsigned long long *>(g + 1), 1ull); //A
}

// ---- the host's memory -----------------------------------------------------------------------------------------------------------
KERNEL(reads_host_pointer) {
    g[threadIdx.x] = h[threadIdx.x]; //A
}
KERNEL(writes_host_pointer) {
    h[threadIdx.x] = 1; //A
}
KERNEL(null_pointer) {
    int *p = reinterpret_cast<int *>(static_cast<uintptr_t>(g[n - 1])); // null, which the compiler cannot see
    g[threadIdx.x] = p[threadIdx.x]; //A
}
KERNEL(host_variable) {
    g[threadIdx.x] = host_global[128]; //A
    host_global[128] = static_cast<int>(threadIdx.x);
}
KERNEL(atomic_on_host_memory) {
    atomicAdd(h, 1); //A
}
KERNEL(vector_from_host_memory) {
    const uint4 v = ld128(h); //A
    g[0] = static_cast<int>(v.x);
}
KERNEL(copy_from_host_memory) {
    SHARED(int, s, [32]);
    cp_async<4>(&s[threadIdx.x], h + threadIdx.x); //A
    cp_async_commit();
    cp_async_wait<0>();
}

const std::vector<Bug> &memory_bugs() {
    static const std::vector<Bug> bugs = {
        BUG(half_filled_shared, uninitialised, "never written", 1, 32, 0),
        BUG(dynamic_never_filled, uninitialised, "never written", 1, 32, 128),
        BUG(global_never_filled, uninitialised, "never written", 1, 32, 0),
        BUG(counter_never_zeroed, uninitialised, "never written", 1, 32, 0),
        BUG(vector_partly_filled, uninitialised, "never written", 1, 32, 0),
        BUG(byte_never_filled, uninitialised, "never written", 1, 32, 0),
        BUG(read_before_wait, uninitialised, "never written", 1, 32, 0),
        BUG(waits_for_too_few, uninitialised, "never written", 1, 32, 0),
        BUG(waits_without_commit, uninitialised, "never written", 1, 32, 0),
        BUG(one_past_the_end, out_of_bounds, "bounds", 1, 32, 0),
        BUG(one_before_the_start, out_of_bounds, "bounds", 1, 32, 0),
        BUG(shared_past_the_end, out_of_bounds, "bounds", 1, 32, 0),
        BUG(dynamic_past_the_end, out_of_bounds, "bounds", 1, 32, 124),
        BUG(before_dynamic, out_of_bounds, "bounds", 1, 32, 128),
        BUG(atomic_past_the_end, out_of_bounds, "bounds", 1, 32, 0),
        BUG(vector_over_the_end, out_of_bounds, "bounds", 1, 32, 0),
        BUG(freed_memory, out_of_bounds, "bounds", 1, 32, 0),
        BUG(freed_memory_read, out_of_bounds, "bounds", 1, 32, 0),
        BUG(wild_index, out_of_bounds, "bounds", 1, 32, 0),
        BUG(other_threads_stack, out_of_bounds, "bounds", 1, 32, 0),
        BUG(constant_past_the_end, out_of_bounds, "bounds", 1, 32, 0),
        BUG(copy_to_global, out_of_bounds, "bounds", 1, 32, 0),
        BUG(misaligned_vector, misaligned, "alignment", 1, 32, 0),
        BUG(misaligned_long, misaligned, "alignment", 1, 32, 0),
        BUG(misaligned_int, misaligned, "alignment", 1, 32, 0),
        BUG(misaligned_short, misaligned, "alignment", 1, 32, 0),
        BUG(misaligned_shared_store, misaligned, "alignment", 1, 32, 0),
        BUG(misaligned_copy, misaligned, "alignment", 1, 32, 0),
        BUG(misaligned_atomic, misaligned, "alignment", 1, 32, 0),
        BUG(reads_host_pointer, host_memory, "host memory", 1, 32, 0),
        BUG(writes_host_pointer, host_memory, "host memory", 1, 32, 0),
        BUG(null_pointer, host_memory, "host memory", 1, 32, 0),
        BUG(host_variable, host_memory, "host memory", 1, 32, 0),
        BUG(atomic_on_host_memory, host_memory, "host memory", 1, 32, 0),
        BUG(vector_from_host_memory, host_memory, "host memory", 1, 32, 0),
        BUG(copy_from_host_memory, host_memory, "host memory", 1, 32, 0)};
    return bugs;
}
