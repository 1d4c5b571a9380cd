// The clean kernels: right and silent in every order. Built plain it also runs them on several host threads and measures speed; built
// with instrumentation it runs N random schedules with preemption through the checker. Arguments: N; "time", to print the processor's time of
// each case's kernels, the best of N runs; and then, part of a name, to measure only those.
#include "cases.h"
#include "harness.h"
#include <algorithm>
#include <cstring>

static std::vector<Case> all_cases() {
    std::vector<Case> all;
    for (const auto *part : {&list_cases(), &matrix_cases(), &attention_cases(), &block_cases(), &tricky_cases(), &stream_cases()}) all.insert(all.end(), part->begin(), part->end());
    return all;
}

static void run_case(const Case &c, uint64_t seed) {
    case_random = static_cast<unsigned>(seed * 7919 + 1);
    const bool right = c.run();
    CHECK(right, "%s is wrong: order %d, seed %llu, preempt %u", c.name, static_cast<int>(simt::options().order),
          static_cast<unsigned long long>(simt::options().seed), simt::options().preempt);
    CHECK(simt::reports().empty(), "%s: order %d, seed %llu, preempt %u: %s", c.name, static_cast<int>(simt::options().order),
          static_cast<unsigned long long>(simt::options().seed), simt::options().preempt, simt::reports()[0].text.c_str());
    CHECK(simt::live_allocations() == 0, "%s leaves device memory behind", c.name);
    simt::reset();
}

static const simt::Order orders[] = {simt::Order::forward, simt::Order::reverse, simt::Order::random, simt::Order::warp_major};

int main(int argc, char **argv) {
    const int n_schedules = argc > 1 ? atoi(argv[1]) : 100;
    const bool timing = argc > 2;
    simt::Options &o = simt::options();
    const std::vector<Case> cases = all_cases();
    if (timing) { // "seconds name" of the kernels alone for scripts/run_simt.sh to compare plain with checked
        o.check = simt::instrumented();
        stream_elements = 400000;
        for (const Case &c : cases) {
            if (argc > 3 && !strstr(c.name, argv[3])) continue;
            double best = 1e9;
            for (int k = 0; k < n_schedules; k++) {
                const double start = simt::kernel_seconds();
                run_case(c, 1);
                best = std::min(best, simt::kernel_seconds() - start);
            }
            printf("%.6f %s\n", best, c.name);
        }
        return finish();
    }
    for (const Case &c : cases) {
        for (simt::Order order : orders) {
            o = simt::Options();
            o.order = order;
            o.check = simt::instrumented();
            run_case(c, 1);
        }
        verdict(c.name);
    }
    if (simt::instrumented()) {
        int n = 0;
        for (uint64_t seed = 1; n < n_schedules; seed++) {
            for (size_t i = 0; i < cases.size() && n < n_schedules; i++) {
                static const unsigned preempt[] = {0, 3, 8, 30, 200};
                o = simt::Options();
                o.check = true;
                o.order = orders[(seed + i) % 8 < 5 ? 2 : (seed + i) % 4];
                o.seed = seed * 1000 + i;
                o.preempt = preempt[(seed + i) % 5];
                run_case(cases[i], seed);
                n++;
            }
        }
        char name[64];
        snprintf(name, sizeof name, "no false report in %d random schedules", n);
        verdict(name);
    } else {
        for (const Case &c : cases) {
            o = simt::Options();
            o.n_host_threads = 4;
            o.order = simt::Order::random;
            run_case(c, 2);
        }
        verdict("blocks on four host threads");
    }
    return finish();
}
