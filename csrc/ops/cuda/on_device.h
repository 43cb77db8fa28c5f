// What an op does around its launches: device guard, stream, allocation and error messages.
//
// Every op here works on the device of its tensors and the current stream of that device. It waits
// only where the size of its result depends on the data: read() waits for the few numbers that the
// host must know to allocate it.
#pragma once

#include <algorithm>
#include <exception>

#include "common/checks.h"
#include "common/device.h"

#if defined(MABM_EMULATED)
#define MABM_GPU CPU  // the dispatch key under which the emulated grid stands in for a GPU
#else
#include <torch/csrc/stable/accelerator.h>
#define MABM_GPU CUDA
#endif

namespace mabm {

class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor)
      : device_(tensor.device())
#if !defined(MABM_EMULATED)
        ,
        guard_(tensor.get_device_index())
#endif
  {
#if !defined(MABM_EMULATED)
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
#endif
  }

  cudaStream_t stream() const { return stream_; }

  // A new tensor of T; `what` names it if there is no memory for it.
  template <class T>
  Tensor make(std::initializer_list<int64_t> sizes, const char* what) const {
    try {
      return torch::stable::empty(
          torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()),
          scalar_type_of<T>(), std::nullopt, device_);
    } catch (const std::exception&) {
      check_earlier_work();
      double bytes = sizeof(T);
      for (const int64_t size : sizes) {
        bytes *= static_cast<double>(size);
      }
      STD_TORCH_CHECK(false, "out of memory: no room for ", what, ", ", bytes / (1 << 20),
                      " MiB on the GPU");
    }
  }

  template <class T>
  Tensor make_zeros(std::initializer_list<int64_t> sizes, const char* what) const {
    Tensor tensor = make<T>(sizes, what);
    torch::stable::zero_(tensor);
    return tensor;
  }

  // The most shared memory that a launch may ask for.
  size_t most_shared() const {
    size_t bytes = 0;
    check(find_most_shared(&bytes), "asking for the size of shared memory");
    return bytes;
  }

  // Waits for the work so far and reads one or two numbers back to the host.
  void read(const int64_t* number, int64_t* out) const { read(number, number, out, out); }
  void read(const int64_t* number, const int64_t* second, int64_t* out, int64_t* second_out) const {
#if defined(MABM_EMULATED)
    *out = *number;
    *second_out = *second;
#else
    constexpr const char* kWhat = "reading the size of a result";
    check(cudaMemcpyAsync(out, number, sizeof *out, cudaMemcpyDeviceToHost, stream_), kWhat);
    check(cudaMemcpyAsync(second_out, second, sizeof *out, cudaMemcpyDeviceToHost, stream_), kWhat);
    check(cudaStreamSynchronize(stream_), kWhat);
#endif
  }

  // Throws if earlier work on the stream failed: an allocation then fails for that reason, not for
  // lack of memory.
  void check_earlier_work() const {
#if !defined(MABM_EMULATED)
    const cudaError_t state = cudaStreamQuery(stream_);
    check(state == cudaErrorNotReady ? cudaSuccess : state, "earlier work");
#endif
  }

  // Throws if a launch failed; `what` names it.
  void check(cudaError_t error, const char* what) const {
    STD_TORCH_CHECK(error == cudaSuccess, what, " failed on the GPU: ", cudaGetErrorString(error));
  }

 private:
  torch::stable::Device device_;
#if !defined(MABM_EMULATED)
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  cudaStream_t stream_ = nullptr;
};

}  // namespace mabm
