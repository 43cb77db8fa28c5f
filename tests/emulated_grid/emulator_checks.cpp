// Small kernels that prove the emulated grid: right ones, and ones with a planted fault.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "common/device.h"
#include "emulator_faults.h"

namespace mabm {
namespace {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

void check(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::invalid_argument(cudaGetErrorString(error));
  }
}

void run_fault(const std::string& name, int num_threads) {
  check(launch(faults().at(name), 3, num_threads, 256, nullptr));
}

// ---- Missing barriers ---------------------------------------------------------------------------

enum class Barrier { kNone, kWarp, kBlock };

template <Barrier kBarrier>
__device__ void wait() {
  if (kBarrier == Barrier::kWarp) {
    __syncwarp();
  } else if (kBarrier == Barrier::kBlock) {
    __syncthreads();
  }
}

// out[i] = i - 1 within the block, by the thread before (of the block or of the warp); 0 for the
// first. In ascending order the barrier is not missed.
template <Barrier kBarrier, int kStep>
__global__ void thread_before_kernel(int* out) {
  MABM_SHARED(int, indices, 256);
  const int self = static_cast<int>(threadIdx.x);
  indices[self] = self;
  wait<kBarrier>();
  out[global_thread()] = self % kStep == 0 ? 0 : indices[self - 1];
}

// Passes every thread's index on to the thread before, `rounds` times over, around the block.
template <Barrier kAfterReading>
__global__ void pass_on_kernel(int rounds, int* out) {
  MABM_SHARED(int, passed, 256);
  const int self = static_cast<int>(threadIdx.x);
  int value = self;
  for (int round = 0; round < rounds; ++round) {
    passed[self] = value;
    __syncthreads();
    value = passed[(self + 1) % 256];
    wait<kAfterReading>();
  }
  out[global_thread()] = value;
}

template <Barrier kBarrier, int kStep>
Array<int> thread_before(int num_blocks) {
  Array<int> out(256 * num_blocks);
  check(launch(thread_before_kernel<kBarrier, kStep>, num_blocks, 256, 0, nullptr,
               out.mutable_data()));
  return out;
}

template <Barrier kAfterReading>
Array<int> pass_on(int num_blocks, int rounds) {
  Array<int> out(256 * num_blocks);
  check(launch(pass_on_kernel<kAfterReading>, num_blocks, 256, 0, nullptr, rounds,
               out.mutable_data()));
  return out;
}

// ---- The grid -----------------------------------------------------------------------------------

// What each thread sees of the grid, and when it was its turn.
__global__ void coordinates_kernel(int* turns, int* out) {
  const int64_t i = global_thread();
  out[5 * i] = static_cast<int>(threadIdx.x);
  out[5 * i + 1] = static_cast<int>(blockIdx.x);
  out[5 * i + 2] = static_cast<int>(blockDim.x);
  out[5 * i + 3] = static_cast<int>(gridDim.x);
  __syncthreads();
  out[5 * i + 4] = atomicAdd(turns, 1);
}

Array<int> coordinates(int64_t num_blocks, int num_threads) {
  Array<int> out({num_blocks * num_threads, int64_t{5}});
  int turns = 0;
  check(
      launch(coordinates_kernel, num_blocks, num_threads, 0, nullptr, &turns, out.mutable_data()));
  return out;
}

__global__ void nothing_kernel() {}

// Switches that a launch takes whose threads never wait.
uint64_t launch_nothing(int64_t num_blocks, int num_threads, size_t shared_bytes) {
  const uint64_t before = emulated::num_switches();
  check(launch(nothing_kernel, num_blocks, num_threads, shared_bytes, nullptr));
  return emulated::num_switches() - before;
}

// The same without asking for the kernel first to be allowed so much shared memory.
void launch_unasked(size_t shared_bytes) {
  const auto* kernel = reinterpret_cast<const void*>(&nothing_kernel);
  check(emulated::run_grid(kernel, 1, 32, shared_bytes, [] { nothing_kernel(); }));
}

// 1,024 bytes of static shared memory beside the dynamic.
__global__ void declaring_kernel() {
  MABM_SHARED(int, elements, 256);
  elements[threadIdx.x] = 0;
}

void launch_declaring(size_t shared_bytes) {
  check(launch(declaring_kernel, 1, 32, shared_bytes, nullptr));
}

size_t most_shared() {
  size_t bytes = 0;
  check(find_most_shared(&bytes));
  return bytes;
}

// ---- Shared memory ------------------------------------------------------------------------------

// What lies in shared memory before anybody wrote, static and dynamic, in each block.
__global__ void uninitialized_kernel(unsigned* out) {
  MABM_SHARED(unsigned, elements, 8);
  DynamicShared shared;
  const auto dynamic_elements = shared.take<unsigned>(8);
  if (threadIdx.x < 8) {
    out[blockIdx.x * 16 + threadIdx.x] = elements[threadIdx.x];
    out[blockIdx.x * 16 + 8 + threadIdx.x] = dynamic_elements[threadIdx.x];
  }
  __syncthreads();
  elements[threadIdx.x % 8] = 0;
  dynamic_elements[threadIdx.x % 8] = 0;
}

Array<unsigned> uninitialized(int num_blocks) {
  Array<unsigned> out({num_blocks, 16});
  check(launch(uninitialized_kernel, num_blocks, 64, 32, nullptr, out.mutable_data()));
  return out;
}

// Every element of four pieces is written by one thread and added up by another.
__global__ void pieces_kernel(double* out) {
  MABM_SHARED(double, a, 64);
  MABM_SHARED(double, b, 64);
  DynamicShared shared;
  const auto c = shared.take<double>(64);
  const auto d = shared.take<int>(64);
  const int self = static_cast<int>(threadIdx.x);
  a[self] = self;
  b[self] = 100 * self;
  c[self] = 10000 * self;
  d[self] = 1000000 * self;
  __syncthreads();
  const int other = 63 - self;
  out[global_thread()] = a[other] + b[other] + c[other] + d[other];
}

Array<double> pieces(int num_blocks) {
  Array<double> out(64 * num_blocks);
  check(launch(pieces_kernel, num_blocks, 64, 64 * (sizeof(double) + sizeof(int)), nullptr,
               out.mutable_data()));
  return out;
}

// Writes behind a piece of shared memory, past all checks but AddressSanitizer's.
__global__ void overrun_kernel(int which) {
  MABM_SHARED(int, a, 5);
  MABM_SHARED(int, b, 5);
  DynamicShared shared;
  const auto c = shared.take<int>(5);
  (which == 0 ? &a[0] : which == 1 ? &b[0] : &c[0])[5] = 0;
}

void overrun(int which) { check(launch(overrun_kernel, 1, 32, 5 * sizeof(int), nullptr, which)); }

// ---- Operations of the warp and the block -------------------------------------------------------

struct Direct {
  template <class T>
  __device__ T operator()(unsigned mask, T value, int argument, int width) const {
    return __shfl_sync(mask, value, argument, width);
  }
};
struct Up {
  template <class T>
  __device__ T operator()(unsigned mask, T value, int argument, int width) const {
    return __shfl_up_sync(mask, value, argument, width);
  }
};
struct Down {
  template <class T>
  __device__ T operator()(unsigned mask, T value, int argument, int width) const {
    return __shfl_down_sync(mask, value, argument, width);
  }
};
struct Xor {
  template <class T>
  __device__ T operator()(unsigned mask, T value, int argument, int width) const {
    return __shfl_xor_sync(mask, value, argument, width);
  }
};

// Each thread's value by one shuffle, among the lanes of its own mask; untouched without a mask.
template <class Shuffle, class T>
__global__ void shuffle_kernel(const unsigned* masks, int argument, int width, T* values) {
  const int64_t i = global_thread();
  if (masks[i] != 0) {
    values[i] = Shuffle{}(masks[i], values[i], argument, width);
  }
}

template <class Shuffle, class T>
Array<T> shuffle(const Array<T>& values, const Array<unsigned>& masks, int argument, int width) {
  Array<T> out(values.size());
  std::copy_n(values.data(), values.size(), out.mutable_data());
  check(launch(shuffle_kernel<Shuffle, T>, 1, static_cast<int>(values.size()), 0, nullptr,
               masks.data(), argument, width, out.mutable_data()));
  return out;
}

template <class Shuffle>
void define_shuffle(py::module_& module, const char* name) {
  module.def(name, &shuffle<Shuffle, int32_t>);
  module.def(name, &shuffle<Shuffle, int64_t>);
  module.def(name, &shuffle<Shuffle, float>);
  module.def(name, &shuffle<Shuffle, double>);
}

// Rows of out: sum, least and greatest of each warp's values.
template <class T>
__global__ void reductions_kernel(const T* values, T* out) {
  const int64_t i = global_thread();
  out[3 * i] = warp_sum(values[i]);
  out[3 * i + 1] = warp_min(values[i]);
  out[3 * i + 2] = warp_max(values[i]);
}

template <class T>
Array<T> reductions(const Array<T>& values) {
  Array<T> out({values.size(), py::ssize_t{3}});
  check(launch(reductions_kernel<T>, 1, static_cast<int>(values.size()), 0, nullptr, values.data(),
               out.mutable_data()));
  return out;
}

// Rows of out: ballot, any and all of the lanes of one's mask, and how many threads of the block
// have the predicate, whether one has, whether all have.
__global__ void votes_kernel(const unsigned* masks, const int* predicates, unsigned* out) {
  const int64_t i = global_thread();
  const unsigned mask = masks[i];
  unsigned* row = out + 6 * i;
  row[0] = __ballot_sync(mask, predicates[i]);
  row[1] = __any_sync(mask, predicates[i]);
  row[2] = __all_sync(mask, predicates[i]);
  row[3] = __syncthreads_count(predicates[i]);
  row[4] = __syncthreads_or(predicates[i]);
  row[5] = __syncthreads_and(predicates[i]);
}

Array<unsigned> votes(const Array<unsigned>& masks, const Array<int>& predicates, int num_threads) {
  Array<unsigned> out({masks.size(), py::ssize_t{6}});
  check(launch(votes_kernel, masks.size() / num_threads, num_threads, 0, nullptr, masks.data(),
               predicates.data(), out.mutable_data()));
  return out;
}

// Halves of a warp that go ways of their own, in one of which lanes meet by pairs, and meet again.
__global__ void branches_kernel(int* out) {
  const int lane = lane_index();
  int sum = lane;
  if (lane < 16) {
    for (int half = 8; half > 0; half /= 2) {
      sum += __shfl_xor_sync(0x0000ffffu, sum, half);
    }
  } else {
    sum += __shfl_xor_sync(3u << (lane / 2 * 2), sum, 1);
    __syncwarp(0xffff0000u);
  }
  __syncwarp();
  out[global_thread()] = sum;
}

Array<int> branches() {
  Array<int> out(64);
  check(launch(branches_kernel, 1, 64, 0, nullptr, out.mutable_data()));
  return out;
}

// ---- Bits ---------------------------------------------------------------------------------------

std::vector<int> bits(uint64_t x) {
  const auto low = static_cast<unsigned>(x);
  const auto high_first = static_cast<long long>(x);
  return {__popc(low),
          __popcll(x),
          __ffs(static_cast<int>(low)),
          __ffsll(high_first),
          __clz(static_cast<int>(low)),
          __clzll(high_first)};
}

std::tuple<int, unsigned, float, float> float_bits(float x, unsigned bits_of_another) {
  return {__float_as_int(x), __float_as_uint(x), __int_as_float(static_cast<int>(bits_of_another)),
          __uint_as_float(bits_of_another)};
}

std::tuple<long long, double> double_bits(double x, long long bits_of_another) {
  return {__double_as_longlong(x), __longlong_as_double(bits_of_another)};
}

// ---- Atomic operations --------------------------------------------------------------------------

struct Add {
  template <class T>
  __device__ T operator()(T* address, T value) const {
    return atomicAdd(address, value);
  }
};
struct Min {
  template <class T>
  __device__ T operator()(T* address, T value) const {
    return atomicMin(address, value);
  }
};
struct Max {
  template <class T>
  __device__ T operator()(T* address, T value) const {
    return atomicMax(address, value);
  }
};
struct Or {
  template <class T>
  __device__ T operator()(T* address, T value) const {
    return atomicOr(address, value);
  }
};
struct And {
  template <class T>
  __device__ T operator()(T* address, T value) const {
    return atomicAnd(address, value);
  }
};
struct Exchange {
  template <class T>
  __device__ T operator()(T* address, T value) const {
    return atomicExch(address, value);
  }
};

template <class Operation, class T>
__global__ void atomics_kernel(const T* values, T* address, T* before) {
  const int64_t i = global_thread();
  before[i] = Operation{}(address, __ldg(values + i));
}

// Applies one operation with every value; returns what is there in the end, and what each saw.
template <class Operation, class T>
std::tuple<T, Array<T>> atomics(const Array<T>& values, T start) {
  Array<T> before(values.size());
  check(launch(atomics_kernel<Operation, T>, values.size() / 64, 64, 0, nullptr, values.data(),
               &start, before.mutable_data()));
  return {start, before};
}

template <class Operation, class... Types>
void define_atomics(py::module_& module, const char* name) {
  (module.def(name, &atomics<Operation, Types>), ...);
}

// Counts threads without a lock; or by a load and a store, between which others can come.
template <bool kExclusive>
__global__ void count_kernel(unsigned* count) {
  unsigned seen = atomicOr(count, 0u);
  if (kExclusive) {
    for (unsigned expected = seen + 1; expected != seen;) {
      expected = seen;
      seen = atomicCAS(count, expected, expected + 1);
    }
  } else {
    atomicExch(count, seen + 1);
  }
}

template <bool kExclusive>
unsigned count(int num_blocks) {
  unsigned count = 0;
  check(launch(count_kernel<kExclusive>, num_blocks, 256, 0, nullptr, &count));
  return count;
}

// The first thread tries until the last one has come.
__global__ void spin_kernel(int* flag) {
  if (threadIdx.x == 0) {
    while (atomicCAS(flag, 1, 2) != 1) {
    }
  } else if (threadIdx.x + 1 == blockDim.x) {
    atomicExch(flag, 1);
  }
}

int spin() {
  int flag = 0;
  check(launch(spin_kernel, 1, 256, 0, nullptr, &flag));
  return flag;
}

// ---- Floating point -----------------------------------------------------------------------------

__global__ void half_kernel(float* x) {
  if (threadIdx.x == 0) {
    *x *= 0.5f;
  }
}

// Bits of half the least normal number: a subnormal one, as on a GPU, whatever the caller's thread
// makes of those.
unsigned half_of_least_normal() {
  float x = std::numeric_limits<float>::min();
  check(launch(half_kernel, 1, 32, 0, nullptr, &x));
  return __float_as_uint(x);
}

// ---- Speed --------------------------------------------------------------------------------------

template <Barrier kBarrier>
__global__ void meet_kernel(int times) {
  for (int i = 0; i < times; ++i) {
    wait<kBarrier>();
  }
}

// Switches that meeting many times takes.
template <Barrier kBarrier>
uint64_t meet(int num_threads, int times) {
  const uint64_t before = emulated::num_switches();
  check(launch(meet_kernel<kBarrier>, 1, num_threads, 0, nullptr, times));
  return emulated::num_switches() - before;
}

PYBIND11_MODULE(emulator_checks, module) {
  using ull = unsigned long long;
#if defined(EMULATED_UCONTEXT)
  module.attr("switch") = "ucontext";
#else
  module.attr("switch") = "assembly";
#endif
  module.def("set_seed", &emulated::set_seed);
  module.def("set_first_block", &emulated::set_first_block);
  module.def("run_fault", &run_fault);
  module.def("thread_before_in_block", &thread_before<Barrier::kBlock, 256>);
  module.def("thread_before_in_block_no_barrier", &thread_before<Barrier::kNone, 256>);
  module.def("thread_before_in_block_warp_barrier", &thread_before<Barrier::kWarp, 256>);
  module.def("thread_before_in_warp", &thread_before<Barrier::kWarp, 32>);
  module.def("thread_before_in_warp_no_barrier", &thread_before<Barrier::kNone, 32>);
  module.def("pass_on", &pass_on<Barrier::kBlock>);
  module.def("pass_on_no_barrier", &pass_on<Barrier::kNone>);
  module.def("coordinates", &coordinates);
  module.def("launch_nothing", &launch_nothing);
  module.def("launch_unasked", &launch_unasked);
  module.def("launch_declaring", &launch_declaring);
  module.def("most_shared", &most_shared);
  module.def("set_max_shared", &emulated::set_max_shared);
  module.def("uninitialized", &uninitialized);
  module.def("pieces", &pieces);
  module.def("overrun", &overrun);
  define_shuffle<Direct>(module, "shfl");
  define_shuffle<Up>(module, "shfl_up");
  define_shuffle<Down>(module, "shfl_down");
  define_shuffle<Xor>(module, "shfl_xor");
  module.def("reductions", &reductions<int64_t>);
  module.def("reductions", &reductions<float>);
  module.def("votes", &votes);
  module.def("branches", &branches);
  module.def("bits", &bits);
  module.def("reversed", &__brev);
  module.def("float_bits", &float_bits);
  module.def("double_bits", &double_bits);
  define_atomics<Add, int, unsigned, ull, float, double>(module, "atomic_add");
  define_atomics<Min, int, unsigned, long long, ull>(module, "atomic_min");
  define_atomics<Max, int, unsigned, long long, ull>(module, "atomic_max");
  define_atomics<Or, int, unsigned, ull>(module, "atomic_or");
  define_atomics<And, int, unsigned, ull>(module, "atomic_and");
  define_atomics<Exchange, int, unsigned, ull, float>(module, "atomic_exchange");
  module.def("count", &count<true>);
  module.def("count_not_exclusive", &count<false>);
  module.def("spin", &spin);
  module.def("half_of_least_normal", &half_of_least_normal);
  module.def("meet_warp", &meet<Barrier::kWarp>);
  module.def("meet_block", &meet<Barrier::kBlock>);
}

}  // namespace
}  // namespace mabm
