// What a program needs where there is no operating system: Bochs prints the bytes written to port
// 0xe9, and stops when "Shutdown" is written to port 0x8900. Memory is never freed.

#include <cstdarg>
#include <cstddef>
#include <cstdint>

namespace {

char* unused_memory = reinterpret_cast<char*>(0x4000000);

void write_port(uint16_t port, char value) { asm volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }

void print(const char* text) {
  for (; *text != 0; ++text) {
    write_port(0xe9, *text);
  }
}

[[noreturn]] void stop() {
  for (const char* word = "Shutdown"; *word != 0; ++word) {
    write_port(0x8900, *word);
  }
  for (;;) {
    asm volatile("hlt");
  }
}

}  // namespace

void* operator new(size_t size) {
  char* memory = unused_memory;
  unused_memory += (size + 63) / 64 * 64;
  return memory;
}
void operator delete(void*) noexcept {}
void operator delete(void*, size_t) noexcept {}

namespace std {
void __throw_length_error(const char* text) {
  print(text);
  stop();
}
}  // namespace std

extern "C" {

void* memcpy(void* to, const void* from, size_t size) {
  for (size_t at = 0; at < size; ++at) {
    static_cast<char*>(to)[at] = static_cast<const char*>(from)[at];
  }
  return to;
}

void* memmove(void* to, const void* from, size_t size) {
  if (to < from) {
    return memcpy(to, from, size);
  }
  while (size-- > 0) {
    static_cast<char*>(to)[size] = static_cast<const char*>(from)[size];
  }
  return to;
}

void* memset(void* to, int value, size_t size) {
  for (size_t at = 0; at < size; ++at) {
    static_cast<char*>(to)[at] = static_cast<char>(value);
  }
  return to;
}

// Formats %s and %d >= 0.
int printf(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  for (; *format != 0; ++format) {
    if (*format != '%') {
      write_port(0xe9, *format);
    } else if (*++format == 's') {
      print(va_arg(arguments, const char*));
    } else {
      char digits[12] = {};
      char* first = digits + 11;
      unsigned number = static_cast<unsigned>(va_arg(arguments, int));
      do {
        *--first = static_cast<char>('0' + number % 10);
        number /= 10;
      } while (number != 0);
      print(first);
    }
  }
  va_end(arguments);
  return 0;
}

int main();

__attribute__((section(".start"))) void start() {
  __builtin_cpu_init();
  main();
  stop();
}

}  // extern "C"
