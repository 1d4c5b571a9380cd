// Every seeded bug is reported in every order, with and without preemption, at the lines marked in its source, once.
#include "bugs.h"
#include "cases.h"
#include "harness.h"
#include <fstream>
#include <map>
#include <string>

// The lines marked //A and //B inside a kernel.
static void find_marks(const Bug &bug, int marks[2]) {
    std::ifstream in(bug.file);
    std::string line;
    bool inside = false;
    marks[0] = marks[1] = 0;
    for (int number = 1; std::getline(in, line); number++) {
        if (line.rfind("KERNEL(", 0) == 0) inside = line.compare(7, line.find(')') - 7, bug.name) == 0;
        if (!inside) continue;
        if (line.find("//A") != std::string::npos) marks[0] = number;
        if (line.find("//B") != std::string::npos) marks[1] = number;
    }
}

static void run_bug(const Bug &bug) {
    alignas(16) static int host[256];
    Buffer<int> g(std::vector<int>(256, 0)), u(size_t(250));
    int *freed = nullptr;
    cudaMalloc(&freed, 1024);
    cudaFree(freed);
    LAUNCH(bug.kernel, dim3(bug.n_blocks), dim3(bug.n_threads), bug.dynamic_bytes, 0, g, u, host, freed, 256);
    cudaDeviceSynchronize();
}

int main() {
    static const char *const order_names[] = {"forward", "reverse", "random", "warp-major"};
    std::map<std::string, int> n_by_kind;
    int n_bugs = 0;
    for (const auto *part : {&race_bugs(), &memory_bugs(), &order_bugs()}) {
        for (const Bug &bug : *part) {
            int marks[2];
            find_marks(bug, marks);
            CHECK(marks[0] != 0, "%s: no mark in %s", bug.name, bug.file);
            for (int k = 0; k < 12; k++) {
                simt::Options &o = simt::options();
                o = simt::Options();
                o.check = true;
                o.print = false;
                o.order = static_cast<simt::Order>(k % 4);
                o.preempt = k / 4 == 0 ? 0 : k / 4 == 1 ? 2 : 10;
                o.seed = static_cast<uint64_t>(k) + 1;
                run_bug(bug);
                int n = 0;
                std::string seen;
                for (const simt::Report &r : simt::reports()) {
                    const int a = r.place.line, b = r.other.line;
                    n += r.kind == bug.kind && ((a == marks[0] && b == marks[1]) || (a == marks[1] && b == marks[0]));
                    seen += "\n#   " + r.text;
                }
                CHECK(n == 1, "%s, %s order, preempt %u: reported %d times at lines %d and %d; all reports:%s", bug.name, order_names[k % 4],
                      o.preempt, n, marks[0], marks[1], seen.c_str());
                simt::reset();
            }
            n_bugs++;
            n_by_kind[std::string(simt::kind_name(bug.kind)) + (bug.kind == simt::Kind::race ? std::string(", ") + bug.group : "")]++;
            verdict((std::string("reported: ") + bug.name).c_str());
        }
    }
    for (const auto &kind : n_by_kind) CHECK(kind.second >= (kind.first == "RACE, cp.async" ? 2 : 3), "only %d bugs of %s", kind.second, kind.first.c_str());
    CHECK(n_bugs >= 60, "only %d bugs", n_bugs);
    verdict("three seeded bugs or more of each kind, sixty in all");
    return finish();
}
