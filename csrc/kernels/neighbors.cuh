// Reciprocity and expansion: from neighbor lists to neighbor sets (method steps 2 and 3).
#pragma once

#include "common/device.h"
#include "common/rows.h"
#include "kernels/row_table.cuh"

namespace mabm {

constexpr int kMaskThreads = 256;

// mask[i, m]: ranks[i, m] = j is present and i is in ranks[j]. One warp per row.
static __global__ void reciprocal_mask_kernel(const int64_t* ranks, int64_t num_rows, int64_t width,
                                              bool* mask) {
  const int64_t row = global_warp();
  if (row >= num_rows) {
    return;
  }
  for (int64_t column = row * width; column < (row + 1) * width; ++column) {
    const int64_t other = ranks[column];
    bool is_listed = false;
    for (int64_t at = lane_index(); other >= 0 && at < width; at += kWarpSize) {
      is_listed = is_listed || ranks[other * width + at] == row;
    }
    is_listed = __any_sync(kFullWarp, is_listed);
    if (lane_index() == 0) {
      mask[column] = is_listed;
    }
  }
}

inline cudaError_t launch_reciprocal_mask(const int64_t* ranks, int64_t num_rows, int64_t width,
                                          bool* mask, cudaStream_t stream) {
  return launch(reciprocal_mask_kernel, blocks_for(num_rows, kMaskThreads / kWarpSize),
                kMaskThreads, 0, stream, ranks, num_rows, width, mask);
}

// E(i): R(i), and R_half(q) for each q in R(i) with |R_half(q) & R(i)| > 2/3 |R_half(q)|. One block
// per row. The first pass counts its members and marks in `accepted` whose half sets join; the
// second writes them ascending.
template <bool kShared, bool kFill>
__global__ void expand_neighbors_kernel(MaskedRanks lists, MaskedRanks half, int64_t num_rows,
                                        bool* accepted, RowCounts rows, const int64_t* starts,
                                        int32_t* indices, TableScratch scratch) {
  MABM_SHARED(int, size, 1);
  RowTable<kShared, false> table(scratch, size);
  for (int64_t row = blockIdx.x; row < num_rows; row += gridDim.x) {
    if (!rows.takes(row, kShared)) {
      continue;
    }
    table.clear();
    const int64_t begin = row * lists.width;
    for (int64_t m = begin + threadIdx.x; m < begin + lists.width; m += blockDim.x) {
      if (lists.mask[m]) {
        table.add(static_cast<int32_t>(lists.ranks[m]));
      }
    }
    __syncthreads();
    if (!kFill && table.complete()) {
      for (int64_t m = begin + warp_index(); m < begin + lists.width; m += warps_per_block()) {
        int members = 0;
        int common = 0;
        for (int64_t n = 0; lists.mask[m] && n < half.width; n += kWarpSize) {
          const int64_t at = lists.ranks[m] * half.width + n + lane_index();
          const bool inside = n + lane_index() < half.width && half.mask[at];
          members += __popc(__ballot_sync(kFullWarp, inside));
          const bool in_row = inside && table.holds(static_cast<int32_t>(half.ranks[at]));
          common += __popc(__ballot_sync(kFullWarp, in_row));
        }
        if (lane_index() == 0) {
          accepted[m] = 3 * common > 2 * members;
        }
      }
    }
    const bool complete = table.complete();
    __syncthreads();  // no thread adds before all have counted
    for (int64_t m = begin + warp_index(); complete && m < begin + lists.width;
         m += warps_per_block()) {
      for (int64_t n = lane_index(); accepted[m] && n < half.width; n += kWarpSize) {
        const int64_t at = lists.ranks[m] * half.width + n;
        if (half.mask[at]) {
          table.add(static_cast<int32_t>(half.ranks[at]));
        }
      }
    }
    if (kFill) {
      table.keep([](unsigned long long) { return true; });
      table.for_each_kept([&](int32_t member, unsigned long long, int place) {
        indices[starts[row] + place] = member;
      });
      continue;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      rows.note(row, table.complete(), table.num_members());
    }
  }
}

// One pass over the rows that fit in shared memory (a block each), or over those that do not (as
// many blocks as there are tables). A pass that is given `starts` fills.
inline cudaError_t launch_expand_neighbors(const MaskedRanks& lists, const MaskedRanks& half,
                                           int64_t num_rows, bool* accepted, const RowCounts& rows,
                                           const int64_t* starts, int32_t* indices,
                                           const TableScratch* scratch, cudaStream_t stream) {
  const bool fill = starts != nullptr;
  const bool shared = scratch == nullptr;
  const auto kernel =
      shared
          ? (fill ? expand_neighbors_kernel<true, true> : expand_neighbors_kernel<true, false>)
          : (fill ? expand_neighbors_kernel<false, true> : expand_neighbors_kernel<false, false>);
  const TableScratch tables = shared ? TableScratch{} : *scratch;
  return launch(kernel, shared ? num_rows : tables.count, kRowThreads,
                shared ? RowTable<true, false>::kBytes : 0, stream, lists, half, num_rows, accepted,
                rows, starts, indices, tables);
}

}  // namespace mabm
