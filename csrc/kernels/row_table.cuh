// The samples that a block gathers for its row: a set with open addressing, in shared memory or,
// where a row has more members than fit there, in global memory. Members are added in any order;
// the results are in ascending order and do not depend on it.
#pragma once

#include "common/device.h"

namespace mabm {

constexpr int kRowThreads = 128;
// A table in shared memory: its slots, and how many of them may be taken. A row with more members
// uses a table in global memory.
constexpr int kSharedSlots = 2048;
constexpr int kSharedMembers = 1536;

// What a first pass finds out: the number of members of each row, the rows whose members do not fit
// in shared memory, and how many those are.
struct RowCounts {
  int32_t* counts;
  bool* too_long;
  unsigned long long* num_too_long;

  __device__ bool takes(int64_t row, bool in_shared) const { return too_long[row] != in_shared; }

  // Called by one thread. A row that does not fit counts 0 until it has a table in global memory.
  __device__ void note(int64_t row, bool fits, int count) const {
    counts[row] = fits ? count : 0;
    if (!fits) {
      too_long[row] = true;
      atomicAdd(num_too_long, 1ull);
    }
  }
};

// Tables in global memory, one per block, with `slots` entries of each array: a power of two, at
// least twice the number of samples.
struct TableScratch {
  int64_t count;
  int slots;
  int32_t* keys;
  unsigned long long* sums;
  int32_t* members;
};

inline int64_t table_slots(int64_t num_samples) {
  int64_t slots = kWarpSize;
  while (slots < 2 * num_samples) {
    slots *= 2;
  }
  return slots;
}

// The table of one block; with kSums, it has a sum for each member. Every thread of the block has
// an object of it. All threads call its functions together unless a comment says otherwise.
template <bool kShared, bool kSums>
class RowTable {
 public:
  static constexpr int32_t kFree = -1;
  // Bytes of shared memory that a launch must ask for.
  static constexpr size_t kBytes =
      kShared ? kSharedSlots * ((kSums ? sizeof(unsigned long long) : 0) + sizeof(int32_t)) +
                    kSharedMembers * sizeof(int32_t)
              : 0;

  // `size` is one int of shared memory.
  __device__ RowTable(const TableScratch& scratch, const Shared<int>& size)
      : RowTable(scratch, size, DynamicShared()) {}

  // Empties the table.
  __device__ void clear() {
    __syncthreads();  // no thread reads the old table any more
    for (int slot = threadIdx.x; slot < keys_.size(); slot += blockDim.x) {
      keys_[slot] = kFree;
      if (kSums) {
        sums_[slot] = 0;
      }
    }
    if (threadIdx.x == 0) {
      size_[0] = 0;
    }
    __syncthreads();
  }

  // Adds a member; called by one thread. Returns its slot, or -1 where the table is too full.
  __device__ int add(int32_t member) {
    int slot = first_slot(member);
    for (int probe = 1; probe <= keys_.size(); ++probe) {
      const int32_t previous = atomicCAS(&keys_[slot], kFree, member);
      if (previous == kFree) {
        atomicAdd(&size_[0], 1);
        return slot;
      }
      if (previous == member) {
        return slot;
      }
      slot = (slot + 1) & (keys_.size() - 1);
      // Long probes hint that the table is too full, but their length depends on the order of the
      // threads; only the number of members decides that a row does not fit.
      if (kShared && probe % kWarpSize == 0 && atomicAdd(&size_[0], 0) > kSharedMembers) {
        break;
      }
    }
    return -1;
  }

  // Adds to the sum of a member; called by one thread.
  __device__ void add(int32_t member, unsigned long long part) {
    const int slot = add(member);
    if (slot >= 0) {
      atomicAdd(&sums_[slot], part);
    }
  }

  // Whether a member is in the table; called by one thread, while none adds.
  __device__ bool holds(int32_t member) const { return keys_[slot_of(member)] == member; }

  // Whether the table contains everything that was added; called after a barrier.
  __device__ bool complete() const { return !kShared || size_[0] <= kSharedMembers; }

  // The number of members; called after a barrier.
  __device__ int num_members() const { return size_[0]; }

  // Keeps the members for which keeps(sum) holds, and returns how many those are.
  template <class Keeps>
  __device__ int keep(const Keeps& keeps) {
    __syncthreads();
    if (threadIdx.x == 0) {
      size_[0] = 0;
    }
    __syncthreads();
    for (int slot = threadIdx.x; slot < keys_.size(); slot += blockDim.x) {
      if (keys_[slot] != kFree && keeps(kSums ? sums_[slot] : 0)) {
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
      body(member, kSums ? sums_[slot_of(member)] : 0, place);
    }
  }

 private:
  __device__ RowTable(const TableScratch& scratch, const Shared<int>& size, DynamicShared shared)
      : sums_(kShared ? shared.take<unsigned long long>(kSums ? kSharedSlots : 0)
                      : Shared<unsigned long long>(part_of(scratch.sums, scratch.slots),
                                                   kSums ? scratch.slots : 0)),
        keys_(kShared ? shared.take<int32_t>(kSharedSlots)
                      : Shared<int32_t>(part_of(scratch.keys, scratch.slots), scratch.slots)),
        members_(kShared ? shared.take<int32_t>(kSharedMembers)
                         : Shared<int32_t>(part_of(scratch.members, scratch.slots), scratch.slots)),
        size_(size) {}

  template <class T>
  __device__ static T* part_of(T* array, int slots) {
    return array == nullptr ? nullptr : array + static_cast<int64_t>(blockIdx.x) * slots;
  }

  // The slot of a member, or the free one where it would be; the table is not full.
  __device__ int slot_of(int32_t member) const {
    int slot = first_slot(member);
    while (keys_[slot] != kFree && keys_[slot] != member) {
      slot = (slot + 1) & (keys_.size() - 1);
    }
    return slot;
  }

  __device__ int first_slot(int32_t member) const {
    const uint32_t mixed = static_cast<uint32_t>(member) * 2654435769u;  // 2^32 / golden ratio
    return static_cast<int>((mixed >> 16 ^ mixed) & static_cast<uint32_t>(keys_.size() - 1));
  }

  Shared<unsigned long long> sums_;
  Shared<int32_t> keys_;
  Shared<int32_t> members_;
  Shared<int> size_;
};

}  // namespace mabm
