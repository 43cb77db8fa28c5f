// What the bench of launchers keeps on the emulated grid: NumPy arrays as copies of their own.
//
// Every array that a kernel sees is a copy of exactly its size, so that AddressSanitizer reports
// the first element beyond it, and what a kernel must write starts as garbage.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "common/device.h"
#include "common/rows.h"

namespace mabm {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

inline void check(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::invalid_argument(cudaGetErrorString(error));
  }
}

// Bytes that no kernel writes: as an index far out of range, as a flag neither true nor false.
constexpr int kGarbage = 0xa5;

// The memory of one array on the grid.
template <class T>
class Memory {
 public:
  explicit Memory(int64_t size) : size_(size), data_(new T[static_cast<size_t>(size)]) {
    std::memset(static_cast<void*>(data_.get()), kGarbage, sizeof(T) * static_cast<size_t>(size));
  }
  Memory(int64_t size, T value) : Memory(size) { std::fill_n(data_.get(), size, value); }
  explicit Memory(const Array<T>& array) : Memory(array.size()) {
    std::copy_n(array.data(), size_, data_.get());
  }

  T* get() { return data_.get(); }
  const T* read() const { return data_.get(); }
  int64_t size() const { return size_; }

  // A copy. Flags become bytes, so that those that were not written can be told.
  auto array(const std::vector<int64_t>& shape) const {
    Array<std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>> copy(shape);
    if (copy.size() != size_) {
      throw std::logic_error("an array of the bench has another size than its memory");
    }
    std::memcpy(copy.mutable_data(), data_.get(), sizeof(T) * static_cast<size_t>(size_));
    return copy;
  }
  auto array() const { return array({size_}); }

 private:
  int64_t size_;
  std::unique_ptr<T[]> data_;
};

// The number of the first entry of all rows; the kernels' rows begin there instead of at 0. Beyond
// 2^32 it shows wherever the place of an entry is kept in 32 bits.
inline int64_t first_number = 0;
constexpr int64_t kFarEntry = (int64_t{1} << 32) + 3;

// The number of the first row of some launchers (set_first_row): blocks before it are left out.
inline int64_t first_row = 0;
// Rows of a block of these launchers.
constexpr int64_t kRowsOfBlock = 8;

inline void set_first_row(int64_t row) {
  if (row % kRowsOfBlock != 0) {
    throw std::invalid_argument("the first row must be the first of a block");
  }
  first_row = row;
  emulated::set_first_block(row / kRowsOfBlock);
}

// Memory as a kernel takes it, to which its first element is number `first`.
template <class T>
T* numbered_from(int64_t first, T* data) {
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const auto ahead = sizeof(T) * static_cast<std::uintptr_t>(first);
  return data == nullptr ? nullptr : reinterpret_cast<T*>(address - ahead);
}
// The same of entries, and of rows with so many elements.
template <class T>
T* numbered(T* entries) {
  return numbered_from(first_number, entries);
}
template <class T>
T* from_row(T* rows, int64_t width = 1) {
  return numbered_from(first_row * width, rows);
}

// Starts of rows as a kernel takes them, from those that begin at 0, and back.
inline Memory<int64_t> numbered(Memory<int64_t> starts) {
  for (int64_t at = 0; at < starts.size(); ++at) {
    starts.get()[at] += first_number;
  }
  return starts;
}
inline Array<int64_t> from_zero(const Memory<int64_t>& starts) {
  Array<int64_t> copy = starts.array();
  for (int64_t at = 0; at < starts.size(); ++at) {
    copy.mutable_data()[at] -= first_number;
  }
  return copy;
}

// CSR rows: sets, an encoding or a graph.
struct RowsMemory {
  Memory<int64_t> indptr;
  Memory<int32_t> indices;
  std::optional<Memory<int32_t>> weights;
  std::optional<Memory<float>> distances;

  RowsMemory(const Array<int64_t>& indptr, const Array<int32_t>& indices)
      : indptr(numbered(Memory<int64_t>(indptr))), indices(indices) {}
  RowsMemory(const Array<int64_t>& indptr, const Array<int32_t>& indices,
             const Array<int32_t>& weights)
      : indptr(numbered(Memory<int64_t>(indptr))), indices(indices), weights(weights) {}
  RowsMemory(const Array<int64_t>& indptr, const Array<int32_t>& indices,
             const Array<float>& distances)
      : indptr(numbered(Memory<int64_t>(indptr))), indices(indices), distances(distances) {}

  int64_t count() const { return indptr.size() - 1; }
  Rows view() const {
    return {count(), indptr.read(), numbered(indices.read()),
            numbered(weights ? weights->read() : nullptr),
            numbered(distances ? distances->read() : nullptr)};
  }
};

}  // namespace mabm
