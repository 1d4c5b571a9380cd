// The barrier mutator: reads the given sources, finds each __syncthreads and __syncwarp, deletes one at a time (the executor skips that call)
// and runs the sample kernels through the checker in four orders. Every deletion must be reported in each, and no barrier may be one that
// the samples never execute. Arguments: the sources to mutate.
#include "cases.h"
#include "harness.h"
#include <climits>
#include <cstdlib>
#include <fstream>
#include <string>

struct Barrier {
    std::string file; // as realpath gives it
    int line;
};

static std::string real_path(const char *path) {
    char text[PATH_MAX];
    return realpath(path, text) ? text : "";
}

// Lines with a barrier, comments aside; one a line, so that a line names it.
static std::vector<Barrier> find_barriers(const char *path) {
    std::ifstream in(path);
    CHECK(in.good(), "%s cannot be read", path);
    std::vector<Barrier> found;
    std::string line;
    for (int number = 1; std::getline(in, line); number++) {
        const size_t comment = line.find("//");
        if (comment != std::string::npos) line.resize(comment);
        int n = 0;
        for (size_t at = 0; (at = line.find("__sync", at)) != std::string::npos; at++) {
            n += line.compare(at, 11, "__syncwarp(") == 0 || line.compare(at, 14, "__syncthreads(") == 0;
        }
        CHECK(n <= 1, "%s:%d: two barriers on one line cannot be told apart", path, number);
        if (n) found.push_back({real_path(path), number});
    }
    return found;
}

static void run_all(const std::vector<Case> &cases) {
    for (const Case &c : cases) {
        case_random = 7920;
        c.run();
        // A later case cannot hide what this one showed, and would only take time.
        if (!simt::reports().empty()) break;
        simt::reset();
    }
}

int main(int argc, char **argv) {
    static const char *const order_names[] = {"forward", "reverse", "random", "warp-major"};
    static const simt::Order orders[] = {simt::Order::forward, simt::Order::reverse, simt::Order::random, simt::Order::warp_major};
    simt::Options &o = simt::options();
    o.check = true;
    o.print = false;
    std::vector<Case> cases;
    for (const auto *part : {&block_cases(), &list_cases(), &matrix_cases(), &attention_cases(), &tricky_cases(), &stream_cases()}) cases.insert(cases.end(), part->begin(), part->end());
    run_all(cases);
    CHECK(simt::reports().empty(), "a report without any mutation: %s", simt::reports()[0].text.c_str());
    const std::vector<simt::BarrierSite> sites = simt::barrier_sites();
    int n_mutants = 0;
    for (int i = 1; i < argc; i++) {
        for (const Barrier &b : find_barriers(argv[i])) {
            std::vector<simt::BarrierSite> here;
            for (const simt::BarrierSite &s : sites) {
                if (s.line == b.line && real_path(s.file) == b.file) here.push_back(s);
            }
            CHECK(!here.empty(), "%s:%d: no sample executes this barrier", argv[i], b.line);
            if (here.empty()) continue;
            simt::skip_barriers(here);
            for (int k = 0; k < 4; k++) {
                o.order = orders[k];
                run_all(cases);
                CHECK(!simt::reports().empty(), "%s:%d: its deletion goes unnoticed in %s order", argv[i], b.line, order_names[k]);
                simt::reset();
            }
            simt::skip_barriers({});
            n_mutants++;
        }
    }
    char name[96];
    snprintf(name, sizeof name, "%d deleted barriers, each reported in four orders", n_mutants);
    CHECK(n_mutants > 0, "no barrier found");
    verdict(name);
    return finish();
}
