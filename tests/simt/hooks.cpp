// What compilers call at every memory access under -fsanitize=thread. Programs are linked without that flag, so these take the place of
// the sanitizer's library.
#include "shadow.h"

namespace simt {

static bool was_instrumented;
static unsigned until_stop;

bool instrumented() { return was_instrumented; }

__attribute__((noinline)) static void hook(const void *p, size_t bytes, Access access, const void *pc) {
    Fiber *f = hooked;
    if (!f) return;
    const char *c = static_cast<const char *>(p);
    const size_t at = static_cast<size_t>(c - arena);
    if (bytes == 4 && access == Access::read && at < shadow.quick_bytes && at % 4 == 0 && quick_flags<4, Access::read>(at) &&
        read_again(at, f->stamp | PlaceOfPc::find(pc))) {
        return;
    }
    if (c >= f->stack && c < f->stack + stack_bytes) {
        if (counting) {
            hooked = nullptr;
            count_access(p, bytes, access, at_pc(pc));
            hooked = f;
        }
        return;
    }
    hooked = nullptr;
    const unsigned every = options().preempt;
    if (every) {
        Worker &w = *tls_worker;
        if (until_stop == 0) until_stop = 1 + w.queue.below(2 * every);
        if (--until_stop == 0) stop_and_requeue(w);
    }
    check_access(p, bytes, access, at_pc(pc));
    hooked = f;
}

// Nearly every access ends here.
template <size_t bytes, Access access> static inline void quick_hook(const void *p, const void *pc) {
    const Fiber *f = hooked;
    const size_t at = static_cast<size_t>(static_cast<const char *>(p) - arena);
    if (!f || (at < shadow.quick_bytes && quick_access<bytes, access>(at, f->stamp, PlaceOfPc{pc}))) return;
    hook(p, bytes, access, pc);
}

template <size_t bytes, Access access> static inline bool quick_at_site(const void *p, Site site) {
    const Fiber *f = hooked;
    const size_t at = static_cast<size_t>(static_cast<const char *>(p) - arena);
    return f && at < shadow.quick_bytes && quick_access<bytes, access>(at, f->stamp, PlaceOfSite{site});
}

void atomic_access(Site site, const void *p, size_t bytes) {
    Fiber *f = hooked;
    if (!f) return;
    if (bytes == 4 && quick_at_site<4, Access::atomic>(p, site)) return;
    hooked = nullptr;
    if (counting) totals.atomics++;
    check_access(p, bytes, Access::atomic, at_site(site));
    hooked = f;
}

void plain_access(Site site, const void *p, size_t bytes, bool write) {
    if (reinterpret_cast<uintptr_t>(p) % bytes) {
        Quiet quiet;
        report(Kind::misaligned, at_site(site), at_site({}), "%zu bytes at %p", bytes, p);
        set_error(cudaErrorMisalignedAddress, true);
        abort_launch(*tls_worker);
    }
    Fiber *f = hooked;
    if (!f || (bytes == 16 && (write ? quick_at_site<16, Access::write>(p, site) : quick_at_site<16, Access::read>(p, site)))) return;
    hooked = nullptr;
    check_access(p, bytes, write ? Access::write : Access::read, at_site(site));
    hooked = f;
}

} // namespace simt

using namespace simt;

#define HOOK(name, bytes, access)                                                                                      \
    void __tsan_##name(void *p);                                                                                       \
    void __tsan_##name(void *p) { quick_hook<bytes, Access::access>(p, __builtin_return_address(0)); }
#define HOOKS(bytes)                                                                                                   \
    HOOK(read##bytes, bytes, read)                                                                                     \
    HOOK(write##bytes, bytes, write)                                                                                   \
    HOOK(unaligned_read##bytes, bytes, read)                                                                           \
    HOOK(unaligned_write##bytes, bytes, write)                                                                         \
    HOOK(volatile_read##bytes, bytes, read)                                                                            \
    HOOK(volatile_write##bytes, bytes, write)                                                                          \
    HOOK(unaligned_volatile_read##bytes, bytes, read)                                                                  \
    HOOK(unaligned_volatile_write##bytes, bytes, write)

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void *p, size_t n);
void __tsan_read_range(void *p, size_t n) { hook(p, n, Access::read, __builtin_return_address(0)); }
void __tsan_write_range(void *p, size_t n);
void __tsan_write_range(void *p, size_t n) { hook(p, n, Access::write, __builtin_return_address(0)); }
void __tsan_init();
void __tsan_init() { was_instrumented = true; }
void __tsan_func_entry(void *);
void __tsan_func_entry(void *) {}
void __tsan_func_exit();
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *);
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **);
void __tsan_vptr_read(void **) {}
void *__tsan_memcpy(void *to, const void *from, size_t n);
void *__tsan_memcpy(void *to, const void *from, size_t n) {
    hook(from, n, Access::read, __builtin_return_address(0));
    hook(to, n, Access::write, __builtin_return_address(0));
    return __builtin_memcpy(to, from, n);
}
void *__tsan_memset(void *p, int value, size_t n);
void *__tsan_memset(void *p, int value, size_t n) {
    hook(p, n, Access::write, __builtin_return_address(0));
    return __builtin_memset(p, value, n);
}
void *__tsan_memmove(void *to, const void *from, size_t n);
void *__tsan_memmove(void *to, const void *from, size_t n) {
    hook(from, n, Access::read, __builtin_return_address(0));
    hook(to, n, Access::write, __builtin_return_address(0));
    return __builtin_memmove(to, from, n);
}

// Atomics of the host code in the same source files (guards of static variables, reference counts). clang turns those inside our own
// atomics into such calls as well; they are checked before.
#define ATOMICS(bits, T)                                                                                               \
    T __tsan_atomic##bits##_load(const volatile T *p, int);                                                            \
    T __tsan_atomic##bits##_load(const volatile T *p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }            \
    void __tsan_atomic##bits##_store(volatile T *p, T v, int);                                                         \
    void __tsan_atomic##bits##_store(volatile T *p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }            \
    T __tsan_atomic##bits##_exchange(volatile T *p, T v, int);                                                         \
    T __tsan_atomic##bits##_exchange(volatile T *p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }  \
    T __tsan_atomic##bits##_fetch_add(volatile T *p, T v, int);                                                        \
    T __tsan_atomic##bits##_fetch_add(volatile T *p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }  \
    T __tsan_atomic##bits##_fetch_sub(volatile T *p, T v, int);                                                        \
    T __tsan_atomic##bits##_fetch_sub(volatile T *p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }  \
    T __tsan_atomic##bits##_compare_exchange_val(volatile T *p, T expected, T v, int, int);                            \
    T __tsan_atomic##bits##_compare_exchange_val(volatile T *p, T expected, T v, int, int) {                           \
        __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                       \
        return expected;                                                                                               \
    }                                                                                                                  \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T *p, T *expected, T v, int, int);                      \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T *p, T *expected, T v, int, int) {                     \
        return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                 \
    }
ATOMICS(8, char)
ATOMICS(16, short)
ATOMICS(32, int)
ATOMICS(64, long)
}
