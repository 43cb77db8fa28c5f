// Ranking: candidates scored exactly and ordered. A warp has a row to itself.
#pragma once

#include "common/device.h"
#include "common/rows.h"
#include "kernels/candidates.cuh"
#include "kernels/scores.cuh"

namespace mabm {

// Candidates scored together by a warp.
constexpr int kScoreBatch = 4;

// Numbers of the host, passed to the device as kernel arguments: unlike a copy, this neither makes
// the host wait nor keeps a CUDA graph from being captured.
constexpr int kNumbersAtOnce = 256;
struct FewNumbers {
  int32_t values[kNumbersAtOnce];
};

static __global__ void write_numbers_kernel(FewNumbers numbers, int count, int32_t* out) {
  const int at = static_cast<int>(threadIdx.x);
  if (at < count) {
    out[at] = numbers.values[at];
  }
}

inline cudaError_t launch_write_numbers(const int64_t* numbers, int64_t count, int32_t* out,
                                        cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  for (int64_t first = 0; first < count && error == cudaSuccess; first += kNumbersAtOnce) {
    FewNumbers few = {};
    const int size =
        static_cast<int>(count - first < kNumbersAtOnce ? count - first : int64_t{kNumbersAtOnce});
    for (int at = 0; at < size; ++at) {
      few.values[at] = static_cast<int32_t>(numbers[first + at]);
    }
    error = launch(write_numbers_kernel, 1, kNumbersAtOnce, 0, stream, few, size, out + first);
  }
  return error;
}

// Writes the first `width` of `count` scored samples, nearest first, ties by lower index, and -1
// where there are fewer. Each sample's place is the number of those before it. Called by a whole
// warp.
__device__ inline void write_list(const double* scores, const int32_t* indices, int count,
                                  int width, int64_t* ranks, double* rank_scores) {
  for (int slot = lane_index(); slot < count; slot += kWarpSize) {
    const double score = scores[slot];
    const int32_t index = indices[slot];
    int place = 0;
    for (int other = 0; other < count; ++other) {
      place += scores[other] > score || (scores[other] == score && indices[other] < index);
    }
    if (place < width) {
      ranks[place] = index;
      rank_scores[place] = score;
    }
  }
  for (int place = count + lane_index(); place < width; place += kWarpSize) {
    ranks[place] = -1;
    rank_scores[place] = -INFINITY;
  }
}

// Where the lists of all rows are written: list l takes widths[l] columns of `ranks` and `scores`.
struct RankedLists {
  const int32_t* widths;
  int64_t total_width;
  int64_t* ranks;
  double* scores;
};

// The candidates of B rows, (B, L, C), whose lists are complete; counts (B, L), -1 for lists that
// are left empty.
struct CompleteLists {
  int64_t num_rows;
  int64_t num_lists;
  int64_t capacity;
  const int32_t* indices;
  const int32_t* counts;
};

// Exact scores of a row's candidates, and the slots of those that are being scored.
struct RowScratch {
  double* scored;
  int32_t* chosen;
};

// Scores the candidates of a row that have no score yet and may score as much as `least`: all of
// them without bounds. Called by a whole warp.
template <bool kEuclidean>
__device__ void score_candidates(const float* features, int64_t dim, int64_t row,
                                 const int32_t* indices, int count, const float* bounds,
                                 double least, const RowScratch& scratch) {
  int num_chosen = 0;
  for (int first = 0; first < count; first += kWarpSize) {
    const int slot = first + lane_index();
    const bool is_chosen = slot < count && scratch.scored[slot] == -INFINITY &&
                           (bounds == nullptr || bounds[slot] >= least);
    const unsigned all_chosen = __ballot_sync(kFullWarp, is_chosen);
    if (is_chosen) {
      scratch.chosen[num_chosen + lanes_before(all_chosen)] = slot;
    }
    num_chosen += __popc(all_chosen);
  }
  __syncwarp();
  for (int first = 0; first < num_chosen; first += kScoreBatch) {
    const float* others[kScoreBatch];
#pragma unroll
    for (int k = 0; k < kScoreBatch; ++k) {
      // The last batch is filled up with the last candidate.
      others[k] = features + indices[scratch.chosen[lesser(first + k, num_chosen - 1)]] * dim;
    }
    double exact[kScoreBatch];
    score_row<kEuclidean>(features + row * dim, others, dim, exact);
#pragma unroll
    for (int k = 0; k < kScoreBatch; ++k) {
      if (lane_index() == k && first + k < num_chosen) {
        scratch.scored[scratch.chosen[first + k]] = exact[k];
      }
    }
  }
  __syncwarp();
}

// Orders a row's lists by exact scores. `scratch` has C entries for each row.
template <bool kEuclidean>
__global__ void rank_candidates_kernel(const float* features, int64_t dim, const int64_t* rows,
                                       CompleteLists lists, CandidateBounds bounds,
                                       RankedLists ranked, RowScratch scratch) {
  const int64_t row = global_warp();
  if (row >= lists.num_rows) {
    return;
  }
  const RowScratch own{scratch.scored + row * lists.capacity,
                       scratch.chosen + row * lists.capacity};
  int64_t column = row * ranked.total_width;
  for (int64_t list = 0; list < lists.num_lists; ++list) {
    const int64_t at = row * lists.num_lists + list;
    const int32_t* indices = lists.indices + at * lists.capacity;
    const int count = lists.counts[at] < 0 ? 0 : lists.counts[at];
    const int width = ranked.widths[list];
    for (int slot = lane_index(); slot < count; slot += kWarpSize) {
      own.scored[slot] = -INFINITY;
    }
    __syncwarp();
    // First the `width` candidates with the greatest bounds, then those that the last of these
    // leaves in reach. The others score -inf, which is after all of them.
    const bool is_bounded = bounds.bounds != nullptr && 0 < width && width < count;
    const float* own_bounds = is_bounded ? bounds.bounds + at * lists.capacity : nullptr;
    double least = is_bounded ? score_of(find_boundary(own_bounds, count, width).key) : -INFINITY;
#pragma unroll 1  // fewer registers
    for (int pass = 0; pass < (is_bounded ? 2 : 1); ++pass) {
      score_candidates<kEuclidean>(features, dim, rows[row], indices, count, own_bounds, least,
                                   own);
      if (is_bounded && pass == 0) {
        const double last = score_of(find_boundary(own.scored, count, width).key);
        least = last * *bounds.area - bounds.offsets[row];
      }
    }
    write_list(own.scored, indices, count, width, ranked.ranks + column, ranked.scores + column);
    __syncwarp();  // before the next list takes the scratch
    column += width;
  }
}

inline cudaError_t launch_rank_candidates(const float* features, int64_t dim, const int64_t* rows,
                                          const CompleteLists& lists, const CandidateBounds& bounds,
                                          bool euclidean, const RankedLists& ranked,
                                          const RowScratch& scratch, cudaStream_t stream) {
  return launch(euclidean ? rank_candidates_kernel<true> : rank_candidates_kernel<false>,
                blocks_for(lists.num_rows, kMostRowWarps), kMostRowWarps * kWarpSize, 0, stream,
                features, dim, rows, lists, bounds, ranked, scratch);
}

// Empties lists.
static __global__ void clear_lists_kernel(int64_t count, int32_t* counts, double* thresholds) {
  const int64_t list = global_thread();
  if (list < count) {
    counts[list] = 0;
    thresholds[list] = -INFINITY;
  }
}

inline cudaError_t launch_clear_lists(const CandidateLists<double>& lists, cudaStream_t stream) {
  const int64_t count = lists.num_rows * lists.num_lists;
  return launch(clear_lists_kernel, blocks_for(count, 256), 256, 0, stream, count, lists.counts,
                lists.thresholds);
}

// Orders lists that hold exact scores.
static __global__ void write_lists_kernel(CandidateLists<double> lists, RankedLists ranked) {
  const int64_t row = global_warp();
  if (row >= lists.num_rows) {
    return;
  }
  int64_t column = row * ranked.total_width;
  for (int64_t list = 0; list < lists.num_lists; ++list) {
    const int64_t at = row * lists.num_lists + list;
    const int width = ranked.widths[list];
    write_list(lists.scores + at * lists.capacity, lists.indices + at * lists.capacity,
               lists.counts[at], width, ranked.ranks + column, ranked.scores + column);
    column += width;
  }
}

inline cudaError_t launch_write_lists(const CandidateLists<double>& lists,
                                      const RankedLists& ranked, cudaStream_t stream) {
  return launch(write_lists_kernel, blocks_for(lists.num_rows, kMostRowWarps),
                kMostRowWarps * kWarpSize, 0, stream, lists, ranked);
}

}  // namespace mabm
