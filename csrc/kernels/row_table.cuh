// The samples that a block gathers for a short row, with a sum for each: a set with open addressing
// in shared memory. Members are added in any order; the results are in ascending order and do not
// depend on it.
#pragma once

#include "common/device.h"
#include "kernels/shared_sums.cuh"

namespace mabm {

constexpr int kRowThreads = 128;
// The slots of a table, and how many of them may be taken. A row with more members is a long one.
constexpr int kTableSlots = 2048;
constexpr int kTableMembers = 1536;

// What a first pass finds out: the number of members of each short row, and which rows are long,
// as marks and as a list in any order.
struct RowCounts {
  int32_t* counts;
  bool* is_long;
  int32_t* long_rows;
  unsigned long long* num_long;

  // Called by one thread. A long row counts 0 until the pass over long rows.
  __device__ void note(int64_t row, bool fits, int count) const {
    counts[row] = fits ? count : 0;
    if (!fits) {
      is_long[row] = true;
      long_rows[atomicAdd(num_long, 1ull)] = static_cast<int32_t>(row);
    }
  }
};

// The table of one block. Every thread of the block has an object of it. All threads call its
// functions together unless a comment says otherwise.
class RowTable {
 public:
  static constexpr int32_t kFree = -1;
  // Bytes of shared memory that a launch must ask for.
  static constexpr size_t kBytes =
      kTableSlots * (SharedSums::kBytes + sizeof(int32_t)) + kTableMembers * sizeof(int32_t);

  // `size` is one int of shared memory.
  explicit __device__ RowTable(const Shared<int>& size) : RowTable(size, DynamicShared()) {}

  // Empties the table.
  __device__ void clear() {
    __syncthreads();  // no thread reads the old table any more
    for (int slot = threadIdx.x; slot < kTableSlots; slot += blockDim.x) {
      keys_[slot] = kFree;
      sums_.clear(slot);
    }
    if (threadIdx.x == 0) {
      size_[0] = 0;
    }
    __syncthreads();
  }

  // Adds to the sum of a member; called by one thread.
  __device__ void add(int32_t member, unsigned long long part) {
    const int slot = take_slot(member);
    if (slot >= 0) {
      sums_.add(slot, part);
    }
  }

  // Whether there are too many members so far; called by one thread, while others add. There will
  // not be fewer, so a thread may then stop to add.
  __device__ bool overflows() const {
    return *static_cast<const volatile int*>(&size_[0]) > kTableMembers;
  }

  // Whether the table contains everything that was added; called after a barrier.
  __device__ bool complete() const { return size_[0] <= kTableMembers; }

  // Keeps the members whose sum is at least `least`, and returns how many those are.
  __device__ int keep(unsigned long long least) {
    __syncthreads();
    if (threadIdx.x == 0) {
      size_[0] = 0;
    }
    __syncthreads();
    for (int slot = threadIdx.x; slot < kTableSlots; slot += blockDim.x) {
      if (keys_[slot] != kFree && sums_[slot] >= least) {
        members_[atomicAdd(&size_[0], 1)] = keys_[slot];
      }
    }
    __syncthreads();
    return size_[0];
  }

  // Calls body(member, sum, place) for every member that was kept, in any order, where `place` is
  // the number of smaller ones.
  template <class Body>
  __device__ void for_each_kept(const Body& body) const {
    const int count = size_[0];
    for (int at = threadIdx.x; at < count; at += blockDim.x) {
      const int32_t member = members_[at];
      int place = 0;
      for (int other = 0; other < count; ++other) {
        place += members_[other] < member;
      }
      body(member, sums_[slot_of(member)], place);
    }
  }

 private:
  __device__ RowTable(const Shared<int>& size, DynamicShared shared)
      : sums_(shared, kTableSlots),
        keys_(shared.take<int32_t>(kTableSlots)),
        members_(shared.take<int32_t>(kTableMembers)),
        size_(size) {}

  // The slot of a member, new or not, or -1 where the table is too full; called by one thread.
  __device__ int take_slot(int32_t member) {
    int slot = first_slot(member);
    for (int probe = 1; probe <= kTableSlots; ++probe) {
      const int32_t previous = atomicCAS(&keys_[slot], kFree, member);
      if (previous == kFree) {
        atomicAdd(&size_[0], 1);
        return slot;
      }
      if (previous == member) {
        return slot;
      }
      slot = (slot + 1) % kTableSlots;
      // Long probes hint that the table is too full, but their length depends on the order of the
      // threads; only the number of members decides that a row does not fit.
      if (probe % kWarpSize == 0 && overflows()) {
        break;
      }
    }
    return -1;
  }

  // The slot of a member of the table.
  __device__ int slot_of(int32_t member) const {
    int slot = first_slot(member);
    while (keys_[slot] != member) {
      slot = (slot + 1) % kTableSlots;
    }
    return slot;
  }

  __device__ static int first_slot(int32_t member) {
    const uint32_t mixed = static_cast<uint32_t>(member) * 2654435769u;  // 2^32 / golden ratio
    return static_cast<int>((mixed >> 16 ^ mixed) % kTableSlots);
  }

  SharedSums sums_;
  Shared<int32_t> keys_;
  Shared<int32_t> members_;
  Shared<int> size_;
};

}  // namespace mabm
