// The distance between encoded rows, dense or pruned (method step 6).
//
// A block adds up the overlaps of its row with a window of other rows in shared memory: integers,
// so that the result does not depend on their order. The other rows are read by column
// ("inverted"), one warp per column; a column lists its rows in ascending order, so that a window
// is a part of it.
#pragma once

#include "common/device.h"
#include "common/fixed_point.h"
#include "common/rows.h"
#include "kernels/inverted_rows.cuh"

namespace mabm {

constexpr int kOverlapThreads = 256;
constexpr int kOverlapWarps = kOverlapThreads / kWarpSize;
// Rows of a window: with their counters a little less than the shared memory of every device.
constexpr int kWindow = 12000;
// Columns of a window that may wait for their distances.
constexpr int kMostWaiting = 256;
static_assert(sizeof(int32_t) * (kWindow + kMostWaiting + kOverlapWarps + 2) <= kPlainShared,
              "a window and its counters fit in the shared memory of every device");
// Near rows that the first pass has room for; a row with more is searched again. A row has about as
// many as its identity has images, some 90 in the largest of the usual data sets.
constexpr int kNearSlots = 256;

// Sum of the weights of each row, and the least of them all; *least_sum must begin above it. One
// warp per row.
static __global__ void row_sums_kernel(Rows rows, int64_t* sums, long long* least_sum) {
  const int64_t row = global_warp();
  if (row >= rows.count) {
    return;
  }
  int64_t sum = 0;
  for (int64_t at = rows.begin(row) + lane_index(); at < rows.end(row); at += kWarpSize) {
    sum += rows.weights[at];
  }
  sum = warp_sum(sum);
  if (lane_index() == 0) {
    sums[row] = sum;
    atomicMin(least_sum, static_cast<long long>(sum));
  }
}

static __global__ void write_greatest_kernel(long long* value) { *value = 0x7fffffffffffffffll; }

inline cudaError_t launch_row_sums(const Rows& rows, int64_t* sums, long long* least_sum,
                                   cudaStream_t stream) {
  const cudaError_t error = launch(write_greatest_kernel, 1, 1, 0, stream, least_sum);
  return error != cudaSuccess ? error
                              : launch(row_sums_kernel, blocks_for(rows.count, kOverlapWarps),
                                       kOverlapThreads, 0, stream, rows, sums, least_sum);
}

// First entry in [low, high) of a row not below `row`.
__device__ inline int64_t first_entry(const ColumnEntry* entries, int64_t low, int64_t high,
                                      int64_t row) {
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (entries[middle].row < row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Sets overlaps[j - first] to the overlap of a row with the rows j = first..last - 1 of an inverted
// encoding of `num_others` rows. Called by a whole block, with a barrier before and after.
__device__ inline void add_overlaps(const Rows& rows, int64_t row, const InvertedRows& inverted,
                                    int64_t num_others, int64_t first, int64_t last,
                                    const Shared<int32_t>& overlaps) {
  __syncthreads();
  for (int at = threadIdx.x; at < last - first; at += blockDim.x) {
    overlaps[at] = 0;
  }
  __syncthreads();
  // A warp takes every eighth entry of the row. Its lanes look up one column each, all at once, and
  // then read these columns together, one after the other.
  const int stride = warps_per_block();
  for (int64_t at = rows.begin(row) + warp_index(); at < rows.end(row); at += stride * kWarpSize) {
    const int64_t entry_at = at + lane_index() * stride;
    int32_t lane_weight = 0;
    int64_t lane_begin = 0;
    int64_t lane_end = 0;
    if (entry_at < rows.end(row)) {
      lane_weight = rows.weights[entry_at];
      lane_begin = inverted.starts[rows.indices[entry_at]];
      lane_end = inverted.starts[rows.indices[entry_at] + 1];
      if (first > 0) {
        lane_begin = first_entry(inverted.entries, lane_begin, lane_end, first);
      }
      if (last < num_others) {
        lane_end = first_entry(inverted.entries, lane_begin, lane_end, last);
      }
    }
    for (int lane = 0; lane < kWarpSize && at + lane * stride < rows.end(row); ++lane) {
      const int32_t weight = __shfl_sync(kFullWarp, lane_weight, lane);
      const int64_t begin = __shfl_sync(kFullWarp, lane_begin, lane);
      const int64_t end = __shfl_sync(kFullWarp, lane_end, lane);
      for (int64_t slot = begin + lane_index(); slot < end; slot += kWarpSize) {
        const ColumnEntry entry = inverted.entries[slot];
        atomicAdd(&overlaps[static_cast<int>(entry.row - first)], lesser(weight, entry.weight));
      }
    }
  }
  __syncthreads();
}

// J between every row of one encoding and every row of another, (R, C). One block per row and
// window of columns.
static __global__ void jaccard_distance_kernel(Rows rows, const int64_t* sums,
                                               InvertedRows inverted, int64_t num_columns,
                                               const int64_t* column_sums, int window,
                                               float* distances) {
  DynamicShared shared;
  const Shared<int32_t> overlaps = shared.take<int32_t>(window);
  const int64_t num_windows = (num_columns + window - 1) / window;
  const int64_t row = blockIdx.x / num_windows;
  const int64_t first = blockIdx.x % num_windows * window;
  const int64_t last = lesser<int64_t>(first + window, num_columns);
  add_overlaps(rows, row, inverted, num_columns, first, last, overlaps);
  for (int64_t column = first + threadIdx.x; column < last; column += blockDim.x) {
    const int32_t overlap = overlaps[static_cast<int>(column - first)];
    distances[row * num_columns + column] =
        overlap == 0 ? 1.0f : distance_of_overlap(overlap, sums[row] + column_sums[column]);
  }
}

inline int window_for(int64_t num_columns) {
  return static_cast<int>(num_columns < kWindow ? num_columns : int64_t{kWindow});
}

inline cudaError_t launch_jaccard_distance(const Rows& rows, const int64_t* sums,
                                           const InvertedRows& inverted, int64_t num_columns,
                                           const int64_t* column_sums, float* distances,
                                           cudaStream_t stream) {
  if (num_columns == 0) {
    return cudaSuccess;
  }
  const int window = window_for(num_columns);
  return launch(jaccard_distance_kernel, rows.count * blocks_for(num_columns, window),
                kOverlapThreads, sizeof(int32_t) * window, stream, rows, sums, inverted,
                num_columns, column_sums, window, distances);
}

// Where the near rows of each row are written: in the first pass to kNearSlots places per row, as
// many as fit; in the second from `starts` on, for the rows that had more.
struct NearRows {
  int32_t* counts;
  const int64_t* starts;
  int32_t* indices;
  float* distances;
};

// Calls divide(at) for every at below `size` with needs(at). A distance divides in float64,
// which takes a warp as long for one lane as for all, and few columns need one: they wait in shared
// memory, as many as fit, until the threads can divide side by side. Called by a whole block, with
// a barrier before and after.
template <class Needs, class Divide>
__device__ inline void divide_side_by_side(int size, const Needs& needs, const Divide& divide,
                                           const Shared<int>& num_waiting,
                                           const Shared<int>& waiting) {
  if (threadIdx.x == 0) {
    num_waiting[0] = 0;
  }
  __syncthreads();
  for (int at = threadIdx.x; at < size; at += blockDim.x) {
    if (needs(at)) {
      const int place = atomicAdd(&num_waiting[0], 1);
      if (place < waiting.size()) {
        waiting[place] = at;
      } else {
        divide(at);
      }
    }
  }
  __syncthreads();
  const int count = lesser(num_waiting[0], waiting.size());
  for (int place = threadIdx.x; place < count; place += blockDim.x) {
    divide(waiting[place]);
  }
  __syncthreads();
}

// For each row, every row of another encoding (or of the same) with J <= max_distance, ascending;
// of the others `least_sum` is the least sum. One block per row, which takes window after window.
// In a window the overlaps of near rows are replaced by ~(bits of their distances), which is
// negative, and those of each warp's part are counted, so that every warp knows where to write its
// own.
template <bool kFill>
__global__ void near_rows_kernel(Rows rows, const int64_t* sums, InvertedRows inverted,
                                 int64_t num_others, const int64_t* other_sums,
                                 const long long* least_sum, float max_distance, int window,
                                 NearRows near) {
  DynamicShared shared;
  const Shared<int32_t> overlaps = shared.take<int32_t>(window);
  MABM_SHARED(int, part_counts, kOverlapWarps);
  MABM_SHARED(int, num_waiting, 1);
  MABM_SHARED(int, waiting, kMostWaiting);
  MABM_SHARED(int32_t, least, 1);
  const int64_t row = blockIdx.x;
  if (kFill && near.counts[row] <= kNearSlots) {
    return;
  }
  const int64_t row_sum = sums[row];
  if (threadIdx.x == 0 && num_others > 0) {
    // An overlap is at most the sum of a row, so that the least one that is near fits, too.
    least[0] = static_cast<int32_t>(least_overlap(max_distance, row_sum + *least_sum));
  }
  const int64_t start = kFill ? near.starts[row] : row * kNearSlots;
  int num_near = 0;
  for (int64_t first = 0; first < num_others; first += window) {
    const int64_t last = lesser<int64_t>(first + window, num_others);
    add_overlaps(rows, row, inverted, num_others, first, last, overlaps);
    const int size = static_cast<int>(last - first);
    const int part = (size + kOverlapWarps * kWarpSize - 1) / (kOverlapWarps * kWarpSize);
    const auto may_be_near = [&](int at) { return overlaps[at] >= least[0]; };
    const auto mark = [&](int at) {
      const float distance = distance_of_overlap(overlaps[at], row_sum + other_sums[first + at]);
      if (distance <= max_distance) {
        overlaps[at] = ~__float_as_int(distance);
        atomicAdd(&part_counts[at / (part * kWarpSize)], 1);
      }
    };
    if (lane_index() == 0) {
      part_counts[warp_index()] = 0;
    }
    divide_side_by_side(size, may_be_near, mark, num_waiting, waiting);
    int place = num_near;
    for (int warp = 0; warp < kOverlapWarps; ++warp) {
      place += warp < warp_index() ? part_counts[warp] : 0;
      num_near += part_counts[warp];
    }
    const int count = part_counts[warp_index()];
    for (int step = 0; count > 0 && step < part; ++step) {
      const int at = (warp_index() * part + step) * kWarpSize + lane_index();
      const bool is_near = at < size && overlaps[at] < 0;
      const unsigned all_near = __ballot_sync(kFullWarp, is_near);
      const int slot = place + lanes_before(all_near);
      if (is_near && (kFill || slot < kNearSlots)) {
        near.indices[start + slot] = static_cast<int32_t>(first + at);
        near.distances[start + slot] = __int_as_float(~overlaps[at]);
      }
      place += __popc(all_near);
    }
  }
  if (!kFill && threadIdx.x == 0) {
    near.counts[row] = num_near;
  }
}

inline cudaError_t launch_near_rows(const Rows& rows, const int64_t* sums,
                                    const InvertedRows& inverted, int64_t num_others,
                                    const int64_t* other_sums, const long long* least_sum,
                                    float max_distance, const NearRows& near, cudaStream_t stream) {
  const int window = window_for(num_others);
  return launch(near.starts == nullptr ? near_rows_kernel<false> : near_rows_kernel<true>,
                rows.count, kOverlapThreads, sizeof(int32_t) * window, stream, rows, sums, inverted,
                num_others, other_sums, least_sum, max_distance, window, near);
}

// Moves the near rows that fit in the places of the first pass to where they belong. One warp per
// row.
static __global__ void move_near_rows_kernel(int64_t num_rows, const int32_t* counts,
                                             const int64_t* starts, const int32_t* slot_indices,
                                             const float* slot_distances, int32_t* indices,
                                             float* distances) {
  const int64_t row = global_warp();
  if (row >= num_rows || counts[row] > kNearSlots) {
    return;
  }
  for (int slot = lane_index(); slot < counts[row]; slot += kWarpSize) {
    indices[starts[row] + slot] = slot_indices[row * kNearSlots + slot];
    distances[starts[row] + slot] = slot_distances[row * kNearSlots + slot];
  }
}

inline cudaError_t launch_move_near_rows(int64_t num_rows, const int32_t* counts,
                                         const int64_t* starts, const int32_t* slot_indices,
                                         const float* slot_distances, int32_t* indices,
                                         float* distances, cudaStream_t stream) {
  return launch(move_near_rows_kernel, blocks_for(num_rows, kOverlapWarps), kOverlapThreads, 0,
                stream, num_rows, counts, starts, slot_indices, slot_distances, indices, distances);
}

}  // namespace mabm
