// Checks of tensors, pointers into them and new tensors: what every op begins with.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <limits>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "common/preparation.h"
#include "common/rows.h"

namespace mabm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
constexpr ScalarType scalar_type_of();
template <>
constexpr ScalarType scalar_type_of<float>() {
  return ScalarType::Float;
}
template <>
constexpr ScalarType scalar_type_of<Half>() {
  return ScalarType::Half;
}
template <>
constexpr ScalarType scalar_type_of<double>() {
  return ScalarType::Double;
}
template <>
constexpr ScalarType scalar_type_of<int8_t>() {
  return ScalarType::Char;
}
template <>
constexpr ScalarType scalar_type_of<int32_t>() {
  return ScalarType::Int;
}
template <>
constexpr ScalarType scalar_type_of<int64_t>() {
  return ScalarType::Long;
}
template <>
constexpr ScalarType scalar_type_of<bool>() {
  return ScalarType::Bool;
}

// Checks that a tensor is contiguous, of T and of this many dimensions.
template <class T>
void check_tensor(const Tensor& tensor, const char* name, int64_t dim) {
  STD_TORCH_CHECK(tensor.dim() == dim, name, " must have ", dim, " dimensions, got ", tensor.dim());
  STD_TORCH_CHECK(tensor.scalar_type() == scalar_type_of<T>(), name, " must be ",
                  torch::headeronly::toString(scalar_type_of<T>()), ", got ",
                  torch::headeronly::toString(tensor.scalar_type()));
  STD_TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

inline void check_size(const Tensor& tensor, const char* name, int64_t axis, int64_t expected) {
  STD_TORCH_CHECK(tensor.size(axis) == expected, name, " must have size ", expected, " on axis ",
                  axis, ", got ", tensor.size(axis));
}

inline void check_least_size(const Tensor& tensor, const char* name, int64_t axis, int64_t least) {
  STD_TORCH_CHECK(tensor.size(axis) >= least, name, " must have size ", least, " or more on axis ",
                  axis, ", got ", tensor.size(axis));
}

// Checks that an op's tensors are on one device.
inline void check_same_device(const Tensor& first, std::initializer_list<const Tensor*> others) {
  for (const Tensor* other : others) {
    STD_TORCH_CHECK(first.device() == other->device(),
                    "all tensors must be on one device, got them on two");
  }
}

template <class T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* write(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// An error that Python sees as a MemoryError.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string what) : what_(std::move(what)) {}
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  std::string what_;
};

// A new CPU tensor of T.
template <class T>
Tensor make_tensor(std::initializer_list<int64_t> sizes) {
  try {
    return torch::stable::empty(
        torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()), scalar_type_of<T>(),
        std::nullopt, torch::stable::Device(torch::headeronly::DeviceType::CPU));
  } catch (const std::exception&) {
    std::string words;
    for (const int64_t size : sizes) {
      words += (words.empty() ? "" : " x ") + std::to_string(size);
    }
    throw OutOfMemory("no room for " + words + " numbers of " + std::to_string(sizeof(T)) +
                      " bytes");
  }
}

// Checks of values, on the CPU only. On a GPU they would wait for the device, so an op trusts its
// caller there, and a number out of range is undefined behavior.

// Checks that every number is in [low, high), in one pass that the compiler vectorizes.
template <class T>
void check_range(const Tensor& tensor, const char* name, int64_t low, int64_t high) {
  if (!tensor.is_cpu()) {
    return;
  }
  const T* numbers = read<T>(tensor);
  const int64_t count = tensor.numel();
  using Unsigned = std::make_unsigned_t<T>;
  // At most one past the greatest int32, so that the width fits in uint32.
  const int64_t limit = sizeof(T) < 8 ? std::min(high, int64_t{1} << 31) : high;
  const auto first = static_cast<Unsigned>(low);
  const auto width = static_cast<Unsigned>(high > low ? limit - low : 0);
  int outside = 0;
  for (int64_t at = 0; at < count; ++at) {
    outside |= static_cast<Unsigned>(static_cast<Unsigned>(numbers[at]) - first) >= width;
  }
  if (outside) {
    const T* first_outside = std::find_if(numbers, numbers + count,
                                          [&](T number) { return number < low || number >= high; });
    STD_TORCH_CHECK(false, name, " must be in [", low, ", ", high, "), got ", *first_outside);
  }
}

// CSR rows: checks indptr, and on the CPU that it ascends from 0 to the number of indices.
inline Rows read_rows(const Tensor& indptr, const Tensor& indices) {
  check_same_device(indptr, {&indices});
  check_tensor<int64_t>(indptr, "indptr", 1);
  check_tensor<int32_t>(indices, "indices", 1);
  STD_TORCH_CHECK(indptr.numel() > 0, "indptr must have one entry more than there are rows, got 0");
  const Rows rows{indptr.numel() - 1, read<int64_t>(indptr), read<int32_t>(indices)};
  STD_TORCH_CHECK(rows.count <= std::numeric_limits<int32_t>::max(),
                  "rows must be fewer than 2^31, got ", rows.count);
  if (indptr.is_cpu()) {
    STD_TORCH_CHECK(rows.indptr[0] == 0 && rows.indptr[rows.count] == indices.numel(),
                    "indptr must run from 0 to ", indices.numel(), ", got ", rows.indptr[0], " to ",
                    rows.indptr[rows.count]);
    for (int64_t row = 0; row < rows.count; ++row) {
      STD_TORCH_CHECK(rows.begin(row) <= rows.end(row), "indptr must ascend, got ", rows.begin(row),
                      " and then ", rows.end(row), " in row ", row);
    }
  }
  return rows;
}

// Sets: rows in any order, with or without repeats.
inline Rows read_sets(const Tensor& indptr, const Tensor& indices, int64_t num_columns) {
  const Rows rows = read_rows(indptr, indices);
  check_range<int32_t>(indices, "indices", 0, num_columns);
  return rows;
}

// Encodings: rows with ascending indices and positive weights, each row's sum an int32, because
// overlaps are int32.
inline Rows read_encoding(const Tensor& indptr, const Tensor& indices, const Tensor& weights,
                          int64_t num_columns) {
  Rows rows = read_sets(indptr, indices, num_columns);
  check_same_device(indptr, {&weights});
  check_tensor<int32_t>(weights, "weights", 1);
  check_size(weights, "weights", 0, indices.numel());
  rows.weights = read<int32_t>(weights);
  if (!indptr.is_cpu()) {
    return rows;
  }
  for (int64_t row = 0; row < rows.count; ++row) {
    int64_t sum = 0;
    int faults = 0;  // 1: a weight that is not positive, 2: indices that do not ascend
    int32_t previous = -1;
    for (int64_t at = rows.begin(row); at < rows.end(row); ++at) {
      faults |= rows.weights[at] <= 0;
      faults |= (rows.indices[at] <= previous) << 1;
      previous = rows.indices[at];
      sum += rows.weights[at];
    }
    STD_TORCH_CHECK((faults & 1) == 0, "weights must be positive, got 0 or less in row ", row);
    STD_TORCH_CHECK(faults == 0, "indices must ascend within each row, got others in row ", row);
    STD_TORCH_CHECK(sum <= std::numeric_limits<int32_t>::max(),
                    "weights of each row must sum to less than 2^31, got ", sum, " in row ", row);
  }
  return rows;
}

}  // namespace mabm
