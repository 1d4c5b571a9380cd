// Streams and events. Work is queued with what must run before it; it runs at once, or, with options().deferred, only when somebody
// waits, and then in a random order among what may run. Host buffers are read when the copy runs, as on a device.
#include "internal.h"
#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <set>

struct simt_event {
    uint64_t work = 0; // 0: never recorded
    double seconds = 0;
};
struct simt_stream {
    bool blocking = true;
    uint64_t last = 0;
    std::vector<uint64_t> after; // events the next work waits for
};

namespace simt {

struct HostBuffer {
    const void *p = nullptr;
    size_t bytes = 0;
    uint64_t hash = 0;
};
struct Work {
    std::function<cudaError_t(bool cautious)> run;
    std::vector<uint64_t> after;      // direct predecessors that were pending when it was queued
    std::vector<uint64_t> concurrent; // pending at the same time, without an order between the two
    HostBuffer host;    // must not change until the work runs
    HostBuffer touched; // host memory it reads or writes
};

static std::map<uint64_t, Work> pending;
static std::map<uint64_t, Span> span_of; // of finished work that pending work may be concurrent with
static uint64_t last_work;
static simt_stream default_stream;
static std::set<simt_stream *> streams = {&default_stream};
static uint64_t random_state = 1;

static unsigned below(size_t n) {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<unsigned>((random_state >> 33) % n);
}

static uint64_t hash_bytes(const void *p, size_t bytes) {
    uint64_t h = 1469598103934665603ull;
    for (size_t i = 0; i < bytes; i++) h = (h ^ static_cast<const unsigned char *>(p)[i]) * 1099511628211ull;
    return h;
}

static void gather_ancestors(const Work &w, std::set<uint64_t> &found) {
    for (uint64_t id : w.after) {
        auto it = pending.find(id);
        if (it != pending.end() && found.insert(id).second) gather_ancestors(it->second, found);
    }
}

static cudaError_t run_work(uint64_t id) {
    Work work = std::move(pending[id]);
    pending.erase(id);
    if (work.host.p && hash_bytes(work.host.p, work.host.bytes) != work.host.hash) {
        const Site site = {"a host buffer", static_cast<int>(work.host.bytes), 0};
        report(Kind::host_buffer, at_site(site), at_site({}), "%zu bytes of host memory changed or were freed while an asynchronous copy waited for them",
               work.host.bytes);
    }
    if (sticky_error()) return sticky_error();
    std::vector<Span> concurrent;
    for (uint64_t other : work.concurrent) {
        auto it = span_of.find(other);
        if (it != span_of.end()) concurrent.push_back(it->second);
    }
    const bool cautious = !work.concurrent.empty();
    uint64_t settled = 0;
    for (const auto &s : span_of) settled = settled ? std::min(settled, s.second.first) : s.second.first;
    const uint64_t first = check_begin(concurrent, settled);
    const cudaError_t error = work.run(cautious);
    if (cautious) span_of[id] = {first, check_end()};
    if (pending.empty()) span_of.clear();
    return error;
}

// Random legal order until this work has run.
static cudaError_t run_until(uint64_t id) {
    while (pending.count(id)) {
        std::vector<uint64_t> ready;
        for (const auto &p : pending) {
            bool free = true;
            for (uint64_t before : p.second.after) free &= !pending.count(before);
            if (free) ready.push_back(p.first);
        }
        run_work(ready[below(ready.size())]);
    }
    return sticky_error();
}

cudaError_t run_all_work() {
    while (!pending.empty()) run_until(pending.rbegin()->first);
    return sticky_error();
}

static uint64_t enqueue(cudaStream_t handle, HostBuffer host, HostBuffer touched, std::function<cudaError_t(bool)> run) {
    simt_stream *stream = handle ? handle : &default_stream;
    const uint64_t id = ++last_work;
    Work work;
    work.run = std::move(run);
    auto after = [&](uint64_t before) {
        if (pending.count(before)) work.after.push_back(before);
    };
    after(stream->last);
    for (uint64_t event : stream->after) after(event);
    stream->after.clear();
    // The default stream and the blocking ones wait for each other.
    if (stream == &default_stream) {
        for (simt_stream *other : streams) {
            if (other->blocking) after(other->last);
        }
    } else if (stream->blocking) {
        after(default_stream.last);
    }
    stream->last = id;
    std::set<uint64_t> ancestors;
    gather_ancestors(work, ancestors);
    for (auto &p : pending) {
        if (ancestors.count(p.first)) continue;
        work.concurrent.push_back(p.first);
        p.second.concurrent.push_back(id);
    }
    if (host.p) host.hash = hash_bytes(host.p, host.bytes);
    work.host = host;
    work.touched = touched;
    if (pending.empty()) random_state = options().seed * 77 + id;
    pending.emplace(id, std::move(work));
    if (!options().deferred) run_until(id);
    return id;
}

cudaError_t enqueue_launch(cudaStream_t stream, std::unique_ptr<Launch> launch, std::unique_ptr<Closure> closure) {
    std::shared_ptr<Launch> l(std::move(launch));
    std::shared_ptr<Closure> c(std::move(closure));
    enqueue(stream, {}, {}, [l, c](bool) {
        execute_launch(*l);
        return sticky_error();
    });
    return sticky_error();
}

void streams_reset() {
    pending.clear();
    span_of.clear();
    default_stream = simt_stream();
    for (simt_stream *s : streams) {
        if (s == &default_stream) continue;
        s->last = 0;
        s->after.clear();
    }
}

void host_buffer_freed(const void *p, size_t bytes) {
    const char *first = static_cast<const char *>(p);
    for (auto &w : pending) {
        const char *buffer = static_cast<const char *>(w.second.touched.p);
        if (!buffer || buffer < first || buffer >= first + bytes) continue;
        const Site site = {"a host buffer", static_cast<int>(bytes), 0};
        report(Kind::host_buffer, at_site(site), at_site({}), "cudaFreeHost of %zu bytes that an asynchronous copy still needs", bytes);
        w.second.run = [](bool) { return cudaSuccess; };
        w.second.host.p = w.second.touched.p = nullptr;
    }
}

// ---- copies ----------------------------------------------------------------------------------------------------------------------

cudaError_t check_copy(const void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    if (bytes == 0) return cudaSuccess;
    if (!to || !from) return cudaErrorInvalidValue;
    const bool to_device = in_arena(to), from_device = in_arena(from);
    if (kind != cudaMemcpyDefault) {
        const bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
        const bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
        if (to_device != wants_to || from_device != wants_from) return cudaErrorInvalidMemcpyDirection;
    }
    if ((to_device && !arena_holds(to, bytes)) || (from_device && !arena_holds(from, bytes))) return cudaErrorInvalidValue;
    return cudaSuccess;
}

static bool host_is_busy(const HostBuffer &h) {
    const char *first = static_cast<const char *>(h.p);
    for (const auto &w : pending) {
        const char *other = static_cast<const char *>(w.second.touched.p);
        if (other && first < other + w.second.touched.bytes && other < first + h.bytes) return true;
    }
    return false;
}

static cudaError_t enqueue_copy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream, bool wait) {
    Quiet quiet;
    if (sticky_error()) return sticky_error();
    const cudaError_t error = check_copy(to, from, bytes, kind);
    if (error) {
        set_error(error, false);
        return error;
    }
    if (bytes == 0) return cudaSuccess;
    HostBuffer host;
    if (options().deferred && !wait) {
        host = {in_arena(from) ? to : from, bytes, 0};
        // Memory that a copy queued earlier reads or fills changes legally before this one runs.
        if (in_arena(host.p) || host_is_busy(host)) host.p = nullptr;
        // A device may write any time from here on: what the host finds there before it waits is worthless.
        if (host.p == to) memset(to, 0xCD, bytes);
    }
    const uint64_t id = enqueue(stream, host, {in_arena(from) ? (in_arena(to) ? nullptr : to) : from, bytes, 0}, [=](bool cautious) {
        ArenaScope open;
        check_copy_access(from, bytes, false, cautious);
        check_copy_access(to, bytes, true, cautious);
        memmove(to, from, bytes);
        if (in_arena(to) && in_arena(from)) check_copied(to, from, bytes);
        else if (in_arena(to)) check_initialised(to, bytes, true);
        return cudaSuccess;
    });
    return wait ? run_until(id) : sticky_error();
}

