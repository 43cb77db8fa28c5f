// Sums of 64 bits in shared memory.
#pragma once

#include "common/device.h"

namespace mabm {

// An array of sums, each as two halves of 32 bits: shared memory adds 32 bits in one operation, and
// 64 bits only by trying until no other thread came between. Halves lie in two arrays, so that
// neighbors are in different banks.
class SharedSums {
 public:
  // Bytes of shared memory of one sum.
  static constexpr size_t kBytes = 2 * sizeof(unsigned);

  __device__ SharedSums(DynamicShared& shared, int count)
      : low_(shared.take<unsigned>(count)), high_(shared.take<unsigned>(count)) {}

  __device__ int size() const { return low_.size(); }

  __device__ void clear(int at) const {
    low_[at] = 0;
    high_[at] = 0;
  }

  // Adds modulo 2^64; any number of threads may add at once. Each time the low half wraps around,
  // exactly one thread sees it, and carries.
  __device__ void add(int at, unsigned long long part) const {
    const auto low = static_cast<unsigned>(part);
    const unsigned before = atomicAdd(&low_[at], low);
    const unsigned carry = before + low < low ? 1 : 0;
    const unsigned high = static_cast<unsigned>(part >> 32) + carry;
    if (high != 0) {
      atomicAdd(&high_[at], high);
    }
  }

  // A sum, after a barrier.
  __device__ unsigned long long operator[](int at) const {
    return static_cast<unsigned long long>(high_[at]) << 32 | low_[at];
  }

 private:
  Shared<unsigned> low_;
  Shared<unsigned> high_;
};

}  // namespace mabm
