// Ranking: candidates from tiles of approximate scores, proven complete and rescored exactly; the
// same proof as in ops/cpu/ranking.cpp. A warp has a row to itself, so nothing here is atomic, and
// lists may be longer than shared memory: they stay in global memory.
#pragma once

#include "common/device.h"
#include "common/rows.h"
#include "kernels/scores.cuh"

namespace mabm {

constexpr int kMostRowWarps = 8;
// Shared memory that every device gives a block without being asked twice.
constexpr size_t kSharedBytes = 48 << 10;
// Steps of a warp's width whose scores are loaded before the first is looked at.
constexpr int kScanUnroll = 4;
// Candidates scored together by a warp.
constexpr int kScoreBatch = 4;

// Scores as unsigned keys in the same order; -0 and 0 are one score and get one key.
__device__ inline uint32_t key_of(float score) {
  const uint32_t bits = __float_as_uint(score + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float score_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
__device__ inline unsigned long long key_of(double score) {
  const auto bits = static_cast<unsigned long long>(__double_as_longlong(score + 0.0));
  return bits >> 63 ? ~bits : bits | 0x8000000000000000ull;
}
__device__ inline double score_of(unsigned long long key) {
  return __longlong_as_double(
      static_cast<long long>(key >> 63 ? key & 0x7fffffffffffffffull : ~key));
}

template <class Key>
struct Boundary {
  Key key;
  int above;  // entries with a greater key
};

// The key of the wanted-th best of `count` scores, or any key that at least `wanted` and at most
// `enough` of them exceed: whichever bisection meets first. By a whole warp.
template <class Score>
__device__ auto find_boundary(const Score* scores, int count, int wanted, int enough) {
  using Key = decltype(key_of(Score{}));
  Key low = ~Key{0};
  Key high = 0;
  for (int slot = lane_index(); slot < count; slot += kWarpSize) {
    const Key key = key_of(scores[slot]);
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  low = warp_min(low);
  high = warp_max(high);
  while (true) {
    const Key middle = low + (high - low) / 2;
    int above = 0;
    for (int first = 0; first < count; first += kWarpSize) {
      const int slot = first + lane_index();
      above += __popc(__ballot_sync(kFullWarp, slot < count && key_of(scores[slot]) > middle));
    }
    if (low == high || (wanted <= above && above <= enough)) {
      return Boundary<Key>{middle, above};
    }
    if (above >= wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
}

// Cuts a full list to at least its better half and returns its new length. Entries keep their
// order, and of equal scores at the cut the first are kept.
template <class Score>
__device__ int cut_list(Score* scores, int32_t* indices, int count, Score* threshold) {
  const int half = count / 2;
  const auto boundary = find_boundary(scores, count, half, half + half / 2);
  int ties = boundary.above < half ? half - boundary.above : 0;
  int kept = 0;
  for (int first = 0; first < count; first += kWarpSize) {
    const int slot = first + lane_index();
    const Score score = slot < count ? scores[slot] : Score{};
    const int32_t index = slot < count ? indices[slot] : 0;
    const bool above = slot < count && key_of(score) > boundary.key;
    const unsigned tied = __ballot_sync(kFullWarp, slot < count && key_of(score) == boundary.key);
    const bool tie = tied >> lane_index() & 1u && lanes_before(tied) < ties;
    const unsigned keeps = __ballot_sync(kFullWarp, above || tie);
    __syncwarp();  // every lane has read its entry before any is overwritten
    if (above || tie) {
      scores[kept + lanes_before(keeps)] = score;
      indices[kept + lanes_before(keeps)] = index;
    }
    kept += __popc(keeps);
    ties -= lesser(ties, __popc(tied));
  }
  __syncwarp();
  *threshold = score_of(boundary.key);
  return kept;
}

// Scores of a tile as a float32 product and a bias of each column.
struct ProductTile {
  using Score = float;
  const float* products;
  const float* biases;

  __device__ float at(int64_t row, int64_t column, int64_t num_columns) const {
    return products[row * num_columns + column] + biases[column];
  }
};

// Scores of a tile as they are.
struct ExactTile {
  using Score = double;
  const double* scores;

  __device__ double at(int64_t row, int64_t column, int64_t num_columns) const {
    return scores[row * num_columns + column];
  }
};

// Which list a column of a tile falls into: list_of_group[group of the row, group of the column].
// Row r's group is row_groups[rows[r]], or row_groups[r] if `rows` is null.
struct ListTable {
  const int32_t* row_groups;
  const int64_t* rows;
  const int32_t* column_groups;
  const int32_t* list_of_group;
  int num_groups;

  __device__ const int32_t* lists_of_row(int64_t row) const {
    const int64_t sample = rows == nullptr ? row : rows[row];
    return list_of_group + static_cast<int64_t>(row_groups[sample]) * num_groups;
  }
};

// Adds one tile to the lists of its rows, columns ascending. Reads every score once.
template <class Tile>
__global__ void collect_candidates_kernel(Tile tile, int64_t num_columns, ListTable table,
                                          int64_t first_column,
                                          CandidateLists<typename Tile::Score> lists) {
  using Score = typename Tile::Score;
  DynamicShared shared;
  const Shared<Score> all_thresholds = shared.take<Score>(table.num_groups * warps_per_block());
  const int64_t row = global_warp();
  if (row >= lists.num_rows) {
    return;
  }
  const int base = warp_index() * table.num_groups;  // this warp's threshold of each group
  const int32_t* list_of = table.lists_of_row(row);
  const int64_t row_lists = row * lists.num_lists;
  const auto refresh = [&] {
    __syncwarp();
    for (int group = lane_index(); group < table.num_groups; group += kWarpSize) {
      all_thresholds[base + group] = lists.thresholds[row_lists + list_of[group]];
    }
    __syncwarp();
  };
  refresh();
  for (int64_t first = 0; first < num_columns; first += kWarpSize * kScanUnroll) {
    Score scores[kScanUnroll];
    int32_t groups[kScanUnroll];
    bool any = false;
#pragma unroll
    for (int step = 0; step < kScanUnroll; ++step) {
      const int64_t column = first + step * kWarpSize + lane_index();
      const bool inside = column < num_columns;
      scores[step] = inside ? tile.at(row, column, num_columns) : Score{};
      groups[step] = inside ? table.column_groups[column] : -1;
      any = any || (inside && scores[step] > all_thresholds[base + groups[step]]);
    }
    if (!__any_sync(kFullWarp, any)) {
      continue;
    }
#pragma unroll
    for (int step = 0; step < kScanUnroll; ++step) {
      const int64_t column = first + step * kWarpSize + lane_index();
      bool waits = groups[step] >= 0 && scores[step] > all_thresholds[base + groups[step]];
      const int32_t list = groups[step] >= 0 ? list_of[groups[step]] : -1;
      // List by list: the lanes that add to it take its next places, in the order of the columns.
      for (unsigned waiting = __ballot_sync(kFullWarp, waits); waiting != 0;
           waiting = __ballot_sync(kFullWarp, waits)) {
        const int32_t chosen = __shfl_sync(kFullWarp, list, __ffs(waiting) - 1);
        const unsigned same = __ballot_sync(kFullWarp, waits && list == chosen);
        const int64_t at = row_lists + chosen;
        const int capacity = static_cast<int>(lists.capacity);
        const int place = lists.counts[at] + lanes_before(same);
        int count = lesser(lists.counts[at] + __popc(same), capacity);
        if (waits && list == chosen && place < capacity) {
          lists.scores[at * capacity + place] = scores[step];
          lists.indices[at * capacity + place] = static_cast<int32_t>(first_column + column);
          waits = false;
        }
        __syncwarp();
        if (count == capacity) {
          Score threshold;
          count = cut_list(lists.scores + at * capacity, lists.indices + at * capacity, count,
                           &threshold);
          if (lane_index() == 0) {
            lists.thresholds[at] = threshold;
          }
          refresh();
          waits = waits && scores[step] > all_thresholds[base + groups[step]];
        }
        if (lane_index() == 0) {
          lists.counts[at] = count;
        }
        __syncwarp();
      }
    }
  }
}

// Adds the tile scores[B, num_columns] of samples first_column.. to the lists.
template <class Tile>
cudaError_t launch_collect_candidates(Tile tile, int64_t num_columns, const ListTable& table,
                                      int64_t first_column,
                                      const CandidateLists<typename Tile::Score>& lists,
                                      cudaStream_t stream) {
  const size_t warp_bytes = sizeof(typename Tile::Score) * static_cast<size_t>(table.num_groups);
  if (warp_bytes > kSharedBytes) {
    return cudaErrorInvalidValue;
  }
  int warps = kMostRowWarps;
  while (warps > 1 && warps * warp_bytes > kSharedBytes) {
    warps /= 2;
  }
  return launch(collect_candidates_kernel<Tile>, blocks_for(lists.num_rows, warps),
                warps * kWarpSize, warps * warp_bytes, stream, tile, num_columns, table,
                first_column, lists);
}

// Numbers that the host knows, written to the device by kernel arguments: no copy that a host would
// wait for, or that a CUDA graph could not hold.
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
// where there are fewer. Each sample's place is the number of those before it. By a whole warp.
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

// What a row's lists are written to: `widths` columns of `ranks` and `scores` each.
struct RankedLists {
  const int32_t* widths;
  int64_t total_width;
  int64_t* ranks;
  double* scores;
};

// Proves a row's lists complete and orders them by exact scores. `scored` and `scored_indices` are
// scratch of C entries a row.
template <bool kEuclidean>
__global__ void rank_candidates_kernel(const float* features, int64_t dim, const int64_t* rows,
                                       CandidateLists<float> lists, const double* error_bounds,
                                       RankedLists ranked, bool* certified, double* scored,
                                       int32_t* scored_indices) {
  const int64_t row = global_warp();
  if (row >= lists.num_rows) {
    return;
  }
  const float* own = features + rows[row] * dim;
  const double bound = error_bounds[row];
  double* own_scored = scored + row * lists.capacity;
  int32_t* own_indices = scored_indices + row * lists.capacity;
  bool proven = isfinite(bound);
  int64_t column = row * ranked.total_width;
  for (int64_t list = 0; list < lists.num_lists; ++list) {
    const int64_t at = row * lists.num_lists + list;
    const float* list_scores = lists.scores + at * lists.capacity;
    const int32_t* list_indices = lists.indices + at * lists.capacity;
    const int width = ranked.widths[list];
    const int count = lists.counts[at];
    double least = -INFINITY;
    if (proven && count > width) {
      const auto boundary = find_boundary(list_scores, count, width, width - 1);
      least = static_cast<double>(score_of(boundary.key)) - 2 * bound;
    }
    const float threshold = lists.thresholds[at];
    proven = proven && (threshold == -INFINITY || threshold < least);
    int num_scored = 0;
    for (int first = 0; proven && first < count; first += kWarpSize) {
      const int slot = first + lane_index();
      const bool near = slot < count && list_scores[slot] >= least;
      const unsigned all_near = __ballot_sync(kFullWarp, near);
      if (near) {
        own_indices[num_scored + lanes_before(all_near)] = list_indices[slot];
      }
      num_scored += __popc(all_near);
    }
    __syncwarp();
    for (int first = 0; first < num_scored; first += kScoreBatch) {
      const float* others[kScoreBatch];
#pragma unroll
      for (int k = 0; k < kScoreBatch; ++k) {
        // The last batch is filled up with the last candidate.
        others[k] = features + own_indices[lesser(first + k, num_scored - 1)] * dim;
      }
      double exact[kScoreBatch];
      score_row<kEuclidean>(own, others, dim, exact);
#pragma unroll
      for (int k = 0; k < kScoreBatch; ++k) {
        if (lane_index() == k && first + k < num_scored) {
          own_scored[first + k] = exact[k];
        }
      }
    }
    __syncwarp();
    write_list(own_scored, own_indices, num_scored, width, ranked.ranks + column,
               ranked.scores + column);
    __syncwarp();  // before the next list takes the scratch
    column += width;
  }
  if (lane_index() == 0) {
    certified[row] = proven;
  }
}

inline cudaError_t launch_rank_candidates(const float* features, int64_t dim, const int64_t* rows,
                                          const CandidateLists<float>& lists,
                                          const double* error_bounds, bool euclidean,
                                          const RankedLists& ranked, bool* certified,
                                          double* scored, int32_t* scored_indices,
                                          cudaStream_t stream) {
  return launch(euclidean ? rank_candidates_kernel<true> : rank_candidates_kernel<false>,
                blocks_for(lists.num_rows, kMostRowWarps), kMostRowWarps * kWarpSize, 0, stream,
                features, dim, rows, lists, error_bounds, ranked, certified, scored,
                scored_indices);
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
