// Barriers and warp operations that not everybody reaches, and copies that nobody waits for.
#include "bugs.h"

// ---- barriers in divergent code --------------------------------------------------------------------------------------------------
KERNEL(barrier_of_one_warp) {
    if (threadIdx.x < 32) __syncthreads(); //A
    g[threadIdx.x] = 1;
    __syncthreads(); //B
}
KERNEL(barrier_of_half_a_warp) {
    if (threadIdx.x & 16) __syncthreads(); //A
    __syncthreads(); //B
}
KERNEL(barrier_in_a_loop_of_own_length) {
    for (unsigned i = 0; i < threadIdx.x / 32 + 1; i++) {
        __syncthreads(); //A
    }
    __syncthreads(); //B
}
KERNEL(barrier_beside_a_shuffle) {
    if (threadIdx.x == 5) __syncthreads(); //A
    else g[threadIdx.x] = __shfl_sync(WARP_FULL, 1, 0); //B
}
KERNEL(two_branches_two_barriers) {
    if (threadIdx.x & 1) {
        g[threadIdx.x] = 1;
        __syncthreads(); //A
    } else {
        g[threadIdx.x] = 2;
        __syncthreads(); //B
    }
}
KERNEL(plain_and_counting_barrier) {
    if (threadIdx.x >= 32) __syncthreads(); //A
    else g[threadIdx.x] = __syncthreads_or(1); //B
}

// ---- exits -----------------------------------------------------------------------------------------------------------------------
KERNEL(exit_before_barrier) {
    if (threadIdx.x >= 40) return;
    g[threadIdx.x] = 1;
    __syncthreads(); //A
}
KERNEL(warp_exits_before_barrier) {
    if (threadIdx.x >= 32) return;
    __syncthreads(); //A
}
KERNEL(exit_before_ballot) {
    if (threadIdx.x >= 27) return;
    g[threadIdx.x] = static_cast<int>(__ballot_sync(WARP_FULL, 1)); //A
}
KERNEL(exit_before_reduction) {
    if (threadIdx.x == 13) return;
    g[threadIdx.x] = __reduce_add_sync(WARP_FULL, 1); //A
}
KERNEL(exit_before_syncwarp) {
    if (threadIdx.x == 0) return;
    __syncwarp(); //A
    g[threadIdx.x] = 1;
}
KERNEL(exit_inside_a_loop) {
    for (int i = 0; i < 4; i++) {
        __syncthreads(); //A
        if (static_cast<int>(threadIdx.x) == 10 * i) return;
        g[threadIdx.x] = i;
    }
}
KERNEL(lanes_that_do_not_exist) {
    g[threadIdx.x] = static_cast<int>(__ballot_sync(WARP_FULL, 1)); //A
}

// ---- warp operations -------------------------------------------------------------------------------------------------------------
KERNEL(caller_outside_its_mask) {
    if (threadIdx.x < 8) g[threadIdx.x] = __any_sync(0x0000007fu, 1); //A
}
KERNEL(source_outside_the_mask) {
    if (threadIdx.x < 16) g[threadIdx.x] = __shfl_sync(0x0000ffffu, 7, 20); //A
}
KERNEL(masks_differ) {
    if (threadIdx.x & 1) g[threadIdx.x] = __any_sync(0xffffffffu, 1); //A
    else g[threadIdx.x] = __any_sync(0x7fffffffu, 1); //B
}
KERNEL(operations_differ) {
    if (threadIdx.x < 16) g[threadIdx.x] = static_cast<int>(__ballot_sync(WARP_FULL, 1)); //A
    else g[threadIdx.x] = __all_sync(WARP_FULL, 1); //B
}
KERNEL(two_shuffles_on_one_line) {
    g[threadIdx.x] = threadIdx.x & 1 ? __shfl_sync(WARP_FULL, 1, 0) : __shfl_sync(WARP_FULL, 2, 1); //A //B
}
KERNEL(width_is_no_power_of_two) {
    g[threadIdx.x] = __shfl_down_sync(WARP_FULL, 1, 1, 12); //A
}
KERNEL(mma_of_half_a_warp) {
    float d[4] = {0, 0, 0, 0};
    uint32_t a[4] = {0, 0, 0, 0}, b[2] = {0, 0};
    if (threadIdx.x < 16) mma_m16n8k16_f16(d, a, b, d); //A
    else __syncwarp(0xffff0000u);
    g[threadIdx.x] = static_cast<int>(d[0]);
}

// ---- copies nobody waits for -----------------------------------------------------------------------------------------------------
KERNEL(copy_never_waited_for) {
    SHARED(int, s, [32]);
    cp_async<4>(&s[threadIdx.x], g + threadIdx.x); //A
    cp_async_commit();
}
KERNEL(copy_never_committed) {
    SHARED(int, s, [32]);
    cp_async<4>(&s[threadIdx.x], g + threadIdx.x); //A
    cp_async_wait<0>();
}
KERNEL(last_group_never_waited_for) {
    SHARED(int, s, [2][32]);
    cp_async<4>(&s[0][threadIdx.x], g + threadIdx.x);
    cp_async_commit();
    cp_async<4>(&s[1][threadIdx.x], g + threadIdx.x); //A
    cp_async_commit();
    cp_async_wait<1>();
    g[64 + threadIdx.x] = s[0][threadIdx.x];
}

const std::vector<Bug> &order_bugs() {
    static const std::vector<Bug> bugs = {
        BUG(barrier_of_one_warp, barrier_divergence, "divergence", 1, 64, 0),
        BUG(barrier_of_half_a_warp, barrier_divergence, "divergence", 1, 32, 0),
        BUG(barrier_in_a_loop_of_own_length, barrier_divergence, "divergence", 1, 64, 0),
        BUG(barrier_beside_a_shuffle, barrier_divergence, "divergence", 1, 32, 0),
        BUG(two_branches_two_barriers, barrier_divergence, "divergence", 1, 32, 0),
        BUG(plain_and_counting_barrier, barrier_divergence, "divergence", 1, 64, 0),
        BUG(exit_before_barrier, exit_before_barrier, "exits", 1, 64, 0),
        BUG(warp_exits_before_barrier, exit_before_barrier, "exits", 1, 64, 0),
        BUG(exit_before_ballot, exit_before_barrier, "exits", 1, 32, 0),
        BUG(exit_before_reduction, exit_before_barrier, "exits", 1, 32, 0),
        BUG(exit_before_syncwarp, exit_before_barrier, "exits", 1, 32, 0),
        BUG(exit_inside_a_loop, exit_before_barrier, "exits", 1, 64, 0),
        BUG(lanes_that_do_not_exist, exit_before_barrier, "exits", 1, 48, 0),
        BUG(caller_outside_its_mask, collective, "warp operations", 1, 32, 0),
        BUG(source_outside_the_mask, collective, "warp operations", 1, 32, 0),
        BUG(masks_differ, collective, "warp operations", 1, 32, 0),
        BUG(operations_differ, collective, "warp operations", 1, 32, 0),
        BUG(two_shuffles_on_one_line, collective, "warp operations", 1, 32, 0),
        BUG(width_is_no_power_of_two, collective, "warp operations", 1, 32, 0),
        BUG(mma_of_half_a_warp, exit_before_barrier, "warp operations", 1, 32, 0),
        BUG(copy_never_waited_for, async_copy, "async", 1, 32, 0),
        BUG(copy_never_committed, async_copy, "async", 1, 32, 0),
        BUG(last_group_never_waited_for, async_copy, "async", 1, 32, 0)};
    return bugs;
}
