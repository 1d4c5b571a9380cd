// Races: between warps, within a warp, between blocks, with atomics, with asynchronous copies.
#include "bugs.h"

// ---- between warps ---------------------------------------------------------------------------------------------------------------
KERNEL(missing_barrier_after_fill) {
    SHARED(int, s, [64]);
    const int t = threadIdx.x;
    s[t] = t;         //A
    g[t] = s[63 - t]; //B
}
KERNEL(missing_barrier_before_reuse) {
    SHARED(int, partial, [2]);
    const int t = threadIdx.x, warp = t >> 5;
    const int sum = warp_reduce(t, AddOp());
    if ((t & 31) == 0) partial[warp] = sum;
    __syncthreads();
    const int total = partial[0] + partial[1]; //A
    const int most = warp_reduce(total + t, MaxOp());
    if ((t & 31) == 0) partial[warp] = most; //B
    __syncthreads();
    g[t] = partial[0] + partial[1];
}
KERNEL(two_warps_write_one_word) {
    SHARED(int, s, );
    if ((threadIdx.x & 31) == 0) s = threadIdx.x; //A //B
    __syncthreads();
    g[threadIdx.x] = s;
}
KERNEL(flag_without_barrier) {
    SHARED(int, found, );
    const int t = threadIdx.x;
    if (t == 0) found = 0;
    __syncthreads();
    if (t == 40) found = 1; //A
    g[t] = found;           //B
}
KERNEL(double_buffer_without_barrier) {
    SHARED(int, s, [2][64]);
    const int t = threadIdx.x;
    s[0][t] = t;
    __syncthreads();
    for (int i = 0; i < 4; i++) {
        s[(i + 1) & 1][t] = //A
            s[i & 1][(t + 33) & 63]; //B
    }
    g[t] = s[0][t];
}
KERNEL(global_memory_between_warps) {
    const int t = threadIdx.x;
    g[t] = t;               //A
    g[64 + t] = g[t ^ 32]; //B
}
KERNEL(bytes_of_one_word_overlap) {
    SHARED(signed char, s, [68]);
    const int t = threadIdx.x;
    s[t] = 1;                               //A
    if (t < 63) s[t + 1] = 2;               //B
    __syncthreads();
    g[t] = s[t];
}

// ---- within a warp ---------------------------------------------------------------------------------------------------------------
KERNEL(missing_syncwarp) {
    SHARED(int, s, [32]);
    const int t = threadIdx.x;
    s[t] = t;        //A
    g[t] = s[t ^ 1]; //B
}
KERNEL(lockstep_reduction) {
    SHARED(int, s, [32]);
    const int t = threadIdx.x;
    s[t] = t;
    __syncwarp();
    for (int o = 16; o; o >>= 1) {
        if (t < o) s[t] += s[t + o]; //A //B
    }
    __syncwarp();
    g[t] = s[0];
}
KERNEL(shuffle_does_not_order) {
    SHARED(int, s, [32]);
    const int t = threadIdx.x;
    s[t] = t; //A
    const int other = __shfl_xor_sync(WARP_FULL, t, 1);
    g[t] = s[other]; //B
}
KERNEL(ballot_does_not_order) {
    SHARED(int, s, [32]);
    const int t = threadIdx.x;
    s[t] = t; //A
    const unsigned all = __ballot_sync(WARP_FULL, 1);
    g[t] = s[(t + __popc(all) + 3) & 31]; //B
}
KERNEL(syncwarp_of_half_a_warp) {
    SHARED(int, s, [32]);
    const int t = threadIdx.x;
    s[t] = t; //A
    __syncwarp(t < 16 ? 0x0000ffffu : 0xffff0000u);
    g[t] = s[t ^ 16]; //B
}
KERNEL(volatile_is_no_barrier) {
    SHARED(int, s, [32]);
    volatile int *v = s;
    const int t = threadIdx.x;
    v[t] = t;             //A
    g[t] = v[(t + 5) & 31]; //B
}

// ---- between blocks --------------------------------------------------------------------------------------------------------------
KERNEL(blocks_write_one_word) {
    if (threadIdx.x == 0) g[0] = blockIdx.x; //A //B
}
KERNEL(reads_a_neighbour_block) {
    const int b = blockIdx.x;
    if (threadIdx.x == 0) {
        g[b] = b;                           //A
        g[100 + b] = g[(b + 1) % gridDim.x]; //B
    }
}
KERNEL(blocks_increment) {
    if (threadIdx.x == 0) g[0] += 1; //A //B
}
KERNEL(last_block_reads_plain_sums) {
    const int b = blockIdx.x;
    if (threadIdx.x == 0) {
        g[b] = b; //A
        if (atomicAdd(&g[200], 1) == static_cast<int>(gridDim.x) - 1) {
            int sum = 0;
            for (unsigned i = 0; i < gridDim.x; i++) sum += g[i]; //B
            g[201] = sum;
        }
    }
}
KERNEL(block_edges_overlap) {
    const int i = blockIdx.x * 32 + threadIdx.x;
    g[i] = 1;                                            //A
    if (threadIdx.x == 31 && i + 1 < n) g[i + 1] = 2; //B
}

