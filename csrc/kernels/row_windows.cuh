// Rows that a block gathers window by window: shared memory has a place for each sample of a
// window, so that a row may have any number of members, and has them in ascending order.
#pragma once

#include "common/device.h"
#include "kernels/prefix_sum.cuh"

namespace mabm {

// Calls visit(at, place) for at = 0..size - 1 where count_at(at) > 0; `place` is the sum of the
// counts before. Returns the sum of all counts. `warp_totals` has a place for each warp. All
// threads of the block call it together, after a barrier.
template <class Count, class Visit>
__device__ int64_t visit_in_order(int size, const Shared<int64_t>& warp_totals,
                                  const Count& count_at, const Visit& visit) {
  const int num_threads = static_cast<int>(blockDim.x);
  // An odd number for each thread, so that the threads of a warp are in different banks.
  const int each = (size + num_threads - 1) / num_threads | 1;
  const int begin = lesser(static_cast<int>(threadIdx.x) * each, size);
  const int end = lesser(begin + each, size);
  int64_t own = 0;
  for (int at = begin; at < end; ++at) {
    own += count_at(at);
  }
  int64_t total;
  int64_t place = block_exclusive_sum(own, warp_totals, &total);
  for (int at = begin; own > 0 && at < end; ++at) {
    const int count = count_at(at);
    if (count > 0) {
      visit(at, place);
    }
    place += count;
  }
  return total;
}

// The first of the ascending numbers at begin..end - 1 that is not below `bound`, or else `end`.
// The lanes of a warp look at 32 of them at once.
__device__ inline int64_t first_not_below(const int32_t* numbers, int64_t begin, int64_t end,
                                          int32_t bound) {
  while (begin < end) {
    const int64_t step = (end - begin + kWarpSize - 1) / kWarpSize;
    const int64_t at = begin + lane_index() * step;
    const int num_below = __popc(__ballot_sync(kFullWarp, at < end && numbers[at] < bound));
    if (num_below == 0) {
      break;
    }
    end = lesser(end, begin + num_below * step);
    begin += (num_below - 1) * step + 1;
  }
  return begin;
}

// The samples of a window that are members: a bit each.
class MemberBits {
 public:
  __device__ explicit MemberBits(int num_words)
      : words_(DynamicShared().take<unsigned>(num_words)) {}

  // The number of samples of a window.
  __device__ int64_t size() const { return int64_t{32} * words_.size(); }

  // Begins the window at `first`, without members; all threads call it together.
  __device__ void clear(int64_t first) {
    __syncthreads();  // no thread reads the old window any more
    first_ = first;
    for (int word = threadIdx.x; word < words_.size(); word += blockDim.x) {
      words_[word] = 0;
    }
    __syncthreads();
  }

  __device__ bool covers(int64_t sample) const {
    return sample >= first_ && sample < first_ + size();
  }

  // Adds a sample if the window covers it.
  __device__ void add(int64_t sample) const {
    if (covers(sample)) {
      const int at = static_cast<int>(sample - first_);
      atomicOr(&words_[at / 32], 1u << at % 32);
    }
  }

  // Whether a sample that the window covers is a member, after a barrier.
  __device__ bool holds(int64_t sample) const {
    const int at = static_cast<int>(sample - first_);
    return (words_[at / 32] >> at % 32 & 1u) != 0;
  }

  // Calls visit(member, place) for every member, where `place` is the number of smaller ones in the
  // window. Returns the number of members; all threads call it together, after a barrier.
  template <class Visit>
  __device__ int64_t visit(const Shared<int64_t>& warp_totals, const Visit& visit) const {
    return visit_in_order(
        words_.size(), warp_totals, [&](int word) { return __popc(words_[word]); },
        [&](int word, int64_t place) {
          for (unsigned rest = words_[word]; rest != 0; rest &= rest - 1) {
            visit(first_ + 32 * word + __ffs(static_cast<int>(rest)) - 1, place++);
          }
        });
  }

 private:
  Shared<unsigned> words_;
  int64_t first_ = 0;
};

}  // namespace mabm
