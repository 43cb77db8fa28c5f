// Reciprocity and expansion: from neighbor lists to neighbor sets (method steps 2 and 3).
#pragma once

#include "common/device.h"
#include "common/rows.h"
#include "kernels/row_windows.cuh"

namespace mabm {

constexpr int kMaskThreads = 256;

// mask[b, m]: ranks[i, m] = j, i = chosen[b], is present and i is in ranks[j]. One warp per row.
static __global__ void reciprocal_mask_kernel(const int64_t* ranks, ChosenRows chosen,
                                              int64_t width, bool* mask) {
  const int64_t number = global_warp();
  if (number >= chosen.count) {
    return;
  }
  const int64_t row = chosen[number];
  for (int64_t column = 0; column < width; ++column) {
    const int64_t other = ranks[row * width + column];
    bool is_listed = false;
    for (int64_t at = lane_index(); other >= 0 && at < width; at += kWarpSize) {
      is_listed = is_listed || ranks[other * width + at] == row;
    }
    is_listed = __any_sync(kFullWarp, is_listed);
    if (lane_index() == 0) {
      mask[number * width + column] = is_listed;
    }
  }
}

inline cudaError_t launch_reciprocal_mask(const int64_t* ranks, const ChosenRows& chosen,
                                          int64_t width, bool* mask, cudaStream_t stream) {
  return launch(reciprocal_mask_kernel, blocks_for(chosen.count, kMaskThreads / kWarpSize),
                kMaskThreads, 0, stream, ranks, chosen, width, mask);
}

constexpr int kExpandThreads = 256;
// Neighbors of a row whose half sets are weighed at a time.
constexpr int kHalvesAtOnce = 128;

// Adds the masked samples of a row of lists, by `num_threads` threads of which this is number
// `thread`.
__device__ inline void add_list(const MemberBits& members, const MaskedRanks& lists, int64_t row,
                                int thread, int num_threads) {
  for (int64_t m = row * lists.width + thread; m < (row + 1) * lists.width; m += num_threads) {
    if (lists.mask[m]) {
      members.add(lists.ranks[m]);
    }
  }
}

// accepted[i, m]: q = ranks[i, m] is in R(i), and |R_half(q) & R(i)| > 2/3 |R_half(q)|. One block
// per row, for one window of samples after the other. A member of a half set adds 1 to its balance
// if it is in R(i), or else -2.
static __global__ void accept_halves_kernel(ListsToExpand given, int num_words, bool* accepted) {
  MABM_SHARED(int, balances, kHalvesAtOnce);
  const MaskedRanks& lists = given.lists;
  const MaskedRanks& half = given.half;
  const int64_t num_samples = given.num_samples;
  MemberBits members(num_words);
  const int64_t row = blockIdx.x;
  for (int64_t begin = 0; begin < lists.width; begin += kHalvesAtOnce) {
    const auto count = static_cast<int>(lesser(lists.width - begin, int64_t{kHalvesAtOnce}));
    for (int64_t first = 0; first < num_samples; first += members.size()) {
      if (begin == 0 || members.size() < num_samples) {  // a window of all samples stays
        members.clear(first);
        add_list(members, lists, row, static_cast<int>(threadIdx.x), kExpandThreads);
        __syncthreads();
      }
      for (int k = warp_index(); k < count; k += warps_per_block()) {
        const int64_t m = row * lists.width + begin + k;
        if (!lists.mask[m]) {
          accepted[m] = false;
          continue;
        }
        int balance = 0;
        for (int64_t n = lane_index(); n < half.width; n += kWarpSize) {
          const int64_t at = lists.ranks[m] * half.width + n;
          if (half.mask[at] && members.covers(half.ranks[at])) {
            balance += members.holds(half.ranks[at]) ? 1 : -2;
          }
        }
        balance = warp_sum(balance);
        if (lane_index() == 0) {  // the same thread in every window
          balances[k] = first == 0 ? balance : balances[k] + balance;
          accepted[m] = balances[k] > 0;
        }
      }
    }
  }
}

// E(i): R(i), and R_half(q) of each q that was accepted. One block per row: a first pass counts its
// members, a second writes them, ascending.
template <bool kFill>
__global__ void expand_neighbors_kernel(ListsToExpand given, int num_words, const bool* accepted,
                                        int32_t* counts, const int64_t* starts, int32_t* indices) {
  MABM_SHARED(int64_t, warp_totals, kExpandThreads / kWarpSize);
  const MaskedRanks& lists = given.lists;
  MemberBits members(num_words);
  const int64_t row = blockIdx.x;
  int64_t count = 0;
  for (int64_t first = 0; first < given.num_samples; first += members.size()) {
    members.clear(first);
    add_list(members, lists, row, static_cast<int>(threadIdx.x), kExpandThreads);
    for (int64_t m = row * lists.width + warp_index(); m < (row + 1) * lists.width;
         m += warps_per_block()) {
      if (accepted[m]) {
        add_list(members, given.half, lists.ranks[m], lane_index(), kWarpSize);
      }
    }
    __syncthreads();
    count += members.visit(warp_totals, [&](int64_t member, int64_t place) {
      if (kFill) {
        indices[starts[row] + count + place] = static_cast<int32_t>(member);
      }
    });
  }
  if (!kFill && threadIdx.x == 0) {
    counts[row] = static_cast<int32_t>(count);
  }
}

// Words of a window over N samples: one for all of them, or what fits into `shared_bytes`.
inline int words_of_window(int64_t num_samples, size_t shared_bytes) {
  return static_cast<int>(
      lesser(blocks_for(num_samples, 32), static_cast<int64_t>(shared_bytes / sizeof(unsigned))));
}

inline cudaError_t launch_accept_halves(const ListsToExpand& given, size_t shared_bytes,
                                        bool* accepted, cudaStream_t stream) {
  const int num_words = words_of_window(given.num_samples, shared_bytes);
  return launch(accept_halves_kernel, given.num_rows, kExpandThreads, sizeof(unsigned) * num_words,
                stream, given, num_words, accepted);
}

// A pass that is given `starts` fills.
inline cudaError_t launch_expand_neighbors(const ListsToExpand& given, size_t shared_bytes,
                                           const bool* accepted, int32_t* counts,
                                           const int64_t* starts, int32_t* indices,
                                           cudaStream_t stream) {
  const int num_words = words_of_window(given.num_samples, shared_bytes);
  return launch(starts == nullptr ? expand_neighbors_kernel<false> : expand_neighbors_kernel<true>,
                given.num_rows, kExpandThreads, sizeof(unsigned) * num_words, stream, given,
                num_words, accepted, counts, starts, indices);
}

}  // namespace mabm
