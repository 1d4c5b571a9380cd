// Arithmetic by class. Programs compiled with -fsanitize-coverage=trace-pc tell which basic blocks ran; what is in them comes from the
// machine code that objdump lists. x86-64 only, scalar code (-O1 vectorises nothing); the float counts are what a roofline estimate needs, the integer
// ones also hold address arithmetic.
#include "internal.h"
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <link.h>
#include <unistd.h>
#include <unordered_map>

namespace simt {

struct Mix {
    uint32_t float_ops = 0, integer_ops = 0, branches = 0;
};
static std::unordered_map<const void *, uint64_t> block_runs;
static std::unordered_map<uintptr_t, Mix> block_mix; // by address in the file, of the instruction behind the trace call

static int find_base(struct dl_phdr_info *info, size_t, void *base) {
    *static_cast<uintptr_t *>(base) = info->dlpi_addr;
    return 1;
}

static void classify(const char *mnemonic, Mix *mix) {
    const size_t n = strlen(mnemonic);
    auto starts = [&](const char *s) { return strncmp(mnemonic, s, strlen(s)) == 0; };
    const bool scalar = n > 2 && mnemonic[n - 2] == 's' && (mnemonic[n - 1] == 's' || mnemonic[n - 1] == 'd');
    const char *bare = mnemonic + (mnemonic[0] == 'v' ? 1 : 0);
    auto is_float = [&](const char *s) { return scalar && strncmp(bare, s, strlen(s)) == 0; };
    if (is_float("fmadd") || is_float("fmsub") || is_float("fnmadd") || is_float("fnmsub")) mix->float_ops += 2;
    else if (is_float("add") || is_float("sub") || is_float("mul") || is_float("div") || is_float("sqrt") || is_float("min") || is_float("max")) mix->float_ops++;
    else if (mnemonic[0] == 'j' && strcmp(mnemonic, "jmp") != 0) mix->branches++;
    else if (!scalar && (starts("add") || starts("sub") || starts("imul") || starts("and") || starts("or") || starts("xor") || starts("shl") ||
                         starts("shr") || starts("sar") || starts("neg") || starts("not"))) mix->integer_ops++;
}

static bool read_machine_code() {
    static bool done;
    if (done) return !block_mix.empty();
    done = true;
    char program[4096], command[4200];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0) return false;
    program[n] = 0;
    snprintf(command, sizeof command, "objdump -d --no-show-raw-insn '%s'", program);
    FILE *in = popen(command, "r");
    if (!in) return false;
    char line[1024];
    Mix *current = nullptr;
    bool begins = false;
    while (fgets(line, sizeof line, in)) {
        char *colon = strchr(line, ':');
        if (!colon || line[0] != ' ') {
            current = nullptr;
            begins = false;
            continue;
        }
        const uintptr_t address = strtoull(line, nullptr, 16);
        char mnemonic[32] = "";
        if (sscanf(colon + 1, "%31s", mnemonic) != 1) continue;
        if (begins) current = &block_mix[address];
        begins = strstr(line, "<__sanitizer_cov_trace_pc") != nullptr;
        if (begins || !current) continue;
        // What moves the stack pointer belongs to calls.
        if (!strstr(line, ",%rsp") && strncmp(mnemonic, "call", 4) != 0) classify(mnemonic, current);
        if (mnemonic[0] == 'j' || strncmp(mnemonic, "ret", 3) == 0) current = nullptr;
    }
    pclose(in);
    return !block_mix.empty();
}

void count_code_clear() { block_runs.clear(); }

void count_code_finish(Counters *c) {
    c->float_ops = c->integer_ops = c->branches = 0;
    if (block_runs.empty() || !read_machine_code()) return;
    uintptr_t base = 0;
    dl_iterate_phdr(find_base, &base);
    for (const auto &run : block_runs) {
        auto it = block_mix.find(reinterpret_cast<uintptr_t>(run.first) - base);
        if (it == block_mix.end()) continue;
        c->float_ops += run.second * it->second.float_ops;
        c->integer_ops += run.second * it->second.integer_ops;
        c->branches += run.second * it->second.branches;
    }
}

} // namespace simt

extern "C" void __sanitizer_cov_trace_pc();
extern "C" void __sanitizer_cov_trace_pc() {
    if (!simt::counting || !simt::hooked) return;
    simt::Quiet quiet;
    simt::block_runs[__builtin_return_address(0)]++;
}
