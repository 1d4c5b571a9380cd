// Switching between fibers: 20 instructions on x86-64 (swapcontext makes two system calls each time), ucontext elsewhere.
#include "internal.h"
#include <cstring>

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
    void **top = reinterpret_cast<void **>(stack + bytes);
    *--top = nullptr; // where a return address would be: entry never returns
    *--top = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    const uint32_t mxcsr = 0x1f80;
    const uint32_t x87 = 0x37f;
    --top;
    memcpy(top, &mxcsr, 4);
    memcpy(reinterpret_cast<char *>(top) + 4, &x87, 4);
    *context = top;
}

void context_switch(Context *from, Context *to) { simt_context_switch(from, *to); }

} // namespace simt
#else
#include <ucontext.h>

namespace simt {

void context_make(Context *context, char *stack, size_t bytes, void (*entry)()) {
    ucontext_t *u = static_cast<ucontext_t *>(*context);
    if (!u) *context = u = new ucontext_t;
    getcontext(u);
    u->uc_stack.ss_sp = stack;
    u->uc_stack.ss_size = bytes;
    u->uc_link = nullptr;
    makecontext(u, entry, 0);
}

void context_switch(Context *from, Context *to) {
    if (!*from) *from = new ucontext_t;
    swapcontext(static_cast<ucontext_t *>(*from), static_cast<ucontext_t *>(*to));
}

} // namespace simt
#endif
