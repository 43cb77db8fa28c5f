// Fibers: threads of execution that hand over to each other when they say so.
//
// Included by emulator.cpp alone.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <system_error>

#if defined(__SANITIZE_ADDRESS__)
#define EMULATED_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATED_ASAN
#endif
#endif
#if defined(EMULATED_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// The switch is written in assembly where there is one: ucontext's asks the operating system for
// the signal mask every time, which takes many times as long.
#if !defined(__x86_64__) && !defined(__aarch64__)
#define EMULATED_UCONTEXT
#endif
#if defined(EMULATED_UCONTEXT)
#include <ucontext.h>
#endif

#if !defined(EMULATED_UCONTEXT)
// Saves what a call must preserve on this stack, this stack's pointer in *from, and goes on where
// the stack `to` left off.
extern "C" void emulated_switch_stack(void** from, void* to);
#if defined(__x86_64__)
// rbp, rbx, r12 to r15, and how floating point rounds and traps.
asm(R"(
.text
.hidden emulated_switch_stack
.globl emulated_switch_stack
.type emulated_switch_stack, @function
emulated_switch_stack:
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
.size emulated_switch_stack, . - emulated_switch_stack
)");
#else
// x19 to x30, d8 to d15, and how floating point rounds and traps.
asm(R"(
.text
.hidden emulated_switch_stack
.globl emulated_switch_stack
.type emulated_switch_stack, %function
emulated_switch_stack:
  sub sp, sp, #176
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mrs x2, fpcr
  str x2, [sp, #160]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldr x2, [sp, #160]
  msr fpcr, x2
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #176
  ret
.size emulated_switch_stack, . - emulated_switch_stack
)");
#endif
#endif

namespace emulated {

#if defined(EMULATED_ASAN)
constexpr size_t kStackBytes = 256 * 1024;  // AddressSanitizer widens every frame
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

// Where a thread of execution goes on: the caller of run_grid, or a fiber if it has a stack of its
// own.
class Context {
 public:
  Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Takes a stack for good, with a page below it that traps.
  void make_stack() {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* pages = mmap(nullptr, page + kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages, page, PROT_NONE) != 0) {
      throw std::system_error(errno, std::generic_category(), "no memory for a fiber's stack");
    }
    stack_ = static_cast<unsigned char*>(pages) + page;
    stack_bytes_ = kStackBytes;
  }

  // Lets the next switch to this fiber call entry(), which must not return. What the fiber was
  // doing is dropped, and destructors on its stack are not run. Fibers of other `number`s have
  // their frames at other addresses modulo the size of a page, or they would evict each other from
  // the cache.
  void restart(void (*entry)(), int number) {
    entry_ = entry;
#if defined(EMULATED_ASAN)
    ASAN_UNPOISON_MEMORY_REGION(stack_, stack_bytes_);
#endif
    const size_t usable = stack_bytes_ - static_cast<size_t>(number % 16) * 256;
#if defined(EMULATED_UCONTEXT)
    getcontext(&context_);
    context_.uc_link = nullptr;
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = usable;
    makecontext(&context_, begin, 0);
#else
    auto* words = reinterpret_cast<uint64_t*>(stack_ + usable);
    std::memset(words - 32, 0, 32 * sizeof(uint64_t));
#if defined(__x86_64__)
    // Below the address that begin() would return to, none, lies what the switch pops: begin, six
    // registers, and the control words as a program starts with them.
    words[-2] = reinterpret_cast<uint64_t>(&begin);
    words[-9] = uint64_t{0x037f} << 32 | 0x1f80;
    stack_pointer_ = words - 9;
#else
    words[-22 + 11] = reinterpret_cast<uint64_t>(&begin);  // x30
    stack_pointer_ = words - 22;
#endif
#endif
  }

  // Leaves off here, and goes on in `next`. Returns when something switches back.
  void switch_to(Context& next) {
    left_ = this;
    entered_ = &next;
#if defined(EMULATED_ASAN)
    __sanitizer_start_switch_fiber(&fake_stack_, next.stack_, next.stack_bytes_);
#endif
#if defined(EMULATED_UCONTEXT)
    swapcontext(&context_, &next.context_);
#else
    emulated_switch_stack(&stack_pointer_, next.stack_pointer_);
#endif
    arrive(*this);
  }

 private:
  static void begin() {
    arrive(*entered_);
    entered_->entry_();
  }

  // Tells AddressSanitizer which stack this is; it tells the bounds of the one left.
  static void arrive([[maybe_unused]] Context& here) {
#if defined(EMULATED_ASAN)
    const void* bottom;
    __sanitizer_finish_switch_fiber(here.fake_stack_, &bottom, &left_->stack_bytes_);
    left_->stack_ = static_cast<unsigned char*>(const_cast<void*>(bottom));
    here.fake_stack_ = nullptr;
#endif
  }

  static inline Context* left_ = nullptr;
  static inline Context* entered_ = nullptr;

#if defined(EMULATED_UCONTEXT)
  ucontext_t context_;
#else
  void* stack_pointer_ = nullptr;
#endif
  void (*entry_)() = nullptr;
  unsigned char* stack_ = nullptr;  // lower end
  size_t stack_bytes_ = 0;
#if defined(EMULATED_ASAN)
  void* fake_stack_ = nullptr;
#endif
};

}  // namespace emulated
