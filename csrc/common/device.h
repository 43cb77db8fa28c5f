// What kernels use on top of CUDA C++: launches, warps and shared memory.
//
// Kernels reach the grid only through this header, so that the same source runs on a GPU and,
// with -DMABM_EMULATED, on the emulated grid of tests/emulated_grid, where shared memory is
// checked.
#pragma once

#include <math.h>  // in device code its functions are without a namespace

#include <cstddef>
#include <cstdint>

#include "common/host_device.h"

#if defined(MABM_EMULATED)
#include "emulator.h"
#else
#include <cuda_runtime.h>
#endif

namespace mabm {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

// Shared memory that a block may have in every launch, with what its kernel declares. More must be
// allowed for the kernel before.
constexpr size_t kPlainShared = 48 * 1024;
// What a kernel may declare beside all that a launch may ask for.
constexpr size_t kDeclaredShared = 1024;
// The most blocks of a grid, on every device.
constexpr int64_t kMostBlocks = 0x7fffffff;

// The most shared memory that a launch may ask for on the current device.
inline cudaError_t find_most_shared(size_t* bytes) {
  int device = 0;
  int most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  *bytes = static_cast<size_t>(most) - kDeclaredShared;
  return error;
}

// Starts a kernel, on a GPU or on the emulated grid.
template <class... Params, class... Args>
cudaError_t launch(void (*kernel)(Params...), int64_t num_blocks, int num_threads,
                   size_t shared_bytes, cudaStream_t stream, Args... args) {
  if (num_blocks == 0) {
    return cudaSuccess;
  }
  if (num_blocks > kMostBlocks) {  // the device would see their number modulo 2^32
    return cudaErrorInvalidConfiguration;
  }
  if (shared_bytes + kDeclaredShared > kPlainShared) {
    // As much as there is, even if this launch needs less: what a kernel is allowed is shared by
    // all threads of the host, and another one's launch must not lower it in between.
    size_t most = 0;
    cudaError_t error = find_most_shared(&most);
    if (error == cudaSuccess) {
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared_bytes > most ? shared_bytes : most));
    }
    if (error != cudaSuccess) {
      return error;
    }
  }
#if defined(MABM_EMULATED)
  return emulated::run_grid(reinterpret_cast<const void*>(kernel),
                            static_cast<unsigned>(num_blocks), num_threads, shared_bytes,
                            [&] { kernel(args...); });
#else
  kernel<<<static_cast<unsigned>(num_blocks), num_threads, shared_bytes, stream>>>(args...);
  return cudaGetLastError();
#endif
}

// Elements of a block's shared memory.
template <class T>
class Shared {
 public:
  __device__ Shared(T* data, int size) : data_(data), size_(size) {}

  __device__ T& operator[](int index) const {
#if defined(MABM_EMULATED)
    emulated::check_index(index, size_);
#endif
    return data_[index];
  }
  __device__ int size() const { return size_; }

 private:
  T* data_;
  int size_;
};

// Shared memory whose size is known when the kernel is compiled; declared first in its body.
#if defined(MABM_EMULATED)
#define MABM_SHARED(T, name, count) \
  const ::mabm::Shared<T> name(     \
      static_cast<T*>(::emulated::static_shared(__FILE__, __LINE__, sizeof(T) * (count))), count)
#else
#define MABM_SHARED(T, name, count)   \
  __shared__ T name##_storage[count]; \
  const ::mabm::Shared<T> name(name##_storage, count)
#endif

// Divides the shared memory that a launch asked for, piece by piece, in the same order in every
// thread; pieces of larger alignment first.
class DynamicShared {
 public:
  __device__ DynamicShared() {
#if defined(MABM_EMULATED)
    next_ = static_cast<unsigned char*>(emulated::dynamic_shared());
#else
    extern __shared__ __align__(16) unsigned char mabm_dynamic_shared[];
    next_ = mabm_dynamic_shared;
#endif
  }

  template <class T>
  __device__ Shared<T> take(int count) {
    T* data = reinterpret_cast<T*>(next_);
    next_ += sizeof(T) * count;
#if defined(MABM_EMULATED)
    emulated::check_dynamic_shared(next_);
#endif
    return Shared<T>(data, count);
  }

 private:
  unsigned char* next_;
};

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % kWarpSize; }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / kWarpSize; }
__device__ inline int warps_per_block() { return static_cast<int>(blockDim.x) / kWarpSize; }

// The number of this thread, or of its warp, in the whole grid.
__device__ inline int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t global_warp() {
  return static_cast<int64_t>(blockIdx.x) * warps_per_block() + warp_index();
}

// Lanes of a ballot below this one.
__device__ inline int lanes_before(unsigned ballot) {
  return __popc(ballot & ((1u << lane_index()) - 1u));
}

// Sum over the warp, the same in every lane.
template <class T>
__device__ T warp_sum(T value) {
  for (int half = kWarpSize / 2; half > 0; half /= 2) {
    value += __shfl_xor_sync(kFullWarp, value, half);
  }
  return value;
}

template <class T>
__device__ T warp_min(T value) {
  for (int half = kWarpSize / 2; half > 0; half /= 2) {
    const T other = __shfl_xor_sync(kFullWarp, value, half);
    value = other < value ? other : value;
  }
  return value;
}

template <class T>
__device__ T warp_max(T value) {
  for (int half = kWarpSize / 2; half > 0; half /= 2) {
    const T other = __shfl_xor_sync(kFullWarp, value, half);
    value = value < other ? other : value;
  }
  return value;
}

template <class T>
MABM_HOST_DEVICE constexpr T lesser(T a, T b) {
  return b < a ? b : a;
}

// Blocks of `per_block` that cover `count`.
inline int64_t blocks_for(int64_t count, int64_t per_block) {
  return (count + per_block - 1) / per_block;
}

}  // namespace mabm
