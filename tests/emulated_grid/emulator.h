// The emulated grid: what CUDA C++ gives a kernel, on one thread of a CPU, for -DMABM_EMULATED.
//
// Threads of a block are fibers that take turns: one runs until it must wait, then another does, in
// an order drawn from a seed. What CUDA leaves undefined is an error here wherever it can be seen:
// std::runtime_error, out of run_grid, with the block, the thread and the lines at fault.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#pragma GCC visibility push(hidden)  // every module has a grid of its own

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
};

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
  }
  return "unrecognized error code";
}

using cudaStream_t = struct CUstream_st*;

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };

namespace emulated {

constexpr int kWarpSize = 32;
constexpr int kMaxThreads = 1024;
// Shared memory of a block, static and dynamic together: what every launch may have, and what it
// may have where the kernel is allowed more, on an H100.
constexpr size_t kPlainShared = 48 * 1024;
constexpr size_t kMaxShared = 227 * 1024;

struct Dim3 {
  unsigned x, y, z;
};

// A call at which threads meet. Its line is the kernel's, by default arguments.
struct Call {
  const char* name;
  const char* file;
  int line;
};

// Seed 0 runs threads and blocks in ascending order. Any other shuffles the order of the blocks,
// and which thread goes next wherever one waits, and now and then at an atomic operation. The same
// seed gives the same order, and the same garbage in shared memory, from here on. At first the seed
// is that of the environment variable MABM_KERNEL_SEED, or else 0.
void set_seed(uint64_t seed);

// Leaves out the blocks of every launch before this one.
void set_first_block(int64_t block);

// Times that a thread went on in place of another since the program began.
uint64_t num_switches();

// Makes the grid that of a GPU that allows so many bytes of shared memory, at most those of an
// H100.
void set_max_shared(size_t bytes);
size_t max_shared();

// Allows the launches of a kernel so much dynamic shared memory, as long as the limit stands.
cudaError_t allow_shared(const void* kernel, int bytes);

cudaError_t run_grid(const void* kernel, unsigned num_blocks, int num_threads, size_t shared_bytes,
                     void (*call)(const void*), const void* body);

// Calls body() once in every thread of every block; `kernel` tells what it was allowed.
template <class Body>
cudaError_t run_grid(const void* kernel, unsigned num_blocks, int num_threads, size_t shared_bytes,
                     const Body& body) {
  const auto call = [](const void* it) { (*static_cast<const Body*>(it))(); };
  return run_grid(kernel, num_blocks, num_threads, shared_bytes, call, &body);
}

// The block's shared memory, filled with garbage before the block starts: what the launch asked
// for, aligned to 16 bytes, and one piece for each place (and size) of a declaration.
void* dynamic_shared();
void* static_shared(const char* file, int line, size_t bytes);

// Fails unless `end` lies within what the launch asked for, or just behind it.
void check_dynamic_shared(const void* end);

[[noreturn]] void fail_index(int64_t index, int64_t size);
inline void check_index(int64_t index, int64_t size) {
  if (static_cast<uint64_t>(index) >= static_cast<uint64_t>(size)) {
    fail_index(index, size);
  }
}

// Waits for the whole block. Returns how many threads had a predicate other than zero.
int meet_block(const Call& call, int predicate);

// Wait for the lanes of `mask`, and return the mask of those with a predicate other than zero, or
// the value of lane `source`: garbage if that is not in the mask.
unsigned vote(const Call& call, unsigned mask, int predicate);
uint64_t exchange(const Call& call, unsigned mask, uint64_t value, int source);

[[noreturn]] void fail_width(const Call& call, int width);

// Lets another thread go first.
void yield();

// Atomic operations until the next one that lets another thread go first.
inline unsigned atomics_left = 1;

template <class T, class Change>
T atomically(T* address, const Change& change) {
  if (--atomics_left == 0) {
    yield();
  }
  const T old = *address;
  *address = change(old);
  return old;
}

template <class T, class... Types>
constexpr bool is_any_of = (std::is_same_v<T, Types> || ...);

// T, but not deduced from the argument: an atomic operation's type is that of its address.
template <class T>
struct AsIs {
  using type = T;
};
template <class T>
using Operand = typename AsIs<T>::type;

}  // namespace emulated

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  return emulated::allow_shared(reinterpret_cast<const void*>(kernel), bytes);
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = static_cast<int>(emulated::max_shared());
  return cudaSuccess;
}

inline emulated::Dim3 threadIdx{0, 0, 0};
inline emulated::Dim3 blockIdx{0, 0, 0};
inline emulated::Dim3 blockDim{1, 1, 1};
inline emulated::Dim3 gridDim{1, 1, 1};

// The parameters that take a call's place in the kernel.
#define MABM_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// Barriers of the block.

inline void __syncthreads(MABM_PLACE) { emulated::meet_block({"__syncthreads", file, line}, 0); }
inline int __syncthreads_count(int predicate, MABM_PLACE) {
  return emulated::meet_block({"__syncthreads_count", file, line}, predicate);
}
inline int __syncthreads_or(int predicate, MABM_PLACE) {
  return emulated::meet_block({"__syncthreads_or", file, line}, predicate) > 0;
}
inline int __syncthreads_and(int predicate, MABM_PLACE) {
  const int count = emulated::meet_block({"__syncthreads_and", file, line}, predicate);
  return count == static_cast<int>(blockDim.x);
}

