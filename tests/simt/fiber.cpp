// Switching between fibers: 20 instructions on x86-64 (swapcontext makes two system calls each time), ucontext elsewhere.
#include "internal.h"
#include <cstring>

// AddressSanitizer must know which stack is in use, and that a stack used again holds none of its old frames.
#ifdef SIMT_ADDRESS_SANITIZER
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

namespace simt {

static void before_switch(Context *from, Context *to, bool last) {
    if (!from->stack) { // a host thread's own
        pthread_attr_t attributes;
        void *stack;
        if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
            pthread_attr_getstack(&attributes, &stack, &from->bytes);
            pthread_attr_destroy(&attributes);
            from->stack = stack;
        }
    }
    __sanitizer_start_switch_fiber(last ? nullptr : &from->sanitizers, to->stack, to->bytes);
}
static void after_switch(Context *back) { __sanitizer_finish_switch_fiber(back ? back->sanitizers : nullptr, nullptr, nullptr); }
static void stack_made(char *stack, size_t bytes) { __asan_unpoison_memory_region(stack, bytes); }

} // namespace simt
#else
namespace simt {

static void before_switch(Context *, Context *, bool) {}
static void after_switch(Context *) {}
static void stack_made(char *, size_t) {}

} // namespace simt
#endif

#ifndef SIMT_UCONTEXT
extern "C" void simt_context_switch(void **from, void *to);
asm(R"(.text
.globl simt_context_switch
.type simt_context_switch,@function
simt_context_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    stmxcsr (%rsp)
    fnstcw 4(%rsp)
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    ldmxcsr (%rsp)
    fldcw 4(%rsp)
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simt_context_switch,.-simt_context_switch
.section .note.GNU-stack,"",@progbits
.text
)");

namespace simt {

void context_make(Context *context, char *stack, size_t bytes, void (*entry)()) {
    stack_made(stack, bytes);
    void **top = reinterpret_cast<void **>(stack + bytes);
    *--top = nullptr; // where a return address would be: entry never returns
    *--top = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    const uint32_t mxcsr = 0x1f80;
    const uint32_t x87 = 0x37f;
    --top;
    memcpy(top, &mxcsr, 4);
    memcpy(reinterpret_cast<char *>(top) + 4, &x87, 4);
    context->saved = top;
    context->stack = stack;
    context->bytes = bytes;
}

static void switch_stacks(Context *from, Context *to) { simt_context_switch(&from->saved, to->saved); }

} // namespace simt
#else
#include <ucontext.h>

namespace simt {

void context_make(Context *context, char *stack, size_t bytes, void (*entry)()) {
    stack_made(stack, bytes);
    ucontext_t *u = static_cast<ucontext_t *>(context->saved);
    if (!u) context->saved = u = new ucontext_t;
    getcontext(u);
    u->uc_stack.ss_sp = stack;
    u->uc_stack.ss_size = bytes;
    u->uc_link = nullptr;
    makecontext(u, entry, 0);
    context->stack = stack;
    context->bytes = bytes;
}

static void switch_stacks(Context *from, Context *to) {
    if (!from->saved) from->saved = new ucontext_t;
    swapcontext(static_cast<ucontext_t *>(from->saved), static_cast<ucontext_t *>(to->saved));
}

} // namespace simt
#endif

namespace simt {

void context_entered() { after_switch(nullptr); }
void context_switch(Context *from, Context *to) {
    before_switch(from, to, false);
    switch_stacks(from, to);
    after_switch(from);
}
void context_leave(Context *from, Context *to) {
    before_switch(from, to, true);
    switch_stacks(from, to);
}

} // namespace simt
