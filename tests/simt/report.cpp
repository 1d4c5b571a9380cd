// Reports: each kind and pair of source lines once. Program counters become lines through one addr2line process, asked as needed.
#include "internal.h"
#include <cstdio>
#include <cstring>
#include <link.h>
#include <map>
#include <mutex>
#include <set>
#include <sys/wait.h>
#include <tuple>
#include <unistd.h>

namespace simt {

static std::vector<Report> all_reports;
static std::set<std::tuple<Kind, std::string, int, std::string, int>> known;
static std::mutex lock; // several host threads may find something wrong even without the checker
static std::vector<BarrierSite> sites;
static std::vector<BarrierSite> skipped;

const std::vector<Report> &reports() { return all_reports; }

void clear_reports() {
    Quiet quiet;
    all_reports.clear();
    known.clear();
}

const char *kind_name(Kind kind) {
    static const char *const names[] = {"RACE", "UNINITIALISED", "OUT OF BOUNDS", "MISALIGNED", "HOST MEMORY", "BARRIER DIVERGENCE",
                                        "EXIT BEFORE BARRIER", "WARP OPERATION", "ASYNC COPY", "HOST BUFFER"};
    return names[static_cast<int>(kind)];
}

// ---- program counters ------------------------------------------------------------------------------------------------------------

static int find_base(struct dl_phdr_info *info, size_t, void *base) {
    *static_cast<uintptr_t *>(base) = info->dlpi_addr; // the program itself comes first
    return 1;
}

// "file:line" of an address, or "" when addr2line is missing.
static std::string ask_addr2line(uintptr_t address) {
    static FILE *to, *from;
    static pid_t owner; // a forked child must not share its parent's conversation
    if (owner != getpid()) {
        owner = getpid();
        to = from = nullptr;
        int request[2], answer[2];
        if (pipe(request) || pipe(answer)) return "";
        char program[4096];
        const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
        if (n <= 0) return "";
        program[n] = 0;
        const pid_t child = fork();
        if (child < 0) return "";
        if (child == 0) {
            dup2(request[0], 0);
            dup2(answer[1], 1);
            for (int fd : {request[0], request[1], answer[0], answer[1]}) close(fd);
            execlp("addr2line", "addr2line", "-e", program, static_cast<char *>(nullptr));
            _exit(127);
        }
        close(request[0]);
        close(answer[1]);
        to = fdopen(request[1], "w");
        from = fdopen(answer[0], "r");
    }
    char line[4096];
    if (!to || !from) return "";
    fprintf(to, "%zx\n", static_cast<size_t>(address));
    if (fflush(to) != 0 || !fgets(line, sizeof line, from)) return "";
    line[strcspn(line, "\n")] = 0;
    return line;
}

Place place_of(const Where &where) {
    static std::map<const void *, Place> cache;
    if (where.site.file) return {where.site.file, where.site.line};
    if (!where.pc) return {};
    auto it = cache.find(where.pc);
    if (it != cache.end()) return it->second;
    uintptr_t base = 0;
    dl_iterate_phdr(find_base, &base);
    std::string text = ask_addr2line(reinterpret_cast<uintptr_t>(where.pc) - 1 - base);
    const size_t discriminator = text.find(" (");
    if (discriminator != std::string::npos) text.resize(discriminator);
    const size_t colon = text.rfind(':');
    Place place;
    place.file = "?";
    if (colon != std::string::npos && text.compare(0, 2, "??") != 0) place = {text.substr(0, colon), atoi(text.c_str() + colon + 1)};
    return cache[where.pc] = place;
}

// ---- reports ---------------------------------------------------------------------------------------------------------------------

static std::string show(const Place &p) {
    const size_t slash = p.file.rfind('/');
    return (slash == std::string::npos ? p.file : p.file.substr(slash + 1)) + ":" + std::to_string(p.line);
}

void report(Kind kind, const Where &where, const Where &other, const char *format, ...) {
    Quiet quiet;
    std::lock_guard<std::mutex> guard(lock);
    const Place place = place_of(where), second = place_of(other);
    const bool swap = std::tie(second.file, second.line) < std::tie(place.file, place.line);
    const Place &low = swap ? second : place, &high = swap ? place : second;
    if (!known.insert({kind, low.file, low.line, high.file, high.line}).second) return;
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    const Worker *w = tls_worker;
    Report r;
    r.kind = kind;
    r.kernel = w && w->launch ? w->launch->name : "";
    r.place = place;
    r.other = second;
    r.text = std::string(kind_name(kind)) + " at " + show(place);
    if (!second.file.empty()) r.text += " and " + show(second);
    r.text += std::string(": ") + message;
    if (w && w->launch) {
        r.text += " (kernel " + r.kernel + ", block " + std::to_string(w->block.x) + "," + std::to_string(w->block.y) + "," +
                  std::to_string(w->block.z) + ")";
    }
    if (options().print) fprintf(stderr, "simt: %s\n", r.text.c_str());
    all_reports.push_back(std::move(r));
}

// ---- barrier sites ---------------------------------------------------------------------------------------------------------------

static bool same(const BarrierSite &b, Site site) {
    return b.line == site.line && b.id == site.id && (b.file == site.file || strcmp(b.file, site.file) == 0);
}

void note_barrier(Site site, bool warp) {
    static Site last;
    if (site.id == last.id && site.line == last.line && site.file == last.file && !sites.empty()) return;
    last = site;
    for (const BarrierSite &b : sites) {
        if (same(b, site)) return;
    }
    sites.push_back({site.file, site.line, site.id, warp});
}

bool barrier_skipped(Site site) {
    for (const BarrierSite &b : skipped) {
        if (same(b, site)) return true;
    }
    return false;
}

const std::vector<BarrierSite> &barrier_sites() { return sites; }
void clear_barrier_sites() { sites.clear(); }
void skip_barriers(const std::vector<BarrierSite> &s) {
    Quiet quiet;
    skipped = s;
}

} // namespace simt