// Operations of the warp.

inline void __syncwarp(unsigned mask = 0xffffffffu, MABM_PLACE) {
  emulated::vote({"__syncwarp", file, line}, mask, 0);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, MABM_PLACE) {
  return emulated::vote({"__ballot_sync", file, line}, mask, predicate);
}
inline int __any_sync(unsigned mask, int predicate, MABM_PLACE) {
  return emulated::vote({"__any_sync", file, line}, mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate, MABM_PLACE) {
  return emulated::vote({"__all_sync", file, line}, mask, predicate) == mask;
}

namespace emulated {

// A shuffle from lane source(lane, first, last): lane is the caller, the others are the ends of its
// segment of `width` lanes.
template <class T, class Source>
T shuffle(const Call& call, unsigned mask, T value, int width, const Source& source) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "CUDA shuffles values of 4 or 8 bytes");
  if (width < 1 || width > kWarpSize || (width & (width - 1)) != 0) {
    fail_width(call, width);
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int first = lane & ~(width - 1);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(call, mask, bits, source(lane, first, first + width - 1));
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace emulated

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, MABM_PLACE) {
  return emulated::shuffle(
      {"__shfl_sync", file, line}, mask, value, width,
      [=](int, int first, int last) { return first + (source & (last - first)); });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, MABM_PLACE) {
  return emulated::shuffle(
      {"__shfl_up_sync", file, line}, mask, value, width, [=](int lane, int first, int) {
        return delta <= static_cast<unsigned>(lane - first) ? lane - static_cast<int>(delta) : lane;
      });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, MABM_PLACE) {
  return emulated::shuffle(
      {"__shfl_down_sync", file, line}, mask, value, width, [=](int lane, int, int last) {
        return delta <= static_cast<unsigned>(last - lane) ? lane + static_cast<int>(delta) : lane;
      });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, MABM_PLACE) {
  // As CUDA has it, lanes of earlier segments can be read, those of later ones cannot.
  return emulated::shuffle({"__shfl_xor_sync", file, line}, mask, value, width,
                           [=](int lane, int, int last) {
                             const int source = lane ^ (lane_mask & 31);
                             return source <= last ? source : lane;
                           });
}

#undef MABM_PLACE

// Bits.

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) {
    reversed |= (x >> bit & 1u) << (31 - bit);
  }
  return reversed;
}

namespace emulated {

template <class To, class From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace emulated

inline int __float_as_int(float x) { return emulated::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return emulated::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return emulated::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return emulated::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return emulated::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return emulated::bit_cast<double>(x); }
inline double __hiloint2double(int high, int low) {
  return emulated::bit_cast<double>(static_cast<unsigned long long>(static_cast<unsigned>(high))
                                        << 32 |
                                    static_cast<unsigned>(low));
}

// Memory.

template <class T>
T __ldg(const T* address) {
  return *address;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// Atomic operations: the value before. Each has the types that it has in CUDA, and no others.

template <class T>
T atomicAdd(T* address, emulated::Operand<T> value) {
  static_assert(emulated::is_any_of<T, int, unsigned, unsigned long long, float, double>,
                "CUDA has no atomicAdd of this type");
  return emulated::atomically(address, [=](T old) {
    if constexpr (std::is_same_v<T, int>) {  // wraps around
      return static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value));
    } else {
      return old + value;
    }
  });
}
template <class T>
T atomicMin(T* address, emulated::Operand<T> value) {
  static_assert(emulated::is_any_of<T, int, unsigned, long long, unsigned long long>,
                "CUDA has no atomicMin of this type");
  return emulated::atomically(address, [=](T old) { return value < old ? value : old; });
}
template <class T>
T atomicMax(T* address, emulated::Operand<T> value) {
  static_assert(emulated::is_any_of<T, int, unsigned, long long, unsigned long long>,
                "CUDA has no atomicMax of this type");
  return emulated::atomically(address, [=](T old) { return old < value ? value : old; });
}
template <class T>
T atomicExch(T* address, emulated::Operand<T> value) {
  static_assert(emulated::is_any_of<T, int, unsigned, unsigned long long, float>,
                "CUDA has no atomicExch of this type");
  return emulated::atomically(address, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* address, emulated::Operand<T> expected, emulated::Operand<T> value) {
  static_assert(emulated::is_any_of<T, int, unsigned, unsigned long long>,
                "CUDA has no atomicCAS of this type");
  return emulated::atomically(address, [=](T old) { return old == expected ? value : old; });
}
template <class T>
T atomicOr(T* address, emulated::Operand<T> value) {
  static_assert(emulated::is_any_of<T, int, unsigned, unsigned long long>,
                "CUDA has no atomicOr of this type");
  return emulated::atomically(address, [=](T old) { return old | value; });
}
template <class T>
T atomicAnd(T* address, emulated::Operand<T> value) {
  static_assert(emulated::is_any_of<T, int, unsigned, unsigned long long>,
                "CUDA has no atomicAnd of this type");
  return emulated::atomically(address, [=](T old) { return old & value; });
}

#pragma GCC visibility pop

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
