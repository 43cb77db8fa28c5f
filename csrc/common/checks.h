// What a binding does before its work: check, say what was found, hand out pointers and tensors.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>

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
constexpr ScalarType scalar_type_of<double>() {
  return ScalarType::Double;
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

// A new CPU tensor of T.
template <class T>
Tensor make_tensor(std::initializer_list<int64_t> sizes) {
  return torch::stable::empty(torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()),
                              scalar_type_of<T>(), std::nullopt,
                              torch::stable::Device(torch::headeronly::DeviceType::CPU));
}

// CSR rows of an op: sets, or with their weights.
inline Rows read_rows(const Tensor& indptr, const Tensor& indices) {
  check_same_device(indptr, {&indices});
  check_tensor<int64_t>(indptr, "indptr", 1);
  check_tensor<int32_t>(indices, "indices", 1);
  STD_TORCH_CHECK(indptr.numel() > 0, "indptr must have one entry more than there are rows, got 0");
  const Rows rows{indptr.numel() - 1, read<int64_t>(indptr), read<int32_t>(indices), nullptr};
  if (indptr.is_cpu()) {  // elsewhere a look at it would wait for the device
    STD_TORCH_CHECK(rows.indptr[0] == 0 && rows.indptr[rows.count] == indices.numel(),
                    "indptr must run from 0 to ", indices.numel(), ", got ", rows.indptr[0], " to ",
                    rows.indptr[rows.count]);
  }
  STD_TORCH_CHECK(rows.count <= std::numeric_limits<int32_t>::max(),
                  "rows must be fewer than 2^31, got ", rows.count);
  return rows;
}

inline Rows read_rows(const Tensor& indptr, const Tensor& indices, const Tensor& weights) {
  Rows rows = read_rows(indptr, indices);
  check_same_device(indptr, {&weights});
  check_tensor<int32_t>(weights, "weights", 1);
  check_size(weights, "weights", 0, indices.numel());
  rows.weights = read<int32_t>(weights);
  return rows;
}

}  // namespace mabm