static cudaError_t enqueue_memset(void *p, int value, size_t bytes, cudaStream_t stream) {
    Quiet quiet;
    if (sticky_error()) return sticky_error();
    if (bytes && !arena_holds(p, bytes)) {
        set_error(cudaErrorInvalidValue, false);
        return cudaErrorInvalidValue;
    }
    if (bytes == 0) return cudaSuccess;
    enqueue(stream, {}, {}, [=](bool cautious) {
        ArenaScope open;
        check_copy_access(p, bytes, true, cautious);
        memset(p, value, bytes);
        check_initialised(p, bytes, true);
        return cudaSuccess;
    });
    return sticky_error();
}

static simt_stream *stream_of(cudaStream_t handle) {
    simt_stream *stream = handle ? handle : &default_stream;
    return streams.count(stream) ? stream : nullptr;
}

} // namespace simt

using namespace simt;

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) { return enqueue_copy(to, from, bytes, kind, nullptr, true); }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    return stream_of(stream) ? enqueue_copy(to, from, bytes, kind, stream, false) : cudaErrorInvalidResourceHandle;
}
cudaError_t cudaMemset(void *p, int value, size_t bytes) { return enqueue_memset(p, value, bytes, nullptr); }
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    return stream_of(stream) ? enqueue_memset(p, value, bytes, stream) : cudaErrorInvalidResourceHandle;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    Quiet quiet;
    if (!stream || flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
    *stream = new simt_stream;
    (*stream)->blocking = flags != cudaStreamNonBlocking;
    streams.insert(*stream);
    return sticky_error();
}
cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    Quiet quiet;
    if (!stream || !stream_of(stream)) return cudaErrorInvalidResourceHandle;
    streams.erase(stream); // its work goes on
    delete stream;
    return sticky_error();
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    Quiet quiet;
    simt_stream *stream = stream_of(handle);
    return stream ? run_until(stream->last) : cudaErrorInvalidResourceHandle;
}
static cudaError_t query(uint64_t work) {
    if (!pending.count(work)) return sticky_error();
    // Somebody polls: time passes.
    std::vector<uint64_t> ready;
    for (const auto &p : pending) {
        bool free = true;
        for (uint64_t before : p.second.after) free &= !pending.count(before);
        if (free) ready.push_back(p.first);
    }
    run_work(ready[below(ready.size())]);
    return cudaErrorNotReady;
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
    Quiet quiet;
    simt_stream *stream = stream_of(handle);
    return stream ? query(stream->last) : cudaErrorInvalidResourceHandle;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
    Quiet quiet;
    simt_stream *stream = stream_of(handle);
    if (!stream || !event) return cudaErrorInvalidResourceHandle;
    if (event->work) stream->after.push_back(event->work);
    return sticky_error();
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    Quiet quiet;
    if (!stream_of(stream)) return cudaErrorInvalidResourceHandle;
    if (!function) return cudaErrorInvalidValue;
    enqueue(stream, {}, {}, [=](bool) {
        function(data);
        return cudaSuccess;
    });
    return sticky_error();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    if (!event) return cudaErrorInvalidValue;
    *event = new simt_event;
    return sticky_error();
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    if (!event) return cudaErrorInvalidResourceHandle;
    run_until(event->work);
    delete event;
    return sticky_error();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    Quiet quiet;
    if (!event || !stream_of(stream)) return cudaErrorInvalidResourceHandle;
    event->work = enqueue(stream, {}, {}, [event](bool) {
        event->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
        return cudaSuccess;
    });
    return sticky_error();
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    Quiet quiet;
    return event ? run_until(event->work) : cudaErrorInvalidResourceHandle;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    Quiet quiet;
    return event ? query(event->work) : cudaErrorInvalidResourceHandle;
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    if (!milliseconds || !from || !to || !from->work || !to->work) return cudaErrorInvalidResourceHandle;
    if (pending.count(from->work) || pending.count(to->work)) return cudaErrorNotReady;
    *milliseconds = static_cast<float>((to->seconds - from->seconds) * 1e3);
    return sticky_error();
}
cudaError_t cudaDeviceSynchronize() {
    Quiet quiet;
    return run_all_work();
}