// ---- atomics ---------------------------------------------------------------------------------------------------------------------
KERNEL(atomic_after_plain_zero) {
    SHARED(int, c, );
    if (threadIdx.x == 0) c = 0; //A
    atomicAdd(&c, 1);            //B
    __syncthreads();
    if (threadIdx.x == 0) g[0] = c;
}
KERNEL(plain_read_after_atomics) {
    SHARED(int, c, );
    if (threadIdx.x == 0) c = 0;
    __syncthreads();
    if ((threadIdx.x & 31) == 0) atomicAdd(&c, 1); //A
    if (threadIdx.x == 0) g[0] = c;                //B
}
KERNEL(atomic_and_plain_in_a_warp) {
    if (threadIdx.x == 7) g[0] += 1; //A
    else atomicAdd(g, 1);            //B
}
KERNEL(atomic_and_plain_between_blocks) {
    if (threadIdx.x) return;
    if (blockIdx.x == 1) g[0] = 1; //A
    else atomicAdd(g, 1);          //B
}
KERNEL(plain_read_of_other_blocks_atomics) {
    if (threadIdx.x == 0) {
        atomicAdd(g, 1);           //A
        g[1 + blockIdx.x] = g[0]; //B
    }
}
KERNEL(atomic_max_read_in_a_warp) {
    SHARED(int, most, );
    if (threadIdx.x == 0) most = 0;
    __syncwarp();
    atomicMax(&most, static_cast<int>(threadIdx.x)); //A
    g[threadIdx.x] = most;                           //B
}

// ---- asynchronous copies ---------------------------------------------------------------------------------------------------------
KERNEL(copy_into_a_buffer_still_read) {
    SHARED(int, s, [256]);
    const int t = threadIdx.x;
    s[4 * t] = s[4 * t + 1] = s[4 * t + 2] = s[4 * t + 3] = t;
    __syncthreads();
    g[t] = s[(4 * t + 130) & 255];    //A
    cp_async<16>(&s[4 * t], g + 4 * t); //B
    cp_async_commit();
    cp_async_wait<0>();
}
KERNEL(copied_by_another_warp) {
    SHARED(int, s, [64]);
    const int t = threadIdx.x;
    cp_async<4>(&s[t], g + t); //A
    cp_async_commit();
    cp_async_wait<0>();
    g[64 + t] = s[t ^ 32]; //B
}

const std::vector<Bug> &race_bugs() {
    static const std::vector<Bug> bugs = {
        BUG(missing_barrier_after_fill, race, "between warps", 1, 64, 0),
        BUG(missing_barrier_before_reuse, race, "between warps", 1, 64, 0),
        BUG(two_warps_write_one_word, race, "between warps", 1, 64, 0),
        BUG(flag_without_barrier, race, "between warps", 1, 64, 0),
        BUG(double_buffer_without_barrier, race, "between warps", 1, 64, 0),
        BUG(global_memory_between_warps, race, "between warps", 1, 64, 0),
        BUG(bytes_of_one_word_overlap, race, "between warps", 1, 64, 0),
        BUG(missing_syncwarp, race, "within a warp", 1, 32, 0),
        BUG(lockstep_reduction, race, "within a warp", 1, 32, 0),
        BUG(shuffle_does_not_order, race, "within a warp", 1, 32, 0),
        BUG(ballot_does_not_order, race, "within a warp", 1, 32, 0),
        BUG(syncwarp_of_half_a_warp, race, "within a warp", 1, 32, 0),
        BUG(volatile_is_no_barrier, race, "within a warp", 1, 32, 0),
        BUG(blocks_write_one_word, race, "between blocks", 4, 32, 0),
        BUG(reads_a_neighbour_block, race, "between blocks", 4, 32, 0),
        BUG(blocks_increment, race, "between blocks", 4, 32, 0),
        BUG(last_block_reads_plain_sums, race, "between blocks", 4, 32, 0),
        BUG(block_edges_overlap, race, "between blocks", 4, 32, 0),
        BUG(atomic_after_plain_zero, race, "atomics", 1, 64, 0),
        BUG(plain_read_after_atomics, race, "atomics", 1, 128, 0),
        BUG(atomic_and_plain_in_a_warp, race, "atomics", 1, 32, 0),
        BUG(atomic_and_plain_between_blocks, race, "atomics", 4, 32, 0),
        BUG(plain_read_of_other_blocks_atomics, race, "atomics", 4, 32, 0),
        BUG(atomic_max_read_in_a_warp, race, "atomics", 1, 32, 0),
        BUG(copy_into_a_buffer_still_read, race, "cp.async", 1, 64, 0),
        BUG(copied_by_another_warp, race, "cp.async", 1, 64, 0)};
    return bugs;
}
