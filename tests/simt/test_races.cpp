// The checker against the definition of a race: random scripts of accesses, run as kernels in random schedules. A list of all pairs of accesses
// says whether any two race; the checker must report then, and only then. Arguments: number of scripts, seed.
#include "../../kernels/cuda/block.cuh"
#include "harness.h"
#include <vector>

static const int n_threads = 64, n_bytes = 32;

enum What : int { nothing, read_1, read_2, read_4, read_8, read_16, write_1, write_2, write_4, write_8, write_16, atomic_4, n_whats };
static const int bytes_of[n_whats] = {0, 1, 2, 4, 8, 16, 1, 2, 4, 8, 16, 4};

struct Step {
    int what, at; // byte, aligned
};

template <class T> __device__ static void touch(const Step s, unsigned char *memory, int *sink) {
    T *p = reinterpret_cast<T *>(memory + s.at);
    if (s.what < write_1) *sink += *p != 0;
    else *p = static_cast<T>(s.what);
}

// Between steps: 0 nothing, 1 __syncwarp, 2 __syncthreads.
__global__ void play(const Step *steps, const int *between, int n_steps, unsigned char *global, int in_shared, int *sinks) {
    SHARED(unsigned char, shared, [n_bytes]);
    const int t = threadIdx.x;
    if (t < n_bytes) shared[t] = 0;
    __syncthreads();
    unsigned char *memory = in_shared ? shared : global;
    int sink = 0;
    for (int i = 0; i < n_steps; i++) {
        const Step s = steps[(blockIdx.x * n_steps + i) * n_threads + t];
        switch (s.what) {
        case read_1:
        case write_1: touch<unsigned char>(s, memory, &sink); break;
        case read_2:
        case write_2: touch<unsigned short>(s, memory, &sink); break;
        case read_4:
        case write_4: touch<unsigned>(s, memory, &sink); break;
        case read_8:
        case write_8: touch<unsigned long long>(s, memory, &sink); break;
        case read_16: sink += static_cast<int>(ld128(memory + s.at).x); break;
        case write_16: st128(memory + s.at, make_uint4(1, 2, 3, 4)); break;
        case atomic_4: atomicAdd(reinterpret_cast<unsigned *>(memory + s.at), 1u); break;
        default: break;
        }
        if (between[i] == 1) __syncwarp();
        if (between[i] == 2) __syncthreads();
    }
    sinks[blockIdx.x * n_threads + t] = sink;
}

struct Done {
    int what, first, end, block, thread, n_barriers, n_syncs;
};

static bool race(const Done &a, const Done &b, bool in_shared) {
    if (a.end <= b.first || b.end <= a.first) return false;
    if (a.block == b.block ? a.thread == b.thread : in_shared) return false;
    if (a.what < write_1 && b.what < write_1) return false;
    if (a.what == atomic_4 && b.what == atomic_4) return false;
    if (a.block != b.block) return true;
    return a.n_barriers == b.n_barriers && (a.thread / 32 != b.thread / 32 || a.n_syncs == b.n_syncs);
}

static uint64_t state;
static unsigned below(unsigned n) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<unsigned>((state >> 33) % n);
}

// Some scripts have few accesses, some only reads and one write, some one thread that does most.
static bool play_one(uint64_t seed) {
    state = seed * 0x9E3779B97F4A7C15ull;
    below(2);
    const int n_blocks = 1 + static_cast<int>(below(3)), n_steps = 3 + static_cast<int>(below(8));
    const bool in_shared = below(2);
    const unsigned kinds = below(4), one_in = 4u << below(9), n_places = 1u << below(6);
    const int favourite = static_cast<int>(below(n_threads));
    std::vector<Step> steps(n_blocks * n_steps * n_threads, Step{nothing, 0});
    std::vector<int> between(n_steps);
    std::vector<Done> all;
    int n_barriers = 0, n_syncs = 0;
    const int rare = static_cast<int>(below(static_cast<unsigned>(steps.size())));
    for (int i = 0; i < n_steps; i++) {
        for (int block = 0; block < n_blocks; block++) {
            for (int t = 0; t < n_threads; t++) {
                const int index = (block * n_steps + i) * n_threads + t;
                if (index != rare && below(t == favourite ? 3 : one_in)) continue;
                Step &s = steps[index];
                s.what = 1 + static_cast<int>(below(kinds == 0 ? 5 : n_whats - 1));
                if (kinds == 1 && index != rare) s.what = atomic_4;
                if (kinds == 0 && index == rare) s.what = write_1 + static_cast<int>(below(6));
                s.at = static_cast<int>(below(n_places)) * bytes_of[s.what] % n_bytes;
                all.push_back({s.what, s.at, s.at + bytes_of[s.what], block, t, n_barriers, n_syncs});
            }
        }
        between[i] = static_cast<int>(below(3));
        n_syncs += between[i] == 1;
        n_barriers += between[i] == 2;
    }
    bool expected = false;
    for (size_t a = 0; a < all.size() && !expected; a++) {
        for (size_t b = 0; b < a && !expected; b++) expected = race(all[a], all[b], in_shared);
    }
    simt::Options &o = simt::options();
    o.order = static_cast<simt::Order>(below(4));
    o.preempt = below(2) ? 0 : 2 + below(20);
    o.seed = seed;
    Step *d_steps;
    int *d_between, *sinks;
    unsigned char *global;
    cudaMalloc(&d_steps, steps.size() * sizeof(Step));
    cudaMalloc(&d_between, between.size() * sizeof(int));
    cudaMalloc(&global, n_bytes);
    cudaMalloc(&sinks, n_blocks * n_threads * sizeof(int));
    cudaMemcpy(d_steps, steps.data(), steps.size() * sizeof(Step), cudaMemcpyHostToDevice);
    cudaMemcpy(d_between, between.data(), between.size() * sizeof(int), cudaMemcpyHostToDevice);
    cudaMemset(global, 0, n_bytes);
    LAUNCH(play, dim3(n_blocks), dim3(n_threads), 0, 0, d_steps, d_between, n_steps, global, in_shared, sinks);
    CHECK(cudaDeviceSynchronize() == cudaSuccess, "seed %llu: the launch failed", static_cast<unsigned long long>(seed));
    bool reported = false;
    for (const simt::Report &r : simt::reports()) {
        reported |= r.kind == simt::Kind::race;
        CHECK(r.kind == simt::Kind::race, "seed %llu: %s", static_cast<unsigned long long>(seed), r.text.c_str());
    }
    CHECK(reported == expected, "seed %llu: %s race among %zu accesses in %s memory, %s", static_cast<unsigned long long>(seed), expected ? "a" : "no",
          all.size(), in_shared ? "shared" : "global", reported ? simt::reports()[0].text.c_str() : "no report");
    simt::reset();
    return expected;
}

int main(int argc, char **argv) {
    const int n_scripts = argc > 1 ? atoi(argv[1]) : 3000;
    const uint64_t first = argc > 2 ? strtoull(argv[2], nullptr, 10) : 1;
    simt::options().check = true;
    simt::options().print = false;
    int n_races = 0;
    for (int i = 0; i < n_scripts; i++) n_races += play_one(first + static_cast<uint64_t>(i));
    CHECK(n_scripts < 100 || (n_races > n_scripts / 5 && n_races < n_scripts * 4 / 5), "%d of %d scripts race: too few of a kind", n_races, n_scripts);
    char name[96];
    snprintf(name, sizeof name, "%d random scripts: reports in the %d that race, none in the others", n_scripts, n_races);
    verdict(name);
    return finish();
}
